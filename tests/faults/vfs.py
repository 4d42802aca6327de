"""A SQLite VFS that fails, kills or records at a chosen operation; needs no compiler and no rights.

It wraps the system's VFS for write, truncate and sync, and becomes the default one of this process until removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

Kind = Literal["write", "truncate", "sync"]
Fault = Callable[[Kind, str, int], int | None]
"""Given the operation, the file and the operation's number: a result code, or None to go on."""

FULL = 13
IOERR_WRITE = 778
IOERR_FSYNC = 1034

_METHODS = [
    "close",
    "read",
    "write",
    "truncate",
    "sync",
    "size",
    "lock",
    "unlock",
    "reserved",
    "control",
    "sector",
    "device",
    "shm_map",
    "shm_lock",
    "shm_barrier",
    "shm_unmap",
    "fetch",
    "unfetch",
]
_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_Open = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _POINTER, _INT, _POINTER)
_Write = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _INT, _LONG)
_Truncate = ctypes.CFUNCTYPE(_INT, _POINTER, _LONG)
_Sync = ctypes.CFUNCTYPE(_INT, _POINTER, _INT)


class _Methods(ctypes.Structure):
    _fields_ = [("version", _INT), *((name, _POINTER) for name in _METHODS)]  # ctypes asks for this


class _Vfs(ctypes.Structure):
    _fields_ = [  # ctypes asks for this
        ("version", _INT),
        ("file_size", _INT),
        ("longest_path", _INT),
        ("next", _POINTER),
        ("name", ctypes.c_char_p),
        ("data", _POINTER),
        ("open", _POINTER),
        *((f"other{number}", _POINTER) for number in range(20)),
    ]


class Operation(NamedTuple):
    """What SQLite asked the system to do with a file. `data` is None for a sync."""

    kind: Kind
    path: str
    offset: int
    data: bytes | None


class FaultVfs:
    """The wrapping VFS.

    Args:
        fault: Decides for each operation.
        record: Keep what was written, for images of a power cut.
    """

    def __init__(self, fault: Fault = lambda kind, path, number: None, *, record: bool = False) -> None:
        self.fault = fault
        self.log: list[Operation] = []
        self.count = 0
        self._record = record
        self._library = ctypes.CDLL(ctypes.util.find_library("sqlite3") or "libsqlite3.so.0")
        self._library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
        self._library.sqlite3_vfs_register.argtypes = [_POINTER, _INT]
        self._library.sqlite3_vfs_unregister.argtypes = [_POINTER]
        self._paths: dict[int, str] = {}
        self._wrapped: dict[int, _Methods] = {}
        self._keep: list[object] = []
        self._base = self._library.sqlite3_vfs_find(None).contents
        self._vfs = _Vfs.from_buffer_copy(self._base)
        self._vfs.name = b"fault"
        self._open = _Open(self._on_open)
        self._real_open = _Open(self._base.open)
        self._vfs.open = ctypes.cast(self._open, _POINTER).value

    @contextlib.contextmanager
    def installed(self) -> Iterator[FaultVfs]:
        """The default VFS for connections made meanwhile; they must be closed before it goes."""
        self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)
        try:
            yield self
        finally:
            self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs))

    def _on_open(self, vfs: int, name: int, file: int, flags: int, out: int) -> int:
        code = int(self._real_open(ctypes.addressof(self._base), name, file, flags, out))
        methods = ctypes.cast(file, ctypes.POINTER(_POINTER))
        at = methods[0]
        if code == 0 and at and name:
            self._paths[file] = ctypes.string_at(name).decode()
            methods[0] = ctypes.addressof(self._wrap(at))
        return code

    def _wrap(self, at: int) -> _Methods:
        if at in self._wrapped:
            return self._wrapped[at]
        methods = _Methods.from_buffer_copy(_Methods.from_address(at))
        write, truncate, sync = _Write(methods.write), _Truncate(methods.truncate), _Sync(methods.sync)

        def on_write(file: int, buffer: int, size: int, offset: int) -> int:
            data = ctypes.string_at(buffer, size) if self._record else b""
            return self._do("write", file, offset, data, lambda: write(file, buffer, size, offset))

        def on_truncate(file: int, size: int) -> int:
            return self._do("truncate", file, size, b"", lambda: truncate(file, size))

        def on_sync(file: int, flags: int) -> int:
            return self._do("sync", file, 0, None, lambda: sync(file, flags))

        functions = (_Write(on_write), _Truncate(on_truncate), _Sync(on_sync))
        methods.write, methods.truncate, methods.sync = (ctypes.cast(each, _POINTER).value for each in functions)
        self._keep.append((functions, write, truncate, sync))
        self._wrapped[at] = methods
        return methods

    def _do(self, kind: Kind, file: int, offset: int, data: bytes | None, act: Callable[[], int]) -> int:
        number = self.count
        self.count += 1
        code = self.fault(kind, self._paths[file], number)
        if code is not None:
            return code
        if self._record:
            self.log.append(Operation(kind, self._paths[file], offset, data))
        return int(act())
