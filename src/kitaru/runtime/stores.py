"""Which store a runtime uses: a URL, or where `KITARU_STORE` and `KITARU_HOME` say."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from kitaru.errors import UsageError
from kitaru.runtime.arguments import Duration, seconds_of
from kitaru.store.protocol import Store


def default_store() -> str:
    """The URL of the default store."""
    url = os.environ.get("KITARU_STORE", "").strip()
    if url:
        return url
    return f"sqlite:///{home()}/kitaru.db"


def home() -> Path:
    """The folder of the default store and of what belongs to no store: `KITARU_HOME`, or the platform's for a user."""
    named = os.environ.get("KITARU_HOME", "").strip()
    if not named:
        from platformdirs import user_data_dir

        named = user_data_dir("kitaru", appauthor=False)
    return _resolved(named) if os.path.isabs(named) else Path(named).expanduser().resolve()  # noqa: PTH117


@functools.lru_cache(maxsize=8)
def _resolved(path: str) -> Path:
    # Once: every start of a run asks for it.
    return Path(path).resolve()


def store_at(store: str | Path | Store | None, durability: str, lease: Duration) -> Store:
    """The store that is given, the one at a URL, or the default one; not opened yet.

    Raises:
        UsageError: `durability` is neither `full` nor `process`, or there is no such store.
    """
    from kitaru.store.sqlite import SqliteStore

    seconds = seconds_of(lease, "lease", zero=False)
    url = str(store) if isinstance(store, Path) else store
    if url is not None and not isinstance(url, str):
        if not hasattr(url, "submit"):
            raise UsageError(f"store={url!r} is no store", hint='Pass a URL such as "sqlite:///runs.db".')
        return url
    if durability not in ("full", "process"):
        raise UsageError(f"durability {durability!r}", hint="It is 'full' or 'process'.")
    return SqliteStore(url or default_store(), durability="full" if durability == "full" else "process", lease=seconds)
