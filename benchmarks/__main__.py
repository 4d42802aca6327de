"""`python -m benchmarks [workload ...]`: run them, print a table each, and write JSON."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks import machine, report
from benchmarks.harness import ROOT, PartFailedError, load, measure
from benchmarks.workload import Line

WORKLOADS: Final = ("sequential", "concurrent", "fan_out", "replay", "growth", "size", "memory", "start_up", "calls")
PEERS: Final = "peers"
RESULTS: Final = ROOT / "benchmarks" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    names = options.workload or list(WORKLOADS)
    if options.peers:
        names.append(PEERS)
    with _folder(options.folder) as temporary:
        folder = Path(temporary)
        facts = machine.facts(folder)
        print("\n".join(f"{name}: {value}" for name, value in facts.items()))
        before = machine.pace(folder)
        done: dict[str, Sequence[Line]] = {}
        failed = 0
        for name in names:
            workload = load(name)
            print(f"\n{name} …", end="", file=sys.stderr, flush=True)
            own = folder / name
            own.mkdir()
            try:
                samples = measure(name, workload, options.runs, own)
            except PartFailedError as error:
                print(f"\n{error}", file=sys.stderr)
                failed += 1
                continue
            print("\r", end="", file=sys.stderr)
            done[name] = [line for line in workload.lines(samples) if line.samples]
            print(f"\n{report.table(f'{name}: {workload.title}', done[name])}", flush=True)
        after = machine.pace(folder)
    print(f"\nthe machine, before → after: {machine.shown(before, after)}")
    file = options.json or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    report.write_json(file, facts, {"before": before, "after": after}, done)
    print(f"written: {file}")
    return 1 if failed else 0


def _folder(within: Path | None) -> tempfile.TemporaryDirectory[str]:
    # Not the system's folder for temporary files, which is often kept in memory.
    place = within or RESULTS
    place.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix="stores-", dir=place)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("workload", nargs="*", help=f"which to run; all by default: {', '.join(WORKLOADS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the JSON goes; benchmarks/results by default")
    parser.add_argument("--runs", type=int, default=5, help="rounds of each workload; the median counts (5)")
    parser.add_argument("--peers", action="store_true", help="measure DBOS and LangGraph too, where importable")
    parser.add_argument("--folder", type=Path, help="where the stores go: on the file system to be measured")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.workload if name not in (*WORKLOADS, PEERS)]
    if unknown:
        parser.error(f"no workload {', '.join(unknown)}; there are {', '.join((*WORKLOADS, PEERS))}")
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
