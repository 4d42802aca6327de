"""Reading fields of JSON from outside, where nothing is what it should be until it has been looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, TypeGuard

import msgspec

Object: TypeAlias = Mapping[str, object]


def is_object(value: object) -> TypeGuard[Object]:
    """Whether a decoded value is a JSON object."""
    return isinstance(value, dict)


def object_at(value: object, *path: str) -> Object:
    """Return the object at the end of a path of keys, an empty one where there is none."""
    for key in path:
        value = value.get(key) if is_object(value) else None
    return value if is_object(value) else {}


def objects_in(value: object) -> list[Object]:
    """Return the objects of a list, without whatever else is in it; nothing where it is no list."""
    return [one for one in value if is_object(one)] if isinstance(value, list) else []


def text_in(value: object) -> str:
    """Return a text, an empty one for anything else."""
    return value if isinstance(value, str) else ""


def count(value: object) -> int | None:
    """Return a count of tokens, None for anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Some providers write 12.0; no count of tokens comes near the limit.
    return int(value) if 0 <= value < 2**53 and value == int(value) else None


def json_text(value: object) -> str:
    """Return a value as JSON text; a text that is JSON already, as tool arguments may be, stays as it is."""
    if isinstance(value, str):
        return value
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return "null"
