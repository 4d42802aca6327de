"""How long `import kitaru` takes beside the imports that it cannot do without, and `kitaru --help`."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.harness import ROOT, environment
from benchmarks.workload import Figures, Line, Samples, Workload

_REPEATED: Final = 5
_TIMED: Final = "import time; began = time.perf_counter(); import {}; print(time.perf_counter() - began)"
_HELP: Final = "from kitaru.cli.app import main; main()"


def imports(folder: Path) -> Figures:
    del folder
    ours, needed = [], []
    for _ in range(_REPEATED):
        needed.append(_seconds("msgspec, anyio, aiosqlite"))
        ours.append(_seconds("kitaru"))
    return {"kitaru": median(ours), "needed": median(needed)}


def _seconds(modules: str) -> float:
    return float(_python("-c", _TIMED.format(modules)))


def help_(folder: Path) -> Figures:
    """From the start of the process to its end; nothing where there is no command line."""
    del folder
    if find_spec("kitaru.cli.app") is None:
        return {}
    _python("-c", _HELP, "--help")
    whole, bare = [], []
    for _ in range(_REPEATED):
        began = time.perf_counter()
        _python("-c", _HELP, "--help")
        whole.append(time.perf_counter() - began)
        began = time.perf_counter()
        _python("-c", "pass")
        bare.append(time.perf_counter() - began)
    return {"seconds": median(whole), "python": median(bare)}


def _python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    return done.stdout


def lines(samples: Samples) -> list[Line]:
    return [
        Line("import kitaru", "s", samples["imports.kitaru"]),
        Line("limit: import msgspec, anyio, aiosqlite", "s", samples["imports.needed"]),
        Line("kitaru of those", "", samples.ratio("imports.kitaru", "imports.needed"), at_most=1.8),
        Line("kitaru --help", "s", samples["help.seconds"], at_most=0.35),
        Line("limit: python -c pass", "s", samples["help.python"]),
    ]


WORKLOAD: Final = Workload("importing, and the command line's help", {"imports": imports, "help": help_}, lines)
