"""Flows typed into a notebook's cell or at a prompt. A cell runs on the kernel's event loop."""

from __future__ import annotations

import asyncio
import linecache
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from kitaru import Runtime, UsageError
from kitaru.errors import NotFoundError
from kitaru.runtime.loader import load_flow, loaded_flow

CELL = """
from kitaru import checkpoint, flow

@checkpoint
async def shout(text: str) -> str:
    return text.upper()

@flow
async def cry(text: str) -> str:
    return await shout(text)
"""


class Kernel:
    """IPython, as far as Kitaru looks at it, and a `__main__` that cells are run in."""

    def __init__(self, main: types.ModuleType, folder: Path) -> None:
        self.main = main
        self._folder = folder
        self._count = 0

    def cell(self, source: str) -> None:
        self._count += 1
        file = str(self._folder / "ipykernel_7" / f"{self._count}.py")
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        exec(compile(source, file, "exec"), vars(self.main))

    @property
    def cry(self) -> Any:
        return self.main.cry


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=object))
    kernel = Kernel(main, tmp_path)
    kernel.cell(CELL)
    return kernel


async def test_a_cell_may_wait_for_a_run_of_the_background_loop(kernel: Kernel) -> None:
    handle = await asyncio.to_thread(kernel.cry.run, "ahoy")
    assert handle.wait() == "AHOY"


async def test_a_cell_may_not_wait_for_a_run_of_its_own_loop(kernel: Kernel, runtime: Runtime) -> None:
    handle = await runtime.start(kernel.cry, "ahoy")
    with pytest.raises(UsageError, match=r"await handle\.result\(\)"):
        handle.wait()
    assert await handle.result() == "AHOY"


async def test_elsewhere_nobody_may_block_an_event_loop(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython")
    handle = await asyncio.to_thread(kernel.cry.run, "ahoy")
    with pytest.raises(UsageError, match=r"await handle\.result\(\)"):
        handle.wait()


async def test_a_flow_of_a_cell_is_replayed_after_its_cell_was_edited(kernel: Kernel, runtime: Runtime) -> None:
    first = await runtime.start(kernel.cry, "ahoy")
    assert await first.result() == "AHOY"
    kernel.cell(CELL.replace("upper()", "title()"))
    fork = await runtime.replay(first.id)
    assert await fork.handle.result() == "Ahoy"


async def test_only_who_asks_gets_a_flow_of_a_cell(kernel: Kernel) -> None:
    # Another notebook may have a flow of that name: nothing of it is resumed unasked.
    ref = kernel.cry.work.ref
    kernel.cell(CELL)
    assert load_flow(ref).work is kernel.cry.work
    assert loaded_flow(ref) is None


async def test_another_process_is_told_where_to_replay_a_flow_of_a_cell(kernel: Kernel, runtime: Runtime) -> None:
    first = await runtime.start(kernel.cry, "ahoy")
    await first.result()
    del vars(kernel.main)["cry"]
    with pytest.raises(NotFoundError, match=r"(?s)in a notebook or at a prompt.*await rt\.replay\(RUN\)"):
        await runtime.replay(first.id)
