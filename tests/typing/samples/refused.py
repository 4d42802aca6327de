"""What a checker must refuse. Each ignore is checked to be needed, so a call that became untyped fails the test."""

from __future__ import annotations

from typing import assert_type

import kitaru
from kitaru import checkpoint, flow


@checkpoint
async def count(text: str, *, limit: int = 3) -> int:
    return min(len(text), limit)


class Counter:
    @checkpoint(ignore=["self"])
    async def count(self, text: str) -> int:
        return len(text)


@flow
async def counted(text: str) -> int:
    await count(3)  # type: ignore[arg-type]  # an int is no text
    await count(text, 3)  # type: ignore[call-arg]  # limit is keyword-only
    await count(text, name="other")  # type: ignore[call-arg]  # settings go through .options
    await Counter().count()  # type: ignore[call-arg]  # only self is bound
    count(text) + 1  # type: ignore[operator]  # a handle is not its value
    return await count(text)


def script() -> None:
    counted.run(text=3)  # type: ignore[arg-type]  # inputs are typed there, too
    counted.run("text", run_id="one")  # type: ignore[call-arg]  # settings go through .options
    counted.options(run_identity="one")  # type: ignore[call-arg]  # no such setting
    text: str = counted.run("text").wait()  # type: ignore[assignment]  # the result is an int
    assert_type(text, str)


async def model() -> None:
    await kitaru.llm(3, model="fast")  # type: ignore[call-overload]  # neither a prompt nor messages
