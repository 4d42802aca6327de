from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.errors import UsageError
from kitaru.store.names import MAX_LENGTH, new_run_id, valid_run_id


def test_a_new_id_is_16_base32_characters_and_fresh() -> None:
    ids = {new_run_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[a-z2-7]{16}", run) and valid_run_id(run) == run for run in ids)


@pytest.mark.parametrize("run", ["tides-1", "a.b_c:d-e", "7", "A" * MAX_LENGTH])
def test_a_callers_own_id_may_use_letters_digits_and_some_signs(run: str) -> None:
    assert valid_run_id(run) == run


@pytest.mark.parametrize(
    ("run", "why"),
    [
        ("", "empty"),
        ("A" * (MAX_LENGTH + 1), "201 characters"),
        (".hidden", "dot"),
        ("../x", "dot"),
        ("a/b", "'/'"),
        ("a\0b", r"'\\x00'"),
        ("a\n", r"'\\n'"),
        ("a%2e", "'%'"),
        ("last~1", "'~'"),
        ("é", "'é'"),
        ("last", "newest"),
    ],
)
def test_an_impossible_id_is_refused_with_the_reason(run: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        valid_run_id(run)


@given(st.text(max_size=MAX_LENGTH + 5))
def test_what_passes_is_safe_as_a_file_name(run: str) -> None:
    try:
        valid_run_id(run)
    except UsageError:
        return
    assert re.fullmatch(r"[A-Za-z0-9_:-][A-Za-z0-9._:-]{0,199}", run)
