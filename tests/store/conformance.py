"""What every store promises. A store's test module derives a class from each of these and provides `place`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
import pytest_asyncio

from kitaru.errors import (
    AmbiguousError,
    EncodeError,
    FencedError,
    NotFoundError,
    RunError,
    RunExistsError,
    RunOwnedError,
    StoreClosedError,
    UsageError,
)
from kitaru.store import artifacts
from kitaru.store.codec import content_digest
from kitaru.store.events import HELD, Copied, RunCancelled, RunClaimed, RunPruned
from kitaru.store.protocol import Head, Store, Turn
from tests.store.logs import (
    NOW,
    Listener,
    cancel,
    completed,
    failed,
    kept,
    parked,
    ref,
    retried,
    started,
    step,
)

Place = Callable[[], Store]

encode = msgspec.msgpack.encode


class Conformance:
    """The fixtures; `place` gives a new, unopened store on the same log each time it is called."""

    @pytest_asyncio.fixture
    async def store(self, place: Place) -> AsyncIterator[Store]:
        store = place()
        await store.open()
        yield store
        await store.close()

    @pytest_asyncio.fixture
    async def other(self, place: Place, store: Store) -> AsyncIterator[Store]:
        other = place()
        await other.open()
        yield other
        await other.close()

    @pytest_asyncio.fixture
    async def listener(self, store: Store) -> Listener:
        return Listener(store)


class Appending(Conformance):
    async def test_a_new_run_starts_at_seq_1_under_epoch_1(self, store: Store, listener: Listener) -> None:
        append = await listener.create("tides")
        row = await store.run("tides")
        assert (append.seq, row.epoch, row.seq, row.status, row.live) == (1, 1, 1, "running", True)

    async def test_events_come_back_as_they_were_appended(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        await listener.append("tides", 1, step(1), step(2))
        assert [recorded.event for recorded in await store.events("tides")] == [started(), step(1), step(2)]
        assert [recorded.seq for recorded in await store.events("tides")] == [1, 2, 3]

    async def test_a_taken_id_fails_that_append_alone(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        second = listener.prepare("tides", 0, started("other"), new=True)
        neighbour = listener.prepare("moon", 0, started(), new=True)
        follower = listener.prepare("tides", 1, step())
        await listener.together([second, neighbour, follower])
        assert isinstance(second.error, RunExistsError)
        assert neighbour.error is None
        assert follower.error is None
        assert (await store.run("tides")).flow == "writer"

    async def test_one_id_created_twice_in_a_batch_is_created_once(self, store: Store, listener: Listener) -> None:
        one, two = (listener.prepare("tides", 0, started(), new=True) for _ in range(2))
        await listener.together([one, two])
        assert one.error is None
        assert isinstance(two.error, RunExistsError)

    async def test_an_impossible_id_fails_its_append(self, listener: Listener) -> None:
        append = await listener.tried("../x", 0, started(), new=True)
        assert isinstance(append.error, UsageError)

    async def test_acknowledgements_keep_the_order_of_submission(self, listener: Listener) -> None:
        await listener.create("tides")
        appends = [listener.prepare("tides", 1, step(number)) for number in range(300)]
        await listener.together(appends)
        acknowledged = [append for batch in listener.batches for append in batch if not append.new]
        assert acknowledged == appends
        assert [append.seq for append in appends] == list(range(2, 302))

    async def test_shared_appends_of_a_batch_share_a_turn_and_own_ones_do_not(
        self, store: Store, listener: Listener
    ) -> None:
        await listener.create("tides")
        turns = [Turn.SHARED, Turn.NONE, Turn.SHARED, Turn.OWN, Turn.SHARED, Turn.SHARED, Turn.OWN]
        appends = [listener.prepare("tides", 1, step(number), turn=turn) for number, turn in enumerate(turns)]
        await listener.together(appends)
        assert [append.turn_no for append in appends] == [1, 0, 1, 2, 3, 3, 4]
        assert [recorded.turn for recorded in await store.events("tides", after=1)] == [1, 0, 1, 2, 3, 3, 4]

    async def test_each_batch_starts_a_new_shared_turn(self, listener: Listener) -> None:
        await listener.create("tides")
        first = await listener.append("tides", 1, step(1), turn=Turn.SHARED)
        second = await listener.append("tides", 1, step(2), turn=Turn.SHARED)
        assert (first.turn_no, second.turn_no) == (1, 2)

    async def test_a_stale_epoch_fails_its_run_and_no_neighbour(
        self, store: Store, other: Store, listener: Listener
    ) -> None:
        await listener.create("lost")
        await listener.create("kept")
        await store.release("lost", 1)
        await other.claim("lost", Listener(other), python="3.11")
        stale = listener.prepare("lost", 1, step())
        fine = listener.prepare("kept", 1, step())
        later = listener.prepare("lost", 1, step())
        await listener.together([stale, fine, later])
        assert isinstance(stale.error, FencedError)
        assert isinstance(later.error, FencedError)
        assert fine.error is None
        assert (await store.run("lost")).seq == 2

    async def test_nothing_follows_a_terminal_event(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        end = listener.prepare("tides", 1, completed())
        same_batch = listener.prepare("tides", 1, step())
        await listener.together([end, same_batch])
        next_batch = await listener.tried("tides", 1, step())
        assert end.error is None
        assert isinstance(same_batch.error, RunError)
        assert isinstance(next_batch.error, RunError)
        assert not isinstance(next_batch.error, FencedError)
        assert (await store.run("tides")).seq == 2

    async def test_an_event_without_an_encoding_fails_its_append_alone(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        bad = listener.prepare("tides", 1, step(1), cancel("\ud800"))
        good = listener.prepare("tides", 1, step(2))
        await listener.together([bad, good])
        assert isinstance(bad.error, EncodeError)
        assert good.error is None
        assert (await store.run("tides")).seq == 2

    async def test_submitting_from_inside_an_acknowledgement_works(self, listener: Listener) -> None:
        await listener.create("tides")
        append = listener.prepare("tides", 1, step())
        await listener.together([append])
        assert append.error is None

    async def test_a_closed_store_takes_nothing(self, place: Place) -> None:
        store = place()
        await store.open()
        listener = Listener(store)
        await store.close()
        with pytest.raises(StoreClosedError):
            store.submit(listener.prepare("tides", 0, started(), new=True))

    async def test_closing_first_writes_what_was_submitted(self, place: Place) -> None:
        store = place()
        await store.open()
        listener = Listener(store)
        await listener.create("tides")
        appends = [listener.prepare("tides", 1, step(number)) for number in range(50)]
        for append in appends:
            store.submit(append)
        await store.close()
        again = place()
        await again.open()
        row = await again.run("tides")
        await again.close()
        assert row.seq == 51
        assert [append.error for append in appends] == [None] * 50

    async def test_close_and_open_may_be_repeated(self, place: Place) -> None:
        store = place()
        for _ in range(2):
            await store.open()
            await store.open()
            await store.close()
            await store.close()


class Owning(Conformance):
    async def test_a_run_owned_by_a_living_store_cannot_be_claimed(
        self, store: Store, other: Store, listener: Listener
    ) -> None:
        await listener.create("tides")
        with pytest.raises(RunOwnedError, match="pid"):
            await other.claim("tides", Listener(other), python="3.11")
        with pytest.raises(RunOwnedError, match="pid"):
            await store.claim("tides", listener, python="3.11")

    async def test_claiming_moves_the_epoch_and_is_recorded(
        self, store: Store, other: Store, listener: Listener
    ) -> None:
        await listener.create("tides")
        await store.release("tides", 1)
        mine = Listener(other)
        lease = await other.claim("tides", mine, python="3.12")
        assert lease == ("tides", 2, 2)
        event = (await store.events("tides", after=1))[0].event
        assert isinstance(event, RunClaimed)
        assert (event.epoch, event.python) == (2, "3.12")
        assert (await mine.append("tides", 2, step())).seq == 3

    async def test_unknown_and_finished_runs_cannot_be_claimed(self, store: Store, listener: Listener) -> None:
        await listener.create("tides", started(), completed())
        with pytest.raises(NotFoundError):
            await store.claim("moon", listener, python="3.11")
        with pytest.raises(RunError):
            await store.claim("tides", listener, python="3.11")

    async def test_a_parked_run_has_no_owner(self, store: Store, other: Store, listener: Listener) -> None:
        await listener.create("tides")
        await listener.append("tides", 1, parked("waits for input"))
        row = await store.run("tides")
        assert (row.status, row.live, row.note) == ("parked", False, "waits for input")
        assert (await other.claim("tides", Listener(other), python="3.11")).epoch == 2
        assert (await store.run("tides")).status == "running"

    async def test_releasing_an_older_epoch_does_nothing(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        await store.release("tides", 1)
        await store.claim("tides", listener, python="3.11")
        await store.release("tides", 1)
        assert (await store.run("tides")).live
        assert (await listener.append("tides", 2, step())).seq == 3

    async def test_a_store_that_closes_gives_up_its_runs(self, place: Place, store: Store) -> None:
        leaving = place()
        await leaving.open()
        await Listener(leaving).create("tides")
        await leaving.close()
        row = await store.run("tides")
        assert (row.status, row.live) == ("running", False)
        assert [each.id for each in await store.runs(status=["interrupted"])] == ["tides"]
        assert (await store.claim("tides", Listener(store), python="3.11")).epoch == 2
        assert await store.runs(status=["interrupted"]) == []

    async def test_of_many_claims_exactly_one_wins(self, store: Store, other: Store, listener: Listener) -> None:
        await listener.create("tides")
        await store.release("tides", 1)
        claims = [each.claim("tides", Listener(each), python="3.11") for each in (store, other) for _ in range(5)]
        results = await asyncio.gather(*claims, return_exceptions=True)
        assert sum(not isinstance(result, RunOwnedError) for result in results) == 1

    async def test_a_cancelled_claim_leaves_the_run_free(self, store: Store, other: Store, listener: Listener) -> None:
        await listener.create("tides")
        await store.release("tides", 1)
        claiming = asyncio.create_task(store.claim("tides", listener, python="3.11"))
        await asyncio.sleep(0)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        await store.release("tides", 99)
        await other.claim("tides", Listener(other), python="3.11")


class Outsiders(Conformance):
    async def test_the_owner_notices_what_is_posted_elsewhere(
        self, store: Store, other: Store, listener: Listener
    ) -> None:
        await listener.create("tides")
        assert await other.post("tides", cancel()) == 2
        async with asyncio.timeout(5):
            run, events = await listener.notices.get()
        assert (run, [(each.seq, each.event) for each in events]) == ("tides", [(2, cancel())])
        assert (await listener.append("tides", 1, step())).seq == 3

    async def test_an_append_right_after_a_post_elsewhere_follows_it(
        self, store: Store, other: Store, listener: Listener
    ) -> None:
        await listener.create("tides")
        await listener.create("moon")
        for number in range(5):
            await other.post("tides", cancel(str(number)))
            await listener.append("tides", 1, step(number))
            await listener.append("moon", 1, step(number))
        assert [each.seq for each in await store.events("tides")] == list(range(1, 12))
        seen = [events[0].seq for _, events in [listener.notices.get_nowait() for _ in range(5)]]
        assert seen == [2, 4, 6, 8, 10]
        assert await store.verify() == []

    async def test_the_owner_notices_what_its_own_store_posts(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        await store.post("tides", cancel())
        async with asyncio.timeout(5):
            run, _ = await listener.notices.get()
        assert run == "tides"
        assert (await listener.append("tides", 1, step())).seq == 3

    async def test_a_posted_end_ends_the_run_for_its_owner(
        self, store: Store, other: Store, listener: Listener
    ) -> None:
        await listener.create("tides")
        await other.post("tides", RunCancelled(v=1, at=NOW, reason="enough"))
        append = await listener.tried("tides", 1, step())
        assert isinstance(append.error, RunError)
        assert (await store.run("tides")).status == "cancelled"

    async def test_posting_needs_a_run_that_goes_on(self, store: Store, listener: Listener) -> None:
        await listener.create("tides", started(), completed())
        with pytest.raises(NotFoundError):
            await store.post("moon", cancel())
        with pytest.raises(RunError):
            await store.post("tides", cancel())

    async def test_what_only_the_store_may_write_cannot_be_posted(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        with pytest.raises(UsageError):
            await store.post("tides", started())

    async def test_a_failed_run_can_be_retried_and_no_other(self, store: Store, listener: Listener) -> None:
        await listener.create("tides", started(), failed())
        await listener.create("moon", started(), completed())
        assert await store.retry("tides", retried()) == 3
        assert (await store.run("tides")).status == "parked"
        assert (await store.claim("tides", listener, python="3.11")).epoch == 2
        with pytest.raises(RunError):
            await store.retry("moon", retried())

    async def test_watch_returns_what_is_there_at_once(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        assert [each.seq for each in await store.watch("tides", after=0, timeout=0)] == [1]
        assert await store.watch("tides", after=1, timeout=0) == []

    @pytest.mark.parametrize("which", ["same", "another"])
    async def test_watch_wakes_when_a_store_appends(
        self, which: str, store: Store, other: Store, listener: Listener
    ) -> None:
        await listener.create("tides")
        watcher = store if which == "same" else other
        watching = asyncio.create_task(watcher.watch("tides", after=1, timeout=20))
        await watcher.run("tides")
        await listener.append("tides", 1, step())
        async with asyncio.timeout(5):
            assert [each.seq for each in await watching] == [2]


class Reading(Conformance):
    async def test_events_can_be_paged(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        await listener.append("tides", 1, *(step(number) for number in range(5)))
        assert [each.seq for each in await store.events("tides", after=2, limit=2)] == [3, 4]
        assert await store.events("nowhere") == []

    async def test_artifacts_come_back_and_missing_ones_are_not_found(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        data = bytes(range(256)) * 20_000
        await listener.append("tides", 1, step(1, ref(data)), artifacts=kept(data))
        await listener.append("tides", 1, step(2, ref(data)), artifacts=kept(data))
        assert await store.artifact(content_digest(data)) == data
        with pytest.raises(NotFoundError):
            await store.artifact(b"?" * 32)

    async def test_an_event_may_not_name_an_artifact_that_is_nowhere(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        append = await listener.tried("tides", 1, step(1, ref(b"never stored")))
        assert isinstance(append.error, NotFoundError)
        assert (await store.run("tides")).seq == 1

    async def test_a_run_knows_its_parent_and_its_origin(self, store: Store, listener: Listener) -> None:
        await listener.create("child", started(parent="tides", origin="moon"))
        row = await store.run("child")
        assert (row.parent, row.origin) == ("tides", "moon")
        with pytest.raises(NotFoundError):
            await store.run("nobody")

    async def test_a_run_is_found_by_id_prefix_and_age(self, store: Store, listener: Listener) -> None:
        for run in ("abc", "abcd", "a_x", "axx", "zzz"):
            await listener.create(run)
        await listener.create("child", started(parent="zzz"))
        assert await store.find("abc") == "abc"
        assert await store.find("abcd") == "abcd"
        assert await store.find("a_") == "a_x"
        assert await store.find("z") == "zzz"
        assert await store.find("last") == "zzz"
        assert await store.find("last~4") == "abc"
        with pytest.raises(AmbiguousError, match="abcd"):
            await store.find("ab")
        for name in ("", "%", "_", "' OR 1=1", "last~9", "last~x", "b", "é"):
            with pytest.raises(NotFoundError):
                await store.find(name)

    async def test_runs_are_listed_newest_first_filtered_and_paged(self, store: Store, listener: Listener) -> None:
        for number in range(6):
            flow = "even" if number % 2 == 0 else "odd"
            await listener.create(f"run{number}", started(flow, at=NOW + number))
        await listener.append("run0", 1, completed())
        await listener.append("run1", 1, failed())

        async def listed(**filters: object) -> list[str]:
            return [row.id[3:] for row in await store.runs(**filters)]  # type: ignore[arg-type]  # one at a time

        assert await listed() == list("543210")
        assert await listed(limit=2) == list("54")
        assert await listed(limit=2, before="run4") == list("32")
        assert await listed(flow="even") == list("420")
        assert await listed(since=NOW + 4) == list("54")
        assert await listed(status=["completed", "failed"]) == list("10")
        assert await listed(status=["interrupted"]) == []
        assert await listed(limit=None) == list("543210")
        with pytest.raises(NotFoundError):
            await store.runs(before="nobody")

    async def test_unowned_gives_the_unfinished_runs_that_wait_for_an_owner_and_for_no_parent(
        self, place: Place, store: Store, listener: Listener
    ) -> None:
        leaving = place()
        await leaving.open()
        theirs = Listener(leaving)
        await theirs.create("interrupted")
        await theirs.create("parked")
        await theirs.append("parked", 1, parked("its runtime closed"))
        await theirs.create("held")
        await theirs.append("held", 1, parked(f"{HELD} by a user"))
        await theirs.create("done", started(), completed())
        await theirs.create("child", started(parent="parked"))
        await theirs.create("orphan", started(parent="done"))
        await theirs.create("other", started("other"))
        await theirs.create("retried", started(), failed())
        await leaving.retry("retried", retried())
        await leaving.close()
        await listener.create("mine")
        assert await store.unowned(["writer"]) == ["interrupted", "parked", "orphan", "retried"]
        assert await store.unowned(["other", "none"]) == ["other"]
        assert await store.unowned([]) == ["interrupted", "parked", "orphan", "other", "retried"]

    async def test_a_store_opened_in_one_loop_serves_another(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")

        async def elsewhere() -> int:
            mine = Listener(store)
            await mine.append("tides", 1, step())
            return len(await store.events("tides"))

        for expected in (2, 3):
            assert await asyncio.to_thread(asyncio.run, elsewhere()) == expected


class Maintaining(Conformance):
    async def test_a_sound_log_has_no_problems(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        data = b"long" * 1000
        await listener.append("tides", 1, step(1, ref(data)), artifacts=kept(data))
        assert await store.verify() == []
        assert await store.verify("tides", heads=await store.heads()) == []
        with pytest.raises(NotFoundError):
            await store.verify("nobody")

    async def test_heads_kept_elsewhere_show_what_is_missing(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        (head,) = await store.heads()
        assert (head.run, head.seq) == ("tides", 1)
        cut = await store.verify(heads=[Head("tides", 5, head.digest)])
        gone = await store.verify(heads=[Head("moon", 1, head.digest)])
        rewritten = await store.verify(heads=[Head("tides", 1, b"?" * len(head.digest))])
        assert [(each.run, each.seq) for each in cut + gone + rewritten] == [("tides", 1), ("moon", 0), ("tides", 1)]

    async def test_a_rebuild_changes_nothing_that_can_be_seen(self, store: Store, listener: Listener) -> None:
        await listener.create("tides", started(origin="old"))
        await listener.append("tides", 1, step(), turn=Turn.SHARED)
        await listener.create("moon", started(), failed())
        await store.retry("moon", retried())
        await store.claim("moon", listener, python="3.11")
        before = (await store.runs(), await store.heads())
        assert (await store.rebuild()).runs == 2
        assert (await store.runs(), await store.heads()) == before
        assert (await listener.append("moon", 2, step(), turn=Turn.SHARED)).seq == 5
        assert await store.verify() == []

    async def test_pruning_leaves_a_tombstone_and_what_others_name(self, store: Store, listener: Listener) -> None:
        own, shared = b"own" * 1000, b"shared" * 1000
        await listener.create("old", started(), artifacts=None)
        await listener.append("old", 1, step(1, ref(own)), step(2, ref(shared)), artifacts=kept(own, shared))
        head = next(each for each in await store.heads() if each.run == "old")
        await listener.append("old", 1, completed())
        await listener.create("new")
        await listener.append("new", 1, step(1, ref(shared)), artifacts=kept(shared))
        assert await store.prune(older_than=NOW) == (0, 0, 0)
        assert await store.prune(older_than=NOW + 1) == (1, 4, 1)
        (tombstone,) = await store.events("old")
        assert isinstance(tombstone.event, RunPruned)
        assert (tombstone.seq, tombstone.event.seq, tombstone.event.flow) == (5, 4, "writer")
        row = await store.run("old")
        assert (row.status, row.created, row.flow) == ("pruned", NOW, "writer")
        assert await store.artifact(content_digest(shared)) == shared
        with pytest.raises(NotFoundError):
            await store.artifact(content_digest(own))
        assert await store.verify(heads=[head]) == []
        assert await store.find("last") == "new"
        assert await store.prune(older_than=NOW + 1, run="old") == (0, 0, 0)

    async def test_a_rebuild_after_a_prune_changes_nothing_that_can_be_seen(
        self, store: Store, listener: Listener
    ) -> None:
        await listener.create("old", started(parent="x"), completed())
        await store.prune(older_than=NOW + 1)
        before = (await store.runs(), await store.heads())
        await store.rebuild()
        assert (await store.runs(), await store.heads()) == before

    async def test_only_a_finished_run_can_be_pruned_by_name(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        with pytest.raises(RunError):
            await store.prune(older_than=0, run="tides")
        with pytest.raises(NotFoundError):
            await store.prune(older_than=0, run="moon")
        await listener.append("tides", 1, completed())
        assert (await store.prune(older_than=0, run="tides")).runs == 1

    async def test_a_copied_event_keeps_what_it_names(self, store: Store, listener: Listener) -> None:
        outcome = b"an answer" * 500
        await listener.create("source")
        await listener.append("source", 1, step(1, ref(outcome)), artifacts=kept(outcome))
        copy = Copied(v=1, at=NOW, run="source", seq=2, turn=0, event=msgspec.Raw(encode(step(1, ref(outcome)))))
        await listener.create("fork", started(origin="source"), copy)
        await listener.append("source", 1, completed())
        assert (await store.prune(older_than=NOW + 1)).artifacts == 0
        assert await store.artifact(content_digest(outcome)) == outcome
        await listener.append("fork", 1, completed())
        assert (await store.prune(older_than=NOW + 1)).artifacts == 1

    async def test_a_chain_of_artifacts_lives_as_long_as_its_end_is_named(
        self, store: Store, listener: Listener
    ) -> None:
        message, reply = b"a question", b"an answer"
        first = artifacts.node([content_digest(message)])
        second = artifacts.node([content_digest(first), content_digest(reply)])
        await listener.create("source")
        await listener.append("source", 1, step(1, ref(second)), artifacts=kept(message, reply, first, second))
        await listener.create("fork", started(), step(1, ref(second)))
        await listener.append("source", 1, completed())
        assert (await store.prune(older_than=NOW + 1)).artifacts == 0
        assert await store.artifact(content_digest(message)) == message
        assert await store.verify() == []
        await listener.append("fork", 1, completed())
        assert (await store.prune(older_than=NOW + 1)).artifacts == 4

    async def test_a_chain_may_grow_event_by_event(self, store: Store, listener: Listener) -> None:
        await listener.create("tides")
        links: list[bytes] = []
        for number in range(5):
            message = b"message %d" % number
            node = artifacts.node([*links[-1:], content_digest(message)])
            await listener.append("tides", 1, step(number, ref(node)), artifacts=kept(message, node))
            links.append(content_digest(node))
        await listener.append("tides", 1, completed())
        assert (await store.prune(older_than=NOW + 1)).artifacts == 10
