"""What a command prints, and how: results on stdout, all else on stderr, nothing that a terminal would obey."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TextIO, TypeAlias

Colour: TypeAlias = Literal["red", "green", "yellow", "cyan", "dim", "bold", ""]

_CODES: Final = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "dim": "2", "bold": "1"}
_SEQUENCE: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\x9c|$)|\x1b[ -/]*[0-~]|\x9b[0-?]*[ -/]*[@-~]", re.DOTALL
)
"""Escape sequences: CSI, OSC and other strings, two-character ones."""
_CONTROL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]|[\ud800-\udfff]"
)
_UNSAFE_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]|[\ud800-\udfff]")
_ASCII: Final = {
    "✓": "+", "✗": "x", "●": "*", "…": "...", "!": "!", "→": "->", "–": "-", "↷": "~", "○": "o", "?": "?", "−": "-"
}  # fmt: skip
ELLIPSIS: Final = "…"
SCHEMA: Final = 1
"""The version of the JSON documents, raised where a field goes or changes its meaning; docs/cli.md describes them."""


def clean(text: str) -> str:
    """Text from a model or a flow, on one line, without anything that a terminal would obey."""
    return " ".join(clean_lines(text).split())


def clean_lines(text: str) -> str:
    """As `clean`, but line breaks and indentation stay."""
    text = _SEQUENCE.sub("", text.replace("\r\n", "\n"))
    return _CONTROL.sub("", text.replace("\r", "\n").replace("\t", "    "))


def width_of(text: str) -> int:
    """How many columns a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(c) or unicodedata.category(c) == "Cf"
        else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def shortened(text: str, width: int) -> str:
    """The text, cut to a number of columns with an ellipsis."""
    if width_of(text) <= width:
        return text
    taken, columns = [], 0
    for character in text:
        columns += width_of(character)
        if columns > width - 1:
            break
        taken.append(character)
    return "".join(taken) + ELLIPSIS if width > 0 else ""


class Output:
    """Where a command's words go.

    Args:
        as_json: Whether the result is one JSON document (or one a line).
        quiet: Leave out progress and notes.
        colour: False for none, None to decide by stream and environment.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False, colour: bool | None = None) -> None:
        self.as_json = as_json
        self.quiet = quiet
        # Taken now: what the user's code prints while a run goes is sent to stderr.
        self.out: TextIO = sys.stdout
        self.err: TextIO = sys.stderr
        self._colour = colour

    # -- results ------------------------------------------------------------------------------------------------------

    def line(self, text: str = "") -> None:
        """A line of the result."""
        _write(self.out, text)

    def text(self, text: str) -> None:
        """A text from a flow or model, as the result."""
        self.line(clean_lines(text))

    def document(self, fields: Mapping[str, object], *, indent: int | None = 2) -> None:
        """A JSON document, with the version of its schema; without indent, one line."""
        self.line(self.json_text({"schema": SCHEMA, **fields}, indent=indent))

    def json_text(self, value: object, *, indent: int | None = None) -> str:
        """JSON in which every character that a terminal or editor could obey is escaped."""
        text = json.dumps(value, indent=indent, ensure_ascii=not _is_utf8(self.out), default=str)
        return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)

    def raw(self, text: str) -> None:
        """A text as it is, with nothing added; on a terminal without what it would obey."""
        if self.out.isatty():
            self.text(text)
            return
        data = text.encode("utf-8", "surrogatepass")
        buffer = getattr(self.out, "buffer", None)
        if buffer is None:
            self.out.write(text)
        else:
            self.out.flush()
            buffer.write(data)
        self.out.flush()

    # -- all else -----------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """A line about what goes on; nothing under `--quiet` or `--json`."""
        if not (self.quiet or self.as_json):
            self.always(text)

    def always(self, text: str) -> None:
        """A line on stderr that is not left out."""
        # Nobody there to read it is no reason to stop a run.
        with contextlib.suppress(OSError, ValueError):
            _write(self.err, text)

    def error(self, code: str, message: str, hint: str | None, **more: object) -> None:
        """What went wrong, and what to do next."""
        if self.as_json:
            body = {"code": code, "message": message, "hint": hint, **more}
            self.always(self.json_text({"schema": SCHEMA, "error": body}))
            return
        head, *rest = clean_lines(message).splitlines() or [""]
        self.always(f"{self.paint('error:', 'red', err=True)} {head}")
        for line in rest:
            self.always(line if line.startswith(" ") else f"  {line}")
        if hint:
            self.always(f"  {clean_lines(hint)}")

    # -- looks --------------------------------------------------------------------------------------------------------

    def paint(self, text: str, colour: Colour, *, err: bool = False) -> str:
        """The text in a colour, where the stream shows colours."""
        if not colour or not self.coloured(self.err if err else self.out):
            return text
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"

    def coloured(self, stream: TextIO) -> bool:
        """Whether a stream gets colours."""
        if self._colour is False or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return False
        return stream.isatty()

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None where there is none and nothing has to fit."""
        columns = os.environ.get("COLUMNS", "")
        if columns.isdecimal() and int(columns) > 0:
            return int(columns)
        try:
            # Some terminals do not say how wide they are.
            return os.get_terminal_size(self.out.fileno()).columns or None if self.out.isatty() else None
        except (OSError, ValueError):
            return None

    def value(self, shown: object, width: int | None = None) -> str:
        """A value as JSON shows it, on one line; shortened on a terminal, whole elsewhere."""
        text = clean(self.json_text(shown))
        return text if self.width is None else shortened(text, width or self.width)

    def table(
        self, rows: Sequence[Sequence[str]], *, colours: Sequence[Sequence[Colour]] = (), indent: int = 0, keep: int = 1
    ) -> None:
        """Rows in columns. Where they do not fit, columns drop from the right down to `keep`, of which all but the last
        are then shortened; nothing wraps."""
        if not rows:
            return
        count = max(len(row) for row in rows)
        widths = [max((width_of(row[i]) for row in rows if i < len(row)), default=0) for i in range(count)]
        limit = self.width
        if limit is not None:
            count, widths = _fitting(widths, limit - indent, min(keep, count))
        for number, row in enumerate(rows):
            cells = []
            for i, cell in enumerate(row[:count]):
                cell = shortened(cell, widths[i])
                colour: Colour = colours[number][i] if number < len(colours) and i < len(colours[number]) else ""
                pad = " " * (widths[i] - width_of(cell)) if any(row[i + 1 : count]) else ""
                cells.append(self.paint(cell, colour) + pad if cell else pad)
            self.line((" " * indent + "  ".join(cells)).rstrip())


def _fitting(widths: list[int], limit: int, keep: int) -> tuple[int, list[int]]:
    """How many columns fit, and how wide they may be: the last may be shortened before it is dropped."""
    count = len(widths)
    while count > keep and sum(widths[:count]) + 2 * (count - 1) > limit:
        left = limit - sum(widths[: count - 1]) - 2 * (count - 1)
        if left >= _WORTHWHILE:
            return count, [*widths[: count - 1], left]
        count -= 1
    widths = widths[:count]
    while (over := sum(widths) + 2 * (count - 1) - limit) > 0:
        before = range(max(1, count - 1))
        widest = max(before, key=widths.__getitem__)
        if widths[widest] <= _NARROWEST:
            break
        second = max((widths[i] for i in before if i != widest), default=0)
        widths[widest] = max(_NARROWEST, widths[widest] - max(1, min(over, widths[widest] - second)))
    return count, widths


_WORTHWHILE: Final = 16
_NARROWEST: Final = 4


def _is_utf8(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").replace("_", "") in ("utf8", "utf8sig")


def _write(stream: TextIO, text: str) -> None:
    if not _is_utf8(stream):
        for symbol, plain in _ASCII.items():
            text = text.replace(symbol, plain)
        encoding = getattr(stream, "encoding", None) or "ascii"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    stream.write(text + "\n")
    stream.flush()


def drop_stdout() -> None:
    """Let what is still to be written to a closed stdout go nowhere, instead of failing at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
