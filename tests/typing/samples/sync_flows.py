"""A sync flow: the form of the public guides."""

from __future__ import annotations

from typing import assert_type

import kitaru
from kitaru import Call, checkpoint, flow


@checkpoint
def fetch(url: str) -> bytes:
    return url.encode()


@checkpoint
def summarise(text: str) -> str:
    return text[:10]


@flow
def reader(url: str) -> str:
    page = fetch(url)
    assert_type(page, Call[bytes])
    assert_type(page.load(), bytes)
    outline = kitaru.llm(f"Outline {page.load()!r}", model="fast", name="outline_call")
    assert_type(outline.load(), str)
    assert_type(summarise(outline.ref), Call[str])  # the un-loaded handle goes into a checkpoint
    submitted = fetch.submit(url)
    assert_type(submitted, Call[bytes])
    assert_type(submitted.load(), bytes)
    pages = fetch.map([url, url])
    assert_type(pages, list[Call[bytes]])
    return outline.load()


def script() -> None:
    handle = reader.run("https://example.com")
    assert_type(handle, kitaru.RunHandle[str])
    assert_type(handle.id, str)
    assert_type(handle.wait(), str)
