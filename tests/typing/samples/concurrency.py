"""Calls under asyncio's own combinators: each takes a handle as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, assert_type

import kitaru
from kitaru import Call, checkpoint, flow


@checkpoint
async def words(text: str) -> list[str]:
    return text.split()


@checkpoint
async def length(text: str) -> int:
    return len(text)


@flow
async def tasks(text: str) -> int:
    task = asyncio.create_task(length(text))
    assert_type(task, asyncio.Task[int])
    assert_type(await task, int)
    submitted = length(text).submit()
    assert_type(submitted, Call[int])
    assert_type(submitted.task, asyncio.Task[int])
    assert_type(length.submit(text), Call[int])
    return await submitted


@flow
async def groups(text: str) -> int:
    async with asyncio.TaskGroup() as group:
        first = group.create_task(words(text))
        second = group.create_task(length(text))
    assert_type(first.result(), list[str])
    assert_type(second.result(), int)
    return second.result()


@flow
async def gathered(text: str) -> int:
    both = await asyncio.gather(words(text), length(text))
    assert_type(both, tuple[list[str], int])
    many = await asyncio.gather(*(length(word) for word in both[0]))
    assert_type(many, list[int])
    assert_type(await asyncio.wait_for(length(text), timeout=1.0), int)
    assert_type(await kitaru.gather(words(text), length(text)), tuple[list[str], int])
    with kitaru.scope("again"):
        counted = await length(text)
    assert_type(counted, int)
    return counted


def a_call_is_a_coroutine(text: str) -> Coroutine[Any, Any, int]:
    return length(text)


def a_script_enters_a_loop() -> None:
    assert_type(asyncio.run(gathered("some words")), int)
