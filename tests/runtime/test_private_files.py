"""What Kitaru writes belongs to one user: folders are 0700 and files 0600, whatever the umask."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import kitaru
from kitaru import flow
from kitaru.runtime.models.alias import Alias
from kitaru.runtime.models.registry import register
from kitaru.runtime.views.transcript import write_heads


@flow
async def tides() -> int:
    return 1


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277, 0o777])
def test_only_this_user_can_enter_and_read_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    monkeypatch.setenv("KITARU_HOME", str(tmp_path / "data" / "kitaru"))
    monkeypatch.delenv("KITARU_STORE", raising=False)
    monkeypatch.delenv("KITARU_SECRET_KEY", raising=False)
    before = os.umask(umask)
    try:
        assert tides.run().wait() == 1
        kitaru.create_secret("creds", {"KEY": "value-of-the-test"})
        register({"fast": Alias(model="test/echo")})
        write_heads(tmp_path / "data" / "heads.json", [])
        found = modes(tmp_path / "data")
    finally:
        os.umask(before)
    names = {path.name for path in found}
    assert names >= {"kitaru.db", "kitaru.db-wal", "kitaru.db-shm", "kitaru.db.owners", "models.json", "heads.json"}
    assert {oct(mode) for path, mode in found.items() if path.is_dir()} == {"0o700"}
    assert {path.name: oct(mode) for path, mode in found.items() if path.is_file() and mode != 0o600} == {}


def modes(folder: Path) -> dict[Path, int]:
    return {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
