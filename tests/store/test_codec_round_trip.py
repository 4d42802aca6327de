from __future__ import annotations

import collections
import datetime as dt
import enum
import ipaddress
import math
import pathlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kitaru.store.codec import decoder, encode
from tests.cases import cases

T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    GREEN = object()


class Level(enum.IntEnum):
    LOW = 1


class Mode(enum.StrEnum):
    FAST = "fast"


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Point(NamedTuple):
    x: int
    y: Any = 0


class Article(TypedDict):
    title: str
    when: dt.date


@dataclass
class Page:
    title: str
    tags: Any = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: Any = 2


@dataclass
class Box(Generic[T]):
    item: T


class Plain(msgspec.Struct):
    a: Any


class Packed(msgspec.Struct, frozen=True, array_like=True, tag="p", kw_only=True):
    a: Any
    b: Any = 1


class Roomy(msgspec.Struct, dict=True, weakref=True, rename="camel", omit_defaults=True):
    long_name: Any
    b: Any = 1


def same(left: object, right: object) -> bool:
    """Equal, of the same types all the way down, and in the same order."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float) and isinstance(right, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    if isinstance(left, Decimal) and isinstance(right, Decimal):
        return left.as_tuple() == right.as_tuple()
    if isinstance(left, dict) and isinstance(right, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, (list, tuple, collections.deque)) and isinstance(right, (list, tuple, collections.deque)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, (set, frozenset)) and isinstance(right, (set, frozenset)):
        return sorted(map(encode, left)) == sorted(map(encode, right))
    if hasattr(left, "__dataclass_fields__") or isinstance(left, msgspec.Struct):
        names = getattr(left, "__dataclass_fields__", None) or left.__struct_fields__  # type: ignore[attr-defined]  # one of the two
        return all(same(getattr(left, name), getattr(right, name)) for name in names)
    if isinstance(left, dt.datetime) and isinstance(right, dt.datetime):
        return left.replace(tzinfo=None) == right.replace(tzinfo=None) and (left.fold, left.tzinfo) == (
            right.fold,
            right.tzinfo,
        )
    return left == right


def round_trip(value: object) -> object:
    return decoder()(encode(value))


BERLIN = ZoneInfo("Europe/Berlin")

VALUES: list[object] = [
    None, True, False, 0, 1, -1, 2**63, 2**64 - 1, -(2**63), 2**64, 2**70, -(2**70), -(2**63) - 1, 10**4000,
    0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, "", "é", "\ud83d", "a\udc80é", b"", b"\xff", bytearray(b"x"),
    [], {}, (), set(), frozenset(), [1, [2, [3]]], {"a": {"b": 1}}, {1: 1, None: 2, 1.5: 3, b"k": 4, "s": 5}, {True: 1},
    {(1, 2): "pair", frozenset({3}): "set", 2**80: "big", "\ud800": "lone"}, {Frozen(1): Point(1, 2)}, {Color.RED: 1},
    (1, "a", (2.5, None)), {1, "a", (1, 2), None}, frozenset({frozenset({1}), b"x"}), ({1, 2}, [(3,)]),
    Decimal("1.10"), Decimal("-0"), Decimal("NaN"), Decimal("sNaN12"), Decimal("-Infinity"), Decimal("1E+999"),
    uuid.UUID(int=5), complex(1, -0.0), range(5), range(2**70, 0, -(2**65)), Fraction(2**70, 3),
    dt.datetime(2024, 1, 2, 3, 4, 5, 6), dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
    dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN), dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
    dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-3, microseconds=7))),
    dt.datetime(9999, 12, 31, tzinfo=dt.timezone(dt.timedelta(hours=2), "mine")),
    dt.date(1, 1, 1), dt.time(1, 2, 3, 4, fold=1), dt.time(1, tzinfo=dt.UTC), dt.time(1, tzinfo=BERLIN),
    dt.timedelta.min, dt.timedelta.max, dt.timedelta(microseconds=-1), dt.UTC, BERLIN,
    *Color, Level.LOW, Mode.FAST, Access.READ, Access.READ | Access.WRITE, Access(0),
    Point(1), Point(1, Point(2)), Article(title="t", when=dt.date(2024, 1, 1)),
    Page("t"), Page("t", [Page("u", {Frozen(3)})]), Frozen((1, 2)), Box(Box(1)), Box[int](1),
    Plain(1), Plain([Plain(2)]), Packed(a=Packed(a=1)), Roomy(long_name=dt.date(2024, 1, 1)),
    Plain(msgspec.UNSET), pathlib.PurePosixPath("/a/b"), pathlib.PureWindowsPath("C:\\a"), pathlib.Path("x"),
    pathlib.PurePosixPath("a\udcff"),
    collections.deque([1, (2,)], maxlen=3), collections.OrderedDict([("b", 1), ("a", (2,))]),
    collections.Counter("aab"), collections.defaultdict(list, {(1,): [1]}), collections.defaultdict(None, {"a": 1}),
    ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8"), ..., NotImplemented,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_as_what_it_was(value: object) -> None:
    assert same(round_trip(value), value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: [value],
        lambda value: {"k": value},
        lambda value: (value,),
        lambda value: Page("t", value),
        Frozen,
        Plain,
        lambda value: Packed(a=value),
        lambda value: Point(1, value),
        lambda value: collections.deque([value]),
        lambda value: {(1,): value},
    ],
    ids=["list", "dict", "tuple", "dataclass", "frozen", "struct", "packed", "namedtuple", "deque", "odd-key"],
)
def test_every_value_may_stand_inside_every_container(wrap: Callable[[object], object]) -> None:
    for value in VALUES:
        assert same(round_trip(wrap(value)), wrap(value))


def test_every_hashable_value_may_be_a_key_and_a_set_item() -> None:
    hashable = [value for value in VALUES if _hashes(value)]
    assert len(hashable) > 50
    for value in hashable:
        assert same(round_trip({value: 1}), {value: 1})
        assert same(round_trip({value}), {value})


def _hashes(value: object) -> bool:
    try:
        return bool(value == value and hash(value) is not None)
    except (TypeError, ArithmeticError):
        return False


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.complex_numbers(allow_nan=False)
    | st.datetimes(timezones=st.none() | st.timezones(), allow_imaginary=True)
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.fractions()
    | st.sampled_from([*Color, *Level, *Mode, Access.READ | Access.WRITE])
)
keys = st.recursive(
    scalars.filter(lambda value: value == value),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3) | st.builds(Frozen, inner, inner),
    max_leaves=4,
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.sets(keys, max_size=4)
        | st.tuples(inner, inner)
        | st.builds(Page, st.text(), inner)
        | st.builds(Frozen, inner, inner)
        | st.builds(Plain, inner)
        | st.builds(lambda a, b: Packed(a=a, b=b), inner, inner)
        | st.builds(Point, st.integers(), inner)
        | st.builds(Box, inner)
    ),
    max_leaves=12,
)


@given(values)
@settings(max_examples=cases(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_decode_undoes_encode(value: object) -> None:
    data = encode(value)
    assert same(decoder()(data), value)
    assert encode(decoder()(data)) == data


def test_encoding_does_not_change_the_value() -> None:
    inner = [1, (2,)]
    value = {"a": inner, "b": {"c": {3}}}
    encode(value)
    assert value == {"a": [1, (2,)], "b": {"c": {3}}}
    assert value["a"] is inner


def test_plain_values_are_plain_msgpack() -> None:
    value = {"a": [1, 2.5, None, True, b"x", "y"], "b": {}}
    assert encode(value) == msgspec.msgpack.encode(value)


def test_ten_megabytes_of_text_and_bytes_come_back() -> None:
    value = {"text": "é" * 5_000_000, "bytes": bytes(10_000_000)}
    assert round_trip(value) == value


def test_a_million_floats_come_back() -> None:
    value = [float(number) for number in range(1_000_000)]
    assert round_trip(value) == value


def test_a_hundred_levels_of_nested_objects_come_back() -> None:
    value: object = None
    for _ in range(100):
        value = Page("t", value)
    assert encode(round_trip(value)) == encode(value)


def test_an_unknown_object_is_replaced_by_what_the_caller_says() -> None:
    class Handle:
        def __init__(self, value: object) -> None:
            self.value = value

    def resolve(handle: object) -> object:
        assert isinstance(handle, Handle)
        return handle.value

    value = {"a": [Handle((1, Handle(2)))], "p": Page("t", Handle(3)), "k": {Handle(4): 5}}
    assert decoder()(encode(value, unknown=resolve)) == {"a": [(1, 2)], "p": Page("t", 3), "k": {4: 5}}
