from __future__ import annotations

import asyncio
import json
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import httpx
import pydantic
import pytest

from kitaru.errors import DecodeError, DivergenceError, NotRecordedError, ProviderError, StepError
from kitaru.store.codec import (
    decode_exception,
    decoder,
    describe_exception,
    encode,
    encode_exception,
    format_exception,
    mask_exception,
    register_main_alias,
)


class KeywordOnlyError(Exception):
    def __init__(self, *, code: int, detail: tuple[int, ...]) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.detail = detail


class DemandingError(Exception):
    def __new__(cls, first: str, second: str) -> Self:
        made = super().__new__(cls, first)
        made.second = second
        return made

    second: str

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class SlottedError(ValueError):
    __slots__ = ("_hidden", "limit")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._hidden = (limit,)


@dataclass
class FieldsError(Exception):
    where: str
    how: tuple[int, ...]


class ReportedError(OSError):
    def __init__(self, message: str, attempt: int) -> None:
        super().__init__(5, message)
        self.attempt = attempt


class AnsweredError(Exception):
    def __init__(self, response: object) -> None:
        self.response = response

    def __str__(self) -> str:
        return f"status {self.response.status_code}"  # type: ignore[attr-defined]  # as clients of APIs do


class Group(ExceptionGroup[Exception]):
    def __new__(cls, message: str, members: list[Exception], extra: int) -> Self:
        made = super().__new__(cls, message, members)
        made.extra = extra
        return made

    extra: int


class BothError(KeyError, OSError):
    pass


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def caught(action: Callable[[], object]) -> Exception:
    try:
        action()
    except Exception as exc:
        return exc
    raise AssertionError("nothing was raised")


def round_trip(exc: BaseException) -> Exception:
    return decode_exception(encode_exception(exc))


EXCEPTIONS: list[Exception] = [
    ValueError(),
    ValueError("x"),
    ValueError("x", 2, (3,)),
    KeyError("a b"),
    KeyError(("t", 1)),
    OSError("plain"),
    OSError(2, "No such file", "a.txt"),
    OSError(18, "Cross-device", "a", None, "b"),
    caught(lambda: open("/no/such/file")),  # noqa: PTH123, SIM115  # raises
    BlockingIOError(11, "again", 5),
    UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "bad byte"),
    caught("\ud800".encode),
    caught(lambda: json.loads("{")),
    caught(lambda: compile("a b", "f.py", "exec")),
    caught(lambda: {}.nope),  # type: ignore[attr-defined]  # raises
    caught(lambda: undefined),  # type: ignore[name-defined]  # noqa: F821  # raises
    ImportError("no", name="n", path="p"),
    StopIteration(5),
    StopAsyncIteration(),
    TimeoutError(),
    asyncio.QueueEmpty(),
    KeywordOnlyError(code=3, detail=(1, 2)),
    DemandingError("a", "b"),
    SlottedError(5),
    SlottedError(None),
    FieldsError("here", (1,)),
    ReportedError("failed", 3),
    BothError("k"),
    ProviderError("busy", status=503, retry_after=2.5, hint="Wait."),
    DivergenceError("differs"),
    StepError("m", type_name="x:Y"),
    httpx.ConnectError("refused", request=httpx.Request("GET", "https://example.com")),
    httpx.HTTPStatusError("bad", request=httpx.Request("GET", "https://example.com"), response=httpx.Response(500)),
]


@pytest.mark.parametrize("exc", EXCEPTIONS, ids=lambda exc: f"{type(exc).__name__}-{exc}"[:30])
def test_an_exception_comes_back_as_its_own_class_with_its_text(exc: Exception) -> None:
    again = round_trip(exc)
    assert type(again) is type(exc)
    assert str(again) == str(exc)
    assert again.args == exc.args or isinstance(exc, httpx.HTTPError)


def test_attributes_come_back() -> None:
    keyword: Any = round_trip(KeywordOnlyError(code=3, detail=(1, 2)))
    assert (keyword.code, keyword.detail) == (3, (1, 2))
    slotted: Any = round_trip(SlottedError(5))
    assert (slotted.limit, slotted._hidden) == (5, (5,))
    system: Any = round_trip(OSError(2, "No such file", "a.txt"))
    assert (system.errno, system.strerror, system.filename) == (2, "No such file", "a.txt")
    provider: Any = round_trip(ProviderError("busy", status=503, retry_after=2.5, hint="Wait."))
    assert (provider.status, provider.retry_after, provider.hint, provider.message) == (503, 2.5, "Wait.", "busy")
    fields: Any = round_trip(FieldsError("here", (1,)))
    assert (fields.where, fields.how) == ("here", (1,))
    demanding: Any = round_trip(DemandingError("a", "b"))
    assert demanding.second == "b"


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "use",
    [
        lambda lock: lock.locked(),
        lambda lock: lock["held"],
        bool,
        len,
        iter,
        lambda lock: lock(),
        lambda lock: 1 in lock,
    ],
)
def test_an_attribute_that_could_not_be_recorded_says_so_when_it_is_used(
    times: int, use: Callable[[Any], object]
) -> None:
    exc: Any = KeywordOnlyError(code=1, detail=())
    exc.lock = threading.Lock()
    for _ in range(times):
        exc = round_trip(exc)
    assert type(exc).__name__ == "KeywordOnlyError"
    assert repr(exc.lock) == "<KeywordOnlyError.lock was not recorded: _thread.lock>"
    with pytest.raises(NotRecordedError, match=r"KeywordOnlyError\.lock was not recorded .* a _thread\.lock cannot be"):
        use(exc.lock)
    assert not hasattr(exc.lock, "locked")


def test_an_attribute_that_held_a_secret_says_so_when_it_is_used() -> None:
    exc: Any = KeywordOnlyError(code=1, detail=())
    exc.key = "planted secret"
    masked = mask_exception(encode_exception(exc), lambda text: text, lambda data: b"planted secret" in data)
    again: Any = decode_exception(masked, module=__name__)
    with pytest.raises(NotRecordedError, match="it held a secret"):
        again.key.lower()


def test_arguments_that_cannot_be_recorded_become_their_text() -> None:
    exc = ValueError("x", print)
    again = round_trip(exc)
    assert again.args == ("x", str(print))


def test_a_text_that_needs_what_was_dropped_is_kept() -> None:
    response = httpx.Response(418)
    again = round_trip(AnsweredError(response))
    assert isinstance(again, AnsweredError)
    assert str(again) == "status 418"
    assert describe_exception(encode_exception(again)) == (f"{__name__}:AnsweredError", "status 418")
    assert str(round_trip(again)) == "status 418"


def test_an_exception_without_text_still_comes_back() -> None:
    again = round_trip(UnspeakableError(1))
    assert isinstance(again, (UnspeakableError, StepError))
    assert "its message could not be made" in str(again)


def test_notes_come_back() -> None:
    exc = ValueError("x")
    exc.add_note("while reading")
    assert round_trip(exc).__notes__ == ["while reading"]


def test_causes_and_contexts_come_back() -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError:
            try:
                raise OSError(2, "middle")
            except OSError as middle:
                raise ValueError("outer") from middle

    again = round_trip(caught(fail))
    assert isinstance(again.__cause__, FileNotFoundError)
    assert again.__suppress_context__
    assert isinstance(again.__cause__.__context__, KeyError)
    assert not again.__cause__.__suppress_context__


def test_a_suppressed_context_stays_suppressed() -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError:
            raise ValueError("outer") from None

    again = round_trip(caught(fail))
    assert again.__cause__ is None
    assert again.__suppress_context__


def test_a_chain_is_bounded_and_may_contain_itself() -> None:
    first = exc = ValueError("0")
    for number in range(1, 100):
        exc.__cause__ = ValueError(str(number))
        exc = exc.__cause__
    exc.__cause__ = first
    again: BaseException | None = round_trip(first)
    length = 0
    while again is not None:
        again, length = again.__cause__, length + 1
    assert length == 11


def test_groups_come_back_with_their_members() -> None:
    group = ExceptionGroup("several", [ValueError("a"), ExceptionGroup("inner", [KeywordOnlyError(code=1, detail=())])])
    group.add_note("noted")
    again = round_trip(group)
    assert isinstance(again, ExceptionGroup)
    assert str(again) == str(group)
    assert again.__notes__ == ["noted"]
    first, second = again.exceptions
    assert (type(first), str(first)) == (ValueError, "a")
    assert isinstance(second, ExceptionGroup)
    assert isinstance(second.exceptions[0], KeywordOnlyError)


def test_a_group_of_the_users_own_comes_back() -> None:
    again = round_trip(Group("g", [ValueError("a")], 7))
    assert isinstance(again, Group)
    assert again.extra == 7


def test_a_group_that_holds_a_cancellation_comes_back_as_one_that_except_exception_catches() -> None:
    again = round_trip(BaseExceptionGroup("g", [asyncio.CancelledError(), ValueError("a")]))
    assert type(again) is ExceptionGroup
    assert isinstance(again.exceptions[0], StepError)
    assert isinstance(again.exceptions[1], ValueError)


@pytest.mark.parametrize("exc", [KeyboardInterrupt("stop"), asyncio.CancelledError("gone"), SystemExit(2)])
def test_what_except_exception_does_not_catch_comes_back_as_step_error(exc: BaseException) -> None:
    again = round_trip(exc)
    assert isinstance(again, StepError)
    assert again.message == str(exc)
    assert again.type_name.endswith(type(exc).__qualname__)


def test_an_exception_whose_class_is_not_loaded_comes_back_as_step_error(monkeypatch: Any) -> None:
    module = types.ModuleType("gone_module")
    monkeypatch.setitem(sys.modules, "gone_module", module)
    exec("class Gone(Exception): pass", vars(module))
    exc = module.Gone("lost")
    exc.add_note("noted")
    exc.__cause__ = ValueError("why")
    data = encode_exception(exc)
    assert type(decode_exception(data)) is module.Gone
    monkeypatch.delitem(sys.modules, "gone_module")
    again = decode_exception(data)
    assert isinstance(again, StepError)
    assert (again.message, again.type_name) == ("lost", "gone_module:Gone")
    assert again.__notes__ == ["noted"]
    assert isinstance(again.__cause__, ValueError)
    assert describe_exception(data) == ("gone_module:Gone", "lost")


def test_a_scripts_exception_is_found_however_the_script_is_loaded(monkeypatch: Any) -> None:
    module = types.ModuleType("script_with_error")
    monkeypatch.setitem(sys.modules, "script_with_error", module)
    monkeypatch.setattr(sys.modules["__main__"], "__kitaru_stand_ins__", [], raising=False)
    exec("class Mine(Exception): pass", vars(module))
    register_main_alias("script_with_error")
    data = encode_exception(module.Mine("x"))
    assert describe_exception(data)[0] == "__main__:Mine"
    assert type(decode_exception(data)) is module.Mine
    assert type(decode_exception(data, module="script_with_error")) is module.Mine


def test_a_local_exception_comes_back_as_step_error() -> None:
    class LocalError(Exception):
        pass

    assert isinstance(round_trip(LocalError("x")), StepError)


class Model(pydantic.BaseModel):
    a: int
    b: list[str]

    @pydantic.field_validator("b")
    @classmethod
    def _check(cls, b: list[str]) -> list[str]:
        if not b:
            raise ValueError("empty {braces}")
        return b


def test_pydantics_validation_error_comes_back() -> None:
    exc = caught(lambda: Model.model_validate({"a": "x", "b": []}))
    again: Any = round_trip(exc)
    assert isinstance(again, pydantic.ValidationError)
    assert str(again) == str(exc)
    assert isinstance(exc, pydantic.ValidationError)
    assert [error["loc"] for error in again.errors()] == [error["loc"] for error in exc.errors()]


def test_the_traceback_is_kept_as_text_without_values() -> None:
    def fail(secret: str) -> None:
        raise ValueError("outer") from KeyError("inner")

    secret = "s3" + "cret"
    data = encode_exception(caught(lambda: fail(secret)))
    text = format_exception(data)
    assert "in fail" in text
    assert "The above exception was the direct cause" in text
    assert text.index("KeyError: 'inner'") < text.index("ValueError: outer")
    assert secret.encode() not in data


def test_the_traceback_is_bounded() -> None:
    def dive(depth: int) -> None:
        if depth == 0:
            raise ValueError("bottom")
        dive(depth - 1)

    assert len(encode_exception(caught(lambda: dive(500)))) < 20_000


def test_the_first_traceback_survives_a_second_recording() -> None:
    def original() -> None:
        raise ValueError("x")

    again = round_trip(caught(original))

    def handed_on() -> None:
        raise again

    text = format_exception(encode_exception(caught(handed_on)))
    assert "in original" in text
    assert "in handed_on" in text


def test_a_groups_members_are_formatted() -> None:
    text = format_exception(encode_exception(ExceptionGroup("several", [ValueError("a"), KeyError("b")])))
    assert "ValueError: a" in text
    assert "KeyError: 'b'" in text


def test_recording_does_not_change_the_exception() -> None:
    exc = KeywordOnlyError(code=1, detail=())
    before = (dict(exc.__dict__), exc.args)
    encode_exception(exc)
    assert (exc.__dict__, exc.args) == before


def test_an_exception_may_be_a_value() -> None:
    value = {"results": [1, KeywordOnlyError(code=3, detail=(1,))]}
    again: Any = decoder()(encode(value))
    assert isinstance(again["results"][1], KeywordOnlyError)
    assert again["results"][1].detail == (1,)


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x80", b"\x91\x01"])
def test_damaged_bytes_are_a_typed_error(data: bytes) -> None:
    for read in (decode_exception, describe_exception, format_exception):
        with pytest.raises(DecodeError, match="damaged"):
            read(data)
