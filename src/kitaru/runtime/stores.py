"""Which store a runtime uses: a URL, or where `KITARU_STORE` and `KITARU_HOME` say."""

from __future__ import annotations

import os
from pathlib import Path

from kitaru.errors import UsageError
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
    return Path(named).expanduser().resolve()


def store_at(url: str | None, durability: str, lease: float) -> Store:
    """The store at a URL, or the default one; not opened yet.

    Raises:
        UsageError: `durability` is neither `full` nor `process`, or the URL is not one of a store.
    """
    from kitaru.store.sqlite import SqliteStore

    if durability not in ("full", "process"):
        raise UsageError(f"durability {durability!r}", hint="It is 'full' or 'process'.")
    return SqliteStore(url or default_store(), durability="full" if durability == "full" else "process", lease=lease)
