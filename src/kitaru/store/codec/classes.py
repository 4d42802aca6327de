"""Which class a recorded name means. Nothing is ever imported to find out."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import inspect
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from kitaru.errors import DecodeError, UsageError

# Both live on modules, so that they come and go with what they speak of.
_STANDS_FOR_MAIN = "__kitaru_stands_for_main__"
STAND_INS = "__kitaru_stand_ins__"

_MOST_UNNAMED: Final = 4096
_unnamed: dict[tuple[str, str], type] = {}
_lock = threading.Lock()


def register_main_alias(module_name: str) -> None:
    """Declare that a loaded module is the script that once ran as `__main__`.

    From then on its classes are written with the module `__main__`, and `__main__` is looked up in it, too.

    Args:
        module_name: Its name in `sys.modules`.

    Raises:
        UsageError: No such module is loaded.
    """
    module = sys.modules.get(module_name)
    if module is None:
        raise UsageError(f"no module {module_name!r} is loaded", hint="Put it into sys.modules before registering it.")
    if module is sys.modules.get("__main__"):
        return
    setattr(module, _STANDS_FOR_MAIN, True)
    main = sys.modules["__main__"]
    names: list[str] = main.__dict__.setdefault(STAND_INS, [])
    if module_name not in names:
        names.append(module_name)


def portable_module(name: str) -> str:
    """The module name to record for `name`: `__main__` for a module that stands for it, else `name` itself."""
    module = sys.modules.get(name)
    if module is not None and _STANDS_FOR_MAIN in module.__dict__:
        return "__main__"
    return name


def class_name(cls: type) -> tuple[str, str]:
    """The module and name to record for a class.

    One that its module does not hold under that name, such as a class made inside a function, is remembered: this
    process reads back what it wrote. Another one has to be told of the class by an annotation.
    """
    name = portable_module(cls.__module__), cls.__qualname__
    if not _is_named(cls):
        with _lock:
            _unnamed.pop(name, None)
            _unnamed[name] = cls
            if len(_unnamed) > _MOST_UNNAMED:
                del _unnamed[next(iter(_unnamed))]
    return name


@functools.lru_cache(maxsize=4096)
def _is_named(cls: type) -> bool:
    return _in_module(cls.__module__, cls.__qualname__) is cls


def pydantic_base() -> type | None:
    """Pydantic's BaseModel, if pydantic is loaded; it is never imported for this."""
    main = sys.modules.get("pydantic.main")
    base = getattr(main, "BaseModel", None)
    return base if isinstance(base, type) else None


def is_namedtuple(cls: type) -> bool:
    """Whether it was made by NamedTuple or namedtuple."""
    return issubclass(cls, tuple) and isinstance(getattr(cls, "_fields", None), tuple) and hasattr(cls, "_make")


def is_pydantic(cls: type) -> bool:
    """Whether it is a pydantic model."""
    base = pydantic_base()
    return base is not None and issubclass(cls, base) and cls is not base


def is_record(cls: type) -> bool:
    """Whether instances are recorded as named fields."""
    if issubclass(cls, (BaseException, enum.Enum)):
        return False
    return (
        (dataclasses.is_dataclass(cls) and not issubclass(cls, (str, bytes, int, float, list, dict, set, frozenset)))
        or (issubclass(cls, msgspec.Struct) and cls is not msgspec.Struct)
        or is_namedtuple(cls)
        or is_pydantic(cls)
    )


def is_enum(cls: type) -> bool:
    """Whether it is an enumeration."""
    return issubclass(cls, enum.Enum)


def is_exception(cls: type) -> bool:
    """Whether it is an exception."""
    return issubclass(cls, BaseException)


class Classes:
    """Finds classes by their recorded names: among the annotated ones, in the given module, in what is loaded.

    Args:
        annotations: Types whose classes count first, with all they name and all their subclasses.
        module: Name of the module to look into next: the flow's own.
    """

    __slots__ = ("_annotated", "_annotations", "_found", "_module")

    def __init__(self, annotations: Sequence[object], module: str) -> None:
        self._annotations = annotations
        self._module = module
        self._annotated: list[type] | None = None
        self._found: dict[tuple[str, str, Callable[[type], bool]], type] = {}

    def find(self, module: str, qualname: str, accept: Callable[[type], bool]) -> type:
        """The class recorded as `module`, `qualname`.

        Raises:
            DecodeError: None that `accept` takes is loaded.
        """
        key = (module, qualname, accept)
        known = self._found.get(key)
        if known is not None:
            return known
        cls = self._find(module, qualname, accept)
        if cls is None:
            # Not kept: the function that made it may make another one.
            unnamed = _unnamed.get((module, qualname))
            if unnamed is not None and accept(unnamed):
                return unnamed
            raise DecodeError(
                f"the class {qualname} of module {module} was recorded, but no such class is loaded here",
                hint="Define it at the top of its module, or name it in the return annotation."
                if "<locals>" in qualname
                else f"Import {module} before reading it, or name {qualname} in the return annotation.",
            )
        self._found[key] = cls
        return cls

    def _find(self, module: str, qualname: str, accept: Callable[[type], bool]) -> type | None:
        if self._annotated is None:
            self._annotated = named_classes(self._annotations)
        moved = None
        for cls in _with_subclasses(self._annotated):
            if cls.__qualname__ == qualname and accept(cls):
                if portable_module(cls.__module__) == module or cls.__module__ == module:
                    return cls
                # By the bare name only where the annotation says so itself: an heir of that name may be another's.
                if moved is None and cls in self._annotated:
                    moved = cls
        for name in self._places(module):
            found = _in_module(name, qualname)
            if found is not None and accept(found):
                return found
        if moved is not None:
            return moved
        # A class that was moved to the flow's module, or a generic pydantic model that was not parametrised here.
        found = _in_module(self._module, qualname)
        if found is None and "[" in qualname:
            return self._find(module, qualname.partition("[")[0], accept)
        return found if found is not None and accept(found) else None

    def _places(self, module: str) -> Iterator[str]:
        if self._module and portable_module(self._module) == module:
            yield self._module
        main = sys.modules.get("__main__")
        if module == "__main__" and main is not None:
            yield from reversed(main.__dict__.get(STAND_INS, ()))
        yield module
        if main is not None and module not in sys.modules and _is_running_as_main(main, module):
            yield "__main__"


def _is_running_as_main(main: types.ModuleType, module: str) -> bool:
    """Whether `module`, under which something was recorded, is what this process runs as its script."""
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return bool(spec.name == module)
    file = getattr(main, "__file__", None)
    return isinstance(file, str) and Path(file).stem == module


def _in_module(name: str, qualname: str) -> type | None:
    found: object = sys.modules.get(name)
    if found is None:
        return None
    generic = qualname.partition("[")[0]
    # Through __dict__, because a module's or metaclass's __getattr__ may import or run anything.
    for part in generic.split("."):
        found = getattr(found, "__dict__", {}).get(part)
        if found is None:
            return None
    if not isinstance(found, type):
        return None
    if generic != qualname:
        return next((cls for cls in _with_subclasses([found]) if cls.__qualname__ == qualname), None)
    return found


def _with_subclasses(classes: Sequence[type]) -> Iterator[type]:
    """The classes, then their subclasses, level by level."""
    level = list(classes)
    seen: set[type] = set()
    while level:
        following: list[type] = []
        for cls in level:
            if cls not in seen:
                seen.add(cls)
                yield cls
                following.extend(type.__subclasses__(cls))
        level = following


def named_classes(annotations: Sequence[object]) -> list[type]:
    """Every class named anywhere in the annotations: in generics, unions, aliases, and fields of records."""
    stack: list[object] = list(reversed(annotations))
    seen: dict[int, object] = {}
    found: list[type] = []
    while stack:
        note = stack.pop()
        if id(note) in seen:
            continue
        seen[id(note)] = note
        if isinstance(note, (list, tuple)):
            stack.extend(reversed(note))
            continue
        origin = typing.get_origin(note)
        if origin is typing.Literal:
            stack.extend(type(arg) for arg in typing.get_args(note) if isinstance(arg, enum.Enum))
            continue
        if isinstance(note, type) and origin is None:
            if note.__module__ != "builtins":
                found.append(note)
                if is_record(note) or typing.is_typeddict(note):
                    stack.extend(_field_types(note))
                for base in note.__dict__.get("__orig_bases__", ()):
                    stack.extend(typing.get_args(base))
            continue
        stack.extend(reversed(typing.get_args(note)))
        stack.append(origin)
        if isinstance(note, typing.TypeVar):
            stack.extend((note.__bound__, *note.__constraints__))
        elif isinstance(note, typing.NewType):
            stack.append(note.__supertype__)
        else:
            stack.append(_alias_value(note))
    return found


def _alias_value(note: object) -> object:
    """What a `type X = ...` statement stands for."""
    if type(note).__name__ != "TypeAliasType":
        return None
    try:
        return getattr(note, "__value__", None)
    except NameError:
        return None


def _field_types(cls: type) -> list[object]:
    try:
        return list(typing.get_type_hints(cls, include_extras=True).values())
    except Exception:  # a name that only type checkers see; take the fields that do resolve
        return [note for base in cls.__mro__ if base is not object for note in _own_field_types(base)]


def _own_field_types(cls: type) -> Iterator[object]:
    for note in inspect.get_annotations(cls).values():
        if isinstance(note, str):
            # Each by itself, so that one name missing at run time does not hide the others.
            lone = type("Lone", (), {"__annotations__": {"it": note}, "__module__": cls.__module__})
            with contextlib.suppress(Exception):
                yield typing.get_type_hints(lone, localns=dict(vars(cls)), include_extras=True)["it"]
        else:
            yield note
