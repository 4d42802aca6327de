"""Makes the tests' shared modules importable as `tests.store...`, and checks their assertions like a test's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

pytest.register_assert_rewrite("tests.store.conformance", "tests.store.secrets_conformance")
