"""What to say of a value that cannot be recorded."""

from __future__ import annotations

import collections
import inspect
import json
import sys
import types
from collections.abc import Iterator
from typing import Any

from kitaru.errors import EncodeError
from kitaru.store.codec.classes import portable_module
from kitaru.store.codec.codes import SCALARS
from kitaru.store.codec.records import taker


class UnrecordableError(Exception):
    """Stops the encoding; gathers the path to the culprit, innermost part first, on its way up."""

    def __init__(self, what: str, way_out: str, cause: BaseException | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.way_out = way_out
        self.cause = cause
        self.path: list[str] = []


def short(key: object) -> str:
    """A map's key, for a path: short, and in the quotes that JSON has."""
    if type(key) is str:
        text = json.dumps(key, ensure_ascii=False)
    else:
        text = repr(key) if type(key) in SCALARS else f"<{type(key).__qualname__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def type_name(cls: type) -> str:
    """A class's full name, without `builtins` or the script that it is defined in."""
    module = portable_module(cls.__module__)
    return cls.__qualname__ if module in ("builtins", "__main__") else f"{module}.{cls.__qualname__}"


def describe(value: object) -> str:
    """What the value is, as the rest of a sentence."""
    if isinstance(value, type):
        return f"is the class {type_name(value)}"
    if isinstance(value, types.ModuleType):
        return f"is the module {value.__name__}"
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
        return f"is the function {value.__qualname__}"
    name = type_name(type(value))
    return f"is {'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def way_out(value: object) -> str:
    """What to do instead of recording it."""
    general = "Return plain data or a dataclass, or keep an input out of the record with ignore=[...]."
    if inspect.isawaitable(value):
        return "Await it first."
    if isinstance(value, Iterator):
        return "Convert it with list(...)."
    if isinstance(value, memoryview):
        return "Convert it with bytes(...)."
    for base in (str, bytes, int, float, list, dict, tuple, set, frozenset):
        if isinstance(value, base):
            return f"Only {base.__name__} itself is recorded: convert it with {base.__name__}(...)."
    if hasattr(type(value), "tolist"):
        return "Convert it with .tolist()."
    if "<locals>" not in type(value).__qualname__ and type(value).__module__ in sys.modules and _is_plain_class(value):
        return f"Make {type(value).__qualname__} a dataclass, or {general[0].lower()}{general[1:]}"
    return general


def _is_plain_class(value: object) -> bool:
    """Whether its class is one of the user's own rather than a library's."""
    file = getattr(sys.modules.get(type(value).__module__), "__file__", None)
    return isinstance(file, str) and "site-packages" not in file and not file.startswith(sys.base_prefix)


def too_deep(value: object, root: str) -> EncodeError:
    """The error for a value that exhausted the stack: it contains itself, or it is deep."""
    path = _cycle(value)
    if path is not None:
        return EncodeError(
            f"{root}{path} contains itself, which cannot be recorded", hint="Refer to the outer object by a name or id."
        )
    return EncodeError(
        f"{root} is nested too deeply to be recorded", hint="Return a flat list with parent ids instead of a deep tree."
    )


def _cycle(value: object) -> str | None:
    """The path of a container that contains itself, found without recursion."""
    open_ids: set[int] = {id(value)}
    stack: list[tuple[object, str, Iterator[tuple[str, object]]]] = [(value, "", _children(value))]
    done: set[int] = set()
    while stack:
        current, _, children = stack[-1]
        step = next(children, None)
        if step is None:
            stack.pop()
            open_ids.discard(id(current))
            done.add(id(current))
            continue
        label, child = step
        if id(child) in open_ids:
            depth = next(index for index, (owner, _, _) in enumerate(stack) if owner is child)
            return "".join(part for _, part, _ in stack[: depth + 1])
        if type(child) not in SCALARS and id(child) not in done:
            open_ids.add(id(child))
            stack.append((child, label, _children(child)))
    return None


def _children(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        return ((f"[{short(key)}]", item) for key, item in value.items())
    if isinstance(value, (list, tuple, collections.deque)):
        return ((f"[{index}]", item) for index, item in enumerate(value))
    cls: Any = type(value)
    take = taker(cls)
    if take is not None:
        return ((f".{name}", item) for name, item in take(value)[0].items())
    return iter(())
