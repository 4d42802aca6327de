"""Source files as the digest reads them: found, parsed once, indexed, and told apart into project and installed.

Nothing here imports or runs a module of the project. Standard library only.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import linecache
import os
import site
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from types import CodeType
from typing import cast

from kitaru.runtime.code.syntax import (
    FUNCTIONS,
    Chain,
    Import,
    References,
    changed_in_functions,
    decorators_in,
    dotted,
    normal,
    references,
    text_of,
)

_LOADED_AT = time.time()
_GENERATED = ("<frozen ", "<attrs ", "<class_and_method_names")

Node = ast.stmt | ast.expr


class Source:
    """One parsed file.

    Args:
        path: Its name, for the compiler.
        text: Its text, with universal newlines translated.
        settled: Whether the file is certainly what was imported, because it is older than this process.
    """

    def __init__(self, path: str, text: str, settled: bool) -> None:
        self.path = path
        self.text = text
        self.settled = settled
        self.lines = text.split("\n")
        self.tree = ast.parse(text, path)
        self._pieces: dict[tuple[int, frozenset[int]], tuple[str, str]] = {}
        self._references: dict[tuple[int, frozenset[int]], References] = {}
        self._decorators: dict[int, list[ast.expr]] = {}

    @cached_property
    def _index(self) -> tuple[dict[tuple[str, int], list[Node]], dict[str, list[ast.ClassDef]]]:
        functions: dict[tuple[str, int], list[Node]] = {}
        classes: dict[str, list[ast.ClassDef]] = {}
        stack: list[tuple[ast.AST, str]] = [(self.tree, "")]
        while stack:
            node, prefix = stack.pop()
            if isinstance(node, FUNCTIONS):
                # A decorated function's code begins at its first decorator.
                line = min([node.lineno, *(entry.lineno for entry in node.decorator_list)])
                functions.setdefault((node.name, line), []).append(node)
                prefix += f"{node.name}.<locals>."
            elif isinstance(node, ast.Lambda):
                functions.setdefault(("<lambda>", node.lineno), []).append(node)
                prefix += "<lambda>.<locals>."
            elif isinstance(node, ast.ClassDef):
                classes.setdefault(prefix + node.name, []).append(node)
                prefix += f"{node.name}."
            stack.extend((child, prefix) for child in ast.iter_child_nodes(node))
        for nodes in functions.values():
            nodes.sort(key=lambda entry: (entry.lineno, entry.col_offset))
        return functions, classes

    @cached_property
    def _codes(self) -> dict[str, list[CodeType]]:
        found: dict[str, list[CodeType]] = {}
        stack = [compile(self.text, self.path, "exec", dont_inherit=True)]
        while stack:
            code = stack.pop()
            found.setdefault(code.co_qualname, []).append(code)
            stack.extend(entry for entry in code.co_consts if isinstance(entry, CodeType))
        return found

    def nodes_of(self, code: CodeType) -> list[Node]:
        """Give the definition behind a code object (several lambdas where they share a line), or nothing.

        A file that was written after this process began may not be what the process runs, so there the definition
        must compile to what runs.
        """
        functions, _ = self._index
        if self.settled:
            return functions.get((code.co_name, code.co_firstlineno), [])
        for other in sorted(self._codes.get(code.co_qualname, ()), key=lambda entry: entry != code):
            if _alike(code, other):
                return functions.get((other.co_name, other.co_firstlineno), [])
        return []

    def classes_of(self, qualname: str) -> list[ast.ClassDef]:
        """Give the definitions of a class: several where a condition chooses between them."""
        return self._index[1].get(qualname, [])

    @cached_property
    def bindings(self) -> dict[str, list[ast.stmt]]:
        """The top-level statements that give each global its value or change it in place."""
        found: dict[str, list[ast.stmt]] = {}
        for node in _top_level(self.tree.body):
            for name in _bound_by(node):
                entries = found.setdefault(name, [])
                if node not in entries:
                    entries.append(node)
        return found

    @cached_property
    def stars(self) -> list[tuple[str, int]]:
        """The modules whose names `from m import *` takes in, each with its level."""
        return [
            (node.module or "", node.level)
            for node in _top_level(self.tree.body)
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
        ]

    @cached_property
    def state(self) -> frozenset[str]:
        """The globals that functions of this module rebind or change: their value says nothing about the code."""
        return changed_in_functions(self.tree)

    def decorators(self, node: ast.AST) -> list[ast.expr]:
        """List the decorators of a node of this file and of everything in it."""
        known = self._decorators.get(id(node))
        if known is None:
            known = self._decorators[id(node)] = decorators_in(node)
        return known

    def references(self, node: ast.AST, dropped: frozenset[int]) -> References:
        """Give what a node of this file uses, but for its dropped decorators. Worked out once."""
        known = self._references.get((id(node), dropped))
        if known is None:
            known = self._references[id(node), dropped] = references(node, dropped)
        return known

    def piece(self, node: ast.AST, dropped: frozenset[int]) -> tuple[str, str]:
        """Give the text of a node of this file and its normal form, both without the dropped decorators."""
        known = self._pieces.get((id(node), dropped))
        if known is None:
            known = self._pieces[id(node), dropped] = (text_of(self.lines, node, dropped), normal(node, dropped))
        return known


def _alike(one: CodeType, other: CodeType) -> bool:
    """Whether two code objects do the same, wherever their lines are."""
    if one.co_code != other.co_code or one.co_names != other.co_names or len(one.co_consts) != len(other.co_consts):
        return False
    if (one.co_varnames, one.co_freevars, one.co_cellvars) != (other.co_varnames, other.co_freevars, other.co_cellvars):
        return False
    return all(
        _alike(mine, its)
        if isinstance(mine, CodeType) and isinstance(its, CodeType)
        else (type(mine), mine) == (type(its), its)
        for mine, its in zip(one.co_consts, other.co_consts, strict=True)
    )


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        inner: list[ast.stmt] = []
        for field in ("body", "orelse", "finalbody"):
            inner += getattr(node, field, [])
        for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            inner += part.body
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) or not inner:
            yield node
        else:
            if isinstance(node, (ast.For, ast.With)):
                yield node
            yield from _top_level(inner)


def _bound_by(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        for alias in node.names:
            yield alias.asname or (alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name)
    else:
        parts: list[ast.AST] = [node]
        if isinstance(node, ast.For):
            parts = [node.target]
        elif isinstance(node, ast.With):
            parts = [item.optional_vars for item in node.items if item.optional_vars is not None]
        for part in parts:
            for entry in ast.walk(part):
                if isinstance(entry, (ast.Name, ast.Subscript)) and not isinstance(entry.ctx, ast.Load):
                    chain = dotted(entry if isinstance(entry, ast.Name) else entry.value)
                    yield from chain[:1]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from dotted(node.value.func)[:-1][:1]


def load(path: str, namespace: Mapping[str, object] | None = None) -> Source | None:
    """Read and parse a file, or what the line cache holds for a notebook's cell.

    Args:
        path: The file's name.
        namespace: The globals of the module, whose loader may hold the text (a zip file).

    Returns:
        The source; None where there is none, or it does not parse.
    """
    with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        try:
            stat = Path(path).stat()
        except (OSError, ValueError):
            text = "".join(linecache.getlines(path, dict(namespace) if namespace else None))
            return _parse(path, text, True) if text else None
        if stat.st_mtime < _LOADED_AT - 1:
            return _read(path, stat.st_mtime_ns, stat.st_size)
        return _parse(path, importlib.util.decode_source(Path(path).read_bytes()), False)
    return None


@lru_cache(maxsize=512)
def _read(path: str, mtime_ns: int, size: int) -> Source:
    del mtime_ns, size  # parts of the cache's key
    return Source(path, importlib.util.decode_source(Path(path).read_bytes()), True)


@lru_cache(maxsize=128)
def _parse(path: str, text: str, settled: bool) -> Source:
    return Source(path, text, settled)


@lru_cache(maxsize=4096)
def is_project_path(path: str) -> bool:
    """Whether a file is the project's own: neither standard library, nor installed, nor part of Kitaru."""
    if path.startswith("<"):
        return not path.startswith(_GENERATED)
    real = Path(os.path.realpath(path))
    if {"site-packages", "dist-packages"} & {*real.parts, *Path(path).parts}:
        return False
    return not any(real.is_relative_to(folder) for folder in _installed())


@functools.cache
def _installed() -> tuple[Path, ...]:
    # Not sys.prefix as a whole: a project may stand in /usr/src/app, or have its virtual environment around it.
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib") if name in paths}
    with contextlib.suppress(Exception):
        folders |= {site.getusersitepackages()}
    folders |= {str(Path(__file__).parents[2]), str(Path(os.__file__).parent)}
    return tuple(Path(os.path.realpath(folder)) for folder in folders)


def module_file(name: str) -> str | None:
    """Give the file of a module that is already imported; None where it has none."""
    path = getattr(sys.modules.get(name), "__file__", None)
    return path if isinstance(path, str) else None


def is_project_module(name: str) -> bool:
    """Whether an imported module is the project's own. One typed into a prompt or notebook is."""
    if name == "kitaru" or name.startswith("kitaru."):
        return False
    path = module_file(name)
    if path is not None:
        return is_project_path(path)
    module = sys.modules.get(name)
    paths = list(getattr(module, "__path__", ()))
    return name == "__main__" or (bool(paths) and is_project_path(str(paths[0])))


def find_module(name: str) -> str | None:
    """Find the source file of a module without importing it or its packages.

    Args:
        name: Absolute dotted name.

    Returns:
        Its file where that is the project's; else None.
    """
    if (known := module_file(name)) is not None:
        return known if is_project_path(known) else None
    path: list[str] | None = None
    parts = name.split(".")
    for index in range(len(parts)):
        spec = None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            with contextlib.suppress(Exception):
                spec = find(".".join(parts[: index + 1]), path) if find is not None else None
            if spec is not None:
                break
        if spec is None:
            return None
        if index == len(parts) - 1:
            origin = cast("str | None", spec.origin) if spec.has_location else None
            return origin if origin is not None and origin.endswith(".py") and is_project_path(origin) else None
        if spec.submodule_search_locations is None:
            return None
        path = list(spec.submodule_search_locations)
    return None


def imports_of(node: ast.stmt, chain: Chain) -> Iterator[Import]:
    """Give what an import statement says of a dotted name."""
    if not isinstance(node, (ast.Import, ast.ImportFrom)):
        return
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            if (alias.asname or alias.name) == chain[0]:
                yield Import(node.module or "", node.level, (alias.name, *chain[1:]))
        elif alias.asname == chain[0]:
            yield Import(alias.name, 0, chain[1:])
        elif alias.asname is None and alias.name.partition(".")[0] == chain[0]:
            yield Import(chain[0], 0, chain[1:])


def origin_of(source: Source, nodes: list[ast.stmt], name: str) -> tuple[str, int, str] | None:
    """Give module, level and name there of an imported global; None where this module makes it."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return node.module or "", node.level, alias.name
    if not nodes and source.stars:
        module, level = source.stars[0]
        return module, level, name
    return None


def absolute_name(module: str, level: int, package: str) -> str:
    """Give a module's absolute name; empty where `level` leads out of the package."""
    if not level:
        return module
    try:
        return importlib.util.resolve_name("." * level + module, package)
    except ImportError:
        return ""


def package_of(space: Mapping[str, object]) -> str:
    """Give the package that relative imports start from, of a module that is loaded."""
    package = space.get("__package__")
    if isinstance(package, str):
        return package
    name = str(space.get("__name__", ""))
    return name if "__path__" in space else name.rpartition(".")[0]


def package_of_file(module: str, path: str) -> str:
    """Give the package that relative imports start from, of a module by its file."""
    return module if path.endswith("__init__.py") else module.rpartition(".")[0]
