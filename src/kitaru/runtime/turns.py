"""Handing outcomes to a flow, in an order that a resume can repeat.

Outcomes that became durable in one batch form a turn and are handed over together, and only when the run is *settled*:
every one of its tasks waits on a future that is not done, seen over `PASSES` passes of the loop. On resume and replay
the recorded turns are handed back one by one, when the run is settled and all of the turn has been asked for; nothing
live starts, and no live outcome is handed over, before the recorded turns are through. So whatever the flow builds from
the order of its outcomes (`as_completed`, races, hedged calls) comes out as it did.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from itertools import compress
from operator import gt
from typing import Any, Final, Protocol

from kitaru.store.entity import Entity

PASSES: Final = 3
"""Loop passes over which a run must be seen waiting. A finished task wakes what waits on it one pass later, and what
waits on that (an outer gather, `as_completed`) one pass after; no task is seen running in between."""


class Waiter(Entity):
    """One boundary that waits for its turn, to be handed its outcome or to start.

    `party` is who waits: the task that awaits the call, or the thread of a sync flow.
    """

    key: str
    party: object
    future: asyncio.Future[None]
    source: str
    execution: object = None
    asked_as: str = ""
    """The key of the call, where that is another one than the key of the record it waits for."""


class RecordedTurn:
    """Outcomes that the log hands back together."""

    __slots__ = ("keys", "number", "overdue", "strict")

    def __init__(self, number: int, keys: Iterable[str], *, strict: bool) -> None:
        self.number = number
        self.overdue = False
        """Whether the grace for it is over: what comes meanwhile goes ahead of it, and does not wait once more."""
        self.keys = dict.fromkeys(keys)
        """In the order of the log, in which they were handed over."""
        self.strict = strict
        """Whether the run's own log recorded it; else it comes from the source of a replay and binds nobody."""


class Listener(Protocol):
    """Who is told what a run's turns meet on the way."""

    def stalled(self, turn: RecordedTurn, certain: bool) -> bool:
        """A settled run has not asked for all of `turn`. `certain`: every task is at a boundary, so it cannot ask any
        more. Returns whether to hand over at once what has been asked for."""

    def live_begins(self) -> bool:
        """The recorded turns are through. Returns whether what waits to start may."""

    def deviated(self, turn: RecordedTurn) -> None:
        """Outcomes were handed over although `turn` was not all asked for."""

    def handed(self, waiters: list[Waiter]) -> None:
        """These recorded outcomes are being handed back now, together."""

    def broken(self, error: Exception) -> None:
        """Handing over failed: nobody would be handed anything any more."""


class Turns:
    """Who of one run waits for what, and whose turn it is. Lives on the run's event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: Listener, *, grace: float) -> None:
        self.loop = loop
        self.open: set[Any] = set()
        """Tasks (and sync flows' threads) that run flow code: those not at a boundary."""
        self._resting: dict[asyncio.Task[Any], int] = {}
        """Tasks at a boundary, and how often they had been cancelled when they came there."""
        self.recorded: deque[RecordedTurn] = deque()
        self.on_their_way = 0
        """Live outcomes that were given to the store and are not durable yet."""
        self._listener = listener
        self._grace = grace
        self._asked: dict[str, Waiter] = {}
        self._held: list[Waiter] = []
        self._ready: deque[list[Waiter]] = deque()
        self._pending: set[str] = set()
        self._holds = 0
        self._quiet = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None

    # -- asking -------------------------------------------------------------------------------------------------------

    def take_alone(self, key: str) -> bool:
        """Hand `key` back to the running code at once, without a pass of the loop, where it is certain to be its turn:
        nothing else of the run is awake, nothing waits, and it is all of the next turn."""
        recorded = self.recorded
        keys = recorded[0].keys
        if len(keys) != 1 or key not in keys or self._asked or self._held or self._ready:
            return False
        if self.on_their_way and not recorded[0].strict:
            return False
        if len(self.open) != 1:
            self._purge()
            if len(self.open) != 1:
                return False
        recorded.popleft()
        return True

    def hand_at_once(self, waiter: Waiter) -> bool:
        """Hand over a live outcome that is a turn of its own, where the whole run is at boundaries."""
        if self.open or self.recorded or self._ready or self._held or self._asked or self._leaving():
            return False
        self._hand([waiter])
        return True

    def ask(self, key: str, party: object) -> Waiter:
        """Ask for a recorded outcome."""
        waiter = Waiter(key, party, self.loop.create_future(), "recorded")
        self._asked[key] = waiter
        self._settle_down(party)
        # Not at once: who asks would find its outcome there and run on, ahead of others that were handed theirs first.
        self._soon()
        return waiter

    def ask_start(self, key: str, party: object) -> Waiter:
        """Ask to start something live."""
        waiter = Waiter(key, party, self.loop.create_future(), "start")
        self._held.append(waiter)
        self.rest(party)
        return waiter

    def wait_cancelled(self, key: str, party: object) -> asyncio.Future[None]:
        """Wait for something that the flow gave up the first time: it only ends by being cancelled again."""
        self._pending.add(key)
        self.rest(party)
        return self.loop.create_future()

    def rest(self, party: object) -> None:
        """`party` has come to a boundary."""
        self._settle_down(party)
        if self._asked or self._held or self._ready or self.recorded:
            self.pump()

    def _settle_down(self, party: object) -> None:
        self.open.discard(party)
        if isinstance(party, asyncio.Task):
            self._resting[party] = party.cancelling()
        self._quiet = 0

    def wake(self, party: object) -> None:
        """`party` leaves a boundary and runs flow code again."""
        self.open.add(party)
        if isinstance(party, asyncio.Task):
            self._resting.pop(party, None)
        self._quiet = 0
        if self._timer is not None:
            self._disarm()
        if self._asked or self._held or self._ready:
            # It may end without coming to another boundary, and others wait.
            self._soon()

    def hold(self) -> None:
        """A recorded outcome is being read: until `let_go`, the run is not settled."""
        self._holds += 1

    def let_go(self) -> None:
        """It has been read."""
        self._holds -= 1
        self._quiet = 0
        self.pump()

    def forget(self, key: str) -> None:
        """Whoever waited under `key` has given up."""
        self._pending.discard(key)
        waiter = self._asked.pop(key, None)
        if waiter is None:
            self._held = [w for w in self._held if w.key != key]

    def drop(self, key: str) -> None:
        """`key` will not be handed back in its recorded turn: it runs again, or was given up."""
        for turn in self.recorded:
            if key in turn.keys:
                del turn.keys[key]
                break
        self._through()

    def ready(self, waiters: list[Waiter]) -> None:
        """A live turn has become durable."""
        self._ready.append(waiters)

    def asked_keys(self) -> set[str]:
        """The recorded keys that somebody waits for."""
        return set(self._asked)

    def waiting(self) -> list[str]:
        """The keys that somebody waits for or waits to start, in no particular order."""
        return [*self._asked, *(w.key for w in self._held)]

    # -- handing over -------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Hand over what is due; come back after a pass of the loop where the run has not settled yet."""
        while self._asked or self._held or self._ready:
            if self._holds:
                return None
            self._purge()
            if not self._waiting():
                self._quiet = 0
                return self._soon()
            if self.open and self._quiet < PASSES:
                self._quiet += 1
                return self._soon()
            if self._leaving():
                self._quiet = 0
                return self._soon()
            if not self._step():
                return None
        return None

    def _step(self) -> bool:
        self._through()
        if self.recorded:
            turn = self.recorded[0]
            if not turn.strict and (self._ready or self.on_their_way):
                # The log has these before what a replay takes up now, and a resume of it will hand them over first.
                if not self._ready:
                    return False
                self._hand(self._ready.popleft())
                return True
            if turn.keys.keys() <= self._asked.keys():
                self._disarm()
                self.recorded.popleft()
                self._hand_back([self._asked.pop(key) for key in turn.keys])
                return True
            if self._quiet < PASSES:
                # A callback of the loop may be about to make another task, such as one that closes a generator.
                self._quiet += 1
                self._soon()
                return False
            certain = not self.open and not self._pending
            if turn.overdue or self._listener.stalled(turn, certain):
                return self._release(turn)
            self._arm()
            return False
        if self._held:
            if not self._listener.live_begins():
                return False
            held, self._held = self._held, []
            self._hand(held)
            return True
        if self._asked:
            # Recorded outcomes whose turn was dropped: nothing orders them any more.
            asked, self._asked = list(self._asked.values()), {}
            self._hand_back(asked)
            return True
        self._hand(self._ready.popleft())
        return True

    def _release(self, stuck: RecordedTurn) -> bool:
        held, self._held = self._held, []
        for turn in self.recorded:
            due = [key for key in turn.keys if key in self._asked]
            if due:
                turn.keys = {key: None for key in turn.keys if key not in due}
                self._listener.deviated(stuck)
                self._hand(held)
                self._hand_back([self._asked.pop(key) for key in due])
                return True
        if held or self._ready:
            self._listener.deviated(stuck)
            self._hand(held or self._ready.popleft())
            return True
        return False

    def _hand_back(self, waiters: list[Waiter]) -> None:
        self._listener.handed(waiters)
        self._hand(waiters)

    def _hand(self, waiters: list[Waiter]) -> None:
        self._quiet = 0
        for waiter in waiters:
            future = waiter.future
            if not future.done():
                future.set_result(None)
                if waiter.source != "start":
                    self.open.add(waiter.party)

    def _through(self) -> None:
        while self.recorded and not self.recorded[0].keys:
            self.recorded.popleft()

    # -- settling -----------------------------------------------------------------------------------------------------

    def _purge(self) -> None:
        done = [party for party in self.open if isinstance(party, asyncio.Future) and party.done()]
        self.open.difference_update(done)

    def _waiting(self) -> bool:
        for party in self.open:
            waiter = getattr(party, "_fut_waiter", None)
            if waiter is None or waiter.done():
                return False
        return True

    def _leaving(self) -> bool:
        """Whether a task at a boundary has been cancelled, and leaves it as soon as the loop comes to it."""
        resting = self._resting
        # Looked for in C: thousands may rest.
        for task in compress(resting, map(gt, map(asyncio.Task.cancelling, resting), resting.values())):
            waiter = getattr(task, "_fut_waiter", None)
            if waiter is None or waiter.done():
                return True
        return False

    def _soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._again)

    def _again(self) -> None:
        self._scheduled = False
        try:
            self.pump()
        except Exception as error:
            self._listener.broken(error)

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._grace, self._overdue)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overdue(self) -> None:
        self._timer = None
        self._through()
        if self.recorded:
            self.recorded[0].overdue = True
        self._again()

    def close(self) -> None:
        """Forget everybody; the run leaves memory."""
        self._disarm()
        self._asked.clear()
        self._held.clear()
        self._ready.clear()
