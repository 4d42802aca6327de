"""How a runtime's background work fares: what fails is tried again, and stays visible until it works."""

from __future__ import annotations

import threading
import time

import msgspec


class HealthProblem(msgspec.Struct, frozen=True):
    """Background work whose last try failed.

    `work` names it: `recovery`, `store`, or `run ID`. `since` and `last` are the times of the first failure in a row
    and of the newest one, UTC seconds since the epoch; `count` is how many there were.
    """

    work: str
    error: str
    since: float
    last: float
    count: int


class Health(msgspec.Struct, frozen=True):
    """A runtime as it is now: how many runs it has in memory, and what of its background work fails."""

    live: int
    problems: tuple[HealthProblem, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing fails."""
        return not self.problems


class Problems:
    """The problems of one runtime, by the work that has them. Any thread may report."""

    def __init__(self) -> None:
        self._found: dict[str, HealthProblem] = {}
        self._gate = threading.Lock()

    def failed(self, work: str, error: BaseException | str) -> bool:
        """Note a failed try. Returns whether it is another failure than the one before."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        now = time.time()
        with self._gate:
            before = self._found.get(work)
            since, count = (before.since, before.count) if before is not None else (now, 0)
            self._found[work] = HealthProblem(work, text, since, now, count + 1)
        return before is None or before.error != text

    def worked(self, work: str) -> None:
        """Note that it works again."""
        if work in self._found:
            with self._gate:
                self._found.pop(work, None)

    def all(self) -> tuple[HealthProblem, ...]:
        """What fails now, the oldest first."""
        with self._gate:
            return tuple(sorted(self._found.values(), key=lambda problem: problem.since))
