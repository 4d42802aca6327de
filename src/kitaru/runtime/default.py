"""The default runtime, behind module-level calls: one a process and store."""

from __future__ import annotations

import atexit
import contextlib
import threading

from kitaru.errors import KitaruError
from kitaru.runtime.core import Core
from kitaru.runtime.runtime import Runtime
from kitaru.runtime.stores import default_store

_defaults: dict[str, Runtime] = {}
_defaults_lock = threading.Lock()


def default_runtime() -> Runtime:
    """The runtime behind module-level calls: one a process and store (`KITARU_STORE`).

    Raises:
        ForkedProcessError: In a forked child of a process that used it.
    """
    url = default_store()
    with _defaults_lock:
        runtime = _defaults.get(url)
        if runtime is None:
            runtime = _defaults[url] = Runtime(url)
            if len(_defaults) == 1:
                atexit.register(_close_defaults)
    runtime._core.refuse_fork()
    return runtime


def default_core() -> Core:
    """The inside of the default runtime; raises as `default_runtime` does."""
    return default_runtime()._core


def _close_defaults() -> None:
    for runtime in list(_defaults.values()):
        with contextlib.suppress(TimeoutError, KitaruError):
            runtime._core.close_at_exit()
