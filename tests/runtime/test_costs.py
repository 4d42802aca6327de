"""What calls cost, over the logs of many runs: what is certain, what is possible, what replays saved."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kitaru
from kitaru import ReplayOptions, Runtime, UsageError, checkpoint, flow
from kitaru.adapters.standin import Fault, Options, StandInServer
from kitaru.errors import KitaruError
from kitaru.runtime.calls.tries import INTERRUPTED
from kitaru.runtime.views import inspect
from kitaru.runtime.views.costs import BY, Costs, by_boundary, costs, paid, total
from kitaru.runtime.views.listing import listing
from kitaru.runtime.views.report import report
from kitaru.store.events import (
    AnyEvent,
    Attempt,
    LlmAttempted,
    LlmCompleted,
    LlmRecord,
    LlmRequested,
    RunFailed,
    StepCancelled,
    StepFailed,
    Usage,
)
from tests.runtime.runs import PATIENCE, Script, of_type, stopped, until
from tests.store.logs import NOW, Listener, completed, parked, started

Register = Callable[[StandInServer], None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Name a stand-in's model `fast`, at a dollar a token."""

    def register(server: StandInServer) -> None:
        prices = {"input": "1000000", "output": "1000000"}
        alias = {"model": "openai/stand-in", "base_url": server.base_url, "prices": prices}
        monkeypatch.setenv("KITARU_MODEL_REGISTRY", json.dumps({"aliases": {"fast": alias}}))

    return register


@pytest.fixture
def fast(register: Register, standin: StandInServer) -> StandInServer:
    """A server without faults, behind the alias `fast`."""
    register(standin)
    return standin


async def ran(runtime: Runtime, flow: Any, run: str, *args: Any) -> Any:
    handle = await runtime.start(flow.options(run_id=run), *args)
    async with asyncio.timeout(PATIENCE):
        return await handle.result()


async def replayed(runtime: Runtime, flow: Any, run: str, fork: str, **options: Any) -> None:
    replay = await runtime.replay(run, ReplayOptions(run_id=fork, **options), flow=flow)
    async with asyncio.timeout(PATIENCE):
        await replay.handle.result()


# -- logs made by hand -------------------------------------------------------------------------------------------------

USED = Usage(input=100, output=50, cached_input=10)


def requested(key: str = "llm", model: str = "openai/a", at: float = NOW) -> LlmRequested:
    return LlmRequested(1, at, key, "llm", b"f", b"", b"", 1, 1, model)


def answered(cost: str = "1", *attempts: Attempt, key: str = "llm", at: float = NOW, **more: Any) -> LlmCompleted:
    record = LlmRecord(
        provider="openai", model="openai/a", answered_by="a", finish="stop", usage=USED, latency=1.0,
        attempts=(*attempts, Attempt(at, 1.0, 200, model="openai/a")), cost=cost,
    )  # fmt: skip
    llm = msgspec.structs.replace(record, **more)
    return LlmCompleted(1, at, key, "llm", b"f", b"", b"", 1, 1, at, b"", b"", llm)


def attempted(tried: Attempt, next_model: str = "", wait: float = 0.0, key: str = "llm") -> LlmAttempted:
    return LlmAttempted(1, NOW, key, "llm", b"f", b"", b"", 1, 1, tried, next_model, NOW + wait)


def gave_up(key: str = "llm") -> StepFailed:
    return StepFailed(1, NOW, key, "llm", b"f", b"", b"", 1, 1, NOW, b"", True)


def left(key: str = "llm") -> StepCancelled:
    return StepCancelled(1, NOW + 1, key, "llm", b"f", b"", b"", 1, 1, NOW)


DROPPED = Attempt(NOW, 1.0, 0, "the connection broke", possibly_billed=True, model="openai/a")
REFUSED = Attempt(NOW, 1.0, 429, "answered 429", model="openai/a")
UNUSABLE = Attempt(NOW, 1.0, 200, "the answer could not be used", "", False, "openai/a", USED, "3")


async def logged(runtime: Runtime, *events: AnyEvent, run: str = "r", name: str = "writer") -> None:
    """A finished run of these events, unless they end it otherwise."""
    end = () if isinstance(events[-1], RunFailed) or events[-1] == parked() else (completed(NOW + 9),)
    await Listener(runtime._core.store).create(run, started(name), *events, *end)


async def found(runtime: Runtime, *events: AnyEvent) -> Costs:
    await logged(runtime, *events)
    return await costs(runtime)


async def test_an_empty_store_has_no_costs(runtime: Runtime) -> None:
    none = await costs(runtime)
    assert none.rows == ()
    assert none.total.cost is None


async def test_what_cannot_be_listed_by_is_wrong_usage(runtime: Runtime) -> None:
    with pytest.raises(UsageError, match="by 'week'"):
        await costs(runtime, by="week")  # type: ignore[arg-type]  # what a caller without types may pass


async def test_answers_add_up_with_their_tokens(runtime: Runtime) -> None:
    (row,) = (await found(runtime, answered("0.5"), answered("0.25", key="other"))).rows
    assert (row.name, row.calls, row.cost) == ("openai/a", 2, Decimal("0.75"))
    assert (row.input, row.cached, row.output) == (200, 20, 100)


async def test_an_answer_without_a_price_is_counted_and_never_nothing(runtime: Runtime) -> None:
    result = await found(runtime, answered(""))
    assert (result.total.cost, result.total.unpriced) == (None, 1)
    assert result.unpriced == (("openai/a", 1),)


async def test_what_is_free_costs_nothing_only_where_all_of_it_is_known(runtime: Runtime) -> None:
    free = answered("0", cost_source="free", model="ollama/l")
    await logged(runtime, free, answered("", key="other"))
    by_model = {row.name: row.cost for row in (await costs(runtime)).rows}
    assert by_model == {"ollama/l": Decimal(0), "openai/a": None}
    assert (await costs(runtime, by="flow")).rows[0].cost is None


async def test_tokens_that_nobody_counted_are_not_zero(runtime: Runtime) -> None:
    assert (await found(runtime, answered(usage=Usage()))).total.input is None


async def test_answers_that_could_not_be_used_are_paid_for_too(runtime: Runtime) -> None:
    (row,) = (await found(runtime, requested(), attempted(UNUSABLE, "openai/a"), answered("1", UNUSABLE))).rows
    assert (row.calls, row.cost, row.input, row.possible) == (1, Decimal(4), 200, 0)


async def test_an_unusable_answer_without_a_price_is_unpriced(runtime: Runtime) -> None:
    unknown = msgspec.structs.replace(UNUSABLE, cost="")
    (row,) = (await found(runtime, answered("1", unknown))).rows
    assert (row.cost, row.unpriced) == (Decimal(1), 1)


async def test_a_fallbacks_cost_stands_beside_that_of_the_model_that_failed(runtime: Runtime) -> None:
    by_model = {row.name: row for row in (await found(runtime, answered("1", UNUSABLE, model="openai/b"))).rows}
    assert (by_model["openai/a"].calls, by_model["openai/a"].cost) == (0, Decimal(3))
    assert (by_model["openai/b"].calls, by_model["openai/b"].cost) == (1, Decimal(1))


async def test_a_call_that_failed_for_good_has_cost_what_its_answers_cost(runtime: Runtime) -> None:
    (row,) = (await found(runtime, requested(), attempted(UNUSABLE), gave_up())).rows
    assert (row.calls, row.unanswered, row.cost) == (1, 1, Decimal(3))


async def test_a_call_that_was_only_refused_has_cost_nothing(runtime: Runtime) -> None:
    (row,) = (await found(runtime, requested(), attempted(REFUSED), gave_up())).rows
    assert (row.calls, row.unanswered, row.cost, row.possible) == (1, 1, None, 0)


async def test_a_call_that_failed_before_it_was_sent_is_none(runtime: Runtime) -> None:
    assert (await found(runtime, requested(), gave_up())).rows == ()


# -- what is possible --------------------------------------------------------------------------------------------------


async def test_an_attempt_without_an_answer_is_possible_at_the_price_of_the_same_calls_answer(runtime: Runtime) -> None:
    (row,) = (await found(runtime, requested(), attempted(DROPPED, "openai/a"), answered("1", DROPPED))).rows
    assert (row.cost, row.possible, row.possible_cost, row.possible_unknown) == (Decimal(1), 1, Decimal(1), 0)


async def test_an_attempt_at_another_model_has_no_price_to_compare_with(runtime: Runtime) -> None:
    other = msgspec.structs.replace(DROPPED, model="anthropic/b")
    whole = (await found(runtime, answered("1", other))).total
    assert (whole.possible, whole.possible_cost, whole.possible_unknown) == (1, None, 1)


async def test_an_attempt_of_a_free_call_cannot_have_been_billed(runtime: Runtime) -> None:
    assert (await found(runtime, answered("0", DROPPED, cost_source="free"))).total.possible == 0


async def test_an_unanswered_call_of_a_free_provider_cannot_have_been_billed(runtime: Runtime) -> None:
    asked = msgspec.structs.replace(DROPPED, model="ollama/l")
    (row,) = (await found(runtime, requested(model="ollama/l"), attempted(asked), gave_up())).rows
    assert (row.calls, row.possible) == (1, 0)


async def test_a_call_given_up_by_the_flow_may_have_been_billed(runtime: Runtime) -> None:
    (row,) = (await found(runtime, requested(), left())).rows
    assert (row.calls, row.unanswered, row.possible, row.possible_unknown) == (1, 1, 1, 1)


async def test_a_call_given_up_while_it_waited_for_its_retry_was_not_sent_again(runtime: Runtime) -> None:
    (row,) = (await found(runtime, requested(), attempted(REFUSED, "openai/a", wait=60.0), left())).rows
    assert (row.unanswered, row.possible) == (1, 0)


async def test_an_answer_that_came_before_its_call_was_given_up_counts_once(runtime: Runtime) -> None:
    (row,) = (await found(runtime, requested(), answered("1"), left())).rows
    assert (row.calls, row.unanswered, row.cost, row.possible) == (1, 0, Decimal(1), 0)


async def test_a_call_under_way_when_its_run_failed_may_have_been_billed(runtime: Runtime) -> None:
    (row,) = (await found(runtime, requested(), RunFailed(1, NOW + 5, b"", ()))).rows
    assert (row.unanswered, row.possible) == (1, 1)


async def test_a_call_that_waited_for_its_retry_when_its_run_was_parked_was_not_sent_again(runtime: Runtime) -> None:
    (row,) = (await found(runtime, requested(), attempted(REFUSED, "openai/a", wait=60.0), parked())).rows
    assert (row.unanswered, row.possible) == (1, 0)


async def test_a_call_under_way_is_neither_made_nor_possible_yet(runtime: Runtime, register: Register) -> None:
    with StandInServer(Options(faults=(Fault("hang"),))) as server:
        register(server)

        @flow
        async def asks() -> str:
            return await kitaru.llm("tides", model="fast")

        await runtime.start(asks.options(run_id="r"))

        async def arrived() -> bool:
            return server.counts.in_flight > 0

        await until(arrived)
        assert (await costs(runtime)).rows == ()


async def test_what_a_dead_process_sent_is_possible_and_priced_when_the_call_has_its_answer(
    store_url: str, register: Register
) -> None:
    with StandInServer(Options(faults=(Fault("hang", first=1),))) as server:
        register(server)
        reached = asyncio.Event()

        @checkpoint
        async def watches() -> None:
            while not server.counts.in_flight:  # noqa: ASYNC110 - it happens in the server's thread
                await asyncio.sleep(0.01)
            reached.set()

        @flow
        async def asks() -> str:
            watch = watches().submit()
            text = await kitaru.llm("tides", model="fast")
            await watch
            return text

        await stopped(store_url, asks, "r", reached)
        async with Runtime(store_url, recover=False, replay_grace=0.2) as second:
            (row,) = (await costs(second)).rows
            assert (row.calls, row.unanswered, row.cost, row.possible_unknown) == (1, 1, None, 1)
            handle = await second.resume("r", asks)
            await handle.result()
            (row,) = (await costs(second)).rows
            (done,) = await of_type(second, "r", LlmCompleted)
    assert [one.error for one in done.llm.attempts] == [INTERRUPTED, ""]
    assert (row.calls, row.unanswered, row.possible) == (1, 0, 1)
    assert row.possible_cost == row.cost == Decimal(done.llm.cost)


KILLED = """
import kitaru

@kitaru.flow
async def asks() -> str:
    first = await kitaru.llm("ebb", model="fast", name="first")
    return await kitaru.llm(f"hang on {first}", model="fast", name="second")

asks.options(run_id="r").run().wait()
"""


async def test_a_killed_process_leaves_what_is_certain_and_what_is_possible(
    store_url: str, tmp_path: Path, register: Register
) -> None:
    with StandInServer(Options(faults=(Fault("hang", match="hang on"),))) as server:
        register(server)
        registry = os.environ["KITARU_MODEL_REGISTRY"]
        with Script(tmp_path, KILLED, KITARU_MODEL_REGISTRY=registry, OPENAI_API_KEY="key-of-the-test") as script:

            async def arrived() -> bool:
                return server.counts.total == 2

            await until(arrived)
            script.kill()
        async with Runtime(store_url, recover=False) as reader:
            (row,) = (await costs(reader)).rows
            (done,) = await of_type(reader, "r", LlmCompleted)
            assert (await listing(reader._core))[0].status == "interrupted"
    assert (row.calls, row.unanswered, row.cost) == (2, 1, Decimal(done.llm.cost))
    assert (row.possible, row.possible_cost, row.possible_unknown) == (1, None, 1)


# -- by what -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("model", ["openai/a", "openai/b"]),
        ("flow", ["writer", "other"]),
        ("run", ["r1", "r2"]),
        ("day", ["2027-01-16", "2027-01-15"]),
        ("alias", ["fast", ""]),
    ],
)
async def test_costs_are_listed_by(runtime: Runtime, by: Any, names: list[str]) -> None:
    await logged(runtime, answered("2", alias="fast", at=NOW + 86400), run="r1")
    await logged(runtime, answered("1", model="openai/b"), run="r2", name="other")
    result = await costs(runtime, by=by)
    assert [row.name for row in result.rows] == names
    assert [row.cost for row in result.rows] == [Decimal(2), Decimal(1)]
    assert result.total.cost == Decimal(3)


async def test_every_listing_comes_to_the_same_total(runtime: Runtime) -> None:
    await logged(runtime, answered("2", UNUSABLE, DROPPED), requested("b"), attempted(DROPPED, key="b"), gave_up("b"))
    await logged(runtime, answered("", model="openai/b"), run="r2")
    first, *others = [(await costs(runtime, by=by)).total for by in ("model", "flow", "run", "day", "alias")]
    assert len(others) == len(BY) - 1
    assert all(other == first for other in others)


async def test_only_what_happened_since_then_counts(runtime: Runtime) -> None:
    await logged(runtime, answered("2"), answered("1", key="late", at=NOW + 5))
    assert (await costs(runtime, since=NOW + 1)).total.cost == Decimal(1)
    assert (await costs(runtime, since=NOW + 100)).rows == ()


async def test_the_versions_of_the_price_table_are_told(runtime: Runtime) -> None:
    old = answered(cost_source="table", price_version="0.1.0", key="old")
    assert (await found(runtime, old, answered(price_version="0.2.0"))).prices == ("0.1.0", "0.2.0")


async def test_an_unanswered_call_is_found_under_its_alias(runtime: Runtime, register: Register) -> None:
    with StandInServer(Options(faults=(Fault("quota"),))) as server:
        register(server)

        @flow
        async def asks() -> str:
            return await kitaru.llm("tides", model="fast")

        with pytest.raises(KitaruError):
            await ran(runtime, asks, "r")
    (row,) = (await costs(runtime, by="alias")).rows
    assert (row.name, row.calls, row.unanswered) == ("fast", 1, 1)


async def test_a_pruned_runs_calls_are_gone(runtime: Runtime) -> None:
    await logged(runtime, answered("2"))
    await runtime._core.store.prune(older_than=NOW + 1000, run="r")
    assert (await costs(runtime)).rows == ()


# -- what replays saved ------------------------------------------------------------------------------------------------


async def test_a_repaired_answer_costs_both(runtime: Runtime, register: Register) -> None:
    with StandInServer(Options(faults=(Fault("invalid-json", match="^tides"),))) as server:
        register(server)

        @flow
        async def asks() -> dict[str, Any]:
            return await kitaru.llm("tides", model="fast", json=True)

        await ran(runtime, asks, "r")
    (done,) = await of_type(runtime, "r", LlmCompleted)
    (row,) = (await costs(runtime)).rows
    wasted = [Decimal(one.cost) for one in done.llm.attempts if one.cost]
    assert len(wasted) == 1
    assert (row.calls, row.cost) == (1, Decimal(done.llm.cost) + wasted[0])
    assert (await listing(runtime._core))[0].cost == row.cost
    assert (await inspect.view(runtime._core, "r")).cost == row.cost


async def test_a_gateway_on_this_machine_does_not_make_a_model_free(
    runtime: Runtime, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITARU_GATEWAY_URL", standin.base_url)

    @flow
    async def asks() -> str:
        await kitaru.llm("tides", model="openai/nobody-lists-this")
        return await kitaru.llm("tides", model="openai/gpt-5-nano")

    await ran(runtime, asks, "r")
    unlisted, listed = (one.llm for one in await of_type(runtime, "r", LlmCompleted))
    assert (unlisted.cost, unlisted.cost_source) == ("", "")
    assert (listed.via, listed.cost_source, Decimal(listed.cost) > 0) == ("gateway", "table", True)


async def test_a_replay_saves_what_it_reuses_and_pays_for_what_it_does_not(
    runtime: Runtime, fast: StandInServer
) -> None:
    @flow
    async def asks(question: str) -> str:
        await kitaru.llm("the same", model="fast", name="first")
        return await kitaru.llm(question, model="fast", name="second")

    await ran(runtime, asks, "r", "one")
    spent = (await costs(runtime)).total.cost
    await replayed(runtime, asks, "r", "again", inputs={"question": "two"})
    (row, fork) = sorted((await costs(runtime, by="run")).rows, key=lambda row: row.name, reverse=True)
    assert (row.calls, row.reused, row.cost, row.saved) == (2, 0, spent, None)
    assert (fork.calls, fork.reused) == (1, 1)
    first, _ = await of_type(runtime, "r", LlmCompleted)
    assert fork.saved == Decimal(first.llm.cost)
    told = await report(runtime, "r", "again")
    assert (told.spent, told.saved) == (fork.cost, fork.saved)
    assert fast.counts.total == 3


async def test_calls_inside_a_reused_checkpoint_are_saved_by_replays_of_replays_too(
    runtime: Runtime, fast: StandInServer
) -> None:
    @checkpoint
    async def inner(question: str) -> str:
        return await kitaru.llm(question, model="fast")

    @checkpoint
    async def research(question: str) -> str:
        return await inner(question) + await kitaru.llm("more", model="fast")

    @flow
    async def asks(question: str) -> str:
        return await research(question)

    await ran(runtime, asks, "r", "tides")
    spent = (await costs(runtime)).total.cost
    await replayed(runtime, asks, "r", "second")
    await replayed(runtime, asks, "second", "third")
    rows = {row.name: row for row in (await costs(runtime, by="run")).rows}
    for fork in ("second", "third"):
        assert (rows[fork].calls, rows[fork].reused, rows[fork].saved) == (0, 2, spent)
    assert fast.counts.total == 2


async def test_calls_of_a_child_flow_are_told_once(runtime: Runtime, fast: StandInServer) -> None:
    @flow
    async def child(question: str) -> str:
        return await kitaru.llm(question, model="fast")

    @flow
    async def parent(question: str) -> str:
        return await child(question)

    await ran(runtime, parent, "r", "tides")
    spent = (await costs(runtime)).total
    assert (spent.calls, [row.name for row in (await costs(runtime, by="flow")).rows]) == (1, ["child"])
    await replayed(runtime, parent, "r", "again")
    whole = (await costs(runtime)).total
    assert (whole.calls, whole.reused, whole.cost, whole.saved) == (1, 1, spent.cost, spent.cost)
    assert fast.counts.total == 1


async def test_what_a_checkpoints_calls_cost_stands_at_its_line(runtime: Runtime, fast: StandInServer) -> None:
    @checkpoint
    async def research(question: str) -> str:
        return await kitaru.llm(question, model="fast")

    @flow
    async def asks(question: str) -> str:
        return await research(question)

    await ran(runtime, asks, "r", "tides")
    spent = (await costs(runtime)).total.cost
    await replayed(runtime, asks, "r", "again", inputs={"question": "ebb and flow"})
    told = await report(runtime, "r", "again")
    (line,) = told.lines
    assert (line.key, line.was_cost) == ("research", spent)
    assert line.cost == told.spent == (await inspect.view(runtime._core, "again")).cost


# -- one call ----------------------------------------------------------------------------------------------------------


def test_what_was_paid_is_unknown_where_only_what_is_free_is_known() -> None:
    record = answered("0", msgspec.structs.replace(UNUSABLE, cost="")).llm
    assert paid(record, ()) is None
    assert paid(answered("0").llm, ()) == 0
    assert paid(None, (REFUSED, DROPPED)) is None
    assert paid(None, (UNUSABLE,)) == 3


def test_amounts_add_up_exactly() -> None:
    assert total(["0.1", "0.2", None, ""]) == Decimal("0.3")
    assert total([]) is None
    assert total(["0", ""]) is None


async def test_a_failed_call_is_told_at_its_boundary(runtime: Runtime) -> None:
    await logged(runtime, requested("a>1/llm"), attempted(UNUSABLE, key="a>1/llm"), gave_up("a>1/llm"), answered("1"))
    assert by_boundary(await runtime._core.events("r")) == {"a": Decimal(3), "llm": Decimal(1)}
