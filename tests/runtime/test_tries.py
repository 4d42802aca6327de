"""What a log tells of a model call's attempts after its process died."""

from __future__ import annotations

from kitaru.runtime.calls.tries import INTERRUPTED, Earlier, tried
from kitaru.store.events import (
    AnyEvent,
    Attempt,
    LlmAttempted,
    LlmRequested,
    RunClaimed,
    RunParked,
    RunRetried,
    StepFailed,
)

KEY = "llm"


def requested(at: float, model: str = "openai/a") -> LlmRequested:
    return LlmRequested(1, at, KEY, "llm", b"f", b"", b"", 1, 1, model)


def failed_attempt(at: float, next_model: str = "openai/a", wait: float = 1.0, model: str = "openai/a") -> LlmAttempted:
    attempt = Attempt(at, 0.5, 500, "answered 500", model=model)
    return LlmAttempted(1, at + 0.5, KEY, "llm", b"f", b"", b"", 1, 1, attempt, next_model, at + 0.5 + wait)


def claimed(at: float) -> RunClaimed:
    return RunClaimed(1, at, 2, "other", "3.11.7")


def gave_up() -> StepFailed:
    return StepFailed(1, 9.0, KEY, "llm", b"f", b"", b"", 1, 1, 1.0, b"", True)


def earlier(*events: AnyEvent) -> Earlier:
    return tried(events).of(KEY)


def errors(*events: AnyEvent) -> list[str]:
    return [attempt.error for attempt in earlier(*events).attempts]


def test_a_call_that_was_never_made_has_no_attempts() -> None:
    assert earlier() == Earlier()


def test_a_request_without_outcome_counts_as_an_attempt_that_may_have_been_billed() -> None:
    (attempt,) = earlier(requested(1.0), claimed(5.0)).attempts
    assert (attempt.error, attempt.possibly_billed, attempt.model) == (INTERRUPTED, True, "openai/a")


def test_a_process_that_died_in_the_wait_before_a_retry_left_no_attempt_in_doubt() -> None:
    assert errors(requested(1.0), failed_attempt(1.0, wait=30.0), claimed(5.0)) == ["answered 500"]


def test_a_process_that_died_after_the_wait_may_have_sent_the_retry() -> None:
    assert errors(requested(1.0), failed_attempt(1.0, wait=1.0), claimed(5.0)) == ["answered 500", INTERRUPTED]


def test_a_run_parked_in_the_wait_before_a_retry_left_no_attempt_in_doubt_however_late_it_goes_on() -> None:
    parked = RunParked(1, 5.0, "left memory")
    assert errors(requested(1.0), failed_attempt(1.0, wait=30.0), parked, claimed(90.0)) == ["answered 500"]


def test_a_call_that_is_given_up_counts_the_attempt_under_way_unless_it_was_not_due() -> None:
    waiting = tried([requested(1.0), failed_attempt(1.0, wait=30.0)])
    assert len(waiting.attempts_of(KEY, until=5.0)) == 1
    under_way = tried([requested(1.0), failed_attempt(1.0, wait=1.0)])
    assert len(under_way.attempts_of(KEY)) == 1
    assert [one.possibly_billed for one in under_way.attempts_of(KEY, until=5.0)] == [False, True]
    assert under_way.attempts_of("other") == ()


def test_a_call_goes_on_with_the_model_that_was_next() -> None:
    found = earlier(requested(1.0), failed_attempt(1.0, next_model="anthropic/b", wait=0.0), claimed(5.0))
    assert found.next_model == "anthropic/b"
    assert [attempt.model for attempt in found.attempts] == ["openai/a", "anthropic/b"]


def test_attempts_of_several_dead_processes_add_up() -> None:
    log = (requested(1.0), claimed(5.0), requested(6.0), failed_attempt(6.0), claimed(20.0))
    assert errors(*log) == [INTERRUPTED, "answered 500", INTERRUPTED]


def test_a_call_with_an_outcome_starts_afresh_when_it_is_retried() -> None:
    assert earlier(requested(1.0), failed_attempt(1.0, ""), gave_up(), RunRetried(1, 10.0, (KEY,))) == Earlier()
