"""Streams of the chat family: their pieces, their end, their errors, and that they equal the plain form."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.adapters import Delta, Endpoint, Message, ModelCall, Reply, ToolCall, Usage, adapter
from kitaru.adapters.mending import readable
from kitaru.errors import ModelConnectionError, ModelError, ProviderError
from tests.adapters.damage import outcome, told
from tests.adapters.sdk.chat_cases import events
from tests.cases import cases

HEADERS = {"x-request-id": "req-7", "content-type": "text/event-stream"}


def parser(name: str = "openai") -> Any:
    return adapter(name).parse_stream(ModelCall(name, "m", (Message("user", "hi"),)), 200, HEADERS)


def read(body: bytes, name: str = "openai") -> tuple[list[Delta], Reply]:
    reader = parser(name)
    return list(reader.feed(body)), reader.finish()


def chunk(delta: object, finish: object = None, **more: Any) -> dict[str, Any]:
    return {"id": "c", "model": "m-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def piece(index: object, arguments: object = "", **more: object) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": more.pop("name")} if "name" in more else {})}
    return {"tool_calls": [{"index": index, "function": function, **more}]}


USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
ORDINARY = [
    {"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "id": "", "model": ""},
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "hé"}, obfuscation="xyz"),
    chunk({"content": "llo"}),
    chunk({"reasoning_content": "hm"}),
    chunk(piece(0, id="a", name="f")),
    chunk(piece(1, id="b", name="g")),
    chunk(piece(0, '{"x":')),
    chunk(piece(1, "{}")),
    chunk(piece(0, "1}")),
    chunk({}, "tool_calls"),
    {"id": "c", "model": "m-1", "choices": [], "usage": USAGE},
]


def test_pieces_come_as_they_arrive() -> None:
    deltas, reply = read(events(*ORDINARY))
    assert deltas == [
        Delta("text", "hé"),
        Delta("text", "llo"),
        Delta("reasoning", "hm"),
        Delta("tool_call", index=0, id="a", name="f"),
        Delta("tool_call", index=1, id="b", name="g"),
        Delta("tool_call", '{"x":', index=0),
        Delta("tool_call", "{}", index=1),
        Delta("tool_call", "1}", index=0),
    ]
    assert (reply.text, reply.reasoning, reply.finish, reply.model) == ("héllo", "hm", "tool_calls", "m-1")
    assert reply.tool_calls == (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}"))
    assert (reply.usage, reply.request_id) == (Usage(3, 2), "req-7")


def test_probabilities_of_all_pieces_are_together() -> None:
    first, second = ([{"token": token, "logprob": -0.5}] for token in ("a", "b"))
    chunks = [chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop")]
    for one, tokens in zip(chunks, (first, second, None), strict=True):
        one["choices"][0]["logprobs"] = tokens and {"content": tokens, "refusal": None}
    _, reply = read(b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks) + b"data: [DONE]\n\n")
    assert json.loads(reply.raw)["choices"][0]["logprobs"]["content"] == [*first, *second]


def test_the_raw_body_is_the_plain_form_of_the_answer() -> None:
    _, reply = read(events(*ORDINARY))
    plain = adapter("openai").parse_response(ModelCall("openai", "m", ()), 200, HEADERS, reply.raw)
    assert plain == reply
    assert json.loads(reply.raw)["choices"][0]["message"]["content"] == "héllo"


@given(st.lists(st.integers(0, len(events(*ORDINARY))), max_size=12))
def test_a_stream_cut_anywhere_is_the_same(cuts: list[int]) -> None:
    body = events(*ORDINARY)
    reader = parser()
    found: list[Delta] = []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(body)], strict=True):
        found += reader.feed(body[start:end])
    deltas, reply = read(body)
    assert found == deltas
    assert reader.finish() == reply


@pytest.mark.parametrize("change", [(b"\n", b"\r\n"), (b"\n", b"\r"), (b"data: ", b": keep-alive\n\ndata:")])
def test_other_line_ends_and_comments_do_no_harm(change: tuple[bytes, bytes]) -> None:
    assert read(events(*ORDINARY).replace(*change))[1] == read(events(*ORDINARY))[1]


MESSAGES: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
    ("openai", [{"content": "a"}, {"refusal": "No"}, {"refusal": "!"}], {"content": "a", "refusal": "No!"}),
    ("groq", [{"reasoning": "h"}, {"reasoning": "m"}, {"content": "a"}], {"reasoning": "hm", "content": "a"}),
    (
        "deepseek",
        [{"content": None, "reasoning_content": "h"}, {"content": "a", "reasoning_content": None}],
        {"reasoning_content": "h", "content": "a"},
    ),
    (
        "together",
        [{"reasoning": "h", "reasoning_content": "h"}, {"content": "a"}],
        {"reasoning": "h", "reasoning_content": "h", "content": "a"},
    ),
    (
        "openrouter",
        [
            {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "h"}]},
            {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "m"}]},
            {"reasoning_details": [{"type": "reasoning.text", "index": 0, "signature": "s"}]},
            {"reasoning_details": [{"type": "reasoning.encrypted", "index": 1, "data": "x"}]},
            {"content": "a"},
        ],
        {
            "content": "a",
            "reasoning_details": [
                {"type": "reasoning.text", "index": 0, "text": "hm", "signature": "s"},
                {"type": "reasoning.encrypted", "index": 1, "data": "x"},
            ],
        },
    ),
    (
        "mistral",
        [
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}]}]},
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "m"}], "closed": True}]},
            {"content": "a"},
            {"content": [{"type": "reference", "reference_ids": [1]}]},
            {"content": [{"type": "reference", "reference_ids": [2]}]},
            {"content": "b"},
        ],
        {
            "content": [
                {"type": "thinking", "closed": True, "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "a"},
                {"type": "reference", "reference_ids": [1]},
                {"type": "reference", "reference_ids": [2]},
                {"type": "text", "text": "b"},
            ]
        },
    ),
    (
        "mistral",
        [{"content": "a", **piece(0, {"x": 1}, id="aaaaaaaaa", name="f")}, piece(0, "{}", id="bbbbbbbbb", name="g")],
        {
            "content": "a",
            "tool_calls": [
                {"id": "aaaaaaaaa", "function": {"name": "f", "arguments": {"x": 1}}},
                {"id": "bbbbbbbbb", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
    ),
    (
        "openai-compatible",
        [
            {"thinking_blocks": [{"type": "thinking", "thinking": "h"}]},
            {"thinking_blocks": [{"type": "thinking", "thinking": "m", "signature": "s"}]},
            {**piece(0, "{}", id="a", name="f", extra_content={"google": {"thought_signature": "t"}})},
        ],
        {
            "content": None,
            "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}],
            "tool_calls": [
                {
                    "extra_content": {"google": {"thought_signature": "t"}},
                    "id": "a",
                    "type": "function",
                    "function": {"name": "f", "arguments": "{}"},
                }
            ],
        },
    ),
    (
        "openai-compatible",
        [piece(0, "{}", name="f"), piece(1, "{}", name="f")],
        {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}] * 2},
    ),
    (
        "openai-compatible",
        [{"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}}],
        {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
    ),
]


@pytest.mark.parametrize(("name", "deltas", "message"), MESSAGES)
def test_a_stream_is_read_like_the_plain_form(name: str, deltas: list[dict[str, Any]], message: dict[str, Any]) -> None:
    _, streamed = read(events(*(chunk(delta) for delta in deltas), chunk({}, "stop", usage=USAGE)), name)
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    body = json.dumps({"id": "c", "model": "m-1", "choices": [choice], "usage": USAGE}).encode()
    call = ModelCall(name, "m", (Message("user", "hi"),))
    plain = adapter(name).parse_response(call, 200, HEADERS, body)
    for field in ("text", "reasoning", "refusal", "tool_calls", "finish", "usage", "model", "warnings"):
        assert getattr(streamed, field) == getattr(plain, field), field
    ours, theirs = streamed.message.opaque, plain.message.opaque
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        assert json.loads(ours.data) == json.loads(theirs.data)
        assert ours.digest == theirs.digest


def test_usage_comes_where_each_provider_puts_it() -> None:
    done = chunk({"content": "a"}, "stop")
    for name, last in [
        ("openai", {"choices": [], "usage": USAGE}),
        ("openai-compatible", {"choices": [{"delta": {}}], "usage": USAGE}),
        ("groq", {"choices": [], "x_groq": {"id": "g", "usage": USAGE}}),
        ("deepseek", {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "stop"}], "usage": USAGE}),
    ]:
        _, reply = read(events({**done, "usage": None}, last), name)
        assert (reply.usage, reply.finish) == (Usage(3, 2), "stop"), name


def test_a_perplexity_stream_may_end_with_its_own_marker() -> None:
    _, reply = read(events(chunk({"content": "a"}, "stop", type="end_of_stream"), done=False), "perplexity")
    assert reply.text == "a"


def test_the_last_empty_line_may_be_missing() -> None:
    assert read(events(*ORDINARY)[:-2])[1].text == "héllo"


# Ends and errors


@pytest.mark.parametrize("keep", range(len(ORDINARY)))
def test_a_stream_without_its_end_is_an_error_and_no_answer(keep: int) -> None:
    reader = parser()
    reader.feed(events(*ORDINARY[:keep], done=False))
    with pytest.raises(ModelConnectionError, match=r"\[DONE\]") as caught:
        reader.finish()
    assert caught.value.sent
    assert "req-7" in caught.value.message


@pytest.mark.parametrize(
    ("name", "body", "retryable", "code"),
    [
        ("openai", events({"error": {"message": "no", "code": "server_error"}}), True, "server_error"),
        (
            "openrouter",
            b": OPENROUTER PROCESSING\n\n"
            + events({**chunk({"content": ""}), "error": {"code": 502, "message": "Upstream"}}),
            True,
            "502",
        ),
        (
            "groq",
            b'event: error\ndata: {"error":{"message":"bad call","code":"tool_use_failed","status_code":400}}\n\n',
            True,
            "tool_use_failed",
        ),
        ("groq", events({**chunk({}), "x_groq": {"id": "g", "error": "over capacity"}}), False, None),
        ("perplexity", b'event: error\ndata: {"message":"no","code":500}\n\n', True, "500"),
        ("mistral", events({"object": "error", "message": "no", "type": "server_error"}), True, "server_error"),
        ("vllm", events({"object": "error", "message": "no", "code": 400}), False, "400"),
        ("openai", events({"choices": [{"error": {"code": 429}, "delta": {}}]}), True, "429"),
    ],
)
def test_an_error_inside_a_stream_is_found(name: str, body: bytes, retryable: bool, code: str | None) -> None:
    reader = parser(name)
    reader.feed(events(chunk({"content": "half"}), done=False))
    with pytest.raises(ProviderError, match="error inside") as caught:
        reader.feed(body)
    error = caught.value
    assert (error.status, error.retryable, error.provider_code, error.request_id) == (200, retryable, code, "req-7")


@pytest.mark.parametrize("after", [b"", events(chunk({"content": "half"}), done=False)])
def test_an_error_as_bare_json_is_found(after: bytes) -> None:
    reader = parser()
    reader.feed(after + b'{\n  "error": {\n    "message": "gone", "code": 503\n  }\n}\n')
    with pytest.raises(ProviderError, match="gone") as caught:
        reader.finish()
    assert caught.value.retryable


def test_a_plain_answer_to_a_stream_s_request_is_read() -> None:
    plain = {"id": "c", "choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}
    for body in (json.dumps(plain), json.dumps(plain, indent=2)):
        assert read(body.encode())[1].text == "hello"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html><p>gateway</html>", "web page"),
        (b"data: {\n\n", "not JSON"),
        (b"data: \xff\xfe\n\n", "not JSON"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "not JSON"),
        (b"data: [3]\n\n", "not a JSON object"),
        (b"data: 3\n\n", "not a JSON object"),
        (b'data: {"choices": 3}\n\n', "no list"),
        (b'data: {"choices": [{"delta": {"content": 3}}]}\n\n', "not text"),
        (b"data: [DONE]\n\n", "no choice"),
        (b'data: {"choices": []}\n\ndata: [DONE]\n\n', "no choice"),
    ],
)
def test_a_stream_in_another_form_is_a_provider_error(body: bytes, said: str) -> None:
    with pytest.raises(ProviderError, match=said) as caught:
        read(body)
    assert (caught.value.status, caught.value.request_id, caught.value.reason) == (200, "req-7", "invalid")


def test_a_line_without_end_is_a_provider_error() -> None:
    with pytest.raises(ProviderError, match="no end"):
        parser().feed(b"x" * (65 * 1024 * 1024))


def test_a_very_long_answer_in_small_pieces_is_read_in_time() -> None:
    pieces = [
        chunk({"content": "ab", "reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "cd"}]})
        for _ in range(5_000)
    ]
    _, reply = read(events(*pieces, chunk({}, "stop")), "openrouter")
    assert (len(reply.text), len(reply.reasoning)) == (10_000, 10_000)


# Whatever arrives


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1.5,
        10**30,
        math.nan,
        -math.inf,
        "",
        "x",
        "\ud83d",
        "<think>x",
        [],
        {},
        [None],
        [[]],
        {"a": 1},
        [{"type": "thinking"}],
    ]
)


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """The value with something in it replaced, dropped, doubled or wrapped."""
    kind = draw(st.sampled_from(["odd", "in", "in", "in", "drop", "twice", "wrap"]))
    if kind == "odd" or not isinstance(value, dict | list) or not value:
        return draw(ODD)
    if kind == "wrap":
        return [value] if draw(st.booleans()) else {"error": value}
    key = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    copy = dict(value) if isinstance(value, dict) else list(value)
    if kind == "drop":
        del copy[key]
    elif kind == "twice" and isinstance(copy, list):
        copy.append(copy[key])
    else:
        copy[key] = draw(mutated(copy[key]))
    return copy


SAMPLES = [(name, [chunk(delta) for delta in deltas]) for name, deltas, _ in MESSAGES] + [("groq", ORDINARY)]


@settings(max_examples=cases(150), deadline=None)
@given(st.data())
def test_any_odd_stream_gives_a_reply_or_a_model_error(data: st.DataObject) -> None:
    name, chunks = data.draw(st.sampled_from(SAMPLES))
    full = [*chunks, chunk({}, "stop", usage=USAGE, service_tier="x", x_groq={"id": "g", "usage": USAGE})]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(full) - 1))
        full[at] = data.draw(mutated(full[at]))
    body = events(*(json.dumps(one) for one in full))
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body
    assert told(outcome(lambda: read(body, name)[1]), name, 200)


@settings(max_examples=cases(150), deadline=None)
@given(st.data())
def test_any_odd_completion_gives_a_reply_or_a_model_error(data: st.DataObject) -> None:
    name, _, message = data.draw(st.sampled_from(MESSAGES))
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    usage = {
        **USAGE,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 4},
        "cost": 0.1,
        "is_byok": True,
        "cost_details": {"upstream_inference_cost": 1},
    }
    whole: Any = {"id": "c", "model": "m", "choices": [choice], "usage": usage, "warnings": [{"message": "w"}]}
    for _ in range(data.draw(st.integers(1, 3))):
        whole = data.draw(mutated(whole))
    body = readable(json.dumps(whole).encode())
    body = body[: data.draw(st.integers(0, len(body)))] if data.draw(st.booleans()) else body
    call = ModelCall(name, "m", (Message("user", "hi"),))
    reply = outcome(lambda: adapter(name).parse_response(call, 200, HEADERS, body))
    assert told(reply, name, 200)
    if isinstance(reply, Reply):
        turn = ModelCall(name, "m", (Message("user", "hi"), reply.message))
        request = adapter(name).build_request(turn, Endpoint(base_url="http://127.0.0.1/v1"))
        assert len(json.loads(request.content)["messages"]) == 2


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_give_a_model_error(noise: bytes, framed: bool) -> None:
    body = b"data: " + noise + b"\n\n" if framed else noise
    with pytest.raises(ModelError):
        read(body)
