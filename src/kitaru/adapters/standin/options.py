"""How a stand-in server answers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec

from kitaru.adapters.standin.faults import Fault
from kitaru.errors import UsageError


class Rule(msgspec.Struct, frozen=True):
    r"""An answer for certain prompts.

    Args:
        pattern: A regular expression, looked for in the text of the last message.
        answer: The text; `\1` or `\g<name>` stand for what the pattern's groups found.

    Raises:
        UsageError: Not a regular expression, or an answer that names a group which the pattern lacks.
    """

    pattern: str
    answer: str

    def __post_init__(self) -> None:
        try:
            # With an empty alternative something is found, so that the answer's group names are checked.
            found = re.search(f"{self.pattern}\n|", "")
            assert found is not None
            found.expand(self.answer)
        except (re.error, IndexError) as error:
            raise UsageError(f"the rule {self.pattern!r} -> {self.answer!r} cannot be used: {error}") from None

    def apply(self, text: str) -> str | None:
        """Return the answer, or None where the pattern is not found."""
        found = re.search(self.pattern, text)
        return found.expand(self.answer) if found else None


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a stand-in server answers.

    Args:
        rules: Tried in order; where none fits, the answer is made from the prompt's own words.
        latency: Seconds before each answer: one number, or the least and the most.
        faults: Tried in order; the first that befalls a request is played.
        api_key: The key that every request has to bring; None asks for none.
        journal: A file that gets one JSON line when a request arrives and one when it is done with.
        models: What `/v1/models` lists. Any name is answered.

    Raises:
        UsageError: A latency that is no time.
    """

    rules: tuple[Rule, ...] = ()
    latency: float | tuple[float, float] = 0.0
    faults: tuple[Fault, ...] = ()
    api_key: str | None = None
    journal: Path | None = None
    models: tuple[str, ...] = ("stand-in",)

    def __post_init__(self) -> None:
        low, high = self.latency_range
        if not (0 <= low <= high and math.isfinite(high)):
            raise UsageError(f"latency {self.latency!r} is not a number of seconds, or a least and a most")

    def __repr__(self) -> str:
        key = "None" if self.api_key is None else "'**********'"
        return f"Options(rules={self.rules!r}, latency={self.latency!r}, faults={self.faults!r}, api_key={key})"

    @property
    def latency_range(self) -> tuple[float, float]:
        """The least and the most seconds before an answer."""
        return self.latency if isinstance(self.latency, tuple) else (self.latency, self.latency)
