"""How a model that is being fetched is shown: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import time
from typing import TYPE_CHECKING, Final, Self

from kitaru.cli.output import Output, clean, shortened, width_of
from kitaru.cli.wording import size

if TYPE_CHECKING:
    from kitaru.runtime.models.pull import Progress

_WIDTH: Final = 24
_EVERY: Final = 0.1
"""Seconds between two drawings."""


def volume(count: int) -> str:
    """Bytes in words, up to the size of models."""
    return size(count) if count < 999_500_000 else f"{count / 1e9:.1f} GB"


class Bar:
    """Tells on stderr how far a pull has come.

    Args:
        out: Where to.
        name: The model.
    """

    def __init__(self, out: Output, name: str) -> None:
        self._out = out
        self._name = clean(name)
        self._off = out.quiet or out.as_json
        self._terminal = out.err.isatty() and not self._off
        self._status = ""
        self._tenth = -1
        self._drawn = 0
        self._at = 0.0
        self._begun: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._wipe()

    def show(self, progress: Progress) -> None:
        """Show the latest."""
        if self._off:
            return
        if self._terminal:
            self._draw(progress)
        else:
            self._tell(progress)

    def _tell(self, progress: Progress) -> None:
        """A line for each thing the server does, and for each tenth of what it fetches."""
        tenth = progress.done * 10 // progress.total if progress.total else -1
        fetching = "pulling" in progress.status and progress.total
        status = "fetching" if fetching else progress.status
        if status == self._status and (not fetching or tenth == self._tenth):
            return
        self._status, self._tenth = status, tenth
        amount = f"  {tenth * 10}% of {volume(progress.total)}" if fetching else ""
        self._out.note(f"{self._name}  {status}{amount}")

    def _draw(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.status == self._status and now - self._at < _EVERY:
            return
        self._status, self._at = progress.status, now
        line = f"{self._name}  {progress.status}"
        if progress.total:
            share = progress.done / progress.total
            full = int(share * _WIDTH)
            if self._begun is None:
                self._begun = (now, progress.done)
            seconds, fetched = now - self._begun[0], progress.done - self._begun[1]
            speed = f"  {volume(int(fetched / seconds))}/s" if seconds > 1 and fetched > 0 else ""
            bar = "#" * full + "." * (_WIDTH - full)
            line = f"{self._name}  [{bar}] {share:4.0%}  {volume(progress.done)} of {volume(progress.total)}{speed}"
        line = shortened(line, shutil.get_terminal_size().columns - 1)
        # Noted first: a Ctrl-C may come right after the writing.
        before, self._drawn = self._drawn, max(self._drawn, width_of(line))
        self._write("\r" + line + " " * max(0, before - width_of(line)))

    def _wipe(self) -> None:
        if self._drawn:
            self._write("\r" + " " * self._drawn + "\r")
            self._drawn = 0

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._out.err.write(text)
            self._out.err.flush()
