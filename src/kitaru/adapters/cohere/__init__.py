"""Cohere's chat API, version 2, plain and as a stream.

The host is `api.cohere.com`; keys and requests of the older `api.cohere.ai` are the same, so that it can be named as
base URL. Field names by cohere `v2/raw_client.py` and `types/`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from kitaru.adapters.call import ModelCall, Tool
from kitaru.adapters.call_ids import made_id
from kitaru.adapters.cohere.reply import CohereStream, read
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Image, Message, Part, Text, own_form
from kitaru.adapters.provider import Capabilities, Feature, Lacks, Provider
from kitaru.adapters.reply import Reply
from kitaru.adapters.request import address, body_of, key_of, post, without_endpoint
from kitaru.errors import UnsupportedError

if TYPE_CHECKING:
    import httpx

_FEATURES: Final[frozenset[Feature]] = frozenset(
    {
        "temperature", "top_p", "seed", "reasoning", "tools", "tool_choice", "json_schema", "json_mode", "images",
        "image_urls", "stop", "max_tokens",
    }
)  # fmt: skip

ROW: Final = Provider(
    name="cohere",
    title="Cohere",
    capabilities=Capabilities(
        features=_FEATURES,
        tool_choices=frozenset({"none", "required"}),
        most_stops=5,  # `v2/raw_client.py`, `stop_sequences`
        models=(
            # The documents name one model that thinks and two that see; `tool_choice` came with command-r7b.
            Lacks(
                ("command-r*", "command-a-03*", "command-a-vision*", "command-a-translate*", "c4ai-*"),
                frozenset({"reasoning"}),
            ),
            Lacks(
                ("command-r*", "command-a-03*", "command-a-reasoning*", "command-a-translate*", "c4ai-aya-expanse*"),
                frozenset({"images", "image_urls"}),
            ),
            Lacks(("command-r", "command-r-*", "command-r-plus*"), frozenset({"tool_choice"})),
        ),
    ),
    base_url="https://api.cohere.com",  # cohere `environment.py`
    key_env=("CO_API_KEY", "COHERE_API_KEY"),  # cohere `client.py`: the second is accepted, not documented
    base_url_env=("CO_API_URL",),
    request_id_headers=("x-debug-trace-id", "x-request-id", "request-id"),
    retryable=frozenset({408, 409, 429}),  # and every 5xx; cohere `core/http_client.py`
    # "You are using a Trial key, which is limited to 1000 API calls / month." The same words with "minute" pass.
    quota_phrases=("/ month", "per month", "billing limit"),
    model_prefixes=("command-", "command", "c4ai-"),
    # No limit is published. Ten minutes of a slow model, as anthropic's SDK reckons it (`_base_client.py`).
    stream_over=21_333,
    docs="https://docs.cohere.com/v2/reference/chat",
)

_ENDPOINT: Final = re.compile(r"/v[12](/chat)?$")

# Not to be set through `extra`: they have settings of their own, or change the form of the answer.
_OWN_FIELDS: Final = frozenset(
    {
        "model", "messages", "stream", "max_tokens", "temperature", "p", "stop_sequences", "seed", "tools",
        "tool_choice", "response_format",
    }
)  # fmt: skip

# `types/thinking.py` knows a budget only. "max" is no budget at all; the models produce 32,768 tokens at most.
_BUDGETS: Final[Mapping[str, int]] = {"minimal": 512, "low": 1024, "medium": 4096, "high": 16384}


class Cohere(msgspec.Struct, frozen=True):
    """The adapter: pure translation between neutral terms and this wire format."""

    row: Provider = ROW

    def build_request(self, call: ModelCall, endpoint: Endpoint, *, stream: bool = False) -> httpx.Request:
        """Return the request for a call.

        Effort words become a `token_budget` for thinking: 512, 1,024, 4,096 or 16,384 tokens, none for `max`; `none`
        and 0 switch it off. The base URL may end in `/v2` or `/v2/chat`.

        Raises:
            UsageError: The call or the address cannot be right.
            CredentialError: A key is needed and missing, or cannot be sent in a header.
        """
        url = address(self.row, without_endpoint(endpoint.base_url, _ENDPOINT), "/v2/chat")
        settings = call.settings
        fields: dict[str, object] = {
            "model": call.model,
            "messages": [_message(message, call, self.row.name) for message in call.messages if not _empty(message)],
            "stream": stream,
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            # `v2/raw_client.py`: between 0.01 and 0.99.
            "p": None if settings.top_p is None else min(max(settings.top_p, 0.01), 0.99),
            "stop_sequences": list(settings.stop) or None,
            "seed": settings.seed,
            "thinking": _thinking(call),
            "tools": [_tool(tool) for tool in call.tools] or None,
            "strict_tools": True if call.tools and all(tool.strict for tool in call.tools) else None,
            "tool_choice": _tool_choice(call),
            "response_format": _response_format(call),
        }
        body = body_of(call, fields, _OWN_FIELDS)
        key = key_of(self.row, endpoint, url)
        return post(self.row, url, body, endpoint, {"authorization": f"Bearer {key}"} if key else {})

    def parse_response(self, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response, finished or not.

        Raises:
            CredentialError: The key was refused.
            AnswerError: A filter stopped the request or the answer (498).
            ProviderError: An error, or a body that is not what the API promises.
        """
        return read(self.row, call, status, headers, body)

    def parse_stream(self, call: ModelCall, status: int, headers: Mapping[str, str]) -> CohereStream:
        """Return a parser for the body of a streamed success."""
        return CohereStream(self.row, call, status, headers)


ADAPTER: Final = Cohere()


def _message(message: Message, call: ModelCall, provider: str) -> object:
    match message.role:
        case "assistant":
            return _assistant(message, call, provider)
        case "tool":
            if not all(isinstance(part, Text) for part in message.parts):
                raise UnsupportedError(
                    "a tool's result cannot hold images or documents at cohere", hint="Put them into a user's message."
                )
            return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.text}
        case "system" | "developer":
            return {"role": "system", "content": _content(message)}
        case _:
            return {"role": "user", "content": _content(message)}


def _empty(message: Message) -> bool:
    """Whether an assistant said nothing, which the API refuses: "must have non-empty content or tool calls"."""
    return message.role == "assistant" and not (message.text or message.tool_calls or message.opaque)


def _assistant(message: Message, call: ModelCall, provider: str) -> object:
    own = own_form(message, provider, call.model)
    if own is not None:
        return msgspec.Raw(own)
    if not all(isinstance(part, Text) for part in message.parts):
        raise UnsupportedError("an assistant's message cannot hold images at cohere", hint="Put them into a user's.")
    if not message.tool_calls:
        return {"role": "assistant", "content": message.text}
    # What is said beside a call is its plan here (`types/assistant_message.py`).
    plan = {"tool_plan": message.text} if message.text else {}
    calls = [
        {
            "id": one.id or made_id(call, index, one.name, one.arguments),
            "type": "function",
            "function": {"name": one.name, "arguments": one.arguments},
        }
        for index, one in enumerate(message.tool_calls)
    ]
    return {"role": "assistant", **plan, "tool_calls": calls}


def _content(message: Message) -> object:
    if len(message.parts) < 2 and message.plain:
        return message.text
    return [_part(part) for part in message.parts]


def _part(part: Part) -> dict[str, object]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Image():
            url = part.url
            if part.data:
                url = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
            detail = {"detail": part.detail} if part.detail else {}
            return {"type": "image_url", "image_url": {"url": url, **detail}}
        case _:
            raise UnsupportedError("cohere takes no documents in messages", hint="Send their text.")


def _tool(tool: Tool) -> dict[str, object]:
    described = {"description": tool.description} if tool.description else {}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": tool.parameters}}


def _tool_choice(call: ModelCall) -> str | None:
    mode = call.tool_choice.mode if call.tool_choice else "auto"
    if mode == "tool":
        raise UnsupportedError(
            "cohere cannot be told which tool to call", hint="Offer only that tool, and require one."
        )
    return {"none": "NONE", "required": "REQUIRED"}.get(mode)


def _response_format(call: ModelCall) -> dict[str, object] | None:
    match call.output.kind:
        case "text":
            return None
        case "schema" if call.output.schema is not None:
            return {"type": "json_object", "json_schema": call.output.schema}
        case _:
            return {"type": "json_object"}


def _thinking(call: ModelCall) -> dict[str, object] | None:
    effort = call.settings.reasoning
    if effort is None:
        return None
    if effort in ("none", 0):
        return {"type": "disabled"}
    budget = _BUDGETS.get(effort) if isinstance(effort, str) else effort
    return {"type": "enabled"} if budget is None or budget < 0 else {"type": "enabled", "token_budget": budget}
