"""A model call as the engine sees it: its inputs, its digests, its events."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import msgspec

from kitaru.runtime.blobs import blob_of
from kitaru.runtime.call import Call, current_place
from kitaru.runtime.calls.answered import as_recorded, reply_of, said_in
from kitaru.runtime.calls.conversation import Message, Nodes, chained, normalised, without_more
from kitaru.runtime.calls.packed import pack
from kitaru.runtime.calls.question import Sending, Settings
from kitaru.runtime.calls.reply import Reply, reply_from_json, with_tools
from kitaru.runtime.log import log
from kitaru.runtime.threads import wait_for
from kitaru.runtime.work import Inputs, Work, make_call, stand_in
from kitaru.store import codec
from kitaru.store.artifacts import node
from kitaru.store.events import Blob, BoundaryEvent, Kind, LlmCompleted, LlmRecord, LlmRequested, Ref

if TYPE_CHECKING:
    import types

    from kitaru.runtime.calls.answers import Form
    from kitaru.runtime.calls.asked import Asked
    from kitaru.runtime.calls.tools import ToolSource
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flight import Flight

Prompt: TypeAlias = str | Call[str] | Sequence[Mapping[str, object]]
"""A prompt: its text, or messages with `role` and `content`."""

SHORT_PROMPT: Final = 1024
"""Bytes up to which a conversation stands in the event's inputs; a longer one is a chain of artifacts."""

LOGGED: Final = "llm.warning"
"""The name of the log entry for a warning of a model call."""

_NO_TOOLS: Final[Mapping[str, ToolSource]] = {}


class Performed(msgspec.Struct, frozen=True):
    """What is recorded of an answer beside its outcome: the body that arrived, packed, and the call's record."""

    response: bytes
    record: LlmRecord


class LlmWork(Work):
    """One model call, as the engine sees it."""

    kind: ClassVar[Kind] = "llm"
    announced = True
    prepares = True

    def __init__(
        self,
        name: str,
        prompt: Prompt,
        system: str | None,
        attachments: Sequence[object],
        settings: Settings,
        sending: Sending,
        form: Form | None,
        tools: Mapping[str, ToolSource] = _NO_TOOLS,
    ) -> None:
        super().__init__(name)
        self._tools = tools
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

    @property
    def base_url(self) -> str | None:
        """The address that the call names."""
        return self._settings.base_url

    # -- inputs -------------------------------------------------------------------------------------------------------

    def encode_inputs(self, inputs: Inputs) -> None:
        messages = self.written()
        asked = msgspec.to_builtins(self._settings)
        data = codec.encode([messages, asked], unknown=stand_in)
        copy: Any = codec.decoder()(data)
        self._messages = copy[0]
        if len(data) > SHORT_PROMPT:
            self._head, self._nodes = chained(self._messages)
            data = codec.encode([self._head, asked])
        inputs.data = data
        inputs.fingerprint = self._fingerprint(asked)

    def _fingerprint(self, asked: dict[str, Any]) -> bytes:
        said, tools = without_more(self._messages), asked.get("tools", ())
        if said is self._messages and not any("more" in tool for tool in tools):
            return _fingerprint([self._head or said, asked])
        # Logs of before have no such fields: to them the same call has to be the same.
        asked = {**asked, "tools": [{key: tool[key] for key in tool if key != "more"} for tool in tools]}
        if not tools:
            del asked["tools"]
        head = chained(said)[0] if len(codec.encode([said, asked])) > SHORT_PROMPT else b""
        return _fingerprint([head or said, asked])

    def written(self) -> list[Message]:
        """The prompt as messages in the form that is recorded."""
        messages = normalised(self._prompt, self._system, self.name)
        if self._attachments:
            from kitaru.runtime.calls.attachments import attached

            messages = attached(messages, self._attachments)
        return messages

    @property
    def schema(self) -> dict[str, object] | None:
        """The JSON schema of the answer, where the call names a type for it."""
        return self._form.output().schema if self._form is not None and self._form.type != dict[str, Any] else None

    def version(self, execution: Execution) -> bytes:
        if not self._version:
            from kitaru.runtime.calls.asked import named_address

            resolved = [[one.call, named_address(one.route)] for one in self.asked(execution)]
            self._version = _fingerprint(resolved)
        return self._version

    def asked(self, execution: Execution) -> tuple[Asked, ...]:
        """The call for each route that it may take, checked against what the providers have.

        Raises:
            UsageError: The call cannot be right; nothing is recorded or sent.
        """
        if not self._asked:
            from kitaru.runtime.calls.asked import asked_of

            registry, instead = execution.registry, execution.rules.models
            self._asked = asked_of(self._settings, self._messages, self._form, registry, instead)
        return self._asked

    # -- the call -----------------------------------------------------------------------------------------------------

    async def perform(self, flight: Flight) -> object:
        from kitaru.runtime.calls.asking import Asking

        asking = Asking(flight, self.asked(flight.execution), self._sending, self._form, whole=self._settings.whole)
        flight.unrecorded = asking.unrecorded
        answer = await asking.answer()
        self._warn(flight, answer.record)
        value: Any = answer.value
        record = answer.record
        if self._settings.whole:
            value, record = as_recorded(answer.sent.reply, record, raw=self._settings.raw)
            beside = codec.encode({"reasoning": record.reasoning, "refusal": record.refusal})
            flight.execution.secrets.check(beside, f"the result of {self.name}(): value")
        in_outcome = record.whole or (self._form is None and not self._settings.whole)
        flight.result = Performed(
            pack(answer.sent.reply.raw, said_in(value, record) if in_outcome else None),
            record,
        )
        return value

    def _warn(self, flight: Flight, record: LlmRecord) -> None:
        """Log what the caller should know of an answer: each warning once a run, which may make thousands of calls."""
        execution = flight.execution
        for text in record.warnings:
            if (record.model, text) not in execution.warned:
                execution.warned.add((record.model, text))
                log().warning(LOGGED, run_id=execution.run, key=flight.key, model=record.model, warning=text)

    def encode_outcome(self, value: object) -> bytes:
        data = super().encode_outcome(value)
        # As the conversation's next turn will have it: what is appended to it then is in the store already.
        return node([self._head], data) if self._head and self._settings.whole and isinstance(value, dict) else data

    def decode_outcome(self, data: bytes) -> object:
        return with_tools(self._decoder()(data), self._tools)

    def value_of(self, data: bytes, event: BoundaryEvent) -> object:
        if isinstance(event, LlmCompleted) and event.llm.whole:
            return with_tools(reply_of(data, event.llm), self._tools)
        return self.decode_outcome(data)

    def overridden(self, data: bytes) -> object:
        value = codec.decoder()(data)
        if self._settings.whole:
            return with_tools(reply_from_json(value), self._tools)
        return value if self._form is None else codec.from_json(value, self._form.type)

    def _decoder(self) -> codec.Decode:
        if self._form is not None:
            return codec.decoder(self._form.type)
        return _WHOLE if self._settings.whole else _TEXT

    async def run(self, call: Call[Any]) -> object:
        del call
        return await self._alone()

    async def _alone(self) -> object:
        from kitaru.runtime.calls.alone import one_call

        return with_tools(await one_call(self), self._tools)

    def wait_in_thread(self, call: Call[Any]) -> None:
        if call.place is not None:
            wait_for(call)
            return
        from kitaru.runtime.default import default_core

        try:
            call.settle(default_core().background(self._alone()).result())
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
        performed: Any = flight.result
        if isinstance(outcome, Ref) and performed.record.whole and self._head:
            flight.execution.named.add(outcome.digest)
        return LlmCompleted(
            1, at, flight.key, "llm", flight.fingerprint, flight.code, flight.inputs, flight.order, flight.attempt,
            flight.started, outcome, blob_of(performed.response)[0], performed.record,
        )  # fmt: skip

    def outcome_artifacts(self, flight: Flight) -> dict[bytes, bytes]:
        performed: Any = flight.result
        return blob_of(performed.response)[1] if performed is not None else {}

    def again(self, frame: types.FrameType) -> Call[Any]:
        """The same call, made in the flow that this code stands in."""
        return make_call(copy.copy(self), current_place(), (), {}, frame)


def _fingerprint(value: object) -> bytes:
    """The digest of what is plain data, as almost every call is; by the codec's canonical form where it is not."""
    try:
        return codec.fingerprint(_SORTED.encode(value))
    except (TypeError, ValueError, OverflowError):
        return codec.fingerprint(codec.canonical(value))


_SORTED: Final = msgspec.msgpack.Encoder(order="sorted")
_TEXT: Final = codec.decoder(str)
_WHOLE: Final = codec.decoder(Reply)
