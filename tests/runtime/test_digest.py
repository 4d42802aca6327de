from __future__ import annotations

import importlib
import itertools
import linecache
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kitaru.adapters.secret import SecretStr
from kitaru.runtime.code.digest import Code, code_of, same_code, what_changed
from kitaru.runtime.code.masked import masked

Load = Callable[..., types.ModuleType]

STEP = """
class Step:
    def __init__(self, function, **options):
        self.__kitaru_function__ = function
        self.options = options

    def __call__(self, *args):
        return self.__kitaru_function__(*args)


def checkpoint(function=None, **options):
    return Step(function, **options) if function else lambda inner: Step(inner, **options)
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Write the files of a project in a folder of its own and import `flows` from it afresh."""
    kitaru_steps = types.ModuleType("kitaru.steps_of_test")
    exec(STEP, vars(kitaru_steps))
    monkeypatch.setitem(sys.modules, "kitaru.steps_of_test", kitaru_steps)
    versions = itertools.count()
    mine: set[str] = set()

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in mine]:
            del sys.modules[name]

    def load(flows: str, /, **files: str) -> types.ModuleType:
        forget()
        folder = tmp_path / str(next(versions))
        for name, text in {"flows": flows, **files}.items():
            path = folder / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
            mine.add(name.partition("/")[0])
        monkeypatch.syspath_prepend(str(folder))
        return importlib.import_module("flows")

    yield load
    forget()


FLOWS = '''
import json
from dataclasses import dataclass
from enum import Enum

import helpers
from helpers import clean, Base
from kitaru.steps_of_test import checkpoint

PREFIX = "draft"
RATES = {"a": 1, "b": 2}
TABLE = {"clean": clean, "other": lambda text: text.upper()}
SEEN = {}


class Tone(Enum):
    DRY = "dry"


@dataclass(frozen=True)
class Settings:
    size: int = 3


SETTINGS = Settings()


class Agent(Base):
    """An agent."""

    STYLE = "plain"

    @checkpoint(retries=2)
    def run(self, text):
        return self.shape(text) + super().closing()

    def shape(self, text):
        return text + self.STYLE

    def unrelated(self):
        return "unrelated"

    @staticmethod
    def fixed(text):
        return text + "fixed"

    @property
    def loud(self):
        return "loud"


def make(limit, finish):
    def inner(text):
        return finish(text)[:limit]
    return inner


def ending(text):
    return text + "."


cut = make(10, ending)


def shout(function):
    mark = "!"

    def wrapper(text):
        return function(text) + mark
    return wrapper


@shout
def greet(text):
    return "hello " + text


@checkpoint(retries=1)
def nested(text):
    return "nested " + text


def even(number):
    return number == 0 or odd(number - 1)


def odd(number):
    return number != 0 and even(number - 1)


def local_only(text):
    PREFIX = "mine"
    return PREFIX + text


@checkpoint(retries=3)
def step(topic: str, size=len(RATES), *, tone=Tone.DRY):
    """Write a step."""
    # a comment
    parts: list[str] = [clean(word) for word in topic.split()]
    SEEN[topic] = parts
    text = f"{PREFIX} {json.dumps(parts)}" + helpers.ending(topic) + str(RATES) + SETTINGS.__class__.__name__
    return text + cut(text) + greet(text) + nested(text) + str(even(3)) + TABLE["clean"](text) + Agent.fixed(text)


def late(text):
    if text:
        from helpers import slow
        return slow(text)
    return text


def plain(text):
    return text
'''

HELPERS = """
import textwrap

ENDING = "end"


def clean(word):
    return deeper(word).strip()


def deeper(word):
    return word + "deep"


def ending(text):
    return text + ENDING


def slow(text):
    return text + slower(text)


def slower(text):
    return ENDING + text


def unrelated(text):
    return text


class Base:
    def closing(self):
        return "closing"
"""

SAME, CHANGED = True, False

EDITS = [
    pytest.param("step", "    # a comment\n", "", SAME, id="comment"),
    pytest.param("step", '"""Write a step."""', '"""Another text."""', SAME, id="docstring"),
    pytest.param("step", "parts: list[str] = [clean", "parts = [ (clean)", SAME, id="formatting-and-local-annotation"),
    pytest.param("step", "topic: str", "topic: object", SAME, id="annotation-of-an-argument"),
    pytest.param("step", "tone=Tone.DRY):", "tone=Tone.DRY) -> str:", SAME, id="annotation-of-the-return"),
    pytest.param("step", "retries=3", "retries=30", SAME, id="decorator-option"),
    pytest.param("step", "retries=1", "retries=10", SAME, id="decorator-option-of-a-nested-checkpoint"),
    pytest.param("step", "retries=2", "retries=20", SAME, id="decorator-option-within-a-class"),
    pytest.param("step", "import json\n", "import json\nimport re\n\n\n", SAME, id="import-of-an-installed-module"),
    pytest.param("step", "return text\n", "return text * 2\n", SAME, id="unrelated-function"),
    pytest.param("step", "helpers:return text\n\n\nclass", "return 2\n\n\nclass", SAME, id="unrelated-helper"),
    pytest.param("step", "for word in topic.split()", "for word in topic.split(',')", CHANGED, id="body"),
    pytest.param("step", "parts", "pieces", CHANGED, id="renamed-local"),
    pytest.param("step", 'PREFIX = "draft"', 'PREFIX = "final"', CHANGED, id="constant-named-in-an-f-string"),
    pytest.param("step", '"b": 2', '"b": 2.0', CHANGED, id="type-of-a-number-in-a-constant"),
    pytest.param("step", "size: int = 3", "size: int = 4", CHANGED, id="field-default-of-a-constant's-class"),
    pytest.param("step", "Settings()", "Settings(9)", CHANGED, id="dataclass-constant"),
    pytest.param("step", 'DRY = "dry"', 'DRY = "wet"', CHANGED, id="enum-member-in-a-default"),
    pytest.param("step", "text.upper()", "text.lower()", CHANGED, id="lambda-in-a-table"),
    pytest.param("step", "make(10", "make(11", CHANGED, id="closure-value"),
    pytest.param("step", 'text + "."', 'text + "?"', CHANGED, id="function-in-a-closure"),
    pytest.param("step", 'mark = "!"', 'mark = "?"', CHANGED, id="closure-of-a-decorated-helper"),
    pytest.param("step", '"hello "', '"hi "', CHANGED, id="helper-under-a-decorator"),
    pytest.param("step", '"nested "', '"nest "', CHANGED, id="body-of-a-nested-checkpoint"),
    pytest.param("step", "number != 0", "number > 0", CHANGED, id="mutual-recursion"),
    pytest.param("step", '+ "fixed"', '+ "fix"', CHANGED, id="static-method"),
    pytest.param("step", "SEEN = {}", "SEEN = {1: 2}", CHANGED, id="first-value-of-state"),
    pytest.param("step", "helpers:strip()", "lstrip()", CHANGED, id="helper"),
    pytest.param("step", 'helpers:"deep"', '"deeper"', CHANGED, id="helper-of-a-helper"),
    pytest.param("step", 'helpers:ENDING = "end"', 'ENDING = "fin"', CHANGED, id="constant-of-another-module"),
    pytest.param("Agent.run", "self.STYLE", "self.STYLE * 2", CHANGED, id="method-by-self"),
    pytest.param("Agent.run", 'STYLE = "plain"', 'STYLE = "rich"', CHANGED, id="class-attribute-by-self"),
    pytest.param("Agent.run", 'helpers:"closing"', '"closed"', CHANGED, id="base-class-method-by-super"),
    pytest.param("Agent.run", 'return "unrelated"', "return None", SAME, id="unrelated-method"),
    pytest.param("Agent.run", '"""An agent."""', '"""Another."""', SAME, id="class-docstring"),
    pytest.param("Agent.run", "retries=2", "retries=5", SAME, id="decorator-option-of-a-method"),
    pytest.param("late", "helpers:slower(text)\n", "slower(text) * 2\n", CHANGED, id="import-inside-the-function"),
    pytest.param("late", "helpers:ENDING + text", "text + ENDING", CHANGED, id="helper-of-an-import-inside"),
    pytest.param("late", 'helpers:ENDING = "end"', 'ENDING = "fin"', CHANGED, id="constant-of-an-import-inside"),
    pytest.param("late", "helpers:strip()", "lstrip()", SAME, id="unrelated-to-an-import-inside"),
    pytest.param("local_only", 'PREFIX = "draft"', 'PREFIX = "final"', SAME, id="global-shadowed-by-a-local"),
]


def _get(module: types.ModuleType, name: str) -> Callable[..., object]:
    value: object = module
    for part in name.split("."):
        value = vars(value)[part]
    assert callable(value)
    return value


def _edited(edit: str, to: str) -> tuple[str, str]:
    where, colon, old = edit.partition("helpers:")
    if colon and not where:
        assert old in HELPERS
        return FLOWS, HELPERS.replace(old, to)
    assert edit in FLOWS
    return FLOWS.replace(edit, to), HELPERS


@pytest.mark.parametrize(("name", "edit", "to", "same"), EDITS)
def test_an_edit_changes_the_digest_only_where_it_can_change_the_outcome(
    load: Load, name: str, edit: str, to: str, same: bool
) -> None:
    before = code_of(_get(load(FLOWS, helpers=HELPERS), name))
    flows, helpers = _edited(edit, to)
    after = code_of(_get(load(flows, helpers=helpers), name))
    assert before.digest
    assert after.digest
    assert (before.digest == after.digest) is same
    assert same_code(before.source, after.source) is same
    assert (what_changed(before.source, after.source) == []) is same


def _pair(load: Load, before: str, after: str, name: str = "step", **files: str) -> tuple[Code, Code]:
    return code_of(_get(load(before, **files), name)), code_of(_get(load(after, **files), name))


def test_what_changed_names_the_helper_and_not_its_callers(load: Load) -> None:
    before = code_of(load(FLOWS, helpers=HELPERS).step)
    after = code_of(load(FLOWS, helpers=HELPERS.replace("strip()", "lstrip()")).step)
    assert what_changed(before.source, after.source) == ["helpers.clean"]


def test_names_begin_with_the_function_itself(load: Load) -> None:
    names = code_of(load(FLOWS, helpers=HELPERS).step).names
    assert names[0] == "flows.step"
    assert {"helpers.clean", "helpers.deeper", "flows.PREFIX", "helpers.ENDING", "flows.odd"} <= set(names)


def test_a_helper_moved_to_another_module_is_the_same_code(load: Load) -> None:
    helper = "def clean(x):\n    return x + 1\n"
    step = "def step(x):\n    return clean(x)\n"
    before = code_of(load(helper + step).step)
    after = code_of(load("from helpers import clean\n" + step, helpers=helper).step)
    assert before.digest == after.digest
    assert same_code(before.source, after.source)
    assert what_changed(before.source, after.source) == []


def test_a_name_bound_to_another_function_changes_the_digest(load: Load) -> None:
    body = "def one(x):\n    return 1\n\ndef two(x):\n    return 2\n\npick = {}\n\ndef step(x):\n    return pick(x)\n"
    before, after = _pair(load, body.format("one"), body.format("two"))
    assert before.digest != after.digest
    assert what_changed(before.source, after.source) == ["flows.one", "flows.two"]


def test_a_name_from_another_installed_package_changes_the_digest(load: Load) -> None:
    before, after = _pair(
        load,
        "from copy import copy\ndef step(x):\n    return copy(x)\n",
        "from shutil import copy\ndef step(x):\n    return copy(x)\n",
    )
    assert before.digest != after.digest


def test_the_digest_does_not_depend_on_what_state_holds_by_now(load: Load) -> None:
    module = load("SEEN = {}\nCOUNT = 0\n\ndef step(x):\n    global COUNT\n    COUNT += 1\n    SEEN[x] = COUNT\n")
    before = code_of(module.step)
    module.step(1)
    assert code_of(module.step).digest == before.digest


def test_handlers_registered_by_a_decorator_count(load: Load) -> None:
    flows = """
    HANDLERS = {}

    def register(function):
        HANDLERS[function.__name__] = function
        return function

    @register
    def first(x):
        return 1

    def step(x):
        return HANDLERS["first"](x)
    """
    before, after = _pair(load, flows, flows.replace("return 1", "return 2"))
    assert before.digest != after.digest
    assert what_changed(before.source, after.source) == ["flows.first"]


def test_a_function_that_memoises_its_results_keeps_its_digest(load: Load) -> None:
    flows = "import functools\n@functools.lru_cache\ndef fast(x):\n    return {}\ndef step(x):\n    return fast(x)\n"
    module = load(flows.format(1))
    before = code_of(module.step)
    module.step(3)
    assert code_of(module.step).digest == before.digest
    assert code_of(load(flows.format(2)).step).digest != before.digest


CONTEXT = """
import contextlib

@contextlib.contextmanager
def f():
    yield 'a'

def step(x):
    with f() as y:
        return y
"""

DISPATCH = """
import functools

@functools.singledispatch
def f(x):
    return 0

@f.register
def _(x: int):
    return 'a'

def step(x):
    return f(x)
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import re\nRX = re.compile('a')\ndef step(x): return RX.match(x)", "'b'"),
        ("PAIR = (1, 'a')\ndef step(x): return PAIR", "'b'"),
        ("KNOWN = frozenset({'a', 'c'})\ndef step(x): return x in KNOWN", "'b'"),
        ("class A:\n    def go(self): return 'a'\nAGENT = A()\ndef step(x): return AGENT.go()", "'b'"),
        ("class A:\n    def go(self): return 'a'\n\nrun = A().go\ndef step(x): return run()", "'b'"),
        ("import functools\ndef f(x, y): return x\ng = functools.partial(f, 'a')\ndef step(x): return g(x)", "'b'"),
        ("import functools\ndef f(x, y='a'): return y\ng = functools.partial(f)\ndef step(x): return g(x)", "'b'"),
        ("class A:\n    @classmethod\n    def go(cls): return 'a'\ndef step(x): return A.go()", "'b'"),
        (
            "class A:\n    @property\n    def it(self): return 'a'\n    def step(self): return self.it\nstep = A.step",
            "'b'",
        ),
        ("class A:\n    def __call__(self, x): return 'a'\nstep = A()", "'b'"),
        ("step = lambda x: (x, 'a')", "'b'"),
        ("async def other(): return 'a'\nasync def step(x): return await other()", "'b'"),
        ("def other():\n    yield 'a'\ndef step(x): return list(other())", "'b'"),
        ("def f(x): return 'a'\ndef step(x):\n    def inner(y): return [f(z) for z in y]\n    return inner(x)", "'b'"),
        ("def f(x): return 'a'\nclass M:\n    go = staticmethod(f)\ndef step(x): return M().go(x)", "'b'"),
        (CONTEXT, "'b'"),
        (DISPATCH, "'b'"),
        ("from typing import NamedTuple\nclass P(NamedTuple):\n    x: str = 'a'\ndef step(x): return P()", "'b'"),
        ("from collections import namedtuple\nP = namedtuple('P', 'a')\ndef step(x): return P(x)", "'b'"),
        ("class Old:\n    def f(self): return 'a'\nNames = list[Old]\ndef step(x): return make(Names)", "'b'"),
        ("def step(x):\n    class Inner:\n        y = 'a'\n    return Inner", "'b'"),
        ("class Meta(type):\n    y = 'a'\nclass A(metaclass=Meta): pass\ndef step(x): return A", "'b'"),
    ],
)
def test_every_kind_of_code_is_followed(load: Load, before: str, after: str) -> None:
    one = code_of(load(before).step)
    two = code_of(load(before.replace("'a'", after)).step)
    assert one.digest
    assert two.digest
    assert one.digest != two.digest
    assert what_changed(one.source, two.source)


def test_a_schema_s_texts_count_for_a_class_with_fields(load: Load) -> None:
    flows = 'class Page:\n    """A page."""\n    title: str\n\ndef step(x):\n    return Page\n'
    before, after = _pair(load, flows, flows.replace("A page.", "One page."))
    assert before.digest != after.digest


def test_a_subclass_decides_what_self_means(load: Load) -> None:
    flows = """
    class Base:
        def step(self):
            return self.part()

        def part(self):
            return 1

    class Sub(Base):
        def part(self):
            return 2
    """
    before, after = load(flows), None
    one, base = code_of(before.Sub().step), code_of(before.Base().step)
    after = load(flows.replace("return 2", "return 3"))
    assert code_of(after.Sub().step).digest != one.digest
    assert code_of(after.Base().step).digest == base.digest


def test_relative_imports_and_packages_are_followed(load: Load) -> None:
    flows = "from pkg.inner import step\n"
    inner = "from . import prompts\n\ndef step(x):\n    return prompts.WRITE + x\n"
    files = {"pkg/__init__": "", "pkg/inner": inner}
    before = code_of(load(flows, **files, **{"pkg/prompts": "WRITE = 'a'\nOTHER = 'a'\n"}).step)
    other = code_of(load(flows, **files, **{"pkg/prompts": "WRITE = 'a'\nOTHER = 'b'\n"}).step)
    after = code_of(load(flows, **files, **{"pkg/prompts": "WRITE = 'b'\nOTHER = 'a'\n"}).step)
    assert before.digest == other.digest != after.digest
    assert what_changed(before.source, after.source) == ["pkg.prompts.WRITE"]


@pytest.mark.parametrize("init", [{"pkg/__init__": ""}, {"pkg/__init__": "from .part import go as part\n"}, {}])
def test_an_import_inside_a_function_counts_the_same_before_and_after_it_is_loaded(
    load: Load, init: dict[str, str]
) -> None:
    step = "def step(x):\n    from pkg import part\n    return part.go(x) if hasattr(part, 'go') else part(x)\n"
    module = load(step, **init, **{"pkg/part": "def go(x):\n    return x\n"})
    before = code_of(module.step)
    assert "pkg" not in sys.modules
    assert module.step(1) == 1
    assert code_of(module.step).digest == before.digest
    assert "pkg.part.go" in before.names


def test_a_module_passed_as_a_value_counts_whole(load: Load) -> None:
    flows = "import prompts\ndef step(x):\n    return getattr(prompts, x)\n"
    before = code_of(load(flows, prompts="A = 1\n").step)
    after = code_of(load(flows, prompts="A = 2\n").step)
    assert before.digest != after.digest
    assert what_changed(before.source, after.source) == ["prompts"]


def test_uses_adds_what_no_name_leads_to(load: Load) -> None:
    module = load("def hidden(x):\n    return 1\ndef step(x):\n    return globals()['hidden'](x)\n")
    assert code_of(module.step).digest != code_of(module.step, uses=[module.hidden]).digest
    assert "flows.hidden" in code_of(module.step, uses=[module.hidden]).names
    assert code_of(module.step, uses=["v1"]).digest != code_of(module.step, uses=["v2"]).digest


def test_code_without_source_has_no_digest_and_is_never_the_same() -> None:
    namespace: dict[str, object] = {"__name__": "typed_in"}
    exec("def step(x):\n    return x", namespace)
    code = code_of(namespace["step"])  # type: ignore[arg-type]  # exec gives objects
    assert code.digest == b""
    assert code.names == ("typed_in.step",)
    assert not same_code(code.source, code.source)
    assert what_changed(code.source, code.source) == ["typed_in.step"]


def test_a_file_edited_after_its_import_does_not_pass_for_what_runs(load: Load) -> None:
    module = load("def step(x):\n    return 1\n")
    before = code_of(module.step)
    Path(module.__file__ or "").write_text("def step(x):\n    return 2\n")
    assert code_of(module.step).digest == b""
    Path(module.__file__ or "").write_text("import json\n\n\ndef step(x):\n    return 1\n")
    assert code_of(module.step).digest == before.digest


def test_a_notebook_s_cell_has_source() -> None:
    def digest(text: str) -> bytes:
        name = f"<cell {len(text)}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        namespace: dict[str, object] = {"__name__": "typed_in"}
        exec(compile(text, name, "exec"), namespace)
        return code_of(namespace["step"]).digest  # type: ignore[arg-type]  # exec gives objects

    before = digest("def step(x):\n    return x\n")
    assert before
    assert digest("# more\ndef step(x):\n    return x\n") == before
    assert digest("def step(x):\n    return x + x\n") != before


def test_a_method_given_to_a_class_later_counts(load: Load) -> None:
    flows = "class A:\n    pass\ndef go(self):\n    return 1\nA.go = go\ndef step(x):\n    return A().go()\n"
    before, after = _pair(load, flows, flows.replace("return 1", "return 2"))
    assert before.digest != after.digest


def test_star_imports_lead_to_the_constant_s_own_module(load: Load) -> None:
    flows = "from prompts import *\ndef step(x):\n    return WRITE\n"
    flows += "def late(x):\n    import flows\n    return flows.WRITE\n"
    before = load(flows, prompts="WRITE = 'a'\n")
    one, late = code_of(before.step), code_of(before.late)
    after = load(flows, prompts="WRITE = 'b'\n")
    assert what_changed(one.source, code_of(after.step).source) == ["prompts.WRITE"]
    assert what_changed(late.source, code_of(after.late).source) == ["prompts.WRITE"]


class Grumpy:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)

    def __call__(self) -> None: ...


@pytest.mark.parametrize("kind", ["builtin", "method", "bound", "grumpy", "class", "number", "none", "plain"])
def test_odd_things_never_raise(kind: str) -> None:
    odd: dict[str, object] = {
        "builtin": len,
        "method": str.upper,
        "bound": "".join,
        "grumpy": Grumpy(),
        "class": Grumpy,
        "number": 3,
        "none": None,
        "plain": types.SimpleNamespace(),
    }
    code = code_of(odd[kind], uses=[odd[kind]])  # type: ignore[arg-type]  # the wrong type is the point
    assert isinstance(code.digest, bytes)
    assert code.names


def test_unreadable_records_are_not_the_same_code() -> None:
    assert not same_code(b"", b"")
    assert not same_code(b"{}", b"[]")
    assert what_changed(b"", b"") == []


def test_one_function_s_digest_is_the_same_on_every_walk(load: Load) -> None:
    module = load(FLOWS, helpers=HELPERS)
    assert code_of(module.step) == code_of(module.step)


KEYED = """
from kitaru.steps_of_test import checkpoint

SETTINGS = {"where": "here", "key": KEY}
DSN_PASSWORD = "one-that-nobody-read"

@checkpoint
async def asks():
    return await ask("q", KEY, SETTINGS, DSN_PASSWORD, api_key=KEY)
"""


@pytest.mark.parametrize("key", ["literal-of-the-test", 'it\'s a "quoted" one', "with \\ and é"])
def test_masked_source_is_the_same_code_until_the_key_changes(load: Load, key: str) -> None:
    plain = code_of(load(KEYED.replace("KEY)", f"{key!r})").replace("KEY}", f"{key!r}}}")).asks).source
    other = code_of(load(KEYED.replace("KEY)", "'another-key')").replace("KEY}", "'another-key'}")).asks).source
    kept = masked(plain, (SecretStr(key),))
    for form in (*SecretStr(key).forms(), key.encode().hex().encode(), b"nobody-read", b"nobody-read".hex().encode()):
        assert form not in kept
    assert same_code(kept, plain)
    assert same_code(plain, kept)
    assert what_changed(kept, plain) == []
    assert not same_code(kept, other)
    assert masked(kept, (SecretStr(key),)) == kept


PIECES = """
from kitaru.steps_of_test import checkpoint

@checkpoint
async def asks():
    first = await ask("literal-"
                      "of-the-test", "é")
    return await ask(first, "literal" + "-of-" + "the-test", b"literal\\x2dof-the-test", 'liter\\x61l-of-the-test!')
"""


def test_a_key_in_pieces_is_masked_where_they_are_put_together(load: Load) -> None:
    plain = code_of(load(PIECES).asks).source
    kept = masked(plain, (SecretStr("literal-of-the-test"),))
    for piece in (b"literal-", b"of-the", b"the-test", b"liter"):
        assert piece in plain
        assert piece not in kept
    assert same_code(kept, plain)
    assert not same_code(kept, code_of(load(PIECES.replace("-of-", "-no-")).asks).source)
