"""The stand-in's `/v1/chat/completions`, as a plain ASGI application: faults reach below what a framework allows."""

from __future__ import annotations

import asyncio
import hmac
import random
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, TypeGuard

import msgspec

from kitaru.adapters.standin.answers import Answer, answer, digest, tokens
from kitaru.adapters.standin.faults import Fault, parse_fault
from kitaru.adapters.standin.ledger import Entry, Ledger
from kitaru.adapters.standin.options import Options
from kitaru.errors import UsageError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

_JSON: Final = "application/json"
_PAGE: Final = b"<!DOCTYPE html>\n<html><head><title>502</title></head><body><h1>Bad gateway</h1></body></html>\n"

cut: Final[ContextVar[bool]] = ContextVar("kitaru_standin_cut", default=False)
"""Whether the answer under way is cut on purpose."""


class Ask(msgspec.Struct, frozen=True):
    """A request as understood: its prompt, and how it wants to be answered."""

    model: str
    messages: tuple[tuple[str, str], ...]
    limit: int | None
    stop: tuple[str, ...]
    stream: bool
    with_usage: bool

    @property
    def text(self) -> str:
        """The last message's text."""
        return self.messages[-1][1]


class Chat:
    """The endpoint.

    Args:
        options: How to answer.
        ledger: Where requests are counted.
    """

    def __init__(self, options: Options, ledger: Ledger) -> None:
        self._options = options
        self._ledger = ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or play its fault."""
        from starlette.requests import ClientDisconnect, Request

        request = Request(scope, receive)
        try:
            body = await request.body()
        except ClientDisconnect:
            return
        try:
            ask = understand(body)
            header = request.headers.get("x-standin-fault")
            faults = (parse_fault(header),) if header else self._options.faults
        except UsageError as error:
            await _send(send, 400, _error(error.message, "invalid_request_error", "invalid_value"))
            return
        entry = self._ledger.arrive(digest(ask.messages), ask.text, ask.model)
        fault = next((fault for fault in faults if fault.befalls(ask.text, entry.nth)), None)
        status, settled = 0, False

        async def counted(message: Message) -> None:
            # Counted before its last byte goes out: a client that has its answer never finds it uncounted.
            nonlocal status, settled
            status = message.get("status", status)
            if message["type"] == "http.response.body" and not settled and (not message.get("more_body") or cut.get()):
                settled = True
                self._ledger.leave(entry, "answered", status, fault.kind if fault else "")
            await send(message)

        try:
            await self._respond(request, counted, ask, entry, fault)
        except asyncio.CancelledError:
            cut.set(True)
            raise
        finally:
            # Also when the server stops in the middle: whatever came in is accounted for.
            if not settled:
                self._ledger.leave(entry, "abandoned", status, fault.kind if fault else "")

    async def _respond(self, request: Request, send: Send, ask: Ask, entry: Entry, fault: Fault | None) -> None:
        """Answer, or play the fault; nothing is sent to a client that left before."""
        headers = {"x-request-id": entry.name}
        if not self._admitted(request):
            refused = _error("Incorrect API key provided.", "invalid_request_error", "invalid_api_key")
            await _send(send, 401, refused, headers)
            return
        low, high = self._options.latency_range
        seconds = random.Random(f"{entry.digest}{entry.nth}").uniform(low, high)  # noqa: S311 - no secret
        if fault is not None and fault.kind == "hang":
            await _gone(request)
            return
        if seconds and await _left_within(request, seconds):
            return
        match fault.kind if fault else None:
            case "429" | "500" | "503" | "quota" as kind:
                assert fault is not None
                await _fail(send, kind, fault.retry_after, headers)
                return
            case "html":
                await _send(send, 200, _PAGE, headers, "text/html; charset=utf-8")
                return
            case "error-in-200":
                await _send(send, 200, _error("Upstream is overloaded.", "server_error", "502"), headers)
                return
            case kind:
                pass
        found, refusal = self._answer(ask, kind)
        pieces = list(_events(ask, entry, found, refusal)) if ask.stream else [_whole(ask, entry, found, refusal)]
        if kind == "malformed":
            pieces = [piece[: max(1, len(piece) * 2 // 3)] for piece in pieces[: len(pieces) // 2 + 1]]
        media = "text/event-stream; charset=utf-8" if ask.stream else _JSON
        if kind == "drop":
            # More is promised than is sent: returning in the middle makes the server close the connection.
            cut.set(True)
            whole = b"".join(pieces)
            await _start(send, 200, headers | {"content-length": str(len(whole))}, media)
            await send({"type": "http.response.body", "body": whole[: len(whole) // 2], "more_body": True})
        elif ask.stream:
            await _start(send, 200, headers, media)
            for piece in pieces[:-1]:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": pieces[-1]})
        else:
            await _send(send, 200, pieces[0], headers)

    def _answer(self, ask: Ask, kind: str | None) -> tuple[Answer, str | None]:
        match kind:
            case "refusal":
                return Answer("", "stop"), "I'm sorry, but I can't help with that."
            case "filter":
                return Answer("", "content_filter"), None
            case "empty":
                return Answer("", "length"), None
            case _:
                return answer(self._options.rules, ask.messages, limit=ask.limit, stop=ask.stop), None

    def _admitted(self, request: Request) -> bool:
        if self._options.api_key is None:
            return True
        given = request.headers.get("authorization", "").encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, f"Bearer {self._options.api_key}".encode())


def understand(body: bytes) -> Ask:
    """Read a request's body.

    Raises:
        UsageError: It is not a chat completion request.
    """
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise UsageError("We could not parse the JSON body of your request.") from None
    model = payload.get("model") if _is_object(payload) else None
    messages = payload.get("messages") if _is_object(payload) else None
    if not (_is_object(payload) and isinstance(model, str) and model):
        raise UsageError("you must provide a model parameter")
    if not (isinstance(messages, list) and messages and all(_is_object(message) for message in messages)):
        raise UsageError("'messages' has to be a list of at least one message")
    limit = payload.get("max_completion_tokens", payload.get("max_tokens"))
    if limit is not None and not (isinstance(limit, int) and limit >= 1):
        raise UsageError("the token limit has to be at least 1")
    stop = payload.get("stop")
    options = payload.get("stream_options")
    return Ask(
        model=model,
        messages=tuple((str(message.get("role", "")), _text(message.get("content"))) for message in messages),
        limit=limit,
        stop=tuple(str(mark) for mark in stop) if isinstance(stop, list) else (stop,) if isinstance(stop, str) else (),
        stream=payload.get("stream") is True,
        with_usage=_is_object(options) and options.get("include_usage") is True,
    )


def _is_object(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)


def _text(content: object) -> str:
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if _is_object(part))
    return content if isinstance(content, str) else ""


def _usage(ask: Ask, found: Answer) -> dict[str, object]:
    # Four tokens a message for its frame, as OpenAI's models count them.
    prompt = sum(tokens(text) + 4 for _, text in ask.messages)
    thought = ask.limit or 16 if found.finish == "length" and not found.text else 0
    completion = tokens(found.text) + thought
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thought, "audio_tokens": 0},
    }


def _whole(ask: Ask, entry: Entry, found: Answer, refusal: str | None) -> bytes:
    message: dict[str, object] = {
        "role": "assistant",
        "content": None if refusal else found.text,
        "refusal": refusal,
        "annotations": [],
    }
    return msgspec.json.encode(
        {
            "id": f"chatcmpl-{entry.name}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": ask.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": found.finish}],
            "usage": _usage(ask, found),
        }
    )


def _events(ask: Ask, entry: Entry, found: Answer, refusal: str | None) -> Iterator[bytes]:
    head: dict[str, object] = {
        "id": f"chatcmpl-{entry.name}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": ask.model,
    }

    def event(choices: Sequence[object], usage: object = None) -> bytes:
        # With usage asked for, every chunk has the field, null before the last.
        body = head | {"choices": choices} | ({"usage": usage} if ask.with_usage else {})
        return b"data: " + msgspec.json.encode(body) + b"\n\n"

    def delta(content: dict[str, object], finish: str | None = None) -> bytes:
        return event([{"index": 0, "delta": content, "logprobs": None, "finish_reason": finish}])

    yield delta({"role": "assistant", "content": "", "refusal": None})
    if refusal:
        yield delta({"refusal": refusal})
    for at, word in enumerate(found.text.split(" ") if found.text else ()):
        yield delta({"content": f" {word}" if at else word})
    yield delta({}, found.finish)
    if ask.with_usage:
        yield event([], _usage(ask, found))
    yield b"data: [DONE]\n\n"


def _error(message: str, kind: str, code: str | None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code}})


async def _fail(send: Send, kind: str, retry_after: float, headers: dict[str, str]) -> None:
    match kind:
        case "429":
            body = _error("Rate limit reached.", "requests", "rate_limit_exceeded")
            await _send(send, 429, body, headers | {"retry-after": f"{retry_after:g}"})
        case "quota":
            body = _error("You exceeded your current quota.", "insufficient_quota", "insufficient_quota")
            await _send(send, 429, body, headers)
        case "503":
            body = _error("The engine is overloaded.", "server_error", None)
            await _send(send, 503, body, headers | {"retry-after": f"{retry_after:g}"})
        case _:
            await _send(send, 500, _error("The server had an error.", "server_error", None), headers)


async def _send(
    send: Send, status: int, body: bytes, headers: dict[str, str] | None = None, media: str = _JSON
) -> None:
    await _start(send, status, {"content-length": str(len(body)), **(headers or {})}, media)
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, headers: dict[str, str], media: str) -> None:
    lines = [(name.encode(), value.encode()) for name, value in (headers | {"content-type": media}).items()]
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
