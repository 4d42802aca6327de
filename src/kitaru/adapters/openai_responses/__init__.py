"""OpenAI's responses API, plain and as a stream.

Nothing is stored at the provider unless `extra={"store": True}` asks for it: the conversation is sent whole each time,
with the model's thinking in encrypted form.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import msgspec

from kitaru.adapters.call import ModelCall, Tool, ToolChoice
from kitaru.adapters.compatible import ADAPTERS
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.nested import with_listed, with_nested
from kitaru.adapters.openai_chat import ENDPOINT
from kitaru.adapters.openai_chat.dialect import effort_of
from kitaru.adapters.openai_responses.items import wire_items
from kitaru.adapters.openai_responses.reply import read
from kitaru.adapters.openai_responses.stream import ResponsesStream
from kitaru.adapters.provider import Feature, Lacks, Provider
from kitaru.adapters.reply import Reply
from kitaru.adapters.request import address, body_of, key_of, post, without_endpoint

if TYPE_CHECKING:
    import httpx

# They do not think, and answer 400 "Encrypted content is not supported with this model." (pydantic-ai issues 2865 and
# 3326).
_NO_THINKING: Final = ("gpt-3*", "gpt-4*", "chatgpt-*", "gpt-5-chat*", "ft:gpt-3*", "ft:gpt-4*")
_ENCRYPTED: Final = "reasoning.encrypted_content"

_DOCUMENTS: Final[frozenset[Feature]] = frozenset({"documents", "document_urls"})
_MISSING: Final[frozenset[Feature]] = frozenset({"stop", "seed"})


def _row() -> Provider:
    openai = ADAPTERS["openai"].row
    known = openai.capabilities
    capabilities = msgspec.structs.replace(
        known,
        features=known.features - _MISSING - {"audio"} | _DOCUMENTS,
        most_stops=None,
        models=(*known.models, Lacks(_NO_THINKING, frozenset({"reasoning"}))),
        tool_fields=frozenset({"allowed_callers", "defer_loading", "output_schema"}),  # `function_tool_param.py`
        speakers=False,
    )
    return msgspec.structs.replace(
        openai,
        name="openai-responses",
        title="OpenAI Responses",
        capabilities=capabilities,
        model_prefixes=(),  # a bare name is chat's
        price_id="openai",
        docs="https://platform.openai.com/docs/api-reference/responses",
    )


ROW: Final = _row()

# Not to be set through `extra`: they have settings of their own, or change the form of the answer.
_OWN_FIELDS: Final = frozenset(
    {
        "model", "input", "instructions", "max_output_tokens", "temperature", "top_p", "tool_choice", "stream",
        "stream_options", "background",
    }
)  # fmt: skip


class OpenAIResponses(msgspec.Struct, frozen=True):
    """The adapter: pure translation between neutral terms and this wire format.

    Args:
        row: The provider spoken to.
    """

    row: Provider = ROW

    def build_request(self, call: ModelCall, endpoint: Endpoint, *, stream: bool = False) -> httpx.Request:
        """Return the request for a call.

        An effort is `reasoning.effort`; a budget in tokens becomes the effort that it stands for. Of `extra`, `tools`
        and `include` are added to the call's own; `reasoning` (such as `summary`) and `text` are merged with what the
        call's settings put there.

        Raises:
            UsageError: The call or the address cannot be right.
            CredentialError: A key is needed and missing, or cannot be sent in a header.
        """
        settings = call.settings
        items, instructions = wire_items(call, self.row.name)
        fields: dict[str, object] = {
            "model": call.model,
            "input": items,
            "instructions": instructions,
            "max_output_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "tool_choice": _tool_choice(call.tool_choice) if call.tools else None,
            "store": False,
            "stream": True if stream else None,
        }
        thinks = not any(fnmatchcase(call.model.lower(), pattern) for pattern in _NO_THINKING)
        effort = None if settings.reasoning is None else effort_of(settings.reasoning)
        rest, fields["tools"] = with_listed(call, "tools", [_tool(tool) for tool in call.tools])
        rest, fields["include"] = with_listed(rest, "include", [_ENCRYPTED] if thinks else [])
        rest, fields["reasoning"] = with_nested(rest, "reasoning", {"effort": effort}, frozenset())
        rest, fields["text"] = with_nested(rest, "text", {"format": _format(call)}, frozenset({"format"}))
        body = body_of(rest, fields, _OWN_FIELDS)
        url = address(self.row, without_endpoint(endpoint.base_url, ENDPOINT), "/responses")
        key = key_of(self.row, endpoint, url)
        return post(self.row, url, body, endpoint, {"authorization": f"Bearer {key}"} if key else {})

    def parse_response(self, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response, finished or not.

        Raises:
            CredentialError: The key was refused.
            ProviderError: An error, also one inside a success, or a body that is not what the API promises.
        """
        return read(self.row, call, status, headers, body)

    def parse_stream(self, call: ModelCall, status: int, headers: Mapping[str, str]) -> ResponsesStream:
        """Return a parser for the body of a streamed success."""
        return ResponsesStream(self.row, call, status, headers)


ADAPTER: Final = OpenAIResponses()


def _tool(tool: Tool) -> dict[str, object]:
    # `function_tool_param.py`: flat, and `strict` is required; left out it would mean true.
    said = {"description": tool.description} if tool.description else {}
    return {
        "type": "function",
        "name": tool.name,
        **said,
        "parameters": tool.parameters,
        "strict": tool.strict,
        **tool.more,
    }


def _tool_choice(choice: ToolChoice | None) -> object:
    if choice is None:
        return None
    if choice.names:  # `tool_choice_allowed_param.py`
        tools = [{"type": "function", "name": name} for name in choice.names]
        return {"type": "allowed_tools", "mode": choice.mode, "tools": tools}
    return {"type": "function", "name": choice.name} if choice.mode == "tool" else choice.mode


def _format(call: ModelCall) -> dict[str, object] | None:
    output = call.output
    match output.kind:
        case "text":
            return None
        case "json":
            return {"type": "json_object"}
        case "schema":
            return {"type": "json_schema", "name": output.name, "schema": output.schema, "strict": output.strict}
