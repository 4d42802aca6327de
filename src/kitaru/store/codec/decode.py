"""Bytes to values: what was recorded comes back as what it was."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import fractions
import ipaddress
import pathlib
import sys
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.msgpack import Decoder

from kitaru.errors import DecodeError
from kitaru.store.codec import codes
from kitaru.store.codec.classes import Classes, is_enum, is_record
from kitaru.store.codec.hidden import revealed
from kitaru.store.codec.records import builder

Decode: TypeAlias = Callable[[bytes], object]


def decoder(*annotations: object, module: str = "") -> Decode:
    """A function from recorded bytes to the value. Make it once and keep it: it remembers the classes it found.

    Values come back as what they were; the annotations only say where classes may be found, and nothing is converted
    to them. No constructor and no `__post_init__` runs, and nothing is imported.

    Args:
        annotations: Types whose classes are looked up first, with all the classes they name and their subclasses.
        module: Name of the module to look into next, before all loaded ones.

    Returns:
        The function; it raises DecodeError when the bytes are damaged, were written by a newer version, or name a
        class that is not loaded.
    """
    read = Reader(Classes(annotations, module)).read

    def decode(data: bytes) -> object:
        try:
            return read(data)
        except DecodeError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError) as cause:
            raise DecodeError(f"recorded bytes are damaged: {cause}", hint="Run `kitaru verify`.") from cause
        except RecursionError:
            raise DecodeError(
                "a recorded value is nested too deeply to be read here",
                hint="Read it from a shallower call, or raise sys.setrecursionlimit.",
            ) from None
        except Exception as cause:
            raise DecodeError(f"a recorded value cannot be rebuilt: {type(cause).__name__}: {cause}") from cause

    return decode


class Reader:
    """Reads recorded bytes with one way of finding classes."""

    __slots__ = ("classes", "read")

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.read: Callable[[bytes | memoryview], Any] = Decoder(ext_hook=self._extension).decode

    def _extension(self, code: int, data: memoryview) -> object:
        build = _FROM_VALUE.get(code)
        if build is not None:
            return build(self, self.read(data))
        raw = _FROM_BYTES.get(code)
        if raw is not None:
            return raw(self, bytes(data))
        raise DecodeError(
            f"a recorded value has a part of an unknown kind ({code})",
            hint="Read it with the newer Kitaru that wrote it.",
        )

    def record(self, parts: list[Any]) -> object:
        module, qualname, fields = parts[:3]
        cls = self.classes.find(module, qualname, is_record)
        return builder(cls)(fields, parts[3] if len(parts) > 3 else {})

    def enum(self, parts: list[Any]) -> object:
        module, qualname, name, value = parts
        cls: Any = self.classes.find(module, qualname, is_enum)
        member = cls.__members__.get(name)
        if member is not None:
            return member
        if value is not None:
            try:
                return cls(value)
            except ValueError:
                pass
        raise DecodeError(
            f"the recorded {qualname}.{name} is no member of {qualname} any more",
            hint="Keep members that recorded runs use.",
        )

    def exception(self, data: bytes) -> object:
        from kitaru.store.codec.exceptions import rebuild

        return rebuild(data, self.classes)


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def zone(recorded: Any) -> dt.tzinfo | None:
    """The time zone that `codes.ZONE` describes."""
    if recorded is None:
        return None
    if type(recorded) is str:
        return zoneinfo.ZoneInfo(recorded)
    if type(recorded) is int:
        return dt.timezone(dt.timedelta(microseconds=recorded))
    return dt.timezone(dt.timedelta(microseconds=recorded[0]), recorded[1])


def _datetime(_: Reader, parts: list[Any]) -> dt.datetime:
    year, month, day, hour, minute, second, microsecond, fold, recorded = parts
    return dt.datetime(year, month, day, hour, minute, second, microsecond, zone(recorded), fold=fold)


def _time(_: Reader, parts: list[Any]) -> dt.time:
    hour, minute, second, microsecond, fold, recorded = parts
    return dt.time(hour, minute, second, microsecond, zone(recorded), fold=fold)


def _path(_: Reader, parts: list[Any]) -> pathlib.PurePath:
    name, text = parts
    if name not in codes.PATHS:
        raise DecodeError(f"a recorded path has the unknown kind {name!r}")
    if name in {"PosixPath", "WindowsPath"} and type(pathlib.Path()).__name__ != name:
        # A concrete path of the other system can only be a pure one here.
        name = "Pure" + name
    cls: Callable[[str], pathlib.PurePath] = getattr(pathlib, name)
    return cls(text)


def _default_dict(_: Reader, parts: list[Any]) -> collections.defaultdict[Any, Any]:
    factory = None if parts[0] is None else codes.FACTORIES[parts[0]]
    return collections.defaultdict(factory, _pairs(parts[1:]))


def _counter(_: Reader, parts: list[Any]) -> collections.Counter[Any]:
    return collections.Counter(_pairs(parts))


def _address(_: Reader, parts: list[Any]) -> object:
    module, name, text = parts
    if module == "ipaddress" and name in codes.IP_CLASSES:
        return getattr(ipaddress, name)(text)
    if module in {"pydantic.networks", "pydantic_core._pydantic_core"}:
        cls = getattr(sys.modules.get(module), name, None)
        if isinstance(cls, type):
            return cls(text)
    raise DecodeError(
        f"the class {name} of module {module} was recorded, but is not loaded here",
        hint=f"Import {module} before reading it.",
    )


_FROM_VALUE: Final[dict[int, Callable[[Reader, Any], object]]] = {
    codes.OBJECT: Reader.record,
    codes.ENUM: Reader.enum,
    codes.TUPLE: lambda _, items: tuple(items),
    codes.SET: lambda _, items: set(items),
    codes.FROZENSET: lambda _, items: frozenset(items),
    codes.DATETIME: _datetime,
    codes.DATE: lambda _, parts: dt.date(*parts),
    codes.TIME: _time,
    codes.TIMEDELTA: lambda _, parts: dt.timedelta(*parts),
    codes.COMPLEX: lambda _, parts: complex(*parts),
    codes.MAP: lambda _, flat: _pairs(flat),
    codes.PATH: _path,
    codes.RANGE: lambda _, parts: range(*parts),
    codes.DEQUE: lambda _, parts: collections.deque(parts[1], parts[0]),
    codes.ORDERED_DICT: lambda _, flat: collections.OrderedDict(_pairs(flat)),
    codes.DEFAULT_DICT: _default_dict,
    codes.COUNTER: _counter,
    codes.FRACTION: lambda _, parts: fractions.Fraction(*parts),
    codes.ZONE: lambda _, recorded: zone(recorded),
    codes.ADDRESS: _address,
}

_FROM_BYTES: Final[dict[int, Callable[[Reader, bytes], object]]] = {
    codes.BIG_INT: lambda _, data: int.from_bytes(data, "big", signed=True),
    codes.DECIMAL: lambda _, data: decimal.Decimal(data.decode()),
    codes.UUID: lambda _, data: uuid.UUID(bytes=data),
    codes.TEXT: lambda _, data: data.decode("utf-8", "surrogatepass"),
    codes.BYTEARRAY: lambda _, data: bytearray(data),
    codes.CONSTANT: lambda _, data: codes.CONSTANTS[data.decode()],
    codes.EXCEPTION: Reader.exception,
    codes.SECRET: lambda _, data: revealed(data),
}
