"""What the adapters' tests share: each way of speaking HTTP, and a transport whose waits take no time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kitaru.adapters import Transport
from tests.adapters.scripted import Clock


@pytest.fixture(params=["plain", "fast"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test with this fixture goes over both ways of speaking HTTP."""
    chosen: str = request.param
    monkeypatch.setenv("KITARU_HTTP", chosen)
    return chosen


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def transport(clock: Clock, engine: str) -> AsyncIterator[Transport]:
    async with clock.transport() as made:
        yield made
