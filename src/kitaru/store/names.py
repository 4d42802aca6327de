"""Run ids: how a new one is made and what a caller's own may look like."""

from __future__ import annotations

import base64
import re
import secrets
from typing import Final

from kitaru.errors import UsageError

MAX_LENGTH: Final = 200

_ALLOWED: Final = re.compile(r"[A-Za-z0-9_:-][A-Za-z0-9._:-]*", re.ASCII)
_RULE: Final = f"1 to {MAX_LENGTH} of the characters A-Z a-z 0-9 . _ : - and no leading dot"


def new_run_id() -> str:
    """A fresh run id: 16 random base32 characters in lower case (80 bits)."""
    return base64.b32encode(secrets.token_bytes(10)).decode("ascii").lower()


def valid_run_id(run: str) -> str:
    """Return `run` when it may serve as a run id.

    Args:
        run: The id a caller chose.

    Raises:
        UsageError: It may not; the message says why.
    """
    if not isinstance(run, str):
        raise UsageError(f"run_id={run!r}: a run id is a text, not a {type(run).__name__}", hint=f"Use {_RULE}.")
    if not run:
        raise UsageError("a run id may not be empty", hint=f"Use {_RULE}.")
    if len(run) > MAX_LENGTH:
        raise UsageError(
            f"run id {run[:40]!r}... has {len(run)} characters, more than {MAX_LENGTH}", hint=f"Use {_RULE}."
        )
    if run.startswith("."):
        raise UsageError(f"run id {run!r} starts with a dot", hint=f"Use {_RULE}.")
    if _ALLOWED.fullmatch(run) is None:
        bad = next(char for char in run if _ALLOWED.fullmatch("a" + char) is None)
        raise UsageError(f"run id {run!r} contains {bad!r}", hint=f"Use {_RULE}.")
    if run == "last":
        raise UsageError("'last' cannot be a run id, because it means the newest run", hint="Choose another id.")
    return run
