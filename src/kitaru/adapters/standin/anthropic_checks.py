"""What Anthropic's messages API refuses, in its own words."""

from __future__ import annotations

import re
from typing import Final

from kitaru.adapters.standin.asked import (
    Arrived,
    Ask,
    Object,
    among,
    child,
    is_object,
    number,
    numbered,
    objects,
    refused,
    string,
)
from kitaru.adapters.standin.deciding import signature, unsealed
from kitaru.adapters.standin.schemas import unlike_strict
from kitaru.adapters.standin.wire import Around, missing, unknown

# `message_create_params.py` of the anthropic SDK; the last three are of the older version only.
_FIELDS: Final = frozenset(
    {
        "cache_control", "container", "context_management", "diagnostics", "inference_geo", "max_tokens", "mcp_servers",
        "messages", "metadata", "model", "output_config", "service_tier", "speed", "stop_sequences", "stream",
        "system", "thinking", "tool_choice", "tools", "user_profile_id", "workspace_id",
    }
)  # fmt: skip
_SAMPLING: Final = frozenset({"temperature", "top_p", "top_k"})
_OLD, _NEW = "2023-06-01", "2026-10-21"
_ID: Final = re.compile(r"[a-zA-Z0-9_-]+")
_THOUGHTS: Final = {"thinking", "redacted_thinking"}
_BLOCKS: Final = {
    "text", "image", "document", "thinking", "redacted_thinking", "tool_use", "tool_result", "search_result",
    "server_tool_use", "web_search_tool_result", "container_upload",
}  # fmt: skip


def check(arrived: Arrived, ask: Ask, around: Around) -> None:
    """Find what the API would not take.

    Raises:
        RefusedError: Something. This API refuses any field that it does not know.
    """
    version = arrived.headers.get("anthropic-version")
    if version is None:
        raise refused("anthropic-version: header is required")
    if version not in {_OLD, _NEW}:
        raise refused(f'anthropic-version: "{version}" is not a valid version')
    extra = unknown(ask.body, _FIELDS | (_SAMPLING if version == _OLD else frozenset()))
    if extra:
        raise refused(f"{extra[0]}: Extra inputs are not permitted")
    if not around.knows(ask.model):
        raise missing(f"model: {ask.model}")
    _settings(ask)
    _messages(ask, version, around)
    used = {block.get("type") for one in objects(ask.body.get("messages")) for block in objects(one.get("content"))}
    if not ask.body.get("tools") and used & {"tool_use", "tool_result"}:
        raise refused("Requests which have `tool_use` or `tool_result` blocks in messages must define tools")
    _tools(ask)


def _settings(ask: Ask) -> None:
    body = ask.body
    for name in ("temperature", "top_p"):
        value = body.get(name)
        if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise refused(f"{name}: range: 0..1")
    for stop in ask.stop:
        if not stop.strip():
            raise refused("stop_sequences: each stop sequence must contain non-whitespace")
    thinking = child(body, "thinking")
    match thinking.get("type"):
        case "enabled":
            budget = number(thinking.get("budget_tokens"))
            if budget is None:
                raise refused("thinking.enabled.budget_tokens: Field required")
            if budget < 1024:
                raise refused("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
            if ask.limit is not None and ask.limit <= budget:
                raise refused(
                    "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our documentation"
                )
        case "adaptive" | "disabled" | None:
            pass
        case other:
            raise refused(f"thinking: Input tag '{other}' found using 'type' does not match any of the expected tags")
    if ask.thinks:
        if body.get("temperature", 1) != 1:
            raise refused("`temperature` may only be set to 1 when thinking is enabled.")
        if ask.choice == "required":
            raise refused("Thinking may not be enabled when tool_choice forces tool use.")
    form = child(body, "output_config").get("format")
    if is_object(form):
        if form.get("type") != "json_schema" or not is_object(form.get("schema")):
            raise refused("output_config.format.schema: Field required")
        if unlike_strict(child(form, "schema"), every=False):
            raise refused(
                "output_config.format.schema: For 'object' type, 'additionalProperties' must be explicitly set to false"
            )


def _messages(ask: Ask, version: str, around: Around) -> None:
    before = ""
    calls: list[str] = []
    messages = objects(ask.body.get("messages"))
    latest = max((at for at, message in enumerate(messages) if message.get("role") == "assistant"), default=-1)
    for at, message in enumerate(messages):
        role = string(message.get("role"))
        if role not in {"user", "assistant", "system"}:
            raise refused(f"messages.{at}.role: Input should be 'user' or 'assistant'")
        if not before and role == "assistant":
            raise refused('messages: first message must use the "user" role')
        if role == before:
            raise refused(
                'messages: roles must alternate between "user" and "assistant", but found multiple '
                f'"{role}" roles in a row'
            )
        before = role
        content = message.get("content")
        if not isinstance(content, (str, list)):
            raise refused(f"messages.{at}.content: Field required")
        last = at == len(messages) - 1
        if not content and not (last and role == "assistant"):
            raise refused(
                f"messages.{at}: all messages must have non-empty content except for the optional final assistant "
                "message"
            )
        for nth, block in numbered(content):
            _block(block, f"messages.{at}.content.{nth}", role, version)
        _answered(at, content, calls)
        calls = [string(block.get("id")) for block in objects(content) if block.get("type") == "tool_use"]
        if role == "assistant" and last and string(content).endswith((" ", "\n", "\t")):
            raise refused("messages: final assistant content cannot end with trailing whitespace")
    if calls:
        raise refused(_unanswered(len(messages) - 1, calls))
    for at, message in enumerate(messages):
        if message.get("role") == "assistant":
            _thoughts(at, objects(message.get("content")), ask, around, latest=at == latest)


def _block(block: Object, where: str, role: str, version: str) -> None:
    kind = block.get("type")
    if not among(kind, _BLOCKS):
        raise refused(f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected tags")
    match kind:
        case "text":
            if not block.get("text"):
                raise refused("messages: text content blocks must be non-empty")
            if version == _NEW and role == "user" and block.get("citations"):
                raise refused(f"{where}.text.citations: Extra inputs are not permitted")
        case "tool_use":
            if not is_object(block.get("input")):
                raise refused(f"{where}.tool_use.input: Input should be a valid dictionary")
            if _ID.fullmatch(string(block.get("id"))) is None:
                raise refused(f"{where}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
        case "document" if version == _NEW and role == "assistant":
            raise refused(f"{where}: `document` blocks are not permitted in assistant messages")
        case "image" | "document":
            source = child(block, "source")
            if not among(source.get("type"), ("base64", "url", "file", "text", "content")):
                raise refused(f"{where}.{kind}.source: Field required")
            if source.get("type") == "base64" and not (source.get("media_type") and source.get("data")):
                raise refused(f"{where}.{kind}.source.base64.data: Field required")
        case "thinking":
            if not isinstance(block.get("signature"), str):
                raise refused(f"{where}.thinking.signature: Field required")
        case _:
            pass
    if role == "assistant" and kind == "tool_result":
        raise refused(f"{where}: `tool_result` blocks can only be in `user` messages")
    if role == "user" and kind in {"tool_use", *_THOUGHTS}:
        raise refused(f"{where}: `{kind}` blocks can only be in `assistant` messages")


def _answered(at: int, content: object, calls: list[str]) -> None:
    """Find calls that the next message does not answer first of all, and answers without a call."""
    leading: list[str] = []
    others = False
    for nth, block in numbered(content):
        if block.get("type") != "tool_result":
            others = True
            continue
        call = string(block.get("tool_use_id"))
        if call not in calls:
            raise refused(
                f"messages.{at}.content.{nth}: unexpected `tool_use_id` found in `tool_result` blocks: {call}. Each "
                "`tool_result` block must have a corresponding `tool_use` block in the previous message."
            )
        if not others:
            leading.append(call)
    if lacking := [call for call in calls if call not in leading]:
        raise refused(_unanswered(at - 1, lacking))


def _unanswered(at: int, calls: list[str]) -> str:
    return (
        f"messages.{at}: `tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(calls)}. "
        "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
    )


def _thoughts(at: int, blocks: list[Object], ask: Ask, around: Around, *, latest: bool) -> None:
    for nth, block in enumerate(blocks):
        match block.get("type"):
            case "thinking":
                genuine = string(block.get("signature")) == signature(string(block.get("thinking")))
            case "redacted_thinking":
                genuine = unsealed(string(block.get("data"))) is not None
            case _:
                continue
        if not genuine and latest:
            raise refused(_modified(at, nth))
        if not genuine:
            raise refused(f"messages.{at}.content.{nth}: Invalid `signature` in `thinking` block")
    calling = any(block.get("type") == "tool_use" for block in blocks)
    first = blocks[0].get("type") if blocks else ""
    # Only where a turn is not over yet; with adaptive thinking a turn need not begin with it.
    if child(ask.body, "thinking").get("type") == "enabled" and calling and latest and not among(first, _THOUGHTS):
        raise refused(
            f"messages.{at}.content.0.type: Expected `thinking` or `redacted_thinking`, but found `{first}`. When "
            "`thinking` is enabled, a final `assistant` message must start with a thinking block (preceeding the "
            "lastmost set of `tool_use` and `tool_result` blocks)."
        )
    # Some of it left out, or in another order, where the server knows what it said with a call of this turn.
    given = [block for block in blocks if among(block.get("type"), _THOUGHTS)]
    said = next(
        (around.memory.said(string(block.get("id"))) for block in blocks if block.get("type") == "tool_use"), None
    )
    if latest and ask.thinks and given and said is not None and given != said:
        raise refused(_modified(at, 0))


def _modified(at: int, nth: int) -> str:
    return (
        f"messages.{at}.content.{nth}: `thinking` or `redacted_thinking` blocks in the latest assistant message cannot "
        "be modified. These blocks must remain as they were in the original response."
    )


def _tools(ask: Ask) -> None:
    for at, tool in numbered(ask.body.get("tools")):
        if tool.get("type", "custom") != "custom":
            continue
        name = string(tool.get("name"))
        if re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", name) is None:
            raise refused(f"tools.{at}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        schema = tool.get("input_schema")
        if not is_object(schema):
            raise refused(f"tools.{at}.custom.input_schema: Field required")
        if schema.get("type") != "object":
            raise refused(f"tools.{at}.custom.input_schema.type: Input should be 'object'")
        known = {"name", "description", "input_schema", "strict", "type", "cache_control", "defer_loading",
                 "allowed_callers", "eager_input_streaming", "input_examples"}  # fmt: skip
        if extra := unknown(tool, frozenset(known)):
            raise refused(f"tools.{at}.custom.{extra[0]}: Extra inputs are not permitted")
        if tool.get("strict") is True and unlike_strict(schema, every=False):
            raise refused(
                f"tools.{at}.custom: For 'object' type, 'additionalProperties' must be explicitly set to false"
            )
    choice = child(ask.body, "tool_choice")
    if not choice:
        return
    if not among(choice.get("type"), ("auto", "any", "tool", "none")):
        raise refused("tool_choice: Input tag found using 'type' does not match any of the expected tags")
    if not ask.tools:
        raise refused("tool_choice may only be specified while providing tools")
    if ask.named and ask.named not in {offer.name for offer in ask.tools}:
        raise refused(f"Tool '{ask.named}' not found in provided tools")
