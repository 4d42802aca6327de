"""The entries of a code digest, and those of them that source alone tells: imports made inside functions."""

from __future__ import annotations

import ast
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kitaru.runtime.code.objects import is_durable
from kitaru.runtime.code.sources import Source, absolute_name, find_module, imports_of, load, package_of_file
from kitaru.runtime.code.syntax import Chain, References

DEEPEST = 20
"""How many re-exports or wrappers are followed in one go."""

Target = int | str
"""An entry's number, or the name of something outside the project."""


@dataclass(slots=True)
class Entry:
    """One thing that an outcome depends on.

    Attributes:
        name: Dotted, for people; it does not count.
        kind: `code` (texts of source), `module` (one whole text), `value` (an encoded constant), `type` (a type's name
            alone), `missing` (no source), or `start`.
        texts: Source or value.
        normal: The normal form of the texts, which counts.
        uses: What it names, each with the reference and where that leads.
    """

    name: str
    kind: str
    texts: list[str]
    normal: str
    uses: list[tuple[str, Target]]

    @property
    def short(self) -> str:
        """The last part of the name, which a move to another module leaves."""
        return self.name.rpartition(".")[2]


class Graph:
    """Entries and what is known of them while a walk goes on."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.known: dict[tuple[object, ...], int] = {}
        self.pins: list[object] = []
        self.todo: deque[Callable[[], None]] = deque()
        self.bare: set[int] = set()
        self.sources: dict[str, Source | None] = {}

    def entry(self, key: tuple[object, ...], pin: object, name: str, kind: str, texts: Sequence[str] = ()) -> int:
        number = len(self.entries)
        self.entries.append(Entry(name, kind, list(texts), json.dumps(list(texts)), []))
        if key:
            self.known[key] = number
        self.pins.append(pin)  # an id is only good while its object lives
        return number

    def code(
        self,
        key: tuple[object, ...],
        pin: object,
        name: str,
        source: Source,
        nodes: Sequence[ast.AST],
        dropped: frozenset[int],
    ) -> int:
        pieces = [source.piece(node, dropped) for node in nodes]
        number = self.entry(key, (pin, source), name, "code", [text for text, _ in pieces])
        self.entries[number].normal = json.dumps([normal for _, normal in pieces])
        return number

    def whole(self, key: tuple[object, ...], name: str, source: Source | None) -> int:
        """A module used as a value: any of its names may be meant."""
        if source is None:
            return self.entry(key, None, name, "missing")
        dropped = self.dropped(source, [source.tree], {})
        text, normal = source.piece(source.tree, dropped)
        number = self.entry(key, source, name, "module", [text])
        self.entries[number].normal = normal
        self.todo.append(
            lambda: self.follow_imports(
                self.entries[number].uses, source.references(source.tree, dropped), name, source
            )
        )
        return number

    def source(self, path: str, namespace: Mapping[str, object] | None) -> Source | None:
        if path not in self.sources:
            self.sources[path] = load(path, namespace) if path else None
        return self.sources[path]

    def dropped(
        self, source: Source, nodes: Sequence[ast.AST], space: Mapping[str, object], *, bare: bool = False
    ) -> frozenset[int]:
        """Choose the decorators that do not count: Kitaru's own, and all those of a durable function."""
        own = {id(entry) for node in nodes for entry in getattr(node, "decorator_list", ()) if bare}
        inner = (entry for node in nodes for entry in source.decorators(node))
        return frozenset(own | {id(entry) for entry in inner if is_durable(entry, source, space)})

    # Imports inside functions: by source alone, for whether the module is loaded yet must not matter

    def static(self, module: str, chain: Chain, depth: int = 0) -> list[Target]:
        path = find_module(module) if module and depth < DEEPEST else None
        if path is None:
            if depth < DEEPEST and chain and find_module(f"{module}.{chain[0]}") is not None:
                return self.static(f"{module}.{chain[0]}", chain[1:], depth + 1)  # a package without __init__.py
            return [f"package {module.partition('.')[0].lstrip('_')}"]
        source = self.source(path, None)
        if source is None:
            return [self.entry((), None, module, "missing")]
        if not chain:
            key = ("file", path)
            return [self.known[key] if key in self.known else self.whole(key, module, source)]
        nodes = source.bindings.get(chain[0], [])
        package = package_of_file(module, path)
        found: list[Target] = []
        if not nodes and find_module(f"{module}.{chain[0]}") is not None:
            return self.static(f"{module}.{chain[0]}", chain[1:], depth + 1)
        for star, level in source.stars if not nodes else ():
            found += self.static(absolute_name(star, level, package), chain, depth + 1)
        for node in nodes:
            for item in imports_of(node, chain):
                found += self.static(absolute_name(item.module, item.level, package), item.chain, depth + 1)
        own = [node for node in nodes if not isinstance(node, (ast.Import, ast.ImportFrom))]
        if own:
            own_key = ("static", path, chain[0])
            if own_key not in self.known:
                self.static_code(own_key, f"{module}.{chain[0]}", module, source, own)
            found.append(self.known[own_key])
        return found

    def static_code(
        self, key: tuple[object, ...], name: str, module: str, source: Source, nodes: list[ast.stmt]
    ) -> None:
        dropped = self.dropped(source, nodes, {}, bare=False)
        number = self.code(key, source, name, source, nodes, dropped)

        def follow() -> None:
            uses = self.entries[number].uses
            for node in nodes:
                refs = source.references(node, dropped)
                for chain in sorted(refs.names):
                    if chain[0] in source.bindings:
                        uses += [(".".join(chain), target) for target in self.static(module, chain)]
                self.follow_imports(uses, refs, module, source)

        self.todo.append(follow)

    def follow_imports(self, uses: list[tuple[str, Target]], refs: References, module: str, source: Source) -> None:
        package = package_of_file(module, source.path)
        for item in sorted(refs.imports):
            found = self.static(absolute_name(item.module, item.level, package), item.chain)
            uses += [(".".join((item.module, *item.chain)), target) for target in found]
