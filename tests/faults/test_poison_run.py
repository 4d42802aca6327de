"""A run whose step takes the process down at every start, beside one that needs some time for a step."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from kitaru.runtime.deaths import MOST
from tests.runtime.runs import Script

SOURCE = """
import asyncio, os, sys
import kitaru

@kitaru.checkpoint
async def poison():
    await asyncio.sleep(0.05)
    os._exit(9)

@kitaru.checkpoint
async def slow():
    await asyncio.sleep(0.5)

@kitaru.flow
async def bad():
    await poison()

@kitaru.flow
async def good():
    await slow()

async def main():
    async with kitaru.Runtime(os.environ["KITARU_STORE"]) as runtime:
        if sys.argv[1:]:
            await runtime.start(bad.options(run_id="bad"))
            await runtime.start(good.options(run_id="good"))
            await asyncio.Event().wait()
        while not await runtime.runs(status="stuck"):
            await asyncio.sleep(0.05)
    print("survived")

asyncio.run(main())
"""


def statuses(folder: Path) -> dict[str, tuple[str, str]]:
    with sqlite3.connect(folder / "runs.db") as connection:
        return {run: (status, note) for run, status, note in connection.execute("SELECT id, status, note FROM runs")}


def test_a_poison_run_is_stuck_after_five_deaths_and_its_neighbour_gets_through(tmp_path: Path) -> None:
    ends = []
    for start in range(MOST + 1):
        with Script(tmp_path, SOURCE, *["first"] * (not start)) as script:
            script.end(code=None)
            ends.append(script.process.returncode)
    assert ends == [9] * MOST + [0]
    found = statuses(tmp_path)
    assert found["good"][0] == "completed"
    assert found["bad"] == ("parked", "held as stuck: its process died 5 times in a row while poison ran")
