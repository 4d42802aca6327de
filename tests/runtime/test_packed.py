"""Raw answers as events keep them."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.errors import CorruptStoreError
from kitaru.runtime.calls import packed
from kitaru.runtime.calls.packed import needs_outcome, pack, unpack

SAID = "The tide is high, and “so” is the moon\nat noon."


def answer(text: str, *, escaped: bool = False, indent: int | None = None) -> bytes:
    """An answer in OpenAI's form."""
    message = {"role": "assistant", "content": text}
    body = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }  # fmt: skip
    return json.dumps(body, ensure_ascii=escaped, indent=indent).encode()


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_answer_whose_text_stands_beside_it_takes_little(escaped: bool, indent: int | None) -> None:
    raw = answer(SAID * 10, escaped=escaped, indent=indent)
    data = pack(raw, [SAID * 10])
    assert len(data) < 100
    assert needs_outcome(data)
    assert unpack(data, [SAID * 10]) == raw


def test_an_answer_with_nothing_beside_it_needs_no_outcome() -> None:
    data = pack(answer("7"), None)
    assert len(data) < len(answer("7"))
    assert not needs_outcome(data)
    assert unpack(data) == answer("7")


def test_an_earlier_answer_that_was_not_packed_is_read_as_it_is() -> None:
    assert unpack(b'{"a": 1}') == b'{"a": 1}'


@pytest.mark.parametrize("raw", [b"", b"\x00", b"\x01{}", b"\xef\xbb\xbf{}", b'{"a": "\x02"}', b"7", b"{}" * 100_000])
def test_what_cannot_be_packed_comes_back_too(raw: bytes) -> None:
    data = pack(raw, [SAID])
    assert len(data) <= len(raw) + 1
    assert unpack(data, [SAID]) == raw


PIECES = st.one_of(
    st.sampled_from([*packed._COMMON, b'"', b"{", b"}", b",", b" ", b"\\u00e4"]),
    st.text(max_size=12).map(lambda text: json.dumps(text).encode()),
    st.text(max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.binary(max_size=4),
)


@given(
    st.lists(PIECES, max_size=30).map(b"".join),
    st.one_of(st.none(), st.lists(st.one_of(st.text(max_size=20), PIECES), max_size=10)),
)
def test_every_body_comes_back_and_none_grows_by_more_than_a_byte(raw: bytes, said: list[str | bytes] | None) -> None:
    data = pack(raw, said)
    assert len(data) <= len(raw) + 1
    assert unpack(data, said or ()) == raw


@pytest.mark.parametrize("data", [b"\x07{}", b"\xc1", b"\x01\x01"])
def test_what_no_version_has_written_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptStoreError):
        unpack(data)


def test_the_outcome_of_another_call_does_not_pass_for_the_right_one_where_it_lacks_a_piece() -> None:
    data = pack(answer(SAID), [SAID])
    with pytest.raises(CorruptStoreError, match="another"):
        unpack(data, [])


def test_what_old_logs_were_packed_with_has_not_changed() -> None:
    assert hashlib.blake2b(b"\0".join(packed._COMMON), digest_size=8).hexdigest() == "34759e4f6b5998d2"
