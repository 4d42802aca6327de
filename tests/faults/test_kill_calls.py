"""Processes killed in the middle of model calls: what was tried is counted, what was answered is not asked again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from kitaru.adapters.standin import Fault, Options, StandInServer
from kitaru.cli.app import run as command
from tests.adapters.scripted import HELLO, chunk, scripted, stream, stream_head
from tests.adapters.scripted import Seen as Arrived
from tests.faults.asking_flows import FAILED
from tests.faults.calling import ENDED, KILLED, Callers, Case, words

QUICK = {"attempts": 3, "initial": 0}
PATIENT = {"attempts": 3, "initial": 600, "max": 600}

FAULTS = (
    Fault("hang", first=1, match="unanswered once"),
    Fault("hang", first=2, match="unanswered twice"),
    Fault("503", first=1, match="overloaded", retry_after=0),
    Fault("hang", first=2, match="overloaded then silent"),
    Fault("503", first=2, match="spent", retry_after=0),
    Fault("hang", first=3, match="spent then silent"),
    Fault("503", match="spent", retry_after=0),
    Fault("529", first=1, match="elsewhere", retry_after=0),
    Fault("hang", first=2, match="elsewhere in silence"),
    Fault("wrong-type", first=1, match="misshapen"),
    Fault("hang", first=1, match="That cannot be used"),
    Fault("slow", first=1, match="the second time", retry_after=0),
    Fault("hang", first=2, match="the second time"),
    Fault("echo-error", match="refused"),
)

MakeCase = Callable[..., Case]


@pytest.fixture(scope="module")
def server() -> Iterator[StandInServer]:
    with StandInServer(Options(faults=FAULTS)) as running:
        yield running


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory, server: StandInServer) -> Iterator[Callers]:
    made = Callers(tmp_path_factory.mktemp("callers"), server)
    yield made
    made.close()


@pytest.fixture
def case(
    server: StandInServer, callers: Callers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeCase]:
    """A flow with a prompt that the server's faults know."""
    store = f"sqlite:///{tmp_path}/runs.db"
    monkeypatch.setenv("KITARU_STORE", store)
    server.reset()

    def made(word: str, flow: str = "plain", **options: object) -> Case:
        found = Case(server, callers, store, flow, word)
        found.options = {"retry": QUICK, **options}
        return found

    yield made
    callers.kill()


# -- where the process dies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", ["plain", "in_thread", "inside", "inside_effect"])
async def test_killed_before_the_answer_the_attempt_is_in_doubt_and_counts(case: MakeCase, flow: str) -> None:
    one = case("unanswered once", flow)
    one.kill_at(2)
    before = await one.seen()
    assert before.in_doubt[-1] == "asked"
    assert one.resume() == ENDED
    after = await one.seen()
    assert words(after.attempts) == ["possible", "ok"]
    assert after.in_doubt == []
    assert (one.asked_before, one.asked) == (1, 2)
    assert after.requested("first") == 1


@pytest.mark.parametrize("flow", ["plain", "inside"])
async def test_killed_before_the_answer_is_appended_it_is_asked_for_again(case: MakeCase, flow: str) -> None:
    one = case("answered", flow)
    assert one.run(kind="LlmCompleted", nth=2) == KILLED
    assert (await one.seen()).in_doubt[-1] == "asked"
    assert one.asked == 1
    assert one.resume() == ENDED
    assert words((await one.seen()).attempts) == ["possible", "ok"]
    assert (one.asked_before, one.asked) == (1, 2)


@pytest.mark.parametrize("flow", ["plain", "inside"])
async def test_killed_once_the_answer_is_on_disk_nothing_is_asked_again(case: MakeCase, flow: str) -> None:
    one = case("answered", flow)
    assert one.run(kind="LlmCompleted", nth=2, after=True) == KILLED
    assert "asked" not in (await one.seen()).in_doubt
    assert one.resume() == ENDED
    after = await one.seen()
    assert words(after.attempts) == ["ok"]
    assert (one.asked_before, one.asked, after.costs.possible) == (1, 1, 0)


@pytest.mark.parametrize("flow", ["plain", "inside"])
async def test_killed_in_the_wait_before_a_retry_only_what_was_sent_counts(case: MakeCase, flow: str) -> None:
    one = case("overloaded", flow, retry=PATIENT)
    assert one.run(kind="LlmAttempted", after=True) == KILLED
    assert one.asked == 1
    before = await one.seen()
    assert before.in_doubt[-1] == "asked"
    assert before.costs.possible == 0
    assert one.resume() == ENDED
    after = await one.seen()
    assert words(after.attempts) == ["503", "ok"]
    assert (one.asked_before, one.asked, after.costs.possible) == (1, 2, 0)


@pytest.mark.parametrize("flow", ["plain", "inside"])
async def test_killed_during_a_retry_all_attempts_count(case: MakeCase, flow: str) -> None:
    one = case("overloaded then silent", flow)
    one.kill_at(3)
    assert len((await one.seen()).failures) == 1
    assert one.resume() == ENDED
    after = await one.seen()
    assert words(after.attempts) == ["503", "possible", "ok"]
    assert (one.asked_before, one.asked, after.costs.possible) == (1, 3, 1)


async def test_attempts_of_several_killed_processes_add_up(case: MakeCase) -> None:
    one = case("unanswered twice")
    one.kill_at(2)
    one.kill_at(3, resume=True)
    assert one.resume() == ENDED
    after = await one.seen()
    assert words(after.attempts) == ["possible", "possible", "ok"]
    assert (one.asked_before, one.asked, after.costs.possible) == (1, 3, 2)


async def test_killed_between_a_failure_and_the_fallback_the_fallback_is_asked(case: MakeCase) -> None:
    one = case("elsewhere", retry=1, fallbacks=["other"])
    assert one.run(kind="LlmAttempted", after=True) == KILLED
    assert one.server.counts.providers == {"openai": 2}
    assert one.resume() == ENDED
    assert one.server.counts.providers == {"openai": 2, "anthropic": 1}
    after = await one.seen()
    assert after.answered().llm.model == "anthropic/stand-in"
    ((name, why),) = after.answered().llm.trail
    assert name == "openai/stand-in"
    assert "overloaded" in why
    # It was due at once, so nobody knows whether it was sent.
    assert [one.model for one in after.attempts] == ["openai/stand-in", "anthropic/stand-in", "anthropic/stand-in"]


async def test_killed_while_the_fallback_answers_the_first_choice_is_not_asked_again(case: MakeCase) -> None:
    one = case("elsewhere in silence", retry=1, fallbacks=["other"])
    one.kill_at(3)
    assert (await one.seen()).in_doubt == ["asked"]
    assert one.resume() == ENDED
    assert one.server.counts.providers == {"openai": 2, "anthropic": 2}
    after = await one.seen()
    assert [one.model for one in after.attempts] == ["openai/stand-in", "anthropic/stand-in", "anthropic/stand-in"]
    assert [one.possibly_billed for one in after.attempts] == [False, True, False]
    assert [name for name, _ in after.answered().llm.trail] == ["openai/stand-in"]


async def test_killed_after_a_refusal_that_no_other_model_can_mend_none_is_asked(case: MakeCase) -> None:
    one = case("refused", fallbacks=["other"])
    assert one.run(kind="StepFailed") == KILLED
    assert one.resume() == FAILED
    assert one.server.counts.providers == {"openai": 3}


async def test_killed_during_a_repair_the_answer_to_be_repaired_stays_paid_for(case: MakeCase) -> None:
    one = case("misshapen", "typed")
    one.kill_at(3)
    before = await one.seen()
    assert before.in_doubt == ["asked"]
    assert (before.costs.unpriced, before.costs.possible) == (0, 1)
    (unusable,) = before.failures
    assert unusable.tried.usage is not None
    assert one.resume() == ENDED
    after = await one.seen()
    first, repair, last = after.attempts
    assert first == unusable.tried
    assert words([repair, last]) == ["possible", "ok"]
    assert (one.asked_before, one.asked) == (1, 2)
    paid = [Decimal(amount) for amount in (after.answered("first").llm.cost, first.cost, after.answered().llm.cost)]
    assert after.costs.cost == sum(paid)
    assert after.costs.possible == 1


async def test_killed_in_the_second_attempt_of_a_checkpoint_only_that_one_is_asked_again(case: MakeCase) -> None:
    one = case("the second time", "inside_second_attempt")
    one.kill_at(4)
    assert (await one.seen()).in_doubt == ["asked"]
    assert one.resume() == ENDED
    after = await one.seen()
    assert words(after.attempts) == ["possible", "ok"]
    # Each attempt of the checkpoint asks anew; the killed one went on with what it had.
    assert (one.asked_before, one.asked) == (2, 3)


async def test_killed_in_a_stream_underneath_the_attempt_counts(case: MakeCase) -> None:
    half_sent = asyncio.Event()

    async def half_a_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Arrived) -> None:
        writer.write(stream_head() + chunk(HELLO[0]))
        await writer.drain()
        half_sent.set()
        await reader.read()

    async with scripted(half_a_stream, stream(*HELLO)) as other:
        one = case("of its own", base_url=other.base_url, max_tokens=100_000)
        one.start()
        await half_sent.wait()
        one.callers.kill()
        assert (await one.seen()).in_doubt == ["asked"]
        assert await asyncio.to_thread(one.resume) == ENDED
        after = await one.seen()
        assert words(after.attempts) == ["possible", "ok"]
        assert after.answered().llm.streamed
        assert [json.loads(seen.body)["stream"] for seen in other.seen] == [True, True]
        assert after.shown.result is not None


# -- what a resume may still do ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", ["plain", "inside", "inside_retrying"])
async def test_a_death_does_not_refill_the_attempts(case: MakeCase, flow: str) -> None:
    one = case("spent", flow)
    assert one.run(kind="LlmAttempted", nth=2, after=True) == KILLED
    assert one.asked == 2
    assert one.resume() == FAILED
    assert (one.asked_before, one.asked) == (1, 3)


async def test_killed_in_its_last_attempt_a_call_has_one_more(case: MakeCase) -> None:
    one = case("spent then silent")
    one.kill_at(4)
    assert one.resume() == FAILED
    assert (one.asked_before, one.asked) == (1, 4)
    failure = (await one.seen()).shown.failure
    assert failure is not None


# -- what people are told ----------------------------------------------------------------------------------------------


async def test_what_may_have_been_billed_is_told_before_and_after_the_resume(
    case: MakeCase, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> str:
        capsys.readouterr()
        assert command(arguments) in (0, 4)
        return capsys.readouterr().out

    one = case("unanswered once")
    one.kill_at(2)
    shown = await asyncio.to_thread(told, "show", "r")
    assert "asked" in shown
    assert "1 call in doubt" in shown
    assert "may have been billed" in shown
    before = json.loads(await asyncio.to_thread(told, "costs", "--json"))["total"]
    assert (before["calls"], before["unanswered"], before["possible"], before["possible_unknown"]) == (2, 1, 1, 1)
    assert one.resume() == ENDED
    assert "in doubt" not in await asyncio.to_thread(told, "show", "r")
    after = await one.seen()
    first, asked = (Decimal(after.answered(name).llm.cost) for name in ("first", "asked"))
    assert after.costs.cost == first + asked
    assert (after.costs.possible, after.costs.possible_cost) == (1, asked)
    text = await asyncio.to_thread(told, "costs")
    assert "1 attempt possibly billed: about $" in text
