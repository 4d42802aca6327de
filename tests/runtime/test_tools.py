"""Tools made of functions, checkpoints and schemas, and the arguments that models give them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest

import kitaru
from kitaru.adapters import Tool, ToolCall, ToolChoice
from kitaru.errors import AnswerError, UsageError
from kitaru.runtime.calls.reply import ToolCall as Answered
from kitaru.runtime.calls.tools import arguments_for, choice_of, tool_of, tools_of


@dataclass
class Place:
    """A place on earth."""

    city: str
    country: str = "DE"


class Filter(pydantic.BaseModel):
    words: list[str]


def weather(place: Place, unit: Literal["C", "F"] = "C", *, days: Annotated[int, "1 to 7"] = 1) -> str:
    """Tell the weather.

    It is always right.

    Args:
        place: Where.
        unit: Of the temperature,
            as a letter.

    Returns:
        A sentence.
    """
    return f"{place} {unit} {days}"


async def search(query: str, wanted: Filter | None = None) -> list[str]:
    """Search the web.

    :param query: What to look for.
    :param wanted: What has to be in it.
    :returns: Links.
    """
    return [query, str(wanted)]


def numpy_style(x: float, y: float = 0.0) -> float:
    """Add.

    Parameters
    ----------
    x : float
        The first.
    y : float, optional
        The second.

    Returns
    -------
    float
    """
    return x + y


@kitaru.checkpoint(name="look_up", ignore=["client"])
async def looked_up(key: str, client: object = None) -> str:
    """Look a key up."""
    return f"{key} {client}"


class Desk:
    @kitaru.checkpoint
    async def note(self, text: str) -> str:
        """Write a note."""
        return text

    def plain(self, text: str) -> str:
        return text

    def __call__(self, text: str) -> str:
        return text


def test_a_function_tells_the_model_its_name_what_it_does_and_what_it_takes() -> None:
    tool = tool_of(weather)
    assert (tool.name, tool.description, tool.strict) == ("weather", "Tell the weather.\n\nIt is always right.", True)
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "place": {
                "type": "object",
                "description": "Where.",
                "properties": {"city": {"type": "string"}, "country": {"type": "string", "default": "DE"}},
                "required": ["city"],
            },
            "unit": {
                "type": "string", "enum": ["C", "F"], "description": "Of the temperature, as a letter.", "default": "C",
            },
            "days": {"type": "integer", "description": "1 to 7", "default": 1},
        },
        "required": ["place"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("function", "name", "said"),
    [(search, "query", "What to look for."), (numpy_style, "y", "The second.")],
)
def test_other_styles_of_docstrings_are_read_too(function: Any, name: str, said: str) -> None:
    tool = tool_of(function)
    assert "\n" not in tool.description
    properties: Any = tool.parameters["properties"]
    assert properties[name]["description"] == said


def test_a_checkpoint_is_a_tool_without_what_only_its_caller_can_give() -> None:
    tool = tool_of(looked_up)
    assert (tool.name, tool.description) == ("look_up", "Look a key up.")
    assert tool.parameters["properties"] == {"key": {"type": "string"}}


@pytest.mark.parametrize("source", [Desk().note, Desk().plain, Desk()])
def test_a_bound_method_is_a_tool_without_its_object(source: Any) -> None:
    tool = tool_of(source)
    assert tool.parameters["properties"] == {"text": {"type": "string"}}


def test_a_function_whose_arguments_are_free_is_not_strict() -> None:
    def anything(data: dict[str, int]) -> None: ...

    assert not tool_of(anything).strict


def test_a_function_without_parameters_is_a_strict_tool() -> None:
    def now() -> str:
        return ""

    tool = tool_of(now)
    assert tool.strict
    assert tool.parameters == {"type": "object", "properties": {}, "required": []}


SCHEMA: dict[str, Any] = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
NEUTRAL = Tool("find", "Find it", SCHEMA)


@pytest.mark.parametrize(
    "source",
    [
        NEUTRAL,
        {"type": "function", "function": {"name": "find", "description": "Find it", "parameters": SCHEMA}},
        {"type": "function", "name": "find", "description": "Find it", "parameters": SCHEMA},
        {"name": "find", "description": "Find it", "parameters": SCHEMA},
        {"name": "find", "description": "Find it", "input_schema": SCHEMA},
        {"type": "custom", "name": "find", "description": "Find it", "input_schema": SCHEMA},
        {"name": "find", "title": "Find", "description": "Find it", "inputSchema": SCHEMA, "annotations": {"a": 1}},
    ],
)
def test_a_schema_in_any_known_form_is_a_tool(source: Any) -> None:
    assert tool_of(source) == NEUTRAL


def test_a_schema_may_have_fields_that_only_some_providers_know() -> None:
    more = {"cache_control": {"type": "ephemeral"}, "defer_loading": True}
    assert tool_of({"name": "find", "input_schema": SCHEMA, **more}).more == more
    function = {"name": "find", "parameters": SCHEMA, "defer_loading": True}
    assert tool_of({"type": "function", "function": function, "cache_control": {"type": "ephemeral"}}).more == more


def test_types_in_geminis_upper_case_are_read() -> None:
    item = {"type": "STRING", "nullable": True, "enum": ["a"]}
    properties = {"type": {"type": "ARRAY", "items": item}, "n": {"anyOf": [{"type": "INTEGER"}, {"type": "null"}]}}
    found = tool_of({"name": "find", "parameters": {"type": "OBJECT", "properties": properties, "required": ["type"]}})
    assert found.parameters == {
        "type": "object",
        "properties": {
            "type": {"type": "array", "items": {"type": ["string", "null"], "enum": ["a", None]}},
            "n": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["type"],
    }


def test_a_schema_may_say_that_it_is_strict() -> None:
    assert tool_of({"type": "function", "function": {"name": "find", "parameters": SCHEMA, "strict": True}}).strict


def no_annotation(x) -> None: ...  # type: ignore[no-untyped-def]  # the mistake under test
def stars(*words: str) -> None: ...
def double_stars(**words: str) -> None: ...
def positional(x: int, /) -> None: ...
def unknown_type(x: object, y: type[int]) -> None: ...
def unresolved(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # the mistake under test


@kitaru.checkpoint(ignore=["client"])
async def needs_client(client: object) -> None: ...


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (no_annotation, r"no_annotation\(\): x has no annotation"),
        (stars, r"stars\(\) takes \*words"),
        (double_stars, r"double_stars\(\) takes \*\*words"),
        (positional, r"positional\(\): x is positional only"),
        (unknown_type, r"unknown_type\(\): y cannot be"),
        (unresolved, r"unresolved\(\): its annotations cannot be resolved"),
        (needs_client, r"needs_client\(\): client is not recorded"),
        (lambda x: x, "cannot be called '<lambda>'"),
        (Place, "the class Place cannot be a tool"),
        (5, "a int cannot be a tool"),
        ({"name": "no spaces please", "parameters": SCHEMA}, "cannot be called 'no spaces please'"),
        ({"description": "x"}, "has no name"),
        ({"type": "web_search_20250305", "name": "web_search"}, "of type 'web_search_20250305'"),
        ({"name": "x", "parameters": {"type": "array"}}, "are a JSON array"),
        ({"name": "x", "parameters": "none"}, "no JSON schema"),
        ({"name": "x", "params": SCHEMA}, "has 'params', which means nothing"),
        ({"type": "function", "function": {"name": "x", "schema": SCHEMA}}, "has 'schema', which means nothing"),
        ({"type": "custom", "custom": {"name": "x"}}, "of type 'custom'"),
        ({"type": "custom", "name": "x", "format": {"type": "text"}}, "of type 'custom'"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_and_named(source: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        tool_of(source)
    assert caught.value.hint or "no JSON schema" in named


def test_tools_keep_their_order_and_no_two_have_one_name() -> None:
    assert [tool.name for tool in tools_of([weather, NEUTRAL, looked_up])] == ["weather", "find", "look_up"]
    assert tools_of(None) == ()
    with pytest.raises(UsageError, match="two tools are called 'find'"):
        tools_of([NEUTRAL, {"name": "find", "parameters": SCHEMA}])
    with pytest.raises(UsageError, match="a list of functions"):
        tools_of({"name": "find"})  # type: ignore[arg-type]  # the mistake under test


# ---- the choice -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        (None, None),
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ("any", ToolChoice("required")),
        ("find", ToolChoice("tool", "find")),
        (weather, ToolChoice("tool", "weather")),
        ({"type": "function", "function": {"name": "find"}}, ToolChoice("tool", "find")),
        ({"type": "function", "name": "find"}, ToolChoice("tool", "find")),
        ({"type": "tool", "name": "find"}, ToolChoice("tool", "find")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "auto"}, ToolChoice("auto")),
        (ToolChoice("tool", "find"), ToolChoice("tool", "find")),
        ([weather, "find", "find"], ToolChoice("required", names=("weather", "find"))),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "find"}]},
            ToolChoice("auto", names=("find",)),
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "find"}}]},
            },
            ToolChoice("required", names=("find",)),
        ),
    ],
)
def test_a_choice_is_understood_in_every_form(choice: Any, found: ToolChoice | None) -> None:
    assert choice_of(choice, tools_of([weather, NEUTRAL])) == found


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("serch", "'serch'.*weather"),
        (search, "'search'"),
        ({"type": "tool", "name": "x"}, "'x'"),
        (ToolChoice("tool", "x"), "'x'"),
        ({"type": "odd"}, "'odd' is not known"),
        ({"type": "auto", "disable_parallel_tool_use": True}, "'disable_parallel_tool_use'"),
        (5, "cannot be a int"),
        ([], "names no tool"),
        (["weather", "serch"], "'serch'.*weather"),
        ({"type": "allowed_tools", "mode": "none", "tools": []}, "allowed_tools have a mode"),
    ],
)
def test_a_choice_that_is_no_tool_is_refused(choice: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        choice_of(choice, tools_of([weather]))


def test_a_tool_cannot_be_required_where_there_is_none() -> None:
    with pytest.raises(UsageError, match="the call has none"):
        choice_of("required", ())


# ---- arguments ------------------------------------------------------------------------------------------------------


def called(arguments: str) -> ToolCall:
    return ToolCall("c1", "it", arguments)


@pytest.mark.parametrize(
    ("source", "text", "found"),
    [
        (weather, '{"place": {"city": "Rome", "country": null}, "unit": null}', {"place": Place("Rome")}),
        (weather, '{"place": {"city": "Rome"}, "days": "3"}', {"place": Place("Rome"), "days": 3}),
        (search, '{"query": "a", "wanted": {"words": ["b"]}}', {"query": "a", "wanted": Filter(words=["b"])}),
        (search, '{"query": "a", "wanted": null}', {"query": "a", "wanted": None}),
        (looked_up, '{"key": "k"}', {"key": "k"}),
        (Desk().note, '{"text": "t"}', {"text": "t"}),
        (NEUTRAL, '{"q": "x", "more": 1}', {"q": "x", "more": 1}),
    ],
)
def test_arguments_come_as_the_function_takes_them(source: Any, text: str, found: dict[str, Any]) -> None:
    assert arguments_for(source, called(text)) == found


def test_a_call_of_a_reply_reads_its_arguments_for_a_tool() -> None:
    call = Answered("c1", "weather", '{"place": {"city": "Rome", "country": null}, "unit": null}')
    assert call.parsed(weather) == {"place": Place("Rome")}
    assert call.parsed() == {"place": {"city": "Rome", "country": None}, "unit": None}
    with pytest.raises(AnswerError, match="place is missing"):
        Answered("c1", "weather", "{}").parsed(weather)


def test_no_arguments_may_be_empty() -> None:
    def now() -> str:
        return ""

    assert arguments_for(now, called("")) == {}


@pytest.mark.parametrize(
    ("source", "text", "said"),
    [
        (weather, '{"place": {"city": 5}}', "place.city: Expected `str`, got `int`"),
        (weather, "{}", "place is missing"),
        (weather, '{"place": {"city": "R"}, "unit": "K", "day": 1}', 'day is unknown; unit is none of "C","F"'),
        (weather, '{"place": {"city"', "are not JSON"),
        (weather, "[1]", "are a JSON array"),
        (weather, "[" * 100_000, "are not JSON"),
        (search, '{"query": "a", "wanted": {"words": 1}}', "wanted.words: Input should be a valid"),
        (NEUTRAL, "{}", "q is missing"),
        ({"name": "x", "parameters": {**SCHEMA, "additionalProperties": False}}, '{"q": "a", "z": 1}', "z is unknown"),
    ],
)
def test_arguments_that_do_not_fit_are_an_error_for_the_model(source: Any, text: str, said: str) -> None:
    with pytest.raises(AnswerError) as caught:
        arguments_for(source, called(text))
    assert caught.value.message.startswith("the arguments of it ")
    assert said in caught.value.message


def test_a_function_takes_the_arguments_it_is_given() -> None:
    arguments: Any = arguments_for(weather, called('{"place": {"city": "Rome"}, "days": 2}'))
    assert weather(**arguments) == "Place(city='Rome', country='DE') C 2"


def test_a_partial_of_a_named_function_needs_a_name_of_its_own() -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        tool_of(functools.partial(weather, days=2))


def test_a_tool_is_encodable_and_the_same_each_time() -> None:
    first = msgspec.json.encode(tool_of(weather))
    assert first == msgspec.json.encode(tool_of(weather))
    assert msgspec.json.decode(first, type=Tool) == tool_of(weather)
