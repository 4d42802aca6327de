"""The key that secrets are sealed under: `KITARU_SECRET_KEY`, else the OS keyring, else a file only its user reads.

The sources may hold several keys, newest first: values are sealed under the first one, and opened with any. So a key
can be replaced while others still use the former one, and a crash in the middle loses nothing.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kitaru.errors import SecretKeyError
from kitaru.runtime.log import log
from kitaru.runtime.stores import home
from kitaru.store import files
from kitaru.store.sealing import KEY_BYTES, Sealer, key_from_text, new_key

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

VARIABLE: Final = "KITARU_SECRET_KEY"
FORMER: Final = "KITARU_SECRET_KEY_FORMER"
FILE: Final = "secret.key"

_SERVICE: Final = "kitaru"
_USER: Final = "secret-key"
_KEYRING: Final = "the OS keyring"
_LOCK_PATIENCE: Final = 10.0


class Keys(NamedTuple):
    """The keys at hand, the one to seal with first, and what was found where, for an error to say."""

    sealers: tuple[Sealer, ...]
    looked: tuple[str, ...]


def keys_at_hand(store: bytes) -> Keys:
    """All keys that this process can find; none is made.

    Args:
        store: The store's identity.

    Raises:
        SecretKeyError: The key file is damaged, cannot be read, or belongs to somebody else.
    """
    looked: list[str] = []
    found = [*_from_variable(VARIABLE, store)]
    looked.append(f"{VARIABLE} ({_ids(found) or 'not set'})")
    kept, state = _in_keyring()
    path = key_file()
    others = (
        (_KEYRING, [Sealer(key, _KEYRING) for key in kept], state),
        (f"the key file {path}", [Sealer(key, f"the key file {path}") for key in _in_file(path)], "missing"),
        (FORMER, _from_variable(FORMER, store), ""),
    )
    for source, mine, otherwise in others:
        found += mine
        if mine or otherwise:
            looked.append(f"{source} ({_ids(mine) or otherwise})")
    unique: dict[bytes, Sealer] = {}
    for sealer in found:
        unique.setdefault(sealer.id, sealer)
    return Keys(tuple(unique.values()), tuple(looked))


def make_key(store: bytes) -> Keys:
    """The keys at hand, after making one where there was none. Two processes that do so at once make one key."""
    with _locked():
        keys = keys_at_hand(store)
        if not keys.sealers:
            _add(new_key())
            keys = keys_at_hand(store)
    return keys


@contextlib.contextmanager
def renewed(store: bytes) -> Iterator[Keys]:
    """The keys at hand with a fresh one first, while nobody else renews.

    Where `KITARU_SECRET_KEY` is set, that is the fresh one: the user makes it. The former ones stay where they were.
    """
    with _locked():
        if not os.environ.get(VARIABLE, "").strip():
            _add(new_key())
        yield keys_at_hand(store)


def key_file() -> Path:
    """Where the key file is, or would be."""
    return home() / FILE


def _from_variable(name: str, store: bytes) -> list[Sealer]:
    text = os.environ.get(name, "").strip()
    # A passphrase may hold commas, but former keys have to be told apart.
    parts = text.split(",") if name == FORMER else [text]
    return [Sealer(key_from_text(part, store), name) for part in parts if part.strip()]


def _ids(sealers: list[Sealer]) -> str:
    return ", ".join(f"key {sealer.id.hex()}" for sealer in sealers)


def _add(key: bytes) -> None:
    """Put a key first: into the keyring where one is usable and no file is in use, else into the file."""
    path = key_file()
    backend = _keyring()
    if backend is not None and not path.exists():
        kept, _ = _in_keyring()
        text = " ".join(base64.b64encode(one).decode() for one in (key, *kept))
        # A keyring that is locked or gone is no reason to refuse; the file will do.
        with contextlib.suppress(Exception):
            backend.set_password(_SERVICE, _USER, text)
            if key in _in_keyring()[0]:
                return
    _write_file(path, [key, *_in_file(path)])


# -- the keyring -------------------------------------------------------------------------------------------------------


def _keyring() -> KeyringBackend | None:
    """The OS keyring, where `keyring` is installed and has one that keeps what it is given."""
    try:
        import keyring
    except ImportError:
        return None
    try:
        backend = keyring.get_keyring()
        # Below 1 are those that refuse, forget, or write plain text.
        return backend if float(_priority(backend)) >= 1 else None
    except Exception:  # a backend is a plugin of whatever quality
        return None


def _priority(backend: Any) -> Any:
    return backend.priority


def _in_keyring() -> tuple[list[bytes], str]:
    backend = _keyring()
    if backend is None:
        return [], "none usable"
    try:
        text = backend.get_password(_SERVICE, _USER)
    except Exception as error:  # locked, refused, or its service is gone
        return [], f"cannot be read: {type(error).__name__}"
    if not text:
        return [], "holds none"
    keys = [_plain(part) for part in text.split()]
    return [key for key in keys if key is not None], "holds something else"


# -- the file ----------------------------------------------------------------------------------------------------------


def _in_file(path: Path) -> list[bytes]:
    try:
        _keep_private(path, path.stat())
        text = files.read_file(path, 1 << 16).decode("ascii", "replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SecretKeyError(
            f"the key file {path} cannot be read: {error.strerror}", hint=f"Make it readable, or set {VARIABLE}."
        ) from None
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        key = _plain(line.strip())
        if key is None:
            raise SecretKeyError(
                f"{path}:{number} is no key", hint="Restore the file from a copy; secrets cannot be read without it."
            )
        keys.append(key)
    return keys


def _keep_private(path: Path, found: os.stat_result) -> None:
    if os.name != "posix":
        return
    if found.st_uid not in (os.getuid(), 0):
        raise SecretKeyError(
            f"the key file {path} belongs to another user (uid {found.st_uid})",
            hint="Use a KITARU_HOME of your own, or set KITARU_SECRET_KEY.",
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        try:
            path.chmod(mode & 0o700)
        except OSError:
            raise SecretKeyError(
                f"the key file {path} is open to others (mode {mode:04o}) and cannot be closed to them",
                hint=f"chmod 600 {path}",
            ) from None
        log().warning(
            "secrets.key_file_was_open", path=str(path), mode=f"{mode:04o}",
            why="others may have read it; it is closed to them now. Replace the key: `kitaru secrets rekey`",
        )  # fmt: skip


def _write_file(path: Path, keys: list[bytes]) -> None:
    """Replace the file whole; a reader finds the former one or this one."""
    lines = ["# The keys of Kitaru's secrets, newest first. Without them nothing that was stored can be read."]
    lines += [base64.b64encode(key).decode() for key in keys]
    try:
        files.write_file(path, "\n".join(lines) + "\n")
    except OSError as error:
        raise SecretKeyError(
            f"the key file {path} cannot be written: {error.strerror}",
            hint=f"Set {VARIABLE}, or KITARU_HOME to a folder that can be written.",
        ) from None


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    from kitaru.store.filelock import FileLock

    # The real file, so that two homes that share it by a link share its lock.
    path = key_file().resolve()
    folder = path.parent
    try:
        files.make_folder(folder)
        lock = FileLock(f"{path}.lock", _LOCK_PATIENCE)
    except OSError as error:
        raise SecretKeyError(
            f"no key can be kept in {folder}: {error.strerror}", hint=f"Set {VARIABLE}, or KITARU_HOME."
        ) from None
    try:
        with lock:
            yield
    finally:
        lock.close()


def _plain(text: str) -> bytes | None:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_BYTES else None
