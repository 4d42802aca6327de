from __future__ import annotations

import argparse
import ast
import asyncio.tasks
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import textwrap
import typing
from pathlib import Path
from types import ModuleType

import pytest

from kitaru.runtime.code import syntax
from kitaru.runtime.code.syntax import Import, changed_in_functions, normal, normal_of, references, text_of

SAMPLE = r'''
import os

def strings(x, w):
    a = f"{x}" "b" f"{x!r:>{w}}"
    b = f"{x:}" + f"" + f"plain" + "a" "b" + u"c"
    c = f"{x=}" f"{x = !s}" f"{{}} {x:%Y-%m-%d} {x:{w}.{w}}" + rb"\x".decode()
    d = f"""
    {
        x
    } é \N{BULLET} {w:\n}"""
    return a, b, c, d, b"\xff", "\ud800", "\U0001faf8 \x85", 1e300 * 1e10, 1_000, 0xFF, 10**3, 1j, -0.0, ..., None, True

def patterns(x, /, *args, key=None, **kwargs):
    match x:
        case {"a": 1, **rest} if rest:
            return rest
        case [1, 2.0, *others] | (others):
            return others
        case ast.Name(id=str() as name) | -1 | None | "s":
            return name
        case _:
            pass

async def flows(xs: "list[int]" = (), *, y: int = 3) -> None:
    async with a as b, c:
        pass
    async for z in xs:
        yield z
    try:
        [i async for i in xs if (n := i)]
    except* (ValueError, TypeError) as group:
        raise group from None
    else:
        del xs[0], xs[1:2, ...]
    with (open("a") as f, open("b")):
        nonlocal_ = lambda q, *r, s=1: (yield)
    global G
    G: int
    g.h: int = 3
    return

@decorate(1)
class Page(Base, metaclass=Meta):
    """Doc."""
    title: str = "x"
    """About the title."""
    other: "list[Page]"
    def method(self): "doc"
'''

SCRIPT = """
import ast, hashlib, importlib.util, json, sys
spec = importlib.util.spec_from_file_location("syntax", sys.argv[1])
syntax = importlib.util.module_from_spec(spec)
spec.loader.exec_module(syntax)
found = []
for path in sys.argv[2:]:
    text = open(path, encoding="utf-8").read()
    tree = ast.parse(text)
    for node in [tree, *tree.body]:
        form = syntax.normal(node)
        refs = [sorted(part) for part in syntax.references(node)]
        found.append(hashlib.sha256(json.dumps([form, refs]).encode()).hexdigest())
print(json.dumps(found))
"""


def _nodes(module: ModuleType) -> list[ast.stmt | ast.expr]:
    tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.Assign, ast.With)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


@pytest.mark.parametrize("module", [argparse, asyncio.tasks, dataclasses, json, textwrap, typing, syntax])
def test_a_text_cut_from_its_file_has_the_normal_form_of_the_file(module: ModuleType) -> None:
    lines = Path(module.__file__ or "").read_text(encoding="utf-8").split("\n")
    for node in _nodes(module):
        dropped = frozenset(map(id, syntax.decorators_in(node)))
        assert normal_of(text_of(lines, node)) == normal(node)
        assert normal_of(text_of(lines, node, dropped)) == normal(node, dropped)


def test_the_sample_s_texts_have_the_normal_forms_of_the_sample() -> None:
    for node in ast.parse(SAMPLE).body:
        assert normal_of(text_of(SAMPLE.split("\n"), node)) == normal(node)


def _other_pythons() -> list[str]:
    named = [path for path in os.environ.get("KITARU_OTHER_PYTHONS", "").split(os.pathsep) if path]
    found = [*named, *(shutil.which(f"python3.{minor}") or "" for minor in (11, 12, 13))]
    home = Path.home() / ".pyenv" / "versions"
    found += [str(path) for minor in (11, 12, 13) for path in sorted(home.glob(f"3.{minor}.*/bin/python"))[:1]]
    return [path for path in found if path]


def _version(python: str) -> str:
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-S", "-c", show], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_version_gives_the_same_normal_forms_and_names(version: str, tmp_path: Path) -> None:
    python = next((path for path in _other_pythons() if _version(path) == version), None)
    if python is None:
        pytest.skip(f"no Python {version} here; name one in KITARU_OTHER_PYTHONS")
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE, encoding="utf-8")
    own = Path(syntax.__file__)
    # A newer Python's own library may be written in syntax that an older one does not know.
    newer = tuple(map(int, version.split("."))) >= sys.version_info[:2]
    library = [argparse.__file__, typing.__file__] if newer else []
    command = ["-S", "-c", SCRIPT, str(own), str(sample), str(own), __file__, *library]
    mine = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    other = subprocess.run([python, *command], capture_output=True, text=True, check=True)
    assert len(json.loads(mine.stdout)) > 50
    assert json.loads(mine.stdout) == json.loads(other.stdout)


def _form(text: str) -> str:
    return normal(ast.parse(textwrap.dedent(text)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x  =  (1)  # one"),
        ("x: int = 1", "x = 1"),
        ("def f(a: int) -> str: return a", "def f(a):\n    'doc'\n    return a"),
        ("def f():\n    x: int\n    return 1", "def f():\n    pass\n    return 1"),
        ("x = 'a' 'b'", 'x = "ab"'),
        ("x = f'a' f'{y}'", "x = 'a' f'{y:}'"),
        ("x = 0x10", "x = 16"),
        ("class A:\n    'doc'\n    x = 1", "class A:\n    x = 1"),
        ("def f[T](x: T): return x", "def f(x): return x"),
    ],
)
def test_what_cannot_change_an_outcome_is_left_out(one: str, other: str) -> None:
    if "[T]" in one and sys.version_info < (3, 12):
        pytest.skip("type parameters came with Python 3.12")
    assert _form(one) == _form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = b'a'"),
        ("x = 0.0", "x = -0.0"),
        ("x = None", "x = ..."),
        ("f(a)(b)", "f(a, b)"),
        ("x = f'{y}'", "x = '{y}'"),
        ("x = f'{y!r}'", "x = f'{y}'"),
        ("x = f'{y:>{w}}'", "x = f'{y:>w}'"),
        ("def f(a, /): pass", "def f(a): pass"),
        ("def f(*, a): pass", "def f(*, a=None): pass"),
        ("async def f(): pass", "def f(): pass"),
        ("class A:\n    x: int", "class A:\n    x: str"),
        ("from .a import b", "from a import b"),
        ("x = [a, [b]]", "x = [[a], b]"),
        ("for a in b: c", "for a in b:\n    pass\nelse: c"),
    ],
)
def test_what_can_change_an_outcome_is_kept(one: str, other: str) -> None:
    assert _form(one) != _form(other)


def _names(body: str) -> set[str]:
    node = ast.parse(textwrap.dedent(body)).body[0]
    return {".".join(chain) for chain in references(node).names}


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("def f(x): return g(x) + h.i.j", {"g", "h.i.j"}),
        ("def f(x: Note) -> Other:\n    y: Third = x\n    return y", set()),
        ("def f(x=default, *, y=other): return x", {"default", "other"}),
        ("def f(x): return [g(y) for y in x if h(y) for x in z]", {"g", "h", "z"}),
        ("def f(x): return [y for y in y]", {"y"}),
        ("def f():\n    g = 1\n    return g", set()),
        ("def f():\n    def g(): return h + i\n    h = 1\n    return g", {"i"}),
        ("def f():\n    global g\n    g = g + 1", {"g"}),
        ("def f():\n    try: g()\n    except E as g2: return g2", {"g", "E"}),
        ("def f(x):\n    match x:\n        case P(a=b): return b", {"P"}),
        ("def f():\n    if (n := g()): return n", {"g"}),
        ("def f(x): return [n for y in x if (n := g(y))], n", {"g"}),
        ("def f():\n    with a as b: return b.c", {"a"}),
        ("def f():\n    import a\n    return a.b", set()),
        ("def f():\n    class C(B):\n        x = 1\n        def g(self): return x\n    return C", {"B", "x"}),
        ("class C(B):\n    x: Note = y\n    z: 'l[N]'\n    def f(self): return g", {"B", "Note", "y", "l", "N", "g"}),
        ("@deco(a)\ndef f(): return 1", {"deco", "a"}),
        ("def f(): return f'{a} {b!r:{c}}'", {"a", "b", "c"}),
        ("def f(): return lambda a, b=c: a + b + d", {"c", "d"}),
    ],
)  # fmt: skip
def test_only_names_from_outside_count(body: str, names: set[str]) -> None:
    assert _names(body) == names


def test_attributes_of_self_and_super_are_told_apart() -> None:
    node = ast.parse(
        "def f(self):\n    def g(): return self.a.b\n    return super().c() + super(A, self).d + self.e"
    ).body[0]
    found = references(node)
    assert found.own == {("a", "b"), ("e",)}
    assert found.parents == {"c", "d"}


def test_imports_inside_a_function_are_followed_to_what_is_used() -> None:
    node = ast.parse(
        "def f():\n    import a.b\n    import c as d\n    from .e import g as h\n    return a.b.x, d.y, h.z"
    ).body[0]
    assert references(node).imports == {
        Import("a", 0, ("b", "x")),
        Import("c", 0, ("y",)),
        Import("e", 1, ("g", "z")),
    }


def test_globals_that_functions_change_are_state() -> None:
    text = """
    A = {}; B = []; C = 0; D = {}; E = {}; F = {}
    D["x"] = 1
    def f():
        global C
        C += 1
        A[1] = 2
        B.append(3)
        E = {}
        E["local"] = 1
        return F["read"]
    class G:
        def h(self): A.clear(); self.A = 1
    """
    assert changed_in_functions(ast.parse(textwrap.dedent(text))) == {"A", "B", "C"}


def test_very_deep_expressions_have_a_normal_form() -> None:
    tree = ast.parse("x = " + " + ".join(f"y{n}" for n in range(900)))
    assert "y899" in normal(tree)
    assert len(references(tree.body[0]).names) == 900
