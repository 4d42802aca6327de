"""Events as JSON, and the heads of runs as a file that is kept elsewhere."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec

from kitaru.errors import DecodeError, UsageError
from kitaru.store import codec, files
from kitaru.store.events import BoundaryEvent, Ref
from kitaru.store.protocol import Head, Recorded

_LARGEST_TEXT: Final = 64 << 20
_BOUNDARY: Final = msgspec.msgpack.Decoder(BoundaryEvent)
_ENCODED: Final = frozenset({"image", "inputs", "outcome"})
_OPAQUE: Final = frozenset({"registry", "options"})
_TIMES: Final = frozenset({"at", "created", "updated", "started", "deadline"})
_FORMAT: Final = 1


def event_as_json(recorded: Recorded) -> dict[str, object]:
    """An event made of what JSON knows: its seq, turn, type and time, then its own fields.

    Encoded values that stand in the event are shown as `kitaru show` shows them; artifacts as digest and size.
    """
    seq, turn, event = recorded
    shown: dict[str, object] = {"seq": seq, "turn": turn, "type": type(event).__name__, "at": iso(event.at)}
    return {**shown, **_fields(event, {"v", "at"})}


def struct_as_json(struct: msgspec.Struct) -> dict[str, object]:
    """A view of a run or of a step, a report: as objects with named fields, times in ISO 8601, amounts as text."""
    return {name: _plain(name, getattr(struct, name)) for name in struct.__struct_fields__}


def _plain(name: str, value: object) -> object:
    if isinstance(value, float) and name in _TIMES:
        return iso(value)
    if isinstance(value, msgspec.Struct):
        return struct_as_json(value)
    if isinstance(value, tuple | list):
        return [_plain("", item) for item in value]
    return format(value, "f") if isinstance(value, Decimal) else value


def _fields(struct: msgspec.Struct, without: Iterable[str] = ()) -> dict[str, object]:
    return {name: _shown(name, getattr(struct, name)) for name in struct.__struct_fields__ if name not in set(without)}


def _shown(name: str, value: object) -> object:
    if isinstance(value, Ref):
        return {"artifact": value.digest.hex(), "size": value.size}
    if isinstance(value, msgspec.Raw):
        return {"type": type(inner := _BOUNDARY.decode(value)).__name__, **_fields(inner, {"v"})}
    if isinstance(value, bytes):
        if name in _ENCODED:
            return codec.display(value) if value else None
        if name == "error":
            return _error(value)
        return {"size": len(value)} if name in _OPAQUE or name in ("source", "response") else value.hex()
    if isinstance(value, msgspec.Struct):
        return _fields(value)
    if isinstance(value, tuple | list):
        return [_shown(name, item) for item in value]
    return iso(value) if isinstance(value, float) and name in _TIMES else value


def _error(data: bytes) -> dict[str, object]:
    try:
        name, message = codec.describe_exception(data)
    except DecodeError as error:
        return {"type": "unreadable", "message": error.message}
    return {"type": name.replace(":", "."), "message": message}


def called_in(message: Mapping[str, object]) -> list[tuple[str, str]]:
    """The tools that a message of a conversation calls, with their arguments; in the recorded or the public form."""
    calls = message.get("tool_calls")
    found = []
    for call in calls if isinstance(calls, list | tuple) else ():
        if isinstance(call, dict):
            inner = call.get("function")
            named = inner if isinstance(inner, dict) else call
            found.append((str(named.get("name", "")), str(named.get("arguments", ""))))
    return found


def iso(at: float) -> str:
    """UTC seconds since the epoch as ISO 8601, to the millisecond."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_heads(path: Path, heads: Sequence[Head]) -> None:
    """Write heads to a file of this user's alone, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    files.write_file(path, heads_to_text(heads))


def heads_to_text(heads: Sequence[Head]) -> str:
    """The heads of runs as the text of a file to keep elsewhere."""
    rows = [{"run": head.run, "seq": head.seq, "digest": head.digest.hex()} for head in heads]
    return json.dumps({"kitaru_heads": _FORMAT, "heads": rows}, indent=1) + "\n"


def read_text(path: Path) -> str:
    """The text of a file, or of a shell's `<(command)`, of at most 64 MB.

    Raises:
        OSError, UnicodeDecodeError: It cannot be read.
    """
    return files.read_file(path, _LARGEST_TEXT, pipes=True).decode("utf-8")


def heads_from_text(text: str, source: str) -> list[Head]:
    """The heads that `heads_to_text` wrote.

    Args:
        source: What an error calls the text: its file's name.

    Raises:
        UsageError: It is no such text.
    """
    try:
        data = json.loads(text)
        if data["kitaru_heads"] != _FORMAT:
            raise UsageError(f"{source} was written by another version of Kitaru")
        return [Head(str(row["run"]), int(row["seq"]), bytes.fromhex(row["digest"])) for row in data["heads"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{source} holds no heads: {type(error).__name__}: {error}",
            hint="Write such a file with `kitaru verify --write-heads FILE`.",
        ) from None
