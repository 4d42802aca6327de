from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kitaru.runtime.code.digest

FLOWS = """
import contextlib
import functools
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple


class Tone(Enum):
    DRY = "dry"


@dataclass(frozen=True)
class Settings:
    size: int = 3

    def twice(self):
        return self.size * 2


class Pair(NamedTuple):
    one: str = "a"


@contextlib.contextmanager
def opened():
    yield f"{1:>{2}}" f"a" "b" f"{3:}"


@functools.lru_cache
def fast(x):
    return [y for y in x if (z := y)]


def outer(function):
    @functools.wraps(function)
    def inner(*a):
        return function(*a)
    return inner


@outer
def wrapped(x):
    return json.dumps(x)


class Agent:
    def go(self):
        return super().__init__()

    @property
    def half(self):
        return self.go()

    @functools.cached_property
    def whole(self):
        return 1


def step(x, tone=None):
    from late import late
    with opened() as c:
        return Settings().twice(), Tone.DRY, Pair("1"), fast(x), wrapped(x), Agent().half, late(c), Path(x), lambda: 1
"""

LATE = 'VALUE = {"a": [1, 2.0, f"{1}"]}\n\n\ndef late(c):\n    return VALUE[c]\n'

# A bare interpreter lacks what the rest of the package imports.
SCRIPT = """
import sys, types
bare = types.ModuleType("kitaru")
bare.__path__ = [sys.argv[1]]
sys.modules["kitaru"] = bare
sys.path.insert(0, sys.argv[2])
import flows
from kitaru.runtime.code.digest import code_of
print(code_of(flows.step).digest.hex())
"""


def _digest(python: str, folder: Path, seed: int) -> str:
    package = Path(kitaru.runtime.code.digest.__file__).parents[2]
    command = [python, "-S", "-c", SCRIPT, str(package), str(folder)]
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "late.py").write_text(LATE)
    return tmp_path


def test_the_digest_does_not_depend_on_the_hash_seed(project: Path) -> None:
    first = _digest(sys.executable, project, 1)
    assert len(first) == 32
    assert _digest(sys.executable, project, 2) == first


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_version_gives_the_same_digest(project: Path, version: str) -> None:
    named = [path for path in os.environ.get("KITARU_OTHER_PYTHONS", "").split(os.pathsep) if path]
    found = [*named, shutil.which(f"python{version}") or ""]
    found += [str(path) for path in sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))]
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    for python in filter(None, found):
        done = subprocess.run([python, "-S", "-c", show], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            break
    else:
        pytest.skip(f"no Python {version} here; name one in KITARU_OTHER_PYTHONS")
    assert _digest(python, project, 1) == _digest(sys.executable, project, 1) != ""
