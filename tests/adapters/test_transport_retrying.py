"""What counts as an attempt, what is told of it, and settings that a provider refuses."""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

import msgspec
import pytest

from kitaru.adapters import (
    Attempt,
    Endpoint,
    Message,
    ModelCall,
    Reply,
    Retry,
    Settings,
    Timeouts,
    Transport,
    attempts_of,
)
from kitaru.adapters.message import assistant
from kitaru.adapters.reply import Usage, reply_of
from kitaru.errors import AnswerError, ProviderError
from tests.adapters.scripted import CALL, GOOD, OPENAI, Clock, Script, answer, at, fails, scripted

pytestmark = pytest.mark.usefixtures("engine")

LIVELY = msgspec.structs.replace(CALL, settings=Settings(temperature=0.2, top_p=0.9, seed=7))


def refuses(setting: str, status: int = 400) -> Script:
    message = f"Unsupported value: '{setting}' does not support 0.2 with this model."
    error = {"message": message, "param": setting, "code": "unsupported_value"}
    return answer(json.dumps({"error": error}).encode(), status)


# Attempts that a dead process made


async def test_attempts_made_before_count_and_the_wait_goes_on_from_there(transport: Transport, clock: Clock) -> None:
    async with scripted(answer(b"{}", 500)) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI, retry=Retry(attempts=4), failed=2))
        assert len(server.seen) == 2
    assert len(attempts_of(error)) == 2
    assert clock.waits == [4.0]


@pytest.mark.parametrize("failed", [3, 30])
async def test_at_least_one_attempt_is_made(failed: int, transport: Transport, clock: Clock) -> None:
    async with scripted(answer(b"{}", 500)) as server:
        await fails(transport.send(CALL, at(server), OPENAI, failed=failed))
        assert len(server.seen) == 1
    assert clock.waits == []


async def test_an_attempt_is_told_with_its_wait_before_the_wait_begins(transport: Transport, clock: Clock) -> None:
    told: list[tuple[int, float | None, int]] = []

    def record(attempt: Attempt, wait: float | None) -> None:
        told.append((attempt.status, wait, len(clock.waits)))

    async with scripted(answer(b"{}", 500), answer(b"{}", 429, retry_after="7"), answer()) as server:
        await transport.send(CALL, at(server), OPENAI, record=record)
    assert told == [(500, 1.0, 0), (429, 7.0, 1), (200, None, 2)]


async def test_the_last_attempt_is_told_without_a_wait(transport: Transport) -> None:
    told: list[float | None] = []
    async with scripted(answer(b"{}", 500)) as server:
        await fails(
            transport.send(CALL, at(server), OPENAI, retry=Retry(attempts=2), record=lambda _, wait: told.append(wait))
        )
    assert told == [1.0, None]


async def test_a_prompt_that_was_filtered_is_no_error_to_be_tried_again(transport: Transport) -> None:
    filtered = Reply("", assistant(""), "content_filter", Usage(), "", "req-1")

    class Filtering:
        row = OPENAI.row
        build_request = OPENAI.build_request
        parse_stream = OPENAI.parse_stream

        def parse_response(self, *_: object) -> Reply:
            error = AnswerError("openai answered 400 (content_filter)")
            error.reply = filtered
            raise error

    async with scripted(answer(b"{}", 400)) as server:
        error = await fails(transport.send(CALL, at(server), Filtering()))
        assert len(server.seen) == 1
    assert isinstance(error, AnswerError)
    assert reply_of(error) == filtered
    (attempt,) = attempts_of(error)
    assert (attempt.request_id, attempt.possibly_billed) == ("req-1", False)


async def test_a_limit_s_reset_is_waited_for_where_no_wait_is_named(transport: Transport, clock: Clock) -> None:
    limited = answer(b"{}", 429, x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="7s")
    async with scripted(limited, answer()) as server:
        await transport.send(CALL, at(server), OPENAI)
    assert [round(wait) for wait in clock.waits] == [7]


# Settings that a provider refuses


async def test_a_refused_setting_is_left_out_at_once(transport: Transport, clock: Clock) -> None:
    told: list[float | None] = []
    async with scripted(refuses("temperature"), answer()) as server:
        sent = await transport.send(
            LIVELY, at(server), OPENAI, retry=Retry(attempts=1), record=lambda _, wait: told.append(wait)
        )
        first, second = (json.loads(seen.body) for seen in server.seen)
    assert first == {**second, "temperature": 0.2}
    assert sent.warnings == ("temperature was left out: the provider refused it for this model",)
    assert [bool(attempt.error) for attempt in sent.attempts] == [True, False]
    assert (told, clock.waits) == ([0.0, None], [])


async def test_several_refused_settings_are_left_out_one_after_the_other(transport: Transport) -> None:
    async with scripted(refuses("temperature"), refuses("seed", 422), answer()) as server:
        sent = await transport.send(LIVELY, at(server), OPENAI, retry=Retry(attempts=1))
        assert len(server.seen) == 3
        assert transport.lacking(LIVELY, server.base_url).keys() == {"temperature", "seed"}
    assert len(sent.warnings) == 2


async def test_a_setting_that_is_refused_though_it_was_left_out_ends_the_call(transport: Transport) -> None:
    async with scripted(refuses("temperature")) as server:
        error = await fails(transport.send(LIVELY, at(server), OPENAI))
        assert len(server.seen) == 2
    assert isinstance(error, ProviderError)
    assert error.refuses == "temperature"


async def test_a_refusal_leaves_all_attempts_for_other_failures(transport: Transport) -> None:
    async with scripted(answer(b"{}", 500), refuses("seed"), answer(b"{}", 500), answer()) as server:
        sent = await transport.send(LIVELY, at(server), OPENAI)
    assert len(sent.attempts) == 4


async def test_a_strict_call_is_not_changed(transport: Transport) -> None:
    strict = msgspec.structs.replace(LIVELY, strict=True)
    async with scripted(refuses("temperature"), answer()) as server:
        await fails(transport.send(strict, at(server), OPENAI))
        assert len(server.seen) == 1
        assert transport.lacking(LIVELY, server.base_url) == {}


async def test_a_refusal_of_what_was_never_asked_for_is_an_error_like_others(transport: Transport) -> None:
    async with scripted(refuses("temperature"), answer()) as server:
        await fails(transport.send(CALL, at(server), OPENAI))
        assert len(server.seen) == 1


async def test_what_one_model_refuses_is_remembered_for_it_alone(transport: Transport) -> None:
    async with scripted(refuses("temperature"), answer()) as server:
        await transport.send(LIVELY, at(server), OPENAI)
        known = functools.partial(transport.lacking, LIVELY)
        assert known(server.base_url).keys() == known(server.base_url + "/").keys() == {"temperature"}
        assert known("http://other.example/v1") == {}
        for other in ({"model": "other"}, {"provider": "groq"}):
            assert transport.lacking(msgspec.structs.replace(LIVELY, **other), server.base_url) == {}


def with_settings(**fields: Any) -> ModelCall:
    return msgspec.structs.replace(LIVELY, settings=Settings(**fields))


THINKING = "`temperature` may only be set to 1 when thinking is enabled."
BOTH = "`temperature` and `top_p` cannot both be specified for this model."
VALUE = "Unsupported value: 'temperature' does not support 0.2 with this model."


@pytest.mark.parametrize(
    ("message", "settings", "warned", "left_out", "kept"),
    [
        (
            THINKING, {"reasoning": "low", "seed": 1}, "the provider refused it together with reasoning",
            [{"reasoning": "high"}, {"reasoning": 5000, "top_p": 0.5}], [{}, {"seed": 1}, {"reasoning": "none"}],
        ),
        (BOTH, {"top_p": 0.5}, "the provider refused it together with top_p", [{"top_p": 0.1}], [{}, {"seed": 1}]),
        (
            VALUE, {}, "the provider refused it for this model",
            [{}, {"top_p": 0.1}, {"reasoning": "low"}], [{"reasoning": "none"}],
        ),
        (
            VALUE, {"seed": 1, "top_p": 0.5}, "the provider refused it for this model",
            [{}, {"seed": 2}, {"reasoning": "low"}], [{"reasoning": "none"}],
        ),
        (
            "not supported: temperature", {"seed": 1, "top_p": 0.5},
            "the provider refused it together with seed, top_p",
            [{"seed": 2, "top_p": 0.1}], [{}, {"seed": 1}],
        ),
    ],
)  # fmt: skip
async def test_a_refusal_is_remembered_for_its_combination_only_and_its_warning_says_so(
    message: str, settings: dict[str, Any], warned: str, left_out: list[Any], kept: list[Any], transport: Transport
) -> None:
    refusal = answer(json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode(), 400)
    async with scripted(refusal, answer()) as server:
        sent = await transport.send(with_settings(temperature=0.2, **settings), at(server), OPENAI)
        assert sent.warnings == (f"temperature was left out: {warned}",)
        for others, expected in ((left_out, {"temperature"}), (kept, set())):
            for one in others:
                assert transport.lacking(with_settings(temperature=0.7, **one), server.base_url).keys() == expected, one


async def test_no_setting_is_left_out_when_the_time_is_up(clock: Clock) -> None:
    async def sleep(_: float) -> None: ...

    ticks = iter(range(0, 1000, 20))
    async with (
        scripted(refuses("temperature"), answer()) as server,
        Transport(clock=lambda: float(next(ticks)), sleep=sleep) as transport,
    ):
        await fails(transport.send(LIVELY, at(server), OPENAI, timeout=Timeouts(total=50)))
        assert len(server.seen) == 1


async def test_calls_at_once_keep_their_own_warnings(transport: Transport) -> None:
    async with scripted(refuses("temperature"), answer(GOOD)) as server:
        endpoint = Endpoint(base_url=server.base_url)
        other = ModelCall("openai", "m", (Message("user", "hi"),))
        lively = await transport.send(LIVELY, endpoint, OPENAI)
        plain, again = await asyncio.gather(
            transport.send(other, endpoint, OPENAI), transport.send(other, endpoint, OPENAI)
        )
    assert len(lively.warnings) == 1
    assert plain.warnings == again.warnings == ()
