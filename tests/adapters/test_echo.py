from __future__ import annotations

import datetime
import enum
import json
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.adapters.adapter import Local
from kitaru.adapters.call import ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.echo import ADAPTER, ROW
from kitaru.adapters.echo.value import fitting
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Document, Image, Message, Text
from kitaru.adapters.providers import adapter, split_model
from kitaru.adapters.reply import Delta, Reply, Usage, require_finished
from kitaru.errors import ModelConnectionError, ProviderError
from tests.adapters.damage import VALUES, bodies, cuts, outcome, told, torn
from tests.cases import cases

WEATHER = Tool(
    "weather",
    "Of a city",
    {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
)
REQUIRED = ToolChoice("required")


def call(*messages: Message | str, model: str = "echo", **kw: Any) -> ModelCall:
    turns = tuple(Message("user", one) if isinstance(one, str) else one for one in messages)
    return ModelCall("test", model, turns or (Message("user", "hi"),), **kw)


def asked(request: ModelCall, *, stream: bool = False) -> tuple[int, Mapping[str, str], bytes]:
    return ADAPTER.answer(ADAPTER.build_request(request, Endpoint(base_url=""), stream=stream))


def reply_to(request: ModelCall) -> Reply:
    return ADAPTER.parse_response(request, *asked(request))


def streamed(request: ModelCall) -> tuple[list[Delta], Reply]:
    status, headers, body = asked(request, stream=True)
    parser = ADAPTER.parse_stream(request, status, headers)
    deltas = list(parser.feed(body))
    return deltas, parser.finish()


def test_it_is_found_by_its_name_and_answers_by_itself() -> None:
    assert split_model("test/echo") == ("test", "echo")
    assert adapter("test") is ADAPTER
    assert isinstance(ADAPTER, Local)
    assert ROW.free
    assert not ROW.key_required


def test_it_answers_what_the_user_said_last() -> None:
    request = call(Message("system", "be brief"), "one", Message("assistant", "x"), "two  words\nhere")
    reply = reply_to(request)
    assert (reply.text, reply.finish, reply.model) == ("two  words\nhere", "stop", "echo")
    assert reply.usage == Usage(7, 3)
    assert reply.message == Message("assistant", "two  words\nhere")


def test_the_same_call_has_the_same_answer() -> None:
    assert asked(call("a b c")) == asked(call("a b c"))


@pytest.mark.parametrize(
    ("most", "text", "finish"), [(2, "a  b", "length"), (3, "a  b c", "stop"), (9, "a  b c", "stop")]
)
def test_max_tokens_counts_words(most: int, text: str, finish: str) -> None:
    reply = reply_to(call("a  b c", settings=Settings(max_tokens=most)))
    assert (reply.text, reply.finish) == (text, finish)


def test_it_stops_before_a_stop_text() -> None:
    reply = reply_to(call("one END two", settings=Settings(stop=("STOP", "END"))))
    assert (reply.text, reply.finish) == ("one ", "stop")


def test_other_settings_change_nothing() -> None:
    every = Settings(temperature=1.0, top_p=0.5, seed=1, reasoning="high", context_length=9)
    assert reply_to(call("hi", settings=every)).text == "hi"


def test_pictures_and_documents_are_taken_and_not_looked_at() -> None:
    parts = (Text("look"), Image("image/png", b"x"), Document(url="https://h.example/a"))
    assert reply_to(call(Message("user", parts))).text == "look"


def test_offered_tools_are_not_called() -> None:
    assert reply_to(call("hi", tools=(WEATHER,))).text == "hi"


def test_a_required_tool_is_called_with_fitting_arguments() -> None:
    reply = reply_to(call("Rome", tools=(WEATHER, Tool("now")), tool_choice=REQUIRED))
    assert [(one.name, json.loads(one.arguments)) for one in reply.tool_calls] == [("weather", {"city": "Rome"})]
    assert (reply.text, reply.finish) == ("", "tool_calls")


def test_a_named_tool_is_called() -> None:
    reply = reply_to(call("Rome", tools=(WEATHER, Tool("now")), tool_choice=ToolChoice("tool", "now")))
    assert [(one.name, one.arguments) for one in reply.tool_calls] == [("now", "{}")]


def test_the_result_of_a_required_tool_is_echoed_so_that_a_loop_ends() -> None:
    first = call("Rome", tools=(WEATHER,), tool_choice=REQUIRED)
    message = reply_to(first).message
    result = Message("tool", "warm", tool_call_id=message.tool_calls[0].id)
    assert reply_to(call("Rome", message, result, tools=(WEATHER,), tool_choice=REQUIRED)).text == "warm"


def test_calls_of_two_turns_have_distinct_ids() -> None:
    first = reply_to(call("a", tools=(WEATHER,), tool_choice=REQUIRED)).message
    turns = ("a", first, Message("tool", "x", tool_call_id=first.tool_calls[0].id), "a")
    second = reply_to(call(*turns, tools=(WEATHER,), tool_choice=REQUIRED)).message
    assert first.tool_calls[0].id != second.tool_calls[0].id


def test_json_holds_the_prompt() -> None:
    assert json.loads(reply_to(call("hi", output=Output("json"))).text) == {"text": "hi"}


def test_another_model_is_not_found() -> None:
    with pytest.raises(ProviderError, match="test/echo") as caught:
        reply_to(call(model="gpt"))
    assert (caught.value.status, caught.value.reason) == (404, "not_found")


def test_an_empty_prompt_is_a_finished_answer() -> None:
    assert require_finished("test", reply_to(call(""))).text == ""


@pytest.mark.parametrize(
    "request_",
    [
        call("Grüße, wörld  and more "),
        call(""),
        call("  "),
        call("a b c", settings=Settings(max_tokens=2)),
        call("Rome", tools=(WEATHER,), tool_choice=REQUIRED),
        call("x", output=Output("schema", {"type": "array", "items": {"type": "string"}})),
    ],
)
def test_a_stream_gives_the_reply_that_the_plain_answer_gives(request_: ModelCall) -> None:
    deltas, reply = streamed(request_)
    plain = reply_to(request_)
    assert json.loads(reply.raw) == {**json.loads(plain.raw), "done": True}
    for name in set(Reply.__struct_fields__) - {"raw"}:
        assert getattr(reply, name) == getattr(plain, name)
    assert "".join(one.text for one in deltas if one.kind == "text") == reply.text
    assert [one.id for one in deltas if one.kind == "tool_call"] == [one.id for one in reply.tool_calls]


def test_a_stream_comes_word_by_word() -> None:
    assert [one.text for one in streamed(call("one two three"))[0]] == ["one ", "two ", "three"]


@given(st.data())
def test_a_stream_may_be_cut_anywhere(data: st.DataObject) -> None:
    request = call("Grüße, wörld")
    status, headers, body = asked(request, stream=True)
    parser = ADAPTER.parse_stream(request, status, headers)
    deltas = [one for piece in data.draw(cuts(body)) for one in parser.feed(piece)]
    assert (deltas, parser.finish()) == streamed(request)


def test_a_torn_stream_is_an_error() -> None:
    request = call("a b c")
    _, headers, body = asked(request, stream=True)
    parser = ADAPTER.parse_stream(request, 200, headers)
    parser.feed(body[:-1])
    with pytest.raises(ModelConnectionError):
        parser.finish()


# Values that fit a schema, by the judgement of two libraries that write and check schemas


class Colour(enum.Enum):
    RED = "red"


class Inner(msgspec.Struct):
    when: Annotated[datetime.datetime, msgspec.Meta(tz=True)]
    length: datetime.timedelta
    colour: Colour
    key: uuid.UUID


class Node(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=40, max_length=50)]
    parent: Node | None
    children: list[Node]
    inner: Inner
    choice: Literal["a", "b"]
    pair: tuple[int, str]
    some: dict[str, int]
    low: Annotated[int, msgspec.Meta(ge=3)]
    high: Annotated[float, msgspec.Meta(lt=-1)]
    step: Annotated[int, msgspec.Meta(gt=10, multiple_of=7)]
    many: Annotated[list[bool], msgspec.Meta(min_length=2)]
    maybe: int = 0


class Animal(pydantic.BaseModel):
    kind: Literal["cat", "dog"]
    name: str = pydantic.Field(max_length=3)
    born: datetime.date
    weight: float = pydantic.Field(gt=0, lt=1)
    parents: list[Animal]
    owner: Person | None


class Person(pydantic.BaseModel):
    email: str | int
    pets: list[Animal] = []


@pytest.mark.parametrize("kind", [Node, list[int], dict[str, int], Literal[3, 4], int | None, Inner, str, bool, float])
def test_the_value_fits_a_schema_of_msgspec(kind: Any) -> None:
    value = fitting(msgspec.json.schema(kind), "the prompt")
    msgspec.json.decode(msgspec.json.encode(value), type=kind)


@pytest.mark.parametrize("kind", [Animal, Person])
def test_the_value_fits_a_schema_of_pydantic(kind: type[pydantic.BaseModel]) -> None:
    kind.model_validate(fitting(kind.model_json_schema(), "the prompt"))


def test_texts_hold_the_prompt() -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    assert fitting(schema, "the prompt") == {"a": "the prompt"}
    assert json.loads(reply_to(call("the prompt", output=Output("schema", schema))).text) == {"a": "the prompt"}


def test_parts_of_a_schema_are_taken_together() -> None:
    base = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    schema: dict[str, object] = {
        "$defs": {"base": base},
        "allOf": [{"$ref": "#/$defs/base"}, {"properties": {"b": {"type": "null"}}, "required": ["b"]}],
    }
    assert fitting(schema, "x") == {"a": 1, "b": None}


def test_a_schema_that_only_refers_to_itself_comes_to_an_end() -> None:
    assert fitting({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "x") is None


@given(
    st.recursive(
        VALUES,
        lambda inner: st.dictionaries(
            st.sampled_from(
                ["type", "properties", "required", "items", "anyOf", "allOf", "$ref", "enum", "minimum", "multipleOf",
                 "minItems", "minLength", "prefixItems", "exclusiveMinimum"]
            ),
            inner | st.sampled_from(["object", "array", "integer", "number", "#/properties", "#"]),
            max_size=4,
        ),
        max_leaves=8,
    )
)  # fmt: skip
def test_any_schema_gives_some_value(schema: object) -> None:
    if isinstance(schema, dict):
        fitting(schema, "x")


# Whatever arrives


@settings(max_examples=cases(150))
@given(bodies({"text": "a", "calls": [{"name": "f", "arguments": "{}"}], "finish": "stop", "usage": {"input": 1}}))
def test_a_malformed_answer_is_a_model_error(body: bytes) -> None:
    headers = {"x-request-id": "req-9"}
    assert told(outcome(lambda: ADAPTER.parse_response(call(), 200, headers, body)), "test", 200)


@settings(max_examples=cases(150))
@given(torn(b'{"text":"a "}\n{"calls":[{"name":"f","arguments":"{}"}]}\n{"done":true}\n') | st.binary(max_size=40))
def test_a_malformed_stream_is_a_model_error(body: bytes) -> None:
    parser = ADAPTER.parse_stream(call(), 200, {"x-request-id": "req-9"})

    def read() -> Reply:
        parser.feed(body)
        return parser.finish()

    assert told(outcome(read), "test", 200)


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_request_is_answered(content: bytes) -> None:
    import httpx

    status, _, body = ADAPTER.answer(httpx.Request("POST", "http://echo.invalid/echo", content=content))
    assert status in (200, 400, 404)
    assert msgspec.json.decode(body)
