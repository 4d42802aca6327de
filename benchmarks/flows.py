"""The flows that workloads run. Their steps do nothing, so that what is measured is the price of a step."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Final

import kitaru

PARK: Final = "BENCHMARK_PARK"
"""Set in the environment, the step `last` waits until its run is parked."""

_TEXT: Final = "x" * 98


@kitaru.checkpoint
async def step(number: int) -> str:
    """A step whose encoded outcome has 100 bytes."""
    del number
    return _TEXT


@kitaru.checkpoint
async def last() -> float:
    """The first step that a resumed run executes: gives the time at which it began, on the monotonic clock."""
    began = time.monotonic()
    if PARK in os.environ:
        await asyncio.Event().wait()
    return began


@kitaru.flow
async def in_sequence(steps: int) -> int:
    for number in range(steps):
        await step(number)
    return steps


@kitaru.flow
async def in_parallel(steps: int) -> int:
    return len(await kitaru.gather(*[step(number) for number in range(steps)]))


@kitaru.flow
async def in_portions(portions: int, steps: int) -> float:
    """Many steps, `steps` of them at a time, then one that says when it began."""
    for portion in range(portions):
        await kitaru.gather(*[step(portion * steps + number) for number in range(steps)])
    return await last()


@kitaru.flow
async def long(steps: int) -> float:
    """Many steps, then one that says when it began."""
    for number in range(steps):
        await step(number)
    return await last()
