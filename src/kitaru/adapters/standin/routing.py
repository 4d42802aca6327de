"""Which API a path belongs to, as the providers' own clients build it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from kitaru.adapters.standin.anthropic_messages import Anthropic
from kitaru.adapters.standin.asked import Arrived, string
from kitaru.adapters.standin.chat import Chat
from kitaru.adapters.standin.cohere import Cohere
from kitaru.adapters.standin.flavours import flavour_of
from kitaru.adapters.standin.google import Google
from kitaru.adapters.standin.ollama import Ollama
from kitaru.adapters.standin.responses import Responses
from kitaru.adapters.standin.wire import Wire

BASES: Final[Mapping[str, str]] = {
    "openai": "/v1",
    "openai-responses": "/v1",
    "anthropic": "",
    "google": "",
    "mistral": "",
    "cohere": "",
    "groq": "",
    "together": "",
    "perplexity": "",
    "deepseek": "",
    "openrouter": "/api/v1",
    "ollama": "",
    "azure": "",
    "openai-compatible": "/v1",
}
"""What follows the host in each provider's usual base URL, as its own client takes it."""


class Place(msgspec.Struct, frozen=True):
    """A path of some API.

    Args:
        path: A regular expression for all of it; a group `model` is the model that it names.
        providers: Whose it is, where the address names the provider; empty for whoever speaks OpenAI's API.
        wire: Makes what speaks there, of the request and the provider that the address names, if it does.
    """

    path: re.Pattern[str]
    providers: frozenset[str]
    wire: Callable[[Arrived, str], Wire]


def _chat(provider: str = "") -> Callable[[Arrived, str], Wire]:
    def made(arrived: Arrived, named: str) -> Wire:
        model = arrived.model or string((arrived.payload or {}).get("model"))
        return Chat(flavour_of(named or provider, model))

    return made


def _hosted(arrived: Arrived, named: str) -> Wire:
    # Groq and azure share this path; their clients bring the key in different headers.
    default = "azure" if "api-key" in arrived.headers else "groq"
    return Chat(flavour_of(named or default, ""))


def _responses(arrived: Arrived, named: str) -> Wire:
    azure = named == "azure" or "api-key" in arrived.headers or arrived.path.startswith("/openai/")
    return Responses("azure" if azure else "openai-responses")


def _google(*, stream: bool) -> Callable[[Arrived, str], Wire]:
    return lambda arrived, _: Google(stream, arrived.query.get("alt") == "sse")


def _place(path: str, providers: str, wire: Callable[[Arrived, str], Wire]) -> Place:
    return Place(re.compile(path), frozenset(providers.split()), wire)


PLACES: Final = (
    _place(r"/v1/chat/completions", "openai mistral together deepseek perplexity openai-compatible", _chat()),
    _place(r"/chat/completions", "deepseek perplexity openai-compatible", _chat()),
    _place(r"/openai/v1/chat/completions", "groq azure", _hosted),
    _place(r"/api/v1/chat/completions", "openrouter", _chat("openrouter")),
    _place(r"/openai/deployments/(?P<model>.+)/chat/completions", "azure", _chat("azure")),
    _place(r"/v1/responses", "openai openai-responses openai-compatible", _responses),
    _place(r"/responses", "openai-compatible", _responses),
    _place(r"/openai/v1/responses", "azure", _responses),
    _place(r"/v1/messages", "anthropic openai-compatible", lambda _, __: Anthropic()),
    _place(r"/v1(?:beta)?/models/(?P<model>.+):generateContent", "google", _google(stream=False)),
    _place(r"/v1(?:beta)?/models/(?P<model>.+):streamGenerateContent", "google", _google(stream=True)),
    _place(r"/v2/chat", "cohere", lambda _, __: Cohere()),
    _place(r"/api/chat", "ollama", lambda _, __: Ollama()),
)

_AT: Final = re.compile(r"/at/([a-z0-9-]+)(/.*)?")
_ANY_CHAT: Final = _place(r"/(?:.*/)?chat/completions", "", _chat())


def addressed(path: str) -> tuple[str, str]:
    """Split a path into the provider that it names with `/at/PROVIDER`, empty where it names none, and the rest."""
    found = _AT.fullmatch(path)
    return (found[1], found[2] or "/") if found else ("", path)


def find(path: str, provider: str) -> tuple[Place, str] | None:
    """Return the place of a path and the model that it names; None where the API has no such path.

    Args:
        path: Without what names the provider.
        provider: The one that it named; each has its own paths only then. One that is not known speaks OpenAI's API,
            wherever its path ends in that.
    """
    # A base URL with a slash at its end gives two.
    path = re.sub(r"/{2,}", "/", path)
    for place in PLACES:
        found = place.path.fullmatch(path)
        if found and (not provider or provider in place.providers):
            return place, found.groupdict().get("model") or ""
    if provider and provider not in BASES and _ANY_CHAT.path.fullmatch(path):
        return _ANY_CHAT, ""
    return None


def speaker(arrived: Arrived, provider: str) -> Wire:
    """Return what speaks the API whose path comes closest, to say in its form that there is no such path."""
    path, headers = arrived.path, arrived.headers
    if provider == "anthropic" or (
        not provider and ("anthropic-version" in headers or path.startswith("/v1/messages"))
    ):
        return Anthropic()
    if provider == "google" or (not provider and (":" in path or "x-goog-api-key" in headers or "/v1beta/" in path)):
        return Google()
    if provider == "cohere" or (not provider and path.startswith("/v2/")):
        return Cohere()
    if provider == "ollama" or (not provider and path.startswith("/api/") and not path.startswith("/api/v1/")):
        return Ollama()
    if provider == "openai-responses":
        return Responses()
    if not provider and path.startswith("/openai/"):
        return Chat(flavour_of("azure" if "api-key" in headers else "groq", ""))
    return Chat(flavour_of(provider or ("openrouter" if path.startswith("/api/v1/") else ""), ""))
