"""A table for people and JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.workload import Line

_COLUMNS: Final = ("what", "median", "least", "most", "target", "")


def table(title: str, lines: Sequence[Line]) -> str:
    """One workload's lines, aligned."""
    rows = [_COLUMNS, *map(_row, lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    text = [title]
    for row in rows:
        first, *others = (cell.ljust(width) if at == 0 else cell.rjust(width)
                          for at, (cell, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        text.append(f"  {first}  {'  '.join(others)}".rstrip())
    return "\n".join(text)


def _row(line: Line) -> tuple[str, ...]:
    met = {None: "", True: "met", False: "MISSED"}[line.met]
    what = f"{line.what}, {line.unit}" if line.unit else line.what
    least, most = min(line.samples), max(line.samples)
    return what, number(line.median), number(least), number(most), _target(line), met


def _target(line: Line) -> str:
    if line.at_least is not None:
        text = f">= {number(line.at_least)}"
    elif line.at_most is not None:
        text = f"<= {number(line.at_most)}"
    else:
        return ""
    return f"{text} (quiet)" if line.quiet else text


def number(value: float) -> str:
    """A figure with as many digits as it can bear."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def write_json(
    file: Path, machine: Mapping[str, str], pace: Mapping[str, Mapping[str, float]], done: Mapping[str, Sequence[Line]]
) -> None:
    """Everything that was measured, every sample of it."""
    workloads = {
        name: [
            {
                "what": line.what,
                "unit": line.unit,
                "median": line.median,
                "samples": list(line.samples),
                "at_least": line.at_least,
                "at_most": line.at_most,
                "quiet": line.quiet,
                "met": line.met,
            }
            for line in lines
        ]
        for name, lines in done.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": machine, "pace": pace, "workloads": workloads}, indent=2) + "\n")
