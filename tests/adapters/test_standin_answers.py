"""What the stand-in model says: tools, JSON, and how it gets them wrong on demand."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.adapters.standin import FaultKind, Options, Rule
from kitaru.adapters.standin.asked import Ask, Object, Offer, Result
from kitaru.adapters.standin.deciding import Answer, decide, sealed, unsealed
from kitaru.adapters.standin.samples import sample
from kitaru.errors import UsageError
from tests.cases import cases

WEATHER = Offer("get_weather", {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
TIME = Offer("get_time", {"type": "object", "properties": {}})


def asked(text: str = "Tell of Oslo", *, system: str = "", **more: Any) -> Ask:
    messages = ((("system", system),) if system else ()) + (("user", text),)
    return Ask(model="m", messages=messages, body={}, **more)


def said(ask: Ask, *rules: Rule, fault: FaultKind | None = None) -> Answer:
    return decide(Options(rules=rules), ask, "standin-1", fault)


def calls(answer: Answer) -> list[tuple[str, object]]:
    return [(call.name, json.loads(call.arguments)) for call in answer.calls]


# Tools


def test_a_tool_that_has_to_be_called_is_called_with_arguments_made_from_its_schema() -> None:
    answer = said(asked(tools=(WEATHER, TIME), choice="required"))
    assert calls(answer) == [("get_weather", {"city": "oslo"})]
    assert answer.finish == "tool_calls"


def test_the_tool_that_is_named_is_called() -> None:
    assert calls(said(asked(tools=(WEATHER, TIME), choice="required", named="get_time"))) == [("get_time", {})]


@pytest.mark.parametrize(("parallel", "count"), [(True, 2), (False, 1)])
def test_tools_that_the_prompt_names_are_called_at_once_where_that_may_be(parallel: bool, count: int) -> None:
    answer = said(asked("use get_time and get_weather", tools=(WEATHER, TIME), parallel=parallel))
    assert len(answer.calls) == count
    assert len({call.seed for call in answer.calls}) == count


@pytest.mark.parametrize("ask", [asked(tools=(WEATHER,)), asked("use get_weather", tools=(WEATHER,), choice="none")])
def test_no_tool_is_called_that_is_not_wanted(ask: Ask) -> None:
    assert said(ask).calls == ()


def test_a_rule_calls_a_tool_with_what_its_groups_found() -> None:
    rule = Rule(r"of (\w+)", "I look.", tool="get_weather", arguments={"city": r"\1", "days": 2}, times=2)
    answer = said(asked(tools=(WEATHER,)), rule)
    assert calls(answer) == [("get_weather", {"city": "Oslo", "days": 2})] * 2
    assert answer.text == "I look."


def test_a_rule_s_tool_is_called_neither_unoffered_nor_again_for_its_own_result() -> None:
    rule = Rule("", tool="get_weather")
    assert said(asked(), rule).calls == ()
    result = Result("c", "get_weather", "sun")
    answer = said(Ask(model="m", messages=(("tool", "sun"),), body={}, tools=(WEATHER,), results=(result,)), rule)
    assert answer.calls == ()
    assert "get_weather said: sun" in answer.text


@pytest.mark.parametrize(("arguments", "times"), [({"a": r"\1"}, 1), (None, 0)])
def test_a_rule_whose_tool_cannot_be_called_is_refused(arguments: dict[str, object] | None, times: int) -> None:
    with pytest.raises(UsageError, match="rule"):
        Rule("x", tool="t", arguments=arguments, times=times)


def test_arguments_can_be_no_json() -> None:
    answer = said(asked(tools=(WEATHER,), choice="required"), fault="bad-arguments")
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(answer.calls[0].arguments)


# JSON


class Part(msgspec.Struct):
    name: str
    kind: Literal["a", "b"]
    below: Part | None = None
    more: dict[str, int] = {}


class Whole(msgspec.Struct):
    parts: list[Part]
    pair: tuple[int, str]
    many: set[float]
    ratio: float | None
    either: int | str
    count: int = msgspec.field(default=3)


def test_a_sample_fits_the_schema_that_it_is_made_from() -> None:
    schema = msgspec.json.schema(Whole)
    found = msgspec.convert(sample(schema, ["tides"]), Whole, strict=True)
    assert len(found.parts) == 2


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"type": "integer", "minimum": 7, "maximum": 9}, lambda v: 7 <= v <= 9),
        ({"type": "integer", "multipleOf": 5}, lambda v: v % 5 == 0),
        ({"type": "number", "exclusiveMaximum": 1}, lambda v: v < 1),
        ({"type": "string", "minLength": 9, "maxLength": 10}, lambda v: 9 <= len(v) <= 10),
        ({"type": "string", "format": "date"}, lambda v: v == "2026-01-02"),
        ({"type": ["string", "null"]}, lambda v: isinstance(v, str)),
        ({"anyOf": [{"type": "null"}, {"type": "boolean"}]}, lambda v: v is True),
        ({"const": 4}, lambda v: v == 4),
        ({"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}, lambda v: isinstance(v["a"], str)),
        (
            {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "null"}}}]},
            lambda v: v.keys() == {"a", "b"},
        ),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 4}, lambda v: len(v) == 4),
    ],
)
def test_a_sample_keeps_to_the_bounds_of_its_schema(schema: Object, fits: Any) -> None:
    assert fits(sample(schema, ["tides"]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "items", "anyOf", "$ref", "required", "enum", "minItems", "pattern", "a"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=cases(200), deadline=None)
def test_a_sample_is_made_of_any_schema(schema: object) -> None:
    json.dumps(sample({"properties": {"a": schema}, "$defs": {"x": schema}}, ["w"]))


def test_a_schema_is_honoured() -> None:
    answer = said(asked(form="schema", schema=WEATHER.schema))
    assert json.loads(answer.text) == {"city": "oslo"}


def test_a_rule_gives_the_text_of_an_answer_in_json() -> None:
    assert said(asked(form="json"), Rule("Oslo", '{"a": 1}')).text == '{"a": 1}'


def test_an_answer_in_json_to_a_tool_s_result_quotes_it() -> None:
    ask = asked(form="schema", schema=WEATHER.schema, results=(Result("c", "t", "sun"),))
    assert "sun" in json.loads(said(ask).text)["city"]


@pytest.mark.parametrize(
    ("system", "keys"),
    [
        ("Answer with a JSON object and nothing else.", {"answer"}),
        ('Reply in JSON with the keys "title" and "summary".', {"title", "summary"}),
        (f"Reply with JSON that fits this schema: {json.dumps(WEATHER.schema)}", {"city"}),
    ],
)
def test_words_that_ask_for_json_are_followed_where_an_api_has_no_other_way(system: str, keys: set[str]) -> None:
    assert json.loads(said(asked(system=system)).text).keys() == keys


def test_a_prompt_about_json_is_answered_in_prose() -> None:
    assert not said(asked("What is JSON?")).text.startswith("{")


def test_the_token_limit_cuts_json_too() -> None:
    schema: Object = {"type": "array", "items": {"type": "string"}, "minItems": 3}
    rule = Rule("", '["one", "two", "three"]')
    answer = said(asked(form="schema", schema=schema, limit=2), rule)
    assert (answer.text, answer.finish) == ('["one", "two",', "length")


@pytest.mark.parametrize("fault", ["invalid-json", "fenced-json"])
def test_an_answer_can_be_no_json(fault: FaultKind) -> None:
    text = said(asked(form="schema", schema=WEATHER.schema), fault=fault).text
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(text)
    assert ("```json\n{" in text) == (fault == "fenced-json")


def test_an_answer_can_lack_a_key_or_have_a_wrong_type() -> None:
    ask = asked(form="schema", schema=WEATHER.schema)
    assert json.loads(said(ask, fault="missing-key").text) == {}
    assert json.loads(said(ask, fault="wrong-type").text) == {"city": {"unexpected": True}}


# Thinking


@given(st.text())
def test_what_is_sealed_is_read_again_and_a_changed_seal_is_not(text: str) -> None:
    data = sealed(text)
    assert unsealed(data) == text
    assert unsealed("A" + data) is None
    assert unsealed(data[:-4]) is None


def test_shown_thinking_counts_as_output_and_against_the_limit() -> None:
    whole = said(asked(thinks=True))
    assert whole.thinking
    assert whole.output > whole.thought > 0
    cut = said(asked(thinks=True, limit=3))
    assert (cut.text, cut.finish, len(cut.thinking.split(" "))) == ("", "length", 3)
