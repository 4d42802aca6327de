from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.adapters.call import Effort, ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Document, Image, Message, Text, ToolCall, assistant
from kitaru.adapters.openai_responses import ADAPTER, ROW
from kitaru.adapters.providers import adapter, provider, split_model
from kitaru.adapters.reply import Delta, Reply, Usage, require_finished
from kitaru.adapters.secret import SecretStr
from kitaru.errors import (
    AnswerError,
    CredentialError,
    ModelConnectionError,
    ModelError,
    ProviderError,
    UsageError,
)
from tests.adapters.damage import bodies, changed, cuts, torn
from tests.cases import cases

MODEL = "gpt-5-nano"
HEADERS = {"content-type": "application/json", "x-request-id": "req_9"}
SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = Tool("weather", "Of a city", SCHEMA)
ASKED = ToolCall("call_1", "weather", '{"city": "Oslo"}')
REASONING = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "**Hm**"}, {"type": "summary_text", "text": "**So**"}],
    "encrypted_content": "gAAAA/+=",
}
CALLED = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"city": "Oslo"}',
}


def call(*messages: Message, model: str = MODEL, **kw: Any) -> ModelCall:
    return ModelCall("openai-responses", model, messages or (Message("user", "hi"),), **kw)


def built(asked: ModelCall, base: str = "https://o.example/v1", *, stream: bool = False, **kw: Any) -> Any:
    endpoint = Endpoint(base_url=base, api_key=SecretStr("key-of-the-test"), **kw)
    return ADAPTER.build_request(asked, endpoint, stream=stream)


def sent(asked: ModelCall) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(built(asked).content)
    return body


def items(*messages: Message, **kw: Any) -> Any:
    return sent(call(*messages, **kw))["input"]


def said(*texts: str, **more: object) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []} for text in texts]
    return {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": content, **more}


def refused(text: str) -> dict[str, Any]:
    return {**said(), "content": [{"type": "refusal", "refusal": text}]}


def answer(*output: object, status: object = "completed", **more: object) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": "gpt-5-nano-2026-01-01",
        "output": list(output),
        "usage": {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17},
        **more,
    }


def cut_off(reason: str, *output: object) -> dict[str, Any]:
    return answer(*output, status="incomplete", incomplete_details={"reason": reason})


def parse(
    body: object, status: int = 200, headers: Mapping[str, str] = HEADERS, asked: ModelCall | None = None
) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ADAPTER.parse_response(asked or call(), status, headers, data)


def events(*payloads: dict[str, Any]) -> bytes:
    lines = [f"event: {one['type']}\ndata: {json.dumps(one, ensure_ascii=False)}\n\n" for one in payloads]
    return "".join(lines).encode("utf-8", "surrogatepass")


def pieces(body: dict[str, Any], *, every: int = 4) -> list[dict[str, Any]]:
    """Return the events that stream a response."""
    found: list[dict[str, Any]] = []

    def tell(kind: str, **more: object) -> None:
        found.append({"type": f"response.{kind}", "sequence_number": len(found), **more})

    def tell_of(kind: str, whole: str, **more: object) -> None:
        for place in range(0, len(whole), every):
            tell(kind, delta=whole[place : place + every], obfuscation="xxxx", **more)

    begun = {**body, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    tell("created", response=begun)
    tell("in_progress", response=begun)
    empty: dict[str, dict[str, Any]] = {
        "message": {"content": []},
        "function_call": {"arguments": ""},
        "reasoning": {"summary": []},
    }
    for at, item in enumerate(body["output"]):
        tell("output_item.added", output_index=at, item={**item, **empty.get(item["type"], {})})
        place: dict[str, Any] = {"output_index": at, "item_id": item["id"]}
        match item["type"]:
            case "message":
                for part_at, part in enumerate(item["content"]):
                    kind = "output_text.delta" if part["type"] == "output_text" else "refusal.delta"
                    tell("content_part.added", content_index=part_at, part=part, **place)
                    tell_of(kind, part.get("text") or part.get("refusal") or "", content_index=part_at, **place)
            case "function_call":
                tell_of("function_call_arguments.delta", item["arguments"], **place)
                tell("function_call_arguments.done", arguments=item["arguments"], **place)
            case "reasoning":
                for part_at, part in enumerate(item["summary"]):
                    tell_of("reasoning_summary_text.delta", part["text"], summary_index=part_at, **place)
        tell("output_item.done", output_index=at, item=item)
    tell(body["status"], response=body)
    return found


def stream(data: bytes, asked: ModelCall | None = None) -> tuple[list[Delta], Reply]:
    parser = ADAPTER.parse_stream(asked or call(), 200, HEADERS)
    deltas = list(parser.feed(data))
    return deltas, parser.finish()


def joined(deltas: list[Delta], kind: str, index: int = 0) -> str:
    return "".join(one.text for one in deltas if one.kind == kind and one.index == index)


# The row


def test_address_key_and_headers_are_those_of_openai() -> None:
    chat = provider("openai")
    same = ("base_url", "key_env", "base_url_env", "header_env", "quota_codes", "retryable", "request_id_headers")
    assert [getattr(ROW, name) for name in same] == [getattr(chat, name) for name in same]
    assert ROW.headers_from({"OPENAI_ORG_ID": "org"}) == {"OpenAI-Organization": "org"}


def test_the_api_has_neither_stop_nor_seed() -> None:
    assert not {"stop", "seed"} & ROW.capabilities.features
    assert {"documents", "document_urls", "json_mode", "json_schema"} <= ROW.capabilities.features


@pytest.mark.parametrize(
    ("model", "lacked"),
    [("gpt-4o-mini", {"reasoning"}), ("gpt-5-nano", {"temperature", "top_p"}), ("o3", {"temperature", "top_p"})],
)
def test_what_a_model_lacks_is_known(model: str, lacked: set[str]) -> None:
    assert ROW.capabilities.features - ROW.capabilities.of(model) == lacked


def test_a_bare_model_of_openai_is_not_claimed() -> None:
    with pytest.raises(UsageError) as caught:
        split_model("gpt-5-nano")
    assert caught.value.hint == "Did you mean 'openai/gpt-5-nano'?"


def test_the_provider_is_registered() -> None:
    assert adapter("openai-responses") is ADAPTER


# Requests


def test_a_bare_call_stores_nothing_and_asks_for_the_thinking() -> None:
    assert sent(call()) == {
        "model": MODEL,
        "input": [{"role": "user", "content": "hi"}],
        "store": False,
        "include": ["reasoning.encrypted_content"],
    }


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "gpt-5-chat-latest", "chatgpt-4o-latest", "ft:gpt-4o:x"])
def test_a_model_that_does_not_think_is_not_asked_for_its_thinking(model: str) -> None:
    assert "include" not in sent(call(model=model))


def test_the_request_goes_below_the_base_url_with_a_bearer_key() -> None:
    request = built(call(), "https://o.example/v1/?x=1")
    assert str(request.url) == "https://o.example/v1/responses?x=1"
    assert request.headers["authorization"] == "Bearer key-of-the-test"


def test_settings_become_their_fields() -> None:
    asked = Settings(temperature=0.2, top_p=0.9, max_tokens=50, reasoning="low")
    body = json.loads(built(call(settings=asked), stream=True).content)
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.2, 0.9, 50)
    assert body["reasoning"] == {"effort": "low"}
    assert body["stream"] is True


@pytest.mark.parametrize(
    ("asked", "effort"),
    [("none", "none"), ("max", "max"), (0, "none"), (3000, "low"), (9000, "medium"), (99_000, "high")],
)
def test_a_budget_becomes_an_effort(asked: Effort | int, effort: str) -> None:
    assert sent(call(settings=Settings(reasoning=asked)))["reasoning"] == {"effort": effort}


def test_extra_adds_to_what_the_settings_put_into_an_object_or_a_list() -> None:
    extra: dict[str, object] = {
        "store": True,
        "include": ["web_search_call.action.sources"],
        "reasoning": {"summary": "auto"},
        "text": {"verbosity": "low"},
        "tools": [{"type": "web_search"}],
    }
    body = sent(call(tools=(WEATHER,), output=Output("json"), settings=Settings(reasoning="low", extra=extra)))
    assert body["store"] is True
    assert body["include"] == ["reasoning.encrypted_content", "web_search_call.action.sources"]
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
    assert body["text"] == {"format": {"type": "json_object"}, "verbosity": "low"}
    assert [tool["type"] for tool in body["tools"]] == ["function", "web_search"]


@pytest.mark.parametrize("name", ["model", "input", "instructions", "stream", "background", "max_output_tokens"])
def test_extra_may_not_hold_what_has_a_setting(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        sent(call(settings=Settings(extra={name: 1})))


def test_extra_may_not_hold_the_form_of_the_answer() -> None:
    with pytest.raises(UsageError, match=r"text\.format"):
        sent(call(settings=Settings(extra={"text": {"format": {}}})))


def test_a_schema_is_the_text_s_flat_format() -> None:
    assert sent(call(output=Output("schema", SCHEMA, "place", strict=True)))["text"] == {
        "format": {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}
    }


def test_a_tool_always_says_whether_it_is_strict() -> None:
    assert sent(call(tools=(WEATHER, Tool("t", "", SCHEMA, strict=True))))["tools"] == [
        {"type": "function", "name": "weather", "description": "Of a city", "parameters": SCHEMA, "strict": False},
        {"type": "function", "name": "t", "parameters": SCHEMA, "strict": True},
    ]


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (ToolChoice("auto"), "auto"),
        (ToolChoice("none"), "none"),
        (ToolChoice("required"), "required"),
        (ToolChoice("tool", "weather"), {"type": "function", "name": "weather"}),
    ],
)
def test_a_choice_of_tools_is_written_in_the_api_s_words(choice: ToolChoice, written: object) -> None:
    assert sent(call(tools=(WEATHER,), tool_choice=choice))["tool_choice"] == written


# Items


def test_instructions_that_begin_a_conversation_stand_apart() -> None:
    body = sent(call(Message("system", "a"), Message("system", "b"), Message("user", "hi"), Message("system", "c")))
    assert body["instructions"] == "a\n\nb"
    assert body["input"] == [{"role": "user", "content": "hi"}, {"role": "system", "content": "c"}]


def test_a_developer_s_message_stays_an_item() -> None:
    body = sent(call(Message("developer", "a"), Message("user", "hi")))
    assert body["input"][0] == {"role": "developer", "content": "a"}
    assert "instructions" not in body


def test_instructions_alone_are_an_item() -> None:
    assert items(Message("system", "say hi")) == [{"role": "system", "content": "say hi"}]


def test_json_mode_finds_its_word_among_the_items() -> None:
    body = sent(call(Message("system", "Answer in JSON."), Message("user", "hi"), output=Output("json")))
    assert body["input"][0] == {"role": "system", "content": "Answer in JSON."}


def test_a_turn_with_calls_and_their_results_are_items_of_their_own() -> None:
    found = items(
        Message("user", "hi"),
        assistant("let me see", (ASKED, ToolCall("call_2", "weather", "{}"))),
        Message("tool", "rain", tool_call_id="call_1"),
        Message("tool", "", tool_call_id="call_2", is_error=True),
    )
    assert found[1:] == [
        {"role": "assistant", "content": "let me see"},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call", "call_id": "call_2", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
        {"type": "function_call_output", "call_id": "call_2", "output": ""},
    ]


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_an_id_of_another_provider_is_rewritten_alike_in_call_and_result(name: str) -> None:
    found = items(
        Message("user", "hi"), assistant("", (ToolCall(name, "weather"),)), Message("tool", "rain", tool_call_id=name)
    )
    assert found[1]["call_id"] == found[2]["call_id"] != name
    assert 0 < len(found[1]["call_id"]) <= 64


def test_images_and_documents_are_parts() -> None:
    parts = (
        Text("what?"),
        Image("image/png", b"\x89PNG"),
        Image(url="https://h.example/a.png", detail="low"),
        Document("application/pdf", b"%PDF"),
        Document("application/pdf", b"%PDF", name="a.pdf"),
        Document(url="https://h.example/a.pdf"),
    )
    pdf = "data:application/pdf;base64,JVBERg=="
    assert items(Message("user", parts))[0]["content"] == [
        {"type": "input_text", "text": "what?"},
        {"type": "input_image", "image_url": "data:image/png;base64,iVBORw==", "detail": "auto"},
        {"type": "input_image", "image_url": "https://h.example/a.png", "detail": "low"},
        {"type": "input_file", "filename": "document.pdf", "file_data": pdf},
        {"type": "input_file", "filename": "a.pdf", "file_data": pdf},
        {"type": "input_file", "file_url": "https://h.example/a.pdf"},
    ]


def test_a_tool_may_show_an_image() -> None:
    shown = Message("tool", (Text("here"), Image("image/png", b"\x89PNG")), tool_call_id="call_1")
    output = items(Message("user", "hi"), assistant("", (ASKED,)), shown)[2]["output"]
    assert [part["type"] for part in output] == ["input_text", "input_image"]


# Replies


def test_a_reply_is_read() -> None:
    reply = parse(answer(said("hel", "lo"), said(" there")))
    assert (reply.text, reply.finish, reply.model) == ("hello there", "stop", "gpt-5-nano-2026-01-01")
    assert (reply.request_id, reply.warnings, reply.refusal) == ("req_9", (), None)
    assert reply.message == assistant("hello there")


def test_a_call_is_named_by_what_its_result_answers() -> None:
    reply = parse(answer(said("see"), CALLED))
    assert (reply.finish, reply.tool_calls) == ("tool_calls", (ASKED,))


def test_calls_without_ids_get_distinct_ones() -> None:
    bare = {"type": "function_call", "name": "weather", "arguments": "{}"}
    names = [one.id for one in parse(answer(bare, bare)).tool_calls]
    assert len(set(names)) == 2
    assert all(names)


def test_arguments_that_are_not_json_are_kept_as_written() -> None:
    assert parse(answer({**CALLED, "arguments": "{city"})).tool_calls[0].arguments == "{city"


@pytest.mark.parametrize(
    ("body", "finish"),
    [
        (answer(said("x")), "stop"),
        (answer(CALLED), "tool_calls"),
        (cut_off("max_output_tokens", said("x")), "length"),
        (cut_off("content_filter", said("x")), "content_filter"),
        (cut_off("max_messages", said("x")), "other"),
        (cut_off("steered", said("x")), "other"),
        (answer(said("x"), status="incomplete"), "other"),
        (answer(status="cancelled"), "error"),
        (answer(status="queued"), "other"),
        (answer(status="in_progress"), "other"),
        (answer(status=7), "other"),
        (answer(refused("no")), "content_filter"),
    ],
)
def test_why_it_stopped_is_put_in_neutral_words(body: object, finish: str) -> None:
    assert parse(body).finish == finish


def test_an_incomplete_answer_keeps_its_text_and_says_so() -> None:
    reply = parse(cut_off("max_output_tokens", said("hel")))
    assert (reply.text, reply.warnings) == ("hel", ("the text was cut off by the token limit",))


def test_tokens_spent_on_thinking_alone_are_no_answer() -> None:
    with pytest.raises(AnswerError, match="token limit"):
        require_finished("openai", parse(cut_off("max_output_tokens", REASONING)))


def test_a_refusal_is_a_reply_with_its_words() -> None:
    reply = parse(answer(refused("I cannot help with that.")))
    assert (reply.text, reply.refusal) == ("", "I cannot help with that.")
    with pytest.raises(AnswerError, match="I cannot help"):
        require_finished("openai", reply)


def test_usage_is_read_with_all_that_has_a_price() -> None:
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 20},
        "output_tokens": 50,
        "output_tokens_details": {"reasoning_tokens": 40},
        "total_tokens": 150,
    }
    tools = {"web_search": {"num_requests": 3}, "image_gen": {}}
    reply = parse(answer(said("x"), usage=usage, tool_usage=tools, service_tier="flex"))
    assert reply.usage == Usage(100, 50, 60, 20, 40, searches=3, tier="flex")


def test_the_usual_tier_has_no_name() -> None:
    assert parse(answer(said("x"), service_tier="default")).usage.tier == ""


@pytest.mark.parametrize("usage", [7, {"input_tokens": "12"}, {"input_tokens": 1, "output_tokens": -1}])
def test_usage_that_cannot_be_read_spoils_no_answer(usage: object) -> None:
    reply = parse(answer(said("x"), usage=usage))
    assert reply.text == "x"
    assert "the provider's usage could not be read in full" in reply.warnings


def test_an_absent_usage_is_unknown_not_nothing() -> None:
    assert parse(answer(said("x"), usage=None)).usage == Usage()


def test_thinking_that_is_shown_is_read() -> None:
    open_model = {
        "id": "rs_2",
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "ah"}],
    }
    assert parse(answer(REASONING, open_model, said("x"))).reasoning == "**Hm**\n\n**So**\n\nah"


# Turns that go back as they came


def test_thinking_goes_back_byte_for_byte_and_in_its_place() -> None:
    reasoning = '{"id":"rs_1", "type":"reasoning","summary":[],"encrypted_content":"g\\u0041A\\/+="}'
    phased = '{"type":"message","id":"msg_1","role":"assistant","phase":"commentary","content":[],"status":"completed"}'
    output = f"[ {reasoning} ,{phased},{json.dumps(CALLED)}]"
    body = json.dumps(answer()).replace('"output": []', f'"output": {output}').encode()
    reply = parse(body)
    request = built(call(Message("user", "hi"), reply.message, Message("tool", "rain", tool_call_id="call_1")))
    assert f'{reasoning},{phased},{json.dumps(CALLED)},{{"type":"function_call_output"'.encode() in request.content


def test_thinking_is_not_sent_to_another_model() -> None:
    reply = parse(answer(REASONING, said("hello")))
    assert items(Message("user", "hi"), reply.message, model="gpt-4o")[1] == {"role": "assistant", "content": "hello"}


def test_an_edited_turn_is_written_anew() -> None:
    message = parse(answer(REASONING, said("hello"))).message
    edited = Message("assistant", "HELLO", opaque=message.opaque)
    assert items(Message("user", "hi"), edited)[1] == {"role": "assistant", "content": "HELLO"}


def test_thinking_that_is_only_named_goes_back_only_to_where_it_is_stored() -> None:
    message = parse(answer({**REASONING, "encrypted_content": None}, said("hello", phase="final_answer"))).message
    messages = (Message("user", "hi"), message)
    assert [one.get("type") for one in items(*messages)[1:]] == ["message"]
    stored = items(*messages, settings=Settings(extra={"store": True}))
    assert [one.get("type") for one in stored[1:]] == ["reasoning", "message"]


def test_a_turn_of_text_and_calls_alone_is_not_kept_twice() -> None:
    assert parse(answer(said("x"), CALLED)).message.opaque is None


@pytest.mark.parametrize(
    "item",
    [
        said("x", phase="final_answer"),
        {**said(), "content": [{"type": "output_text", "text": "x", "annotations": [{"type": "url_citation"}]}]},
        {"id": "ws_1", "type": "web_search_call", "status": "completed"},
    ],
)
def test_whatever_is_more_than_text_and_calls_is_kept(item: dict[str, Any]) -> None:
    reply = parse(answer(item))
    assert items(Message("user", "hi"), reply.message)[1] == item


# Errors


def test_a_failed_response_is_an_error() -> None:
    fault = {"code": "server_error", "message": "The server had an error."}
    with pytest.raises(ProviderError, match="The server had an error") as caught:
        parse(answer(status="failed", error=fault))
    assert (caught.value.retryable, caught.value.provider_code, caught.value.status) == (True, "server_error", 200)


def test_a_failed_response_without_a_reason_is_an_error_too() -> None:
    with pytest.raises(ProviderError, match="no reason is given"):
        parse(answer(said("x"), status="failed"))


@pytest.mark.parametrize(
    ("code", "retryable", "reason"),
    [("rate_limit_exceeded", True, "rate_limit"), ("invalid_prompt", False, "other"), ("bio_policy", False, "other")],
)
def test_why_a_response_failed_decides_whether_to_try_again(code: str, retryable: bool, reason: str) -> None:
    with pytest.raises(ProviderError) as caught:
        parse(answer(status="failed", error={"code": code, "message": "no"}))
    assert (caught.value.retryable, caught.value.reason) == (retryable, reason)


def test_a_spent_quota_is_not_retried() -> None:
    fault = {"type": "insufficient_quota", "code": "credit_balance_exhausted", "message": "pay", "param": None}
    with pytest.raises(ProviderError) as caught:
        parse({"error": fault}, 429)
    assert (caught.value.retryable, caught.value.reason, caught.value.request_id) == (False, "quota", "req_9")


@pytest.mark.parametrize(
    ("param", "setting"), [("temperature", "temperature"), ("reasoning.effort", "reasoning"), ("tools", "")]
)
def test_a_setting_that_is_refused_is_named(param: str, setting: str) -> None:
    fault = {"type": "invalid_request_error", "code": "unsupported_value", "message": "Unsupported.", "param": param}
    with pytest.raises(ProviderError) as caught:
        parse({"error": fault}, 400)
    assert caught.value.refuses == setting


def test_a_refused_key_is_a_credential_error() -> None:
    with pytest.raises(CredentialError, match="OPENAI_API_KEY"):
        parse({"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}, 401)


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        answer() | {"output": None},
        answer("x"),
        answer({"id": "x"}),
        answer({"type": "message", "content": "x"}),
        answer({"type": "message", "content": [{"type": "output_text", "text": 7}]}),
    ],
)
def test_a_body_of_another_form_is_malformed(body: object) -> None:
    with pytest.raises(ProviderError) as caught:
        parse(body)
    assert (caught.value.reason, caught.value.request_id, caught.value.retryable) == ("invalid", "req_9", False)


# Streams

ANSWERS = {
    "text": answer(said("Grüße 👋 from here")),
    "texts": answer(said("one", " two"), said(" three")),
    "empty": answer(),
    "thinking": answer(REASONING, said("yes")),
    "calls": answer(REASONING, said("see"), CALLED, {**CALLED, "id": "fc_2", "call_id": "call_2", "arguments": "{}"}),
    "no arguments": answer({**CALLED, "arguments": ""}),
    "refusal": answer(refused("I cannot help with that.")),
    "incomplete": cut_off("max_output_tokens", said("Grü")),
    "filtered": cut_off("content_filter", said("x")),
    "search": answer({"id": "ws_1", "type": "web_search_call", "status": "completed"}, said("found")),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_stream_gives_the_plain_answer_s_reply(name: str) -> None:
    body = ANSWERS[name]
    deltas, streamed = stream(events(*pieces(body)))
    plain = parse(body)
    for field in ("text", "finish", "usage", "model", "request_id", "refusal", "reasoning", "warnings", "message"):
        if field != "message" or plain.message.opaque is None:
            assert getattr(streamed, field) == getattr(plain, field), field
    assert items(Message("user", "hi"), streamed.message) == items(Message("user", "hi"), plain.message)
    assert json.loads(streamed.raw) == body
    assert joined(deltas, "text") == plain.text
    assert joined(deltas, "reasoning") == plain.reasoning
    assert joined(deltas, "refusal") == (plain.refusal or "")


def test_pieces_of_calls_come_as_they_arrive() -> None:
    deltas, _ = stream(events(*pieces(ANSWERS["calls"])))
    begun = [one for one in deltas if one.kind == "tool_call" and one.name]
    assert [(one.index, one.id, one.name) for one in begun] == [(0, "call_1", "weather"), (1, "call_2", "weather")]
    assert (joined(deltas, "tool_call"), joined(deltas, "tool_call", 1)) == ('{"city": "Oslo"}', "{}")


@pytest.mark.parametrize("left_out", [{"delta"}, {"delta", "done"}, {"delta", "done", "added"}])
def test_a_call_that_comes_whole_is_streamed_whole(left_out: set[str]) -> None:
    found = [
        one
        for one in pieces(answer(CALLED))
        if one["type"] == "response.output_item.done" or one["type"].rpartition(".")[2] not in left_out
    ]
    deltas, reply = stream(events(*found))
    assert joined(deltas, "tool_call") == reply.tool_calls[0].arguments == '{"city": "Oslo"}'


@pytest.mark.parametrize("output", [None, []])
def test_an_output_that_the_last_event_leaves_out_is_that_of_the_items(output: object) -> None:
    found = pieces(answer(REASONING, said("hello")))
    found[-1]["response"] = {**found[-1]["response"], "output": output}
    _, reply = stream(events(*found))
    assert reply.text == "hello"
    assert items(Message("user", "hi"), reply.message)[1:] == [REASONING, said("hello")]


@pytest.mark.parametrize(
    "last",
    [
        answer(said("another")),
        answer(CALLED),
        answer(refused("no")),
        answer(said("hello"), {**CALLED, "arguments": '{"city": "Bergen"}'}),
    ],
)
def test_an_answer_that_its_pieces_do_not_add_up_to_is_malformed(last: dict[str, Any]) -> None:
    found = pieces(answer(said("hello"), CALLED))
    found[-1]["response"] = last
    with pytest.raises(ProviderError, match="do not add up"):
        stream(events(*found))


def test_events_that_are_new_are_let_pass() -> None:
    found = pieces(answer(said("hello")))
    found.insert(3, {"type": "response.something.new", "delta": 7})
    assert stream(events(*found) + b"data: [DONE]\n\n")[1].text == "hello"


@pytest.mark.parametrize(
    "fault",
    [
        {"type": "error", "code": "server_error", "message": "Sorry", "param": None, "sequence_number": 3},
        {"type": "error", "error": {"type": "server_error", "code": "server_error", "message": "Sorry"}},
        {
            "type": "response.failed",
            "response": answer(status="failed", error={"code": "server_error", "message": "Sorry"}),
        },
    ],
)
def test_an_error_in_the_middle_is_an_error(fault: dict[str, Any]) -> None:
    with pytest.raises(ProviderError, match="Sorry") as caught:
        stream(events(*pieces(answer(said("hello")))[:5], fault))
    assert (caught.value.retryable, caught.value.request_id, caught.value.status) == (True, "req_9", 200)


@pytest.mark.parametrize("kept", range(len(pieces(answer(said("hello"))))))
def test_a_stream_without_its_end_is_no_answer(kept: int) -> None:
    with pytest.raises(ModelConnectionError, match=r"response\.completed") as caught:
        stream(events(*pieces(answer(said("hello")))[:kept]))
    assert caught.value.sent


def test_a_plain_answer_instead_of_a_stream_is_read() -> None:
    assert stream(json.dumps(answer(said("hello")), indent=1).encode())[1].text == "hello"


def test_a_bare_error_instead_of_a_stream_is_found() -> None:
    with pytest.raises(ProviderError, match="overloaded"):
        stream(b'{"error": {"message": "overloaded", "code": "server_error"}}')


@pytest.mark.parametrize(
    "data",
    [
        b"data: {\n\n",
        b"data: [3]\n\n",
        b"<html>bad gateway</html>\n",
        events({"type": "response.completed"}),
        events({"type": "response.completed", "response": 7}),
        events({"type": "response.output_text.delta", "delta": 7}),
        events({"type": "response.output_item.added", "item": 7}),
        events({"type": "response.output_item.done"}),
        events({"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{"}),
        events(*pieces(answer(CALLED))[2:3] * 2),
    ],
)
def test_a_stream_of_another_form_is_malformed(data: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        stream(data)
    assert (caught.value.reason, caught.value.request_id) == ("invalid", "req_9")


# Whatever arrives

EVERYTHING = answer(
    REASONING,
    said("hel", "lo", phase="final_answer"),
    refused("no"),
    CALLED,
    {"id": "ws_1", "type": "web_search_call", "status": "completed"},
    status="incomplete",
    incomplete_details={"reason": "max_output_tokens"},
    usage={
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 1},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1},
    },
    tool_usage={"web_search": {"num_requests": 1}},
    service_tier="flex",
)
FAULT = {"error": {"type": "x", "code": "y", "message": "z", "param": "temperature"}}


def survived(read: Any, status: int = 200) -> None:
    """Check that reading gives a reply that can go back, or an error that says of what it is."""
    try:
        reply = read()
    except ModelError as caught:
        error = caught
    else:
        assert isinstance(reply, Reply)
        items(Message("user", "hi"), reply.message)
        return
    if isinstance(error, ProviderError):
        assert (error.status, error.request_id) == (status, "req_9")
    else:
        assert isinstance(error, ModelConnectionError | CredentialError | AnswerError)
    assert "openai-responses" in str(error)


@settings(max_examples=cases(300), deadline=None)
@given(bodies(EVERYTHING))
def test_no_body_raises_anything_but_a_model_error(body: bytes) -> None:
    survived(lambda: parse(body))


@settings(max_examples=cases(100), deadline=None)
@given(bodies(FAULT), st.sampled_from([400, 401, 403, 404, 413, 429, 500, 503, 302]))
def test_no_error_raises_anything_but_a_model_error(body: bytes, status: int) -> None:
    survived(lambda: parse(body, status), status)


@settings(max_examples=cases(300), deadline=None)
@given(changed(pieces(EVERYTHING)))
def test_no_stream_raises_anything_but_a_model_error(found: Any) -> None:
    payloads = found if isinstance(found, list) else [found]
    survived(lambda: stream(b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in payloads))[1])


@settings(max_examples=cases(100), deadline=None)
@given(torn(events(*pieces(EVERYTHING))))
def test_no_torn_stream_raises_anything_but_a_model_error(data: bytes) -> None:
    survived(lambda: stream(data)[1])


@settings(max_examples=cases(100), deadline=None)
@given(cuts(events(*pieces(answer(REASONING, said("Grüße 👋"), CALLED)))))
def test_where_a_stream_is_cut_makes_no_difference(parts: list[bytes]) -> None:
    deltas, reply = stream(b"".join(parts))
    parser = ADAPTER.parse_stream(call(), 200, HEADERS)
    found = [delta for part in parts for delta in parser.feed(part)]
    assert found == deltas
    assert parser.finish() == reply
