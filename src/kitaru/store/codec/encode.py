"""Values to bytes.

A value is first lowered: what msgpack does not know becomes an extension, what it knows stays the object it was, so a
value of plain types is not copied. Then one call of msgspec writes it.
"""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import fractions
import functools
import ipaddress
import pathlib
import sys
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.msgpack import Encoder, Ext

from kitaru.errors import EncodeError
from kitaru.store.codec import codes
from kitaru.store.codec.classes import class_name
from kitaru.store.codec.explain import UnrecordableError, describe, short, too_deep, type_name, way_out
from kitaru.store.codec.hidden import Hidden
from kitaru.store.codec.records import TakeApart, taker

Unknown: TypeAlias = Callable[[object], object]

_pack: Final = Encoder().encode
_SCALARS: Final = codes.SCALARS
_STR: Final = frozenset({str})
_ALL_SCALARS: Final = _SCALARS.issuperset
_MICROSECOND: Final = dt.timedelta(microseconds=1)


def encode(value: object, *, unknown: Unknown | None = None, root: str = "value") -> bytes:
    """A value's recorded form.

    Args:
        value: What to record. It is not changed.
        unknown: Called for an object that has no encoding; returns what to record instead, or raises. It may be
            called more than once for the same object.
        root: What error messages call the value.

    Raises:
        EncodeError: Something in it cannot be recorded; names the path to it.
    """
    kind = type(value)
    if kind in _SCALARS or (kind is dict and _is_flat(value)):
        try:
            return _pack(value)
        except (OverflowError, UnicodeEncodeError):
            pass
    return _write(value, unknown, canonical=False, root=root)


def canonical(value: object, *, unknown: Unknown | None = None, root: str = "value") -> bytes:
    """As `encode`, but equal values give equal bytes, in every process: maps are sorted, too.

    1, 1.0 and True stay different, as do 0.0 and -0.0. What equality ignores is left out: attributes set beside a
    dataclass's fields, which fields of a pydantic model were set, tracebacks. For fingerprints; not to be decoded.

    Args:
        value: As for `encode`.
        unknown: As for `encode`.
        root: As for `encode`.

    Raises:
        EncodeError: As for `encode`.
    """
    if type(value) is dict and _is_flat(value) and _STR.issuperset(map(type, value)):
        try:
            return _pack({key: value[key] for key in sorted(value)})
        except (OverflowError, UnicodeEncodeError):
            pass
    return _write(value, unknown, canonical=True, root=root)


def _is_flat(value: Any) -> bool:
    return _ALL_SCALARS(map(type, value)) and _ALL_SCALARS(map(type, value.values()))


def _write(value: object, unknown: Unknown | None, *, canonical: bool, root: str) -> bytes:
    try:
        try:
            return _pack(_Lowering(unknown, canonical=canonical, exact=False).lower(value))
        except (OverflowError, UnicodeEncodeError):
            # An int beyond 64 bits or a lone surrogate somewhere: rare, so only now is every scalar looked at.
            return _pack(_Lowering(unknown, canonical=canonical, exact=True).lower(value))
    except UnrecordableError as problem:
        where = root + "".join(reversed(problem.path))
        raise EncodeError(f"{where} {problem.what}, which cannot be recorded", hint=problem.way_out) from problem.cause
    except RecursionError:
        # Raised afresh, without the thousand frames that led here.
        error = too_deep(value, root)
    except (OverflowError, ValueError) as cause:
        raise EncodeError(
            f"{root} cannot be recorded: {cause}", hint="Record a smaller value, for example the path of a file."
        ) from cause
    raise error


class _Lowering:
    """One pass over one value.

    Args:
        unknown: See `encode`.
        canonical: Whether maps are sorted.
        exact: Whether each int and str is checked for what msgpack cannot hold.
    """

    __slots__ = ("_canonical", "_exact", "_unknown")

    def __init__(self, unknown: Unknown | None, *, canonical: bool, exact: bool) -> None:
        self._unknown = unknown
        self._canonical = canonical
        self._exact = exact

    def lower(self, value: Any) -> Any:
        kind = type(value)
        if kind in _SCALARS:
            return _exact_scalar(value) if self._exact else value
        method = _BY_TYPE.get(kind)
        if method is not None:
            return method(self, value)
        return self._object(value, kind)

    def ext(self, code: int, payload: object) -> Ext:
        """An extension around a payload that is lowered already."""
        return Ext(code, _pack(payload))

    # ---- containers

    def list_(self, value: list[object]) -> list[object]:
        if not self._exact and _ALL_SCALARS(map(type, value)):
            return value
        lower = self.lower
        lowered: list[object] | None = None
        index = 0
        try:
            for index, item in enumerate(value):
                new = lower(item)
                if lowered is not None:
                    lowered.append(new)
                elif new is not item:
                    lowered = value[:index]
                    lowered.append(new)
        except UnrecordableError as problem:
            problem.path.append(f"[{index}]")
            raise
        return value if lowered is None else lowered

    def dict_(self, value: dict[object, object]) -> object:
        if self._exact or not _ALL_SCALARS(map(type, value)):
            keys = self._keys(value)
            if not _ALL_SCALARS(map(type, keys)):
                return self.ext(codes.MAP, self._flat(value, keys))
            if not self._exact:  # the caller's `unknown` replaced keys
                value = dict(zip(keys, value.values(), strict=True))
        if self._canonical:
            value = _sorted(value)
        elif not self._exact and _ALL_SCALARS(map(type, value.values())):
            return value
        lower = self.lower
        lowered: dict[object, object] | None = None
        key: object = None
        try:
            for key, item in value.items():
                new = lower(item)
                if lowered is not None:
                    lowered[key] = new
                elif new is not item:
                    lowered = dict(value)
                    lowered[key] = new
        except UnrecordableError as problem:
            problem.path.append(f"[{short(key)}]")
            raise
        return value if lowered is None else lowered

    def _keys(self, value: Mapping[Any, object]) -> list[object]:
        keys = []
        for index, key in enumerate(value):
            try:
                keys.append(self.lower(key))
            except UnrecordableError as problem:
                problem.path.append(f".keys()[{index}]")
                raise
        return keys

    def _flat(self, value: Mapping[Any, object], keys: Iterable[object], *, keep_order: bool = False) -> list[object]:
        pairs: list[tuple[bytes, object]] = []
        for lowered, (key, item) in zip(keys, value.items(), strict=True):
            try:
                pairs.append((_pack(lowered), self.lower(item)))
            except UnrecordableError as problem:
                problem.path.append(f"[{short(key)}]")
                raise
        if self._canonical and not keep_order:
            pairs.sort(key=lambda pair: pair[0])
        return [part for key_bytes, item in pairs for part in (msgspec.Raw(key_bytes), item)]

    def tuple_(self, value: tuple[object, ...]) -> Ext:
        return self.ext(codes.TUPLE, self.list_(list(value)))

    def set_(self, value: set[object] | frozenset[object]) -> Ext:
        try:
            items = sorted(_pack(self.lower(item)) for item in value)
        except UnrecordableError as problem:
            problem.path.append("[set item]")
            raise
        return self.ext(codes.SET if type(value) is set else codes.FROZENSET, [msgspec.Raw(item) for item in items])

    def deque(self, value: collections.deque[object]) -> Ext:
        return self.ext(codes.DEQUE, [value.maxlen, self.list_(list(value))])

    def ordered_dict(self, value: collections.OrderedDict[object, object]) -> Ext:
        return self.ext(codes.ORDERED_DICT, self._flat(value, self._keys(value), keep_order=True))

    def counter(self, value: collections.Counter[object]) -> Ext:
        return self.ext(codes.COUNTER, self._flat(value, self._keys(value)))

    def default_dict(self, value: collections.defaultdict[object, object]) -> Ext:
        factory = value.default_factory
        if factory is None:
            name = None
        else:
            name = getattr(factory, "__name__", "")
            if codes.FACTORIES.get(name) is not factory:
                raise UnrecordableError("is a defaultdict with a factory of its own", "Convert it with dict(...).")
        return self.ext(codes.DEFAULT_DICT, [name, *self._flat(value, self._keys(value))])

    # ---- single values

    def datetime(self, value: dt.datetime) -> Ext:
        clock = [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond]
        zone = value.tzinfo
        return self.ext(codes.DATETIME, [*clock, value.fold, None if zone is None else _zone(zone, value)])

    def time(self, value: dt.time) -> Ext:
        zone = value.tzinfo
        clock = [value.hour, value.minute, value.second, value.microsecond, value.fold]
        return self.ext(codes.TIME, [*clock, None if zone is None else _zone(zone, None)])

    def zone(self, value: dt.tzinfo) -> Ext:
        return self.ext(codes.ZONE, _zone(value, None))

    def range_(self, value: range) -> Ext:
        return self.ext(codes.RANGE, [_exact_scalar(part) for part in (value.start, value.stop, value.step)])

    def fraction(self, value: fractions.Fraction) -> Ext:
        return self.ext(codes.FRACTION, [_exact_scalar(value.numerator), _exact_scalar(value.denominator)])

    def path(self, value: pathlib.PurePath) -> Ext:
        return self.ext(codes.PATH, [type(value).__name__, _exact_scalar(str(value))])

    # ---- objects

    def _object(self, value: Any, kind: Any) -> Any:
        take = taker(kind)
        if take is not None:
            return self._record(value, kind, take)
        if issubclass(kind, enum.Enum):
            plain = value.value if type(value.value) in _SCALARS else None
            if isinstance(value, enum.Flag):
                plain = int(value.value)
            return self.ext(codes.ENUM, [*class_name(kind), value.name, self.lower(plain)])
        if isinstance(value, BaseException):
            from kitaru.store.codec.exceptions import encode_exception

            return Ext(codes.EXCEPTION, encode_exception(value, bare=self._canonical))
        if isinstance(value, dt.tzinfo) and kind.__module__ in {"datetime", "zoneinfo"}:
            return self.zone(value)
        if _is_url(kind):
            return self.ext(codes.ADDRESS, [kind.__module__, kind.__qualname__, str(value)])
        for name, constant in codes.CONSTANTS.items():
            if value is constant:
                return Ext(codes.CONSTANT, name.encode())
        if self._unknown is not None:
            replaced = self._unknown(value)
            if replaced is not value:
                return self.lower(replaced)
        raise UnrecordableError(describe(value), way_out(value))

    def _record(self, value: object, kind: type, take: TakeApart) -> Ext:
        fields, rest = take(value)
        payload: list[object] = [*class_name(kind), self._fields(fields)]
        if rest is not None:
            kept: dict[str, object] = {}
            for name, part in rest.items():
                if not (self._canonical and name in {"dict", "set"}):
                    kept[name] = self._fields(part) if isinstance(part, dict) else part
            if kept:
                payload.append(kept)
        return self.ext(codes.OBJECT, payload)

    def _fields(self, fields: dict[str, object]) -> object:
        if self._canonical:
            fields = {name: fields[name] for name in sorted(fields)}
        if not self._exact and _ALL_SCALARS(map(type, fields.values())):
            return fields
        name = ""
        lowered = {}
        try:
            for name, item in fields.items():
                lowered[name] = self.lower(item)
        except UnrecordableError as problem:
            problem.path.append(f".{name}")
            raise
        return lowered


def _exact_scalar(value: Any) -> Any:
    kind = type(value)
    if kind is int:
        if -(2**63) <= value < 2**64:
            return value
        return Ext(codes.BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if kind is str and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return Ext(codes.TEXT, value.encode("utf-8", "surrogatepass"))
    return value


def _sorted(value: dict[Any, object]) -> dict[object, object]:
    if _STR.issuperset(map(type, value)):
        return {key: value[key] for key in sorted(value)}
    return {key: value[key] for key in sorted(value, key=_pack)}


def _zone(zone: dt.tzinfo, at: dt.datetime | None) -> object:
    if type(zone) is dt.timezone:
        # The only place that tells a given name from one made up from the offset.
        arguments: tuple[Any, ...] = zone.__getinitargs__()  # type: ignore[attr-defined]  # not in typeshed
        offset = arguments[0] // _MICROSECOND
        return [offset, arguments[1]] if len(arguments) > 1 else offset
    if isinstance(zone, zoneinfo.ZoneInfo) and zone.key is not None:
        return zone.key
    offset = zone.utcoffset(at)
    if offset is None:
        raise UnrecordableError(f"has a {type_name(type(zone))} as its time zone", "Use a zoneinfo.ZoneInfo.")
    return offset // _MICROSECOND


@functools.lru_cache(maxsize=1024)
def _is_url(kind: type) -> bool:
    if not kind.__module__.startswith("pydantic"):
        return False
    networks = sys.modules.get("pydantic.networks")
    bases = tuple(
        base for name in ("_BaseUrl", "_BaseMultiHostUrl") if isinstance(base := getattr(networks, name, None), type)
    )
    return issubclass(kind, bases)


_BY_TYPE: Final[dict[type, Callable[[_Lowering, Any], object]]] = {
    list: _Lowering.list_,
    dict: _Lowering.dict_,
    tuple: _Lowering.tuple_,
    set: _Lowering.set_,
    frozenset: _Lowering.set_,
    dt.datetime: _Lowering.datetime,
    dt.date: lambda self, value: self.ext(codes.DATE, [value.year, value.month, value.day]),
    dt.time: _Lowering.time,
    dt.timedelta: lambda self, value: self.ext(codes.TIMEDELTA, [value.days, value.seconds, value.microseconds]),
    dt.timezone: _Lowering.zone,
    zoneinfo.ZoneInfo: _Lowering.zone,
    decimal.Decimal: lambda _, value: Ext(codes.DECIMAL, str(value).encode()),
    uuid.UUID: lambda _, value: Ext(codes.UUID, value.bytes),
    complex: lambda self, value: self.ext(codes.COMPLEX, [value.real, value.imag]),
    range: _Lowering.range_,
    bytearray: lambda _, value: Ext(codes.BYTEARRAY, bytes(value)),
    collections.deque: _Lowering.deque,
    collections.OrderedDict: _Lowering.ordered_dict,
    collections.Counter: _Lowering.counter,
    collections.defaultdict: _Lowering.default_dict,
    fractions.Fraction: _Lowering.fraction,
    Hidden: lambda _, value: Ext(codes.SECRET, value.digest),
    **{getattr(pathlib, name): _Lowering.path for name in codes.PATHS},
    **{
        getattr(ipaddress, name): lambda self, value: self.ext(
            codes.ADDRESS, ["ipaddress", type(value).__name__, str(value)]
        )
        for name in codes.IP_CLASSES
    },
}
