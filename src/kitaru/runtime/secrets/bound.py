"""The credentials that the running code has bound: what `kitaru.credentials` leaves for the runs started inside."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from kitaru.adapters.secret import SecretStr


class Bound(msgspec.Struct, frozen=True):
    """Keys by provider, and the providers whose keys are kept in memory only."""

    keys: dict[str, SecretStr]
    unkept: frozenset[str]

    def within(self, inner: Bound | None) -> Bound | None:
        """These, with those bound further inside, which win; None where there are none at all."""
        if inner is None:
            return self if self.keys else None
        return Bound({**self.keys, **inner.keys}, (self.unkept - inner.keys.keys()) | inner.unkept)


bound: Final[ContextVar[Bound | None]] = ContextVar("kitaru_credentials", default=None)
"""What is bound in this context."""
