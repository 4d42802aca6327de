"""Which model a call means."""

from __future__ import annotations

import os
from collections.abc import Mapping

from kitaru.errors import UsageError
from kitaru.store import codec


def current_registry() -> bytes:
    """The registry in effect now, encoded: a run keeps it as its snapshot, and a resume uses only that."""
    return codec.encode({"default_model": os.environ.get("KITARU_DEFAULT_MODEL", "").strip()})


def resolve(model: str | None, registry: bytes, instead: Mapping[str, str]) -> str:
    """The `provider/model` that a call means.

    Args:
        model: As the call names it; None for the default.
        registry: The registry in effect, as `current_registry` gives it.
        instead: Models to ask instead of those named.

    Raises:
        UsageError: None was named and there is no default.
    """
    if model:
        return instead.get(model, model)
    snapshot = codec.decoder()(registry) if registry else {}
    default = snapshot.get("default_model") if isinstance(snapshot, dict) else None
    if not default:
        raise UsageError(
            "no model was named, and there is no default",
            hint='Pass model="provider/model", or set KITARU_DEFAULT_MODEL.',
        )
    return instead.get(str(default), str(default))
