"""Values to be found nowhere: how they may be written, and where to look for them."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

SHORTEST = 12


def forms(value: str) -> Iterator[bytes]:
    """The ways to write a value: as it is, in JSON, percent-encoded, base64 at each alignment, hexadecimal."""
    raw = value.encode()
    inner = json.dumps(value)[1:-1]
    yield raw
    yield from (inner.encode(), inner.replace("/", "\\/").encode(), json.dumps(inner)[1:-1].encode())
    yield "".join(f"\\u{ord(char):04x}" for char in value).encode()
    for safe in ("", "/"):
        percent = quote(raw, safe=safe)
        yield percent.encode()
        yield re.sub("%..", lambda code: code.group().lower(), percent).encode()
    yield raw.hex().encode()
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(b"x" * before + raw + b"yy")
            # Without the characters that hold bits of what stands around it.
            piece = whole[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
            assert len(piece) >= SHORTEST
            yield piece


class Canaries:
    """Planted values, by where they were planted."""

    def __init__(self, planted: Mapping[str, str]) -> None:
        self._forms = [(name, form) for name, value in planted.items() for form in forms(value)]

    def found(self, data: bytes) -> list[str]:
        """Whose values stand in the data."""
        return sorted({name for name, form in self._forms if form in data})

    def assert_absent(self, where: str, data: bytes) -> None:
        assert (found := self.found(data)) == [], f"{where} holds the value of {', '.join(found)}"

    def assert_not_on_disk(self, folder: Path, database: str, leave: Iterable[str] = ()) -> int:
        """Look into every file, and at every value of the database once more, whole; gives how many there are."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in leave:
                self.assert_absent(path.name, path.read_bytes())
        values = 0
        connection = sqlite3.connect(folder / database)
        try:
            for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
                found = [value for row in connection.execute(f'SELECT * FROM "{table}"') for value in row]
                data = (value if isinstance(value, bytes) else str(value).encode() for value in found)
                self.assert_absent(f"table {table}", b"\0".join(data))
                values += len(found)
        finally:
            connection.close()
        return values
