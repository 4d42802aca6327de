"""Recorded values and exceptions as people see them."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kitaru.errors import DecodeError, KitaruError
from kitaru.runtime.calls.answered import reply_of
from kitaru.runtime.calls.conversation import unchained
from kitaru.store import codec
from kitaru.store.events import Blob, LlmCompleted, StepCompleted

if TYPE_CHECKING:
    from kitaru.runtime.core import Core

_FRAME: Final = re.compile(
    r'^[ |]+File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)\n(?:[ |]{4,}(?P<code>.+)\n)?', re.MULTILINE
)
_PACKAGE: Final = str(Path(__file__).resolve().parents[2])
_STDLIB: Final = str(Path(re.__file__).resolve().parents[1])


class Failure(msgspec.Struct, frozen=True):
    """What an exception was, and the line of the project's code that it came from."""

    type: str
    message: str
    file: str = ""
    line: int = 0
    code: str = ""


async def shown_value(runtime: Core, blob: Blob) -> object:
    """An encoded value as JSON shows it.

    Raises:
        StoreError: It is an artifact that cannot be read.
    """
    return codec.display(await runtime.value(blob)) if blob else None


async def outcome_of(runtime: Core, event: StepCompleted | LlmCompleted) -> object:
    """As `shown_value`, for what a boundary gave."""
    if not isinstance(event, LlmCompleted) or not event.llm.whole:
        return await shown_value(runtime, event.outcome)
    return codec.display(codec.encode(reply_of(await runtime.value(event.outcome), event.llm)))


async def displayed(runtime: Core, blob: Blob) -> object:
    """As `shown_value`; an artifact that cannot be read is shown as that."""
    return await _or_unreadable(shown_value(runtime, blob))


async def outcome_shown(runtime: Core, event: StepCompleted | LlmCompleted) -> object:
    """As `outcome_of`; an artifact that cannot be read is shown as that."""
    return await _or_unreadable(outcome_of(runtime, event))


async def _or_unreadable(value: Awaitable[object]) -> object:
    try:
        return await value
    except KitaruError as error:
        return {"unreadable": error.message}


async def tools_called(runtime: Core, event: LlmCompleted) -> tuple[str, ...]:
    """The tools that a model's whole answer calls."""
    if not event.llm.whole or event.llm.finish != "tool_calls":
        return ()
    try:
        reply = reply_of(await runtime.value(event.outcome), event.llm)
    except KitaruError:
        return ()
    return tuple(call.name for call in reply.tool_calls)


async def conversation_of(runtime: Core, blob: Blob) -> tuple[list[dict[str, Any]], object]:
    """The messages of a model call and its settings, from its encoded inputs."""
    try:
        data: Any = codec.decoder()(await runtime.value(blob))
        head, settings = data
        messages = await unchained(head, runtime.store.artifact) if isinstance(head, bytes) else head
    except (KitaruError, DecodeError, ValueError, TypeError):
        return [], None
    return [dict(message) for message in messages], settings


async def failure_of(runtime: Core, blob: Blob) -> Failure:
    """A recorded exception, with the last line of its traceback that is the project's own code."""
    try:
        data = await runtime.value(blob)
        name, message = codec.describe_exception(data)
        text = codec.format_exception(data)
    except KitaruError as error:
        return Failure("unreadable", error.message)
    at = _own_line(text)
    shown = name.replace(":", ".")
    if at is None:
        return Failure(shown, message)
    return Failure(shown, message, at["file"], int(at["line"]), (at["code"] or "").strip())


def _own_line(text: str) -> re.Match[str] | None:
    last = None
    for frame in _FRAME.finditer(text):
        if is_own(frame["file"]):
            last = frame
    return last


def is_own(file: str) -> bool:
    """Whether a file is the project's, and not of an installed package, of Python itself, or of Kitaru."""
    return not file.startswith((_PACKAGE, "<", f"{_STDLIB}/")) and "site-packages" not in file


async def traceback_of(runtime: Core, blob: Blob) -> str:
    """A recorded exception's traceback, with its causes."""
    try:
        return codec.format_exception(await runtime.value(blob))
    except KitaruError as error:
        return error.message
