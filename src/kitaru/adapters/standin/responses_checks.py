"""What OpenAI's responses API refuses, in its own words."""

from __future__ import annotations

import re
from typing import Final

from kitaru.adapters.standin.asked import Ask, Object, among, child, is_object, numbered, objects, refused, string
from kitaru.adapters.standin.deciding import unsealed
from kitaru.adapters.standin.schemas import unlike_strict
from kitaru.adapters.standin.wire import Around, missing, unknown

# `response_create_params.py` of the openai SDK.
_FIELDS: Final = frozenset(
    {
        "background", "context_management", "conversation", "include", "input", "instructions", "max_output_tokens",
        "max_tool_calls", "metadata", "model", "moderation", "parallel_tool_calls", "previous_response_id", "prompt",
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning", "safety_identifier",
        "service_tier", "store", "stream", "stream_options", "temperature", "text", "tool_choice", "tools",
        "top_logprobs", "top_p", "truncation", "user",
    }
)  # fmt: skip
_CONTENT: Final = {
    "assistant": frozenset({"output_text", "refusal"}),
    "user": frozenset({"input_text", "input_image", "input_file"}),
    "system": frozenset({"input_text"}),
    "developer": frozenset({"input_text"}),
}
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def check(ask: Ask, around: Around) -> None:
    """Find what the API would not take.

    Raises:
        RefusedError: Something. This API refuses any field that it does not know.
    """
    body = ask.body
    if extra := unknown(body, _FIELDS):
        raise refused(f"Unknown parameter: '{extra[0]}'.", "unknown_parameter", extra[0])
    if not around.knows(ask.model):
        raise missing(f"The requested model '{ask.model}' does not exist.", "model_not_found", "model")
    if (previous := body.get("previous_response_id")) is not None:
        raise missing(f"Previous response with id '{previous}' not found.", "previous_response_not_found",
                      "previous_response_id")  # fmt: skip
    if around.options.reasons(ask.model):
        for name in ("temperature", "top_p"):
            if body.get(name) is not None and body[name] != 1:
                raise refused(
                    f"Unsupported parameter: '{name}' is not supported with this model.", "unsupported_parameter", name
                )
    _input(ask, around)
    _tools(ask)
    _form(ask)


def _input(ask: Ask, around: Around) -> None:
    given = ask.body.get("input")
    stored = ask.body.get("store") is not False
    calls: set[str] = set()
    answered: set[str] = set()
    thoughts: list[str] = []
    for at, item in numbered(given):
        where = f"input[{at}]"
        match item.get("type", "message"):
            case "message":
                _message(item, where)
            case "function_call":
                calls.add(string(item.get("call_id")))
                _call(item, where, thoughts, around)
            case "function_call_output":
                call = string(item.get("call_id"))
                if call not in calls:
                    raise refused(f"No tool call found for function call output with call_id {call}.", None, "input")
                answered.add(call)
            case "reasoning":
                thoughts.append(_thought(item, where, stored=stored))
            case "item_reference":
                raise missing(f"Item with id '{item.get('id')}' not found.", None, "input")
            case other:
                raise refused(f"Invalid value: '{other}'.", "invalid_value", f"{where}.type")
    lacking = sorted(calls - answered)
    if lacking:
        raise refused(f"No tool output found for function call {lacking[0]}.", None, "input")
    items = objects(given)
    for item, after in zip(items, [*items[1:], {}], strict=False):
        if item.get("type") == "reasoning" and not among(
            after.get("type", "message" if after else ""), ("message", "function_call", "reasoning")
        ):
            raise refused(
                f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item.",
                None,
                "input",
            )


def _message(item: Object, where: str) -> None:
    role = string(item.get("role"))
    if role not in _CONTENT:
        raise refused(
            f"Invalid value: '{role}'. Supported values are: 'assistant', 'system', 'developer', and 'user'.",
            "invalid_value",
            f"{where}.role",
        )
    for nth, part in numbered(item.get("content")):
        if not among(part.get("type"), _CONTENT[role]):
            raise refused(
                f"Invalid value: '{part.get('type')}'. Supported values are: "
                f"{', '.join(repr(each) for each in sorted(_CONTENT[role]))}.",
                "invalid_value",
                f"{where}.content[{nth}]",
            )
    if not isinstance(item.get("content"), (str, list)):
        raise refused(f"Missing required parameter: '{where}.content'.", "missing_required_parameter", where)


def _call(item: Object, where: str, thoughts: list[str], around: Around) -> None:
    for name in ("call_id", "name", "arguments"):
        if not isinstance(item.get(name), str):
            raise refused(f"Missing required parameter: '{where}.{name}'.", "missing_required_parameter", where)
    call = string(item.get("call_id"))
    if len(call) > 64:
        raise refused(
            f"Invalid '{where}.call_id': string too long. Expected a string with maximum length 64, but got a string "
            f"with length {len(call)} instead.",
            "string_above_max_length",
            f"{where}.call_id",
        )
    made = string(item.get("id"))
    if made and not made.startswith("fc_"):
        raise refused(f"Invalid '{where}.id': '{made}'. Expected an ID that begins with 'fc'.", "invalid_value", where)
    before = around.memory.said(made)
    if isinstance(before, str) and before not in thoughts:
        raise refused(
            f"Item '{made}' of type 'function_call' was provided without its required 'reasoning' item: '{before}'.",
            None,
            "input",
        )


def _thought(item: Object, where: str, *, stored: bool) -> str:
    made, locked = string(item.get("id")), item.get("encrypted_content")
    if not made.startswith("rs_"):
        raise refused(f"Invalid '{where}.id': '{made}'. Expected an ID that begins with 'rs'.", "invalid_value", where)
    if not isinstance(item.get("summary"), list):
        raise refused(f"Missing required parameter: '{where}.summary'.", "missing_required_parameter", where)
    if locked is None and not stored:
        raise missing(
            f"Item with id '{made}' not found. Items are not persisted when `store` is set to false. Try again with "
            "`store` set to true, or remove this item from your input.",
            None,
            "input",
        )
    if locked is not None and (not isinstance(locked, str) or unsealed(locked) is None):
        raise refused(
            f"The encrypted content for item {made} could not be verified.", "invalid_encrypted_content", where
        )
    return made


def _tools(ask: Ask) -> None:
    for at, tool in numbered(ask.body.get("tools")):
        if tool.get("type") != "function":
            continue
        name = string(tool.get("name"))
        if _NAME.fullmatch(name) is None:
            raise refused(
                f"Missing required parameter: 'tools[{at}].name'.", "missing_required_parameter", f"tools[{at}].name"
            )
        if tool.get("strict") is True and (wrong := unlike_strict(child(tool, "parameters"))):
            raise refused(
                f"Invalid schema for function '{name}': {wrong}",
                "invalid_function_parameters",
                f"tools[{at}].parameters",
            )
    choice = ask.body.get("tool_choice")
    if is_object(choice) and string(choice.get("name")) not in {offer.name for offer in ask.tools}:
        raise refused(f"Tool choice '{choice.get('name')}' not found in 'tools' parameter.", None, "tool_choice")
    if choice == "required" and not ask.tools:
        raise refused("Tool choice 'required' must be specified with 'tools' parameter.", None, "tool_choice")


def _form(ask: Ask) -> None:
    form = child(ask.body, "text", "format")
    match form.get("type"):
        case None | "text":
            return
        case "json_object":
            told = " ".join(text for _, text in ask.messages)
            if "json" not in told.lower():
                raise refused(
                    "Response input messages must contain the word 'json' in some form to use 'text.format' of type "
                    "'json_object'.",
                    None,
                    "input",
                )
        case "json_schema":
            name = string(form.get("name"))
            if _NAME.fullmatch(name) is None:
                raise refused(
                    "Missing required parameter: 'text.format.name'.", "missing_required_parameter", "text.format.name"
                )
            if not is_object(form.get("schema")):
                raise refused(
                    "Missing required parameter: 'text.format.schema'.",
                    "missing_required_parameter",
                    "text.format.schema",
                )
            if form.get("strict") is True and (wrong := unlike_strict(child(form, "schema"))):
                raise refused(
                    f"Invalid schema for response_format '{name}': {wrong}",
                    "invalid_json_schema",
                    "text.format.schema",
                )
        case other:
            raise refused(f"Invalid value: '{other}'.", "invalid_value", "text.format.type")
