"""Azure's OpenAI: chat completions under its own addresses and with its own header for the key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.compatible import QUOTA_CODES, REASONING_MODELS, TEN_MINUTES
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.openai_chat import OpenAIChat, chat_body
from kitaru.adapters.openai_chat.dialect import Dialect
from kitaru.adapters.openai_chat.stream import ChatStream
from kitaru.adapters.provider import Capabilities, Provider
from kitaru.adapters.reply import Reply
from kitaru.adapters.request import address, key_of, post
from kitaru.errors import UsageError

if TYPE_CHECKING:
    import httpx

# Microsoft Learn "Azure OpenAI endpoints"; the last: Foundry.
_HOSTS: Final = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")

_ENDPOINTS: Final = ("AZURE_OPENAI_ENDPOINT", "AZURE_API_BASE")  # openai SDK `lib/azure.py`; LiteLLM
_VERSIONS: Final = ("OPENAI_API_VERSION", "AZURE_API_VERSION", "AZURE_OPENAI_API_VERSION")  # the first: the SDK

_CHAT: Final = "/chat/completions"
_DATED: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_DEPLOYMENT: Final = re.compile(r"/openai/deployments/[^/]+")

# Since this version: `max_completion_tokens` and `stream_options`, Microsoft Learn "API version deprecation".
_NEWER: Final = "2024-09-01"

_DIALECT: Final = Dialect(max_tokens="max_completion_tokens", developer=True, text_parts=True)
_OLDER: Final = Dialect(stream_usage=False, developer=True, text_parts=True)


def is_azure(base_url: str) -> bool:
    """Whether an address is one of Azure's own, so that a call of OpenAI there is a call of Azure."""
    try:
        host = urlsplit(base_url.strip()).hostname or ""
    except ValueError:
        return False
    return host.rstrip(".").endswith(_HOSTS)


def versioned(base_url: str, environ: Mapping[str, str]) -> str:
    """Return an address with the API version that the environment names, where the address has none and takes one.

    Args:
        base_url: An endpoint, `.../openai/v1`, which takes no version, or `.../openai/deployments/NAME`.
        environ: The environment.
    """
    version = _first(environ, _VERSIONS)
    try:
        parts = urlsplit(base_url.strip())
    except ValueError:
        return base_url
    if not version or _version(parts.query) or parts.path.rstrip("/").endswith(("/openai/v1", f"/openai/v1{_CHAT}")):
        return base_url
    query = "&".join(one for one in (parts.query, urlencode({"api-version": version})) if one)
    return urlunsplit(parts._replace(query=query))


def _base_url(environ: Mapping[str, str]) -> str | None:
    endpoint = _first(environ, _ENDPOINTS)
    return versioned(endpoint, environ) if endpoint else None


ROW: Final = Provider(
    name="azure",
    title="Azure OpenAI",
    thinks_in_text=True,
    # Its strict schemas take no keywords beside the structure: Microsoft Learn "Structured outputs".
    capabilities=Capabilities(
        features=frozenset(
            {
                "temperature", "top_p", "seed", "reasoning", "tools", "tool_choice", "json_schema", "json_mode",
                "images", "image_urls", "documents", "audio", "stop", "max_tokens",
            }
        ),
        schema_dialect="closed",
        most_stops=4,
        part_fields=frozenset({"prompt_cache_breakpoint"}),
        speakers=True,
        models=REASONING_MODELS,
    ),
    # openai SDK `lib/azure.py`, the token first as there; then older examples; LiteLLM
    key_env=("AZURE_OPENAI_AD_TOKEN", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_KEY", "AZURE_API_KEY"),
    bearer_env=("AZURE_OPENAI_AD_TOKEN",),
    base_url_env=_ENDPOINTS,
    find_base_url=_base_url,
    request_id_headers=("x-request-id", "apim-request-id"),
    quota_codes=QUOTA_CODES,
    stream_over=TEN_MINUTES,
    docs="https://learn.microsoft.com/azure/foundry/openai/api-version-lifecycle",
)  # fmt: skip


class AzureChat(msgspec.Struct, frozen=True):
    """The adapter: OpenAI's chat completions under Azure's addresses.

    A base URL is an endpoint, `.../openai/v1`, `.../openai/deployments/NAME`, or either with `/chat/completions`, as
    the portal shows it. With `?api-version=` and a date in it, an endpoint is asked for the deployment of the model's
    name; without, its v1 API is. A deployment that the address names wins over the model's name.

    Args:
        row: The provider spoken to.
    """

    row: Provider

    def build_request(self, call: ModelCall, endpoint: Endpoint, *, stream: bool = False) -> httpx.Request:
        """Return the request for a call.

        Args:
            call: What is asked; its model is a deployment's name.
            endpoint: Where, and as whom; `bearer` for a token of Entra ID.
            stream: Ask for the answer as a stream.

        Raises:
            UsageError: The call or the address cannot be right.
            CredentialError: A key is needed and missing, or cannot be sent in a header.
        """
        url = _url(self.row, endpoint.base_url, call.model)
        version = _version(urlsplit(url).query)
        dated = bool(_DATED.match(version)) and "/openai/deployments/" in url
        body = chat_body(call, _OLDER if dated and version[:10] < _NEWER else _DIALECT, stream=stream)
        key = key_of(self.row, endpoint, url)
        credential = {"authorization": f"Bearer {key}"} if endpoint.bearer else {"api-key": key}
        return post(self.row, url, body, endpoint, credential if key else {})

    def parse_response(self, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response, finished or not.

        Args:
            call: What was asked.
            status: HTTP status.
            headers: By lower-case name.
            body: The whole body, decompressed.

        Raises:
            CredentialError: The key was refused.
            AnswerError: The prompt was filtered.
            ProviderError: An error, also one inside a success, or a body that is not what the API promises.
        """
        return OpenAIChat(self.row, _DIALECT).parse_response(call, status, headers, body)

    def parse_stream(self, call: ModelCall, status: int, headers: Mapping[str, str]) -> ChatStream:
        """Return a parser for the body of a streamed success."""
        return ChatStream(self.row, _DIALECT, call, status, headers)


ADAPTER: Final = AzureChat(ROW)


def _url(row: Provider, base_url: str, deployment: str) -> str:
    whole = address(row, base_url, "")
    parts = urlsplit(whole)
    path, version = parts.path.rstrip("/").removesuffix(_CHAT).rstrip("/"), _version(parts.query)
    if _DEPLOYMENT.search(path):
        if not version:
            raise UsageError(
                "the base URL for azure names a deployment but no API version",
                hint="Add ?api-version=, set OPENAI_API_VERSION, or use the v1 API: https://NAME.openai.azure.com/openai/v1.",
            )
    elif not path.endswith(("/openai/v1", "/models")):  # the second: Foundry's own models
        path = path.removesuffix("/openai")
        # A dot segment would be resolved, and name another path.
        if not deployment or deployment in (".", ".."):
            raise UsageError(f"{deployment!r} is not a deployment's name")
        dated = _DATED.match(version)
        path += f"/openai/deployments/{quote(deployment, safe='')}" if dated else "/openai/v1"
    return urlunsplit(parts._replace(path=path + _CHAT))


def _version(query: str) -> str:
    return next(iter(parse_qs(query).get("api-version", ())), "")


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := environ.get(name, "").strip())), "")
