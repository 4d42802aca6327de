"""What a piece of source means for an outcome: its normal form, and the names that it uses. Standard library only.

The normal form is a text made from the syntax tree. It leaves out what cannot change an outcome (positions, formatting,
comments, docstrings, annotations of arguments, returns and locals) and irons out where Python versions build
different trees of one source, so that every supported version gives the same text.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import NamedTuple

Chain = tuple[str, ...]
"""A dotted name, `("helpers", "clean")` for `helpers.clean`."""

_UNSEEN = frozenset({"ctx", "kind", "type_comment", "type_ignores", "returns", "simple", "decorator_list"})
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_CHANGERS = frozenset(
    {"add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem", "popleft"}
    | {"put", "remove", "reverse", "setdefault", "sort", "update", "write"}
)

_INDENTED = "if 1:\n"
_PLAIN, _CLASS, _FIELDS = 0, 1, 2
"""Where a statement stands: in a function or module, in a class, in a class that has annotated fields."""


def normal(node: ast.AST, dropped: frozenset[int] = frozenset()) -> str:
    """Give the normal form of a statement, expression or module.

    Args:
        node: The tree; a bare expression statement stands for its expression.
        dropped: The `id` of every decorator, of the node or further in, that does not count.

    Returns:
        An ASCII text, the same on every supported Python version.
    """
    out: list[str] = []
    top = node.value if isinstance(node, ast.Expr) else node
    stack: list[str | tuple[ast.AST, int]] = [(top, _PLAIN)]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            out.append(item)
            continue
        current, place = item
        if isinstance(current, ast.Constant):
            out.append(_constant(current.value))
            continue
        if isinstance(current, ast.JoinedStr):
            stack.extend(reversed(_joined(current)))
            continue
        if isinstance(current, ast.AnnAssign) and place == _PLAIN and current.value is not None:
            current = ast.Assign(targets=[current.target], value=current.value)
        parts: list[str | tuple[ast.AST, int]] = [f"({type(current).__name__}"]
        inner = _place_inside(current, place)
        for field in _counting(current._fields):
            value: object = getattr(current, field, None)
            if field == "annotation" and place == _PLAIN:
                continue
            if field == "type_params" and isinstance(current, FUNCTIONS):
                continue
            if isinstance(value, list):
                kept = [entry for entry in value if not _is_idle(entry, inner)]
                if kept:
                    shown = ((entry, inner) if isinstance(entry, ast.AST) else f" {entry!a}" for entry in kept)
                    parts += [f" {field}=[", *shown, "]"]
            elif isinstance(value, ast.AST):
                parts += [f" {field}=", (value, inner)]
            elif value is not None:
                parts.append(f" {field}={value!a}")
        if decorators := [entry for entry in getattr(current, "decorator_list", ()) if id(entry) not in dropped]:
            parts += [" decorators=[", *((entry, _PLAIN) for entry in decorators), "]"]
        parts.append(")")
        stack.extend(reversed(parts))
    return "".join(out)


@lru_cache(maxsize=128)
def _counting(fields: tuple[str, ...]) -> tuple[str, ...]:
    """The fields that count, sorted: their order in the class is the version's own."""
    return tuple(sorted(set(fields) - _UNSEEN))


def _place_inside(node: ast.AST, place: int) -> int:
    if isinstance(node, ast.ClassDef):
        return _FIELDS if any(isinstance(entry, ast.AnnAssign) for entry in node.body) else _CLASS
    return place if isinstance(node, ast.stmt) and not isinstance(node, FUNCTIONS) else _PLAIN


def _is_idle(entry: object, place: int) -> bool:
    """Whether a statement does nothing. In a class with fields texts count: a schema made from it shows them."""
    if isinstance(entry, ast.Pass):
        return True
    if isinstance(entry, ast.Expr) and isinstance(entry.value, ast.Constant):
        return not (place == _FIELDS and isinstance(entry.value.value, str))
    return isinstance(entry, ast.AnnAssign) and entry.value is None and place == _PLAIN


def _constant(value: object) -> str:
    # hex: decimal digits of a very large int are refused; ascii: which characters are printable is the version's own.
    text = hex(value) if isinstance(value, int) else ascii(value)
    return f"({type(value).__name__} {text})"


def _joined(node: ast.JoinedStr) -> list[str | tuple[ast.AST, int]]:
    """An f-string as texts and fields, neighbouring texts as one and empty ones dropped."""
    parts: list[str | tuple[ast.AST, int]] = []
    text = ""
    values = list(reversed(node.values))
    while values:
        value = values.pop()
        if isinstance(value, ast.JoinedStr):
            values.extend(reversed(value.values))
        elif isinstance(value, ast.Constant):
            text += str(value.value)
        else:
            if text:
                parts.append(_constant(text))
                text = ""
            if not isinstance(value, ast.FormattedValue):
                parts.append((value, _PLAIN))
                continue
            parts += [f"(field {value.conversion} ", (value.value, _PLAIN)]
            if isinstance(value.format_spec, ast.JoinedStr) and (spec := _joined(value.format_spec)) != ["(str '')"]:
                parts += [" spec=", *spec]
            parts.append(")")
    if not parts:
        return [_constant(text)]
    if text:
        parts.append(_constant(text))
    return ["(fstring ", *parts, ")"]


def normal_of(text: str, *, module: bool = False) -> str:
    """Give the normal form of a text that `text_of` made, or of a whole module's. Raises what `ast.parse` raises."""
    tree = ast.parse(text)
    if module:
        return normal(tree)
    body = tree.body
    if text.startswith(_INDENTED) and isinstance(body[0], ast.If):
        body = body[0].body
    return normal(body[0])


def text_of(lines: list[str], node: ast.AST, dropped: frozenset[int] = frozenset()) -> str:
    """Cut a node out of its file, so that it parses on its own and gives the same normal form.

    Args:
        lines: The file, split at newlines only.
        node: The module, a statement, or a lambda.
        dropped: The `id` of every decorator, of the node or further in, to leave out.
    """
    if isinstance(node, ast.expr):
        return f"({_segment(lines, node)}\n)"
    if isinstance(node, ast.Module):
        first, last, indent = 1, len(lines), False
    elif not isinstance(node, ast.stmt):
        return ""
    elif not hasattr(node, "body"):
        return _segment(lines, node)
    else:
        first = min([node.lineno, *(entry.lineno for entry in getattr(node, "decorator_list", ()))])
        last, indent = node.end_lineno or node.lineno, node.col_offset > 0
    gone: set[int] = set()
    for entry in decorators_in(node) if dropped else ():
        if id(entry) in dropped:
            gone.update(range(entry.lineno, (entry.end_lineno or entry.lineno) + 1))
    text = "\n".join(lines[number - 1] for number in range(first, last + 1) if number not in gone)
    return _INDENTED + text if indent else text


def decorators_in(node: ast.AST) -> list[ast.expr]:
    """List the decorators of a node and of everything in it."""
    return [entry for inner in ast.walk(node) for entry in getattr(inner, "decorator_list", ())]


def _segment(lines: list[str], node: ast.stmt | ast.expr) -> str:
    """The text of a node; columns count bytes of UTF-8."""
    part = [line.encode() for line in lines[node.lineno - 1 : node.end_lineno]]
    part[-1] = part[-1][: node.end_col_offset]
    part[0] = part[0][node.col_offset :]
    return b"\n".join(part).decode()


class Import(NamedTuple):
    """A name that the code imports itself: `chain` within `module`, which is `level` packages up (0: absolute)."""

    module: str
    level: int
    chain: Chain


class References(NamedTuple):
    """What a piece of code uses from outside itself.

    `names` are the dotted names that it does not bind, `own` the attributes of its first parameter (`()`: the
    parameter itself), `parents` the names asked of `super()`, `imports` what it imports itself and uses, `changed`
    the outer names that its functions rebind or change in place.
    """

    names: frozenset[Chain]
    own: frozenset[Chain]
    parents: frozenset[str]
    imports: frozenset[Import]
    changed: frozenset[Chain]


class _Scope:
    """One scope while it is read: what it binds, loads and changes, and what its inner scopes left open."""

    def __init__(self, kind: str, dropped: frozenset[int] = frozenset()) -> None:
        self.kind = kind
        self.dropped = dropped
        self.bound: set[str] = set()
        self.outer: set[str] = set()
        self.module_names: set[str] = set()
        self.imported: dict[str, list[Import]] = {}
        self.loads: set[Chain] = set()
        self.open: set[Chain] = set()
        self.changes: set[Chain] = set()
        self.deep_changes: set[Chain] = set()
        self.free: set[Chain] = set()
        self.local: set[Chain] = set()
        self.parents: set[str] = set()
        self.imports: set[Import] = set()
        self.walrus: set[str] = set()

    def absorb(self, inner: _Scope) -> None:
        """Take over what an inner scope left open."""
        self.open |= inner.free
        self.deep_changes |= inner.deep_changes
        if inner.kind == "comprehension":
            self.changes |= inner.changes
        self.module_names |= inner.module_names
        self.parents |= inner.parents
        self.imports |= inner.imports
        if self.kind == "comprehension":
            self.walrus |= inner.walrus
        else:
            self.bound |= inner.walrus

    def close(self) -> None:
        """Settle which names are this scope's own."""
        self.changes.discard(())
        visible = self.bound - self.outer
        # Names of a class body are seen by the body alone, not by its functions.
        for chain in self.loads if self.kind == "class" else self.loads | self.open:
            if chain[0] in self.imported:
                for source in self.imported[chain[0]]:
                    self.imports.add(source._replace(chain=source.chain + chain[1:]))
            elif chain[0] in visible:
                self.local.add(chain)
            else:
                self.free.add(chain)
        if self.kind == "class":
            self.free |= self.open
        self.changes |= {(name,) for name in self.bound & self.outer}
        if self.kind == "function":
            self.deep_changes |= self.changes
        if self.kind != "class":
            self.deep_changes = {chain for chain in self.deep_changes if chain[0] not in visible}
            self.changes = {chain for chain in self.changes if chain[0] not in visible}


def references(node: ast.AST, dropped: frozenset[int] = frozenset()) -> References:
    """Find what a function, lambda, class, statement or module uses from outside itself.

    Args:
        node: The tree. Annotations do not count, but for those of a class's fields.
        dropped: The `id` of every decorator that does not count.
    """
    scope = _Scope("module", dropped)
    first = ""
    if isinstance(node, (*FUNCTIONS, ast.Lambda)):
        inner = _function(node, scope)
        parameters = [*node.args.posonlyargs, *node.args.args]
        first = parameters[0].arg if parameters else ""
        _read([], scope)
        own = frozenset(chain[1:] for chain in inner.local if chain[0] == first)
    else:
        _read(list(node.body) if isinstance(node, ast.Module) else [node], scope)
        own = frozenset()
        if not isinstance(node, ast.Module):
            # A statement on its own binds nothing: the name it gives may be read from outside in the same breath.
            scope.bound.clear()
    # Names declared `global` in a function are the module's, whatever the functions around it bind.
    scope.open |= {(name,) for name in scope.module_names}
    scope.close()
    return References(
        frozenset(scope.free),
        own,
        frozenset(scope.parents),
        frozenset(scope.imports),
        frozenset(scope.deep_changes),
    )


def changed_in_functions(tree: ast.Module) -> frozenset[str]:
    """Name the globals that some function of the module rebinds or changes in place: state, not constants."""
    scope = _Scope("module")
    _read(list(tree.body), scope)
    return frozenset(chain[0] for chain in scope.deep_changes if len(chain) == 1)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, outer: _Scope) -> _Scope:
    """Read a function as an inner scope of `outer`, which takes over what it leaves open."""
    args = node.args
    outside: list[ast.AST] = [*args.defaults, *(entry for entry in args.kw_defaults if entry is not None)]
    _read([*outside, *_decorators(node, outer)], outer)
    scope = _Scope("function", outer.dropped)
    for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg):
        if arg is not None:
            scope.bound.add(arg.arg)
    scope.bound.update(str(getattr(entry, "name", "")) for entry in getattr(node, "type_params", ()))
    _read([node.body] if isinstance(node, ast.Lambda) else list(node.body), scope)
    scope.close()
    outer.absorb(scope)
    return scope


def _decorators(node: ast.AST, scope: _Scope) -> list[ast.expr]:
    return [entry for entry in getattr(node, "decorator_list", ()) if id(entry) not in scope.dropped]


def _class(node: ast.ClassDef, outer: _Scope) -> None:
    _read([*_decorators(node, outer), *node.bases, *node.keywords], outer)
    scope = _Scope("class", outer.dropped)
    scope.bound.update(str(getattr(entry, "name", "")) for entry in getattr(node, "type_params", ()))
    _read(list(node.body), scope)
    scope.close()
    outer.absorb(scope)


def _comprehension(node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp, outer: _Scope) -> None:
    _read([node.generators[0].iter], outer)
    scope = _Scope("comprehension", outer.dropped)
    parts: list[ast.AST] = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
    for index, generator in enumerate(node.generators):
        parts += [generator.target, *generator.ifs, *([generator.iter] if index else [])]
    _read(parts, scope)
    scope.close()
    outer.absorb(scope)


def _read(nodes: list[ast.AST], scope: _Scope) -> None:
    """Read nodes of one scope. A stack, since a long sum or call chain is a deep tree."""
    stack = list(reversed(nodes))
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                scope.loads.add((node.id,))
            else:
                scope.bound.add(node.id)
        elif isinstance(node, ast.Attribute):
            _read_attribute(node, scope, stack)
        elif isinstance(node, FUNCTIONS):
            scope.bound.add(node.name)
            _function(node, scope)
        elif isinstance(node, ast.Lambda):
            _function(node, scope)
        elif isinstance(node, ast.ClassDef):
            scope.bound.add(node.name)
            _class(node, scope)
        elif isinstance(node, _COMPREHENSIONS):
            _comprehension(node, scope)
        elif isinstance(node, ast.NamedExpr):
            (scope.walrus if scope.kind == "comprehension" else scope.bound).add(node.target.id)
            stack.append(node.value)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            _read_import(node, scope)
        elif isinstance(node, ast.Global):
            scope.outer.update(node.names)
            scope.module_names.update(node.names)
        elif isinstance(node, ast.Nonlocal):
            scope.outer.update(node.names)
        elif isinstance(node, ast.AnnAssign):
            stack += [entry for entry in (node.value, node.target) if entry is not None]
            if scope.kind == "class":
                stack.append(_unquoted(node.annotation))
        else:
            _read_other(node, scope, stack)


def _read_other(node: ast.AST, scope: _Scope, stack: list[ast.AST]) -> None:
    if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
        scope.bound |= {node.name} if node.name else set()
    elif isinstance(node, ast.MatchMapping) and node.rest:
        scope.bound.add(node.rest)
    elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        scope.changes.add(dotted(node.value))
    elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        scope.loads.add((node.target.id,))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGERS:
        scope.changes.add(dotted(node.func.value))
    stack.extend(ast.iter_child_nodes(node))


def _read_attribute(node: ast.Attribute, scope: _Scope, stack: list[ast.AST]) -> None:
    names = [node.attr]
    base: ast.expr = node.value
    while isinstance(base, ast.Attribute):
        names.append(base.attr)
        base = base.value
    if isinstance(base, ast.Name):
        chain = (base.id, *reversed(names))
        scope.loads.add(chain)
        if not isinstance(node.ctx, ast.Load):
            scope.changes |= {chain, chain[:-1]}
    elif isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id == "super":
        # The class and the instance that super() may be given are no use of either.
        scope.parents.add(names[-1])
    else:
        stack.append(base)


def _read_import(node: ast.Import | ast.ImportFrom, scope: _Scope) -> None:
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            name, source = alias.asname or alias.name, Import(node.module or "", node.level, (alias.name,))
        elif alias.asname:
            name, source = alias.asname, Import(alias.name, 0, ())
        else:
            name = alias.name.partition(".")[0]
            source = Import(name, 0, ())
        scope.bound.add(name)
        scope.imported.setdefault(name, []).append(source)


def dotted(node: ast.AST) -> Chain:
    """Give `a.b.c` as a chain, or `()` for any other expression."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()


def _unquoted(node: ast.expr) -> ast.AST:
    """An annotation, read as code where it is written as a string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return ast.parse(node.value, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return node
    return node
