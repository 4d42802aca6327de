"""`kitaru.llm`: a model call that is a boundary."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

import msgspec

from kitaru.errors import AnswerError, CredentialError, UsageError
from kitaru.runtime.blobs import blob_of
from kitaru.runtime.call import Call, current_place
from kitaru.runtime.conversation import Message, Nodes, chained, normalised
from kitaru.runtime.handle import outermost
from kitaru.runtime.keys import valid_name
from kitaru.runtime.models import resolve
from kitaru.runtime.threads import wait_for
from kitaru.runtime.work import Inputs, Work, make_call, stand_in
from kitaru.store import codec
from kitaru.store.events import Attempt as RecordedAttempt
from kitaru.store.events import Blob, BoundaryEvent, Kind, LlmCompleted, LlmRecord, LlmRequested, Ref, Usage

if TYPE_CHECKING:
    from kitaru.adapters import ModelCall, RetryPolicy, SecretStr
    from kitaru.adapters import Sent as SentCall
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flight import Flight

Prompt: TypeAlias = str | Call[str] | Sequence[Mapping[str, object]]
"""A prompt: its text, or messages with `role` and `content`."""

SHORT_PROMPT: Final = 1024
"""Bytes up to which a conversation stands in the event's inputs; a longer one is a chain of artifacts."""


class Reply(msgspec.Struct, frozen=True):
    """A model's whole answer.

    `message` is what to append for the next turn. `latency` is in seconds, waits between attempts included. `cost` is
    in USD, None where it is not known.
    """

    text: str
    message: dict[str, Any]
    finish: str
    usage: Usage
    model: str
    provider: str
    request_id: str
    latency: float
    cost: Decimal | None = None
    warnings: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call asks for beside its prompt: part of its fingerprint."""

    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    base_url: str | None = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    whole: bool = False


class Sending(msgspec.Struct, frozen=True):
    """How a call is sent: never recorded."""

    api_key: str | SecretStr | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    timeout: float | None = None
    retry: int | RetryPolicy | None = None


class LlmWork(Work):
    """One model call, as the engine sees it."""

    kind: ClassVar[Kind] = "llm"
    announced = True

    def __init__(self, name: str, prompt: Prompt, system: str | None, settings: Settings, sending: Sending) -> None:
        super().__init__(name)
        self._prompt = prompt
        self._system = system
        self._settings = settings
        self._sending = sending
        self._messages: list[Message] = []
        self._nodes: Nodes = {}
        self._head = b""
        self._version = b""

    # -- inputs -------------------------------------------------------------------------------------------------------

    def encode_inputs(self, inputs: Inputs) -> None:
        messages = normalised(self._prompt, self._system, self.name)
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
            call = self._call(execution)
            self._version = codec.fingerprint(codec.canonical([call, self._settings.base_url]))
        return self._version

    def _call(self, execution: Execution) -> ModelCall:
        from kitaru.adapters import Message as AdapterMessage
        from kitaru.adapters import ModelCall, split_model
        from kitaru.adapters import Settings as AdapterSettings

        written = self._settings
        name = resolve(written.model, execution.registry, execution.rules.models)
        provider, model = split_model(name)
        return ModelCall(
            provider=provider,
            model=model,
            messages=tuple(msgspec.convert(message, AdapterMessage) for message in self._messages),
            settings=AdapterSettings(
                temperature=written.temperature,
                max_tokens=written.max_tokens,
                top_p=written.top_p,
                stop=written.stop,
                seed=written.seed,
                extra=written.extra,
            ),
        )

    # -- the call -----------------------------------------------------------------------------------------------------

    async def perform(self, flight: Flight) -> object:
        from kitaru.adapters import RetryPolicy, Sent, Timeouts, adapter, attempts_of, reply_of, require_finished

        call = self._call(flight.execution)
        endpoint, source = _endpoint(call.provider, self._settings.base_url, self._sending)
        retry = self._sending.retry
        begun = time.monotonic()
        try:
            sent = await flight.execution.host.transport.send(
                call,
                endpoint,
                adapter(call.provider),
                retry=RetryPolicy(attempts=retry) if isinstance(retry, int) else retry,
                timeout=Timeouts(total=self._sending.timeout) if self._sending.timeout is not None else None,
            )
        except AnswerError as error:
            reply = reply_of(error)
            if reply is None or not self._settings.whole:
                raise
            sent = Sent(reply, attempts_of(error), time.monotonic() - begun, reply.warnings)
        flight.result = (call, sent, source)
        if self._settings.whole:
            return _reply(call, sent)
        return require_finished(call.provider, sent.reply).text

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
        call = self._call(flight.execution)
        return LlmRequested(
            v=1, at=at, key=flight.key, kind="llm", fingerprint=flight.fingerprint, code=flight.code,
            inputs=flight.inputs, order=flight.order, attempt=flight.attempt,
            model=f"{call.provider}/{call.model}", prompt=head,
        )  # fmt: skip

    def completed_event(self, flight: Flight, at: float, outcome: Blob) -> BoundaryEvent:
        result: Any = flight.result
        call, sent, source = result
        reply = sent.reply
        response, _ = blob_of(reply.raw)
        usage = reply.usage
        return LlmCompleted(
            1, at, flight.key, "llm", flight.fingerprint, flight.code, flight.inputs, flight.order, flight.attempt,
            flight.started, outcome, response,
            LlmRecord(
                provider=call.provider, model=f"{call.provider}/{call.model}", answered_by=reply.model,
                finish=reply.finish,
                usage=Usage(usage.input, usage.output, usage.cached_input, usage.cache_write, usage.reasoning),
                latency=sent.latency, request_id=reply.request_id, credential=source,
                attempts=tuple(
                    RecordedAttempt(a.started, a.seconds, a.status, a.error, a.request_id, a.possibly_billed)
                    for a in sent.attempts
                ),
                warnings=sent.warnings,
            ),
        )  # fmt: skip

    def outcome_artifacts(self, flight: Flight) -> dict[bytes, bytes]:
        result: Any = flight.result
        return blob_of(result[1].reply.raw)[1] if result is not None else {}

    def again(self) -> Call[Any]:
        """The same call, made in the flow that this code stands in."""
        place = current_place()
        work = LlmWork(self.name, self._prompt, self._system, self._settings, self._sending)
        return make_call(work, place, (), {}, sys._getframe(1))


def _endpoint(provider_name: str, base_url: str | None, sending: Sending) -> tuple[Any, str]:
    from kitaru.adapters import Endpoint, SecretStr, provider

    row = provider(provider_name)
    address = base_url or row.base_url_from(os.environ)
    if not address:
        raise UsageError(f"{provider_name} has no address of its own", hint="Pass base_url=.")
    key = sending.api_key
    source = "argument" if key else "none"
    if not key:
        for name in row.key_env:
            if value := os.environ.get(name, "").strip():
                key, source = value, "environment"
                break
    if not key and row.key_required and base_url is None and address == row.base_url:
        raise CredentialError(f"no key for {provider_name}", hint=f"Set {' or '.join(row.key_env)}, or pass api_key=.")
    secret = key if isinstance(key, SecretStr) else SecretStr(key) if key else None
    return Endpoint(
        base_url=address, api_key=secret, headers={**row.headers_from(os.environ), **sending.headers}
    ), source


def _reply(call: ModelCall, sent: SentCall) -> Reply:
    reply, usage = sent.reply, sent.reply.usage
    return Reply(
        text=reply.text,
        message=msgspec.to_builtins(reply.message),
        finish=reply.finish,
        usage=Usage(usage.input, usage.output, usage.cached_input, usage.cache_write, usage.reasoning),
        model=reply.model,
        provider=call.provider,
        request_id=reply.request_id,
        latency=sent.latency,
        warnings=sent.warnings,
    )


async def one_call(work: LlmWork) -> object:
    """A model call outside any flow: a run of its own, so that it is tracked too."""
    from kitaru.runtime.default import default_runtime
    from kitaru.runtime.flow import Flow, FlowWork

    async def llm() -> object:
        return await work.again()

    flow: Flow[[], object] = Flow(FlowWork(llm, "llm"))
    return await outermost(default_runtime().start(flow))


class Llm:
    """`kitaru.llm(...)` gives the text; `kitaru.llm.reply(...)` the whole `Reply`."""

    def __call__(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        system: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        top_p: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        name: str = "llm",
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        timeout: float | None = None,
        retry: int | RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Call[str]:
        """Ask a model for a text. In a flow, or inside a checkpoint, the answer is recorded and never asked for twice.

        Args:
            prompt: The text, or messages with `role` and `content`, oldest first.
            model: `provider/model`; by default the one that `KITARU_DEFAULT_MODEL` names.
            system: A system message to go before the prompt.
            temperature: Sampling temperature.
            max_tokens: The most tokens to produce, thinking included.
            top_p: Nucleus sampling.
            stop: A text, or texts, that end the answer.
            seed: For repeatable sampling, as far as the provider keeps it.
            name: The boundary's name.
            base_url: The API's address, where it is not the provider's own.
            api_key: The credential; by default the provider's environment variable. Never recorded.
            timeout: Seconds for the whole call, its retries included.
            retry: The most attempts, or a policy.
            headers: Further HTTP headers; none that carry a credential. Never recorded.
            extra: Further fields of the provider's own request body.

        Raises:
            UsageError: The prompt or a setting cannot be right.
            ModelError: When awaited: there was no finished answer.
        """
        settings = _settings(model, temperature, max_tokens, top_p, stop, seed, base_url, extra, whole=False)
        sending = Sending(api_key, dict(headers or {}), timeout, retry)
        return _call(LlmWork(valid_name(name), prompt, system, settings, sending), sys._getframe(1))

    def reply(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        system: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        top_p: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        name: str = "llm",
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        timeout: float | None = None,
        retry: int | RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Call[Reply]:
        """As `kitaru.llm`, but give the whole `Reply`, whatever the model's reason to stop."""
        settings = _settings(model, temperature, max_tokens, top_p, stop, seed, base_url, extra, whole=True)
        sending = Sending(api_key, dict(headers or {}), timeout, retry)
        return _call(LlmWork(valid_name(name), prompt, system, settings, sending), sys._getframe(1))


llm: Final = Llm()


def _settings(
    model: str | None,
    temperature: float | None,
    max_tokens: int | None,
    top_p: float | None,
    stop: str | Sequence[str] | None,
    seed: int | None,
    base_url: str | None,
    extra: Mapping[str, Any] | None,
    *,
    whole: bool,
) -> Settings:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    return Settings(model, temperature, max_tokens, top_p, stops, seed, base_url, dict(extra or {}), whole)


def _call(work: LlmWork, frame: FrameType) -> Call[Any]:
    place = current_place()
    call = make_call(work, place, (), {}, frame)
    if place is None:
        if _in_sync_code():
            _warn_of_stray(call)
            work.wait_in_thread(call)
    elif place.thread is not None:
        wait_for(call)
    if call.failed:
        call.load()
    return call


def _in_sync_code() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _warn_of_stray(call: Call[Any]) -> None:
    from kitaru.runtime.default import any_run_is_live

    if threading.current_thread() is not threading.main_thread() and any_run_is_live():
        warnings.warn(
            f"the model call at {call.where} is in a thread of no flow: it is recorded as a run of its own",
            RuntimeWarning,
            stacklevel=4,
        )
