"""A model call as the engine sees it: its inputs, its digests, its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import msgspec

from kitaru.errors import UsageError
from kitaru.runtime.blobs import blob_of
from kitaru.runtime.call import Call, current_place
from kitaru.runtime.conversation import Message, Nodes, chained, neutral, normalised, public_message
from kitaru.runtime.gateway import gateway
from kitaru.runtime.handle import outermost
from kitaru.runtime.image import run_environment
from kitaru.runtime.question import Sending, Settings
from kitaru.runtime.reply import Reply, ToolCall
from kitaru.runtime.routes import Route, filled, placed, route
from kitaru.runtime.threads import wait_for
from kitaru.runtime.work import Inputs, Work, make_call, stand_in
from kitaru.store import codec
from kitaru.store.events import Blob, BoundaryEvent, Kind, LlmCompleted, LlmRequested, Ref

if TYPE_CHECKING:
    import types

    from kitaru.runtime.answers import Form
    from kitaru.runtime.asking import Answer, Asked
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flight import Flight

Prompt: TypeAlias = str | Call[str] | Sequence[Mapping[str, object]]
"""A prompt: its text, or messages with `role` and `content`."""

SHORT_PROMPT: Final = 1024
"""Bytes up to which a conversation stands in the event's inputs; a longer one is a chain of artifacts."""


class LlmWork(Work):
    """One model call, as the engine sees it."""

    kind: ClassVar[Kind] = "llm"
    announced = True

    def __init__(
        self,
        name: str,
        prompt: Prompt,
        system: str | None,
        attachments: Sequence[object],
        settings: Settings,
        sending: Sending,
        form: Form | None,
    ) -> None:
        super().__init__(name)
        self._prompt = prompt
        self._system = system
        self._attachments = attachments
        self._settings = settings
        self._sending = sending
        self._form = form
        self._messages: list[Message] = []
        self._nodes: Nodes = {}
        self._head = b""
        self._asked: tuple[Asked, ...] = ()
        self._version = b""

    # -- inputs -------------------------------------------------------------------------------------------------------

    def encode_inputs(self, inputs: Inputs) -> None:
        messages = normalised(self._prompt, self._system, self.name)
        if self._attachments:
            from kitaru.runtime.attachments import attached

            messages = attached(messages, self._attachments)
        asked = msgspec.to_builtins(self._settings)
        data = codec.encode([messages, asked], unknown=stand_in)
        copy: Any = codec.decoder()(data)
        self._messages = copy[0]
        if len(data) > SHORT_PROMPT:
            self._head, self._nodes = chained(self._messages)
            data = codec.encode([self._head, asked])
        inputs.data = data
        inputs.fingerprint = codec.fingerprint(codec.canonical([self._head or self._messages, asked]))

    def version(self, execution: Execution) -> bytes:
        if not self._version:
            resolved = [[one.call, _named_address(one.route)] for one in self.asked(execution)]
            self._version = codec.fingerprint(codec.canonical(resolved))
        return self._version

    def asked(self, execution: Execution) -> tuple[Asked, ...]:
        """The call for each route that it may take, checked against what the providers have.

        Raises:
            UsageError: The call cannot be right; nothing is recorded or sent.
        """
        if not self._asked:
            from kitaru.adapters import provider
            from kitaru.adapters.fit import fit

            messages = neutral(self._messages)
            found = tuple(self._for(one, messages) for one in self._routes(execution))
            for one in found:
                fit(one.call, provider(one.call.provider))
            self._asked = found
        return self._asked

    def _routes(self, execution: Execution) -> list[Route]:
        """The routes in the order in which they are tried, each model once."""
        registry, instead = execution.registry, execution.rules.models
        first = _placed(route(self._settings.model, registry, instead), self._settings.base_url)
        found = [first]
        todo = [*(route(name, registry, instead) for name in self._settings.fallbacks), *first.fallbacks]
        while todo:
            one = todo.pop(0)
            todo[:0] = one.fallbacks
            one = _placed(one)
            if all((one.name, one.base_url) != (known.name, known.base_url) for known in found):
                found.append(one)
        return found

    def _for(self, way: Route, messages: tuple[Any, ...]) -> Asked:
        from kitaru.adapters import ModelCall, Output, Tool, ToolChoice
        from kitaru.adapters import Settings as AdapterSettings
        from kitaru.runtime.asking import Asked

        written = self._settings
        settings = AdapterSettings(
            temperature=written.temperature,
            max_tokens=written.max_tokens,
            top_p=written.top_p,
            stop=written.stop,
            seed=written.seed,
            reasoning=written.reasoning,
            context_length=written.context_length,
            extra=dict(written.extra.get(way.provider, {})),
        )
        call = ModelCall(
            provider=way.provider,
            model=way.model,
            messages=messages,
            settings=filled(settings, way.settings),
            tools=msgspec.convert(written.tools, tuple[Tool, ...]),
            tool_choice=msgspec.convert(written.tool_choice, ToolChoice | None),
            output=self._form.output() if self._form is not None else Output(),
            strict=written.strict,
        )
        return Asked(way, call)

    # -- the call -----------------------------------------------------------------------------------------------------

    async def perform(self, flight: Flight) -> object:
        from kitaru.runtime.asking import Asking

        asking = Asking(flight, self.asked(flight.execution), self._sending, self._form, whole=self._settings.whole)
        answer = await asking.answer()
        flight.result = answer
        return _reply(answer) if self._settings.whole else answer.value

    def decode_outcome(self, data: bytes) -> object:
        return self._decoder()(data)

    def overridden(self, data: bytes) -> object:
        value = codec.decoder()(data)
        return value if self._form is None else codec.from_json(value, self._form.type)

    def _decoder(self) -> codec.Decode:
        if self._form is not None:
            return codec.decoder(self._form.type)
        return _WHOLE if self._settings.whole else _TEXT

    async def run(self, call: Call[Any]) -> object:
        del call
        return await one_call(self)

    def wait_in_thread(self, call: Call[Any]) -> None:
        if call.place is not None:
            wait_for(call)
            return
        from kitaru.runtime.default import default_runtime

        try:
            call.settle(default_runtime().background(one_call(self)).result())
        except Exception as error:
            call.fail(error)

    # -- what is recorded ---------------------------------------------------------------------------------------------

    def artifacts(self, flight: Flight) -> dict[bytes, bytes]:
        named = flight.execution.named
        new = {digest: content for digest, content in self._nodes.items() if digest not in named}
        named.update(new)
        return new

    def started_event(self, flight: Flight, at: float) -> BoundaryEvent:
        head = Ref(self._head, len(self._nodes[self._head])) if self._head else None
        return LlmRequested(
            v=1, at=at, key=flight.key, kind="llm", fingerprint=flight.fingerprint, code=flight.code,
            inputs=flight.inputs, order=flight.order, attempt=flight.attempt,
            model=self.asked(flight.execution)[0].route.name, prompt=head,
        )  # fmt: skip

    def completed_event(self, flight: Flight, at: float, outcome: Blob) -> BoundaryEvent:
        answer: Any = flight.result
        response, _ = blob_of(answer.sent.reply.raw)
        return LlmCompleted(
            1, at, flight.key, "llm", flight.fingerprint, flight.code, flight.inputs, flight.order, flight.attempt,
            flight.started, outcome, response, answer.record,
        )  # fmt: skip

    def outcome_artifacts(self, flight: Flight) -> dict[bytes, bytes]:
        answer: Any = flight.result
        return blob_of(answer.sent.reply.raw)[1] if answer is not None else {}

    def again(self, frame: types.FrameType) -> Call[Any]:
        """The same call, made in the flow that this code stands in."""
        work = LlmWork(
            self.name, self._prompt, self._system, self._attachments, self._settings, self._sending, self._form
        )
        return make_call(work, current_place(), (), {}, frame)


def _placed(found: Route, base_url: str | None = None) -> Route:
    try:
        return placed(found, base_url, run_environment())
    except UsageError:
        # Through a gateway, a provider needs no address of its own.
        if gateway(run_environment()) is None:
            raise
        return found


def _named_address(found: Route) -> str | None:
    """The address, where the call or its alias names one: what the environment says does not change what is asked."""
    return found.base_url if found.base_url_source in ("argument", "alias") else None


_TEXT: Final = codec.decoder(str)
_WHOLE: Final = codec.decoder(Reply)


def _reply(answer: Answer) -> Reply:
    reply, record = answer.sent.reply, answer.record
    return Reply(
        text=reply.text,
        message=public_message(reply.message),
        finish=reply.finish,
        usage=record.usage,
        model=reply.model,
        provider=record.provider,
        request_id=reply.request_id,
        latency=record.latency,
        cost=Decimal(record.cost) if record.cost else None,
        warnings=record.warnings,
        tool_calls=tuple(ToolCall(call.id, call.name, call.arguments) for call in reply.tool_calls),
        reasoning=reply.reasoning,
        refusal=reply.refusal,
    )


async def one_call(work: LlmWork) -> object:
    """A model call outside any flow: a run of its own, so that it is tracked too."""
    import sys

    from kitaru.runtime.default import default_runtime
    from kitaru.runtime.flow import Flow, FlowWork

    async def llm() -> object:
        return await work.again(sys._getframe(0))

    flow: Flow[[], object] = Flow(FlowWork(llm, "llm"))
    return await outermost(default_runtime().start(flow))
