from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.adapters import RetryPolicy
from kitaru.adapters.retry import retry_after
from kitaru.errors import UsageError

NOW = 1_795_233_600.0  # Sat, 21 Nov 2026 04:00:00 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Sat, 21 Nov 2026 04:00:30 GMT"}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2026 05:00:30 GMT", "date": "Sat, 21 Nov 2026 05:00:10 GMT"}, 20.0),
        ({"retry-after": "Sat, 21 Nov 2026 03:59:00 GMT"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, float("inf")),
        ({"retry-after": "1" + "0" * 400}, float("inf")),
        ({"retry-after": "tomorrow"}, None),
    ],
)
def test_the_wait_asked_for_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_breaks_the_reading(text: str, date: str) -> None:
    found = retry_after({"retry-after": text, "retry-after-ms": date, "date": date}, NOW)
    assert found is None or found > 0


def test_waits_grow_by_the_factor_up_to_the_maximum() -> None:
    policy = RetryPolicy(attempts=9, initial=1, max=5, factor=2)
    assert [policy.delay(failed, asked=None, chance=0) for failed in (1, 2, 3, 4, 9_999)] == [1, 2, 4, 5, 5]


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0.01, 120))
def test_chance_shortens_a_backoff_and_never_undercuts_what_is_asked(failed: int, chance: float, asked: float) -> None:
    policy = RetryPolicy()
    full = policy.delay(failed, asked=None, chance=0)
    assert 0.75 * full <= policy.delay(failed, asked=None, chance=chance) <= full
    assert asked <= policy.delay(failed, asked=asked, chance=chance) <= asked + 1


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"initial": -1.0}, {"max": float("nan")}, {"factor": 0.5}, {"initial": float("inf")}],
)
def test_a_policy_that_cannot_be_right_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        RetryPolicy(**wrong)  # type: ignore[arg-type]  # one dict for fields of two types
