"""A project to edit, for the tests of replay."""

from __future__ import annotations

from pathlib import Path

import pytest

# Loaded before any event loop runs: importing it reads files.
import kitaru.adapters.http.clients  # noqa: F401
from kitaru import Runtime
from tests.runtime.replay import noted
from tests.runtime.replay.project import Project


@pytest.fixture
def project(tmp_path: Path, runtime: Runtime) -> Project:
    """An empty module and the test's runtime."""
    noted.taken()
    return Project(tmp_path, runtime)
