"""What a provider echoes of a credential is masked before anyone sees it: whole, in pieces, in every form."""

from __future__ import annotations

import asyncio
import base64
import json
import traceback
from collections.abc import Callable, Sequence
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.adapters import Delta, Endpoint, Reply, Retry, SecretStr, Transport, Usage
from kitaru.adapters.masking import DeltaMasker, Masker, Pieces, mask_reply
from kitaru.adapters.message import ToolCall, assistant, own_form
from kitaru.adapters.secret import MASK
from kitaru.errors import CredentialError, ProviderError
from tests.adapters.scripted import (
    CALL,
    CANARY,
    END,
    OPENAI,
    Seen,
    answer,
    at,
    chunk,
    event,
    fails,
    scripted,
    stream,
    stream_head,
)

ODD = 'key/of "the" test\\é+1'
FORMS: list[Callable[[str], str]] = [
    lambda text: text,
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    lambda text: quote(text, safe=""),
    lambda text: base64.b64encode(text.encode()).decode(),
    lambda text: base64.b64encode(b"Bearer " + text.encode() + b":").decode(),
]


def _cut(data: str, places: Sequence[int]) -> list[str]:
    at_ = sorted({place % (len(data) + 1) for place in places})
    return [data[begin:end] for begin, end in zip([0, *at_], [*at_, len(data)], strict=True)]


@pytest.mark.parametrize("form", FORMS)
@given(before=st.text(max_size=12), after=st.text(max_size=12), places=st.lists(st.integers(0, 200), max_size=12))
def test_an_echo_is_masked_however_it_is_cut(
    form: Callable[[str], str], before: str, after: str, places: list[int]
) -> None:
    masker = Masker([SecretStr(ODD)])
    whole = before + form(ODD) + after
    texts = Pieces(masker.answer_texts, "")
    shown = "".join([*map(texts.feed, _cut(whole, places)), texts.finish()])
    assert shown == masker.answer_texts.mask(whole)
    assert MASK in shown
    assert not any(one.decode() in shown for one in SecretStr(ODD).forms())


@given(st.lists(st.sampled_from(["key-of-", "the-test", "-a", "-b", "key-of-the-test-a", "x", "-"]), max_size=12))
def test_pieces_show_what_the_whole_would_show(pieces: list[str]) -> None:
    masker = Masker([SecretStr("key-of-the-test"), SecretStr("key-of-the-test-ab")])
    texts = Pieces(masker.answer_texts, "")
    assert "".join([*map(texts.feed, pieces), texts.finish()]) == masker.answer_texts.mask("".join(pieces))


def test_only_what_may_become_an_echo_is_held_back() -> None:
    texts = Pieces(Masker([SecretStr("key-of-the-test")]).answer_texts, "")
    assert texts.feed("the key-of-") == "the "
    assert texts.feed("life is") == "key-of-life is"
    assert texts.finish() == ""


def test_of_two_secrets_that_begin_alike_the_longer_is_masked_whole() -> None:
    masker = Masker([SecretStr("key-of-the-test"), SecretStr("key-of-the-test-too")])
    texts = Pieces(masker.answer_texts, "")
    assert [texts.feed(one) for one in ("<key-of-the-test", "-too>")] == ["<", MASK + ">"]


def test_each_text_that_streams_is_held_back_for_itself() -> None:
    deltas = DeltaMasker(Masker([SecretStr("key-of-the-test")]).answer_texts)
    given_ = [
        Delta("text", "it is key-of"),
        Delta("reasoning", "so key-of"),
        Delta("tool_call", "", 0, "call_1", "look"),
        Delta("tool_call", '{"k":"key-of', 0),
        Delta("text", "-the-test"),
        Delta("tool_call", '-the-test"}', 0),
    ]
    shown = [one for one in map(deltas.feed, given_) if one is not None] + deltas.finish()
    texts = {
        kind: "".join(one.text for one in shown if one.kind == kind) for kind in ("text", "reasoning", "tool_call")
    }
    assert texts == {"text": f"it is {MASK}", "reasoning": "so key-of", "tool_call": f'{{"k":"{MASK}"}}'}
    assert [(one.id, one.name) for one in shown if one.id] == [("call_1", "look")]


def _reply(text: str, raw: bytes, own: bytes = b"") -> Reply:
    message = assistant(text, [ToolCall("c", "look", json.dumps({"k": text}))], provider="p", model="m", own=own)
    return Reply(text, message, "tool_calls", Usage(tier=text), text, text, raw, text, text, "", (text,))


def test_a_reply_put_together_is_masked_in_every_field() -> None:
    escaped = "".join(f"\\u{ord(char):04x}" for char in CANARY)  # no form of ours: found when it is unescaped
    own = b'{"signature":"s1","text":"' + escaped.encode() + b'"}'
    reply = _reply(f"it is {CANARY}", b'{"text":"' + escaped.encode() + b'","n":1}', own)
    masked = mask_reply(reply, Masker([SecretStr(CANARY)]))
    assert CANARY not in repr(masked)
    assert json.loads(masked.raw) == {"text": MASK, "n": 1}
    assert json.loads(own_form(masked.message, "p", "m") or b"") == {"signature": "s1", "text": MASK}


def test_a_reply_without_an_echo_is_the_same_object() -> None:
    own = b'{ "signature": "kept to the byte" }'
    reply = _reply("nothing to hide", b"{}", own)
    assert mask_reply(reply, Masker([SecretStr(CANARY)])) is reply
    assert own_form(reply.message, "p", "m") == own


# Over HTTP


def _seen(error: BaseException) -> str:
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(shown.format()) + repr(vars(error)) + repr(error)


def _clean(everything: str) -> bool:
    return not any(one.decode() in everything for one in SecretStr(CANARY).forms())


@pytest.mark.parametrize("form", FORMS)
async def test_an_echo_in_a_stream_is_masked_when_chunks_and_events_split_it(
    form: Callable[[str], str], transport: Transport
) -> None:
    echoed = f"you sent {form(CANARY)}, thanks"
    middle = len(echoed) // 2
    said = [echoed[:12], echoed[12:middle], echoed[middle:]]
    body = b"".join(event({"content": one, "reasoning_content": one}) for one in said) + event(
        {"content": form(CANARY)}
    )
    body += END
    pieces = [body[begin : begin + 7] for begin in range(0, len(body), 7)]
    deltas: list[Delta] = []
    async with scripted(stream(*pieces, x_request_id=form(CANARY))) as server:
        sent = await transport.send(CALL, at(server), OPENAI, on_delta=deltas.append)
        assert CANARY in server.seen[0].headers["authorization"]
    assert sent.reply.text.count(MASK) == 2
    assert _clean(repr(sent))
    for kind in ("text", "reasoning"):
        assert _clean("".join(delta.text for delta in deltas if delta.kind == kind))
    assert _clean("".join(delta.text for delta in deltas))


async def test_an_echo_in_a_stream_that_breaks_shows_in_no_error(transport: Transport) -> None:
    pieces = [event({"content": CANARY[:9]}), event({"content": CANARY[9:]}), f"data: {CANARY} {{\n\n".encode()]
    async with scripted(stream(*pieces)) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI, stream=True, retry=Retry(attempts=1)))
    assert _clean(_seen(error))


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
@pytest.mark.parametrize("form", [*FORMS, lambda text: "".join(f"\\u{ord(char):04x}" for char in text)])
async def test_an_echo_in_an_error_is_masked_in_every_form(
    form: Callable[[str], str], status: int, transport: Transport
) -> None:
    body = f'{{"error":{{"message":"bad key {form(CANARY)}","code":"{form(CANARY)}"}}}}'.encode()
    async with scripted(answer(body, status, x_request_id=quote(CANARY))) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI, retry=Retry(attempts=1)))
    assert _clean(_seen(error))


async def test_an_echo_split_over_packets_of_a_plain_answer_is_masked(transport: Transport) -> None:
    body = json.dumps({"choices": [{"message": {"content": CANARY}, "finish_reason": "stop"}]}).encode()
    middle = body.index(b"7+41")

    async def in_two(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
        writer.write(stream_head("application/json") + chunk(body[:middle]))
        await writer.drain()
        writer.write(chunk(body[middle:]) + chunk(b""))

    async with scripted(in_two) as server:
        sent = await transport.send(CALL, at(server), OPENAI)
    assert sent.reply.text == MASK
    assert _clean(repr(sent))


async def test_a_placeholder_for_a_key_may_occur_in_an_answer(transport: Transport) -> None:
    async with scripted(stream(event({"content": "an ollama is "}), event({"content": "no llama"}), END)) as server:
        endpoint = Endpoint(base_url=server.base_url, api_key=SecretStr("ollama"))
        sent = await transport.send(CALL, endpoint, OPENAI, stream=True)
    assert sent.reply.text == "an ollama is no llama"


# Credentials that are fetched


async def test_a_fetched_credential_is_sent_for_each_attempt_and_masked(transport: Transport) -> None:
    given_: list[str] = []

    async def authorise(request: httpx.Request) -> Sequence[SecretStr]:
        given_.append(f"token-of-the-test-{len(given_)}")
        request.headers["authorization"] = f"Bearer {given_[-1]}"
        return [SecretStr(given_[-1])]

    async def echo(_: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        body = json.dumps({"error": {"message": f"no: {seen.headers['authorization']}"}}).encode()
        writer.write(f"HTTP/1.1 500 No\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    async with scripted(echo) as server:
        endpoint = Endpoint(base_url=server.base_url, authorise=authorise)
        error = await fails(transport.send(CALL, endpoint, OPENAI, retry=Retry(attempts=2)))
        assert [seen.headers["authorization"] for seen in server.seen] == [f"Bearer {one}" for one in given_]
    assert len(given_) == 2
    assert isinstance(error, ProviderError)
    assert "token-of-the-test" not in _seen(error)


async def test_a_credential_that_cannot_be_fetched_is_an_error_of_the_call(transport: Transport) -> None:
    async def authorise(_: object) -> Sequence[SecretStr]:
        raise KeyError("no tenant")

    async with scripted(answer()) as server:
        error = await fails(
            transport.send(
                CALL, Endpoint(base_url=server.base_url, authorise=authorise), OPENAI, retry=Retry(attempts=2)
            )
        )
        assert server.seen == []
    assert isinstance(error, CredentialError)
    assert "the credential for openai could not be fetched: KeyError: 'no tenant'" in error.message
    assert len(error.attempts) == 1
