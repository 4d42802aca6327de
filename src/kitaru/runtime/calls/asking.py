"""Asking a model: the routes a call may take, one after the other, until an answer is there that can be used.

Every attempt that fails is in the log before the next is made, so its count and its cost outlive the process.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import msgspec

from kitaru.adapters import (
    Adapter,
    Endpoint,
    Message,
    ModelCall,
    Sent,
    Timeouts,
    adapter,
    reply_of,
    require_finished,
)
from kitaru.adapters import Attempt as HttpAttempt
from kitaru.adapters import Reply as ModelReply
from kitaru.adapters.azure import versioned
from kitaru.adapters.fit import Fitted, fit
from kitaru.adapters.prices import Cost, cost_of
from kitaru.adapters.refusals import FORM
from kitaru.adapters.request import loopback
from kitaru.adapters.secret import clean
from kitaru.errors import AnswerError, EncodeError, KitaruError, ModelConnectionError, ModelError, ProviderError
from kitaru.runtime.calls.answers import Form
from kitaru.runtime.calls.asked import Asked
from kitaru.runtime.calls.question import Sending
from kitaru.runtime.calls.tries import Earlier
from kitaru.runtime.models.gateway import explained, gateway, gateway_fallback, gateway_route
from kitaru.runtime.models.routes import Route, still_local
from kitaru.runtime.secrets.credentials import Credential, find, missing, remember
from kitaru.runtime.secrets.image import run_environment
from kitaru.runtime.work import stand_in
from kitaru.store import codec
from kitaru.store.events import Attempt, LlmAttempted, LlmRecord, Usage

if TYPE_CHECKING:
    from kitaru.runtime.flight import Flight

_UNUSABLE: Final = "the answer could not be used"


class Way(msgspec.Struct, frozen=True):
    """One way to send a call.

    Args:
        asked: The call as it was meant.
        call: The call as this way has to put it.
        spoken: Speaks the wire format at the other end.
        endpoint: Where, and as whom.
        credential: Where the key comes from.
        via: How a gateway has to do with it; empty where it has not.
        following: The model to ask next, if this one does not answer; empty for none.
    """

    asked: Asked
    call: ModelCall
    spoken: Adapter
    endpoint: Endpoint
    credential: Credential
    via: str
    following: str


class Answer(msgspec.Struct, frozen=True):
    """What came of it.

    Args:
        value: The text, or what the form makes of it; unset where the whole reply is wanted.
        sent: The reply and how it came.
        record: What the log keeps of it.
    """

    value: object
    sent: Sent
    record: LlmRecord


class Asking:
    """One call of a flow on its way through its routes.

    Args:
        flight: The boundary.
        asked: The call for each route, the first choice first.
        sending: How to send it.
        form: What the answer is to be read as; None for text.
        whole: The whole reply is wanted, whatever the model's reason to stop.
    """

    def __init__(
        self, flight: Flight, asked: Sequence[Asked], sending: Sending, form: Form | None, *, whole: bool
    ) -> None:
        self._flight = flight
        self._asked = asked
        self._sending = sending
        self._form = form
        self._whole = whole
        self._earlier: Earlier = flight.execution.history.tries.of(flight.key)
        self._attempts: list[Attempt] = list(self._earlier.attempts)
        self._trail: list[tuple[str, str]] = []
        self._passed = 0
        """Models at the beginning of the trail that were asked in a process that is gone."""
        self._unkept: list[LlmAttempted] = []
        self._arrived: tuple[Way, Sent] | None = None
        self._begun = time.monotonic()
        self._timeout = _timeouts(sending.timeout)

    async def answer(self) -> Answer:
        """Return the first answer that can be used.

        Raises:
            UsageError: The call cannot be right; nothing was sent.
            ModelError: No route gave one. `attempts` holds all that were made.
        """
        try:
            return await self._first_usable()
        finally:
            # The last of them, behind which nothing more was sent.
            if self._unkept and not self._flight.execution.leaving:
                self._flight.execution.append(self._unkept)

    def unrecorded(self, error: Exception) -> Exception:
        """Return what the call fails with where its answer arrived and cannot be recorded, for whatever reason.

        The answer was paid for: the log gets its usage and cost all the same.
        """
        if self._arrived is None or isinstance(error, ModelError):
            return error
        way, sent = self._arrived
        what = error.message if isinstance(error, KitaruError) else f"{type(error).__name__}: {clean(str(error), 200)}"
        hint = error.hint if isinstance(error, KitaruError) else None
        failed = AnswerError(f"{way.asked.route.name} answered, but the answer cannot be recorded: {what}", hint=hint)
        self._unusable(msgspec.structs.replace(way, following=""), sent, failed, again=False)
        if self._unkept:
            self._flight.execution.append(self._unkept)
            self._unkept = []
        failed.attempts = tuple(_told(attempt) for attempt in self._attempts)
        return failed

    async def _first_usable(self) -> Answer:
        first = next((at for at, one in enumerate(self._asked) if one.route.name == self._earlier.next_model), 0)
        self._trail += [(one.route.name, _last_error(self._attempts, one.route.name)) for one in self._asked[:first]]
        self._passed = len(self._trail)
        for at, asked in enumerate(self._asked[first:], first):
            following = self._asked[at + 1].route.name if at + 1 < len(self._asked) else ""
            try:
                return await self._by(asked, following)
            except ModelError as error:
                why = _why_another(error) if following else ""
                error.attempts = tuple(_told(attempt) for attempt in self._attempts)
                if not why:
                    # Nobody is asked next: a process that dies now must not leave another model to go on with.
                    self._unkept = [msgspec.structs.replace(event, next_model="") for event in self._unkept]
                    for name, before in self._trail:
                        error.add_note(f"before it, {name} gave no answer: {before}")
                    raise
                self._trail.append((asked.route.name, why))
        raise AssertionError("the last route returns or raises")

    async def _by(self, asked: Asked, following: str) -> Answer:
        environ = run_environment()
        proxy = gateway(environ)
        through = gateway_route(asked.route, environ) if proxy is not None else None
        if through is None or proxy is None:
            return await self._through(await self._way(asked, following))
        try:
            return await self._through(await self._way(asked, following, through))
        except ModelError as error:
            away = isinstance(error, ModelConnectionError) and not error.sent
            if not (away and gateway_fallback(environ)):
                raise explained(error, proxy) from None
        instead = "direct: the gateway could not be reached"
        try:
            return await self._through(msgspec.structs.replace(await self._way(asked, following), via=instead))
        except ModelError as error:
            error.add_note(instead)
            raise

    async def _way(self, asked: Asked, following: str, through: Route | None = None) -> Way:
        route, call, sending = asked.route, asked.call, self._sending
        if through is not None:
            route = through
            call = msgspec.structs.replace(call, provider=route.provider, model=route.model)
        spoken = adapter(call.provider)
        row = spoken.row
        environ = run_environment()
        proxy = gateway(environ) if through is not None else None
        if proxy is not None:
            credential = Credential(proxy.key, "environment" if proxy.key else "none")
            if proxy.key:
                remember(proxy.key)
        else:
            trusted = still_local(route)
            look = functools.partial(find, row, argument=sending.api_key, linked=route.secret or None)
            # A secret is read from disk, and its key may have to be asked of the keyring.
            if route.secret:
                credential = await asyncio.to_thread(look, trusted_host=trusted)
            else:
                credential = look(trusted_host=trusted)
            if credential.key is None and row.key_required and not loopback(route.base_url):
                raise missing(row, route.secret or None, trusted_host=trusted)
        headers = {**row.headers_from(environ), **sending.headers}
        address = versioned(route.base_url, environ) if row.name == "azure" else route.base_url
        endpoint = Endpoint(base_url=address, api_key=credential.key, headers=headers, bearer=credential.bearer)
        return Way(asked, call, spoken, endpoint, credential, "gateway" if through is not None else "", following)

    async def _through(self, way: Way) -> Answer:
        transport, row = self._flight.execution.host.transport, way.spoken.row
        lacking = transport.lacking(way.call, way.endpoint.base_url)
        call, repaired = way.call, False
        while True:
            fitted = way.asked.fitted if call is way.asked.call and not lacking else fit(call, row, lacking)
            try:
                sent = await self._send(way, fitted.call)
            except ProviderError as error:
                lacking = transport.lacking(way.call, way.endpoint.base_url)
                if error.refuses != FORM or fit(call, row, lacking).json_mode == fitted.json_mode:
                    raise
                # The answer's form was refused: the next way to ask for it is another attempt with the same model.
                name = way.asked.route.name
                self._unkept = [msgspec.structs.replace(event, next_model=name) for event in self._unkept]
                continue
            self._arrived = way, sent
            try:
                value = self._read(fitted, sent.reply)
            except AnswerError as error:
                repair = () if repaired else self._repair(error, sent.reply)
                self._unusable(way, sent, error, again=bool(repair))
                if not repair:
                    raise
            else:
                return Answer(value, sent, self._record(way, fitted, sent))
            call, repaired = msgspec.structs.replace(call, messages=(*call.messages, *repair)), True

    async def _send(self, way: Way, call: ModelCall) -> Sent:
        name = way.asked.route.name

        def record(attempt: HttpAttempt, wait: float | None) -> None:
            tried = _recorded(attempt, name)
            self._attempts.append(tried)
            if attempt.error:
                self._keep(tried, way.following if wait is None else name, wait or 0.0)

        resumed = len(self._trail) == self._passed
        before = sum(one.model == name for one in self._earlier.attempts) if resumed else 0
        await self._kept()
        try:
            return await self._flight.execution.host.transport.send(
                call,
                way.endpoint,
                way.spoken,
                retry=self._sending.retry or way.asked.route.retry,
                timeout=self._time_left(),
                record=record,
                failed=before,
                ready=self._announced,
                kept=self._kept,
            )
        except AnswerError as error:
            # A prompt that the provider's filter stopped: for whoever wants the whole reply, that is one.
            reply = reply_of(error)
            if reply is None or not self._whole:
                raise
            return Sent(reply, (), time.monotonic() - self._begun, reply.warnings)

    async def _announced(self) -> None:
        """Wait until the log says that the call is made: only then may anything be sent."""
        announcement, self._flight.announcement = self._flight.announcement, None
        if announcement is not None:
            await announcement

    def _read(self, fitted: Fitted, reply: ModelReply) -> object:
        if self._whole:
            return None
        provider = fitted.call.provider
        text = require_finished(provider, reply).text
        if self._form is None:
            return text
        try:
            value = self._form.read(text, wrapped=fitted.wrapped)
            codec.encode(value, unknown=stand_in)
            return value
        except EncodeError as error:
            # No error of ours may cost a paid answer: its cost is recorded as that of any that is of no use.
            refused = AnswerError(f"the answer's value cannot be recorded: {error.message}", hint=error.hint)
            refused.reply = reply
            raise refused from error
        except AnswerError as error:
            error.reply = reply
            if reply.finish == "length":
                error.hint = "The answer was cut off by the token limit: raise max_tokens."
            raise

    def _repair(self, error: AnswerError, reply: ModelReply) -> tuple[Message, ...]:
        """What to say to the model so that it mends its answer; nothing where that cannot help."""
        if self._form is None or not reply.text or reply.refusal is not None or reply.finish not in ("stop", "other"):
            return ()
        if isinstance(error.__cause__, EncodeError):
            return ()
        return tuple(self._form.repair(reply.text, error))

    def _unusable(self, way: Way, sent: Sent, error: AnswerError, *, again: bool) -> None:
        """An answer arrived, and was paid for, that is no use: keep what it was."""
        usage, cost = Usage(*msgspec.structs.astuple(sent.reply.usage)), _cost(way, sent.reply)
        tried = msgspec.structs.replace(
            self._attempts.pop(), error=f"{_UNUSABLE}: {error.message}"[:300], usage=usage, cost=_decimal(cost.usd)
        )
        self._attempts.append(tried)
        self._keep(tried, way.asked.route.name if again else way.following, 0.0)

    def _record(self, way: Way, fitted: Fitted, sent: Sent) -> LlmRecord:
        route, reply, cost = way.asked.route, sent.reply, _cost(way, sent.reply)
        return LlmRecord(
            provider=way.call.provider, model=route.name, answered_by=reply.model, finish=reply.finish,
            usage=Usage(*msgspec.structs.astuple(reply.usage)), latency=time.monotonic() - self._begun,
            request_id=reply.request_id, credential=way.credential.source, attempts=tuple(self._attempts),
            warnings=tuple(dict.fromkeys((*fitted.warnings, *sent.warnings))), cost=_decimal(cost.usd),
            cost_source=cost.source, first_token=sent.first_token, alias=route.alias, prices=cost.prices,
            price_version=cost.version, json_mode=fitted.json_mode, streamed=sent.streamed, via=way.via,
            trail=tuple(self._trail),
        )  # fmt: skip

    def _keep(self, tried: Attempt, next_model: str, wait: float) -> None:
        flight = self._flight
        if flight.execution.leaving:
            return
        now = time.time()
        event = LlmAttempted(
            1, now, flight.key, "llm", flight.fingerprint, b"", b"", flight.order, flight.attempt, tried, next_model,
            now + wait,
        )  # fmt: skip
        self._unkept.append(event)

    async def _kept(self) -> None:
        """Return when all that was tried so far is on disk: no request goes out before."""
        if self._unkept:
            events, self._unkept = self._unkept, []
            await self._flight.execution.append_durably(events)

    def _time_left(self) -> Timeouts:
        total = self._timeout.total
        if total is None:
            return self._timeout
        left = max(0.001, total - (time.monotonic() - self._begun))
        return msgspec.structs.replace(self._timeout, total=left)


def _cost(way: Way, reply: ModelReply) -> Cost:
    route = way.asked.route
    # A gateway on this machine is no model on this machine: what it passes on costs what its provider asks for it.
    proxied = way.via == "gateway"
    return cost_of(
        adapter(route.provider).row if proxied else way.spoken.row,
        "" if proxied else way.endpoint.base_url,
        route.model if proxied else way.call.model,
        reply.model,
        reply.usage,
        stated=reply.stated_cost,
        override=route.prices,
        at=time.time(),
    )


def _recorded(attempt: HttpAttempt, model: str) -> Attempt:
    return Attempt(
        attempt.started, attempt.seconds, attempt.status, attempt.error, attempt.request_id, attempt.possibly_billed,
        model,
    )  # fmt: skip


def _told(attempt: Attempt) -> HttpAttempt:
    return HttpAttempt(
        attempt.started, attempt.seconds, attempt.status, attempt.error, attempt.request_id, attempt.possibly_billed
    )


def _last_error(attempts: Sequence[Attempt], model: str) -> str:
    """Return why a model gave no answer, where only its attempts are known."""
    return next((one.error for one in reversed(attempts) if one.model == model and one.error), "")


def _decimal(usd: Decimal | None) -> str:
    return "" if usd is None else format(usd.normalize(), "f")


def _why_another(error: ModelError) -> str:
    """Return why another model may answer where this one did not; empty where it may not be asked."""
    match error:
        case ModelConnectionError():
            return "no connection"
        case ProviderError() if error.reason in ("rate_limit", "overloaded", "quota", "context", "invalid"):
            return str(error.reason)
        case AnswerError():
            reply = reply_of(error)
            if reply is None or reply.refusal is not None or reply.finish == "content_filter":
                return ""
            return "invalid output" if reply.text or reply.finish in ("error", "other") else ""
        case _:
            return ""


def _timeouts(timeout: float | Timeouts | None) -> Timeouts:
    if timeout is None:
        return Timeouts()
    return timeout if isinstance(timeout, Timeouts) else Timeouts(total=timeout)
