"""Large contents in pieces, each stored once.

A list or text that grows from step to step is mostly what was stored before. So a large content is cut at points that
its own bytes decide, and its row holds the ids of the pieces in place of the bytes. Two contents that share a part then
share its pieces, wherever the part stands. Digests, references and sizes remain those of the whole content.

The row of a joined content holds: the length of the list of ids (4 bytes), the ids as zigzag varints of their
differences, the length of the head (4 bytes), and head and tail, deflated. The head precedes the first cut, the tail
follows the last one.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections import deque
from collections.abc import Iterable
from hashlib import blake2b
from itertools import pairwise
from typing import Final, TypeAlias

import msgspec

from kitaru.store.pressed import LARGEST, content_of, pressed

JOINED: Final = 2
"""The layout of a content in pieces, beside 0 (as it is) and 1 (deflated)."""

SMALLEST: Final = 4096
"""Bytes from which a content is cut."""
_AVERAGE: Final = 1024
_LONGEST: Final = 8192
_SHORTEST: Final = 256
_HEADERS: Final = {0xC5: 3, 0xC6: 5, 0xDA: 3, 0xDB: 5}
"""The lengths of the headers of long binary values and texts, by their first byte."""
_ELEMENT: Final = 32
"""Average bytes of a container's elements from which it is cut between them, and not by bytes."""
_DEEPEST: Final = 32
_REMEMBERED: Final = 50_000
_RECENT_SIZE: Final = 1 << 20

_CLASS: Final = b"[" + b"".join(b"\\x%02x" % byte for byte in range(256) if ((byte * 0x9E3779B1) >> 13) & 3 == 0) + b"]"
_candidate: Final = re.compile(_CLASS * 3, re.DOTALL).search
_elements: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_entries: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.msgpack.Encoder().encode


Recent: TypeAlias = "deque[tuple[bytes, list[int]]]"
"""Long texts cut last, and where: a text that grows is cut from where it ended before."""


def cuts(content: bytes, recent: Recent | None = None) -> list[int]:
    """Return the positions at which a content is cut, ascending and distinct.

    This function never changes: another one would store again whatever is stored.

    Args:
        content: The bytes, an encoded value in most cases.
        recent: What earlier calls cut. It saves time and changes no position.
    """
    ends: list[int] = []
    _walk(memoryview(content), 0, 0, ends, deque() if recent is None else recent)
    return ends


def _walk(data: memoryview, base: int, depth: int, ends: list[int], recent: Recent) -> None:
    found = _parts(data) if depth < _DEEPEST else None
    if found is None:
        if len(data) > _LONGEST:
            header = _HEADERS.get(data[0], 0)
            if header:
                # It holds the length, which changes as the text grows.
                _cut(ends, base + header)
            for end in _cuts_of_bytes(bytes(data[header:]), recent):
                _cut(ends, base + header + end)
        return
    header, parts = found
    at = last = base + header
    # The header counts the elements, so it changes as the container grows.
    _cut(ends, at)
    for key, part in parts:
        size = len(part)
        at += key
        if size > _LONGEST:
            _walk(part, at, depth + 1, ends, recent)
            at += size
            last = ends[-1]
            continue
        at += size
        if zlib.crc32(part) < (size << 32) // _AVERAGE or at - last > _LONGEST:
            _cut(ends, at)
            last = at


def _cut(ends: list[int], at: int) -> None:
    if not ends or ends[-1] < at:
        ends.append(at)


def _parts(data: memoryview) -> tuple[int, list[tuple[int, memoryview]]] | None:
    """The length of a container's header, and its elements, each after the length of its key; None for what is no
    container to walk: too small elements, or keys that are no distinct texts."""
    first = data[0]
    header, count, is_list = _header(data, first)
    if not header or count * _ELEMENT > len(data):
        return None
    try:
        if is_list:
            return header, [(0, memoryview(part)) for part in _elements(data)]
        found = _entries(data)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if len(found) != count:
        return None
    parts = [(len(_encode(key)), memoryview(part)) for key, part in found.items()]
    # A key may have a longer form than the usual one.
    whole = header + sum(key + len(part) for key, part in parts) == len(data)
    return (header, parts) if whole else None


def _header(data: memoryview, first: int) -> tuple[int, int, bool]:
    if 0x90 <= first <= 0x9F:
        return 1, first & 15, True
    if 0x80 <= first <= 0x8F:
        return 1, first & 15, False
    length = {0xDC: 3, 0xDD: 5, 0xDE: 3, 0xDF: 5}.get(first, 0)
    return length, int.from_bytes(data[1:length], "big"), first < 0xDE


def _cuts_of_bytes(data: bytes, recent: Recent) -> list[int]:
    size = len(data)
    ends = next((list(known) for before, known in recent if data.startswith(before)), [])
    at = ends[-1] if ends else 0
    start = at + _SHORTEST
    while size - at > _SHORTEST:
        found = _candidate(data, start, min(at + _LONGEST, size))
        if found is None:
            if size - at <= _LONGEST:
                break
            at += _LONGEST
        else:
            start = found.end()
            if zlib.crc32(data[start - 32 : start]) & 15:
                start -= 2
                continue
            at = start
        ends.append(at)
        start = at + _SHORTEST
    if size <= _RECENT_SIZE:
        recent.appendleft((data, ends))
    return ends


class Layout:
    """The row of a content."""

    __slots__ = ("data", "how", "pieces")

    def __init__(self, data: bytes, how: int, pieces: tuple[int, ...] = ()) -> None:
        self.data = data
        self.how = how
        self.pieces = pieces
        """The ids of its pieces, each once."""


class Pieces:
    """What a writer remembers of the stored pieces: their ids by digest, and which run holds which."""

    def __init__(self) -> None:
        self._ids: dict[bytes, int] = {}
        self._refs: set[tuple[int, int]] = set()
        self._recent: Recent = deque(maxlen=8)
        self._version = 0

    def forget(self) -> None:
        """Forget everything: a transaction was rolled back, or something was deleted."""
        self._ids.clear()
        self._refs.clear()

    def refresh(self, db: sqlite3.Connection) -> None:
        """Forget everything if another connection has committed. Call inside the transaction, before `layout`."""
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version != self._version or len(self._ids) > _REMEMBERED or len(self._refs) > _REMEMBERED:
            self._version = version
            self.forget()

    def layout(self, db: sqlite3.Connection, content: bytes) -> Layout:
        """Store the pieces of a content that are not stored yet, and return what its row holds.

        Args:
            db: The writing connection, in a transaction.
            content: The content, `SMALLEST` bytes or more, and no node.
        """
        ends = cuts(content, self._recent)
        if len(ends) < 2 or len(content) > LARGEST:
            return Layout(*pressed(content))
        parts = [content[start:end] for start, end in pairwise(ends)]
        digests = [blake2b(part, digest_size=16).digest() for part in parts]
        for digest, part in dict(zip(digests, parts, strict=True)).items():
            if digest not in self._ids:
                self._ids[digest] = _stored(db, digest, part)
        ids = [self._ids[digest] for digest in digests]
        packed = _packed(ids)
        edges = zlib.compress(content[: ends[0]] + content[ends[-1] :], 1, -zlib.MAX_WBITS)
        data = b"".join((len(packed).to_bytes(4, "big"), packed, ends[0].to_bytes(4, "big"), edges))
        return Layout(data, JOINED, tuple(dict.fromkeys(ids)))

    def new_refs(self, run: int, pieces: Iterable[int]) -> list[object]:
        """The rows of `piece_refs`, one after the other, that this writer has not written yet."""
        rows = [(piece, run) for piece in pieces if (piece, run) not in self._refs]
        self._refs.update(rows)
        return [value for row in rows for value in row]


def _stored(db: sqlite3.Connection, digest: bytes, part: bytes) -> int:
    row = db.execute("SELECT id FROM pieces WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        insert = "INSERT INTO pieces (digest, data, compressed) VALUES (?, ?, ?) RETURNING id"
        row = db.execute(insert, (digest, *pressed(part))).fetchone()
    number: int = row[0]
    return number


def _packed(ids: list[int]) -> bytes:
    packed, last = bytearray(), 0
    for number in ids:
        step, last = number - last, number
        value = step << 1 if step >= 0 else (-step << 1) - 1
        while value > 127:
            packed.append(value & 127 | 128)
            value >>= 7
        packed.append(value)
    return bytes(packed)


def ids_in(data: bytes) -> list[int]:
    """The ids of the pieces of a joined content, in order, from its row."""
    ids: list[int] = []
    last = value = shift = 0
    for byte in data[4 : 4 + int.from_bytes(data[:4], "big")]:
        if shift > _WIDEST:
            break
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            last += value >> 1 if not value & 1 else -((value + 1) >> 1)
            ids.append(last)
            value = shift = 0
    return ids


_WIDEST: Final = 63
"""Bits of an id, at most."""

WANTED: Final = "SELECT id, data, compressed FROM pieces WHERE id IN (SELECT value FROM json_each(?))"
"""Reads pieces by a JSON array of their ids."""


def wanted(data: bytes) -> str:
    """The parameter of `WANTED` for a joined content."""
    return str(sorted(set(ids_in(data))))


def joined(data: bytes, rows: Iterable[tuple[int, bytes, int]]) -> bytes:
    """A joined content, from its row and those of its pieces.

    Returns:
        The content; where a piece is missing or damaged, bytes whose digest is another one.
    """
    found = {number: content_of(part, compressed) for number, part, compressed in rows}
    start = 4 + int.from_bytes(data[:4], "big")
    head = int.from_bytes(data[start : start + 4], "big")
    edges = content_of(data[start + 4 :], 1)
    parts = [found.get(number, b"") for number in ids_in(data)]
    if sum(map(len, parts)) > LARGEST:
        return b""
    return b"".join((edges[:head], *parts, edges[head:]))


def pieces_of(db: sqlite3.Connection, digest: bytes) -> list[int]:
    """The ids of the pieces of an artifact; none where it is not joined, or not there."""
    row = db.execute("SELECT data FROM artifacts WHERE digest = ? AND compressed = ?", (digest, JOINED)).fetchone()
    return [] if row is None else ids_in(row[0])


def read(db: sqlite3.Connection, digest: bytes) -> bytes | None:
    """An artifact's content, unchecked, or None where there is none."""
    row = db.execute("SELECT data, compressed FROM artifacts WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        return None
    data, how = row
    return joined(data, db.execute(WANTED, (wanted(data),))) if how == JOINED else content_of(data, how)
