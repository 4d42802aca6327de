"""Options of a wrong type or value are refused where they are written; durations are taken in every form."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import Retry, Runtime, SecretStr, StepTimeoutError, Timeouts, UsageError, checkpoint, flow
from kitaru.runtime.arguments import seconds_of
from kitaru.store.events import TimerSet
from tests.runtime.runs import of_type

wrong: Any = kitaru
"""The package without its types: every call below is wrong on purpose."""


@checkpoint
async def step(x: int = 1) -> int:
    return x


@flow
async def job(x: int = 1) -> int:
    return await step(x)


async def plain() -> None:
    """No flow."""


NO_DURATION = [math.nan, math.inf, -1, "soon", "5", True, [1], timedelta(seconds=-1), 10**400]


@pytest.mark.parametrize("value", NO_DURATION)
@pytest.mark.parametrize(
    "use",
    [
        lambda v: wrong.checkpoint(timeout=v),
        lambda v: wrong.checkpoint(backoff=[1, v]),
        lambda v: step.options(timeout=v),
        lambda v: step.options(backoff=(v,)),
        wrong.sleep,
        wrong.timeout,
        lambda v: wrong.Retry(initial=v),
        lambda v: wrong.Timeouts(total=v),
        lambda v: wrong.llm("q", model="test/echo", timeout=v),
        lambda v: wrong.Runtime("sqlite:///x.db", lease=v),
        lambda v: wrong.Runtime("sqlite:///x.db", patience=v),
        lambda v: wrong.Runtime("sqlite:///x.db", replay_grace=v),
        lambda v: wrong.Runtime("sqlite:///x.db", recover_every=v),
    ],
)
def test_what_is_no_duration_is_refused(use: Callable[[object], object], value: object) -> None:
    with pytest.raises(UsageError):
        use(value)


NO_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"model": 5}, "model=5"),
    ({"system": 5}, "system is an int"),
    ({"temperature": "0.2"}, "temperature='0.2'"),
    ({"temperature": True}, "temperature=True"),
    ({"temperature": float("nan")}, "temperature=nan"),
    ({"temperature": -0.1}, "temperature=-0.1"),
    ({"temperature": 10**400}, "temperature=1"),
    ({"max_tokens": "5"}, "max_tokens='5'"),
    ({"max_tokens": 5.5}, "max_tokens=5.5"),
    ({"max_tokens": 0}, "max_tokens=0"),
    ({"max_tokens": True}, "max_tokens=True"),
    ({"top_p": 1.5}, "top_p=1.5"),
    ({"stop": ""}, "stop=''"),
    ({"stop": ["a", ""]}, "stop="),
    ({"stop": [5]}, "stop="),
    ({"stop": b"x"}, "stop=b'x'"),
    ({"stop": 5}, "stop=5"),
    ({"seed": "7"}, "seed='7'"),
    ({"seed": 7.0}, "seed=7.0"),
    ({"reasoning": "ultra"}, "reasoning='ultra'"),
    ({"reasoning": -1}, "reasoning=-1"),
    ({"reasoning": 1.5}, "reasoning=1.5"),
    ({"reasoning": ["low"]}, "reasoning="),
    ({"context_length": "8k"}, "context_length='8k'"),
    ({"strict": "yes"}, "strict='yes'"),
    ({"fallbacks": "test/echo"}, "fallbacks='test/echo'"),
    ({"fallbacks": [5]}, "fallbacks="),
    ({"base_url": 5}, "base_url=5"),
    ({"api_key": 5}, "api_key is a int"),
    ({"headers": "x: y"}, "headers are a str"),
    ({"headers": {"x": 5}}, "headers: the value of 'x'"),
    ({"attachments": "photo.png"}, "attachments is a list"),
    ({"images": {"data": b"x"}}, "images is a list"),
    ({"attachments": 5}, "attachments=5"),
    ({"extra": ["x"]}, "extra is a list"),
    ({"extra": {"openai": 5}}, "'openai' is given a int"),
    ({"retry": "3"}, "retry='3'"),
    ({"timeout": "soon"}, "timeout='soon'"),
]


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda: wrong.checkpoint(retries=2.5), "retries=2.5"),
        (lambda: wrong.checkpoint(retries=True), "retries=True"),
        (lambda: wrong.checkpoint(retries=-1), "retries=-1"),
        (lambda: wrong.checkpoint(retry="3"), "retry='3'"),
        (lambda: wrong.checkpoint(retry=2.5), "retry=2.5"),
        (lambda: wrong.checkpoint(retry_on="x"), "retry_on"),
        (lambda: wrong.checkpoint(retry_on=["x"]), "retry_on"),
        (lambda: wrong.checkpoint(retry_on=ValueError("x")), "retry_on"),
        (lambda: wrong.checkpoint(retry_on=KeyboardInterrupt), "retry_on"),
        (lambda: wrong.checkpoint(retry_on=int), "retry_on"),
        (lambda: wrong.checkpoint(ignore="client"), r'ignore=\["client"\]|ignore=\[...\]'),
        (lambda: wrong.checkpoint(ignore=[1]), "ignore"),
        (lambda: wrong.checkpoint(uses="x"), "uses"),
        (lambda: wrong.checkpoint(uses=plain), "uses"),
        (lambda: wrong.checkpoint(effects="yes"), "effects"),
        (lambda: wrong.checkpoint(overlap=1), "overlap"),
        (lambda: wrong.checkpoint(timeout=0), "timeout"),
        (lambda: wrong.checkpoint(backoff=[]), "backoff"),
        (lambda: wrong.checkpoint(name=5), "5 cannot name"),
        (lambda: step.options(retries=wrong), "retries"),
        (lambda: step.options(name=wrong), "cannot name"),
        (lambda: step.options(retry_on=wrong), "retry_on"),
        (lambda: wrong.flow(name=5), "5 cannot name"),
        (lambda: wrong.flow(image="x"), "image"),
        (lambda: job.options(run_id=wrong), "run_id"),
        (lambda: job.options(run_id=5), "run_id=5"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: job.options(run_id=""), "empty"),
        (lambda: job.options(image=5), "image"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: wrong.ImageSettings(environment="x"), "environment"),
        (lambda: wrong.ImageSettings(environment={"A": 1}), "A"),
        (lambda: asyncio.run(wrong.map(step, [1], limit=2.5)), "limit"),
        (lambda: asyncio.run(wrong.map(step, [1], limit="2")), "limit"),
        (lambda: asyncio.run(wrong.map(5, [1])), "function"),
        (lambda: wrong.load(5), "name"),
        (lambda: wrong.load("x", run=5), "run"),
        (lambda: wrong.save(5, 1), "5 cannot name"),
        (lambda: wrong.credentials(openai="key-of-the-test", persist="no"), "persist"),
        (lambda: wrong.credentials(openai=5), "openai"),
        (lambda: wrong.get_secret(5), "name"),
        (lambda: wrong.create_secret(5, {"KEY": "x"}), "name"),
        (lambda: wrong.create_secret("creds", "value"), "mapping"),
        (lambda: wrong.set_secret("creds", {"KEY": 5}), "KEY"),
        (lambda: wrong.set_secret("creds", {"KEY": "x"}, private="yes"), "private"),
        (lambda: wrong.delete_secret(None), "name"),
        (lambda: wrong.SecretStr(5), "int"),
        (lambda: wrong.ReplayOptions(run_id=5), "run_id"),
        (lambda: wrong.ReplayOptions(from_="step"), "from_"),
        (lambda: wrong.ReplayOptions(allow_effects="step"), "allow_effects"),
        (lambda: wrong.ReplayOptions(overrides={"step": 5}), "overrides"),
        (lambda: wrong.ReplayOptions(overrides="step=5"), "overrides"),
        (lambda: wrong.ReplayOptions(model=["x"]), "model"),
        (lambda: wrong.ReplayOptions(inputs={1: 2}), "inputs"),
        (lambda: wrong.ReplayOptions(verify="yes"), "verify"),
        (lambda: wrong.ReplayOptions(registry="old"), "registry"),
        (lambda: wrong.Runtime(5), "store"),
        (lambda: wrong.Runtime("sqlite:///x.db", recover="no"), "recover"),
        (lambda: wrong.Runtime("sqlite:///x.db", durability="most"), "durability"),
        (lambda: wrong.Retry(attempts="3"), "attempts"),
        (lambda: wrong.llm("q", model="test/echo", name=5), "5 cannot name"),
        *((functools.partial(wrong.llm, "q", **{"model": "test/echo", **given}), says) for given, says in NO_SETTINGS),
        *(
            (functools.partial(wrong.llm.reply, "q", **{"model": "test/echo", **given}), says)
            for given, says in NO_SETTINGS
        ),
        (lambda: wrong.llm("q", model="test/echo", json="yes"), "json='yes'"),
        (lambda: wrong.llm([], model="test/echo"), "no messages"),
        (lambda: wrong.llm(b"q", model="test/echo"), "not a bytes"),
    ],
)
def test_an_option_of_a_wrong_type_names_itself(use: Callable[[], object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        use()


async def test_what_is_no_flow_cannot_be_started(runtime: Runtime) -> None:
    rt: Any = runtime
    with pytest.raises(UsageError, match=r"(?s)is a call of a flow.*rt\.start\(writer, 'tides'\)"):
        await rt.start(job(1))
    with pytest.raises(UsageError, match=r"(?s)plain is not a flow.*@flow"):
        await rt.start(plain)
    with pytest.raises(UsageError, match=r"int .*is not a flow"):
        await rt.start(5)
    handle: Any = await rt.start(job)
    with pytest.raises(UsageError, match="reason"):
        await handle.cancel(5)
    await handle.result()
    with pytest.raises(UsageError, match="options"):
        await rt.replay(handle.id, {"verify": True})
    for act in (rt.resume, rt.retry, rt.replay, rt.cancel, rt.events, rt.get):
        wrong_ids: list[Any] = [5, None, {}, handle]
        for run in wrong_ids:
            with pytest.raises(UsageError, match=r"(?s)by its id.*handle\.id"):
                await act(run)
    for act in (rt.resume, rt.retry):
        with pytest.raises(UsageError, match="is not a flow"):
            await act(handle.id, step)
    with pytest.raises(UsageError, match="is not a flow"):
        await rt.replay(handle.id, None, step)


async def test_a_wrong_option_in_a_flow_is_an_error_of_the_call(runtime: Runtime) -> None:
    @flow
    async def uses() -> list[str]:
        said = []
        tried: list[Callable[[], object]] = [
            lambda: wrong.sleep(-1), lambda: wrong.scope(5).__enter__(), lambda: wrong.timeout("x"),
        ]  # fmt: skip
        for use in tried:
            try:
                use()
            except UsageError as error:
                said.append(error.message.partition(":")[0])
        return said

    said = await (await runtime.start(uses)).result()
    assert said == ["sleep", "5 cannot name a boundary", "timeout"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (2, 2.0), (0.5, 0.5), (timedelta(minutes=2), 120.0), ("90s", 90.0), ("500ms", 0.5), ("2h", 7200.0),
        ("3d", 259200.0), ("1.5m", 90.0), (Decimal("1.5"), 1.5), (0, 0.0),
    ],
)  # fmt: skip
def test_a_duration_is_seconds_a_timedelta_or_a_text(value: object, seconds: float) -> None:
    assert seconds_of(value, "it") == seconds


async def test_timedeltas_are_taken_wherever_seconds_are(tmp_path: Path) -> None:
    short = timedelta(milliseconds=20)

    @checkpoint(timeout=short, retries=1, backoff=timedelta(0))
    async def slow() -> None:
        await asyncio.Event().wait()

    @flow
    async def waits() -> str:
        await kitaru.sleep(short)
        await kitaru.sleep("20ms")
        try:
            async with kitaru.timeout(short):
                await asyncio.Event().wait()
        except TimeoutError:
            await slow.options(timeout="20ms", backoff=["1ms", short])()
        return ""

    url = f"sqlite:///{tmp_path}/runs.db"
    five = timedelta(seconds=5)
    async with Runtime(url, lease=five, patience=five, replay_grace=short, recover_every=five) as runtime:
        handle = await runtime.start(waits)
        with pytest.raises(StepTimeoutError):
            await handle.result()
        timers = await of_type(runtime, handle.id, TimerSet)
        assert [round(timer.deadline - timer.at, 2) for timer in timers] == [0.02, 0.02, 0.02]
    assert Timeouts(total=timedelta(minutes=1), connect="2s") == Timeouts(total=60.0, connect=2.0)
    assert Retry(initial=short, max="1m") == Retry(initial=0.02, max=60.0)
    text = await kitaru.llm("hello", model="test/echo", timeout=five, retry={"initial": short, "max": "1s"})
    assert text == "hello"
    assert await asyncio.to_thread(lambda: job.run(2).wait(timeout=five)) == 2
    assert SecretStr("text-of-the-test")


async def test_a_path_is_a_store(tmp_path: Path) -> None:
    async with Runtime(tmp_path / "by-path.db") as runtime:
        assert await (await runtime.start(job, 3)).result() == 3
    assert (tmp_path / "by-path.db").exists()
