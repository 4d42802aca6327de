"""Which model a call means: the registry of aliases and the default, as they stood when a run began."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from kitaru.errors import UsageError
from kitaru.store import codec


class Alias(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name for a model.

    Args:
        model: `provider/model`.
    """

    model: str


class Registry(msgspec.Struct, frozen=True):
    """Aliases by name, the alias to use where a call names no model, and what `KITARU_DEFAULT_MODEL` said."""

    aliases: dict[str, Alias] = msgspec.field(default_factory=dict)
    default: str | None = None
    default_model: str = ""


def current_registry() -> bytes:
    """The registry in effect now, encoded: a run keeps it as its snapshot, and a resume uses only that.

    Raises:
        UsageError: `KITARU_MODEL_REGISTRY` is not a registry.
    """
    text = os.environ.get("KITARU_MODEL_REGISTRY", "").strip()
    try:
        registry = msgspec.json.decode(text, type=Registry) if text else Registry()
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"KITARU_MODEL_REGISTRY is not a model registry: {error}",
            hint='Write {"aliases": {"fast": {"model": "openai/..."}}, "default": "fast"}, or unset it.',
        ) from None
    if registry.default is not None and registry.default not in registry.aliases:
        raise UsageError(f"KITARU_MODEL_REGISTRY names {registry.default!r} as its default, which is no alias of it")
    default_model = os.environ.get("KITARU_DEFAULT_MODEL", "").strip()
    return codec.encode(msgspec.to_builtins(msgspec.structs.replace(registry, default_model=default_model)))


def resolve(model: str | None, registry: bytes, instead: Mapping[str, str]) -> str:
    """The `provider/model` that a call means.

    Args:
        model: As the call names it, an alias or `provider/model`; None for the default.
        registry: The registry in effect, as `current_registry` gives it.
        instead: Models to ask instead of those named.

    Raises:
        UsageError: None was named and there is no default.
    """
    snapshot: Any = codec.decoder()(registry) if registry else {}
    known = msgspec.convert(snapshot, Registry)
    name = model or known.default_model or known.default
    if not name:
        raise UsageError(
            "no model was named, and there is no default",
            hint='Pass model="provider/model", or set KITARU_DEFAULT_MODEL.',
        )
    name = instead.get(name, name)
    alias = known.aliases.get(name)
    return alias.model if alias is not None else name
