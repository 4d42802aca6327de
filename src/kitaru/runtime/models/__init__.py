"""Which model a call means: the registry in effect as a run keeps it, and a name resolved in it."""

from __future__ import annotations

from collections.abc import Mapping

from kitaru.runtime.models.alias import Alias
from kitaru.runtime.models.registry import Registry, effective
from kitaru.runtime.models.routes import route


def current_registry() -> bytes:
    """The registry in effect now, encoded: a run keeps it as its snapshot, and a resume uses only that.

    Raises:
        UsageError: The registry's file or `KITARU_MODEL_REGISTRY` is not a registry.
    """
    return effective().snapshot


def resolve(model: str | None, registry: bytes, instead: Mapping[str, str]) -> str:
    """The `provider/model` that a call means.

    Args:
        model: As the call names it, an alias or `provider/model`; None for the default.
        registry: The registry in effect, as `current_registry` gives it.
        instead: Models to ask instead of those named.

    Raises:
        UsageError: None was named and there is no default, or the name leads nowhere.
    """
    return route(model, registry, instead).name


__all__ = ["Alias", "Registry", "current_registry", "resolve"]
