"""Flows that several tests of replay run."""

from __future__ import annotations

FAILS = """
@checkpoint
async def first():
    ran("first")
    return 1


@checkpoint
async def shaky(number):
    ran("shaky")
    raise ValueError("no")


@checkpoint
async def last(number):
    ran("last")
    return number


@flow
async def failing():
    number = await first()
    BODY
    return await last(number)
"""

RACE = """
@checkpoint
async def quick():
    ran("quick")
    return "quick"


@checkpoint
async def slow():
    ran("slow")
    await asyncio.sleep(60)
    return "slow"


@flow
async def race():
    tasks = [asyncio.create_task(slow()), asyncio.create_task(quick())]
    done, late = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in late:
        task.cancel()
    await asyncio.wait(tasks)
    return done.pop().result() + ENDING


ENDING = "."
"""

STEPS = """
@checkpoint
async def one(text):
    ran("one")
    return text + "1"


@checkpoint
async def two(text):
    ran("two")
    return text + "2"


@checkpoint
async def three(text):
    ran("three")
    return text + "3"


@flow
async def steps(text):
    return await three(await two(await one(text)))
"""
