"""What the code digest asks of live objects: whose they are, and what they wrap, hold and default to."""

from __future__ import annotations

import ast
import functools
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType, ModuleType

from kitaru.errors import EncodeError
from kitaru.runtime.code.sources import Source, imports_of, is_project_module, is_project_path
from kitaru.runtime.code.syntax import dotted

MUTABLE = (list, dict, set, bytearray)


def durable_function(value: object) -> object | None:
    """Give the user's function behind a flow or checkpoint; None for anything else."""
    if isinstance(value, (type, ModuleType)):
        return None
    try:
        inner: object = getattr(value, "__kitaru_function__", None)
    except Exception:  # a proxy without its object
        return None
    return inner if callable(inner) else None


def wrapped_by(value: object) -> object | None:
    """Give the callable that a wrapper names as what it wraps."""
    try:
        inner: object = getattr(value, "__wrapped__", None)
    except Exception:  # a proxy without its object
        return None
    return inner if callable(inner) else None


def is_unreadable(value: object) -> bool:
    """Whether not even the class can be asked for: a proxy whose object is not there now."""
    try:
        value.__class__  # noqa: B018  # asking is the point
    except Exception:
        return True
    return False


def code_in(value: object, limit: int = 1000) -> list[object]:
    """The project's functions and classes that an object is made of or holds, by name."""
    found: dict[int, object] = {}
    stack: list[object] = [value]
    while stack and limit:
        limit -= 1
        part = stack.pop()
        if isinstance(part, dict):
            stack += list(part.values())
        elif isinstance(part, (list, tuple, set, frozenset)):
            stack += list(part)
        elif is_project_function(part) or durable_function(part) is not None:
            found[id(part)] = part
        else:
            cls = part if isinstance(part, type) else type(part)
            if is_project_class(cls):
                found[id(cls)] = cls
    return sorted(found.values(), key=name_of)


def is_durable(decorator: ast.expr, source: Source, space: Mapping[str, object]) -> bool:
    """Whether a decorator is Kitaru's: by the import of its name, else by what the name holds now."""
    while isinstance(decorator, ast.Call):
        decorator = decorator.func
    chain = dotted(decorator)
    if not chain:
        return False
    for node in source.bindings.get(chain[0], ()):
        for item in imports_of(node, chain):
            if item.level == 0 and item.module.partition(".")[0] == "kitaru":
                return True
    value: object = space.get(chain[0])
    for name in chain[1:]:
        value = vars(value).get(name) if isinstance(value, ModuleType) else None
    if isinstance(value, functools.partial):
        value = value.func
    module = getattr(value, "__module__", None) if value is not None else None
    return isinstance(module, str) and module.partition(".")[0] == "kitaru"


def name_of(value: object) -> str:
    """Give a dotted name for people."""
    inner = durable_function(value) or value
    while isinstance(inner, functools.partial):
        inner = inner.func
    try:
        name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
        module = getattr(inner, "__module__", None)
    except Exception:  # a proxy without its object
        return type(inner).__qualname__
    return f"{module}.{name}" if isinstance(module, str) else str(name)


def is_project_function(value: object) -> bool:
    """Whether a value is a Python function of the project."""
    if not isinstance(value, FunctionType):
        return False
    path = value.__code__.co_filename
    if path.startswith("<") and value.__module__ in sys.modules:
        return is_project_path(path) and is_project_module(value.__module__)
    return is_project_path(path)


def is_project_class(cls: type) -> bool:
    """Whether a class is the project's."""
    if cls.__module__ in sys.modules:
        return is_project_module(cls.__module__)
    return any(is_project_function(part) for value in list(vars(cls).values()) for part in parts_of(value))


def parts_of(value: object) -> list[object]:
    """The functions within a descriptor."""
    if isinstance(value, property):
        return [part for part in (value.fget, value.fset, value.fdel) if part is not None]
    if isinstance(value, (functools.cached_property, functools.partialmethod)):
        return [value.func]
    if isinstance(value, (staticmethod, classmethod)):
        return [value.__func__]
    return [durable_function(value) or value]


def held_by(function: FunctionType) -> Iterator[object]:
    """What a wrapper from elsewhere wraps or holds."""
    for _, value in sorted({**cells_of(function), **function.__dict__}.items()):
        yield value
        if isinstance(value, (dict, types.MappingProxyType)):
            yield from list(value.values())


def cells_of(function: FunctionType) -> dict[str, object]:
    """Give a function's closure by name, without the cells that hold nothing yet."""
    found: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not yet given a value
            continue
    return found


def class_cell(cells: Mapping[str, object]) -> type | None:
    """Give the class whose body a method stands in, where it asks for it."""
    cls = cells.get("__class__")
    return cls if isinstance(cls, type) else None


def owner_of(function: FunctionType) -> type | None:
    """Find the class of a plain method by its qualified name."""
    *path, name = function.__qualname__.split(".")
    value: object = function.__globals__.get(path[0]) if path else None
    for part in path[1:]:
        value = vars(value).get(part) if isinstance(value, type) else None
    return value if isinstance(value, type) and name in vars(value) else None


def is_static(owner: type, function: FunctionType) -> bool:
    """Whether a function is a class's static method: its first parameter is no instance."""
    for cls in owner.__mro__:
        value = vars(cls).get(function.__name__)
        if isinstance(value, staticmethod):
            return value.__func__ is function or durable_function(value.__func__) is function
    return False


def class_namespace(cls: type, functions: list[FunctionType]) -> Mapping[str, object]:
    """Give the globals that a class's body was run with."""
    module = sys.modules.get(cls.__module__)
    if module is not None:
        return vars(module)
    return functions[0].__globals__ if functions else {}


def defaults(function: FunctionType, nodes: Sequence[ast.AST]) -> list[tuple[str, object]]:
    """The defaults that the text does not show: neither literals nor what may be changed in place."""
    values = function.__defaults__ or ()
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    pairs: list[tuple[str, object]] = list(zip(names[len(names) - len(values) :], values, strict=False))
    shown: set[str] = set()
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            args = node.args
            positional = [*args.posonlyargs, *args.args]
            given = zip(positional[len(positional) - len(args.defaults) :], args.defaults, strict=False)
            named = zip(args.kwonlyargs, args.kw_defaults, strict=False)
            shown |= {arg.arg for arg, value in (*given, *named) if isinstance(value, ast.Constant)}
    pairs += sorted((function.__kwdefaults__ or {}).items())
    return [(name, value) for name, value in pairs if name not in shown and not isinstance(value, MUTABLE)]


def encodable(value: object) -> bool:
    """Whether a value is plain enough to be a constant."""
    from kitaru.store.codec import canonical

    try:
        canonical(value)
    except EncodeError:
        return False
    except Exception:  # a user's own method failed
        return False
    return True


def classes_in(value: object, limit: int = 1000) -> list[type]:
    """The classes of the objects in plain containers."""
    found: dict[type, None] = {}
    stack = [value]
    while stack and limit:
        limit -= 1
        part = stack.pop()
        if isinstance(part, dict):
            stack += [*part.keys(), *part.values()]
        elif type(part) in {list, tuple, set, frozenset}:
            stack += list(part)  # type: ignore[call-overload]  # the exact type says that it is iterable
        elif type(part) not in {str, int, float, bool, bytes, type(None)}:
            found[type(part)] = None
    return list(found)


def outside(value: object) -> str:
    """Name something outside the project by its package: finer names are the package's own affair."""
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    if not isinstance(module, str):
        module = type(value).__module__
    return f"package {module.partition('.')[0].lstrip('_')}"
