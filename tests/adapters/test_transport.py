from __future__ import annotations

import asyncio
import gzip
import json
import logging
import traceback
import zlib
from collections.abc import Callable

import pytest

from kitaru.adapters import (
    Attempt,
    Endpoint,
    Message,
    ModelCall,
    Retry,
    SecretStr,
    Sent,
    Settings,
    Timeouts,
    Transport,
    attempts_of,
)
from kitaru.adapters.standin import Fault, Options, StandInServer
from kitaru.errors import (
    ModelConnectionError,
    ProviderError,
    UsageError,
)
from tests.adapters.scripted import (
    CALL,
    CANARY,
    GOOD,
    OPENAI,
    Clock,
    Script,
    Seen,
    answer,
    at,
    close,
    fails,
    scripted,
    silence,
    stall,
)

pytestmark = pytest.mark.usefixtures("engine")


# The request, against the official client


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(temperature=0.2, max_tokens=50, top_p=0.9, stop=("END", "\n\n"), seed=7),
        Settings(extra={"presence_penalty": 0.5, "user": "u-1", "service_tier": "flex"}),
    ],
)
async def test_a_request_is_field_by_field_that_of_the_official_client(
    settings: Settings, transport: Transport
) -> None:
    import openai

    said = (
        Message("system", "Be brief – «très»."),
        Message("user", "Hi 🦉\n"),
        Message("assistant", "Yes?"),
        Message("user", ""),
    )
    async with scripted(answer()) as server:
        call = ModelCall("openai", "gpt-x", said, settings)
        await transport.send(
            call,
            Endpoint(base_url=server.base_url, api_key=SecretStr("sk-test"), headers={"OpenAI-Project": "p"}),
            OPENAI,
        )
        async with openai.AsyncOpenAI(
            base_url=server.base_url, api_key="sk-test", project="p", organization=""
        ) as client:
            given = {
                "temperature": settings.temperature,
                "max_completion_tokens": settings.max_tokens,
                "top_p": settings.top_p,
                "stop": list(settings.stop) or None,
                "seed": settings.seed,
            }
            body = {name: value for name, value in given.items() if value is not None} | settings.extra
            messages = [{"role": message.role, "content": message.content} for message in said]
            await client.post(
                "/chat/completions", cast_to=object, body={"model": "gpt-x", "messages": messages, **body}
            )
        ours, theirs = server.seen
    assert ours.line == theirs.line
    assert json.loads(ours.body) == json.loads(theirs.body)
    for name in ("authorization", "accept", "content-type", "host", "openai-project"):
        assert ours.headers[name] == theirs.headers[name], name
    # What is left: the client's own name and statistics, and encodings that it can undo and we did not ask for.
    own = {name for name in theirs.headers if name.startswith("x-stainless-")} | {"openai-organization"}
    assert theirs.headers.keys() - own - {"connection"} == ours.headers.keys()


async def test_the_official_client_and_the_adapter_read_the_same_answer(transport: Transport) -> None:
    import openai

    with StandInServer() as server:
        async with openai.AsyncOpenAI(base_url=server.base_url, api_key="sk-test") as client:
            theirs = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        ours = (await transport.send(CALL, Endpoint(base_url=server.base_url), OPENAI)).reply
    assert theirs.usage is not None
    assert ours.text == theirs.choices[0].message.content
    assert (ours.model, ours.finish) == (theirs.model, theirs.choices[0].finish_reason)
    assert (ours.usage.input, ours.usage.output) == (theirs.usage.prompt_tokens, theirs.usage.completion_tokens)


# Attempts


@pytest.mark.parametrize(
    ("fault", "billed", "status"),
    [
        (Fault("429", first=2, retry_after=3), False, 429),
        (Fault("500", first=2), False, 500),
        (Fault("503", first=2, retry_after=0.5), False, 503),
        (Fault("malformed", first=2), True, 200),
        (Fault("error-in-200", first=2), True, 200),
        (Fault("drop", first=2), True, 200),
    ],
)
async def test_a_passing_fault_is_tried_again_and_each_attempt_recorded(
    fault: Fault, billed: bool, status: int, transport: Transport, clock: Clock
) -> None:
    recorded: list[Attempt] = []
    with StandInServer(Options(faults=(fault,))) as server:
        sent = await transport.send(
            CALL, Endpoint(base_url=server.base_url), OPENAI, record=lambda attempt, _: recorded.append(attempt)
        )
        assert server.counts.total == server.counts.finished == 3
    assert [attempt.status for attempt in sent.attempts] == [status, status, 200]
    assert [attempt.possibly_billed for attempt in sent.attempts] == [billed, billed, False]
    assert [bool(attempt.error) for attempt in sent.attempts] == [True, True, False]
    assert [attempt.request_id for attempt in sent.attempts] == ["standin-1", "standin-2", "standin-3"]
    assert recorded == list(sent.attempts)
    asked = fault.retry_after if fault.kind in ("429", "503") else None
    assert clock.waits == ([asked, asked] if asked else [1.0, 2.0])
    assert sent.latency == sum(clock.waits)


@pytest.mark.parametrize(
    "fault",
    [Fault("quota"), Fault("html")],
)
async def test_a_fault_that_waiting_does_not_cure_is_tried_once(
    fault: Fault, transport: Transport, clock: Clock
) -> None:
    with StandInServer(Options(faults=(fault,))) as server:
        error = await fails(transport.send(CALL, Endpoint(base_url=server.base_url), OPENAI))
        assert server.counts.total == 1
    assert isinstance(error, ProviderError)
    assert [attempt.request_id for attempt in attempts_of(error)] == ["standin-1"]
    assert clock.waits == []


async def test_attempts_used_up_give_the_last_error_with_all_of_them(transport: Transport) -> None:
    async with scripted(answer(b"{}", 500), answer(b"{}", 429), answer(b"{}", 503)) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI))
    assert isinstance(error, ProviderError)
    assert [attempt.status for attempt in attempts_of(error)] == [500, 429, 503]
    assert error.status == 503
    assert error.__notes__ == ["3 attempts in 3.0 s"]


async def test_one_attempt_means_none_again(transport: Transport) -> None:
    async with scripted(answer(b"{}", 500), answer()) as server:
        await fails(transport.send(CALL, at(server), OPENAI, retry=Retry(attempts=1)))
        assert len(server.seen) == 1


async def test_a_wait_that_is_too_long_is_refused(transport: Transport, clock: Clock) -> None:
    async with scripted(answer(b"{}", 429, retry_after="3600"), answer()) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI))
    assert clock.waits == []
    assert error.__notes__ == ["not tried again: 3600 s is asked for, and more than 120 s is refused"]


async def test_a_date_without_the_server_s_own_is_measured_by_the_clock(clock: Clock) -> None:
    async with (
        scripted(answer(b"{}", 429, retry_after="Sat, 21 Nov 2026 04:00:30 GMT"), answer()) as server,
        Transport(sleep=clock.sleep, now=lambda: 1_795_233_600.0, chance=lambda: 0.0) as transport,
    ):
        sent = await transport.send(CALL, at(server), OPENAI)
    assert clock.waits == [30.0]
    assert sent.attempts[0].started == 1_795_233_600.0


async def test_no_wait_goes_beyond_the_total_time(transport: Transport, clock: Clock) -> None:
    async with scripted(answer(b"{}", 429, retry_after="60"), answer()) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI, timeout=Timeouts(total=30)))
    assert isinstance(error, ProviderError)
    assert clock.waits == []


async def test_a_connection_closed_without_an_answer_was_possibly_billed(transport: Transport) -> None:
    async with scripted(close, answer()) as server:
        sent = await transport.send(CALL, at(server), OPENAI)
    assert [attempt.possibly_billed for attempt in sent.attempts] == [True, False]


async def test_a_connection_never_made_was_not_billed(transport: Transport) -> None:
    async with scripted(answer()) as server:
        pass
    error = await fails(transport.send(CALL, at(server), OPENAI))
    assert isinstance(error, ModelConnectionError)
    assert not error.sent
    assert [attempt.possibly_billed for attempt in attempts_of(error)] == [False] * 3
    assert "before the request was sent" in error.message


async def test_a_gateway_that_gave_up_was_possibly_billed(transport: Transport) -> None:
    async with scripted(answer(b"{}", 504), answer()) as server:
        sent = await transport.send(CALL, at(server), OPENAI)
    assert sent.attempts[0].possibly_billed


# Deadlines and cancellation


async def test_silence_ends_at_the_first_byte_s_deadline(transport: Transport) -> None:
    async with scripted(silence) as server:
        error = await fails(
            transport.send(CALL, at(server), OPENAI, retry=Retry(attempts=1), timeout=Timeouts(first_byte=0.05))
        )
    assert isinstance(error, ModelConnectionError)
    assert error.sent
    assert "nothing arrived for 0.05 s, after the request was sent" in error.message


async def test_a_body_that_stalls_ends_at_the_deadline_between_pieces(transport: Transport) -> None:
    async with scripted(stall) as server:
        error = await fails(
            transport.send(CALL, at(server), OPENAI, retry=Retry(attempts=1), timeout=Timeouts(between=0.05))
        )
    assert "nothing arrived for 0.05 s, after the answer had begun (200)" in error.message
    (attempt,) = attempts_of(error)
    assert (attempt.status, attempt.request_id, attempt.possibly_billed) == (200, "req-9", True)


async def test_the_total_time_ends_a_call_for_good(transport: Transport, clock: Clock) -> None:
    async with scripted(silence) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI, timeout=Timeouts(total=0.05)))
    assert "whole call is used up" in error.message
    assert len(attempts_of(error)) == 1
    assert clock.waits == []


async def test_a_cancelled_call_stops_at_once_and_its_attempt_is_told(transport: Transport) -> None:
    recorded: list[Attempt] = []
    asked = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter, __: Seen) -> None:
        asked.set()
        await reader.read()

    async with scripted(hang) as server:
        task = asyncio.create_task(
            transport.send(CALL, at(server), OPENAI, record=lambda attempt, _: recorded.append(attempt))
        )
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (attempt,) = recorded
    assert (attempt.error, attempt.possibly_billed) == ("cancelled", True)


async def test_a_wait_between_attempts_can_be_cancelled() -> None:
    waiting = asyncio.Event()

    async def for_ever(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async with scripted(answer(b"{}", 500)) as server, Transport(sleep=for_ever) as transport:
        task = asyncio.create_task(transport.send(CALL, at(server), OPENAI))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# Bodies and addresses


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", lambda data: zlib.compress(data)[2:-4])],
)
async def test_a_compressed_answer_is_read(encoding: str, pack: Callable[[bytes], bytes], transport: Transport) -> None:
    async with scripted(answer(pack(GOOD), content_encoding=encoding)) as server:
        sent = await transport.send(CALL, at(server), OPENAI)
    assert sent.reply.raw == GOOD


@pytest.mark.parametrize("packed", [True, False])
async def test_a_body_beyond_the_limit_is_refused_counted_after_decompression(packed: bool, clock: Clock) -> None:
    body = b" " * 100_001
    script = answer(gzip.compress(body), content_encoding="gzip") if packed else answer(body)
    async with scripted(script) as server, Transport(max_body=100_000, sleep=clock.sleep) as transport:
        error = await fails(transport.send(CALL, at(server), OPENAI))
        assert len(server.seen) == 1
    assert "more than 100000 bytes" in error.message


@pytest.mark.parametrize(
    ("body", "encoding"),
    [(b"not gzip", "gzip"), (gzip.compress(GOOD, mtime=0)[:-9], "gzip"), (GOOD, "br"), (GOOD, "gzip, gzip")],
)
async def test_a_body_that_cannot_be_decompressed_is_a_provider_error(
    body: bytes, encoding: str, transport: Transport
) -> None:
    async with scripted(answer(body, content_encoding=encoding, x_request_id="req-3")) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI))
    assert isinstance(error, ProviderError)
    assert (error.status, error.request_id) == (200, "req-3")


async def test_a_redirect_is_not_followed(transport: Transport) -> None:
    async with scripted(answer()) as other, scripted(answer(b"", 307, location=f"{other.base_url}/x?key=1")) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI))
        assert other.seen == []
    assert "not followed" in str(error)
    assert "key=1" not in str(error)


async def test_loopback_is_called_direct_whatever_the_proxy_variables_say(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with scripted(answer()) as server:
        assert (await transport.send(CALL, at(server), OPENAI)).reply.text == "hello"


@pytest.mark.parametrize(
    "proxy", ["gopher://{}@p.example", "http://{}@127.0.0.1:99999", "http://{}@a..b:80", "http://"]
)
async def test_unusable_proxy_settings_are_a_usage_error_without_the_password(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.format(f"user:{CANARY}"))
    with pytest.raises(UsageError, match="proxy") as caught:
        await transport.send(CALL, Endpoint(base_url="https://h.example", api_key=SecretStr(CANARY)), OPENAI)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


# Clients


async def test_one_caller_keeps_one_connection(transport: Transport) -> None:
    async with scripted(answer()) as server:
        for _ in range(5):
            await transport.send(CALL, at(server), OPENAI)
        assert server.connections == 1


async def test_many_callers_at_once_all_get_their_own_answer(transport: Transport) -> None:
    with StandInServer() as server:
        endpoint = Endpoint(base_url=server.base_url)
        calls = [ModelCall("openai", f"m-{n}", (Message("user", f"prompt {n}"),)) for n in range(80)]
        sent = await asyncio.gather(*(transport.send(call, endpoint, OPENAI) for call in calls))
        counts = server.counts
    assert [one.reply.model for one in sent] == [call.model for call in calls]
    assert (counts.total, counts.finished, counts.in_flight, len(counts.prompts)) == (80, 80, 0, 80)


def test_a_transport_belongs_to_one_loop() -> None:
    transport = Transport()

    async def use() -> Sent:
        async with scripted(answer()) as server:
            return await transport.send(CALL, at(server), OPENAI)

    async def use_and_close() -> Sent:
        try:
            return await use()
        finally:
            await transport.aclose()

    assert asyncio.run(use_and_close()).reply.text == "hello"
    with pytest.raises(UsageError, match="closed"):
        asyncio.run(use())


async def test_a_transport_is_no_use_on_another_loop(transport: Transport) -> None:
    async def send() -> Sent:
        return await transport.send(CALL, Endpoint(base_url="http://127.0.0.1:1"), OPENAI, retry=Retry(attempts=1))

    await fails(send())
    with pytest.raises(UsageError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, send())


def test_a_transport_that_nobody_closes_is_closed_with_its_loop() -> None:
    transport = Transport()

    async def use() -> Sent:
        async with scripted(answer()) as server:
            return await transport.send(CALL, at(server), OPENAI)

    assert asyncio.run(use()).reply.text == "hello"
    with pytest.raises(UsageError, match="closed"):
        asyncio.run(use())


# Secrets


async def echo(_: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
    said = json.dumps({"error": {"message": f"bad key {seen.headers['authorization']}", "code": "rate_limit_exceeded"}})
    head = f"content-length: {len(said)}\r\nx-request-id: {CANARY}\r\nretry-after: 0.1\r\n"
    writer.write(f"HTTP/1.1 429 Word\r\n{head}\r\n{said}".encode())


async def echo_in_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
    text = json.dumps(f"your header is {seen.headers['authorization']}").replace("/", "\\/")
    body = f'{{"model":"{CANARY}","choices":[{{"message":{{"content":{text}}},"finish_reason":"stop"}}]}}'
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())


@pytest.mark.parametrize(
    "script", [echo, close, silence, stall, answer(CANARY.encode(), 200), answer(CANARY.encode(), 401)]
)
async def test_the_key_shows_in_no_error_traceback_attempt_or_log(
    script: Script, transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted(script) as server:
        error = await fails(
            transport.send(
                CALL, at(server), OPENAI, retry=Retry(attempts=2), timeout=Timeouts(first_byte=0.05, between=0.05)
            )
        )
        assert server.seen[0].headers["authorization"] == f"Bearer {CANARY}"
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    everything = [*shown.format(), str(error), repr(error), repr(vars(error)), repr(error.attempts), caplog.text]
    everything += [repr(record.__dict__) for record in caplog.records]
    assert CANARY not in "".join(everything)
    while error.__context__ is not None:
        # The HTTP library's errors would hold the request, and with it the key.
        assert type(error.__context__).__module__ in ("builtins", "msgspec")
        error = error.__context__  # type: ignore[assignment]  # only walked along


async def test_the_key_shows_in_no_answer(transport: Transport) -> None:
    async with scripted(echo_in_answer) as server:
        sent = await transport.send(CALL, at(server), OPENAI)
    assert CANARY not in repr(sent)
    assert CANARY.replace("/", "\\/").encode() not in sent.reply.raw
    assert sent.reply.text == "your header is Bearer **********"


async def test_only_our_own_requests_are_kept_out_of_the_http_library_s_log(
    transport: Transport, caplog: pytest.LogCaptureFixture
) -> None:
    import httpx

    caplog.set_level(logging.INFO, logger="httpx")
    async with scripted(answer()) as server:
        await transport.send(CALL, at(server), OPENAI)
        assert caplog.records == []
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(f"{server.base_url}/other")
    assert any("/other" in record.getMessage() for record in caplog.records)
