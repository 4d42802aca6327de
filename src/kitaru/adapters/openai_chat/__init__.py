"""OpenAI's chat completions, as spoken by OpenAI and by the whole compatible family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from kitaru.adapters.call import ModelCall, Output, Tool, ToolChoice
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.failures import failure
from kitaru.adapters.openai_chat.dialect import Dialect, reasoning_fields
from kitaru.adapters.openai_chat.messages import wire_messages
from kitaru.adapters.openai_chat.reply import read_reply
from kitaru.adapters.openai_chat.stream import ChatStream
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import Reply
from kitaru.adapters.request import address, body_of, key_of, post, without_endpoint

if TYPE_CHECKING:
    import httpx

ENDPOINT: Final = re.compile(r"/(chat/completions|completions|responses)$")
"""How the addresses of OpenAI's endpoints end, which are accepted as base URLs."""

# Not to be set through `extra`: they have settings of their own, or change the form of the answer. So has every other
# field that the call itself sets.
_OWN_FIELDS: Final = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "random_seed",
        "functions",
        "function_call",
    }
)


class OpenAIChat(msgspec.Struct, frozen=True):
    """The adapter: pure translation between neutral terms and this wire format.

    Args:
        row: The provider spoken to.
        dialect: How it differs.
    """

    row: Provider
    dialect: Dialect = Dialect()

    def build_request(self, call: ModelCall, endpoint: Endpoint, *, stream: bool = False) -> httpx.Request:
        """Return the request for a call.

        Args:
            call: The model call.
            endpoint: Where, and as whom.
            stream: Ask for the answer as a stream.

        Raises:
            UsageError: The call or the address cannot be right.
            CredentialError: A key is needed and missing, or cannot be sent in a header.
        """
        url = address(self.row, without_endpoint(endpoint.base_url, ENDPOINT), "/chat/completions")
        body = chat_body(call, self.dialect, stream=stream)
        key = key_of(self.row, endpoint, url)
        return post(self.row, url, body, endpoint, {"authorization": f"Bearer {key}"} if key else {})

    def parse_response(self, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response, finished or not.

        Args:
            call: What was asked.
            status: HTTP status.
            headers: By lower-case name.
            body: The whole body, decompressed.

        Raises:
            CredentialError: The key was refused.
            ProviderError: An error, also one inside a success, or a body that is not what the API promises.
        """
        if not 200 <= status < 300:
            raise failure(self.row, status, headers, body)
        return read_reply(self.row, self.dialect, call, status, headers, body)

    def parse_stream(self, call: ModelCall, status: int, headers: Mapping[str, str]) -> ChatStream:
        """Return a parser for the body of a streamed success."""
        return ChatStream(self.row, self.dialect, call, status, headers)


def chat_body(call: ModelCall, dialect: Dialect, *, stream: bool = False) -> bytes:
    """Return the body of a chat completion's request.

    Args:
        call: The model call.
        dialect: The server's.
        stream: Ask for the answer as a stream.

    Raises:
        UsageError: A value that cannot be right or cannot be written as JSON.
    """
    settings = call.settings
    fields: dict[str, object] = {
        "model": call.model,
        "messages": wire_messages(call, dialect),
        dialect.max_tokens: settings.max_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "stop": list(settings.stop) or None,
        dialect.seed: settings.seed,
        "tools": [_tool(tool, dialect) for tool in call.tools] or None,
        # OpenAI refuses a choice where there is nothing to choose from.
        "tool_choice": _choice(call.tool_choice, dialect) if call.tool_choice and call.tools else None,
        "response_format": _form(call.output),
        "stream": True if stream else None,
        "stream_options": {"include_usage": True} if stream and dialect.stream_usage else None,
        **reasoning_fields(dialect, settings.reasoning, settings.extra),
    }
    return body_of(call, fields, _OWN_FIELDS | {name for name, value in fields.items() if value is not None})


def _tool(tool: Tool, dialect: Dialect) -> dict[str, object]:
    function: dict[str, object] = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    if not tool.description:
        del function["description"]
    if tool.strict and dialect.tool_strict:
        function["strict"] = True
    return {"type": "function", "function": function, **tool.more}


def _choice(choice: ToolChoice, dialect: Dialect) -> object:
    if choice.names:  # openai SDK `chat_completion_allowed_tool_choice_param.py`
        tools = [{"type": "function", "function": {"name": name}} for name in choice.names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": tools}}
    match choice.mode:
        case "tool":
            return {"type": "function", "function": {"name": choice.name}}
        case "required":
            return dialect.must_call
        case word:
            return word


def _form(output: Output) -> dict[str, object] | None:
    match output.kind:
        case "text":
            return None
        case "json":
            return {"type": "json_object"}
        case "schema":
            form: dict[str, object] = {"name": output.name, "schema": output.schema or {}}
            return {"type": "json_schema", "json_schema": form | ({"strict": True} if output.strict else {})}
