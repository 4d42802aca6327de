"""What an installed user gets: the wheel and the sdist, built from this tree without any network."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections import Counter
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

import kitaru

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = kitaru.__version__


class Built(NamedTuple):
    wheel: Path
    sdist: Path


def run(*command: str | Path) -> str:
    """The output of a command that must succeed, run away from the source tree."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(sys.prefix))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, and the wheel built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    return Built(next(out.glob("*.whl")), next(out.glob("*.tar.gz")))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a fresh environment: the wheel itself, its dependencies borrowed from this one."""
    home = tmp_path_factory.mktemp("fresh")
    venv.create(home, symlinks=True, with_pip=False)
    commands = home / "bin"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        commands / "python",
        "install",
        "-qq",
        "--no-deps",
        "--no-index",
        built.wheel,
    )
    site = Path(run(commands / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A path file of a borrowed folder is not read, so an editable install there cannot stand in for the wheel.
    site.joinpath("borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return commands


def test_the_wheel_holds_the_package_and_no_stray_name(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = [PurePosixPath(name) for name in wheel.namelist()]
    assert {name.parts[0] for name in names} == {"kitaru", f"kitaru-{VERSION}.dist-info"}
    inside = {name.parts[1] for name in names if name.parts[0] == "kitaru"}
    assert inside == {"runtime", "adapters", "store", "cli", "__init__.py", "errors.py", "py.typed"}


def test_the_wheel_holds_every_module_of_the_tree_once(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        found = Counter(name for name in wheel.namelist() if name.startswith("kitaru/"))
    source = ROOT / "src"
    files = [
        path for path in source.joinpath("kitaru").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    assert found == Counter(path.relative_to(source).as_posix() for path in files)


def test_the_sdist_does_not_follow_the_links_at_the_top_level(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        paths = [PurePosixPath(member.name) for member in sdist.getmembers()]
    assert max(Counter(paths).values()) == 1
    assert {path.parts[0] for path in paths} == {f"kitaru-{VERSION}"}
    top = {path.parts[1] for path in paths}
    assert top >= {"src", "tests", "docs", "LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"}
    assert top.isdisjoint({"runtime", "adapters", "store", "cli", ".venv", ".git"})


def test_the_metadata_says_what_a_package_index_shows(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        text = wheel.read(f"kitaru-{VERSION}.dist-info/METADATA").decode()
        assert f"kitaru-{VERSION}.dist-info/licenses/LICENSE" in wheel.namelist()
    metadata = Parser().parsestr(text)
    assert metadata["Name"] == "kitaru"
    assert metadata["Version"] == VERSION
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])


def test_every_runtime_dependency_has_a_lower_bound() -> None:
    unbound = [requirement for requirement in PROJECT["dependencies"] if not requirement.partition(">=")[2]]
    assert unbound == []


def test_constraints_pin_every_dependency_and_name_no_place() -> None:
    lines = [
        line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    ]
    pinned = [line.split("==") for line in lines]
    assert all(len(pin) == 2 for pin in pinned), "every line is name==version"
    assert {requirement.partition(">=")[0] for requirement in PROJECT["dependencies"]} <= {
        name.replace("_", "-").lower() for name, _ in pinned
    }


def test_an_installed_wheel_imports_from_its_own_place(installed: Path) -> None:
    place = run(installed / "python", "-c", "import kitaru; print(kitaru.__file__)").strip()
    assert Path(place).is_relative_to(installed.parent)


def test_an_installed_wheel_gives_the_command(installed: Path) -> None:
    assert VERSION in run(installed / "kitaru", "version")


def test_an_installed_wheel_is_typed(installed: Path) -> None:
    code = "from importlib.resources import files; print(files('kitaru').joinpath('py.typed').is_file())"
    assert run(installed / "python", "-c", code).strip() == "True"
