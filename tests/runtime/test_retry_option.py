"""`retry=` of a checkpoint, and what a checkpoint makes of a model call that failed inside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

import kitaru
from kitaru import Checkpoint, ModelError, Runtime, UsageError, checkpoint
from kitaru.adapters import Retry
from kitaru.adapters.standin import Fault, Options, StandInServer
from kitaru.errors import KitaruError, ModelConnectionError, ProviderError
from kitaru.store.events import StepFailed
from tests.runtime.runs import of_type, run_of

MODEL = "openai/stand-in"
QUICK = {"attempts": 3, "initial": 0}


@pytest.mark.parametrize(
    "retry",
    [
        Retry(attempts=3, initial=0),
        QUICK,
        {"max_attempts": 3, "initial_delay": "0ms", "max_delay": "1s", "backoff_multiplier": 1.5},
    ],
)
async def test_a_checkpoint_takes_what_a_model_call_takes(
    retry: Retry | Mapping[str, int | float | str], runtime: Runtime
) -> None:
    attempts: list[int] = []

    @checkpoint(retry=retry)
    async def flaky() -> None:
        attempts.append(1)
        raise ValueError(f"attempt {len(attempts)}")

    async def body() -> object:
        await flaky()
        return None

    with pytest.raises(ValueError, match="attempt 3"):
        await run_of(runtime, body)
    assert [failed.final for failed in await of_type(runtime, "r", StepFailed)] == [False, False, True]


async def test_a_number_is_that_of_all_attempts(runtime: Runtime) -> None:
    attempts: list[int] = []

    @checkpoint(retry=1)
    async def fails() -> None:
        attempts.append(1)
        raise ValueError("once")

    async def body() -> object:
        await fails()
        return None

    with pytest.raises(ValueError, match="once"):
        await run_of(runtime, body)
    assert len(attempts) == 1


def _delays(step: Checkpoint[[], None], attempts: int) -> list[float | None]:
    return [step._work.retry_after(ValueError(), attempt) for attempt in range(1, attempts + 1)]


def test_the_waits_are_those_of_a_model_call() -> None:
    @checkpoint(retry=Retry(attempts=4, initial=1, max=5, factor=3))
    async def step() -> None: ...

    policy = Retry(attempts=4, initial=1, max=5, factor=3)
    *waits, last = _delays(step, 4)
    assert last is None
    for failed, wait in enumerate(waits, 1):
        assert wait is not None
        assert policy.delay(failed, asked=None, chance=1) <= wait <= policy.delay(failed, asked=None, chance=0)


def test_the_older_options_wait_in_the_same_way() -> None:
    @checkpoint(retries=3, backoff=2)
    async def step() -> None: ...

    first, second, third, last = _delays(step, 4)
    assert first is not None
    assert second is not None
    assert third is not None
    assert 1.5 <= first <= 2
    assert 3 <= second <= 4
    assert 6 <= third <= 8
    assert last is None


def test_one_call_may_have_another_retry() -> None:
    @checkpoint(retries=1, backoff=0)
    async def step() -> None: ...

    assert _delays(step.options(retry={"attempts": 3, "initial": 0}), 3) == [0, 0, None]
    assert _delays(step.options(retry=9).options(retries=1, backoff=[7]), 2) == [7, None]
    assert _delays(step.options(name="other", retry=2).options(name="third"), 2)[1:] == [None]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: checkpoint(retry=0),
        lambda: checkpoint(retry={"tries": 3}),
        lambda: checkpoint(retry=3, retries=2),
        lambda: checkpoint(retry=3, backoff=2),
    ],
)
def test_a_retry_that_cannot_be_right_is_refused_where_it_is_written(wrong: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        wrong()


# -- a model call inside ----------------------------------------------------------------------------------------------


async def _asked(runtime: Runtime, fault: Fault, **options: object) -> tuple[int, int]:
    """How often a checkpoint with these options ran, and how many requests it made with two attempts a call."""
    ran: list[int] = []
    with StandInServer(Options(faults=(fault,))) as server:

        async def ask() -> str:
            ran.append(1)
            return await kitaru.llm("tides", model=MODEL, base_url=server.base_url, retry=_retry(2))

        step = checkpoint(**options)(ask)  # type: ignore[call-overload]  # options by name

        async def body() -> object:
            return await step()

        with pytest.raises(ModelError):
            await run_of(runtime, body)
        return len(ran), server.counts.total


def _retry(attempts: int) -> Retry:
    return Retry(attempts=attempts, initial=0)


async def test_a_model_call_that_used_up_its_attempts_is_not_retried_by_its_checkpoint(runtime: Runtime) -> None:
    assert await _asked(runtime, Fault("500"), retry=QUICK) == (1, 2)


@pytest.mark.parametrize("named", [Exception, KitaruError, (OSError, Exception), ModelConnectionError])
async def test_a_wider_or_another_class_does_not_name_it(named: object, runtime: Runtime) -> None:
    assert await _asked(runtime, Fault("500"), retries=2, backoff=0, retry_on=named) == (1, 2)


@pytest.mark.parametrize("named", [ModelError, ProviderError, (ValueError, ProviderError)])
async def test_a_class_of_its_kind_names_it(named: object, runtime: Runtime) -> None:
    assert await _asked(runtime, Fault("500"), retry=QUICK, retry_on=named) == (3, 6)


async def test_other_errors_beside_a_model_call_are_retried(runtime: Runtime) -> None:
    ran: list[int] = []
    with StandInServer() as server:

        @checkpoint(retry=QUICK)
        async def ask() -> str:
            text = await kitaru.llm("tides", model=MODEL, base_url=server.base_url)
            ran.append(1)
            if len(ran) < 2:
                raise ValueError("not what was wanted")
            return text

        async def body() -> object:
            return await ask()

        assert await run_of(runtime, body)
    assert len(ran) == 2
