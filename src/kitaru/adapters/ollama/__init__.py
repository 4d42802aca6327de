"""Ollama's own chat API, plain and as a stream; field names by ollama `_types.py` and the project's `docs/api.md`."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from kitaru.adapters.call import ModelCall, Tool
from kitaru.adapters.call_ids import arguments_of, is_made, tool_names
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Image, Message, Text, own_form
from kitaru.adapters.nested import with_nested
from kitaru.adapters.ollama.reply import OllamaStream, read
from kitaru.adapters.provider import Capabilities, Feature, Provider
from kitaru.adapters.reply import Reply
from kitaru.adapters.request import address, body_of, key_of, post, without_endpoint
from kitaru.errors import UnsupportedError

if TYPE_CHECKING:
    import httpx

_PORT: Final = 11434

_FEATURES: Final[frozenset[Feature]] = frozenset(
    {
        "temperature", "top_p", "seed", "reasoning", "context_length", "tools", "json_schema", "json_mode", "images",
        "stop", "max_tokens",
    }
)  # fmt: skip


def server_url(host: str) -> str:
    """Return the address of a server as `OLLAMA_HOST` names it; the default one's for an empty text.

    Ollama's own rules (`envconfig/config.go`, `_client.py`): quotes and space around it are dropped; without a scheme
    it is http at port 11434, with one the scheme's own port; an address to listen on everywhere (`0.0.0.0`, `[::]`) is
    called at the loopback.

    Args:
        host: Such as `0.0.0.0`, `myhost:8080`, `:11434`, `[::1]`, `https://host/path`.

    Returns:
        An address without a final slash. A text that is no address comes back as it is, for `address` to refuse.
    """
    text = host.strip().strip("\"'").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    rest = rest.rstrip("/")
    try:
        ipaddress.IPv6Address(rest)
        rest = f"[{rest}]"  # bare, as ollama takes it
    except ValueError:
        pass
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        name, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        return text
    if "@" in parts.netloc or any(char.isspace() for char in text) or not text.isprintable():
        return text
    if name in ("0.0.0.0", "::"):  # noqa: S104 - where it listens, not where we do
        name = "127.0.0.1" if name == "0.0.0.0" else "::1"  # noqa: S104 - see above
    if port is None:
        port = _PORT if not separator else 443 if scheme.lower() == "https" else 80
    query = f"?{parts.query}" if parts.query else ""
    return f"{scheme.lower()}://{f'[{name}]' if ':' in name else name}:{port}{parts.path.rstrip('/')}{query}"


def _base_url(environ: Mapping[str, str]) -> str | None:
    found = environ.get("OLLAMA_HOST", "").strip().strip("\"'").strip()
    return server_url(found) if found else None


ROW: Final = Provider(
    name="ollama",
    thinks_in_text=True,
    title="Ollama",
    # What a model has depends on its template; the server says 400 where it lacks tools or thinking.
    capabilities=Capabilities(features=_FEATURES, tool_choices=frozenset()),
    base_url=f"http://localhost:{_PORT}",
    key_env=("OLLAMA_API_KEY",),  # for https://ollama.com; ollama `_client.py`
    base_url_env=("OLLAMA_HOST",),
    find_base_url=_base_url,
    key_required=False,
    retryable=frozenset({429}),  # and every 5xx: 503 is a full queue
    free=True,
    docs="https://docs.ollama.com/api/chat",
)

ENDPOINT: Final = re.compile(r"/(api(/(chat|generate|tags))?|v1(/(chat/)?completions|/responses|/models)?)$")
"""How the addresses of Ollama's endpoints end, which are accepted as base URLs."""

# Not to be set through `extra`: they have settings of their own, or change the form of the answer.
_OWN_FIELDS: Final = frozenset({"model", "messages", "stream", "tools", "format"})
_OWN_OPTIONS: Final = frozenset({"temperature", "top_p", "seed", "stop", "num_predict", "num_ctx"})

_LEVELS: Final[Mapping[str, str]] = {
    "none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "max": "high",
}  # fmt: skip


class Ollama(msgspec.Struct, frozen=True):
    """The adapter: pure translation between neutral terms and this wire format."""

    row: Provider = ROW

    def build_request(self, call: ModelCall, endpoint: Endpoint, *, stream: bool = False) -> httpx.Request:
        """Return the request for a call.

        Thinking is on or off for most models: any effort but `none`, any budget but 0, switches it on. `gpt-oss` knows
        `low`, `medium` and `high` and cannot be kept from it. `extra` may hold `options`, which are added to the call's
        own. The base URL may be spelled as `OLLAMA_HOST` is, and may end in `/api` or in `/v1`, where Ollama speaks
        OpenAI's API.

        Raises:
            UsageError: The call or the address cannot be right.
            CredentialError: The key cannot be sent in a header.
        """
        base = endpoint.base_url if "://" in endpoint.base_url else server_url(endpoint.base_url)
        url = address(self.row, without_endpoint(base, ENDPOINT), "/api/chat")
        settings = call.settings
        options: dict[str, object] = {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": settings.seed,
            "stop": list(settings.stop) or None,
            "num_predict": settings.max_tokens,
            "num_ctx": settings.context_length,
        }
        outer, inner = with_nested(call, "options", options, _OWN_OPTIONS)
        names = tool_names(call.messages)
        fields: dict[str, object] = {
            "model": call.model,
            "messages": [_message(message, call, names, self.row.name) for message in call.messages],
            "stream": stream,  # left out, it would be true
            "think": _think(call),
            "format": _format(call),
            "tools": [_tool(tool) for tool in call.tools] or None,
            "options": inner,
        }
        body = body_of(outer, fields, _OWN_FIELDS)
        key = key_of(self.row, endpoint, url)
        return post(self.row, url, body, endpoint, {"authorization": f"Bearer {key}"} if key else {})

    def parse_response(self, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response, finished or not.

        Raises:
            CredentialError: The key was refused.
            ProviderError: An error, or a body that is not what the API promises.
        """
        return read(self.row, call, status, headers, body)

    def parse_stream(self, call: ModelCall, status: int, headers: Mapping[str, str]) -> OllamaStream:
        """Return a parser for the body of a streamed success."""
        return OllamaStream(self.row, call, status, headers)


ADAPTER: Final = Ollama()


def _message(message: Message, call: ModelCall, names: Mapping[str, str], provider: str) -> object:
    if message.role == "assistant":
        own = own_form(message, provider, call.model)
        if own is not None:
            return msgspec.Raw(own)
    role = "system" if message.role == "developer" else message.role
    found: dict[str, object] = {"role": role, "content": message.text}
    images = [_image(part) for part in message.parts if not isinstance(part, Text)]
    if images:
        found["images"] = images
    if message.role == "tool":
        found["tool_name"] = message.name or names.get(message.tool_call_id, "")
        if message.tool_call_id and not is_made(message.tool_call_id):
            found["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        found["tool_calls"] = [
            {
                **({} if is_made(one.id) else {"id": one.id}),
                "function": {"name": one.name, "arguments": arguments_of(one)},
            }
            for one in message.tool_calls
        ]
    return found


def _image(part: object) -> str:
    if isinstance(part, Image) and part.data:
        return base64.b64encode(part.data).decode()
    what = "images by their address" if isinstance(part, Image) else "documents"
    raise UnsupportedError(f"ollama takes no {what}", hint="Send the bytes of an image, or the text.")


def _tool(tool: Tool) -> dict[str, object]:
    described = {"description": tool.description} if tool.description else {}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": tool.parameters}}


def _format(call: ModelCall) -> object:
    match call.output.kind:
        case "text":
            return None
        case "schema" if call.output.schema is not None:
            return call.output.schema
        case _:
            return "json"


def _think(call: ModelCall) -> bool | str | None:
    effort = call.settings.reasoning
    if effort is None:
        return None
    if "gpt-oss" not in call.model.lower():  # levels are a 400 elsewhere: 'think value "low" is not supported'
        return effort not in ("none", 0)
    if isinstance(effort, str):
        return _LEVELS[effort]
    return "low" if 0 <= effort <= 1024 else "medium" if 0 <= effort <= 8192 else "high"
