"""How far runs are, and how long they took."""

from __future__ import annotations

import pytest

from kitaru.runtime.views.measures import Steps, counted, seconds_of
from kitaru.store.events import AnyEvent, CancelRequested, RunClaimed, RunCompleted, RunParked, RunRetried
from kitaru.store.protocol import Recorded
from tests.store.logs import started, step


def at(seconds: float, event: AnyEvent) -> AnyEvent:
    return type(event)(**{name: getattr(event, name) for name in event.__struct_fields__} | {"at": seconds})


BEGIN, STEP = started(), step()
CLAIM, END = RunClaimed(1, 0.0, 2, "owner", "3.11"), RunCompleted(1, 0.0, b"\xc0")


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([], 0.0),
        ([(0, BEGIN), (2, STEP), (3, END)], 3.0),
        ([(0, BEGIN), (2, STEP), (1000, CLAIM), (1003, END)], 5.0),
        ([(0, BEGIN), (2, RunParked(1, 0.0, "")), (900, CancelRequested(1, 0.0, "")), (1000, CLAIM), (1003, END)], 5.0),
        ([(0, BEGIN), (2, STEP), (500, RunRetried(1, 0.0, ())), (501, CLAIM), (503, END)], 4.0),
    ],
)
def test_the_time_in_which_no_process_had_a_run_is_left_out(
    events: list[tuple[float, AnyEvent]], seconds: float
) -> None:
    log = [Recorded(seq, 0, at(time, event)) for seq, (time, event) in enumerate(events, 1)]
    assert seconds_of(log) == seconds


@pytest.mark.parametrize(
    ("states", "shown"),
    [([], "0"), (["done", "cancelled"], "2"), (["done", "running"], "1/2"), (["reused", "done"], "1+1r")],
)
def test_steps_are_counted_in_words(states: list[str], shown: str) -> None:
    assert str(counted(states)) == shown
    assert isinstance(counted(states), Steps)
