"""The server's one endpoint, as a plain ASGI application: faults reach below what a framework allows."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import msgspec

from kitaru.adapters.standin.answers import digest
from kitaru.adapters.standin.asked import Arrived, Ask, Problem, RefusedError, Trouble, is_object
from kitaru.adapters.standin.deciding import decide, echo, unmarked
from kitaru.adapters.standin.faults import Fault, parse_fault
from kitaru.adapters.standin.gate import Gate, Memory
from kitaru.adapters.standin.ledger import Entry, Ledger, Seen
from kitaru.adapters.standin.listings import nowhere, page
from kitaru.adapters.standin.options import Options
from kitaru.adapters.standin.routing import addressed, find, speaker
from kitaru.adapters.standin.wire import JSON, Around, Wire, problem
from kitaru.errors import UsageError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

_PAGE: Final = b"<!DOCTYPE html>\n<html><head><title>502</title></head><body><h1>Bad gateway</h1></body></html>\n"
_CREDENTIALS: Final = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key"})
_MASK: Final = "**********"
_TROUBLES: Final[dict[str, Trouble]] = {
    "429": "rate", "500": "server", "503": "overloaded", "529": "overloaded", "quota": "quota", "context": "context",
}  # fmt: skip

cut: Final[ContextVar[bool]] = ContextVar("kitaru_standin_cut", default=False)
"""Whether the answer under way is cut on purpose."""


class Endpoint:
    """All paths of all APIs.

    Args:
        options: How to answer.
        ledger: Where requests are counted.
        gate: Where they wait.
    """

    def __init__(self, options: Options, ledger: Ledger, gate: Gate) -> None:
        self._options = options
        self._ledger = ledger
        self._gate = gate
        self._around = Around(options, Memory(), set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or play its fault."""
        from starlette.requests import ClientDisconnect, Request

        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            raw = await request.body()
        except ClientDisconnect:
            return
        named, path = addressed(request.url.path)
        found = find(path, named)
        arrived = Arrived(
            path=path,
            query=dict(request.query_params),
            headers={name.lower(): value for name, value in request.headers.items()},
            raw=raw,
            payload=_decoded(raw),
            model=found[1] if found else "",
        )
        wire = found[0].wire(arrived, named) if found else speaker(arrived, named)
        if found is None or request.method != "POST":
            await self._beside(request.method, arrived, wire, send)
            return
        seen = _seen(arrived, wire)
        refusal, ask, faults = self._understood(arrived, wire)
        if ask is None:
            self._ledger.note(seen)
            assert refusal is not None
            await _fail(send, wire, refusal, "")
            return
        entry = self._ledger.arrive(digest(ask.messages), ask.text, ask.model, wire.provider, seen)
        fault = next((fault for fault in faults if fault.befalls(ask.text, entry.nth)), None)
        await self._counted(request, send, _Turn(arrived, wire, ask, entry, fault, refusal))

    async def _counted(self, request: Request, send: Send, turn: _Turn) -> None:
        status, settled = 0, False
        kind = turn.fault.kind if turn.fault else ""

        async def counted(message: Message) -> None:
            # Counted before its last byte goes out: a client that has its answer never finds it uncounted.
            nonlocal status, settled
            status = message.get("status", status)
            if message["type"] == "http.response.body" and not settled and (not message.get("more_body") or cut.get()):
                settled = True
                self._ledger.leave(turn.entry, "answered", status, kind)
            await send(message)

        try:
            await self._respond(request, counted, turn)
        except asyncio.CancelledError:
            cut.set(True)
            raise
        finally:
            # Also when the server stops in the middle: whatever came in is accounted for.
            if not settled:
                self._ledger.leave(turn.entry, "abandoned", status, kind)

    def _understood(self, arrived: Arrived, wire: Wire) -> tuple[Problem | None, Ask | None, Sequence[Fault]]:
        """Read a request; a wrong key is what it is told of first."""
        wrong = None if self._admitted(arrived, wire) else wire.problem("auth", None)
        try:
            ask = wire.understand(arrived, self._around)
            header = arrived.headers.get("x-standin-fault")
            return wrong, ask, (parse_fault(header),) if header else self._options.faults
        except RefusedError as error:
            return wrong or error.problem, None, ()
        except UsageError as error:
            return wrong or problem("invalid", 400, error.message, "invalid_value"), None, ()

    async def _respond(self, request: Request, send: Send, turn: _Turn) -> None:
        """Answer, or play the fault; nothing is sent to a client that left before."""
        wire, ask, entry, fault = turn.wire, turn.ask, turn.entry, turn.fault
        waiting = self._gate.ahead(ask.text)
        if waiting is not None and await _left_before(request, waiting):
            return
        key = wire.credential(turn.arrived)
        if turn.wrong is not None:
            await _fail(send, wire, turn.wrong, entry.name)
            return
        low, high = self._options.latency_range
        seconds = random.Random(f"{entry.digest}{entry.nth}").uniform(low, high)  # noqa: S311 - no secret
        if fault is not None and fault.kind == "hang":
            await _gone(request)
            return
        if seconds and await _left_within(request, seconds):
            return
        trouble = None if fault is None else _trouble(fault, wire, ask, key)
        if trouble is not None:
            await _fail(send, wire, trouble, entry.name, key)
            return
        try:
            wire.check(turn.arrived, ask, self._around)
        except RefusedError as error:
            await _fail(send, wire, error.problem, entry.name)
            return
        await self._answer(request, send, turn, key)

    async def _answer(self, request: Request, send: Send, turn: _Turn, key: str) -> None:
        wire, ask, entry, fault = turn.wire, turn.ask, turn.entry, turn.fault
        kind = fault.kind if fault else None
        headers = wire.headers(entry.name, None)
        if kind == "html":
            await _send(send, 200, _PAGE, headers, "text/html; charset=utf-8")
            return
        media, upstream = wire.media(ask), wire.problem("upstream", ask)
        if kind == "error-in-200" or (kind == "error-in-stream" and not ask.stream):
            await _send(send, 200, wire.within(upstream, ask, entry.name), headers, media if ask.stream else JSON)
            return
        answer = decide(self._options, ask, entry.name, kind, key)
        pieces = wire.frames(ask, answer, self._around) if ask.stream else [wire.whole(ask, answer, self._around)]
        match kind:
            case "malformed":
                pieces = [piece[: max(1, len(piece) * 2 // 3)] for piece in pieces[: len(pieces) // 2 + 1]]
            case "truncated":
                pieces = pieces[:-1] if ask.stream else [pieces[0][:-1]]
            case "error-in-stream":
                pieces = [*pieces[: len(pieces) // 2], *wire.stray(upstream, ask, entry.name)]
            case "echo-body" | "echo-stream":
                pieces = [unmarked(piece, key) for piece in pieces]
            case "echo-header":
                headers = {name: f"{value} {key}" if value == entry.name else value for name, value in headers.items()}
                headers |= {"x-echo": echo(key), "set-cookie": f"session={key}"}
            case _:
                pass
        if kind == "drop":
            # More is promised than is sent: returning in the middle makes the server close the connection.
            cut.set(True)
            whole = b"".join(pieces)
            await _start(send, 200, headers | {"content-length": str(len(whole))}, media)
            await send({"type": "http.response.body", "body": whole[: len(whole) // 2], "more_body": True})
            return
        if kind == "echo-stream" and key:
            pieces = [part for piece in pieces for part in _torn(piece, key.encode("utf-8", "surrogatepass"))]
        if kind == "slow":
            assert fault is not None
            pieces = pieces if ask.stream else _quarters(pieces[0])
            await _start(send, 200, headers, media)
            for piece in pieces:
                if await _left_within(request, fault.retry_after):
                    return
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        elif ask.stream:
            await _start(send, 200, headers, media)
            for piece in pieces[:-1]:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": pieces[-1] if pieces else b""})
        else:
            await _send(send, 200, b"".join(pieces), headers, media)

    async def _beside(self, method: str, arrived: Arrived, wire: Wire, send: Send) -> None:
        """Tell of models, or that there is nothing here."""
        headers = {"x-request-id": "standin-0"}
        if not self._admitted(arrived, wire):
            await _fail(send, wire, wire.problem("auth", None), "")
            return
        try:
            found = page(method, arrived, wire, self._around)
        except RefusedError as error:
            await _fail(send, wire, error.problem, "")
            return
        if found is None:
            await _send(send, 404, nowhere(wire, arrived, method), headers)
            return
        await _start(send, found.status, headers, found.media)
        body = [] if method == "HEAD" else found.pieces
        for piece in body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _admitted(self, arrived: Arrived, wire: Wire) -> bool:
        if self._options.api_key is None:
            return True
        given = wire.credential(arrived).encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, self._options.api_key.encode())


class _Turn(msgspec.Struct, frozen=True):
    arrived: Arrived
    wire: Wire
    ask: Ask
    entry: Entry
    fault: Fault | None
    wrong: Problem | None


def _decoded(raw: bytes) -> dict[str, object] | None:
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found if is_object(found) else None


def _seen(arrived: Arrived, wire: Wire) -> Seen:
    key = wire.credential(arrived)
    return Seen(
        name="",
        provider=wire.provider,
        path=arrived.path,
        query={name: _MASK if name == "key" else value for name, value in arrived.query.items()},
        headers={name: _MASK if name in _CREDENTIALS else value for name, value in arrived.headers.items()},
        credential=hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest() if key else "",
        raw=arrived.raw,
        body=arrived.payload,
    )


def _trouble(fault: Fault, wire: Wire, ask: Ask, key: str) -> Problem | None:
    """Return the refusal that a fault is; None where it is none."""
    match fault.kind:
        case "echo-error":
            found = wire.problem("auth", ask)
            return msgspec.structs.replace(found, message=f"{found.message} You sent: {echo(key)}")
        case "echo-error-400":
            return problem("invalid", 400, f"The request with the key {echo(key)} is not right.", "invalid_value")
        case "filter" if wire.provider == "azure":
            return wire.problem("filter", ask)
        case "503" | "529":
            found = wire.problem("overloaded", ask)
            status = 503 if fault.kind == "503" else found.status if found.status != 503 else 529
            return msgspec.structs.replace(found, status=status, wait=fault.retry_after)
        case "429":
            return msgspec.structs.replace(wire.problem("rate", ask), wait=fault.retry_after)
        case "500" | "quota" | "context" as kind:
            return wire.problem(_TROUBLES[kind], ask)
        case _:
            return None


def _torn(piece: bytes, key: bytes) -> list[bytes]:
    """Cut a piece in the middle of the key, where it holds it."""
    at = piece.find(key)
    return [piece] if at < 0 else [piece[: at + len(key) // 2], piece[at + len(key) // 2 :]]


def _quarters(body: bytes) -> list[bytes]:
    step = max(1, -(-len(body) // 4))
    return [body[at : at + step] for at in range(0, len(body), step)]


async def _fail(send: Send, wire: Wire, told: Problem, name: str, key: str = "") -> None:
    await _send(send, told.status, unmarked(wire.failure(told, name), key), wire.headers(name, told) if name else {})


async def _send(send: Send, status: int, body: bytes, headers: dict[str, str] | None = None, media: str = JSON) -> None:
    await _start(send, status, {"content-length": str(len(body)), **(headers or {})}, media)
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, headers: dict[str, str], media: str) -> None:
    lines = [
        (name.encode(), value.encode("utf-8", "surrogateescape"))
        for name, value in (headers | {"content-type": media}).items()
    ]
    await send({"type": "http.response.start", "status": status, "headers": lines})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _left_within(request: Request, seconds: float) -> bool:
    """Wait, and return whether the client left meanwhile."""
    try:
        async with asyncio.timeout(seconds):
            await _gone(request)
    except TimeoutError:
        return False
    return True


async def _left_before(request: Request, opened: asyncio.Future[None]) -> bool:
    """Wait for the gate, and return whether the client left meanwhile."""
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((gone, opened), return_when=asyncio.FIRST_COMPLETED)
        return not opened.done()
    finally:
        gone.cancel()
        opened.cancel()
        await asyncio.gather(gone, return_exceptions=True)
