"""How many cases a test draws that generates them: a slice every day, all of them under KITARU_LAWS=all."""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

ALL: Final = os.environ.get("KITARU_LAWS") == "all"
PROFILE: Final = "all" if ALL else "slice"


def cases(number: int) -> int:
    """Return how many of so many cases this run draws."""
    return number if ALL else max(number // 4, 25)


# Neither a busy machine nor one slow case fails a test.
settings.register_profile(PROFILE, max_examples=cases(100), deadline=None)
