"""One check after the other, and the table of what came of each."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple


class Row(NamedTuple):
    """What came of one check; `problem` is empty where it holds."""

    server: str
    subject: str
    what: str
    problem: str
    note: str
    seconds: float


class Checks:
    """The checks against one server."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.rows: list[Row] = []

    async def check(self, subject: str, what: str, work: Callable[[], Awaitable[str | None]]) -> None:
        """Run a check; whatever it raises is what is wrong, whatever it returns is worth a note."""
        begun = time.monotonic()
        problem, note = "", ""
        try:
            note = await work() or ""
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        row = Row(self.server, subject, what, problem, note, time.monotonic() - begun)
        self.rows.append(row)
        print(line(row), flush=True)


def same(found: object, wanted: object, what: str = "found") -> None:
    """Say what is different, where something is."""
    if found != wanted:
        raise AssertionError(f"{what} {found!r}, wanted {wanted!r}")


def true(held: object, what: str) -> None:
    """Say what does not hold."""
    if not held:
        raise AssertionError(what)


def line(row: Row) -> str:
    """A row of the table."""
    mark = "FAIL" if row.problem else "ok"
    told = " ".join((row.problem or row.note).split())
    return f"{mark:4} {row.server:8} {row.subject:18} {row.what:44} {row.seconds:6.2f} s  {told}".rstrip()
