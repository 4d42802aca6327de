"""The walk behind the code digest: from a function to everything of the project that it names."""

from __future__ import annotations

import ast
import functools
import sys
import types
from collections.abc import Mapping, Sequence
from enum import EnumMeta
from hashlib import blake2b
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import NamedTuple

from kitaru.runtime.code.graph import DEEPEST, Entry, Graph, Target
from kitaru.runtime.code.objects import (
    MUTABLE,
    cells_of,
    class_cell,
    class_namespace,
    classes_in,
    code_in,
    defaults,
    durable_function,
    encodable,
    held_by,
    is_project_class,
    is_project_function,
    is_static,
    is_unreadable,
    name_of,
    outside,
    owner_of,
    parts_of,
    wrapped_by,
)
from kitaru.runtime.code.sources import (
    Source,
    absolute_name,
    is_project_module,
    module_file,
    origin_of,
    package_of,
)
from kitaru.runtime.code.syntax import FUNCTIONS, Chain, References
from kitaru.runtime.secrets.known import holds_environment_secret

_WRAPPERS = (staticmethod, classmethod, property, functools.cached_property, functools.partialmethod)
_CODE = (type, FunctionType, MethodType, functools.partial, types.BuiltinFunctionType, *_WRAPPERS)
_LONGEST_VALUE = 256


class _Home(NamedTuple):
    """Where a global is given its value."""

    source: Source
    namespace: Mapping[str, object]
    name: str
    nodes: list[ast.stmt]


class Walk(Graph):
    """One walk. `start` fills `entries`, always in the same order for the same code."""

    def start(self, function: object, uses: Sequence[object]) -> None:
        """Walk from a function and what is declared beside it."""
        first = Entry("", "start", [], "", [])
        self.entries.append(first)
        self._strip(function)
        owner: type | None = None
        inner = function.__func__ if isinstance(function, MethodType) else durable_function(function) or function
        if isinstance(function, MethodType):
            owner = function.__self__ if isinstance(function.__self__, type) else type(function.__self__)
        if isinstance(inner, FunctionType):
            first.uses.append(("", self._function(inner, owner or owner_of(inner))))
        else:
            found = self._targets(inner, name_of(inner), owner=owner)
            if not any(isinstance(target, int) for target in found):
                found.append(self.entry((), inner, name_of(inner), "missing"))
            first.uses += [("", target) for target in found]
        for index, use in enumerate(uses):
            first.uses += [(f"uses[{index}]", target) for target in self._targets(use, f"uses[{index}]")]
        while self.todo:
            self.todo.popleft()()

    # What a value leads to

    def _targets(self, value: object, name: str, rest: Chain = (), owner: type | None = None) -> list[Target]:
        """Give where a value leads: entries of the project, or the names of outside things."""
        try:
            return self._dispatch(value, name, rest, owner)
        except Exception:  # some attribute of a user's object raised: what it is made of cannot be told
            return [self.entry((), value, name, "missing")]

    def _dispatch(self, value: object, name: str, rest: Chain, owner: type | None) -> list[Target]:
        if is_unreadable(value):
            return [f"type {type(value).__qualname__}"]
        inner = durable_function(value)
        if inner is not None:
            self._strip(inner)
            own = self._function_targets(value, owner) if is_project_function(value) else []
            return [*own, *self._dispatch(inner, name, (), owner)]
        if isinstance(value, ModuleType):
            return [self._module(value) if is_project_module(value.__name__) else outside(value)]
        if isinstance(value, type):
            return self._class_targets(value, rest)
        if isinstance(value, FunctionType):
            return self._function_targets(value, owner)
        if isinstance(value, MethodType):
            holder = value.__self__
            return self._dispatch(value.__func__, name, (), holder if isinstance(holder, type) else type(holder))
        if isinstance(value, _WRAPPERS):
            return [target for part in parts_of(value) for target in self._dispatch(part, name, (), owner)]
        if isinstance(value, functools.partial):
            found = self._dispatch(value.func, name, (), owner)
            return [*found, self._value([list(value.args), dict(value.keywords)], f"{name}(partial)")]
        if isinstance(value, types.BuiltinFunctionType):
            module = value.__module__ or ""
            return [self.entry((), value, name, "missing") if is_project_module(module) else outside(value)]
        kind = type(value)
        if kind.__module__ in {"types", "typing", "typing_extensions"} and hasattr(value, "__args__"):
            parts = [getattr(value, "__origin__", None), *value.__args__]
            return [target for part in parts if part is not None for target in self._dispatch(part, name, (), None)]
        wrapped = wrapped_by(value)
        if wrapped is not None:
            own_class = [self._class(kind)] if is_project_class(kind) else [outside(value)]
            return [*own_class, *self._dispatch(wrapped, name, (), owner)]
        return [self._value(value, name)]

    def _function_targets(self, value: object, owner: type | None) -> list[Target]:
        assert isinstance(value, FunctionType)
        if is_project_function(value):
            return [self._function(value, owner)]
        # A wrapper from an installed package: what it wraps or holds may be the project's.
        found: list[Target] = [outside(value)]
        for held in held_by(value):
            if is_project_function(held) or (isinstance(held, type) and is_project_class(held)):
                found += self._dispatch(held, name_of(held), (), owner)
        return found

    def _class_targets(self, cls: type, rest: Chain) -> list[Target]:
        if not is_project_class(cls):
            return [outside(cls)]
        if rest and not isinstance(cls, EnumMeta):
            found = self._attribute(cls, rest[0], cls.__mro__)
            if found:
                return found
        return [self._class(cls)]

    def _attribute(self, owner: type, name: str, order: Sequence[type]) -> list[Target]:
        """Give where a class's attribute leads, looked up in `order`; nothing where no class of the project has it."""
        for cls in order:
            namespace = vars(cls)
            if name not in namespace:
                continue
            if not is_project_class(cls):
                return []
            value: object = namespace[name]
            label = f"{cls.__module__}.{cls.__qualname__}.{name}"
            if durable_function(value) is not None or isinstance(value, (FunctionType, *_WRAPPERS)):
                parts = [part for part in parts_of(value) if isinstance(part, FunctionType)]
                if all(not part.__code__.co_filename.startswith("<") or self._nodes(part)[1] for part in parts):
                    return self._targets(value, label, owner=owner)
            elif not isinstance(value, (*MUTABLE, PurePath)) and encodable(value):
                return [self._value(value, label, key=("attribute", id(cls), name))]
            return [self._class(cls)]
        return []

    # Entries

    def _function(self, function: FunctionType, owner: type | None) -> int:
        key = ("function", id(function), id(owner) if owner else 0)
        if key in self.known:
            return self.known[key]
        name = name_of(function)
        source, nodes = self._nodes(function)
        if source is None or not nodes:
            return self.entry(key, function, name, "missing")
        space = function.__globals__
        dropped = self.dropped(source, nodes, space, bare=id(function) in self.bare)
        number = self.code(key, function, name, source, nodes, dropped)

        def follow() -> None:
            if not is_project_function(function):
                return  # an installed function as the start: its body counts, what it names is its package's affair
            cells = cells_of(function)
            uses = self.entries[number].uses
            holder = owner or class_cell(cells)
            for node in nodes:
                refs = source.references(node, dropped)
                self._follow(uses, refs, space, cells, name)
                if holder is not None:
                    self._follow_self(uses, refs, holder, class_cell(cells) or holder, function)
            for parameter, value in defaults(function, nodes):
                uses += [(f"{parameter}=", target) for target in self._targets(value, f"{name}({parameter})")]
            wrapped = function.__dict__.get("__wrapped__")
            if wrapped is not None:
                uses += [("__wrapped__", target) for target in self._targets(wrapped, name, owner=owner)]

        self.todo.append(follow)
        return number

    def _follow_self(
        self, uses: list[tuple[str, Target]], refs: References, owner: type, defining: type, function: FunctionType
    ) -> None:
        order = owner.__mro__
        if not is_static(owner, function):
            for chain in sorted(refs.own):
                if not chain:
                    found: list[Target] = [self._class(owner)] if is_project_class(owner) else []
                else:
                    found = self._attribute(owner, chain[0], order)
                uses += [(".".join(("self", *chain)), target) for target in found]
        after = order[order.index(defining) + 1 :] if defining in order else ()
        for name in sorted(refs.parents):
            uses += [(f"super().{name}", target) for target in self._attribute(owner, name, after)]

    def _class(self, cls: type) -> int:
        key = ("class", id(cls))
        if key in self.known:
            return self.known[key]
        name = f"{cls.__module__}.{cls.__qualname__}"
        functions = [
            part
            for _, value in sorted(vars(cls).items())
            for part in parts_of(value)
            if isinstance(part, FunctionType) and part.__module__ == cls.__module__
        ]
        space = class_namespace(cls, functions)
        source, nodes = self._class_source(cls, space, functions)
        fresh = [part for part in functions if not part.__code__.co_filename.startswith("<")]
        if source is None:
            return self.entry(key, cls, name, "missing")
        if nodes and not source.settled and any(not self._nodes(part)[1] for part in fresh):
            return self.entry(key, cls, name, "missing")
        home = None if nodes else self._home(space, cls.__qualname__, cls)
        if home is not None and home.nodes:
            number = self.known[key] = self._statement(home)
            return number
        dropped = self.dropped(source, nodes, space)
        if nodes:
            number = self.code(key, cls, name, source, nodes, dropped)
        else:
            number = self.entry(key, cls, name, "type", [cls.__qualname__])

        def follow() -> None:
            uses = self.entries[number].uses
            cells = {name: value for part in functions for name, value in cells_of(part).items()}
            cells.pop("__class__", None)
            for node in nodes:
                self._follow(uses, source.references(node, dropped), space, cells, name)
            for base in cls.__bases__:
                if is_project_class(base):
                    uses.append((f"base {base.__qualname__}", self._class(base)))
            for part in fresh:
                origin, own = self._nodes(part)
                inside = origin is source and any(
                    node.lineno <= entry.lineno <= (node.end_lineno or 0) for node in nodes for entry in own
                )
                if not inside and is_project_function(part):
                    uses.append((f"member {part.__name__}", self._function(part, cls)))

        self.todo.append(follow)
        return number

    def _module(self, module: ModuleType) -> int:
        key = ("module", id(module))
        if key in self.known:
            return self.known[key]
        source = self.source(module_file(module.__name__) or "", vars(module))
        return self.whole(key, module.__name__, source)

    def _statement(self, home: _Home) -> int:
        """A global whose value cannot be recorded, or changes as the program runs: by the statements that make it."""
        key = ("statement", id(home.namespace), home.name)
        if key in self.known:
            return self.known[key]
        name = f"{home.namespace.get('__name__', '')}.{home.name}"
        dropped = self.dropped(home.source, home.nodes, home.namespace)
        number = self.code(key, home.namespace, name, home.source, home.nodes, dropped)

        def follow() -> None:
            for node in home.nodes:
                refs = home.source.references(node, dropped)
                self._follow(self.entries[number].uses, refs, home.namespace, {}, name)

        self.todo.append(follow)
        return number

    def _value(self, value: object, name: str, key: tuple[object, ...] = ()) -> int:
        """A constant, by its canonical encoding; code inside it (a table of handlers) is followed."""
        from kitaru.store.codec import canonical

        if key and key in self.known:
            return self.known[key]
        pending: list[tuple[str, object]] = []

        def stand_in(part: object) -> object:
            kind = type(part)
            if isinstance(part, _CODE) or durable_function(part) is not None:
                pending.append((name_of(part), part))
                return ["code", name_of(part).rpartition(".")[2]]
            if is_project_class(kind):
                pending.append((name_of(kind), kind))
            return ["object", kind.__qualname__]

        try:
            data = canonical(value, unknown=stand_in)
        except Exception:  # a cycle, or a value whose own methods fail: its type must do
            data = canonical(["object", type(value).__qualname__])
        # What the environment keeps secret does not become part of the source that is kept.
        plain = len(data) <= _LONGEST_VALUE and not holds_environment_secret(data)
        text = data.hex() if plain else "blake2b:" + blake2b(data, digest_size=16).hexdigest()
        number = self.entry(key, value, name, "value", [text])
        pending += [(name_of(kind), kind) for kind in classes_in(value) if is_project_class(kind)]

        def follow() -> None:
            seen: set[int] = set()
            for label, part in sorted(pending, key=lambda pair: pair[0]):
                if id(part) not in seen:
                    seen.add(id(part))
                    short = label.rpartition(".")[2]
                    self.entries[number].uses += [(short, target) for target in self._targets(part, label)]

        self.todo.append(follow)
        return number

    # From names to values

    def _follow(
        self,
        uses: list[tuple[str, Target]],
        refs: References,
        space: Mapping[str, object],
        cells: Mapping[str, object],
        name: str,
    ) -> None:
        for chain in sorted(refs.names):
            found = self._resolve(chain, space, cells, refs.changed, name)
            uses += [(".".join(chain), target) for target in found]
        for item in sorted(refs.imports):
            module = absolute_name(item.module, item.level, package_of(space))
            ref = ".".join((item.module, *item.chain))
            uses += [(ref, target) for target in self.static(module, item.chain)]

    def _resolve(
        self,
        chain: Chain,
        space: Mapping[str, object],
        cells: Mapping[str, object],
        changed: frozenset[Chain],
        name: str,
    ) -> list[Target]:
        first, rest = chain[0], chain[1:]
        if first in cells:
            value = cells[first]
            if (first,) in changed and not isinstance(value, _CODE):
                parts = [target for part in code_in(value) for target in self._targets(part, name_of(part))]
                return parts or [f"type {type(value).__qualname__}"]
            return self._targets(value, f"{name}[{first}]", rest)
        if first not in space or (first.startswith("__") and first.endswith("__")):
            return []
        holder, last, value = space, first, space[first]
        while isinstance(value, ModuleType):
            if not is_project_module(value.__name__) or not rest:
                return self._targets(value, value.__name__)
            holder, last, rest = vars(value), rest[0], rest[1:]
            if last not in holder and f"{value.__name__}.{last}" not in sys.modules:
                return []
            value = holder[last] if last in holder else sys.modules[f"{value.__name__}.{last}"]
        if is_unreadable(value):
            return [f"type {type(value).__qualname__}"]
        used = chain[: len(chain) - len(rest)]
        return self._global(holder, last, value, rest, changed=used in changed)

    def _global(
        self, holder: Mapping[str, object], name: str, value: object, rest: Chain, *, changed: bool
    ) -> list[Target]:
        if isinstance(value, _CODE) and not isinstance(value, (MethodType, functools.partial)):
            return self._targets(value, name, rest)
        if durable_function(value) is not None:
            return self._targets(value, name, rest)
        home = self._home(holder, name, value)
        label = f"{home.namespace.get('__name__', '')}.{home.name}" if home else f"{holder.get('__name__', '')}.{name}"
        state = changed or (home is not None and home.name in home.source.state)
        wrapper = wrapped_by(value) is not None
        if wrapper and home is not None and all(isinstance(node, FUNCTIONS) for node in home.nodes):
            return self._targets(value, label, rest)  # a decorated function, whose text says it all
        if not wrapper and not state and not isinstance(value, PurePath) and encodable(value):
            key = ("global", id(home.namespace), home.name) if home else ()
            return [self._value(value, label, key=key)]
        found: list[Target] = [self._statement(home)] if home is not None and home.nodes else []
        if isinstance(value, (list, tuple, dict, set, frozenset)) and not state:
            return found + self._targets(value, label)
        if isinstance(value, (MethodType, functools.partial)) or wrapper:
            return found + self._targets(value, label, rest)
        # The value is state or a live object; what code it is made of or holds (a registry of handlers) still counts.
        for part in code_in(value):
            found += self._targets(part, name_of(part))
        return found or [outside(value) if home is not None and not state else f"type {type(value).__qualname__}"]

    def _home(self, holder: Mapping[str, object], name: str, value: object) -> _Home | None:
        """Find where a global is given its value, through the imports that brought it here."""
        for _ in range(DEEPEST):
            source = self.source(str(holder.get("__file__") or ""), holder)
            if source is None:
                return None
            nodes = source.bindings.get(name, [])
            found = origin_of(source, nodes, name)
            if found is None:
                return _Home(source, holder, name, nodes)
            module, level, original = found
            absolute = absolute_name(module, level, package_of(holder))
            other = vars(sys.modules[absolute]) if absolute in sys.modules else {}
            if not is_project_module(absolute) or other.get(original) is not value:
                return _Home(source, holder, name, [])
            holder, name = other, original
        return None

    # Source

    def _nodes(self, function: FunctionType) -> tuple[Source | None, list[ast.stmt | ast.expr]]:
        code: CodeType = function.__code__
        source = self.source(code.co_filename, function.__globals__)
        return source, source.nodes_of(code) if source is not None else []

    def _class_source(
        self, cls: type, space: Mapping[str, object], functions: list[FunctionType]
    ) -> tuple[Source | None, list[ast.ClassDef]]:
        paths = [str(space.get("__file__") or ""), *(part.__code__.co_filename for part in functions)]
        first: Source | None = None
        for path in dict.fromkeys(paths):
            source = self.source(path, space)
            first = first or source
            if source is not None and (nodes := source.classes_of(cls.__qualname__)):
                return source, nodes
        return first, []

    def _strip(self, function: object) -> None:
        """Let the decorators above a durable function, and above what it wraps, count only by what they made."""
        for _ in range(DEEPEST):
            inner = durable_function(function)
            function = function.__func__ if isinstance(function, MethodType) else function if inner is None else inner
            self.bare.add(id(function))
            self.pins.append(function)
            function = wrapped_by(function)
            if function is None:
                return
