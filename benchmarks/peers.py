"""DBOS and LangGraph on SQLite, where they are importable, under the same load as `sequential` and `concurrent`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks import concurrent, sequential
from benchmarks.workload import Figures, Line, Samples, Workload

_TEXT: Final = "x" * 98
_Flow = Callable[[str, int], Awaitable[object]]
"""A peer's workflow: takes the id of a run and how many steps it has."""


def kitaru(folder: Path) -> Figures:
    one = sequential.kitaru(folder)["rate"]
    (folder / "kitaru.db").unlink()
    return {"sequential": one, "concurrent": concurrent.kitaru(folder)["rate"]}


def dbos(folder: Path) -> Figures:
    if find_spec("dbos") is None:
        return {}
    return asyncio.run(_dbos(folder))


async def _dbos(folder: Path) -> Figures:
    library: Any = import_module("dbos")
    DBOS = library.DBOS  # noqa: N806  # what the library calls it
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{folder}/dbos.db", "log_level": "ERROR"})

    async def step(number: int) -> str:
        del number
        return _TEXT

    recorded = DBOS.step()(step)

    async def flow(steps: int) -> None:
        for number in range(steps):
            await recorded(number)

    workflow = DBOS.workflow()(flow)
    DBOS.launch()

    async def run(name: str, steps: int) -> None:
        with library.SetWorkflowID(name):
            await workflow(steps)

    try:
        return await _rates(run)
    finally:
        DBOS.destroy()


def langgraph(folder: Path) -> Figures:
    if find_spec("langgraph") is None or find_spec("langgraph.checkpoint.sqlite") is None:
        return {}
    return asyncio.run(_langgraph(folder))


async def _langgraph(folder: Path) -> Figures:
    functional: Any = import_module("langgraph.func")
    saver: Any = import_module("langgraph.checkpoint.sqlite.aio")

    async def step(number: int) -> str:
        del number
        return _TEXT

    recorded = functional.task(step)
    async with saver.AsyncSqliteSaver.from_conn_string(str(folder / "langgraph.db")) as checkpoints:

        @functional.entrypoint(checkpointer=checkpoints)  # type: ignore[untyped-decorator]  # a library that may be missing
        async def workflow(steps: int) -> int:
            for number in range(steps):
                await recorded(number)
            return steps

        async def run(name: str, steps: int) -> None:
            await workflow.ainvoke(steps, {"configurable": {"thread_id": name}}, durability="sync")

        return await _rates(run)


async def _rates(run: _Flow) -> Figures:
    logging.disable()
    await run("warm", 20)
    began = time.perf_counter()
    await run("measured", sequential.STEPS)
    one = sequential.STEPS / (time.perf_counter() - began)
    began = time.perf_counter()
    await asyncio.gather(*[run(f"measured-{number}", concurrent.STEPS) for number in range(concurrent.RUNS)])
    return {
        "sequential": one,
        "concurrent": concurrent.RUNS * concurrent.STEPS / (time.perf_counter() - began),
    }


def lines(samples: Samples) -> list[Line]:
    found = []
    for peer in ("kitaru", "dbos", "langgraph"):
        if not samples[f"{peer}.sequential"]:
            print(f"\n{peer} is not installed here, and left out")
            continue
        found += [
            Line(f"{peer}, {load}", "steps/s", samples[f"{peer}.{load}"]) for load in ("sequential", "concurrent")
        ]
    return found


WORKLOAD: Final = Workload(
    "others on SQLite under the same load, each with its own durability (see docs/benchmarks.md)",
    {"kitaru": kitaru, "dbos": dbos, "langgraph": langgraph},
    lines,
)
