"""Measure workloads: a fresh process for every part, parts and limits by turns, as many rounds as asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Final

from benchmarks.workload import STARTED, Figures, Samples, Workload

ROOT: Final = Path(__file__).resolve().parents[1]
_PATIENCE: Final = 600


class PartFailedError(Exception):
    """A part of a workload ended with an error; the message holds the end of what it said."""


def load(name: str) -> Workload:
    """The workload that `benchmarks/<name>.py` defines."""
    found = import_module(f"benchmarks.{name}").WORKLOAD
    assert isinstance(found, Workload)
    return found


def measure(name: str, workload: Workload, runs: int, folder: Path) -> Samples:
    """Run a workload's parts `runs` times, by turns.

    Args:
        name: The workload's module.
        workload: What it defines.
        runs: How many rounds.
        folder: An empty folder on the file system to be measured.

    Raises:
        PartFailedError: A part ended with an error.
    """
    samples = Samples()
    first = folder / "prepared"
    for part in workload.prepared:
        first.mkdir(exist_ok=True)
        samples.add(part, run(name, part, first))
    for number in range(runs):
        round_ = folder / f"round-{number}"
        round_.mkdir()
        for part in workload.parts:
            samples.add(part, run(name, part, round_))
        for file in round_.iterdir():
            if file.is_file():
                file.unlink()
    return samples


def run(name: str, part: str, folder: Path) -> Figures:
    """Measure one part once, in a process of its own.

    Raises:
        PartFailedError: It ended with an error.
    """
    _let_the_disk_rest()
    command = [sys.executable, "-m", "benchmarks.child", name, part, str(folder)]
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    if done.returncode != 0:
        raise PartFailedError(f"{name}, {part}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**figures, STARTED: started}


def environment() -> dict[str, str]:
    """The environment of a part: this one, with the package importable and nothing of Kitaru's own set.

    Variables of the benchmarks themselves, `KITARU_BENCH_...`, are handed on.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KITARU_") or "_BENCH_" in key}
    path = [str(ROOT / "src"), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": "0"}


def _let_the_disk_rest() -> None:
    # What one part left to be written back must not be paid for by the next.
    os.sync()
