"""Fields of a body that are objects or lists (`generationConfig`, `tools`): the call's `extra` may add to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.fields import is_object
from kitaru.errors import UsageError


def with_nested(
    call: ModelCall, name: str, stated: Mapping[str, object], own: frozenset[str]
) -> tuple[ModelCall, dict[str, object] | None]:
    """Move what a call's `extra` holds of an inner object into that object.

    Args:
        call: The model call.
        name: The inner object's name in the body.
        stated: What the call's settings put into it; None is unset.
        own: Fields of it that `extra` may not hold.

    Returns:
        The call without them in its `extra`, and the inner object, None where it would be empty.

    Raises:
        UsageError: `extra` holds a field that has a setting of its own, or the inner object is none.
    """
    fields = {key: value for key, value in stated.items() if value is not None}
    extra = call.settings.extra
    if name not in extra:
        return call, fields or None
    inner = extra[name]
    if not is_object(inner):
        raise UsageError(f"extra's {name} must be an object")
    taken = own & inner.keys()
    if taken:
        raise UsageError(
            f"extra may not hold {', '.join(f'{name}.{one}' for one in sorted(taken))}",
            hint="Pass a setting under its own name; replies come whole.",
        )
    rest = {key: value for key, value in extra.items() if key != name}
    settings = msgspec.structs.replace(call.settings, extra=rest)
    return msgspec.structs.replace(call, settings=settings), {**fields, **inner} or None


def with_listed(call: ModelCall, name: str, stated: Sequence[object]) -> tuple[ModelCall, list[object] | None]:
    """Move what a call's `extra` holds of a list to the end of that list.

    Args:
        call: The model call.
        name: The list's name in the body.
        stated: What the call itself puts into it.

    Returns:
        The call without the list in its `extra`, and the list, None where it would be empty.

    Raises:
        UsageError: What `extra` holds is no list.
    """
    extra = call.settings.extra
    if name not in extra:
        return call, list(stated) or None
    more = extra[name]
    if not isinstance(more, list):
        raise UsageError(f"extra's {name} must be a list")
    rest = {key: value for key, value in extra.items() if key != name}
    settings = msgspec.structs.replace(call.settings, extra=rest)
    return msgspec.structs.replace(call, settings=settings), [*stated, *more] or None
