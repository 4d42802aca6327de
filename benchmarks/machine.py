"""The facts of a machine that its figures depend on, and how busy it was while they were taken."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Final

_LOOPS: Final = 200_000
_SYNCS: Final = 200
_PAGE: Final = bytes(4096)


def facts(folder: Path) -> dict[str, str]:
    """What the table says of the machine.

    Args:
        folder: Where the stores will be; its file system is named.
    """
    return {
        "cpu": f"{_cpu()}, {os.cpu_count()} cores",
        "file system": _file_system(folder),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "sqlite": sqlite3.sqlite_version,
    }


def pace(folder: Path) -> dict[str, float]:
    """How quick the machine is just now: what its processor and its disk do in the simplest case."""
    return {
        "load": os.getloadavg()[0],
        "python loop, ns a pass": _loop(),
        "append and fdatasync of 4 KiB, us": _sync(folder / "sync"),
    }


def shown(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Two of those, as a line of text."""
    return "; ".join(f"{name} {before[name]:.3g} → {after[name]:.3g}" for name in before)


def _loop() -> float:
    took = []
    for _ in range(5):
        at = time.perf_counter()
        for _ in range(_LOOPS):
            pass
        took.append((time.perf_counter() - at) / _LOOPS * 1e9)
    return median(took)


def _sync(file: Path) -> float:
    took = []
    number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(_SYNCS):
            at = time.perf_counter()
            os.write(number, _PAGE)
            (os.fdatasync if sys.platform == "linux" else os.fsync)(number)
            took.append(time.perf_counter() - at)
    finally:
        os.close(number)
        file.unlink()
    return median(took) * 1e6


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(folder: Path) -> str:
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown"
    best, found = "", "unknown"
    for line in mounts.read_text().splitlines():
        device, point, kind, options = line.split()[:4]
        inside = folder.resolve().is_relative_to(point.replace("\\040", " "))
        if inside and len(point) >= len(best):
            best, found = point, f"{kind} on {device} ({options})"
    return found
