"""Per-run settings by `.options(...)`, and the handle of a run."""

from __future__ import annotations

from typing import assert_type

from kitaru import Call, Checkpoint, Flow, RunHandle, checkpoint, flow


@checkpoint
async def double(number: int) -> int:
    return number * 2


@flow
async def total(first: int, second: int) -> int:
    renamed = double.options(name="double_first")
    assert_type(renamed(first), Call[int])
    assert_type(await double.options(name="double_second")(second), int)
    return first + second


async def main() -> None:
    handle = await total.start(1, second=2)
    assert_type(handle, RunHandle[int])
    assert_type(handle.id, str)
    assert_type(await handle.result(), int)
    named = await total.options(run_id="sum-1").start(1, 2)
    assert_type(named, RunHandle[int])


def script() -> None:
    assert_type(total.run(1, 2).wait(), int)
    assert_type(total.options(run_id="sum-2").run(1, 2).wait(), int)
    assert_type(total.options(run_id="sum-3")(1, 2), Call[int])


def accepts_any_flow(one: Flow[..., int], step: Checkpoint[..., int]) -> tuple[str, str]:
    return repr(one), repr(step)


def hands_over() -> tuple[str, str]:
    return accepts_any_flow(total, double)
