"""What servers get wrong in good answers costs no answer."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.adapters import Endpoint, Message, ModelCall, SecretStr, Settings, Transport, adapter
from kitaru.adapters.http.incoming import Listener, Streamed, Whole
from kitaru.adapters.masking import NOTHING
from kitaru.adapters.mending import EventMender, readable, usable
from kitaru.adapters.message import assistant
from kitaru.adapters.reply import Reply, Usage
from kitaru.adapters.sse import ServerEvents
from kitaru.adapters.standin import StandInServer
from tests.adapters.damage import cuts
from tests.adapters.scripted import CALL, CANARY, END, OPENAI, answer, at, event, scripted, stream
from tests.adapters.talks import WIRES, address, model_of
from tests.cases import cases

# -- JSON that no strict reader takes ---------------------------------------------------------------------------------


@settings(max_examples=cases(300))
@given(st.recursive(st.none() | st.integers(-9, 9) | st.text(max_size=9), lambda inner: st.lists(inner, max_size=4)))
def test_strict_json_stays_as_it_is(value: object) -> None:
    for written in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert readable(written.encode("utf-8", "surrogatepass")) == written.encode("utf-8", "surrogatepass")


@settings(max_examples=cases(300))
@given(st.lists(st.sampled_from(["\\ud83d", "\\ude00", "\\\\", "a", "NaN", "\\n"]), max_size=6).map("".join))
def test_halves_of_pairs_are_joined_or_replaced(text: str) -> None:
    body = f'{{"a": "{text}", "b": NaN, "c": -Infinity}}'.encode()
    found = json.loads(readable(body).decode())
    expected = json.loads(f'"{text}"').encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert found == {"a": expected, "b": None, "c": None}


@settings(max_examples=cases(300))
@given(st.text(alphabet='a\U0001f600\\"é', max_size=8), st.data())
def test_a_pair_that_two_events_share_is_one_character(text: str, data: st.DataObject) -> None:
    units = text.encode("utf-16-le")
    at = 2 * data.draw(st.integers(0, len(units) // 2))
    halves = [part.decode("utf-16-le", "surrogatepass") for part in (units[:at], units[at:])]
    mender = EventMender()
    read = [json.loads(mender.readable(json.dumps({"text": half}).encode())) for half in halves]
    assert "".join(one["text"] for one in read) == text


@pytest.mark.parametrize(
    ("body", "value"),
    [(b'{"a":1e999}', None), (b'{"a":-Infinity}', None), (b'{"a":"one\ntwo\t"}', "one\ntwo\t"), (b'{"a":1e3}', 1000.0)],
)
def test_numbers_without_end_are_null_and_raw_line_breaks_stay(body: bytes, value: object) -> None:
    assert json.loads(readable(body)) == {"a": value}


def test_what_is_no_json_stays_as_it_is() -> None:
    assert readable(b"NaN and \\ud83d {") == b"NaN and \\ud83d {"


@pytest.mark.usefixtures("engine")
async def test_an_answer_that_ends_inside_a_character_arrives(transport: Transport) -> None:
    body = b'{"choices":[{"message":{"role":"assistant","content":"Well \\ud83d"},"finish_reason":"length"}]}'
    async with scripted(answer(body)) as server:
        assert (await transport.send(CALL, at(server), OPENAI)).reply.text == "Well \ufffd"


@pytest.mark.usefixtures("engine")
async def test_heartbeats_and_split_characters_disturb_no_stream(transport: Transport) -> None:
    half = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'
    pieces = [half % b"Hi \\ud83d", b"data: null\n\n", b"data:\n\n", b": ping\n\n", half % b"\\ude00!", END]
    long = ModelCall("openai", "gpt-x", (Message("user", "hi"),), Settings(max_tokens=30_000))
    async with scripted(stream(*pieces)) as server:
        assert (await transport.send(long, at(server), OPENAI)).reply.text == "Hi \U0001f600!"


def test_heartbeats_are_no_events() -> None:
    beats = b"".join(
        b"data: %s\n\n" % one for one in (b"null", b'""', b"ping", b"PING", b"[]", b"[PING]", b": keepalive")
    )
    found = ServerEvents().feed(beats + b"event: ping\ndata: {}\n\n")
    assert [(one.event, one.data) for one in found] == [("ping", b"{}")]


# -- calls ------------------------------------------------------------------------------------------------------------

NAMELESS: dict[str, dict[str, Any]] = {
    "google": {
        "candidates": [{"content": {"role": "model", "parts": [{"functionCall": {}}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 1000, "candidatesTokenCount": 700},
    },
    "anthropic": {
        "id": "m", "type": "message", "role": "assistant", "model": "c", "stop_reason": "tool_use",
        "content": [{"type": "tool_use", "id": "t", "input": {}}],
        "usage": {"input_tokens": 1000, "output_tokens": 700},
    },
    "cohere": {
        "id": "c", "finish_reason": "TOOL_CALL", "usage": {"tokens": {"input_tokens": 1000, "output_tokens": 700}},
        "message": {"role": "assistant", "tool_calls": [{"id": "t", "type": "function", "function": {}}]},
    },
    "ollama": {
        "model": "m", "done": True, "done_reason": "stop", "prompt_eval_count": 1000, "eval_count": 700,
        "message": {"role": "assistant", "content": "", "tool_calls": [{"function": {"arguments": {}}}]},
    },
    "openai-responses": {
        "id": "r", "object": "response", "status": "completed", "model": "m",
        "output": [{"type": "function_call", "call_id": "c", "arguments": "{}"}],
        "usage": {"input_tokens": 1000, "output_tokens": 700, "total_tokens": 1700},
    },
    "openai": {
        "choices": [
            {
                "message": {"role": "assistant", "tool_calls": [{"id": "t", "function": {}}]},
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 700},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NAMELESS)
def test_a_call_of_no_tool_is_left_out_and_its_answer_is_paid(name: str) -> None:
    call = ModelCall(name, "m", (Message("user", "hi"),))
    body = json.dumps(NAMELESS[name]).encode()
    reply = usable(adapter(name).parse_response(call, 200, {}, body), thinks_in_text=False)
    assert (reply.tool_calls, reply.message.tool_calls, reply.message.opaque) == ((), (), None)
    assert (reply.usage.input, reply.usage.output) == (1000, 700)
    assert "a tool call that names no tool was left out" in reply.warnings
    assert reply.finish == "stop"


@pytest.mark.parametrize("index", [{"index": 0}, {}])
async def test_whole_calls_without_ids_are_calls_of_their_own(index: dict[str, int], transport: Transport) -> None:
    calls = [{**index, "id": "", "function": {"name": "tide", "arguments": f'{{"day":{day}}}'}} for day in (1, 2)]
    pieces = [event({"tool_calls": [call]}) for call in calls]
    long = ModelCall("openai", "gpt-x", (Message("user", "hi"),), Settings(max_tokens=30_000))
    async with scripted(stream(*pieces, END)) as server:
        found = (await transport.send(long, at(server), OPENAI)).reply.tool_calls
    assert [call.arguments for call in found] == ['{"day":1}', '{"day":2}']


@pytest.mark.parametrize("finish", ["stop", ""])
@pytest.mark.parametrize("function", [{}, {"name": "", "arguments": ""}, {"name": None, "arguments": None}])
def test_an_empty_function_call_is_none(finish: str, function: dict[str, object]) -> None:
    call = ModelCall("openai", "m", (Message("user", "hi"),))
    message: dict[str, object] = {"role": "assistant", "content": "Hi", "function_call": function, "tool_calls": None}
    body = {"choices": [{"message": message, "finish_reason": finish}]}
    plain = adapter("openai").parse_response(call, 200, {}, json.dumps(body).encode())
    parser = adapter("openai").parse_stream(call, 200, {})
    parser.feed(event(message) + event({"function_call": function}, finish) + END)
    for reply in (plain, parser.finish()):
        assert (reply.text, reply.finish, reply.tool_calls, reply.warnings) == ("Hi", "stop", (), ())


def test_a_filtered_answer_of_azure_has_no_message() -> None:
    body = {"choices": [{"index": 0, "finish_reason": "content_filter"}], "usage": {"prompt_tokens": 9}}
    call = ModelCall("azure", "d", (Message("user", "hi"),))
    reply = adapter("azure").parse_response(call, 200, {}, json.dumps(body).encode())
    assert (reply.finish, reply.text, reply.usage.input) == ("content_filter", "", 9)


# -- thinking in the text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said", "thought"),
    [
        ("<think>draft</think>\nOslo", "Oslo", "draft"),
        ("\n<think>\ndraft\n</think>\n\nOslo", "Oslo", "draft"),
        ("<thinking>draft</thinking>Oslo", "Oslo", "draft"),
        ("draft\n</think>\n\nOslo", "Oslo", "draft"),
        ('draft {"a": 1}</think>{"a": 2}', '{"a": 2}', 'draft {"a": 1}'),
        ("<think>no end", "", "no end"),
        ("<THINK >draft</Think>Oslo", "Oslo", "draft"),
        ("<think>one</think>\n<think>two</think>\nOslo", "Oslo", "one\ntwo"),
        ("[THINK]draft[/THINK]Oslo", "Oslo", "draft"),
        ("◁think▷draft◁/think▷Oslo", "Oslo", "draft"),
        ("<seed:think>draft</seed:think>Oslo", "Oslo", "draft"),
        ("</think>Oslo", "Oslo", ""),
        ("It is Oslo.</think>Oslo", "Oslo", "It is Oslo."),
        ("```html\n</think>\n```", "```html\n</think>\n```", ""),
        ("[thinking] Oslo", "[thinking] Oslo", ""),
        ('<|channel|>final <|constrain|>json<|message|>{"a": 1}<|return|>', '{"a": 1}', ""),
        (
            "<|channel|>analysis<|message|>draft<|end|><|start|>assistant<|channel|>final<|message|>Oslo",
            "Oslo",
            "draft",
        ),
        ("Oslo", "Oslo", ""),
        ("Oslo lies at 59 < 60", "Oslo lies at 59 < 60", ""),
        ("Write </think> to end a thought", "Write </think> to end a thought", ""),
        ("It says <think>x</think> in between", "It says <think>x</think> in between", ""),
    ],
)
def test_leading_thinking_is_apart_from_the_text(text: str, said: str, thought: str) -> None:
    reply = Reply(text, assistant(text, provider="vllm", model="m", own=b"{}"), "stop", Usage(), "m")
    found = usable(reply, thinks_in_text=True)
    assert (found.text, found.message.text, found.reasoning) == (said, said, thought)
    assert usable(reply, thinks_in_text=False) is reply


# -- whole answers ----------------------------------------------------------------------------------------------------

BEATS = [
    b"data: null\n\n",
    b"data:\n\n",
    b'data: ""\n\n',
    b": ping\n\n",
    b"event: ping\ndata: null\n\n",
    b"data: []\n\n",
    b"\n\n",
]


@pytest.fixture(scope="module")
def bodies() -> dict[tuple[str, bool], bytes]:
    """What the stand-in answers to each provider, plain and streamed."""
    found = {}
    with StandInServer() as server:
        for name in WIRES[:-1]:
            endpoint = Endpoint(base_url=address(server, name), api_key=SecretStr(CANARY))
            for streamed in (False, True):
                call = ModelCall(name, model_of(name), (Message("user", "Say hello in one line."),))
                request = adapter(name).build_request(call, endpoint, stream=streamed)
                with httpx.Client(trust_env=False) as client:
                    found[name, streamed] = client.send(request).content
    return found


def read(name: str, pieces: list[bytes], *, streamed: bool) -> Reply:
    call = ModelCall(name, model_of(name), (Message("user", "Say hello in one line."),))
    taking: Streamed | Whole
    if streamed:
        taking = Streamed(adapter(name), call, 200, {}, NOTHING, Listener(None, None, time.monotonic))
    else:
        taking = Whole(adapter(name), call, 200, {}, NOTHING)
    for piece in pieces:
        taking.feed(piece)
    return taking.finish()


ODD = [b"NaN", b"-Infinity", b"1e999", b'"\t"', b"[Infinity]", b'"\\ud83d"', b'{"x":"\\ude00!"}', b'"\xf0\x9f"']


def spoilt(body: bytes, draw: st.DataObject) -> bytes:
    """A JSON object with a number that is none, or with half a character, where nobody reads."""
    return body[:-1] + b',"odd":' + draw.draw(st.sampled_from(ODD)) + b"}" if body.endswith(b"}") else body


@pytest.mark.parametrize("name", WIRES[:-1])
@settings(max_examples=cases(60))
@given(draw=st.data())
def test_a_good_answer_stays_one_whatever_stands_where_nobody_reads(
    name: str, bodies: dict[tuple[str, bool], bytes], draw: st.DataObject
) -> None:
    streamed = draw.draw(st.booleans())
    body = bodies[name, streamed]
    clean = read(name, [body], streamed=streamed)
    if not streamed:
        odd = spoilt(body.rstrip(), draw)
    elif name == "ollama":
        odd = b"".join(spoilt(line, draw) + b"\n" for line in body.splitlines())
    else:
        parts = [part for part in body.replace(b"\r\n", b"\n").split(b"\n\n") if part]
        beats = st.sampled_from([b"", *BEATS])
        odd = b"".join(draw.draw(beats) + spoilt(part, draw) + b"\n\n" for part in parts)
    found = read(name, draw.draw(cuts(odd)), streamed=streamed)
    assert (found.text, found.finish, found.usage) == (clean.text, clean.finish, clean.usage)
    assert (found.tool_calls, found.reasoning) == (clean.tool_calls, clean.reasoning)


@pytest.mark.parametrize("name", WIRES[:-1])
def test_an_answer_that_ends_in_half_a_character_is_that_answer(
    name: str, bodies: dict[tuple[str, bool], bytes]
) -> None:
    body = bodies[name, False]
    text = read(name, [body], streamed=False).text
    for half in (b"\\ud83d", b"\xf0\x9f"):
        odd = body.replace(json.dumps(text)[1:-1].encode(), json.dumps(text)[1:-1].encode() + half)
        assert odd != body
        assert read(name, [odd], streamed=False).text == text + "\ufffd"
