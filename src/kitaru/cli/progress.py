"""Lines about a run while it goes, on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kitaru.cli.output import Output, clean
from kitaru.cli.render import what
from kitaru.cli.wording import duration, state_colour, state_word, until

if TYPE_CHECKING:
    from kitaru.runtime.core import Core

_PATIENCE: Final = 60.0
"""Seconds between looks where nothing happens."""


class Progress:
    """Tells of a run's events as they come.

    Args:
        after: The last event that is not told of.
        off: Tell of nothing.
    """

    def __init__(self, out: Output, runtime: Core, run: str, after: int = 0, *, off: bool = False) -> None:
        self._out = out
        self._runtime = runtime
        self._run = run
        self._after = after
        self._off = off or out.quiet or out.as_json

    async def keep(self) -> None:
        """Tell of events until cancelled."""
        while not self._off:
            await self._tell(_PATIENCE)

    async def rest(self) -> None:
        """Tell of what has come since."""
        if not self._off:
            await self._tell(0.0)

    async def _tell(self, timeout: float) -> None:
        from kitaru.runtime.views.progress import news

        self._after, told = await news(self._runtime, self._run, self._after, timeout)
        for one in told:
            parts = [clean(one.key), duration(one.seconds) if one.seconds is not None else "", clean(one.detail)]
            if one.until is not None:
                parts.append(until(one.until))
            parts += [f"warning: {clean(text)}" for text in one.warnings]
            if one.failure is not None:
                parts.append(what(one.failure, first_line=True))
            word = self._out.paint(f"{state_word(one.state):<11}", state_colour(one.state), err=True)
            self._out.note(f"  {word}  " + "  ".join(part for part in parts if part))
