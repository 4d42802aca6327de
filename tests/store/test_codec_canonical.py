from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.store.codec import canonical, content_digest, fingerprint
from tests.cases import cases

SCRIPT = """
import collections, enum
from dataclasses import dataclass
from kitaru.store.codec import canonical, encode
class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"
@dataclass(frozen=True)
class P:
    x: object
words = [str(n) for n in range(50)]
value = {
    "set": set(words), "frozen": frozenset(map(P, words)), "keys": dict.fromkeys(set(words)),
    "odd": dict.fromkeys({(w, P(w)) for w in words}), "enums": {Color.RED, Color.BLUE},
    "mixed": {1, "1", 1.5, None, b"1"},
    "nested": {frozenset(words[:3]), frozenset(words[3:])}, "counter": collections.Counter(set(words)),
}
print(canonical(value).hex())
print(encode({"set": set(words), "frozen": frozenset(map(P, words))}).hex())
"""


def test_the_canonical_form_does_not_depend_on_the_hash_seed() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(next(iter(outputs))) > 1000


@dataclass
class Page:
    title: str
    size: int = 0
    seen: list[str] = field(default_factory=list)

    @functools.cached_property
    def shout(self) -> str:
        return self.title.upper()


def test_maps_that_differ_only_in_order_are_the_same() -> None:
    pairs: list[tuple[Any, object]] = [("a", 1), (2, {"x": 1, "y": 2}), (None, 3), (b"b", 4)]
    forms = {canonical(dict(order)) for order in itertools.permutations(pairs)}
    assert len(forms) == 1
    assert len({canonical({"x": {"b": 1, "a": 2}}), canonical({"x": {"a": 2, "b": 1}})}) == 1


def test_maps_with_odd_keys_are_sorted_too() -> None:
    assert canonical({(1, 2): 3, (0,): 1}) == canonical({(0,): 1, (1, 2): 3})


def test_text_that_is_not_unicode_is_sorted_like_any_other() -> None:
    assert canonical({"\ud800": 1, "a": 2**70}) == canonical({"a": 2**70, "\ud800": 1})


def test_values_of_different_types_stay_different() -> None:
    values: list[object] = [
        1,
        1.0,
        True,
        "1",
        b"1",
        [1],
        (1,),
        {1},
        frozenset({1}),
        {1: 1},
        {1.0: 1},
        None,
        0,
        False,
        "",
    ]
    assert len({canonical(value) for value in values}) == len(values)


def test_what_a_dataclass_caches_beside_its_fields_does_not_count() -> None:
    page = Page("t")
    before = canonical(page)
    assert page.shout == "T"
    page._cache = {}  # type: ignore[attr-defined]  # what users do
    assert canonical(page) == before


def test_an_exceptions_traceback_does_not_count() -> None:
    raised = ValueError("x")
    try:
        raise raised
    except ValueError:
        assert canonical([raised]) == canonical([ValueError("x")])
        assert canonical([raised]) != canonical([ValueError("y")])


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=5),
    max_leaves=15,
)


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(value)}
    return [_reversed(item) for item in value] if isinstance(value, list) else value


@given(plain)
@settings(max_examples=cases(100), deadline=None)
def test_the_order_of_maps_never_counts(value: object) -> None:
    assert canonical(_reversed(value)) == canonical(value)


@pytest.mark.parametrize(("digest", "size"), [(fingerprint, 16), (content_digest, 32)])
def test_digests_have_their_sizes_and_tell_contents_apart(digest: Any, size: int) -> None:
    assert len(digest(b"a")) == size
    assert digest(b"a") == digest(b"a") != digest(b"b")
