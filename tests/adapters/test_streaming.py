"""Streams over HTTP: read as they come, retried as a whole, stopped in time."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from kitaru.adapters import (
    Attempt,
    Delta,
    Endpoint,
    Message,
    ModelCall,
    Provider,
    Retry,
    Settings,
    Timeouts,
    Transport,
    adapter,
    attempts_of,
)
from kitaru.adapters.compatible import ADAPTERS
from kitaru.adapters.standin import Options, StandInServer
from kitaru.errors import ModelConnectionError, ProviderError
from tests.adapters.scripted import (
    CALL,
    GOOD,
    HELLO,
    OPENAI,
    Clock,
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

pytestmark = pytest.mark.usefixtures("engine")


async def test_a_stream_hands_its_pieces_out_and_gives_the_whole_reply(transport: Transport) -> None:
    deltas: list[Delta] = []
    async with scripted(stream(*HELLO)) as server:
        sent = await transport.send(CALL, at(server), OPENAI, on_delta=deltas.append)
        assert b'"stream":true' in server.seen[0].body
    assert [delta.text for delta in deltas] == ["hel", "lo"]
    assert (sent.reply.text, sent.reply.finish, sent.streamed) == ("hello", "stop", True)


async def test_a_plain_call_asks_for_no_stream(transport: Transport) -> None:
    async with scripted(answer()) as server:
        sent = await transport.send(CALL, at(server), OPENAI)
        assert b'"stream":true' not in server.seen[0].body
    assert (sent.streamed, sent.first_token) == (False, None)


async def test_a_stream_without_a_listener_gives_the_reply_of_a_plain_call() -> None:
    endpoint_call = ModelCall("openai", "m", (Message("user", "which tides are high?"),))
    with StandInServer(Options()) as server:
        async with Transport() as transport:
            endpoint = Endpoint(base_url=server.base_url)
            plain = (await transport.send(endpoint_call, endpoint, OPENAI)).reply
            streamed = (await transport.send(endpoint_call, endpoint, OPENAI, stream=True)).reply
    assert (streamed.text, streamed.finish, streamed.usage) == (plain.text, plain.finish, plain.usage)
    assert streamed.message == plain.message


@pytest.mark.parametrize(
    ("settings", "streams"),
    [
        (Settings(), False),
        (Settings(max_tokens=100), False),
        (Settings(max_tokens=101), True),
        (Settings(reasoning="low"), False),
        (Settings(reasoning="max"), True),
        (Settings(reasoning="max", max_tokens=100), False),
        (Settings(reasoning=51), True),
    ],
)
async def test_an_answer_that_may_be_long_streams_underneath(
    settings: Settings, streams: bool, transport: Transport
) -> None:
    import msgspec

    row: Provider = msgspec.structs.replace(OPENAI.row, stream_over=100)
    long_winded = msgspec.structs.replace(ADAPTERS["openai"], row=row)
    async with scripted(stream(*HELLO) if streams else answer()) as server:
        long = ModelCall("openai", "m", (Message("user", "hi"),), settings)
        sent = await transport.send(long, at(server), long_winded)
        assert (b'"stream":true' in server.seen[0].body) is streams
    assert (sent.reply.text, sent.streamed) == ("hello", streams)


async def test_a_server_that_answers_a_stream_request_in_one_piece_is_understood(transport: Transport) -> None:
    deltas: list[Delta] = []
    async with scripted(answer(GOOD)) as server:
        sent = await transport.send(CALL, at(server), OPENAI, on_delta=deltas.append)
    assert (sent.reply.text, sent.streamed, deltas) == ("hello", False, [])


async def test_a_refusal_of_a_stream_is_read_as_an_error_body(transport: Transport) -> None:
    body = b'{"error":{"message":"no such model","code":"model_not_found"}}'
    async with scripted(answer(body, 404, content_type="text/event-stream")) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI, stream=True))
    assert isinstance(error, ProviderError)
    assert (error.status, error.provider_code) == (404, "model_not_found")


async def test_the_time_to_the_first_piece_is_measured_from_the_call_s_start(clock: Clock) -> None:
    async def slow_start(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
        clock.at += 3
        writer.write(stream_head() + chunk(b"".join(HELLO)) + chunk(b""))

    async with scripted(answer(b"{}", 500), slow_start) as server, clock.transport() as transport:
        sent = await transport.send(CALL, at(server), OPENAI, stream=True)
    assert (sent.first_token, sent.latency) == (4.0, 4.0)


@pytest.mark.parametrize(
    "pieces",
    [
        HELLO[:1],
        HELLO[:2],
        (HELLO[0], HELLO[1][:-9]),
    ],
)
async def test_a_stream_without_its_end_is_tried_again_and_possibly_billed(
    pieces: tuple[bytes, ...], transport: Transport, clock: Clock
) -> None:
    async with scripted(stream(*pieces), stream(*HELLO)) as server:
        sent = await transport.send(CALL, at(server), OPENAI, stream=True)
    assert sent.reply.text == "hello"
    assert [(attempt.status, attempt.possibly_billed) for attempt in sent.attempts] == [(200, True), (200, False)]
    assert clock.waits == [1.0]


async def test_a_stream_that_breaks_off_is_tried_again_and_the_listener_is_told(transport: Transport) -> None:
    async def broken(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
        writer.write(stream_head() + chunk(HELLO[0]))
        await writer.drain()
        writer.close()

    told: list[str] = []
    async with scripted(broken, stream(*HELLO)) as server:
        sent = await transport.send(
            CALL,
            at(server),
            OPENAI,
            on_delta=lambda delta: told.append(delta.text),
            on_restart=lambda: told.append("anew"),
        )
    assert told == ["hel", "anew", "hel", "lo"]
    assert [attempt.possibly_billed for attempt in sent.attempts] == [True, False]


async def test_a_listener_that_got_nothing_yet_is_not_told_of_a_retry(transport: Transport) -> None:
    told: list[str] = []
    async with scripted(answer(b"{}", 500), stream(*HELLO)) as server:
        await transport.send(
            CALL,
            at(server),
            OPENAI,
            on_delta=lambda delta: told.append(delta.text),
            on_restart=lambda: told.append("!"),
        )
    assert told == ["hel", "lo"]


async def test_an_error_inside_a_stream_is_found(transport: Transport) -> None:
    error_event = b'data: {"error":{"message":"overloaded","code":"server_error"}}\n\n'
    async with scripted(stream(HELLO[0], error_event)) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI, stream=True, retry=Retry(attempts=1)))
    assert isinstance(error, ProviderError)
    assert (error.retryable, attempts_of(error)[0].possibly_billed) == (True, True)


async def test_what_a_listener_raises_is_nobody_else_s_error(transport: Transport) -> None:
    recorded: list[Attempt] = []

    def broken_pipe(_: Delta) -> None:
        raise BrokenPipeError("the reader has gone")

    async with scripted(stream(*HELLO)) as server:
        with pytest.raises(BrokenPipeError, match="the reader has gone"):
            await transport.send(
                CALL, at(server), OPENAI, on_delta=broken_pipe, record=lambda attempt, _: recorded.append(attempt)
            )
        assert len(server.seen) == 1
    (attempt,) = recorded
    assert (attempt.error, attempt.possibly_billed) == ("given up: BrokenPipeError", True)


async def test_keep_alive_comments_count_as_signs_of_life_but_not_for_ever(clock: Clock) -> None:
    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
        writer.write(stream_head() + chunk(HELLO[0]))
        while not writer.is_closing():
            writer.write(chunk(b": keep-alive\n\n"))
            await writer.drain()
            await asyncio.sleep(0.01)

    async with scripted(trickle) as server, Transport(sleep=clock.sleep) as transport:
        error = await fails(
            transport.send(CALL, at(server), OPENAI, stream=True, timeout=Timeouts(between=0.2, total=0.4))
        )
        assert len(server.seen) == 1
    assert isinstance(error, ModelConnectionError)
    assert "the time for the whole call is used up, after the answer had begun (200)" in error.message
    assert attempts_of(error)[0].possibly_billed


async def test_a_stream_that_falls_silent_ends_at_the_deadline_between_pieces(transport: Transport) -> None:
    async def falls_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Seen) -> None:
        writer.write(stream_head() + chunk(HELLO[0]))
        await reader.read()

    async with scripted(falls_silent) as server:
        error = await fails(
            transport.send(
                CALL,
                at(server),
                OPENAI,
                stream=True,
                retry=Retry(attempts=1),
                timeout=Timeouts(first_byte=30, between=0.05),
            )
        )
    assert "nothing arrived for 0.05 s, after the answer had begun (200)" in error.message


async def test_a_cancelled_stream_closes_its_connection_and_is_told(transport: Transport) -> None:
    recorded: list[Attempt] = []
    arrived, closed = asyncio.Event(), asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Seen) -> None:
        writer.write(stream_head() + chunk(HELLO[0]))
        await reader.read()
        closed.set()

    async with scripted(endless) as server:
        task = asyncio.create_task(
            transport.send(
                CALL,
                at(server),
                OPENAI,
                on_delta=lambda _: arrived.set(),
                record=lambda attempt, _: recorded.append(attempt),
            )
        )
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 5)
    (attempt,) = recorded
    assert (attempt.status, attempt.error, attempt.possibly_billed) == (200, "cancelled", True)


async def test_a_compressed_stream_is_read_piece_by_piece(transport: Transport) -> None:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    pieces = [packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH) for part in HELLO]
    pieces.append(packer.flush())
    first, go_on = asyncio.Event(), asyncio.Event()

    async def in_two(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
        writer.write(stream_head(content_encoding="gzip") + chunk(pieces[0]))
        await go_on.wait()
        writer.write(b"".join(map(chunk, pieces[1:])) + chunk(b""))

    async with scripted(in_two) as server:
        task = asyncio.create_task(transport.send(CALL, at(server), OPENAI, on_delta=lambda _: first.set()))
        await first.wait()  # while the rest is not sent yet
        go_on.set()
        assert (await task).reply.text == "hello"


async def test_a_stream_beyond_the_limit_is_refused_counted_after_decompression(clock: Clock) -> None:
    body = b": padding\n" * 20_000 + b"".join(HELLO)
    script = stream(gzip.compress(body), content_encoding="gzip")
    async with scripted(script) as server, Transport(max_body=100_000, sleep=clock.sleep) as transport:
        error = await fails(transport.send(CALL, at(server), OPENAI, stream=True))
        assert len(server.seen) == 1
    assert "more than 100000 bytes" in error.message


async def test_tool_calls_stream_piece_by_piece(transport: Transport) -> None:
    begin = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"at":'}}
    last = {"index": 0, "function": {"arguments": '"sea"}'}}
    events = [event({"tool_calls": [one]}) for one in (begin, more, last)]
    deltas: list[Delta] = []
    end = event({}, "tool_calls") + b"data: [DONE]\n\n"
    async with scripted(stream(*events, end)) as server:
        sent = await transport.send(CALL, at(server), OPENAI, on_delta=deltas.append)
    assert (deltas[0].id, deltas[0].name) == ("call_1", "look")
    assert "".join(delta.text for delta in deltas) == '{"at":"sea"}'
    (call,) = sent.reply.tool_calls
    assert (call.id, call.name, call.arguments) == ("call_1", "look", '{"at":"sea"}')


async def test_a_stream_leaves_its_connection_for_the_next_call(transport: Transport) -> None:
    async with scripted(stream(*HELLO)) as server:
        for _ in range(3):
            await transport.send(CALL, at(server), OPENAI, stream=True)
        assert server.connections == 1


async def test_an_adapter_that_answers_by_itself_needs_no_server_and_streams_too() -> None:
    echo = adapter("test")
    deltas: list[Delta] = []
    call = ModelCall("test", "echo", (Message("user", "high and low tides"),))
    async with Transport() as transport:
        sent = await transport.send(call, Endpoint(base_url=""), echo, on_delta=deltas.append)
    assert sent.reply.text == "".join(delta.text for delta in deltas) == "high and low tides"
    assert [attempt.possibly_billed for attempt in sent.attempts] == [False]
