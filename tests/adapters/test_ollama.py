from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.adapters.call import Effort, ModelCall, Output, Settings, Tool
from kitaru.adapters.call_ids import is_made
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Document, Image, Message, Text, ToolCall, assistant
from kitaru.adapters.ollama import ADAPTER, ROW, server_url
from kitaru.adapters.reply import Delta, Reply, Usage
from kitaru.adapters.secret import SecretStr
from kitaru.errors import ModelConnectionError, ProviderError, UnsupportedError, UsageError
from tests.adapters.damage import bodies, cuts, one_changed, outcome, told, torn
from tests.cases import cases

HEADERS = {"content-type": "application/json", "x-request-id": "req-9"}


def call(*messages: Message, model: str = "llama3.2:1b", **kw: Any) -> ModelCall:
    return ModelCall("ollama", model, messages or (Message("user", "hi"),), **kw)


def built(asked: ModelCall, base: str = "http://localhost:11434", *, stream: bool = False) -> Any:
    return ADAPTER.build_request(asked, Endpoint(base_url=base), stream=stream)


def sent(asked: ModelCall, *, stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(built(asked, stream=stream).content)
    return body


def answer(content: object = "hello", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    counts = {"prompt_eval_count": 7, "eval_count": 3, "total_duration": 5_000_000}
    return {"model": "llama3.2:1b", "message": message, "done": True, "done_reason": "stop", **counts, **more}


def parse(
    body: object, status: int = 200, headers: Mapping[str, str] = HEADERS, asked: ModelCall | None = None
) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ADAPTER.parse_response(asked or call(), status, headers, data)


def lines(*payloads: object) -> bytes:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in payloads).encode("utf-8", "surrogatepass")


def stream(data: bytes) -> tuple[list[Delta], Reply]:
    parser = ADAPTER.parse_stream(call(), 200, HEADERS)
    deltas = list(parser.feed(data))
    return deltas, parser.finish()


# Addresses


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("[::]:11434", "http://[::1]:11434"),
        ("::", "http://[::1]:11434"),
        ("myhost", "http://myhost:11434"),
        ("myhost/", "http://myhost:11434"),
        ("myhost:8080", "http://myhost:8080"),
        ("myhost:8080/path/", "http://myhost:8080/path"),
        (":11434", "http://127.0.0.1:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("", "http://127.0.0.1:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("::1", "http://[::1]:11434"),
        ("http://myhost", "http://myhost:80"),
        ("https://myhost", "https://myhost:443"),
        ("HTTPS://myhost", "https://myhost:443"),
        ("https://myhost:8443/a/b/", "https://myhost:8443/a/b"),
        ("https://[::1]/a", "https://[::1]:443/a"),
        ("https://ollama.com", "https://ollama.com:443"),
        (" 'myhost:8080' ", "http://myhost:8080"),
        ('" myhost "', "http://myhost:11434"),
    ],
)
def test_a_host_may_be_spelled_in_many_ways(host: str, url: str) -> None:
    assert server_url(host) == url
    assert server_url(url) == url


@pytest.mark.parametrize("host", ["myhost:port", "http://a:b@host", "my host", "http://[::1", "a\nb"])
def test_a_host_that_is_none_is_refused_when_it_is_called(host: str) -> None:
    with pytest.raises(UsageError, match="base URL for ollama"):
        built(call(), server_url(host))


@pytest.mark.parametrize(
    ("environ", "base"),
    [
        ({}, "http://localhost:11434"),
        ({"OLLAMA_HOST": "  "}, "http://localhost:11434"),
        ({"OLLAMA_HOST": "''"}, "http://localhost:11434"),
        ({"OLLAMA_HOST": "0.0.0.0"}, "http://127.0.0.1:11434"),
    ],
)
def test_the_address_comes_from_the_environment(environ: dict[str, str], base: str) -> None:
    assert ROW.base_url_from(environ) == base


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("http://h:1", "http://h:1/api/chat"),
        ("http://h:1/x/", "http://h:1/x/api/chat"),
        ("http://h:1/api/", "http://h:1/api/chat"),
        ("http://h:1/api/chat", "http://h:1/api/chat"),
        ("http://h:1/v1", "http://h:1/api/chat"),
        ("http://h:1/x/v1/chat/completions", "http://h:1/x/api/chat"),
        ("http://h:1/x/v10", "http://h:1/x/v10/api/chat"),
        ("h:1", "http://h:1/api/chat"),
    ],
)
def test_the_path_is_added_to_any_address(base: str, url: str) -> None:
    assert str(built(call(), base).url) == url


def test_a_key_is_sent_only_where_there_is_one() -> None:
    assert "authorization" not in built(call(), "https://ollama.com").headers
    endpoint = Endpoint(base_url="https://ollama.com", api_key=SecretStr("key-of-the-test"))
    assert ADAPTER.build_request(call(), endpoint).headers["authorization"] == "Bearer key-of-the-test"


# Requests


@pytest.mark.parametrize("stream", [True, False])
def test_a_plain_call_is_small_and_says_whether_it_streams(stream: bool) -> None:
    assert sent(call(), stream=stream) == {
        "model": "llama3.2:1b",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": stream,
    }


def test_all_settings_are_options() -> None:
    asked = Settings(temperature=0.5, max_tokens=9, top_p=0.25, stop=("END",), seed=0, context_length=8192)
    assert sent(call(settings=asked))["options"] == {
        "temperature": 0.5,
        "num_predict": 9,
        "top_p": 0.25,
        "stop": ["END"],
        "seed": 0,
        "num_ctx": 8192,
    }


def test_extra_adds_options_and_fields() -> None:
    asked = Settings(seed=1, extra={"options": {"top_k": 4}, "keep_alive": "5m"})
    body = sent(call(settings=asked))
    assert (body["options"], body["keep_alive"]) == ({"seed": 1, "top_k": 4}, "5m")


@pytest.mark.parametrize("extra", [{"options": {"num_ctx": 1}}, {"options": []}, {"format": "json"}])
def test_extra_may_not_hold_what_has_a_setting(extra: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="extra"):
        sent(call(settings=Settings(extra=extra)))


@pytest.mark.parametrize(
    ("model", "effort", "think"),
    [
        ("qwen3", "none", False),
        ("qwen3", 0, False),
        ("qwen3", "low", True),
        ("qwen3", 500, True),
        ("gpt-oss:20b", "none", "low"),
        ("gpt-oss:20b", "medium", "medium"),
        ("gpt-oss:20b", "max", "high"),
        ("gpt-oss:20b", 1000, "low"),
        ("gpt-oss:20b", 5000, "medium"),
        ("gpt-oss:20b", 50_000, "high"),
    ],
)
def test_an_effort_switches_thinking_on_and_is_a_level_for_gpt_oss(
    model: str, effort: Effort | int, think: bool | str
) -> None:
    assert sent(call(model=model, settings=Settings(reasoning=effort)))["think"] == think


def test_json_and_a_schema_are_formats() -> None:
    schema: dict[str, object] = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert sent(call(output=Output("schema", schema)))["format"] == schema
    assert sent(call(output=Output("json")))["format"] == "json"


def test_tools_have_openais_form() -> None:
    tool = Tool("weather", "Of a city", {"type": "object", "properties": {"city": {"type": "string"}}})
    assert sent(call(tools=(tool,)))["tools"] == [
        {
            "type": "function",
            "function": {"name": "weather", "description": "Of a city", "parameters": tool.parameters},
        }
    ]
    assert "tool_choice" not in ROW.capabilities.features


def test_images_stand_beside_the_text_in_base64() -> None:
    message = Message("user", (Text("look"), Image("image/png", b"x"), Text("here")))
    assert sent(call(message))["messages"] == [{"role": "user", "content": "look\nhere", "images": ["eA=="]}]


@pytest.mark.parametrize("part", [Image(url="https://h.example/a.png"), Document("application/pdf", b"x")])
def test_what_is_not_the_bytes_of_an_image_is_refused(part: Image | Document) -> None:
    with pytest.raises(UnsupportedError):
        sent(call(Message("user", (part,))))


def test_a_conversation_of_another_provider_can_be_sent() -> None:
    body = sent(
        call(
            Message("developer", "be brief"),
            Message("user", "hi"),
            assistant("wait", [ToolCall("c1", "weather", '{"city":"Rome"}'), ToolCall("c2", "now", "")]),
            Message("tool", "warm", tool_call_id="c1"),
            Message("tool", "noon", tool_call_id="c2", name="now"),
        )
    )
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": "wait",
            "tool_calls": [
                {"id": "c1", "function": {"name": "weather", "arguments": {"city": "Rome"}}},
                {"id": "c2", "function": {"name": "now", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "warm", "tool_name": "weather", "tool_call_id": "c1"},
        {"role": "tool", "content": "noon", "tool_name": "now", "tool_call_id": "c2"},
    ]


# Answers

CALLS = [{"function": {"name": "now", "arguments": {"a": 1}}}, {"function": {"name": "now", "arguments": {"a": 1}}}]


def test_an_answer_is_read() -> None:
    reply = parse(answer())
    assert (reply.text, reply.finish, reply.model, reply.usage) == ("hello", "stop", "llama3.2:1b", Usage(7, 3))
    assert reply.message == Message("assistant", "hello")


def test_calls_without_ids_get_distinct_ones_which_are_not_sent() -> None:
    reply = parse(answer("", message={"tool_calls": CALLS}))
    first, second = reply.tool_calls
    assert (first.name, first.arguments, reply.finish) == ("now", '{"a":1}', "tool_calls")
    assert first.id != second.id
    assert is_made(first.id)
    messages = sent(call(Message("user", "hi"), reply.message, Message("tool", "x", tool_call_id=first.id)))["messages"]
    assert messages[1]["tool_calls"] == CALLS
    assert messages[2] == {"role": "tool", "content": "x", "tool_name": "now"}


def test_ids_of_newer_servers_are_kept() -> None:
    named = [{"id": "call_a", "function": {"index": 0, "name": "now", "arguments": {}}}]
    reply = parse(answer("", message={"tool_calls": named}))
    assert reply.tool_calls == (ToolCall("call_a", "now", "{}"),)


def test_thinking_goes_back_as_it_came() -> None:
    reply = parse(answer("a", message={"thinking": "hm é", "tool_calls": CALLS}))
    assert reply.reasoning == "hm é"
    message = sent(call(Message("user", "hi"), reply.message))["messages"][1]
    assert message == {"role": "assistant", "content": "a", "thinking": "hm é", "tool_calls": CALLS}


def test_another_model_does_not_get_the_thinking() -> None:
    reply = parse(answer("a", message={"thinking": "hm"}))
    assert sent(call(reply.message, model="qwen3"))["messages"] == [{"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("length", "length"), ("load", "other"), ("unload", "other"), (None, "stop")],
)
def test_every_done_reason_has_its_word(reason: object, finish: str) -> None:
    assert parse(answer(done_reason=reason)).finish == finish


def test_a_cached_prompt_is_not_counted() -> None:
    body = answer()
    del body["prompt_eval_count"]
    assert parse(body).usage == Usage(None, 3)


# Errors


def error_of(body: object, status: int) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        parse(body, status)
    return caught.value


@pytest.mark.parametrize("message", ["model 'llama3.2:1b' not found", 'model "x" not found, try pulling it first'])
def test_a_model_that_is_not_there_can_be_pulled(message: str) -> None:
    error = error_of({"error": message}, 404)
    assert (error.reason, error.retryable) == ("not_found", False)
    assert error.hint == "Fetch it first: kitaru model pull llama3.2:1b"


def test_another_404_is_a_matter_of_the_address() -> None:
    hint = str(error_of(b"404 page not found", 404).hint)
    assert "pull" not in hint
    assert "ollama's own is http://localhost:11434" in hint


@pytest.mark.parametrize(
    ("message", "refuses"),
    [
        ('"llama3.2:1b" does not support thinking', "reasoning"),
        ('think value "low" is not supported for this model', "reasoning"),
        ("registry.ollama.ai/library/x does not support tools", ""),
    ],
)
def test_a_refused_setting_is_named(message: str, refuses: str) -> None:
    assert error_of({"error": message}, 400).refuses == refuses


def test_a_full_queue_is_waited_for() -> None:
    error = error_of({"error": "server busy, please try again. maximum pending requests exceeded"}, 503)
    assert (error.retryable, error.reason) == (True, "overloaded")


def test_an_error_inside_a_success_is_found() -> None:
    assert "broke" in error_of({"error": "the runner broke"}, 200).message


# Streams


def piece(content: str = "", **message: object) -> dict[str, Any]:
    return {"model": "llama3.2:1b", "message": {"role": "assistant", "content": content, **message}, "done": False}


STREAMED = (
    piece(thinking="hm "),
    piece(thinking="é"),
    piece("Grüße, "),
    piece("wörld"),
    piece(tool_calls=CALLS[:1]),
    piece(tool_calls=CALLS[1:]),
    answer(""),
)
WHOLE = answer("Grüße, wörld", message={"thinking": "hm é", "tool_calls": CALLS})


def test_a_stream_gives_the_reply_that_the_plain_answer_gives() -> None:
    deltas, reply = stream(lines(*STREAMED))
    plain = parse(WHOLE)
    assert json.loads(reply.raw) == WHOLE
    for name in set(Reply.__struct_fields__) - {"raw"}:
        assert getattr(reply, name) == getattr(plain, name)
    assert "".join(one.text for one in deltas if one.kind == "text") == reply.text
    assert "".join(one.text for one in deltas if one.kind == "reasoning") == reply.reasoning
    assert [one for one in deltas if one.kind == "tool_call"] == [
        Delta("tool_call", one.arguments, index, one.id, one.name) for index, one in enumerate(reply.tool_calls)
    ]


@given(cuts(lines(*STREAMED)))
def test_a_stream_may_be_cut_anywhere(pieces: list[bytes]) -> None:
    parser = ADAPTER.parse_stream(call(), 200, HEADERS)
    deltas = [one for data in pieces for one in parser.feed(data)]
    assert (deltas, parser.finish()) == stream(lines(*STREAMED))


def test_the_last_line_needs_no_end() -> None:
    assert stream(lines(*STREAMED).rstrip())[1] == stream(lines(*STREAMED))[1]


@given(st.integers(0, len(lines(*STREAMED)) - 2))
def test_a_torn_stream_is_never_a_short_answer(length: int) -> None:
    with pytest.raises(ModelConnectionError, match='"done": true'):
        stream(lines(*STREAMED)[:length])


@pytest.mark.parametrize("end", [b"\n", b""])
def test_an_error_line_is_found(end: bytes) -> None:
    with pytest.raises(ProviderError, match="an error was encountered") as caught:
        stream(lines(*STREAMED[:3]) + b'{"error":"an error was encountered while running the model"}' + end)
    assert caught.value.request_id == "req-9"


# Whatever arrives


@settings(max_examples=cases(300))
@given(bodies(WHOLE))
def test_a_malformed_answer_is_a_model_error(body: bytes) -> None:
    assert told(outcome(lambda: parse(body)), "ollama", 200)


@given(bodies({"error": "no"}), st.sampled_from([400, 403, 404, 429, 500, 302]))
def test_a_malformed_error_is_a_model_error(body: bytes, status: int) -> None:
    assert told(outcome(lambda: parse(body, status)), "ollama", status)


@settings(max_examples=cases(300))
@given(st.data())
def test_a_malformed_stream_is_a_model_error(data: st.DataObject) -> None:
    payloads = data.draw(one_changed(list(STREAMED)))
    whole = data.draw(torn(lines(*payloads)) | st.just(lines(*payloads)) | bodies({"error": "no"}))
    assert told(outcome(lambda: stream(whole)[1]), "ollama", 200)


@settings(max_examples=cases(200))
@given(st.text(max_size=30) | st.from_regex(r"(https?://)?[a-z0-9.:\[\]]{0,12}(:\d{0,6})?(/[a-z]*)?", fullmatch=True))
def test_any_text_as_host_is_an_address_or_refused(host: str) -> None:
    with contextlib.suppress(UsageError):
        built(call(), server_url(host))
