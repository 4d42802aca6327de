"""Recorded bytes as people and JSON see them. Needs no class and never fails."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.msgpack import Decoder

from kitaru.errors import DecodeError
from kitaru.store.codec import codes
from kitaru.store.codec.decode import decoder
from kitaru.store.codec.hidden import MASK

_DIGITS: Final = 4000
_plain: Final = decoder()


class _Shown:
    """Something in its shown form, hashable so that it can be a key, whatever it is."""

    __slots__ = ("form",)

    def __init__(self, form: object) -> None:
        self.form = form


def display(data: bytes) -> object:
    """A recorded value made of None, bool, int, float, str, list and dict with str keys: fit for JSON.

    Objects become `{"title": ...}`, enum members their values, bytes base64, exceptions `{"ValueError": "message"}`;
    tuples and sets lists; times ISO 8601; durations seconds; numbers that JSON lacks, and paths, ids and the like their
    text. So `from_json` makes the same of it, given the type.

    Args:
        data: What `encode` returned. Anything else is shown as unreadable.
    """
    try:
        return _show(_read(data))
    except (msgspec.DecodeError, DecodeError, RecursionError, ValueError, TypeError, LookupError) as cause:
        return {"unreadable": f"{type(cause).__name__}: {cause}", "bytes": _bytes(data)}


def _extension(code: int, data: memoryview) -> _Shown:
    raw = bytes(data)
    try:
        show = _BY_CODE.get(code)
        if show is not None:
            return _Shown(show(_read(raw)))
        if code == codes.EXCEPTION:
            from kitaru.store.codec.exceptions import describe_exception

            name, message = describe_exception(raw)
            return _Shown({name.rpartition(":")[2]: message})
        if code == codes.BYTEARRAY:
            return _Shown(_bytes(raw))
        if code == codes.SECRET:
            return _Shown(MASK)
        return _Shown(_scalar(_plain(msgspec.msgpack.encode(msgspec.msgpack.Ext(code, raw)))))
    except RecursionError:
        raise
    except Exception:  # a part from a newer version, or a damaged one
        return _Shown({"unreadable": f"extension {code}", "bytes": _bytes(raw)})


_read: Final = Decoder(ext_hook=_extension).decode


def _show(value: Any) -> object:
    if type(value) is _Shown:
        return value.form
    if type(value) is list:
        return [_show(item) for item in value]
    if type(value) is dict:
        return {_key(key): _show(item) for key, item in value.items()}
    if type(value) is bytes:
        return _bytes(value)
    return _scalar(value)


def _bytes(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _scalar(value: object) -> object:
    if type(value) is int and value.bit_length() > 3 * _DIGITS:
        return hex(value)
    if type(value) is float and not math.isfinite(value):
        return str(value)
    if value is None or type(value) in {bool, int, float}:
        return value
    text = str(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _key(key: Any) -> str:
    shown = _show(key)
    if type(shown) is str:
        return shown
    return msgspec.json.encode(shown).decode()


def _items(value: Any) -> object:
    return [_show(item) for item in value]


def _pairs(flat: Any) -> dict[str, object]:
    return {_key(key): _show(item) for key, item in zip(flat[::2], flat[1::2], strict=True)}


def _record(parts: Any) -> object:
    shown = {str(name): _show(item) for name, item in parts[2].items()}
    rest = parts[3] if len(parts) > 3 else {}
    for kept in ("dict", "extra", "private"):
        shown.update((str(name), _show(item)) for name, item in rest.get(kept, {}).items())
    return shown


def _short(qualname: str) -> str:
    return qualname.rpartition("<locals>.")[2]


def _enum(parts: Any) -> object:
    return f"{_short(parts[1])}.{parts[2]}" if parts[3] is None else _show(parts[3])


def _iso(code: int) -> Callable[[Any], object]:
    def show(parts: Any) -> object:
        value: Any = _plain(msgspec.msgpack.encode(msgspec.msgpack.Ext(code, msgspec.msgpack.encode(parts))))
        return value.isoformat()

    return show


def _zone(recorded: Any) -> object:
    return recorded if isinstance(recorded, str) else f"UTC offset {_offset(recorded) / 1e6:g} s"


def _offset(recorded: Any) -> int:
    return int(recorded[0] if isinstance(recorded, list) else recorded)


_BY_CODE: Final[dict[int, Callable[[Any], object]]] = {
    codes.TUPLE: _items,
    codes.SET: _items,
    codes.FROZENSET: _items,
    codes.DATETIME: _iso(codes.DATETIME),
    codes.DATE: _iso(codes.DATE),
    codes.TIME: _iso(codes.TIME),
    codes.TIMEDELTA: lambda parts: parts[0] * 86400 + parts[1] + parts[2] / 1e6,
    codes.COMPLEX: lambda parts: str(complex(*parts)),
    codes.ENUM: _enum,
    codes.OBJECT: _record,
    codes.MAP: _pairs,
    codes.PATH: lambda parts: _show(parts[1]),
    codes.RANGE: lambda parts: "range({}, {}, {})".format(*(_show(part) for part in parts)),
    codes.DEQUE: lambda parts: _items(parts[1]),
    codes.ORDERED_DICT: _pairs,
    codes.DEFAULT_DICT: lambda parts: _pairs(parts[1:]),
    codes.COUNTER: _pairs,
    codes.FRACTION: lambda parts: "{}/{}".format(*(_show(part) for part in parts)),
    codes.ZONE: _zone,
    codes.ADDRESS: lambda parts: _show(parts[2]),
}
