"""The types that a function's annotations name."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any, Final

from kitaru.store import codec

LOCAL: Final = b"<locals>"
"""What the recorded name of a class made inside a function holds."""


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations by parameter name, `return` among them; none where they cannot be resolved here."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return {}


def types_in(function: Callable[..., Any], only: str = "") -> list[object]:
    """The annotated types: those of the parameters, or `only` the one named."""
    hints = hints_of(function)
    if only:
        return [hints[only]] if only in hints else []
    return [hint for name, hint in hints.items() if name != "return"]


def outcome_decoder(function: Callable[..., Any], value: object = None) -> codec.Decode:
    """A decoder of what a function returns.

    Args:
        function: The function, whose annotation and module say where classes may be found.
        value: What it has just returned, whose classes made inside functions nobody else can find.
    """
    return codec.decoder(*types_in(function, "return"), *codec.local_classes(value), module=function.__module__)
