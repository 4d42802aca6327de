from __future__ import annotations

import asyncio
import collections
import threading
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pytest

from kitaru.errors import DecodeError, EncodeError
from kitaru.store.codec import canonical, decoder, encode


@dataclass
class Holder:
    client: Any


class Mine:
    pass


class Name(str):
    __slots__ = ()


class Reader(msgspec.Struct):
    source: Any


async def work() -> None: ...


def test_the_message_names_the_path_the_type_and_the_way_out() -> None:
    value = {"pages": [1, 2, 3, Holder(httpx.AsyncClient())]}
    with pytest.raises(EncodeError) as caught:
        encode(value)
    assert caught.value.message == 'value["pages"][3].client is a httpx.AsyncClient, which cannot be recorded'
    assert caught.value.hint is not None
    assert "dataclass" in caught.value.hint
    assert "ignore=[...]" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (len, "value is the function len"),
        ([lambda: 1], "value[0] is the function <lambda>"),
        ({"a": (1, threading.Lock())}, 'value["a"][1] is a _thread.lock'),
        ({1: threading}, "value[1] is the module threading"),
        ([{2}, {print}], "value[1][set item] is the function print"),
        ({(1, print): 1}, "value.keys()[0][1] is the function print"),
        ({(1, 2): print}, "value[<tuple>] is the function print"),
        (Reader([Holder]), "value.source[0] is the class "),
        ((number for number in range(3)), "value is a generator"),
        (Name("x"), "value is a "),
        (collections.defaultdict(lambda: 1), "value is a defaultdict with a factory of its own"),
        (memoryview(b"x"), "value is a memoryview"),
        (Mine(), "value is a "),
        (object(), "value is an object"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_recorded_is_named(value: object, message: str) -> None:
    for write in (encode, canonical):
        with pytest.raises(EncodeError) as caught:
            write(value)
        assert caught.value.message.startswith(message)
        assert caught.value.message.endswith(", which cannot be recorded")
        assert caught.value.hint


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ((number for number in range(3)), "Convert it with list(...)."),
        (Name("x"), "Only str itself is recorded: convert it with str(...)."),
        (memoryview(b"x"), "Convert it with bytes(...)."),
        (Mine(), "Make Mine a dataclass, or return plain data"),
        (collections.defaultdict(lambda: 1), "Convert it with dict(...)."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_hint_fits_the_type(value: object, hint: str) -> None:
    with pytest.raises(EncodeError) as caught:
        encode(value)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


def test_a_coroutine_is_to_be_awaited() -> None:
    call = work()
    with pytest.raises(EncodeError, match="Await it first"):
        encode([call])
    call.close()


async def test_a_future_is_to_be_awaited() -> None:
    with pytest.raises(EncodeError, match="Await it first"):
        encode(asyncio.get_running_loop().create_future())


def test_the_root_can_be_named() -> None:
    with pytest.raises(EncodeError, match=r"^search\(topic\)\[0\] is the function print"):
        encode([print], root="search(topic)")


def test_what_the_caller_raises_for_an_unknown_object_goes_through() -> None:
    def refuse(value: object) -> object:
        raise LookupError("no")

    with pytest.raises(LookupError):
        encode([print], unknown=refuse)


def test_an_unknown_object_returned_as_it_is_stays_an_error() -> None:
    with pytest.raises(EncodeError, match="the function print"):
        encode(print, unknown=lambda value: value)


def test_a_list_that_contains_itself_is_named() -> None:
    value: dict[str, object] = {"a": [1]}
    value["b"] = [0, value["a"]]
    assert isinstance(value["a"], list)
    value["a"].append(value["b"])
    with pytest.raises(EncodeError, match=r'^value\["a"\] contains itself'):
        encode(value)


def test_an_object_that_contains_itself_is_named() -> None:
    holder = Holder(None)
    holder.client = [holder]
    with pytest.raises(EncodeError, match=r"^value contains itself"):
        encode(holder)


@pytest.mark.parametrize("kind", [list, tuple, Holder])
def test_a_bottomless_value_is_a_typed_error(kind: Any) -> None:
    value: object = None
    for _ in range(30_000):  # beyond what any Python's stack allows, in Python or in C
        value = Holder(value) if kind is Holder else kind([value])
    with pytest.raises(EncodeError, match="nested too deeply"):
        encode(value)
    while isinstance(value, (list, tuple, Holder)):  # taken apart by hand: some Pythons overflow when freeing it
        value = value.client if isinstance(value, Holder) else value[0]


def test_bytes_nested_too_deeply_are_a_typed_error() -> None:
    with pytest.raises(DecodeError, match="nested too deeply"):
        decoder()(b"\x91" * 1_000_000 + b"\x90")


@pytest.mark.parametrize("data", [b"", b"\x91", b"\x90\x90", b"\xc1", b"\xd9\xff", b"\xa1\xff"])
def test_damaged_bytes_are_a_typed_error(data: bytes) -> None:
    with pytest.raises(DecodeError, match="damaged"):
        decoder()(data)


@pytest.mark.parametrize("payload", [b"", b"\x90", b"\xc0", b"\x93\x01\x02\x03", b"\xa3abc", b"\xc1"])
def test_damaged_parts_of_every_kind_are_a_typed_error_or_a_value(payload: bytes) -> None:
    for code in range(1, 40):
        data = msgspec.msgpack.encode([msgspec.msgpack.Ext(code, payload)])
        try:
            decoder()(data)
        except DecodeError:
            continue
        assert code < 30


def test_a_part_from_a_newer_version_says_so() -> None:
    with pytest.raises(DecodeError, match="newer Kitaru"):
        decoder()(msgspec.msgpack.encode(msgspec.msgpack.Ext(100, b"")))
