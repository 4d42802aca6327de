"""Large contents in pieces: each piece is stored once, and every content reads back as it was."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections import deque
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.errors import KitaruError
from kitaru.store.codec import content_digest
from kitaru.store.pieces import JOINED, Pieces, Recent, cuts, joined
from kitaru.store.schema import create_tables
from kitaru.store.sqlite import SqliteStore
from tests.cases import cases
from tests.store.logs import NOW, Listener, completed, kept, ref, started, step

encode = msgspec.msgpack.Encoder().encode

SCALARS = st.none() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=3000) | st.text(max_size=3000)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=30)
        | st.dictionaries(st.text(max_size=20), inner, max_size=20)
        | st.dictionaries(st.integers(0, 99), inner, max_size=5)
    ),
    max_leaves=60,
)


def words(seed: int, length: int) -> str:
    chance = random.Random(seed)
    return " ".join(chance.choice(WORDS) for _ in range(length // 6))[:length]


WORDS = [
    "".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz", k=random.Random(n).randint(2, 9)))
    for n in range(6000)
]


def message(number: int) -> dict[str, str]:
    return {"role": "user" if number % 2 else "assistant", "content": words(number, 960)}


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create_tables(connection)
        yield connection


def size_of(db: sqlite3.Connection) -> int:
    (size,) = db.execute("SELECT coalesce(sum(length(data)), 0) FROM pieces").fetchone()
    return int(size)


def read_back(db: sqlite3.Connection, data: bytes) -> bytes:
    return joined(data, db.execute("SELECT id, data, compressed FROM pieces"))


# -- where a content is cut -------------------------------------------------------------------------------------------


@settings(max_examples=cases(400))
@given(VALUES.map(encode) | st.binary(min_size=1, max_size=40_000))
def test_cuts_ascend_within_the_content_and_leave_no_piece_longer_than_two_limits(content: bytes) -> None:
    found = cuts(content)
    assert found == sorted(set(found))
    assert not found or (found[0] >= 0 and found[-1] <= len(content))
    assert all(end - start <= 2 * 8192 for start, end in pairwise(found))


def test_a_content_is_cut_where_it_always_was() -> None:
    contents = [
        encode([message(number) for number in range(60)]),
        encode({"messages": [message(number) for number in range(60)], "turn": 60, "note": "n" * 9000}),
        encode(words(1, 60_000)),
        random.Random(4).randbytes(60_000),
        encode({number: message(number) for number in range(60)}),
    ]
    found = [(len(cuts(each)), blake2b(repr(cuts(each)).encode(), digest_size=8).hexdigest()) for each in contents]
    assert found == FROZEN


FROZEN = [
    (60, "1557789f47d5b065"),
    (63, "d2480570c127958c"),
    (66, "45f904826661d17b"),
    (47, "c8fa8a958a3883f8"),
    (67, "1349aee6c074393c"),
]


@settings(max_examples=cases(200))
@given(st.binary(min_size=1, max_size=3000), st.lists(st.integers(0, 12_000), min_size=2, max_size=6))
def test_what_was_cut_before_changes_no_cut(seed: bytes, lengths: list[int]) -> None:
    long = (seed * 12_000)[:12_000] if len(set(seed)) < 3 else random.Random(seed).randbytes(12_000)
    recent: Recent = deque(maxlen=8)
    for length in lengths:
        content = encode([long[:length], len(seed)])
        assert cuts(content, recent) == cuts(content)


def test_a_change_in_the_middle_moves_only_the_cuts_around_it() -> None:
    before = words(2, 200_000).encode()
    after = before[:100_000] + b"an insertion" + before[100_000:]
    old = {before[start:end] for start, end in pairwise([0, *cuts(before), len(before)])}
    new = [after[start:end] for start, end in pairwise([0, *cuts(after), len(after)])]
    assert sum(piece not in old for piece in new) <= 3


def test_deep_nesting_is_cut_by_bytes_from_some_depth_on() -> None:
    value: object = words(3, 20_000)
    for _ in range(200):
        value = [value]
    assert cuts(encode(value))


# -- what is stored ---------------------------------------------------------------------------------------------------


@settings(max_examples=cases(400))
@given(st.lists(VALUES.map(encode) | st.binary(min_size=1, max_size=20_000), min_size=1, max_size=4))
def test_every_content_reads_back(contents: list[bytes]) -> None:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        create_tables(db)
        pieces = Pieces()
        for content in contents:
            pieces.refresh(db)
            layout = pieces.layout(db, content)
            if layout.how == JOINED:
                assert read_back(db, layout.data) == content


def grown(db: sqlite3.Connection, contents: Iterator[bytes]) -> int:
    """The bytes that contents take in all."""
    pieces, rows = Pieces(), 0
    for content in contents:
        pieces.refresh(db)
        rows += len(pieces.layout(db, content).data)
    return size_of(db) + rows


def test_a_list_that_grows_for_200_turns_takes_little_more_than_its_last_state(db: sqlite3.Connection) -> None:
    turns = [message(number) for number in range(200)]
    assert grown(db, (encode([turns[:number]]) for number in range(1, 201))) < 300_000


def test_a_list_in_a_map_that_grows_takes_little_more(db: sqlite3.Connection) -> None:
    turns = [message(number) for number in range(200)]
    states = (encode({"messages": turns[:number], "turn": number, "done": False}) for number in range(1, 201))
    assert grown(db, states) < 300_000


def test_a_text_that_grows_for_200_turns_takes_little_more_than_its_last_state(db: sqlite3.Connection) -> None:
    text = words(5, 192_000)
    assert grown(db, (encode([text[: number * 960]]) for number in range(1, 201))) < 400_000


def test_a_piece_stored_before_is_found_by_another_writer(db: sqlite3.Connection) -> None:
    content = encode([message(number) for number in range(30)])
    first, second = Pieces().layout(db, content), Pieces().layout(db, content)
    assert first.data == second.data
    assert db.execute("SELECT count(*) FROM pieces").fetchone() == (len(first.pieces),)


# -- in a store -------------------------------------------------------------------------------------------------------


def conversation(turns: int) -> bytes:
    return encode([message(number) for number in range(turns)])


def rows_of(path: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)


async def test_pieces_go_with_the_last_run_that_holds_them(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    listener = Listener(store)
    short, long = conversation(20), conversation(40)
    await listener.create("source")
    await listener.append("source", 1, step(1, ref(short)), step(2, ref(long)), artifacts=kept(short, long))
    # As a fork does, it names what is stored already.
    await listener.create("fork", started(), step(1, ref(short)))
    await listener.append("source", 1, completed())
    await store.prune(older_than=NOW + 1)
    assert await store.artifact(content_digest(short)) == short
    assert await store.verify() == []
    left = rows_of(tmp_path / "k.db", "pieces")
    await store.rebuild()
    assert rows_of(tmp_path / "k.db", "piece_refs") == left
    await listener.append("fork", 1, completed())
    await store.prune(older_than=NOW + 1)
    assert rows_of(tmp_path / "k.db", "pieces") == rows_of(tmp_path / "k.db", "piece_refs") == 0
    # What this process remembers of the pieces must not outlive them.
    await listener.create("later", started(), step(1, ref(long)), artifacts=kept(long))
    assert await store.artifact(content_digest(long)) == long
    await store.close()


async def test_pieces_that_another_process_pruned_are_stored_again(tmp_path: Path) -> None:
    one, two = SqliteStore(tmp_path / "k.db"), SqliteStore(tmp_path / "k.db")
    await one.open()
    await two.open()
    listener, content = Listener(one), conversation(20)
    await listener.create("first", started(), step(1, ref(content)), completed(), artifacts=kept(content))
    await two.prune(older_than=NOW + 1)
    await listener.create("second", started(), step(1, ref(content)), artifacts=kept(content))
    assert await one.artifact(content_digest(content)) == content
    await two.close()
    await one.close()


async def test_pieces_of_a_failed_commit_are_stored_again(tmp_path: Path) -> None:
    path = tmp_path / "k.db"
    refused = conversation(30)
    store = SqliteStore(path)
    await store.open()
    listener = Listener(store)
    await listener.create("tides")
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON refs WHEN hex(NEW.digest) = "
            f"'{content_digest(refused).hex().upper()}' BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
        )
    await listener.append("tides", 1, step(1))
    with pytest.raises(KitaruError):
        await listener.append("tides", 1, step(2, ref(refused)), artifacts=kept(refused))
    content = conversation(31)
    await listener.append("tides", 1, step(3, ref(content)), artifacts=kept(content))
    assert await store.artifact(content_digest(content)) == content
    assert await store.verify() == []
    await store.close()


async def test_a_missing_piece_is_named_by_verify(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    listener, content = Listener(store), conversation(20)
    await listener.create("tides", started(), step(1, ref(content)), artifacts=kept(content))
    with contextlib.closing(sqlite3.connect(tmp_path / "k.db")) as connection:
        connection.execute("DELETE FROM pieces WHERE id = 3")
        connection.commit()
    (problem,) = await store.verify()
    assert content_digest(content).hex() in problem.what
    await store.close()


async def test_a_file_of_the_version_before_takes_pieces(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "k.db")
    await store.open()
    await store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "k.db")) as connection:
        connection.executescript("DROP TABLE pieces; DROP TABLE piece_refs; PRAGMA user_version = 2")
    await store.open()
    listener, content = Listener(store), conversation(20)
    await listener.create("tides", started(), step(1, ref(content)), artifacts=kept(content))
    assert await store.artifact(content_digest(content)) == content
    assert rows_of(tmp_path / "k.db", "pieces") > 0
    await store.close()
