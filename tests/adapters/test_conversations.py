"""Conversations as each wire format puts them: streamed and plain, foreign turns, ids of any shape, odd orders."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, Final, Protocol

import msgspec
import pytest

from kitaru.adapters import (
    Effort,
    Endpoint,
    Message,
    ModelCall,
    Reply,
    Settings,
    Text,
    Tool,
    ToolCall,
    Transport,
    adapter,
    fit,
    provider,
)
from kitaru.adapters.standin import StandInServer
from kitaru.errors import UnsupportedError
from tests.adapters.talks import OPTIONS, OWN, PROMPT, WIRES, address, model_of

SPOKEN: Final = tuple(name for name in WIRES if name != "test")
"""Those that a server hears."""

TOOLS: Final = tuple(
    Tool(
        name,
        f"Say what the {name} is.",
        {
            "type": "object",
            "properties": {parameter: {"type": "string"}},
            "required": [parameter],
            "additionalProperties": False,
        },
        strict=True,
    )
    for name, parameter in (("height", "place"), ("moon", "day"))
)
GIVES: Final = {"height": "3.4 m", "moon": "a full moon on Monday"}
ODD_IDS: Final = ("functions.height:0", "x" * 80, "call 1 / ü", "9", "toolu_01A", "call_" + "b" * 24)


class Ask(Protocol):
    def __call__(self, call: ModelCall, *, stream: bool = False) -> Awaitable[Reply]: ...


@pytest.fixture(scope="module")
def shared() -> Iterator[StandInServer]:
    with StandInServer(OPTIONS) as server:
        yield server


@pytest.fixture
def server(shared: StandInServer) -> StandInServer:
    shared.reset()
    return shared


def call_of(name: str, messages: tuple[Message, ...], *, reasoning: bool = True) -> ModelCall:
    settings = Settings(reasoning=("high" if name == "mistral" else "low") if reasoning else None)
    call = ModelCall(name, model_of(name), messages, settings, tools=TOOLS)
    return fit(call, provider(name)).call


@pytest.fixture
async def ask(server: StandInServer) -> AsyncIterator[Ask]:
    """Sends a call, which has to go through at once."""
    async with Transport() as transport:

        async def send(call: ModelCall, *, stream: bool = False) -> Reply:
            endpoint = Endpoint(base_url=address(server, call.provider))
            sent = await transport.send(call, endpoint, adapter(call.provider), stream=stream)
            assert [attempt.status for attempt in sent.attempts] == [200]
            return sent.reply

        yield send


def answered(messages: tuple[Message, ...], reply: Reply) -> tuple[Message, ...]:
    """The conversation with an answer, and what the tools gave that it called."""
    results = (Message("tool", GIVES[one.name], tool_call_id=one.id, name=one.name) for one in reply.tool_calls)
    return (*messages, reply.message, *results)


def put(name: str, *messages: Message) -> Any:
    """The body of a request for a conversation."""
    request = adapter(name).build_request(call_of(name, messages), Endpoint(base_url="http://127.0.0.1/v1"))
    return json.loads(request.content)


# -- streamed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [(True, True, True), (True, False, True), (False, True, False)])
@pytest.mark.parametrize("name", SPOKEN)
async def test_turns_may_stream_or_not_in_any_order(name: str, streamed: tuple[bool, ...], ask: Ask) -> None:
    messages: tuple[Message, ...] = (Message("user", PROMPT),)
    calls = []
    for stream in streamed:
        reply = await ask(call_of(name, messages), stream=stream)
        messages = answered(messages, reply)
        calls.append([one.name for one in reply.tool_calls])
    assert calls == [["height", "height"], ["moon"], []]
    assert "a full moon on Monday" in messages[-1].text
    assert [message.opaque is not None for message in messages if message.role == "assistant"][:2] == [name in OWN] * 2


@pytest.mark.parametrize("first", WIRES)
async def test_a_turn_that_streamed_is_taken_by_every_other_provider(first: str, ask: Ask) -> None:
    begun: tuple[Message, ...] = (Message("user", PROMPT),)
    if first == "test":
        turn = Message("assistant", tool_calls=(ToolCall("kitaru_0123456789abcdef", "height", '{"place":"Brest"}'),))
        messages = (*begun, turn, Message("tool", "3.4 m", tool_call_id="kitaru_0123456789abcdef"))
    else:
        messages = answered(begun, await ask(call_of(first, begun), stream=True))
    for other in SPOKEN:
        reply = await ask(call_of(other, messages), stream=True)
        assert [one.name for one in reply.tool_calls] == ["moon"], other


# -- ids --------------------------------------------------------------------------------------------------------------


def ids_in(name: str, body: Any) -> tuple[list[object], list[object]]:
    """The ids of the calls in a request, and those that the results name."""
    match name:
        case "openai-responses":
            items = body["input"]
            made = [item["call_id"] for item in items if item.get("type") == "function_call"]
            named = [item["call_id"] for item in items if item.get("type") == "function_call_output"]
        case "anthropic":
            blocks = [
                block for turn in body["messages"] if isinstance(turn["content"], list) for block in turn["content"]
            ]
            made = [block["id"] for block in blocks if block["type"] == "tool_use"]
            named = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        case "google":
            parts = [part for turn in body["contents"] for part in turn["parts"]]
            made = [part["functionCall"].get("id") for part in parts if "functionCall" in part]
            named = [part["functionResponse"].get("id") for part in parts if "functionResponse" in part]
        case _:
            turns = body["messages"]
            made = [one.get("id") for turn in turns for one in turn.get("tool_calls") or []]
            named = [turn.get("tool_call_id") for turn in turns if turn["role"] == "tool"]
    return made, named


@pytest.mark.parametrize("name", SPOKEN)
async def test_ids_of_any_shape_are_taken_and_results_still_name_their_calls(
    name: str, ask: Ask, server: StandInServer
) -> None:
    messages = (
        Message("user", PROMPT),
        Message("assistant", tool_calls=tuple(ToolCall(one, "height", '{"place":"Brest"}') for one in ODD_IDS)),
        *(Message("tool", f"{at} 3.4 m", tool_call_id=one, name="height") for at, one in enumerate(ODD_IDS)),
    )
    reply = await ask(call_of(name, messages))
    assert [one.name for one in reply.tool_calls] == ["moon"]
    made, named = ids_in(name, server.requests[-1].body)
    assert made == named
    assert len(made) == len(ODD_IDS)
    if any(made):
        assert len(set(made)) == len(ODD_IDS)


def test_an_id_that_fits_is_left_as_it_is() -> None:
    for name, fits in (("openai", "call_" + "b" * 24), ("mistral", "Ab3456789"), ("anthropic", "toolu_01A")):
        turn = Message("assistant", tool_calls=(ToolCall(fits, "height", "{}"),))
        body = put(name, Message("user", "hi"), turn, Message("tool", "3 m", tool_call_id=fits, name="height"))
        assert ids_in(name, body) == ([fits], [fits])


def test_an_id_is_rewritten_alike_each_time_it_is_sent() -> None:
    """A cache of the prompt's beginning depends on it."""
    turn = Message("assistant", tool_calls=(ToolCall("functions.height:0", "height", "{}"),))
    result = Message("tool", "3 m", tool_call_id="functions.height:0", name="height")
    for name in ("mistral", "anthropic"):
        begun = (Message("user", "hi"), turn, result)
        short, long = put(name, *begun), put(name, *begun, Message("assistant", "3 m"), Message("user", "and now?"))
        assert ids_in(name, short) == ids_in(name, long)


# -- thinking ---------------------------------------------------------------------------------------------------------


FOREIGN: Final = (
    Message("user", PROMPT),
    Message("assistant", tool_calls=(ToolCall("call_1", "height", '{"place":"Brest"}'),)),
    Message("tool", "3.4 m", tool_call_id="call_1", name="height"),
)


@pytest.mark.parametrize(
    ("model", "reasoning", "more", "left_out"),
    [
        ("claude-sonnet-4-5", "low", (), True),
        ("claude-sonnet-4-6", 4_000, (), True),
        ("claude-sonnet-4-5", "low", (Message("assistant", "3.4 m."), Message("user", "and in feet?")), False),
        ("claude-sonnet-4-5", "none", (), False),
        ("claude-sonnet-4-6", "low", (), False),
        ("claude-opus-4-8", 4_000, (), False),
    ],
)
def test_a_budget_is_left_out_while_a_turn_is_open_that_calls_tools_without_thinking(
    model: str, reasoning: Effort | int, more: tuple[Message, ...], left_out: bool
) -> None:
    call = ModelCall("anthropic", model, (*FOREIGN, *more), Settings(reasoning=reasoning), tools=TOOLS)
    fitted = fit(call, provider("anthropic"))
    assert (fitted.call.settings.reasoning is None) == left_out
    assert ["the latest tool calls came without" in warning for warning in fitted.warnings] == [True] * left_out


def test_with_strict_that_is_an_error() -> None:
    call = ModelCall("anthropic", "claude-sonnet-4-5", FOREIGN, Settings(reasoning="low"), tools=TOOLS, strict=True)
    with pytest.raises(UnsupportedError, match="does not take reasoning here"):
        fit(call, provider("anthropic"))


# -- odd orders -------------------------------------------------------------------------------------------------------


CALLED: Final = (
    Message("assistant", "Let me look.", (ToolCall("call_1", "height", '{"place":"Brest"}'),)),
    Message("tool", "3.4 m", tool_call_id="call_1", name="height"),
)


@pytest.mark.parametrize(
    "messages",
    [
        (Message("user", "one"), Message("user", "two")),
        (Message("user", "one"), Message("assistant", "a"), Message("assistant", "b"), Message("user", "two")),
        (Message("system", "Be brief."), Message("developer", "Be kind."), Message("user", "one")),
        (Message("user", "one"), Message("assistant", "a"), Message("system", "Now in verse."), Message("user", "two")),
        (Message("user", "one"), *CALLED, Message("user", "and in feet?")),
        (Message("user", "one"), *CALLED, Message("assistant", "3.4 m."), Message("user", "and in feet?")),
        (
            Message("user", "one"),
            CALLED[0],
            Message("tool", "no such place", tool_call_id="call_1", name="height", is_error=True),
        ),
        (Message("user", "one"), CALLED[0], Message("tool", "", tool_call_id="call_1", name="height")),
        (Message("user", "one"), CALLED[0], Message("tool", "3.4 m", tool_call_id="call_1")),
        (Message("user", (Text("one"), Text("two"))), Message("assistant", "a"), Message("user", (Text("three"),))),
        (Message("user", "one"), Message("assistant", ""), Message("user", "two")),
        (Message("system", "Say hello."),),
    ],
    ids=[
        "two-users",
        "two-assistants",
        "developer",
        "late-system",
        "user-after-result",
        "closed-turn",
        "error",
        "empty-result",
        "nameless-result",
        "parts",
        "empty-turn",
        "system-alone",
    ],
)
async def test_an_order_that_some_api_refuses_is_put_as_it_takes_it(
    messages: tuple[Message, ...], ask: Ask, server: StandInServer
) -> None:
    said = ("one", "Be brief.", "Be kind.", "Now in verse.", "and in feet?", "no such place", "3.4 m", "b")
    told = [text for text in said if any(text == message.text for message in messages)]
    for name in SPOKEN:
        reply = await ask(call_of(name, messages, reasoning=False))
        assert reply.text or reply.tool_calls, name
        assert [text for text in told if text not in server.requests[-1].raw.decode()] == [], name


@pytest.mark.parametrize("arguments", ["", "{}", "[1]", '{"place": oops', '"Brest"', "null", "é" * 3])
async def test_arguments_that_a_model_got_wrong_do_not_make_the_conversation_unsendable(
    arguments: str, ask: Ask
) -> None:
    call = ToolCall("call_1", "height", arguments)
    result = Message("tool", "the arguments do not fit; 3.4 m", tool_call_id="call_1", name="height", is_error=True)
    messages = (Message("user", PROMPT), Message("assistant", tool_calls=(call,)), result)
    for name in SPOKEN:
        assert (await ask(call_of(name, messages))).tool_calls, name


# -- what only its provider understands -------------------------------------------------------------------------------


def respaced(raw: bytes) -> bytes:
    """The same JSON with other white space and other escapes."""
    return json.dumps(json.loads(raw), indent=3, ensure_ascii=True).encode()


@pytest.mark.parametrize("name", sorted(OWN & {*SPOKEN}))
async def test_its_own_spelling_of_json_goes_back_to_a_provider(name: str, ask: Ask, server: StandInServer) -> None:
    begun = (Message("user", PROMPT),)
    call = call_of(name, begun)
    raw = respaced((await ask(call)).raw)
    reply = adapter(name).parse_response(call, 200, {}, raw)
    assert reply.message.opaque is not None
    messages = answered(begun, reply)
    endpoint = Endpoint(base_url=address(server, name))
    body = adapter(name).build_request(call_of(name, messages), endpoint).content
    own = reply.message.opaque.data
    # A list goes back item by item.
    pieces = [own] if own.startswith(b"{") else msgspec.json.decode(own, type=list[msgspec.Raw])
    assert pieces
    assert all(bytes(piece) in body for piece in pieces)
    assert (await ask(call_of(name, messages))).tool_calls


# Deepseek wants some thinking in every such turn, so that what was edited cannot be told from what was lost.
@pytest.mark.parametrize("name", sorted((OWN & {*SPOKEN}) - {"deepseek"}))
async def test_a_turn_that_was_edited_goes_without_its_thinking(name: str, ask: Ask, server: StandInServer) -> None:
    begun = (Message("user", PROMPT),)
    reply = await ask(call_of(name, begun))
    assert reply.message.opaque is not None
    kept, *_ = reply.tool_calls
    edited = Message("assistant", "I look it up.", (kept,), opaque=reply.message.opaque)
    messages = (*begun, edited, Message("tool", "3.4 m", tool_call_id=kept.id, name="height"))
    call = ModelCall(name, model_of(name), messages, Settings(reasoning="low"), tools=TOOLS)
    fitted = fit(call, provider(name))
    assert any("was edited" in warning for warning in fitted.warnings)
    assert (await ask(fitted.call)).finish in ("stop", "tool_calls")
    assert b"I look it up." in server.requests[-1].raw
