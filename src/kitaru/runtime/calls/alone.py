"""A model call outside any flow: a run of its own, which can be resumed and replayed from its log alone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import msgspec

from kitaru.errors import NotFoundError
from kitaru.runtime.calls.answers import Form, form_of
from kitaru.runtime.calls.conversation import Message, unchained
from kitaru.runtime.calls.question import Sending, Settings
from kitaru.runtime.calls.shapes import Shape
from kitaru.runtime.calls.work import LlmWork
from kitaru.runtime.handle import outermost
from kitaru.runtime.keys import name_of
from kitaru.store import codec
from kitaru.store.events import BoundaryEvent, Copied, FlowRef

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.flow import Flow

_BOUNDARY = msgspec.msgpack.Decoder(BoundaryEvent)


async def one_call(work: LlmWork) -> object:
    """Make a model call outside any flow."""
    from kitaru.runtime.default import default_core

    flow = _flow(work)
    return await outermost(default_core().start(flow, work.schema) if work.schema else default_core().start(flow))


def is_one_call(flow: FlowRef) -> bool:
    """Whether a run is a model call of its own."""
    return flow.module.startswith("kitaru.runtime.calls.") and flow.name == "llm"


async def recorded_call(runtime: Core, run: str) -> Flow[..., Any]:
    """The flow of a run that is a model call of its own, made from its log.

    Raises:
        NotFoundError: The process ended before the call was recorded.
    """
    schema = None
    for recorded in await runtime.events(run):
        event = recorded.event
        if isinstance(event, Copied):
            event = _BOUNDARY.decode(event.event)
        if isinstance(event, BoundaryEvent) and event.kind == "llm":
            schema = _inputs(await runtime.value((await runtime.first_event(run)).inputs)).get("schema")
            data: Any = codec.decoder()(await runtime.value(event.inputs))
            head, written = data
            messages = await unchained(head, runtime.store.artifact) if isinstance(head, bytes) else head
            settings = msgspec.convert(written, Settings)
            return _flow(_Recorded(name_of(event.key), messages, settings, _form(settings.form, schema)))
    raise NotFoundError(
        f"run {run} is a model call that ended before its prompt was recorded", hint="Nothing was sent: call it again."
    )


class _Recorded(LlmWork):
    """A call as its log has it. What its answer was read as may not be loaded here: it is shown as JSON has it."""

    def __init__(self, name: str, messages: list[Message], settings: Settings, form: Form | None) -> None:
        super().__init__(name, "", None, (), settings, Sending(), form)
        self._recorded = messages

    def written(self) -> list[Message]:
        return self._recorded

    def decode_outcome(self, data: bytes) -> object:
        return codec.display(data) if self._form is not None else super().decode_outcome(data)


def _flow(work: LlmWork) -> Flow[..., Any]:
    from kitaru.runtime.flow import Flow, FlowWork

    async def llm(schema: dict[str, Any] | None = None) -> object:
        del schema  # of the answer: so that the log has all that the call needs
        return await work.again(sys._getframe(0))

    class CallFlow(FlowWork):
        def decode_outcome(self, data: bytes) -> object:
            return work.decode_outcome(data)

    return Flow(CallFlow(llm, "llm"))


def _inputs(data: bytes) -> dict[str, Any]:
    inputs: Any = codec.decoder()(data)
    return dict(inputs)


def _form(described: Any, schema: dict[str, object] | None) -> Form | None:
    if described is None:
        return None
    if described["kind"] == "json":
        return form_of(json=True, json_keys=described.get("keys"))
    if schema is None:
        raise NotFoundError(
            "the log of this call does not hold the schema of its answer",
            hint="An older version recorded it: call it again.",
        )
    return Form(object, described["name"], Shape(schema, _as_it_is), ())


def _as_it_is(value: object, at: str, reading: object) -> object:
    del at, reading
    return value
