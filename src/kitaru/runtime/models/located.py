"""JSON that somebody may have written by hand: its value, and the line that each part of it stands on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

Path: TypeAlias = tuple[str | int, ...]

_DEEPEST: Final = 20
_SPACE: Final = re.compile(r"[ \t\r\n]*")


class Located(NamedTuple):
    """A value, and the line, counted from 1, of the key or item at each path in it."""

    value: object
    lines: dict[Path, int]


class MalformedError(Exception):
    """A text that is not JSON, or says one thing twice.

    Args:
        what: What is wrong.
        line: Where, counted from 1.
    """

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.what = what
        self.line = line


def located(text: str) -> Located:
    """Parse JSON.

    Raises:
        MalformedError: It is none, an object holds a key twice, or it is nested too deep.
    """
    reader = _Reader(text)
    value, end = reader.value(reader.skip(0), ())
    if reader.skip(end) != len(text):
        raise reader.fault("there is more after the end", reader.skip(end))
    return Located(value, reader.lines)


class _Reader:
    """Walks objects and lists itself and leaves all else to the standard library's decoder."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._plain = json.JSONDecoder(parse_constant=self._no_constant).raw_decode
        self.lines: dict[Path, int] = {}

    def fault(self, what: str, at: int) -> MalformedError:
        return MalformedError(what, self._line(at))

    def skip(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return found.end() if found else at

    def value(self, at: int, path: Path) -> tuple[object, int]:
        if len(path) > _DEEPEST:
            raise self.fault("it is nested too deep", at)
        self.lines.setdefault(path, self._line(at))
        match self._text[at : at + 1]:
            case "{":
                return self._object(at, path)
            case "[":
                return self._list(at, path)
            case _:
                return self._scalar(at)

    def _scalar(self, at: int) -> tuple[object, int]:
        try:
            return self._plain(self._text, at)
        except json.JSONDecodeError as error:
            raise self.fault(error.msg[:1].lower() + error.msg[1:], error.pos) from None
        except ValueError as error:
            raise self.fault(str(error), at) from None

    def _object(self, at: int, path: Path) -> tuple[dict[str, object], int]:
        made: dict[str, object] = {}

        def member(at: int) -> int:
            key, end = self._scalar(at)
            if not isinstance(key, str):
                raise self.fault("a key is not in quotes", at)
            if key in made:
                raise self.fault(f"{key!r} is there twice", at)
            self.lines[*path, key] = self._line(at)
            end = self.skip(end)
            if self._text[end : end + 1] != ":":
                raise self.fault("a colon is missing", end)
            made[key], end = self.value(self.skip(end + 1), (*path, key))
            return end

        return made, self._members(at, "}", member)

    def _list(self, at: int, path: Path) -> tuple[list[object], int]:
        made: list[object] = []

        def member(at: int) -> int:
            item, end = self.value(at, (*path, len(made)))
            made.append(item)
            return end

        return made, self._members(at, "]", member)

    def _members(self, at: int, closing: str, member: Callable[[int], int]) -> int:
        """Read what stands between brackets; return where it ends."""
        at = self.skip(at + 1)
        if self._text[at : at + 1] == closing:
            return at + 1
        while True:
            at = self.skip(member(at))
            match self._text[at : at + 1]:
                case ",":
                    at = self.skip(at + 1)
                case found if found == closing:
                    return at + 1
                case _:
                    raise self.fault(f"a comma or {closing!r} is missing", at)

    def _line(self, at: int) -> int:
        return self._text.count("\n", 0, at) + 1

    @staticmethod
    def _no_constant(name: str) -> object:
        raise ValueError(f"{name} is not JSON")
