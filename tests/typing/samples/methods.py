"""Checkpoints on methods: `self` is bound, and left out of the fingerprint where asked."""

from __future__ import annotations

from typing import assert_type

from kitaru import Call, checkpoint, flow


class Researcher:
    def __init__(self, language: str) -> None:
        self.language = language

    @checkpoint(ignore=["self"])
    async def search(self, topic: str, *, limit: int = 3) -> list[str]:
        return [f"{topic} ({self.language})"] * limit

    @checkpoint(ignore=["self"])
    def count(self, topic: str) -> int:
        return len(topic)


@flow
async def research(topic: str) -> list[str]:
    researcher = Researcher("en")
    found = researcher.search(topic, limit=2)
    assert_type(found, Call[list[str]])
    assert_type(await found, list[str])
    assert_type(await researcher.count(topic), int)
    assert_type(researcher.search.submit(topic), Call[list[str]])
    return await found
