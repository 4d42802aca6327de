"""What a workload is: parts that run in processes of their own, and the lines that their figures make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, TypeAlias

STARTED: Final = "started"
"""The figure that the harness adds to every part: when its process was started, on the monotonic clock in seconds."""

Figures: TypeAlias = Mapping[str, float]
"""What one run of a part measured."""

Part: TypeAlias = Callable[[Path], Figures]
"""Measures once, in a process of its own. The folder is shared by the parts of a round; its parent by all rounds."""


class Samples:
    """The figures of all rounds, by `part.figure`."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[float]] = {}

    def add(self, part: str, figures: Figures) -> None:
        """Take in what one run of a part measured."""
        for name, value in figures.items():
            self._by_name.setdefault(f"{part}.{name}", []).append(value)

    def __getitem__(self, name: str) -> Sequence[float]:
        return self._by_name.get(name, ())

    def ratio(self, name: str, to: str) -> Sequence[float]:
        """The quotient of two figures in each round, so that what slows a whole round cancels out."""
        return [one / other for one, other in zip(self[name], self[to], strict=True)]

    def apart(self, name: str, since: str) -> Sequence[float]:
        """The difference of two figures in each round."""
        return [one - other for one, other in zip(self[name], self[since], strict=True)]


@dataclass(frozen=True)
class Line:
    """One line of the table: a figure, or a limit, or their ratio.

    Args:
        what: What was measured.
        unit: Its unit; empty for a ratio.
        samples: One value a round.
        at_least: The target that the median must reach.
        at_most: The target that the median must not exceed.
        quiet: Whether the target is meant for a machine that does nothing else.
    """

    what: str
    unit: str
    samples: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None
    quiet: bool = False

    @property
    def median(self) -> float:
        """The middle of the samples."""
        return median(self.samples)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without one."""
        if self.at_least is not None:
            return self.median >= self.at_least
        if self.at_most is not None:
            return self.median <= self.at_most
        return None


@dataclass(frozen=True)
class Workload:
    """One workload.

    Args:
        title: What it measures, for the table.
        parts: In the order in which each round runs them: what is measured alternates with its limits.
        lines: Makes the table's lines from the figures.
        prepared: Parts that run once, before the first round.
    """

    title: str
    parts: Mapping[str, Part]
    lines: Callable[[Samples], Sequence[Line]]
    prepared: Mapping[str, Part] = field(default_factory=dict)

    def part(self, name: str) -> Part:
        """The part called so."""
        return self.parts[name] if name in self.parts else self.prepared[name]
