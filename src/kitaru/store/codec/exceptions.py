"""Exceptions to bytes and back. They are rebuilt without their constructors."""

from __future__ import annotations

import contextlib
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec.msgpack import Decoder, Encoder

from kitaru.errors import DecodeError, EncodeError, StepError
from kitaru.store.codec.classes import Classes, is_exception, portable_module
from kitaru.store.codec.decode import Reader
from kitaru.store.codec.encode import encode
from kitaru.store.codec.explain import type_name
from kitaru.store.codec.missing import NotRecorded

_FRAMES: Final = 30
_CHAIN: Final = 10
_HEAP_TYPE: Final = 1 << 9
_TRACEBACK: Final = "__kitaru_traceback__"


_NAMED: Final = 5
"""Members of a group that its description names."""


class Recorded(msgspec.Struct, omit_defaults=True):
    """The recorded form of an exception. Arguments and attributes are encoded one by one, so each can fail alone."""

    module: str
    qualname: str
    message: str
    args: list[bytes] = []
    attributes: dict[str, bytes] = {}
    dropped: dict[str, str] = {}
    notes: list[str] = []
    traceback: str = ""
    cause: Recorded | None = None
    context: Recorded | None = None
    suppress: bool = False
    members: list[Recorded] | None = None
    pydantic: bytes = b""
    no_context: bool = False
    """It was raised from its cause where nothing was being handled; else a missing context is the cause."""

    @property
    def name(self) -> str:
        """The class as `module:qualname`, without the module for a builtin one."""
        return self.qualname if self.module == "builtins" else f"{self.module}:{self.qualname}"


_pack: Final = Encoder().encode
_unpack: Final = Decoder(Recorded).decode


def encode_exception(exc: BaseException, *, bare: bool = False) -> bytes:
    """An exception's recorded form: class, arguments, attributes, notes, traceback text, causes and members.

    Arguments that cannot be recorded are replaced by their text; of attributes that cannot, only the name of their type
    is kept. Never raises for what the exception holds.

    Args:
        exc: What was raised.
        bare: Leave out tracebacks and causes.
    """
    return _pack(_record(exc, _CHAIN, frozenset(), bare=bare))


def mask_exception(data: bytes, mask: Callable[[str], str], leaks: Callable[[bytes], bool]) -> bytes:
    """A recorded exception without what must not be shown: texts masked, arguments as masked text, attributes dropped.

    Args:
        data: What `encode_exception` returned.
        mask: Gives a text without it.
        leaks: Whether encoded data holds any of it.

    Raises:
        DecodeError: The bytes are no recorded exception.
    """
    return _pack(_masked(_read(data), mask, leaks))


def decode_raised(data: bytes, *, module: str = "") -> BaseException:
    """The exception, with its causes, as its own class where that is loaded, else as `StepError`.

    Args:
        data: What `encode_exception` returned.
        module: Name of the module to look into first: the flow's own.

    Raises:
        DecodeError: The bytes are no recorded exception.
    """
    return rebuild(data, Classes((), module))


def decode_exception(data: bytes, *, module: str = "") -> Exception:
    """As `decode_raised`, made an `Exception` for a caller outside the run."""
    return as_exception(decode_raised(data, module=module))


def as_exception(exc: BaseException) -> Exception:
    """The exception itself where it is an `Exception`, else a `StepError` (or a group of such) that names its class:
    a `SystemExit` would end the process of whoever gets it, a `CancelledError` would look like its own."""
    if isinstance(exc, Exception):
        return exc
    plain: Exception
    if isinstance(exc, BaseExceptionGroup):
        plain = ExceptionGroup(exc.message, [as_exception(member) for member in exc.exceptions])
    else:
        cls = type(exc)
        name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}:{cls.__qualname__}"
        plain = StepError(_message(exc) or cls.__qualname__, type_name=name)
    plain.__dict__.update({name: value for name, value in exc.__dict__.items() if name in ("__notes__", _TRACEBACK)})
    plain.__cause__, plain.__context__ = exc.__cause__, exc.__context__
    plain.__suppress_context__ = exc.__suppress_context__
    return plain.with_traceback(exc.__traceback__)


def describe_exception(data: bytes) -> tuple[str, str]:
    """The class's name, as `module:qualname` (a builtin without its module), and the message, for a group with those of
    its members. Needs no class.

    Raises:
        DecodeError: The bytes are no recorded exception.
    """
    recorded = _read(data)
    return recorded.name, _described(recorded)


def _described(recorded: Recorded) -> str:
    if not recorded.members:
        return recorded.message
    inner = [
        f"{one.name.rpartition(':')[2]}: {_described(one)}".removesuffix(": ") for one in recorded.members[:_NAMED]
    ]
    more = len(recorded.members) - len(inner)
    return f"{recorded.message}: {'; '.join(inner)}" + (f"; and {more} more" if more else "")


def format_exception(data: bytes) -> str:
    """The traceback with its causes, the way Python prints it. Needs no class.

    Raises:
        DecodeError: The bytes are no recorded exception.
    """
    return _format(_read(data))


def rebuild(data: bytes, classes: Classes) -> BaseException:
    """As `decode_raised`, finding classes with `classes`."""
    return _rebuild(_read(data), classes)


def _read(data: bytes) -> Recorded:
    try:
        return _unpack(data)
    except (msgspec.DecodeError, RecursionError) as cause:
        raise DecodeError(f"a recorded exception is damaged: {cause}", hint="Run `kitaru verify`.") from cause


def _masked(recorded: Recorded, mask: Callable[[str], str], leaks: Callable[[bytes], bool]) -> Recorded:
    def inner(other: Recorded | None) -> Recorded | None:
        return None if other is None else _masked(other, mask, leaks)

    recorded.message = mask(recorded.message)
    recorded.args = [_masked_argument(item, mask) if leaks(item) else item for item in recorded.args]
    for name in [name for name, item in recorded.attributes.items() if leaks(item) or leaks(name.encode())]:
        del recorded.attributes[name]
        recorded.dropped[mask(name)] = "secret"
    recorded.notes = [mask(note) for note in recorded.notes]
    recorded.traceback = mask(recorded.traceback)
    if leaks(recorded.pydantic):
        recorded.pydantic = b""
    recorded.cause, recorded.context = inner(recorded.cause), inner(recorded.context)
    if recorded.members is not None:
        recorded.members = [_masked(member, mask, leaks) for member in recorded.members]
    return recorded


def _masked_argument(data: bytes, mask: Callable[[str], str]) -> bytes:
    from kitaru.store.codec.display import display

    shown = display(data)
    return encode(mask(shown if isinstance(shown, str) else repr(shown)))


# ---- apart


def _record(exc: BaseException, depth: int, seen: frozenset[int], *, bare: bool) -> Recorded:
    cls = type(exc)
    recorded = Recorded(portable_module(cls.__module__), cls.__qualname__, _message(exc))
    seen |= {id(exc)}

    def inner(other: BaseException | None) -> Recorded | None:
        if other is None or id(other) in seen or depth <= 0:
            return None
        return _record(other, depth - 1, seen, bare=bare)

    if isinstance(exc, BaseExceptionGroup):
        members = [inner(member) for member in exc.exceptions]
        recorded.members = [member for member in members if member is not None]
        recorded.args = [encode(exc.message)]
    else:
        recorded.args = [_argument(item) for item in exc.args]
    recorded.attributes, recorded.dropped = _attributes(exc)
    recorded.notes = [note for note in getattr(exc, "__notes__", None) or () if isinstance(note, str)]
    if type_name(cls) == "pydantic_core._pydantic_core.ValidationError":
        recorded.pydantic = _pydantic_errors(exc)
    if not bare:
        recorded.traceback = _traceback(exc)
        recorded.cause = inner(exc.__cause__)
        if exc.__context__ is not exc.__cause__:
            recorded.context = inner(exc.__context__)
            recorded.no_context = exc.__context__ is None and exc.__cause__ is not None
        recorded.suppress = exc.__suppress_context__
    return recorded


def _message(exc: BaseException) -> str:
    return _text(exc, f"{type(exc).__name__} (its message could not be made)")


def _text(value: object, otherwise: str) -> str:
    try:
        text = str(value)
    except Exception:  # the user's own __str__
        return otherwise
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _argument(value: object) -> bytes:
    try:
        return encode(value)
    except Exception:  # the user's own attributes may raise anything
        return encode(_text(value, f"<{type_name(type(value))}>"))


def _attributes(exc: BaseException) -> tuple[dict[str, bytes], dict[str, str]]:
    kept: dict[str, bytes] = {}
    dropped: dict[str, str] = {}
    for name, value in _state(exc):
        if isinstance(value, NotRecorded):
            dropped[name] = value.type_name
            continue
        try:
            kept[name] = encode(value)
        except Exception:  # EncodeError, or whatever the value's own attributes raise
            dropped[name] = type_name(type(value))
    return kept, dropped


def _state(exc: BaseException) -> Iterator[tuple[str, object]]:
    for cls in type(exc).__mro__:
        if cls is BaseException:
            break
        for name, descriptor in tuple(vars(cls).items()):
            if not isinstance(descriptor, types.MemberDescriptorType) or _is_left_out(cls, name):
                continue
            try:
                value = descriptor.__get__(exc, cls)
            except AttributeError:  # a slot never set
                continue
            # An unset field of a builtin reads as None, but None set there would show in the message.
            if value is not None or cls.__flags__ & _HEAP_TYPE:
                yield name, value
    for name, value in tuple(getattr(exc, "__dict__", {}).items()):
        if not (isinstance(name, str) and name.startswith("__") and name.endswith("__")):
            yield name, value


def _is_left_out(cls: type, name: str) -> bool:
    # The object that lacks an attribute is the program's, not the error's. A group's members are recorded apart.
    return (cls is AttributeError and name == "obj") or cls is BaseExceptionGroup


def _traceback(exc: BaseException) -> str:
    frames = traceback.StackSummary.extract(traceback.walk_tb(exc.__traceback__), limit=-_FRAMES)
    lines = _text("".join(frames.format()), "")
    inner = getattr(exc, _TRACEBACK, "")
    # Where it was raised first: in the process that recorded it, those frames are still the last ones.
    return lines if not isinstance(inner, str) or lines.endswith(inner) else lines + inner


# ---- together


def _rebuild(recorded: Recorded, classes: Classes) -> BaseException:
    exc = _own_class(recorded, classes)
    if exc is None:
        exc = StepError(recorded.message or recorded.qualname, type_name=recorded.name)
    for note in recorded.notes:
        exc.add_note(note)
    if recorded.traceback:
        exc.__dict__[_TRACEBACK] = recorded.traceback
    if recorded.cause is not None:
        exc.__cause__ = _rebuild(recorded.cause, classes)
    if recorded.context is not None:
        exc.__context__ = _rebuild(recorded.context, classes)
    elif not recorded.no_context:
        exc.__context__ = exc.__cause__
    exc.__suppress_context__ = recorded.suppress
    return exc


def _own_class(recorded: Recorded, classes: Classes) -> BaseException | None:
    try:
        cls: type[Any] = classes.find(recorded.module, recorded.qualname, is_exception)
    except DecodeError:
        return None
    read = Reader(classes).read
    try:
        if recorded.pydantic:
            exc = _pydantic_error(cls, read(recorded.pydantic))
        elif issubclass(cls, BaseExceptionGroup):
            members = [_rebuild(member, classes) for member in recorded.members or ()]
            exc = _native(cls).__new__(cls, read(recorded.args[0]), members)
        else:
            args = tuple(_read_or(read, item, "<unreadable>") for item in recorded.args)
            exc = _native(cls).__new__(cls, *args)
            exc.args = args
    except Exception:  # a class that insists on more than its fields: it is told of, not rebuilt
        return None
    if not isinstance(exc, BaseException):
        return None
    for name, item in recorded.attributes.items():
        # Its class may be gone, or it may be read-only now.
        with contextlib.suppress(Exception):
            object.__setattr__(exc, name, read(item))
    for name, was in recorded.dropped.items():
        with contextlib.suppress(Exception):
            object.__setattr__(exc, name, NotRecorded(f"{cls.__name__}.{name}", was))
    if _text(exc, "") == recorded.message:
        return exc
    return _told(exc, recorded.message)


def _native(cls: type[Any]) -> Any:
    """The class in C whose `__new__` makes instances of `cls`; calling it passes by every `__new__` in Python."""
    while cls.__flags__ & _HEAP_TYPE and cls.__base__ is not None:
        cls = cls.__base__
    return cls


def _read_or(read: Callable[[bytes], object], data: bytes, otherwise: object) -> object:
    try:
        return read(data)
    except Exception:  # a class that is gone must not hide the error itself
        return otherwise


def _told(exc: BaseException, message: str) -> BaseException | None:
    """The exception with the message that it had, where it cannot make it any more from what was recorded."""
    cls: Any = type(exc)
    body = {"__str__": lambda _: message, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    try:
        exc.__class__ = type(cls)(cls.__name__, (cls,), body)
    except Exception:  # not made for heirs; still better than nothing if it can be shown at all
        return exc if _text(exc, "") else None
    return exc


# ---- pydantic's own, which has no constructor


def _pydantic_errors(exc: Any) -> bytes:
    try:
        errors = exc.errors(include_url=False)
        for error in errors:
            error["input"] = _encodable(error.get("input"))
            if "ctx" in error:
                error["ctx"] = {name: _encodable(item) for name, item in error["ctx"].items()}
        return encode({"title": exc.title, "errors": errors})
    except Exception:  # without it, the exception comes back as StepError
        return b""


def _encodable(value: object) -> object:
    try:
        encode(value)
    except EncodeError:
        return _text(value, "")
    return value


def _pydantic_error(cls: Any, recorded: dict[str, Any]) -> Any:
    core: Any = sys.modules["pydantic_core"]
    errors = []
    for error in recorded["errors"]:
        line = {name: error[name] for name in ("loc", "input", "ctx", "type") if name in error}
        try:
            cls.from_exception_data(recorded["title"], [line])
        except Exception:  # a kind of error that some validator made up
            template = error["msg"].replace("{", "{{").replace("}", "}}")
            line["type"] = core.PydanticCustomError(error["type"], template, error.get("ctx"))
            line.pop("ctx", None)
        errors.append(line)
    return cls.from_exception_data(recorded["title"], errors)


# ---- text


def _format(recorded: Recorded) -> str:
    parts = []
    if recorded.cause is not None:
        parts += [_format(recorded.cause), "\nThe above exception was the direct cause of the following exception:\n\n"]
    elif recorded.context is not None and not recorded.suppress:
        during = "\nDuring handling of the above exception, another exception occurred:\n\n"
        parts += [_format(recorded.context), during]
    if recorded.traceback:
        parts += ["Traceback (most recent call last):\n", recorded.traceback]
    shown = recorded.name.replace(":", ".")
    parts.append(f"{shown}: {recorded.message}\n" if recorded.message else f"{shown}\n")
    parts += [f"{note}\n" for note in recorded.notes]
    for number, member in enumerate(recorded.members or (), 1):
        body = "".join(f"  | {line}\n" for line in _format(member).splitlines())
        parts.append(f"  +---------------- {number} ----------------\n{body}")
    return "".join(parts)
