from __future__ import annotations

from pathlib import Path

import pytest

from kitaru.store.sqlite import SqliteStore
from tests.store import conformance
from tests.store.conformance import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return lambda: SqliteStore(tmp_path / "log" / "kitaru.db")


class TestAppending(conformance.Appending):
    pass


class TestOwning(conformance.Owning):
    pass


class TestOutsiders(conformance.Outsiders):
    pass


class TestReading(conformance.Reading):
    pass


class TestMaintaining(conformance.Maintaining):
    pass
