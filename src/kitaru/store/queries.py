"""What a store reads, each in one short statement."""
# what is put into SQL text is constant clauses and question marks

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, cast

from kitaru.errors import AmbiguousError, NotFoundError, RunError
from kitaru.store import pieces
from kitaru.store.events import FINISHED, HELD, STUCK, Status
from kitaru.store.owners import COLUMNS, Health, OwnerRow
from kitaru.store.pressed import content_of
from kitaru.store.protocol import Head, RunRow
from kitaru.store.readers import Readers, Value
from kitaru.store.writer import Writer

_SHOWN: Final = 10
_LARGE: Final = 256 << 10
"""Bytes whose decompression would keep the loop."""
_LARGEST_EVENT: Final = 64 << 20
"""Bytes of an event that is read; Kitaru's own are far smaller, because large values are artifacts."""
_RUN: Final = (
    "SELECT id, flow, status, created, updated, epoch, seq, owner, parent, origin, note FROM runs "
    "JOIN heads ON heads.run = no LEFT JOIN owned ON owned.run = no"
)
_NO_RUN: Final = "`kitaru runs` lists them."


async def events(readers: Readers, run: str, after: int, limit: int | None) -> list[tuple[int, int, bytes]]:
    """Seq, turn and data of a run's events after a seq."""
    rows = await readers.fetch(
        "SELECT seq, turn, CASE WHEN length(data) <= ? THEN data ELSE x'' END FROM events "
        "WHERE run = (SELECT no FROM runs WHERE id = ?) AND seq > ? ORDER BY seq LIMIT ?",
        (_LARGEST_EVENT, run, after, -1 if limit is None else limit),
    )
    return cast("list[tuple[int, int, bytes]]", rows)


async def artifact(readers: Readers, digest: bytes) -> bytes:
    """An artifact's content, unchecked."""
    rows = await readers.fetch("SELECT data, compressed FROM artifacts WHERE digest = ?", (digest,))
    if not rows:
        raise NotFoundError(f"there is no artifact {digest.hex()}")
    data, compressed = cast("tuple[bytes, int]", rows[0])
    if compressed == pieces.JOINED:
        parts = await readers.fetch(pieces.WANTED, (pieces.wanted(data),))
        found = cast("list[tuple[int, bytes, int]]", parts)
        if sum(len(part) for _, part, _ in found) > _LARGE:
            return await asyncio.to_thread(pieces.joined, data, found)
        return pieces.joined(data, found)
    if len(data) > _LARGE:
        return await asyncio.to_thread(content_of, data, compressed)
    return content_of(data, compressed)


async def living(readers: Readers, writer: Writer) -> set[int]:
    """The owners that live and are not stuck."""
    found = set()
    for row in await readers.fetch(f"SELECT {COLUMNS} FROM owners"):
        owner = OwnerRow(*cast("tuple[int, str, int, str, float, float]", row))
        if writer.owner.health_of(owner) is Health.ALIVE:
            found.add(owner.no)
    return found


def _row(values: tuple[object, ...], alive: set[int]) -> RunRow:
    run, flow, status, created, updated, epoch, seq, owner, parent, origin, note = cast(
        "tuple[str, str, Status, float, float, int, int, int | None, str | None, str | None, str]", values
    )
    # A child in a replay, where the source had no such child, is a replay of nothing.
    return RunRow(run, flow, status, created, updated, epoch, seq, owner in alive, parent, origin or None, note)


async def run(readers: Readers, writer: Writer, name: str) -> RunRow | None:
    """One run by its whole id."""
    rows = await readers.fetch(f"{_RUN} WHERE id = ?", (name,))
    if not rows:
        return None
    owned = rows[0][7] is not None
    return _row(rows[0], await living(readers, writer) if owned else set())


async def runs(
    readers: Readers,
    writer: Writer,
    *,
    status: Sequence[str],
    flow: str | None,
    since: float | None,
    limit: int | None,
    before: str | None,
) -> list[RunRow]:
    """Runs, newest first."""
    alive = await living(readers, writer)
    where: list[str] = []
    values: list[Value] = []
    if status:
        plain = [each for each in status if each not in ("interrupted", "stuck")]
        some = [f"status IN ({_marks(plain)})"] if plain else []
        values += plain
        if "interrupted" in status:
            some.append(f"(status = 'running' AND {_not_by(alive)})")
            values += alive
        if "stuck" in status:
            some.append("(status = 'parked' AND substr(note, 1, ?) = ?)")
            values += (len(STUCK), STUCK)
        where.append(f"({' OR '.join(some)})")
    if flow is not None:
        where.append("flow = ?")
        values.append(flow)
    if since is not None:
        where.append("created >= ?")
        values.append(since)
    if before is not None:
        known = await readers.fetch("SELECT no FROM runs WHERE id = ?", (before,))
        if not known:
            raise NotFoundError(f"there is no run {before}", hint=_NO_RUN)
        where.append("no < ?")
        values.append(cast("int", known[0][0]))
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    values.append(-1 if limit is None else limit)
    return [_row(row, alive) for row in await readers.fetch(f"{_RUN}{condition} ORDER BY no DESC LIMIT ?", values)]


async def unowned(readers: Readers, writer: Writer, flows: Sequence[str]) -> list[str]:
    """Ids of unfinished runs that wait for an owner, and have no parent that would resume them."""
    alive = await living(readers, writer)
    of_flows = f"flow IN ({_marks(flows)}) AND" if flows else ""
    ended = sorted(FINISHED)
    rows = await readers.fetch(
        f"SELECT id FROM runs LEFT JOIN owned ON owned.run = no WHERE {of_flows} status IN ('running', 'parked') "
        f"AND (status = 'running' OR substr(note, 1, ?) != ?) AND {_not_by(alive)} AND (parent IS NULL OR EXISTS "
        f"(SELECT 1 FROM runs AS over WHERE over.id = runs.parent AND over.status IN ({_marks(ended)}))) ORDER BY no",
        (*flows, len(HELD), HELD, *alive, *ended),
    )
    return [cast("str", name) for (name,) in rows]


async def heads(readers: Readers) -> list[Head]:
    """The head of every run."""
    rows = await readers.fetch("SELECT id, seq, digest FROM heads JOIN runs ON no = run ORDER BY no")
    return [Head(*cast("tuple[str, int, bytes]", row)) for row in rows]


async def find(readers: Readers, name: str) -> str:
    """The id that a user's name for a run means."""
    back = _steps_back(name)
    if back is not None:
        rows = await readers.fetch(
            "SELECT id FROM runs WHERE parent IS NULL AND status != 'pruned' ORDER BY no DESC LIMIT 1 OFFSET ?", (back,)
        )
        if not rows:
            raise NotFoundError(f"there is no run {name}: the store has fewer runs", hint=_NO_RUN)
        return cast("str", rows[0][0])
    if not name or not name.isascii():
        raise NotFoundError(f"there is no run {name!r}", hint=_NO_RUN)
    # A range, so that no character in a user's text means anything of its own.
    rows = await readers.fetch(
        "SELECT id FROM runs WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
        (name, name[:-1] + chr(ord(name[-1]) + 1), _SHOWN + 1),
    )
    found = [cast("str", row[0]) for row in rows]
    if name in found or len(found) == 1:
        return name if name in found else found[0]
    if not found:
        raise NotFoundError(f"there is no run {name}", hint=_NO_RUN)
    more = ", ..." if len(found) > _SHOWN else ""
    raise AmbiguousError(
        f"{name} is the beginning of several runs: {', '.join(found[:_SHOWN])}{more}", hint="Write more of the id."
    )


def _steps_back(name: str) -> int | None:
    if name == "last":
        return 0
    head, tilde, steps = name.partition("~")
    if head == "last" and tilde and steps.isdecimal() and steps.isascii() and len(steps) < 10:
        return int(steps)
    return None


async def prunable(readers: Readers, older_than: float, name: str | None) -> list[str]:
    """Ids of finished runs that may be pruned."""
    ended = sorted(FINISHED - {"pruned"})
    if name is None:
        rows = await readers.fetch(
            f"SELECT id FROM runs WHERE status IN ({_marks(ended)}) AND updated < ? ORDER BY no", (*ended, older_than)
        )
        return [cast("str", row[0]) for row in rows]
    rows = await readers.fetch("SELECT status FROM runs WHERE id = ?", (name,))
    if not rows:
        raise NotFoundError(f"there is no run {name}", hint=_NO_RUN)
    status = rows[0][0]
    if status == "pruned":
        return []
    if status not in ended:
        raise RunError(f"run {name} is {status}; only a finished run can be pruned", hint="Cancel it first.")
    return [name]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _not_by(alive: set[int]) -> str:
    return f"(owner IS NULL OR owner NOT IN ({','.join('?' * len(alive))}))"
