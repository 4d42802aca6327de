"""Hold many random flows to the law of resume: `python -m tests.runtime.laws.run --flows 2000 --kills 3 [--seed N]`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.runtime.laws.harness import BrokenLawError, Case, Player, check
from tests.runtime.laws.specs import Node, kinds_of, smaller, spec_of


def loops() -> list[str]:
    """The kinds of loop that this Python has."""
    found = ["asyncio"]
    try:
        import uvloop
    except ImportError:
        pass
    else:
        del uvloop
        found.append("uvloop")
    if sys.version_info >= (3, 12):
        found.append("eager")
    return found


def case_of(seed: int, kills: int) -> Case:
    """The case of a seed: its loops turn with it."""
    kinds = loops()
    return Case(seed, kills, kinds[seed % len(kinds)], kinds[seed // len(kinds) % len(kinds)])


def breaks(case: Case, folder: Path, player: Player, tries: int) -> str:
    """What breaks the law in a number of tries, or nothing."""
    for number in range(tries):
        try:
            check(case._replace(seed=case.seed + number * 1_000_003), folder, player)
        except BrokenLawError as broken:
            return str(broken)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return ""


def shrink(case: Case, folder: Path, player: Player, seconds: float) -> tuple[Node, str]:
    """The smallest spec found in that time that still breaks the law."""
    spec = case.spec if case.spec is not None else spec_of(case.seed)
    until, what = time.monotonic() + seconds, ""
    found = True
    while found and time.monotonic() < until:
        found = False
        for less in smaller(spec):
            if time.monotonic() > until:
                break
            if broken := breaks(case._replace(spec=less, every=True), folder, player, 2):
                spec, what, found = less, broken, True
                break
    return spec, what


def main(arguments: list[str] | None = None) -> int:
    """Run it; gives the number of flows that broke the law."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, default=2000, help="how many flows")
    parser.add_argument("--kills", type=int, default=3, help="at how many events each is cut")
    parser.add_argument("--seed", type=int, default=None, help="the first flow's seed; one seed, one flow")
    parser.add_argument("--hash-seed", type=int, default=4242, help="PYTHONHASHSEED of the resuming process")
    parser.add_argument("--shrink", type=float, default=0.0, help="seconds to look for a smaller flow that fails")
    parser.add_argument(
        "--spec", default="", help="play this spec (JSON) instead, with --flows seeds, cut at every event"
    )
    parser.add_argument("--show", action="store_true", help="print the spec of each flow")
    parser.add_argument("--most", type=int, default=10, help="stop after this many failures")
    options = parser.parse_args(arguments)
    first = options.seed if options.seed is not None else int(time.time()) % 1_000_000 * 1000
    print(
        f"flows {first} to {first + options.flows - 1}, on {', '.join(loops())}, Python {sys.version.split()[0]}",
        flush=True,
    )
    base = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="kitaru-laws-", dir=base))
    player = Player(options.hash_seed)
    failed = resumes = 0
    began = time.monotonic()
    try:
        for seed in range(first, first + options.flows):
            case = case_of(seed, options.kills)
            if options.spec:
                case = case._replace(spec=json.loads(options.spec), every=True)
            spec = case.spec or spec_of(seed)
            if options.show:
                print(seed, json.dumps(spec), flush=True)
            try:
                resumes += check(case, folder / str(seed), player)
            except BrokenLawError as broken:
                failed += 1
                print(f"seed {seed} ({case.first_loop}, resumed on {case.loop}): {broken}")
                print(f"  kinds: {', '.join(sorted(kinds_of(spec)))}")
                print(
                    f"  again: python -m tests.runtime.laws.run --flows 1 --kills {options.kills} --seed {seed}",
                    flush=True,
                )
                if options.shrink:
                    less, what = shrink(case, folder / "shrunk", player, options.shrink)
                    print(f"  smaller: {json.dumps(less)}\n  {what}", flush=True)
                if failed >= options.most:
                    break
            finally:
                shutil.rmtree(folder / str(seed), ignore_errors=True)
    finally:
        player.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{options.flows} flows, {resumes} resumes, {failed} failed, {time.monotonic() - began:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
