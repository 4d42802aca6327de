from __future__ import annotations

import collections
import datetime as dt
import enum
import json
import math
import os
import pathlib
import subprocess
import sys
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.errors import UsageError
from kitaru.store.codec import display, encode, from_json
from tests.cases import cases


class Color(enum.Enum):
    RED = "red"


@dataclass
class Page:
    title: str
    tags: list[str]
    when: dt.datetime | None = None


class Point(NamedTuple):
    x: int
    y: int = 0


class Item(msgspec.Struct):
    count: int
    pages: list[Page] = []


class Model(pydantic.BaseModel):
    size: int
    inner: list[Model] = []


class Options(TypedDict, total=False):
    deep: bool


@dataclass
class Other:
    number: int


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": [1, None, True, 2.5]}, {"a": [1, None, True, 2.5]}),
        (b"ab", "YWI="),
        (bytearray(b"ab"), "YWI="),
        ((1, {2}), [1, [2]]),
        (Page("t", ["x"]), {"title": "t", "tags": ["x"], "when": None}),
        (Point(1), {"x": 1, "y": 0}),
        (Color.RED, "red"),
        (Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (dt.datetime(2024, 7, 1, tzinfo=ZoneInfo("Europe/Berlin")), "2024-07-01T00:00:00+02:00"),
        (dt.date(2024, 7, 1), "2024-07-01"),
        (dt.timedelta(minutes=1, milliseconds=500), 60.5),
        (pathlib.PurePosixPath("/a"), "/a"),
        (range(2, 5), "range(2, 5, 1)"),
        ({1: 2, (1, "a"): 3}, {"1": 2, '[1,"a"]': 3}),
        (collections.Counter("aa"), {"a": 2}),
        (2**70, 2**70),
        (math.nan, "nan"),
        ("a\ud800", "a\\ud800"),
        (ValueError("no"), {"ValueError": "no"}),
        (complex(1, 2), "(1+2j)"),
        (10**5000, hex(10**5000)),
        (ZoneInfo("Europe/Berlin"), "Europe/Berlin"),
        (..., "Ellipsis"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_shown_readably(value: object, shown: object) -> None:
    assert display(encode(value)) == shown


def test_showing_needs_no_class() -> None:
    data = encode([Page("t", [])])
    script = f"import json; from kitaru.store.codec import display; print(json.dumps(display({data!r})))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(done.stdout) == [{"title": "t", "tags": [], "when": None}]


@given(st.binary(max_size=60))
@settings(max_examples=cases(200), deadline=None)
def test_showing_never_fails(data: bytes) -> None:
    json.dumps(display(data), allow_nan=False)


@given(st.integers(0, 127), st.binary(max_size=20))
@settings(max_examples=cases(200), deadline=None)
def test_showing_a_damaged_part_never_fails(code: int, payload: bytes) -> None:
    json.dumps(display(msgspec.msgpack.encode([msgspec.msgpack.Ext(code, payload)])), allow_nan=False)


def test_bytes_nested_too_deeply_are_shown_as_unreadable() -> None:
    shown: Any = display(b"\x91" * 100_000 + b"\x90")
    assert "RecursionError" in shown["unreadable"]


# ---- from JSON


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("5", int, 5),
        ("true", bool, True),
        ("2024-01-02", dt.date, dt.date(2024, 1, 2)),
        (2024, str, "2024"),
        ("1.10", Decimal, Decimal("1.10")),
        (["1", 2], list[int], [1, 2]),
        ([1, 1], set[int], {1}),
        ({"title": "t", "tags": []}, Page, Page("t", [])),
        ({"count": "2", "pages": [{"title": "t", "tags": ["a"]}]}, Item, Item(2, [Page("t", ["a"])])),
        ({"size": "2", "inner": [{"size": 1}]}, Model, Model(size=2, inner=[Model(size=1)])),
        ([{"size": 1}], list[Model], [Model(size=1)]),
        ({"x": "1"}, Point, Point(1)),
        ([1, 2], Point, Point(1, 2)),
        ({"deep": "false"}, Options, {"deep": False}),
        ("red", Color, Color.RED),
        ("/a", pathlib.PurePosixPath, pathlib.PurePosixPath("/a")),
        ({"number": 1}, Page | Other, Other(1)),
        (None, Page | None, None),
        ({"any": 1}, Any, {"any": 1}),
        ({"any": 1}, object, {"any": 1}),
    ],
    ids=str,
)
def test_json_becomes_what_the_annotation_names(value: object, annotation: object, expected: object) -> None:
    made = from_json(value, annotation)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("x", int, "topic: Expected `int`, got `str`"),
        ({"title": "t", "tags": [1]}, Page, "topic.tags[0]: Expected `str`, got `int`"),
        ({"title": "t"}, Page, "topic: Object missing required field `tags`"),
        ({"size": 1, "inner": [{"size": "x"}]}, Model, "topic.inner[0].size: Input should be a valid integer"),
        ([{"size": "x"}], list[Model], "topic[0].size: Input should be a valid integer"),
        ({"z": 1}, Point, "topic has no field 'z'"),
        ({"x": "q"}, Point, "topic.x: Expected `int`"),
        ({}, Point, "topic.x is missing"),
        (1, Page | Other, "topic fits none of"),
        (1, ZoneInfo, "topic: ZoneInfo cannot be given as JSON"),
    ],
    ids=str,
)
def test_json_that_does_not_fit_names_the_field(value: object, annotation: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_json(value, annotation, name="topic")
    assert caught.value.message.startswith(message)
