"""Where the steps of flows under replay note that they ran: in memory, and in a file where a process may die."""

from __future__ import annotations

import os
from pathlib import Path

RAN: list[str] = []


def ran(name: str) -> None:
    """Note that a step called `name` runs."""
    RAN.append(name)
    file = os.environ.get("REPLAY_NOTES")
    if file:
        with Path(file).open("a") as notes:
            notes.write(f"{name}\n")


def taken() -> list[str]:
    """What ran since the last look, sorted: parallel steps start in any order."""
    found = sorted(RAN)
    RAN.clear()
    return found
