"""What `--override` stands for: checked against the boundary's type before anything runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kitaru.errors import KitaruError, UsageError
from kitaru.runtime.annotations import types_in
from kitaru.runtime.calls.question import Settings
from kitaru.runtime.calls.reply import Reply, reply_from_json
from kitaru.runtime.durable import VALUE_TYPES
from kitaru.runtime.keys import name_of
from kitaru.runtime.replay import Record
from kitaru.runtime.work import declared
from kitaru.store import codec

if TYPE_CHECKING:
    from kitaru.runtime.core import Core

_PLAIN: Final = (bool, int, float, str, bytes, list, tuple, dict, set, frozenset, type(None))


async def told(runtime: Core, record: Record, text: str) -> bytes:
    """An override as it is recorded: JSON, or, where the boundary gives a text, that text.

    Args:
        runtime: Where the source's values are.
        record: The source's record of the boundary.
        text: As it was typed.

    Raises:
        UsageError: It does not fit what the boundary gives.
    """
    before = await _outcome(runtime, record)
    wanted = await _types(runtime, record, before) or [object]
    try:
        values = [json.loads(text), text]
        problem = UsageError("")
    except (ValueError, RecursionError) as error:
        values = [text]
        problem = UsageError(f"it is not JSON: {error}", hint="A text needs quotes: '\"text\"'.")
    if wanted == [object] and not isinstance(before, str):
        values = values[:-1]  # only a text may be written without quotes
    for value in values:
        for annotation in wanted:
            try:
                reply_from_json(value) if annotation is Reply else codec.from_json(value, annotation)
            except UsageError as error:
                problem = problem if problem.message else error
            else:
                return codec.encode(value)
    raise UsageError(f"the override of {record.key} does not fit: {problem.message}", hint=problem.hint)


async def _types(runtime: Core, record: Record, before: object) -> list[object]:
    """What the boundary may give; empty where it is not known."""
    kind = record.event.kind
    if kind == "llm":
        return await _answer_types(runtime, record, before)
    if kind in VALUE_TYPES:
        return [VALUE_TYPES[kind]]
    functions = [work.function for work in declared(name_of(record.key)) if work.kind == kind]
    found: list[object] = []
    for function in functions:
        found += types_in(function, "return") or [object]
    return [] if object in found else found


async def _answer_types(runtime: Core, record: Record, before: object) -> list[object]:
    try:
        inputs: Any = codec.decoder()(await runtime.value(record.event.inputs))
        settings = msgspec.convert(inputs[1], Settings)
    except (KitaruError, msgspec.ValidationError, TypeError, ValueError, IndexError):
        return []
    if settings.whole:
        return [Reply]
    if settings.form is None:
        return [str]
    if settings.form["kind"] == "json":
        return [dict[str, Any]]
    # The log knows the schema's digest only; the answer before knows its class.
    return [] if isinstance(before, _PLAIN) else [type(before)]


async def _outcome(runtime: Core, record: Record) -> object:
    if record.state != "completed":
        return None
    try:
        return codec.decoder()(await runtime.value(record.outcome))
    except KitaruError:
        return None
