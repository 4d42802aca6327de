"""Damaged bodies, for tests that no reader of answers lets anything but a ModelError out."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from kitaru.adapters.mending import readable, usable
from kitaru.adapters.reply import Reply
from kitaru.errors import ModelError, ProviderError
from kitaru.runtime.calls.conversation import normalised, public_message

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([2**63, -(2**63), 10**40, 1e308, -0.5]),
    st.text(max_size=5),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.sampled_from(["", "stop", "STOP", "error", "function", "text", "\x00\x1b[31m", "é" * 3]),
    st.sampled_from(["\ud83d", "a\ude00", "<think>hm", "hm</think>{}", "<|channel|>final<|message|>x"]),
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "type", "error", "id", "x"]), inner)
    ),
    max_leaves=6,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [path] + [place for key in keys for place in _places(value[key], (*path, key))]


@st.composite
def changed(draw: st.DrawFn, body: Any) -> Any:
    """Return a JSON value with some of its values replaced, dropped or doubled, anywhere in it."""
    found = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.sampled_from(_places(found)))
        if not place:
            return draw(VALUES)
        parent = found
        for key in place[:-1]:
            parent = parent[key]
        match draw(st.sampled_from(["replace", "drop", "double"])):
            case "replace":
                parent[place[-1]] = draw(VALUES)
            case "drop":
                del parent[place[-1]]
            case _ if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[place[-1]]))
            case _:
                parent["error"] = draw(VALUES)
    return found


def bodies(body: Any) -> st.SearchStrategy[bytes]:
    """Return what may arrive instead of a JSON body: changed, cut, not UTF-8, a web page, nested too deep, noise."""
    whole = json.dumps(body).encode()
    return st.one_of(
        changed(body).map(lambda value: readable(json.dumps(value).encode())),
        torn(whole),
        st.binary(max_size=60),
        st.sampled_from(
            [
                b"",
                b"null",
                b"[]",
                b"[[]]",
                b"<!DOCTYPE html><html><body>Bad gateway</body></html>",
                b"[" * 100_000,
                b'{"a":' * 100_000,
                b'{"message": "\xff\xfe"}',
                b"\xef\xbb\xbf" + whole,
                whole.replace(b'"', b"\xc3", 3),
            ]
        ),
    )


def torn(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a beginning of some bytes, with or without noise after it."""
    return st.tuples(st.integers(0, len(whole)), st.binary(max_size=3)).map(lambda cut: whole[: cut[0]] + cut[1])


def cuts(whole: bytes) -> st.SearchStrategy[list[bytes]]:
    """Return some bytes cut into pieces, anywhere, inside a character too."""
    places = st.lists(st.integers(0, len(whole)), max_size=12).map(sorted)
    return places.map(lambda at: [whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True)])


@st.composite
def one_changed(draw: st.DrawFn, payloads: list[Any]) -> list[Any]:
    """Return the payloads of a stream with one of them changed."""
    at = draw(st.integers(0, len(payloads) - 1))
    return [*payloads[:at], draw(changed(payloads[at])), *payloads[at + 1 :]]


def outcome(read: Callable[[], Reply]) -> Reply | ModelError:
    """Return what a reader makes of bytes; anything but a ModelError, or a reply that the log can hold, goes up."""
    try:
        reply = usable(read(), thinks_in_text=True)
    except ModelError as error:
        return error
    normalised([public_message(reply.message)], None, "reply")
    return reply


def told(found: Reply | ModelError, provider: str, status: int) -> bool:
    """Whether it is a reply, or an error that tells who answered and how."""
    match found:
        case Reply():
            return isinstance(found.text, str)
        case ProviderError():
            return provider in found.message and found.status == status and bool(found.request_id)
        case _:
            return provider in found.message
