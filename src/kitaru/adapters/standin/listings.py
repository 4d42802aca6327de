"""What the APIs tell of their models, beside answering: lists, single models, and ollama's downloads."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from kitaru.adapters.standin import ollama
from kitaru.adapters.standin.asked import Arrived, Object, string
from kitaru.adapters.standin.wire import JSON, Around, Wire, encoded, missing, problem

_LIST: Final = re.compile(r"(?:/v1|/v1beta|/api/v1|/openai/v1|/openai)?/models(?:/(?P<model>.+))?")
_MADE: Final = "2026-01-02T03:04:05Z"


class Page(msgspec.Struct, frozen=True):
    """An answer that is not a model's.

    Args:
        status: Its HTTP status.
        pieces: Its body.
        media: Its content type.
    """

    status: int
    pieces: list[bytes]
    media: str = JSON


def page(method: str, arrived: Arrived, wire: Wire, around: Around) -> Page | None:
    """Return what is to be found at a path, in the form of an API; None where it has no such path.

    Raises:
        RefusedError: A model that is not known.
    """
    path = arrived.path.rstrip("/") or "/"
    if wire.provider == "ollama" or not path.startswith(("/v1", "/models", "/openai", "/api/v1")):
        found = _ollama(method, path, arrived, around)
        if found is not None or wire.provider == "ollama":
            return found
    asked = _LIST.fullmatch(path)
    if method != "GET" or asked is None:
        return None
    names = (*around.options.models, *sorted(around.pulled))
    if asked["model"] is None:
        return Page(200, [encoded(_list(wire.provider, names))])
    name = asked["model"]
    if not around.knows(name):
        raise missing(f"The model '{name}' does not exist", "model_not_found", "model")
    return Page(200, [encoded(_row(wire.provider, name))])


def _list(provider: str, names: tuple[str, ...]) -> Object:
    rows = [_row(provider, name) for name in names]
    match provider:
        case "anthropic":
            ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
            return {"data": rows, "has_more": False, **ends}
        case "google":
            return {"models": rows}
        case "cohere":
            return {"models": rows}
        case "openrouter":
            return {"data": rows}
        case _:
            return {"object": "list", "data": rows}


def _row(provider: str, name: str) -> Object:
    match provider:
        case "anthropic":
            return {"type": "model", "id": name, "display_name": name, "created_at": _MADE}
        case "google":
            methods = ["generateContent", "countTokens"]
            return {
                "name": f"models/{name}",
                "version": "001",
                "displayName": name,
                "inputTokenLimit": 8192,
                "outputTokenLimit": 2048,
                "supportedGenerationMethods": methods,
            }
        case "cohere":
            return {"name": name, "endpoints": ["chat"], "context_length": 8192}
        case "mistral":
            capabilities = {"completion_chat": True, "function_calling": True, "vision": True}
            return {"id": name, "object": "model", "created": 0, "owned_by": "kitaru", "capabilities": capabilities}
        case "openrouter":
            return {"id": name, "name": name, "created": 0, "context_length": 8192}
        case _:
            return {"id": name, "object": "model", "created": 0, "owned_by": "kitaru"}


def _ollama(method: str, path: str, arrived: Arrived, around: Around) -> Page | None:
    body = arrived.payload or {}
    name = string(body.get("model")) or string(body.get("name"))
    match method, path:
        case "GET" | "HEAD", "/":
            return Page(200, [b"Ollama is running"], "text/plain; charset=utf-8")
        case "GET", "/api/version":
            return Page(200, [encoded({"version": "0.20.0"})])
        case "GET", "/api/tags":
            return Page(200, [encoded(ollama.tags((*around.options.models, *sorted(around.pulled))))])
        case "GET", "/api/ps":
            return Page(200, [encoded({"models": []})])
        case "POST", "/api/show":
            if not around.knows(name):
                raise missing(f"model '{name}' not found")
            return Page(200, [encoded(ollama.shown(name))])
        case "POST", "/api/pull":
            if name.startswith("not-there"):
                # The registry is asked first: the download fails after it has begun.
                lines = [encoded({"status": "pulling manifest"}) + b"\n"]
                lines.append(encoded({"error": "pull model manifest: file does not exist"}) + b"\n")
                return Page(200, lines, "application/x-ndjson")
            around.pulled.add(name)
            lines = ollama.pulled()
            stream = body.get("stream") is not False
            return Page(200, lines if stream else lines[-1:], "application/x-ndjson" if stream else JSON)
        case _:
            return None


def nowhere(wire: Wire, arrived: Arrived, method: str) -> bytes:
    """Return the body of a 404, in an API's form."""
    told = problem("missing", 404, f"Invalid URL ({method} {arrived.path})", "unknown_url")
    return wire.failure(told, "")
