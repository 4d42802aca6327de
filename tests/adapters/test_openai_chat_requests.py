"""What the chat family is sent: messages, parts, tools, forms, efforts, and turns that go back as they came."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from kitaru.adapters import (
    Document,
    Endpoint,
    Image,
    Message,
    ModelCall,
    Output,
    Part,
    SecretStr,
    Settings,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    adapter,
)
from kitaru.adapters.message import assistant
from kitaru.errors import UsageError

HI = Message("user", "hi")
TOOL = Tool("f", "does it", {"type": "object", "properties": {}})
ENDPOINT = Endpoint(base_url="https://h.example/v1", api_key=SecretStr("key-of-the-test"))


def request(name: str, *messages: Message, stream: bool = False, model: str = "m", **fields: Any) -> bytes:
    settings = msgspec.convert(fields.pop("settings", {}), Settings)
    call = ModelCall(name, model, messages or (HI,), settings, **fields)
    content: bytes = adapter(name).build_request(call, ENDPOINT, stream=stream).content
    return content


def body(name: str, *messages: Message, **more: Any) -> Any:
    return json.loads(request(name, *messages, **more))


def said(name: str, *messages: Message, **more: Any) -> Any:
    return body(name, *messages, **more)["messages"]


# Settings


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("openai", {"max_completion_tokens": 5, "seed": 7, "stop": ["a"]}),
        ("groq", {"max_completion_tokens": 5, "seed": 7, "stop": ["a"]}),
        ("mistral", {"max_tokens": 5, "random_seed": 7, "stop": ["a"]}),
        ("together", {"max_tokens": 5, "seed": 7, "stop": ["a"]}),
        ("vllm", {"max_tokens": 5, "seed": 7, "stop": ["a"]}),
    ],
)
def test_a_setting_goes_by_the_provider_s_own_name(name: str, fields: dict[str, object]) -> None:
    found = body(name, settings={"max_tokens": 5, "seed": 7, "stop": ["a"]})
    assert {key: value for key, value in found.items() if key not in ("model", "messages")} == fields


@pytest.mark.parametrize(
    ("name", "reasoning", "fields"),
    [
        ("openai", "minimal", {"reasoning_effort": "minimal"}),
        ("openai", "max", {"reasoning_effort": "max"}),
        ("openai", 0, {"reasoning_effort": "none"}),
        ("openai", 1_024, {"reasoning_effort": "minimal"}),
        ("openai", 1_025, {"reasoning_effort": "low"}),
        ("openai", 16_384, {"reasoning_effort": "medium"}),
        ("openai", 99_999, {"reasoning_effort": "high"}),
        ("mistral", "high", {"reasoning_effort": "high"}),
        ("groq", "max", {"reasoning_effort": "high", "include_reasoning": True}),
        ("groq", "none", {"reasoning_effort": "none"}),
        ("perplexity", "none", {"reasoning_effort": "minimal"}),
        ("together", "none", {"reasoning": {"enabled": False}}),
        ("together", "minimal", {"reasoning": {"enabled": True}, "reasoning_effort": "low"}),
        ("deepseek", "none", {"thinking": {"type": "disabled"}}),
        ("deepseek", "max", {"thinking": {"type": "enabled"}, "reasoning_effort": "max"}),
        ("moonshot", "low", {"thinking": {"type": "enabled"}}),
        ("openrouter", "max", {"reasoning": {"effort": "max"}}),
        ("openrouter", 2_000, {"reasoning": {"max_tokens": 2_000}}),
        ("openrouter", 0, {"reasoning": {"effort": "none"}}),
        ("xai", "minimal", {"reasoning_effort": "low"}),
        ("nvidia", "none", {"reasoning_effort": "low"}),
    ],
)
def test_an_effort_or_a_budget_is_said_in_the_provider_s_terms(
    name: str, reasoning: object, fields: dict[str, object]
) -> None:
    found = body(name, settings={"reasoning": reasoning})
    assert {key: value for key, value in found.items() if key not in ("model", "messages")} == fields


def test_groq_is_not_told_twice_how_to_show_the_thinking() -> None:
    found = body("groq", settings={"reasoning": "low", "extra": {"reasoning_format": "hidden"}})
    assert (found["reasoning_format"], "include_reasoning" in found) == ("hidden", False)


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        *((name, True) for name in ("openai", "deepseek", "openrouter", "xai", "vllm", "openai-compatible")),
        *((name, False) for name in ("groq", "mistral", "together", "perplexity")),
    ],
)
def test_a_stream_s_usage_is_asked_for_where_it_does_not_come_by_itself(name: str, asks: bool) -> None:
    found = body(name, stream=True)
    assert found["stream"] is True
    assert found.get("stream_options") == ({"include_usage": True} if asks else None)


def test_extra_may_not_hold_what_a_setting_of_the_call_says() -> None:
    with pytest.raises(UsageError, match="reasoning_effort"):
        request("openai", settings={"reasoning": "low", "extra": {"reasoning_effort": "high"}})
    with pytest.raises(UsageError, match="response_format"):
        request("perplexity", output=Output("schema", {}), settings={"extra": {"response_format": {"type": "regex"}}})


def test_extra_may_hold_what_no_setting_says() -> None:
    form = {"type": "regex", "regex": {"regex": "a+"}}
    assert body("perplexity", settings={"extra": {"response_format": form}})["response_format"] == form


# Messages and parts


@pytest.mark.parametrize(
    ("name", "role"), [("openai", "developer"), ("openrouter", "developer"), ("groq", "system"), ("mistral", "system")]
)
def test_a_developer_is_the_system_where_the_role_is_not_known(name: str, role: str) -> None:
    assert said(name, Message("developer", "be brief"), HI)[0] == {"role": role, "content": "be brief"}


def test_several_texts_are_parts_where_the_server_reads_them_and_lines_elsewhere() -> None:
    two = Message("user", (Text("a"), Text("b")))
    assert said("openai", two)[0]["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert said("vllm", two)[0]["content"] == "a\nb"
    assert said("openai", Message("user", (Text("a"),)))[0]["content"] == "a"


@pytest.mark.parametrize(
    ("name", "part", "sent"),
    [
        ("openai", Image("image/png", b"x"), {"image_url": {"url": "data:image/png;base64,eA=="}}),
        ("openai", Image(url="https://h/a", detail="low"), {"image_url": {"url": "https://h/a", "detail": "low"}}),
        ("together", Image(url="https://h/a", detail="low"), {"image_url": {"url": "https://h/a"}}),
        (
            "openai",
            Document("application/pdf", b"x", name="a.pdf"),
            {"file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,eA=="}},
        ),
        (
            "openrouter",
            Document("application/pdf", url="https://h/a.pdf"),
            {"file": {"filename": "document", "file_data": "https://h/a.pdf"}},
        ),
        ("mistral", Document(url="https://h/a", name="a"), {"document_url": "https://h/a", "document_name": "a"}),
        ("perplexity", Document("application/pdf", b"x"), {"file_url": {"url": "eA=="}}),
    ],
)
def test_a_part_is_written_as_the_provider_reads_it(name: str, part: Part, sent: dict[str, object]) -> None:
    kind = next(iter(sent))
    assert said(name, Message("user", (Text("see"), part)))[0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": kind, **sent},
    ]


def test_what_a_tool_gives_beside_text_follows_its_results_in_the_user_s_name() -> None:
    calls = (ToolCall("c1", "f"), ToolCall("c2", "f"))
    found = said(
        "openai",
        HI,
        Message("assistant", "", calls),
        Message("tool", (Text("see"), Image(url="https://h/a")), tool_call_id="c1"),
        Message("tool", "nothing", tool_call_id="c2"),
        Message("user", "so?"),
    )
    assert [one["role"] for one in found] == ["user", "assistant", "tool", "tool", "user", "user"]
    assert found[2]["content"] == "see"
    assert "c1" in found[4]["content"][0]["text"]
    assert found[4]["content"][1]["image_url"] == {"url": "https://h/a"}


def test_user_and_assistant_alternate_where_they_have_to() -> None:
    found = said(
        "perplexity",
        Message("system", "s"),
        Message("user", "a"),
        Message("user", "b"),
        Message("assistant", "c"),
        Message("assistant", "d"),
        Message("user", (Text("e"), Image(url="https://h/a"))),
        Message("user", "f"),
    )
    assert [one["role"] for one in found] == ["system", "user", "assistant", "user"]
    assert (found[1]["content"], found[2]["content"]) == ("a\n\nb", "c\n\nd")
    assert [part["type"] for part in found[3]["content"]] == ["text", "image_url", "text", "text"]


def test_mistral_is_told_that_a_last_assistant_s_turn_is_to_be_continued() -> None:
    found = said("mistral", HI, Message("assistant", "once"), HI, Message("assistant", "upon"))
    assert [one.get("prefix") for one in found] == [None, None, None, True]
    assert "prefix" not in said("openai", HI, Message("assistant", "upon"))[1]


# Tools and forms


@pytest.mark.parametrize(
    ("name", "choice", "sent"),
    [
        ("openai", ToolChoice("auto"), "auto"),
        ("openai", ToolChoice("none"), "none"),
        ("openai", ToolChoice("required"), "required"),
        ("mistral", ToolChoice("required"), "any"),
        ("groq", ToolChoice("tool", "f"), {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_a_choice_of_tool_is_said_in_the_provider_s_word(name: str, choice: ToolChoice, sent: object) -> None:
    assert body(name, tools=(TOOL,), tool_choice=choice)["tool_choice"] == sent


def test_a_choice_without_tools_is_not_sent() -> None:
    assert "tool_choice" not in body("openai", tool_choice=ToolChoice("none"))


@pytest.mark.parametrize(("name", "strict"), [("openai", True), ("mistral", True), ("xai", None), ("vllm", None)])
def test_a_tool_is_strict_where_the_server_knows_the_word(name: str, strict: object) -> None:
    found = body(name, tools=(msgspec.structs.replace(TOOL, strict=True),))["tools"][0]
    assert found["type"] == "function"
    assert found["function"].get("strict") == strict


def test_a_schema_that_is_not_strict_does_not_say_so() -> None:
    found = body("openai", output=Output("schema", {"type": "object"}, "place"))["response_format"]
    assert found == {"type": "json_schema", "json_schema": {"name": "place", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("openai", "call_1", True),
        ("openai", "x" * 40, True),
        ("openai", "x" * 41, False),
        ("openai", "", False),
        ("mistral", "aB3dE6gH9", True),
        ("mistral", "call_1", False),
        ("mistral", "toolu_01A_b-c", False),
    ],
)
def test_a_tool_call_s_id_is_rewritten_alike_in_call_and_result_where_it_does_not_fit(
    name: str, given: str, kept: bool
) -> None:
    found = said(name, HI, Message("assistant", "", (ToolCall(given, "f"),)), Message("tool", "r", tool_call_id=given))
    sent = found[1]["tool_calls"][0]["id"]
    assert found[2]["tool_call_id"] == sent
    assert (sent == given) is kept
    assert len(sent) in ((9,) if name == "mistral" else range(1, 41))
    assert name != "mistral" or sent.isalnum()


def test_different_ids_stay_different_when_they_are_rewritten() -> None:
    calls = tuple(ToolCall(f"call_{at}", "f") for at in range(50))
    found = said("mistral", HI, Message("assistant", "", calls))[1]["tool_calls"]
    assert len({one["id"] for one in found}) == 50


def test_mistral_s_results_name_their_tool() -> None:
    turn = (HI, Message("assistant", "", (ToolCall("c", "f"),)), Message("tool", "r", tool_call_id="c"))
    assert said("mistral", *turn)[2]["name"] == "f"
    assert "name" not in said("openai", *turn)[2]


# Turns that go back


OWN = b'{"role":"assistant","content":"a","reasoning_details":[ {"data": "\\u0078"} ]}'


def test_a_turn_goes_back_to_its_own_model_byte_for_byte() -> None:
    turn = assistant("a", provider="openrouter", model="m", own=OWN)
    assert OWN in request("openrouter", HI, turn, HI)


@pytest.mark.parametrize(("name", "model"), [("groq", "m"), ("openrouter", "other")])
def test_a_turn_of_another_goes_as_text_and_calls(name: str, model: str) -> None:
    turn = assistant("a", (ToolCall("c", "f", "{}"),), provider="openrouter", model="m", own=OWN)
    assert said(name, HI, turn, HI, model=model)[1] == {
        "role": "assistant",
        "content": "a",
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }


@pytest.mark.parametrize("name", ["deepseek", "moonshot"])
def test_turns_of_others_bring_a_blank_thinking_where_one_is_demanded(name: str) -> None:
    turn = Message("assistant", "a", (ToolCall("c", "f"),))
    result = Message("tool", "r", tool_call_id="c")
    assert said(name, HI, turn, result)[1]["reasoning_content"] == " "
    assert said(name, HI, Message("assistant", "a"), HI, tools=(TOOL,))[1]["reasoning_content"] == " "
    assert "reasoning_content" not in said(name, HI, Message("assistant", "a"), HI)[1]
    assert "reasoning_content" not in said(name, HI, turn, result, settings={"reasoning": "none"})[1]
