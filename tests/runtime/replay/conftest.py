"""A project to edit, for the tests of replay."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru import Runtime
from tests.runtime.replay import noted
from tests.runtime.replay.project import Project


@pytest.fixture
def project(tmp_path: Path, runtime: Runtime) -> Project:
    """An empty module and the test's runtime."""
    noted.taken()
    return Project(tmp_path, runtime)
