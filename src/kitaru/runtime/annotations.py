"""The types that a function's annotations name."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any


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
