"""Errors as exit codes."""

from __future__ import annotations

from typing import Final

from kitaru.errors import CredentialError, KitaruError, NotFoundError, StoreError, UsageError

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
CREDENTIALS: Final = 4
STORE: Final = 5
INTERRUPTED: Final = 130

EXIT_CODES: Final = (
    "Exit codes: 0 done, 1 the run failed or a difference was found, 2 wrong usage, 3 not found or ambiguous, "
    "4 credentials missing, 5 the store cannot be used, 130 interrupted."
)

_CODES: Final[tuple[tuple[type[KitaruError], int], ...]] = (
    (NotFoundError, NOT_FOUND),
    (UsageError, USAGE),
    (CredentialError, CREDENTIALS),
    (StoreError, STORE),
)


class RunFailedError(KitaruError):
    """A run ended without a result; what it says is what the run's log says.

    Args:
        run: The run's id.
        exit_code: What the command ends with.
        details: What the JSON form adds.
    """

    code = "run_failed"

    def __init__(
        self,
        message: str,
        *,
        run: str,
        hint: str | None = None,
        exit_code: int = FAILED,
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.run = run
        self.exit_code = exit_code
        self.details = details or {}


class LoadError(UsageError):
    """The user's file or module raised while it was loaded."""

    code = "load"


def exit_code_of(error: BaseException) -> int:
    """The exit code that an error leads to."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, RunFailedError):
        return error.exit_code
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)
