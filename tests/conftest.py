"""What every test gets: an environment of its own, a runtime on a fresh store, a stand-in model server."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from hypothesis import settings

from kitaru.adapters.standin import StandInServer
from kitaru.runtime import default
from kitaru.runtime.runtime import Runtime
from kitaru.store.codec.classes import STAND_INS

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    # The tests' shared modules are imported as `tests.runtime...`.
    sys.path.insert(0, str(ROOT))


def pytest_configure() -> None:
    """Draw as many generated cases as are asked for."""
    from tests.cases import PROFILE

    settings.load_profile(PROFILE)
    # A shell's background jobs ignore it, and so would every program that a test starts and interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what is there for good: the SDKs' classes and the tests themselves."""
    gc.collect()
    gc.freeze()


BOTH_LOOPS = {
    "test_transport_engines.py", "test_cancellation.py", "test_turns.py", "test_call_handles.py", "test_resume.py",
}  # fmt: skip
"""Tests that run on both event loops always: connections, order, cancellation. `make uvloop` runs all on the second."""


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the event loops that a test runs on."""
    if sys.platform == "win32":
        return {"asyncio": asyncio.new_event_loop}
    import uvloop

    if os.environ.get("KITARU_TEST_LOOP") == "uvloop":
        return {"uvloop": uvloop.new_event_loop}
    both = {"uvloop": uvloop.new_event_loop} if item.path.name in BOTH_LOOPS else {}
    return {"asyncio": asyncio.new_event_loop, **both}


FOREIGN = ("_API_KEY", "_BASE_URL", "_API_BASE", "_PROXY", "_proxy")
"""How the names of variables end that providers and their clients read."""


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test sees the user's settings, keys or store, nor another test's default runtime or loaded scripts."""
    for name in list(os.environ):
        ours = name.startswith("KITARU_") and name not in ("KITARU_LAWS", "KITARU_TEST_LOOP")
        if ours or name == "OLLAMA_HOST" or name.endswith(FOREIGN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KITARU_HOME", str(tmp_path / "home"))
    # Nothing is written into the keyring of whoever runs the tests.
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setenv("KITARU_STORE", f"sqlite:///{tmp_path}/default.db")
    modules, path = set(sys.modules), list(sys.path)
    monkeypatch.setitem(vars(sys.modules["__main__"]), STAND_INS, [])
    yield
    opened = list(default._defaults.values())
    default._defaults.clear()
    if opened:

        async def close() -> None:
            for one in opened:
                await one.close()

        asyncio.run(close())
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """Where `runtime` keeps its runs, for a second runtime on the same file."""
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture
async def runtime(store_url: str) -> AsyncIterator[Runtime]:
    """An open runtime on a fresh store, with this test's loop."""
    async with Runtime(store_url, replay_grace=0.2) as opened:
        yield opened


@pytest.fixture
def standin() -> Iterator[StandInServer]:
    """A model server on loopback that answers at once and counts what it is asked."""
    with StandInServer() as server:
        yield server


MAY_BLOCK = {
    # Kernel memory, not a disk; once a store.
    "kitaru/store/owners.py": {"boot_id"},
    # Where a flow's source lies, and the source that a code digest is made of: once a function and process.
    "kitaru/runtime/flow.py": {"ref"},
    "kitaru/runtime/code/digest.py": {"code_of"},
    # Imports are lazy: once a module and process.
    "<frozen importlib._bootstrap>": {"_find_and_load"},
    # Looks at folders only: where the default store lies.
    "kitaru/runtime/stores.py": {"default_store", "store_at"},
    # A small file beside the store, as a run begins.
    "kitaru/runtime/models/registry.py": {"effective"},
    # Loading a flow's module, before its run begins.
    "kitaru/runtime/loader.py": {"load_flow", "loaded_flow", "load_file"},
    # A notebook's cell: nothing of the user's waits for the kernel's loop meanwhile.
    "kitaru/runtime/handle.py": {"wait"},
    # One row and, once a process, the key: sync by contract, for sync code in flows.
    "kitaru/runtime/secrets/named.py": {"get_secret", "find", "read"},
    # The price table, half a megabyte beside the code: once a process.
    "kitaru/adapters/prices.py": {"_table"},
    # An attached file: by contract read at the call, whose fingerprint its content is part of.
    "kitaru/runtime/calls/attachments.py": {"_from_path"},
    # The tests' own server.
    "kitaru/adapters/standin/server.py": {"__enter__", "__exit__"},
}
"""Functions that may block an event loop for a moment, by file, each with its reason."""


@pytest.fixture(autouse=True)
def unblocked(request: pytest.FixtureRequest) -> Iterator[None]:
    """In the tests of the runtime, whatever blocks an event loop fails the test."""
    if "tests/runtime/" not in request.path.as_posix():
        yield
        return
    detector = BlockBuster(scanned_modules=["kitaru"])
    for function in detector.functions.values():
        for file, names in MAY_BLOCK.items():
            function.can_block_in(file, names)
    detector.activate()
    try:
        yield
    finally:
        detector.deactivate()
