"""Named artifacts in replays: what `load` gives follows what was saved in the replay itself."""

from __future__ import annotations

import kitaru
from kitaru import ReplayOptions, Runtime, checkpoint, flow
from kitaru.runtime.views.report import report


@checkpoint
async def double(number: int) -> int:
    return 2 * number


@checkpoint
async def keep_inside(number: int) -> None:
    await kitaru.save("inside", number)


@flow
async def keeping(number: int) -> list[int]:
    await kitaru.save("kept", await double(number))
    first = await kitaru.load("kept")
    await kitaru.save("kept", first + 1)
    return [first, await kitaru.load("kept")]


@flow
async def keeping_inside() -> int:
    await keep_inside(7)
    value: int = await kitaru.load("inside")
    return value


async def test_a_changed_save_reaches_the_loads_behind_it(runtime: Runtime) -> None:
    source = await runtime.start(keeping, 1)
    assert await source.result() == [2, 3]
    fork = await runtime.replay(source.id, ReplayOptions(inputs={"number": 5}))
    assert await fork.handle.result() == [10, 11]


async def test_each_load_of_an_unchanged_replay_gives_what_was_saved_before_it(runtime: Runtime) -> None:
    source = await runtime.start(keeping, 1)
    await source.result()
    fork = await runtime.replay(source.id)
    assert await fork.handle.result() == [2, 3]
    lines = (await report(runtime, source.id, fork.run)).lines
    assert {line.verdict for line in lines} == {"reused"}


async def test_an_artifact_saved_inside_a_reused_checkpoint_is_found(runtime: Runtime) -> None:
    source = await runtime.start(keeping_inside)
    assert await source.result() == 7
    fork = await runtime.replay(source.id)
    assert await fork.handle.result() == 7


async def test_verify_reads_artifacts_without_running_anything(runtime: Runtime) -> None:
    source = await runtime.start(keeping, 1)
    await source.result()
    fork = await runtime.replay(source.id, ReplayOptions(verify=True))
    assert await fork.handle.result() == [2, 3]
