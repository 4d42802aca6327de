"""The law of resume, for one flow: play it, cut its log, go on in another process, compare."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from kitaru.store.events import (
    AnyEvent,
    Boundary,
    Deviated,
    RunCancelled,
    RunClaimed,
    RunCompleted,
    RunFailed,
    RunStarted,
    StepCancelled,
    StepFailed,
)
from kitaru.store.protocol import Recorded
from tests.runtime.laws.flows import RUN
from tests.runtime.laws.playing import Played, Task, play
from tests.runtime.laws.specs import Node, kinds_of, spec_of, timed

ROOT: Final = Path(__file__).resolve().parents[3]
EVENT: Final = msgspec.msgpack.Decoder(AnyEvent)
VALUES: Final = ("value ", "late ")


class Line(NamedTuple):
    """One event of a file, in the order in which it was committed."""

    id: int
    run: str
    recorded: Recorded


class BrokenLawError(AssertionError):
    """The law does not hold."""


class Player:
    """A child process that plays tasks, with a hash seed of its own."""

    def __init__(self, hash_seed: int, *, python: str = sys.executable) -> None:
        self.hash_seed = hash_seed
        self.python = python
        self.process: subprocess.Popen[bytes] | None = None
        self.home: tempfile.TemporaryDirectory[str] | None = None

    def play(self, task: Task) -> Played | None:
        """What came of a task; None if the process was killed."""
        if self.process is None or self.process.poll() is not None:
            self.close()
            self.home = tempfile.TemporaryDirectory(prefix="kitaru-laws-home-")
            self.process = subprocess.Popen(
                [self.python, "-m", "tests.runtime.laws.playing"],
                cwd=ROOT,
                env={
                    "PYTHONPATH": f"{ROOT}/src:{ROOT}",
                    "PYTHONHASHSEED": str(self.hash_seed),
                    "PATH": "/usr/bin:/bin",
                    # None of the user's own settings.
                    "KITARU_HOME": self.home.name,
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(msgspec.json.encode(task) + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.close()
            return None
        return msgspec.json.decode(line, type=Played)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None
        if self.home is not None:
            self.home.cleanup()
            self.home = None


def lines_of(path: Path) -> list[Line]:
    """All events of a file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT id, run, seq, turn, data, name FROM events ORDER BY id").fetchall()
    names = {run: name for _, run, _, _, _, name in rows if name}
    return [Line(at, names[run], Recorded(seq, turn, EVENT.decode(data))) for at, run, seq, turn, data, _ in rows]


def cuts_of(lines: list[Line]) -> list[int]:
    """Where a log may end when its process dies: after any event, but never inside a turn, which is one transaction."""
    last: dict[tuple[str, int], int] = {}
    for line in lines:
        if line.recorded.turn:
            last[line.run, line.recorded.turn] = line.id
    started = next(line.id for line in lines if line.run == RUN)
    found, until = [], 0
    for line in lines[:-1]:
        if line.recorded.turn:
            until = max(until, last[line.run, line.recorded.turn])
        if line.id >= max(until, started):
            found.append(line.id)
    return found


def cut(source: Path, target: Path, at: int) -> None:
    """A copy of a store that ends with the event `at`; `rebuild` makes its projections fit."""
    with contextlib.closing(sqlite3.connect(source)) as one, contextlib.closing(sqlite3.connect(target)) as two:
        one.backup(two)
        (sql,) = two.execute("SELECT sql FROM sqlite_master WHERE name = 'events_stay'").fetchone()
        two.execute("DROP TRIGGER events_stay")
        two.execute("DELETE FROM events WHERE id > ?", (at,))
        two.execute("DELETE FROM owned")
        two.execute(sql)
        two.commit()


class Said(NamedTuple):
    """What a log says of one run."""

    outcomes: dict[str, int]
    """Keys that have an outcome, and its turn."""
    cancelled: set[str]
    inner: set[str]
    """Keys inside checkpoints that have an outcome."""


def said(lines: list[Line]) -> dict[str, Said]:
    """What a log says, by run."""
    found: dict[str, Said] = {}
    for line in lines:
        of = found.setdefault(line.run, Said({}, set(), set()))
        event, turn = line.recorded.event, line.recorded.turn
        if not isinstance(event, Boundary):
            continue
        if isinstance(event, StepCancelled):
            of.outcomes.pop(event.key, None)
            of.cancelled.add(event.key)
        elif hasattr(event, "started") and not (isinstance(event, StepFailed) and not event.final):
            if ">" in event.key:
                of.inner.add(event.key)
            else:
                of.outcomes[event.key] = turn
    return found


def inner_of(lines: list[Line]) -> dict[str, dict[str, int]]:
    """How many steps each finished checkpoint attempt has inside, by run and the attempt's prefix of keys."""
    found: dict[str, dict[str, int]] = {}
    for run, of in said(lines).items():
        for key in of.inner:
            within = key[: key.rindex("/") + 1]
            if key.partition(">")[0] in of.outcomes:
                found.setdefault(run, {}).setdefault(within, 0)
                found[run][within] += 1
    return found


def seen_by_run(played: Played) -> dict[str, list[tuple[list[str], Any]]]:
    found: dict[str, list[tuple[list[str], Any]]] = {}
    for run, keys, value in played.seen:
        found.setdefault(run, []).append((keys, value))
    return found


def check_first(spec: Node, played: Played, lines: list[Line]) -> None:
    """What holds of any run that was played to its end."""
    if played.hang:
        raise BrokenLawError(f"hangs: {played.hang}")
    if "Divergence" in played.error or played.error.startswith("outside"):
        raise BrokenLawError(played.error)
    if played.error and "raise" not in kinds_of(spec):
        raise BrokenLawError(f"failed: {played.error}")
    ran = [(run, key, attempt) for run, key, attempt in played.ran]
    if twice := {one for one in ran if ran.count(one) > 1}:
        raise BrokenLawError(f"ran twice in one process: {sorted(twice)}")
    if deviated := [line for line in lines if isinstance(line.recorded.event, Deviated)]:
        raise BrokenLawError(f"deviated: {deviated[0].run}: {deviated[0].recorded}")


def check_resumed(
    spec: Node, before: Played, prefix: list[Line], after: Played, lines: list[Line], *, order: bool = True,
    inner: dict[str, dict[str, int]] | None = None, cancelled: frozenset[str] = frozenset(),
) -> None:  # fmt: skip
    """The law: what the resumed run may and may not do, given what the log held.

    `inner`: how many steps each finished checkpoint attempt has inside, by run, where that is known.
    `cancelled`: runs that were cancelled without the cut, maybe before they were handed all that was recorded.
    `order`: `before` is what the very run that was cut saw, so that the order of what it saw is compared, too.
    """
    check_first(spec, after, lines)
    inner = inner or {}
    if not timed(spec) and (before.result, bool(before.error)) != (after.result, bool(after.error)):
        raise BrokenLawError(f"gave {after.result} {after.error}, and {before.result} {before.error} without the cut")
    held = said(prefix)
    earlier, later = seen_by_run(before), seen_by_run(after)
    alive = {line.run for line in prefix if isinstance(line.recorded.event, RunStarted)}
    ended = {line.run for line in prefix if isinstance(line.recorded.event, RunCompleted | RunFailed | RunCancelled)}
    # A child that its parent gave up again is not gone on with.
    resumed = {line.run for line in lines if isinstance(line.recorded.event, RunClaimed) and line.id > prefix[-1].id}
    for run in alive & resumed:
        of = held[run]
        outcomes = of.outcomes
        if again := [key for r, key, _ in after.ran if r == run and (key in outcomes or key in of.cancelled)]:
            raise BrokenLawError(f"{run}: ran again although the log has their outcome: {again}")
        # Equal calls inside a checkpoint may stand for each other: what counts is how many of them run.
        for within, calls in inner.get(run, {}).items():
            have = sum(key.startswith(within) for key in of.inner)
            more = [key for r, key, _ in after.ran if r == run and key.startswith(within)]
            if have + len(more) > calls:
                raise BrokenLawError(f"{run}: {within} has {calls} steps, the log had {have} outcomes, and {more} ran")
        if run in ended or not order:
            continue
        turned = {key for key, turn in outcomes.items() if turn}

        def known(keys: list[str], turned: set[str] = turned) -> bool:
            return bool(keys) and set(keys) <= turned

        old = [one for one in earlier.get(run, []) if known(one[0])]
        new = [one for one in later.get(run, []) if known(one[0])]
        if run in cancelled:
            new = new[: len(old)]
        if old != new:
            at = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
            was, is_ = (
                "; ".join(
                    f"turn {max(outcomes[key] for key in keys)} {' '.join(keys)} = {value}" for keys, value in some
                )
                for some in (old[at : at + 4], new[at : at + 4])
            )
            raise BrokenLawError(f"{run}: handed over in another order, from {at}:\n  first   {was}\n  resumed {is_}")
        live = False
        for keys, value in later.get(run, []):
            if known(keys):
                if live:
                    raise BrokenLawError(f"{run}: {keys} = {value} was handed over after live outcomes")
            elif keys and not keys[0].startswith(VALUES) and not set(keys) & turned:
                live = True


class Case(NamedTuple):
    """One flow, on which loops, and where it is cut; `None` for where the seed says."""

    seed: int
    kills: int = 3
    first_loop: str = "asyncio"
    loop: str = "asyncio"
    spec: Node | None = None
    every: bool = False
    """Cut at every event."""


def check(case: Case, folder: Path, player: Player) -> int:
    """Hold one flow to the law. Gives the number of resumes.

    Raises:
        BrokenLawError: It does not keep it.
    """
    spec = case.spec if case.spec is not None else spec_of(case.seed)
    rng = random.Random(case.seed * 7919 + 1)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "first.db"
    whole = play(Task(str(path), spec, resume=False, loop=case.first_loop, seed=rng.getrandbits(32)))
    lines = lines_of(path)
    check_first(spec, whole, lines)
    cuts = cuts_of(lines)
    chosen = cuts if case.every else sorted(rng.sample(cuts, min(case.kills, len(cuts))))
    count = 0
    for number, at in enumerate(chosen):
        again = folder / f"cut{at}.db"
        seed, slow = rng.getrandbits(32), rng.choice((0.3, 1.0, 2.0))
        try:
            after, grown = resume(again, path, at, spec, whole, lines, player, case.loop, seed, slow, inner_of(lines))
            count += 1
            if number == 0 and not after.hang:
                # The second log is cut, too: what a resume records must be resumable itself.
                further = [c for c in cuts_of(grown) if c >= at] or [at]
                once_more = folder / f"cut{at}-again.db"
                second = rng.choice(further)
                resume(once_more, again, second, spec, after, grown, player, case.loop, seed + 1, slow)
                count += 1
        except BrokenLawError as broken:
            raise BrokenLawError(f"cut at event {at} of {lines[-1].id}: {broken}") from None
    shutil.rmtree(folder, ignore_errors=True)
    return count


def resume(
    target: Path, source: Path, at: int, spec: Node, whole: Played, lines: list[Line], player: Player, loop: str,
    seed: int, slow: float, inner: dict[str, dict[str, int]] | None = None,
) -> tuple[Played, list[Line]]:  # fmt: skip
    """Cut `source` at an event, go on in the player's process, and compare."""
    target.unlink(missing_ok=True)
    cut(source, target, at)
    after = player.play(Task(str(target), spec, resume=True, loop=loop, seed=seed, slow=slow))
    if after is None:
        raise BrokenLawError("the process that resumed died")
    grown = lines_of(target)
    cancelled = frozenset(line.run for line in lines if isinstance(line.recorded.event, RunCancelled))
    prefix = [line for line in lines if line.id <= at]
    check_resumed(spec, whole, prefix, after, grown, inner=inner, cancelled=cancelled)
    return after, grown


def undisturbed(spec: Node, path: Path, seed: int) -> Played:
    """What comes of a flow that nothing happens to."""
    return play(Task(str(path), spec, resume=False, seed=seed))
