"""From bytes, however they are cut, to the events of a stream: server-sent events, and JSON by lines."""

from __future__ import annotations

from typing import Final, NamedTuple

from kitaru.adapters.mending import EventMender, is_heartbeat

_LONGEST_LINE: Final = 64 * 1024 * 1024


class LineTooLongError(Exception):
    """A line without end: no event of any API."""


class ServerEvent(NamedTuple):
    """One server-sent event; its `data` lines are joined by line breaks."""

    event: str
    data: bytes


class Lines:
    """Cuts bytes into lines at LF, CRLF or CR, which may fall anywhere."""

    def __init__(self, longest: int = _LONGEST_LINE) -> None:
        self._longest = longest
        self._rest: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that these bytes complete, without their ends.

        Raises:
            LineTooLongError: Too much without a line's end.
        """
        if self._after_cr and data:
            data = data[1:] if data[:1] == b"\n" else data
            self._after_cr = False
        if not data:
            return []
        self._after_cr = data.endswith(b"\r")
        # Not `splitlines`: of all line ends that it knows, only these three are meant.
        pieces = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(pieces) > 1:
            pieces[0] = b"".join([*self._rest, pieces[0]])
            self._rest, self._size = [], 0
        rest = pieces.pop()
        if rest:
            self._rest.append(rest)
            self._size += len(rest)
            if self._size > self._longest:
                raise LineTooLongError
        return pieces

    def finish(self) -> bytes:
        """Return what came after the last line's end."""
        rest = b"".join(self._rest)
        self._rest, self._size = [], 0
        return rest


class ServerEvents:
    """Cuts bytes into server-sent events. Comments, ids, retry hints and heartbeats are dropped; lines of no field are
    kept."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._event = ""
        self._data: list[bytes] = []
        self._mender = EventMender()
        self.stray: list[bytes] = []
        """Lines that are no field: some APIs write an error into the stream as bare JSON."""

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Return the events that these bytes complete.

        Raises:
            LineTooLongError: Too much without a line's end.
        """
        found: list[ServerEvent] = []
        for line in self._lines.feed(data):
            self._line(line, found)
        return found

    def finish(self) -> list[ServerEvent]:
        """Return the event that the end of the stream completes, if any: some servers omit the last empty line."""
        found: list[ServerEvent] = []
        rest = self._lines.finish()
        if rest:
            self._line(rest, found)
        self._line(b"", found)
        return found

    def _line(self, line: bytes, found: list[ServerEvent]) -> None:
        if not line:
            data = b"\n".join(self._data)
            if not is_heartbeat(data):
                found.append(ServerEvent(self._event, self._mender.readable(data)))
            self._event, self._data = "", []
            return
        name, colon, value = line.removeprefix(b"\xef\xbb\xbf").partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._data.append(value)
            case b"event":
                self._event = value.decode("utf-8", "replace")
            case b"id" | b"retry":
                pass
            case b"" if colon:
                pass
            case _:
                self.stray.append(line)
