from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.adapters import Retry, retry_of
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


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m1.5s"}, 61.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "250ms"}, 0.25),
        # The other limit is not met.
        (
            {
                "x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "30s",
                "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2s",
            },
            2.0,
        ),
        ({"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "30s"}, None),
        (
            {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "2026-11-21T04:00:20Z"},
            20.0,
        ),
        ({"x-ratelimit-reset": str(int(NOW + 7)), "date": "Sat, 21 Nov 2026 04:00:02 GMT"}, 5.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW + 7) * 1000)}, 7.0),
        ({"ratelimit-reset": "12"}, 12.0),
        ({"ratelimit-reset": "12", "retry-after": "3"}, 3.0),
        ({"ratelimit-reset": "12", "retry-after": "soon"}, 12.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "8h0m0s"}, None),
        ({"x-ratelimit-reset": "soon"}, None),
        ({"x-ratelimit-reset": "nan"}, None),
        ({"x-ratelimit-reset": "2026-11-21T03:59:20Z"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_where_a_limit_is_met_its_reset_stands_for_a_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW, limited=True) == seconds
    if "retry-after" not in headers:
        assert retry_after(headers, NOW) is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_header_breaks_the_reading(text: str, date: str) -> None:
    found = retry_after({"retry-after": text, "retry-after-ms": date, "date": date}, NOW)
    assert found is None or found > 0


def test_waits_grow_by_the_factor_up_to_the_maximum() -> None:
    policy = Retry(attempts=9, initial=1, max=5, factor=2)
    assert [policy.delay(failed, asked=None, chance=0) for failed in (1, 2, 3, 4, 9_999)] == [1, 2, 4, 5, 5]


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0.01, 120))
def test_chance_shortens_a_backoff_and_never_undercuts_what_is_asked(failed: int, chance: float, asked: float) -> None:
    policy = Retry()
    full = policy.delay(failed, asked=None, chance=0)
    assert 0.75 * full <= policy.delay(failed, asked=None, chance=chance) <= full
    assert asked <= policy.delay(failed, asked=asked, chance=chance) <= asked + 1


@pytest.mark.parametrize(
    "wrong",
    [{"attempts": 0}, {"initial": -1.0}, {"max": float("nan")}, {"factor": 0.5}, {"initial": float("inf")}],
)
def test_a_policy_that_cannot_be_right_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Retry(**wrong)  # type: ignore[arg-type]  # one dict for fields of two types


# What stands for one


@pytest.mark.parametrize(
    ("given_", "meant"),
    [
        (None, None),
        (5, Retry(attempts=5)),
        (Retry(attempts=2), Retry(attempts=2)),
        ({}, Retry()),
        ({"attempts": 4, "initial": 0.5, "max": 10, "factor": 3}, Retry(4, 0.5, 10, 3)),
        (
            {"max_attempts": 4, "initial_delay": "500ms", "max_delay": "2m", "backoff_multiplier": 1.5},
            Retry(4, 0.5, 120, 1.5),
        ),
        ({"initial": "1s", "max": "1h"}, Retry(initial=1, max=3600)),
        ({"initial": "1.5 s"}, Retry(initial=1.5)),
    ],
)
def test_a_number_and_a_dict_stand_for_a_retry(
    given_: int | dict[str, int | float | str] | Retry | None, meant: Retry | None
) -> None:
    assert retry_of(given_) == meant


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (0, "attempts=0"),
        (True, "retry=True"),
        ("3", "retry='3'"),
        (2.0, "retry=2.0"),
        ({"tries": 3}, "no 'tries'"),
        ({"attempts": "3"}, "attempts='3'"),
        ({"attempts": 2.5}, "attempts=2.5"),
        ({"attempts": True}, "attempts=True"),
        ({"attempts": 0}, "attempts=0"),
        ({"initial": "1"}, "initial='1'"),
        ({"initial": "PT1S"}, "initial='PT1S'"),
        ({"initial": "-1s"}, "initial='-1s'"),
        ({"max": float("inf")}, "max=inf"),
        ({"factor": "2s"}, "factor='2s'"),
        ({"factor": 0.5}, "factor=0.5"),
        ({"attempts": 3, "max_attempts": 3}, "twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: object, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        retry_of(wrong)  # type: ignore[arg-type]  # what a user may pass all the same


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        retry_of({"tries": 3})
    for name in ("attempts", "max_attempts", "initial", "initial_delay", "max", "max_delay", "factor"):
        assert name in str(caught.value)
