"""Anthropic's messages API, plain and as a stream.

The version of the API is 2023-06-01 unless `headers={"anthropic-version": ...}` asks for another; 2026-10-21 knows
neither temperature nor top_p (Claude docs, "Migrating to API version 2026-10-21").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

import msgspec

from kitaru.adapters.anthropic.reply import read
from kitaru.adapters.anthropic.stream import AnthropicStream
from kitaru.adapters.anthropic.turns import calls_without_thinking, wire_turns
from kitaru.adapters.call import ModelCall, Tool
from kitaru.adapters.call_ids import tool_names
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.nested import with_listed, with_nested
from kitaru.adapters.openai_chat.dialect import effort_of
from kitaru.adapters.provider import Advisory, Capabilities, Feature, Lacks, Provider
from kitaru.adapters.reply import Reply
from kitaru.adapters.request import address, body_of, key_of, post, without_endpoint
from kitaru.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    import httpx

DEFAULT_MAX_TOKENS: Final = 16_384
"""`max_tokens` of a call that states none: the API wants one, and thinking counts towards it, which the newest models
do unasked. All models that it serves may write so much, and it stays below what has to be streamed."""

_VERSION: Final = "2023-06-01"
_NO_SAMPLING: Final = "2026-10-21"

# Claude docs, "Migration guide" of each model: from 4.7 on sampling is fixed and budgets are gone, thinking adapts.
_NEWER: Final = (
    "*claude-opus-4-7*", "*claude-opus-4-8*", "*claude-opus-5*", "*claude-sonnet-5*", "*claude-haiku-5*", "*fable*",
    "*mythos*",
)  # fmt: skip
# Before 4.6 there are budgets only; the same guides, and docker-agent pull request 3381.
_OLDER: Final = (
    "*claude-3-7*", "*claude-opus-4-0*", "*claude-opus-4-1*", "*claude-opus-4-2025*", "*claude-opus-4-5*",
    "*claude-sonnet-4-0*", "*claude-sonnet-4-2025*", "*claude-sonnet-4-5*", "*claude-haiku-4-5*",
)  # fmt: skip
_NEVER_THINK: Final = ("*claude-2*", "*claude-3-5*", "*claude-3-opus*", "*claude-3-sonnet*", "*claude-3-haiku*")
_ALWAYS_THINK: Final = ("*claude-opus-5-5*", "*fable*", "*mythos*")
# "What's new in Claude Sonnet 5.5": it has another word for "disabled", and "Forced tool use returns an error", as it
# does with Opus 5.5 and from Fable 5.1 on.
_THINK_BETWEEN: Final = ("*claude-sonnet-5-5*",)
_NOT_FORCED: Final = ("*claude-sonnet-5-5*", "*claude-opus-5-5*", "*fable-5-*", "*mythos-5-*")
# "Structured outputs": since Opus 4.1 and Sonnet 4.5.
_NO_SCHEMAS: Final = (
    "*claude-2*", "*claude-3-*", "*claude-opus-4-0*", "*claude-opus-4-2025*", "*claude-sonnet-4-0*",
    "*claude-sonnet-4-2025*",
)  # fmt: skip

_FEATURES: Final[frozenset[Feature]] = frozenset(
    {
        "temperature", "top_p", "reasoning", "tools", "tool_choice", "json_schema", "images", "image_urls", "documents",
        "document_urls", "stop", "max_tokens",
    }
)  # fmt: skip

# `types/shared/*_spend_limit_reached_error.py`, `billing_error.py` of the SDK.
_QUOTA_CODES: Final = frozenset(
    {
        "billing_error", "enforced_spend_limit_reached", "contract_spend_limit_reached",
        "linked_organization_spend_limit_reached", "linked_organization_billing_unavailable",
    }
)  # fmt: skip


def _rules_out(call: ModelCall) -> Mapping[Advisory, str]:
    """With a budget, a turn that calls tools has to begin with thinking until its answer is there (Claude docs,
    "Extended thinking", on tool use); what another model began does not."""
    if call.settings.reasoning is None or _thinking(call)[0].get("type") != "enabled":
        return {}
    if not calls_without_thinking(call, ROW.name):
        return {}
    return {"reasoning": f"the latest tool calls came without the thinking of {call.provider}/{call.model}"}


ROW: Final = Provider(
    name="anthropic",
    title="Anthropic",
    capabilities=Capabilities(
        features=_FEATURES,
        schema_dialect="anthropic",
        # `text_block_param.py` and its like; `tool_param.py`
        part_fields=frozenset({"cache_control", "citations", "context", "transformations"}),
        tool_fields=frozenset(
            {"allowed_callers", "cache_control", "defer_loading", "eager_input_streaming", "input_examples"}
        ),
        models=(
            Lacks(_NEWER, frozenset({"temperature", "top_p"})),
            Lacks(_NEVER_THINK, frozenset({"reasoning"})),
            Lacks(_NO_SCHEMAS, frozenset({"json_schema"})),
        ),
    ),
    base_url="https://api.anthropic.com",  # anthropic SDK `_client.py`, as the variables below; the last is LiteLLM's
    key_env=("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    bearer_env=("ANTHROPIC_AUTH_TOKEN",),
    base_url_env=("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"),
    rules_out=_rules_out,
    request_id_headers=("request-id", "x-request-id"),
    quota_codes=_QUOTA_CODES,
    quota_phrases=("credit balance is too low", "reached your specified api usage limits"),
    model_prefixes=("claude-",),
    # `_base_client.py` of the SDK refuses to wait for more in one piece: 128,000 tokens take an hour.
    stream_over=21_333,
    docs="https://platform.claude.com/docs/en/api/messages",
)

_ENDPOINT: Final = re.compile(r"/v1(/messages)?$")

# Not to be set through `extra`: they have settings of their own, or change the form of the answer.
_OWN_FIELDS: Final = frozenset(
    {"model", "messages", "system", "max_tokens", "temperature", "top_p", "stop_sequences", "stream"}
)

_SAMPLING: Final = ("temperature", "top_p", "top_k")

_EFFORTS: Final[Mapping[str, str]] = {
    "minimal": "low", "low": "low", "medium": "medium", "high": "high", "max": "max"
}  # fmt: skip
_BUDGETS: Final[Mapping[str, int]] = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384, "max": 32_000}

_LEAST_BUDGET: Final = 1_024  # `thinking_config_enabled_param.py`: at least so much, and less than max_tokens
_ROOM: Final = 8_192  # for the answer, beside a budget, where the call states no max_tokens


class Anthropic(msgspec.Struct, frozen=True):
    """The adapter: pure translation between neutral terms and this wire format."""

    row: Provider = ROW

    def build_request(self, call: ModelCall, endpoint: Endpoint, *, stream: bool = False) -> httpx.Request:
        """Return the request for a call.

        An effort becomes adaptive thinking with `output_config.effort` (`minimal` is `low`), or a budget for models
        before 4.6; a number of tokens becomes a budget of at least 1,024 and less than max_tokens, or the nearest
        effort for models since 4.7, which know no budget. `none` and 0 switch thinking off, or down to `low` where it
        cannot be switched off. A call without max_tokens gets `DEFAULT_MAX_TOKENS`, or more if its budget needs that.

        Of `extra`, `tools` are added to the call's own; `output_config`, `thinking` and `tool_choice` are merged with
        what the call's settings put there.

        Raises:
            UsageError: The call or the address cannot be right.
            UnsupportedError: Sampling settings under an API version without them, or a forced tool call that the model
                refuses.
            CredentialError: A key is needed and missing, or cannot be sent in a header.
        """
        settings, output = call.settings, call.output
        _check_version(call, endpoint)
        thinking, effort, most = _thinking(call)
        form = {"type": "json_schema", "schema": output.schema} if output.kind == "schema" else None
        messages, system = wire_turns(call, self.row.name)
        fields: dict[str, object] = {
            "model": call.model,
            "max_tokens": most,
            "messages": messages,
            "system": system,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "stop_sequences": list(settings.stop) or None,
            "stream": True if stream else None,
        }
        rest, fields["tools"] = with_listed(call, "tools", [_tool(tool) for tool in call.tools])
        choice = _tool_choice(call)
        if fields["tools"] is None and (called := sorted(set(tool_names(call.messages).values()))):
            # "Requests which have `tool_use` or `tool_result` blocks in messages must define tools"
            fields["tools"], choice = [_tool(Tool(name)) for name in called], {"type": "none"}
        rest, fields["tool_choice"] = with_nested(rest, "tool_choice", choice, frozenset())
        rest, fields["thinking"] = with_nested(rest, "thinking", thinking, frozenset())
        config = {"effort": effort, "format": form}
        rest, fields["output_config"] = with_nested(rest, "output_config", config, frozenset({"format"}))
        body = body_of(rest, fields, _OWN_FIELDS)
        url = _url(self.row, endpoint.base_url)
        key = key_of(self.row, endpoint, url)
        # With both the API takes x-api-key; older gateways know only that, although SDK 2 sends keys as Bearer.
        named = {"authorization": f"Bearer {key}"} if endpoint.bearer else {"x-api-key": key}
        return post(self.row, url, body, endpoint, named if key else {}, {"anthropic-version": _VERSION})

    def parse_response(self, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response, finished or not.

        Raises:
            CredentialError: The key was refused.
            ProviderError: An error, also one inside a success, or a body that is not what the API promises.
        """
        return read(self.row, call, status, headers, body)

    def parse_stream(self, call: ModelCall, status: int, headers: Mapping[str, str]) -> AnthropicStream:
        """Return a parser for the body of a streamed success."""
        return AnthropicStream(self.row, call, status, headers)


ADAPTER: Final = Anthropic()


def _url(row: Provider, base_url: str) -> str:
    return address(row, without_endpoint(base_url, _ENDPOINT), "/v1/messages")


def _check_version(call: ModelCall, endpoint: Endpoint) -> None:
    named = (value for name, value in endpoint.headers.items() if name.lower() == "anthropic-version")
    version = next(named, _VERSION).strip()
    if version < _NO_SAMPLING:  # versions are dates
        return
    stated = {"temperature": call.settings.temperature, "top_p": call.settings.top_p, **call.settings.extra}
    set_ = [name for name in _SAMPLING if stated.get(name) is not None]
    if set_:
        raise UnsupportedError(
            f"version {version} of Anthropic's API takes no {' and no '.join(set_)}, not even the default",
            hint=f"Leave it out, or leave anthropic-version at {_VERSION}.",
        )


def _is(model: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(model.lower(), pattern) for pattern in patterns)


def _thinking(call: ModelCall) -> tuple[dict[str, object], str | None, int]:
    """Return `thinking`, the effort and `max_tokens` of a call."""
    stated, asked = call.settings.max_tokens, call.settings.reasoning
    most = stated or DEFAULT_MAX_TOKENS
    if asked is None:
        return {}, None, most
    if isinstance(asked, int) and asked < 0:
        raise UsageError(f"reasoning={asked} is no number of tokens", hint="Pass an effort, or at least 0.")
    if asked in ("none", 0):
        if _is(call.model, _ALWAYS_THINK):
            return {}, "low", most
        return {"type": "between_tools" if _is(call.model, _THINK_BETWEEN) else "disabled"}, None, most
    if _is(call.model, _NEWER) or (isinstance(asked, str) and not _is(call.model, _OLDER)):
        return {"type": "adaptive"}, _EFFORTS[effort_of(asked)], most
    budget = max(asked if isinstance(asked, int) else _BUDGETS[asked], _LEAST_BUDGET)
    if stated is None:
        most = max(most, budget + _ROOM)
    elif stated <= _LEAST_BUDGET:
        raise UsageError(
            f"max_tokens={stated} leaves no room for thinking, which is part of it and takes {_LEAST_BUDGET} at least",
            hint="Raise max_tokens, or leave reasoning out.",
        )
    return {"type": "enabled", "budget_tokens": min(budget, most - 1)}, None, most


def _tool(tool: Tool) -> dict[str, object]:
    found: dict[str, object] = {"name": tool.name}
    if tool.description:
        found["description"] = tool.description
    found |= {"input_schema": tool.parameters, **tool.more}
    return {**found, "strict": True} if tool.strict else found


def _tool_choice(call: ModelCall) -> dict[str, object]:
    choice = call.tool_choice
    if choice is None or not call.tools:
        return {}
    if choice.mode in ("required", "tool") and _is(call.model, _NOT_FORCED):
        raise UnsupportedError(
            f"{call.provider}/{call.model} cannot be made to call a tool",
            hint="Ask for it in the prompt, or ask another model.",
        )
    match choice.mode:
        case "required":
            return {"type": "any"}
        case "tool":
            return {"type": "tool", "name": choice.name}
        case mode:
            return {"type": mode}
