"""Fitting a call to what a provider and a model have."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import msgspec
import pytest

from kitaru.adapters import (
    Capabilities,
    Document,
    Endpoint,
    Image,
    Media,
    Message,
    ModelCall,
    Opaque,
    Output,
    Part,
    Provider,
    SecretStr,
    Settings,
    Text,
    Tool,
    ToolChoice,
    adapter,
    fit,
    names,
    provider,
)
from kitaru.adapters.message import assistant
from kitaru.adapters.provider import Feature, Lacks
from kitaru.errors import UnsupportedError, UsageError

EVERYTHING: frozenset[Feature] = frozenset(
    {
        "temperature", "top_p", "seed", "reasoning", "context_length", "tools", "tool_choice", "json_schema",
        "json_mode", "images", "image_urls", "documents", "document_urls", "stop", "max_tokens",
    }
)  # fmt: skip
ARRAY: dict[str, object] = {"type": "array", "items": {"type": "string"}}
PERSON: dict[str, object] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}
FREE: dict[str, object] = {"type": "object", "additionalProperties": {"type": "integer"}}
SEARCH = Tool("search", "Look it up", PERSON, strict=True)


def row(*lacked: Feature, **more: Any) -> Provider:
    """A provider that lacks some features."""
    return Provider(name="p", capabilities=Capabilities(features=EVERYTHING - set(lacked), **more))


def call(*messages: Message, **more: Any) -> ModelCall:
    return ModelCall("p", "m", messages or (Message("user", "hi"),), **more)


def test_a_call_that_asks_for_nothing_lacked_stays_as_it_is() -> None:
    asked = call(settings=Settings(temperature=0.2, stop=("x",), max_tokens=9), tools=(SEARCH,))
    found = fit(asked, row())
    assert found.call == asked
    assert (found.warnings, found.json_mode, found.wrapped) == ((), "", False)


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.0), ("top_p", 0.5), ("seed", 0), ("reasoning", "low"), ("context_length", 4096)],
)
def test_an_advisory_setting_that_is_lacked_is_left_out_with_a_warning(name: Feature, value: object) -> None:
    asked = call(settings=Settings(**{name: value, "max_tokens": 5}))  # type: ignore[arg-type]  # the case decides which
    found = fit(asked, row(name))
    assert found.call.settings == Settings(max_tokens=5)
    assert found.warnings == (f"{name} was left out: p/m does not take it",)
    with pytest.raises(UnsupportedError, match=f"p/m does not take {name}"):
        fit(msgspec.structs.replace(asked, strict=True), row(name))


def test_what_was_learned_of_a_model_counts_as_lacked() -> None:
    found = fit(call(settings=Settings(temperature=0.2)), row(), {"temperature": "it was refused"})
    assert found.call.settings.temperature is None
    assert len(found.warnings) == 1


def test_a_model_may_have_less_than_its_provider() -> None:
    lacks = (Lacks(("m*",), frozenset({"temperature"})),)
    assert fit(call(settings=Settings(temperature=0.2)), row(models=lacks)).warnings


@pytest.mark.parametrize(
    ("settings", "provider", "what"),
    [
        (Settings(stop=("x",)), row("stop"), "no stop texts"),
        (Settings(stop=("a", "b", "c")), row(most_stops=2), "at most 2 stop texts, not 3"),
        (Settings(max_tokens=5), row("max_tokens"), "no max_tokens"),
    ],
)
def test_a_binding_setting_that_is_lacked_is_refused(settings: Settings, provider: Provider, what: str) -> None:
    with pytest.raises(UnsupportedError, match=what) as caught:
        fit(call(settings=settings), provider)
    assert "p/m" in caught.value.message
    assert caught.value.hint


# ---- parts ----------------------------------------------------------------------------------------------------------

PNG = Image("image/png", b"x")
PNG_URL = Image(url="https://h/x.png")
PDF = Document("application/pdf", b"x")
PDF_URL = Document(url="https://h/x.pdf")


@pytest.mark.parametrize(
    ("part", "lacked", "what"),
    [
        (PNG, ("images", "image_urls"), "takes no images"),
        (PNG_URL, ("images", "image_urls"), "takes no images"),
        (PNG_URL, ("image_urls",), "as bytes only"),
        (PNG, ("images",), "by its address only"),
        (PDF, ("documents", "document_urls"), "takes no documents"),
        (PDF_URL, ("document_urls",), "as bytes only"),
    ],
)
def test_a_part_that_is_lacked_is_refused_and_its_message_named(
    part: Image | Document, lacked: tuple[Feature, ...], what: str
) -> None:
    asked = call(Message("system", "s"), Message("user", (Text("look"), part)))
    with pytest.raises(UnsupportedError, match=what) as caught:
        fit(asked, row(*lacked))
    assert "message 1" in caught.value.message
    if what == "as bytes only":
        assert "Download it first" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "lacked"), [(PNG, "image_urls"), (PNG_URL, "images"), (PDF, "document_urls"), (PDF_URL, "documents")]
)
def test_a_part_in_the_form_that_is_taken_passes(part: Image | Document, lacked: Feature) -> None:
    asked = call(Message("user", (part,)))
    assert fit(asked, row(lacked)).call == asked


# ---- turns of another provider --------------------------------------------------------------------------------------


def test_a_turn_of_the_same_model_keeps_its_own_form() -> None:
    said = assistant("yes", provider="p", model="m", own=b"[1]")
    found = fit(call(Message("user", "q"), said, Message("user", "why")), row())
    assert found.call.messages[1] == said
    assert found.warnings == ()


@pytest.mark.parametrize(("provider", "model"), [("other", "m"), ("p", "m2")])
def test_a_turn_of_another_model_goes_without_it_and_says_so_once(provider: str, model: str) -> None:
    said = assistant("yes", provider=provider, model=model, own=b"[1]")
    found = fit(call(said, Message("user", "why"), said), row())
    assert [message.opaque for message in found.call.messages] == [None] * 3
    assert found.call.messages[0].text == "yes"
    assert found.warnings == (f"the thinking of {provider}/{model} is not sent to p/m",)


def test_an_edited_turn_goes_without_it_and_says_so() -> None:
    said = msgspec.structs.replace(assistant("yes", provider="p", model="m", own=b"[1]"), content="no")
    found = fit(call(said), row())
    assert found.call.messages[0].opaque is None
    assert found.warnings == ("message 0 was edited: the thinking of p/m that belonged to it is left out",)


def test_a_turn_without_anything_of_its_own_passes() -> None:
    assert fit(call(Message("assistant", "yes")), row()).warnings == ()
    assert isinstance(assistant("x", provider="p", model="m", own=b"1").opaque, Opaque)


# ---- tools ----------------------------------------------------------------------------------------------------------


def test_tools_that_are_lacked_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="p/m takes no tools"):
        fit(call(tools=(SEARCH,)), row("tools"))


@pytest.mark.parametrize("mode", ["none", "required"])
def test_a_choice_that_is_lacked_is_refused_with_a_way_out(mode: Any) -> None:
    asked = call(tools=(SEARCH,), tool_choice=ToolChoice(mode))
    for lacking in (row("tool_choice"), row(tool_choices=frozenset({"tool"}))):
        with pytest.raises(UnsupportedError, match="p/m cannot") as caught:
            fit(asked, lacking)
        assert caught.value.hint


def test_auto_needs_nothing() -> None:
    asked = call(tools=(SEARCH,), tool_choice=ToolChoice("auto"))
    assert fit(asked, row("tool_choice")).call.tool_choice == ToolChoice("auto")


def test_the_only_tool_can_be_required_where_none_can_be_named() -> None:
    provider = row(tool_choices=frozenset({"required"}))
    asked = call(tools=(SEARCH,), tool_choice=ToolChoice("tool", "search"))
    assert fit(asked, provider).call.tool_choice == ToolChoice("required")
    with pytest.raises(UnsupportedError, match="one certain tool"):
        fit(msgspec.structs.replace(asked, tools=(SEARCH, Tool("other"))), provider)


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("tool", "search")])
def test_a_choice_without_tools_is_a_mistake(choice: ToolChoice) -> None:
    with pytest.raises(UsageError, match="has none"):
        fit(call(tool_choice=choice), row())


def test_a_choice_that_can_only_be_met_is_dropped_where_there_are_no_tools() -> None:
    assert fit(call(tool_choice=ToolChoice("none")), row()).call.tool_choice is None


def test_a_choice_of_an_unknown_tool_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=r"'find'.*search"):
        fit(call(tools=(SEARCH,), tool_choice=ToolChoice("tool", "find")), row())


LOOK, FIND, DO = (Tool(name, "", {"type": "object", "properties": {}}) for name in ("look", "find", "do"))


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_a_choice_of_several_tools_offers_only_these_where_they_cannot_be_named(mode: Any) -> None:
    asked = call(tools=(LOOK, FIND, DO), tool_choice=ToolChoice(mode, names=("do", "look")))
    found = fit(asked, row()).call
    assert (found.tools, found.tool_choice) == ((LOOK, DO), ToolChoice(mode))
    assert fit(asked, row(tool_sets=True)).call == asked
    with pytest.raises(UsageError, match=r"'other'.*look"):
        fit(call(tools=(LOOK,), tool_choice=ToolChoice(mode, names=("other",))), row())


@pytest.mark.parametrize(
    ("name", "choice", "written"),
    [
        (
            "openai", "required",
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
                {"type": "function", "function": {"name": "look"}},
                {"type": "function", "function": {"name": "do"}}]}}},
        ),
        (
            "openai-responses", "auto",
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [
                {"type": "function", "name": "look"}, {"type": "function", "name": "do"}]}},
        ),
        (
            "google", "required",
            {"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["look", "do"]}}},
        ),
        (
            "google", "auto",
            {"toolConfig": {"functionCallingConfig": {"mode": "VALIDATED", "allowedFunctionNames": ["look", "do"]}}},
        ),
        ("anthropic", "required", {"tool_choice": {"type": "any"}}),
    ],
)  # fmt: skip
def test_a_choice_of_several_tools_is_written_in_the_api_s_words(
    name: str, choice: Any, written: dict[str, Any]
) -> None:
    tools = (LOOK, FIND, DO)
    asked = ModelCall(
        name, "m", (Message("user", "hi"),), tools=tools, tool_choice=ToolChoice(choice, names=("look", "do"))
    )
    endpoint = Endpoint(base_url="https://h.example/v1", api_key=SecretStr("key-of-the-test"))
    sent = msgspec.json.decode(adapter(name).build_request(fit(asked, provider(name)).call, endpoint).content)
    assert {key: sent[key] for key in written} == written


def test_a_strict_tool_is_closed_where_the_provider_wants_it_and_loose_where_it_cannot_be() -> None:
    found = fit(call(tools=(SEARCH, Tool("free", "", FREE, strict=True))), row(schema_dialect="closed")).call.tools
    assert found[0].strict
    assert found[0].parameters["required"] == ["name", "age"]
    assert found[1] == Tool("free", "", {**FREE, "properties": {}})


@pytest.mark.parametrize("parameters", [{}, {"type": "object"}])
def test_a_tool_without_parameters_says_so_with_properties(parameters: dict[str, object]) -> None:
    # OpenAI: "object schema missing properties".
    for lacking in (row(), row(schema_dialect="closed")):
        (tool,) = fit(call(tools=(Tool("f", "", parameters),)), lacking).call.tools
        assert tool.parameters == {"type": "object", "properties": {}}


# ---- the form of the answer -----------------------------------------------------------------------------------------


def schema_call(schema: dict[str, object]) -> ModelCall:
    return call(output=Output("schema", schema, "answer", strict=True))


def test_a_schema_is_sent_in_the_providers_dialect() -> None:
    found = fit(schema_call(PERSON), row(schema_dialect="closed"))
    assert found.json_mode == "schema"
    assert found.call.output.strict
    assert found.call.output.schema is not None
    assert found.call.output.schema["required"] == ["name", "age"]
    assert found.call.messages == (Message("user", "hi"),)


def test_a_schema_that_cannot_be_strict_is_sent_as_it_is() -> None:
    found = fit(schema_call(FREE), row(schema_dialect="closed"))
    assert found.json_mode == "schema"
    assert found.call.output == Output("schema", FREE, "answer", strict=False)


def test_a_provider_without_loose_schemas_gets_an_instruction_instead() -> None:
    found = fit(schema_call(FREE), row("json_mode", schema_dialect="anthropic"))
    assert found.json_mode == "instruction"
    assert found.call.output == Output()
    assert '"additionalProperties":{"type":"integer"}' in found.call.messages[0].text


@pytest.mark.parametrize(
    ("lacked", "mode", "kind"),
    [
        ((), "schema", "schema"),
        (("json_schema",), "native", "json"),
        (("json_schema", "json_mode"), "instruction", "text"),
    ],
)
def test_what_is_no_object_is_wrapped_on_every_way(lacked: tuple[Feature, ...], mode: str, kind: str) -> None:
    found = fit(schema_call(ARRAY), row(*lacked, schema_dialect="closed"))
    assert (found.json_mode, found.call.output.kind, found.wrapped) == (mode, kind, True)
    if lacked:
        assert '"value"' in found.call.messages[0].text


def test_an_instruction_joins_the_system_message_that_is_there() -> None:
    lacking = row("json_schema", "json_mode")
    asked = call(Message("system", "Be kind."), Message("user", "hi"), output=Output("json"))
    first, second = fit(asked, lacking).call.messages
    assert first.role == "system"
    assert first.text.startswith("Be kind.\n\nAnswer with one JSON object and nothing else")
    assert second == Message("user", "hi")
    parts = call(Message("developer", (Text("Be kind."),)), output=Output("json"))
    assert fit(parts, lacking).call.messages[0].text.startswith("Be kind.\nAnswer")


def test_json_mode_is_told_of_json_only_where_the_prompt_does_not_speak_of_it() -> None:
    told = fit(call(output=Output("json")), row())
    assert told.json_mode == "native"
    assert "JSON" in told.call.messages[0].text
    asked = call(Message("user", "Give me json."), output=Output("json"))
    assert fit(asked, row()).call == asked


def test_without_a_json_mode_an_open_schema_does_and_else_an_instruction() -> None:
    asked = call(output=Output("json"))
    by_schema = fit(asked, row("json_mode"))
    assert by_schema.json_mode == "schema"
    assert by_schema.call.output == Output("schema", {"type": "object"}, "answer")
    by_word = fit(asked, row("json_mode", schema_dialect="anthropic"))
    assert by_word.json_mode == "instruction"
    assert by_word.call.output == Output()


@pytest.mark.parametrize("lacked", [(), ("json_mode",), ("json_mode", "json_schema")])
def test_the_keys_that_are_wanted_are_said_on_every_way(lacked: tuple[Feature, ...]) -> None:
    keys: dict[str, object] = {"type": "object", "properties": {"title": {}, "body": {}}, "required": ["title", "body"]}
    found = fit(call(Message("user", "json please"), output=Output("json", keys)), row(*lacked))
    assert '"title","body"' in found.call.messages[0].text
    assert not found.wrapped


def test_a_call_with_an_instruction_fits_again_as_it_is() -> None:
    found = fit(schema_call(PERSON), row("json_schema")).call
    assert fit(found, row()).call == found


# ---- fields that not every API has ----------------------------------------------------------------------------------


MARK: dict[str, object] = {"type": "ephemeral"}
MARKED = call(
    Message("system", (Text("long", {"cache_control": MARK}),)),
    Message("user", (Text("doc", {"cache_control": MARK}), Text("and so?")), name="ann"),
    tools=(Tool("look", "Looks", {"type": "object", "properties": {}}, more={"defer_loading": True}),),
)


@pytest.mark.parametrize("name", names())
def test_law_a_field_that_only_some_have_is_sent_or_its_absence_is_told(name: str) -> None:
    asked = msgspec.structs.replace(MARKED, provider=name, model="gpt-4.1")
    found = fit(asked, provider(name))
    endpoint = Endpoint(base_url="https://h.example/v1", api_key=SecretStr("key-of-the-test"))
    sent = adapter(name).build_request(found.call, endpoint).content.decode()
    for field, count in (("cache_control", 2), ("defer_loading", 1), ("name", 0)):
        told = [warning for warning in found.warnings if warning.startswith(f"{field} was left out")]
        shown = sent.count(f'"{field}":') if count else sent.count('"name":"ann"')
        assert (len(told), shown) in ((1, 0), (0, max(count, 1))), (field, told, sent)
    if found.warnings:
        with pytest.raises(UnsupportedError, match=" does not take "):
            fit(msgspec.structs.replace(asked, strict=True), provider(name))


@pytest.mark.parametrize("name", names())
def test_law_what_a_model_thought_goes_back_where_it_is_taken_or_its_absence_is_told(name: str) -> None:
    turn = Message("assistant", "So.", more={"reasoning_content": "the moon"})
    asked = ModelCall(name, "m", (Message("user", "hi"), turn, Message("user", "and?")))
    found = fit(asked, provider(name))
    endpoint = Endpoint(base_url="https://h.example/v1", api_key=SecretStr("key-of-the-test"))
    sent = adapter(name).build_request(found.call, endpoint).content.decode()
    told = f"reasoning_content was left out of message 1: {name}/m does not take it" in found.warnings
    assert told != ('"reasoning_content":"the moon"' in sent)
    if name in ("deepseek", "moonshot", "fireworks", "openai-compatible"):
        assert not told


def test_what_is_left_out_is_told_with_its_places() -> None:
    assert fit(MARKED, row()).warnings == (
        "cache_control was left out of message 0, message 1: p/m does not take it",
        "name was left out of message 1: p/m does not take it",
        "defer_loading was left out of tool look: p/m does not take it",
    )
    known = row(part_fields=frozenset({"cache_control"}), tool_fields=frozenset({"*"}), speakers=True)
    assert fit(MARKED, known).call == MARKED


# ---- parts of every kind --------------------------------------------------------------------------------------------


PARTS: dict[str, Part] = {
    "image": Image("image/png", b"\x89PNG-one"),
    "image_url": Image(url="https://parts.example/a.png"),
    "document": Document("application/pdf", b"%PDF-one", name="a.pdf"),
    "document_url": Document(url="https://parts.example/a.pdf"),
    "audio": Media("audio", "audio/mpeg", b"sound-one"),
    "audio_url": Media("audio", url="https://parts.example/a.mp3"),
    "video": Media("video", "video/mp4", b"video-one"),
    "video_url": Media("video", url="https://parts.example/a.mp4"),
}


@pytest.mark.parametrize("name", [name for name in names() if name != "test"])
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_law_a_part_is_sent_or_refused_before_anything_is_sent(part: Any, name: str) -> None:
    asked = ModelCall(name, "m", (Message("user", (part, Text("and?"))),))
    endpoint = Endpoint(base_url="https://h.example/v1", api_key=SecretStr("key-of-the-test"))
    try:
        sent = adapter(name).build_request(fit(asked, provider(name)).call, endpoint).content.decode()
    except UnsupportedError:
        return
    assert (part.url or base64.b64encode(part.data).decode()) in sent


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("openai", {"image", "image_url", "document", "audio"}),
        ("openai-responses", {"image", "image_url", "document", "document_url"}),
        ("anthropic", {"image", "image_url", "document", "document_url"}),
        ("google", set(PARTS)),
        ("mistral", {"image", "image_url", "document", "document_url", "audio", "audio_url"}),
        ("openrouter", set(PARTS) - {"audio_url"}),
        ("ollama", {"image"}),
    ],
)
def test_what_an_api_has_a_form_for_is_sent(name: str, kinds: set[str]) -> None:
    endpoint = Endpoint(base_url="https://h.example/v1", api_key=SecretStr("key-of-the-test"))
    sent = set()
    for kind, part in PARTS.items():
        with contextlib.suppress(UnsupportedError):
            asked = ModelCall(name, "m", (Message("user", (part,)),))
            adapter(name).build_request(fit(asked, provider(name)).call, endpoint)
            sent.add(kind)
    assert sent == kinds
