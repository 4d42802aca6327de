"""What the providers of OpenAI's chat completions refuse, in their own words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from kitaru.adapters.standin.asked import (
    Ask,
    Object,
    Problem,
    RefusedError,
    among,
    child,
    is_object,
    number,
    numbered,
    objects,
    refused,
    string,
    within,
)
from kitaru.adapters.standin.deciding import signature
from kitaru.adapters.standin.flavours import Flavour
from kitaru.adapters.standin.options import named
from kitaru.adapters.standin.schemas import unlike_strict
from kitaru.adapters.standin.wire import Around, missing, unknown

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_OWN: Final = frozenset({"openai", "azure"})
# Mistral's message classes: `systemmessage.py`, `usermessage.py`, `assistantmessage.py`, `toolmessage.py`.
_MISTRAL_MESSAGE: Final = frozenset({"role", "content", "tool_calls", "prefix", "tool_call_id", "name"})
_ROLES: Final[Mapping[str, frozenset[str]]] = {
    name: frozenset({"system", "user", "assistant", "tool"})
    for name in ("mistral", "groq", "together", "perplexity", "deepseek")
}
_NO_STOP: Final = ("o3", "o3-2*", "o4-mini*")


def check(flavour: Flavour, ask: Ask, around: Around) -> None:
    """Find what a provider would not take.

    Raises:
        RefusedError: Something.
    """
    if not around.knows(ask.model):
        raise missing(f"The model `{ask.model}` does not exist or you do not have access to it.", "model_not_found")
    _fields(flavour, ask, around)
    _settings(flavour, ask, around)
    _messages(flavour, ask)
    _conversation(flavour, ask)
    _tools(flavour, ask)
    _form(flavour, ask)
    if flavour.name == "deepseek" and ask.thinks:
        _passed_back(flavour, ask, around)
    if flavour.name == "openrouter":
        _details(flavour, ask, around)


def _fields(flavour: Flavour, ask: Ask, around: Around) -> None:
    if flavour.refuses != "always" and not around.options.strict:
        return
    extra = unknown(ask.body, flavour.fields)
    match flavour.name:
        case "mistral":
            places: list[tuple[str, ...]] = [("body", name) for name in extra]
            for at, message in numbered(ask.body.get("messages")):
                role = string(message.get("role"))
                places += [("body", "messages", str(at), role, name) for name in unknown(message, _MISTRAL_MESSAGE)]
            if places:
                raise RefusedError(_forbidden(places))
        case "groq":
            if extra:
                raise refused(f"property '{extra[0]}' is unsupported")
        case _:
            if extra:
                raise refused(f"Unrecognized request argument supplied: {', '.join(extra)}")


def _forbidden(places: list[tuple[str, ...]]) -> Problem:
    detail = [
        {"type": "extra_forbidden", "loc": list(place), "msg": "Extra inputs are not permitted", "input": None}
        for place in places
    ]
    return Problem(trouble="invalid", status=422, message="Extra inputs are not permitted", details={"detail": detail})


def _settings(flavour: Flavour, ask: Ask, around: Around) -> None:
    body = ask.body
    for name, most in (("temperature", 2), ("top_p", 1)):
        value = body.get(name)
        if isinstance(value, (int, float)) and not 0 <= value <= most:
            raise refused(
                f"Invalid '{name}': decimal {'above maximum' if value > most else 'below minimum'} value. "
                f"Expected a value between 0 and {most}, but got {value} instead.",
                "decimal_above_max_value" if value > most else "decimal_below_min_value",
                name,
            )
    stop = body.get("stop")
    if isinstance(stop, list) and len(stop) > 4 and flavour.name in _OWN | {"groq"}:
        raise refused(
            f"Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length "
            f"{len(stop)} instead.",
            "array_above_max_length",
            "stop",
        )
    if isinstance(stop, str) and flavour.name == "together":
        raise refused("stop: Input should be a valid list", "invalid_request_error", "stop")
    if body.get("stream_options") is not None and not ask.stream and flavour.name in _OWN | {"deepseek"}:
        raise refused(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.", None, "stream_options"
        )
    if flavour.name in _OWN and around.options.reasons(ask.model):
        _reasoning(ask)


def _reasoning(ask: Ask) -> None:
    body = ask.body
    if body.get("max_tokens") is not None:
        raise refused(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
            "instead.",
            "unsupported_parameter",
            "max_tokens",
        )
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        default = 0 if name.endswith("penalty") else 1
        if (value := body.get(name)) is not None and value != default:
            raise refused(
                f"Unsupported value: '{name}' does not support {value} with this model. Only the default ({default}) "
                "value is supported.",
                "unsupported_value",
                name,
            )
    if body.get("stop") is not None and named(ask.model, _NO_STOP):
        raise refused(
            "Unsupported parameter: 'stop' is not supported with this model.", "unsupported_parameter", "stop"
        )


def _messages(flavour: Flavour, ask: Ask) -> None:
    roles = _ROLES.get(flavour.name, frozenset({"system", "developer", "user", "assistant", "tool", "function"}))
    for at, message in numbered(ask.body.get("messages")):
        role = string(message.get("role"))
        if role not in roles:
            raise refused(
                f"Invalid value: '{role}'. Supported values are: {', '.join(repr(each) for each in sorted(roles))}.",
                "invalid_value",
                f"messages[{at}].role",
            )
        content = message.get("content")
        if content is None and role != "assistant":
            raise refused(
                "Invalid value for 'content': expected a string, got null.",
                "invalid_type",
                f"messages.[{at}].content",
            )
        if content is None and not message.get("tool_calls") and message.get("refusal") is None:
            raise refused(
                "Invalid value for 'content': expected a string, got null.", "invalid_type", f"messages.[{at}].content"
            )
        for nth, part in numbered(content):
            _part(part, f"messages[{at}].content[{nth}]", role)


def _part(part: Object, where: str, role: str) -> None:
    match part.get("type"):
        case "text":
            right = isinstance(part.get("text"), str)
        case "image_url":
            address = part.get("image_url")
            url = string(address) or string(within(address, "url"))
            right = (
                role == "user" and re.match(r"https?://|data:image/[a-z+.-]+;base64,[A-Za-z0-9+/]+=*$", url) is not None
            )
            if not right and url.startswith("data:"):
                raise refused("Invalid base64 image_url.", "invalid_base64", f"{where}.image_url.url")
        case "file" | "input_audio" | "document_url" | "thinking" | "refusal" | "reference" | "video_url":
            right = True
        case _:
            right = False
    if not right:
        raise refused(f"Invalid value: '{part.get('type')}'.", "invalid_value", f"{where}.type")


def _conversation(flavour: Flavour, ask: Ask) -> None:
    """Find tool results without their calls, calls without results, and ids of a foreign shape."""
    longest = 40
    waiting: list[str] = []
    asked_at = 0
    for at, message in numbered(ask.body.get("messages")):
        if message.get("role") == "tool":
            call = string(message.get("tool_call_id"))
            if call not in waiting:
                if flavour.name == "mistral":
                    raise refused("Unexpected tool call id in tool results", "3230")
                raise refused(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                    "'tool_calls'.",
                    None,
                    f"messages.[{at}].role",
                )
            waiting.remove(call)
            continue
        _answered(flavour, waiting, asked_at)
        waiting, asked_at = [], at
        for nth, call_made in numbered(message.get("tool_calls")):
            made = string(call_made.get("id"))
            _call(flavour, call_made, f"messages[{at}].tool_calls[{nth}]")
            if flavour.name in _OWN and len(made) > longest:
                raise refused(
                    f"Invalid 'messages[{at}].tool_calls[{nth}].id': string too long. Expected a string with maximum "
                    f"length {longest}, but got a string with length {len(made)} instead.",
                    "string_above_max_length",
                    f"messages[{at}].tool_calls[{nth}].id",
                )
            waiting.append(made)
    _answered(flavour, waiting, asked_at)
    if flavour.name == "mistral":
        last = objects(ask.body.get("messages"))[-1]
        if not among(last.get("role"), ("user", "tool")) and not last.get("prefix"):
            raise refused(
                "Expected last role User or Tool (or Assistant with prefix True) for serving but got "
                f"{last.get('role')}",
                "3230",
            )


def _call(flavour: Flavour, call: Object, where: str) -> None:
    made = string(call.get("id"))
    if flavour.name == "mistral":
        if re.fullmatch(r"[a-zA-Z0-9]{9}", made) is None:
            raise refused(f"Tool call id was {made} but must be a-z, A-Z, 0-9, with a length of 9.", "3280")
        given = child(call, "function").get("arguments")
        if not isinstance(given, (str, dict)):
            raise refused("Invalid function arguments.", "3280")
        return
    name, given = within(call, "function", "name"), within(call, "function", "arguments")
    if not (made and isinstance(name, str) and name):
        raise refused(f"Missing required parameter: '{where}.id'.", "missing_required_parameter", f"{where}.id")
    if not isinstance(given, str):
        raise refused(
            f"Invalid type for '{where}.function.arguments': expected a string, but got an object instead.",
            "invalid_type",
            f"{where}.function.arguments",
        )


def _answered(flavour: Flavour, waiting: list[str], at: int) -> None:
    if not waiting:
        return
    if flavour.name == "mistral":
        raise refused("Not the same number of function calls and responses", "3230")
    raise refused(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {', '.join(waiting)}",
        None,
        f"messages.[{at}].role",
    )


def _tools(flavour: Flavour, ask: Ask) -> None:
    for at, tool in numbered(ask.body.get("tools")):
        function = child(tool, "function")
        name = string(function.get("name"))
        if tool.get("type", "function") != "function":
            continue
        if _NAME.fullmatch(name) is None:
            raise refused(
                f"Invalid 'tools[{at}].function.name': string does not match pattern. Expected a string that matches "
                "the pattern '^[a-zA-Z0-9_-]+$'.",
                "invalid_value",
                f"tools[{at}].function.name",
            )
        if function.get("strict") is True and flavour.name in _OWN:
            wrong = unlike_strict(child(function, "parameters"))
            if wrong:
                raise refused(
                    f"Invalid schema for function '{name}': {wrong}",
                    "invalid_function_parameters",
                    f"tools[{at}].function.parameters",
                )
    choice = ask.body.get("tool_choice")
    if choice is None:
        return
    if not ask.tools and choice != "none":
        raise refused("Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
                      None, "tool_choice")  # fmt: skip
    words = {"auto", "none", "required"} | ({"any"} if flavour.name == "mistral" else set())
    if is_object(choice):
        name = string(within(choice, "function", "name"))
        if flavour.name == "perplexity":
            raise refused("tool_choice: Input should be 'none', 'auto' or 'required'", None, "tool_choice")
        if name not in {offer.name for offer in ask.tools}:
            raise refused(
                f"Invalid value for 'tool_choice': the tool '{name}' is not among 'tools'.", None, "tool_choice"
            )
    elif not among(choice, words):
        raise refused(
            f"Invalid value: {choice!r}. Supported values are: {sorted(words)}.", "invalid_value", "tool_choice"
        )


def _form(flavour: Flavour, ask: Ask) -> None:
    wanted = child(ask.body, "response_format")
    kind = wanted.get("type")
    if kind == "json_object":
        if flavour.name == "perplexity":
            raise refused(
                "response_format.type: Input should be 'text', 'json_schema' or 'regex'", None, "response_format"
            )
        if flavour.name in _OWN | {"groq", "deepseek"} and not any("json" in text.lower() for _, text in ask.messages):
            raise refused(
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
                None,
                "messages",
            )
    elif kind == "json_schema":
        if flavour.name == "deepseek":
            raise refused("This response_format type is unavailable now", "invalid_request_error")
        outer = child(wanted, "json_schema")
        name = string(outer.get("name"))
        if flavour.name != "perplexity" and _NAME.fullmatch(name) is None:
            raise refused(
                "Missing required parameter: 'response_format.json_schema.name'.",
                "missing_required_parameter",
                "response_format.json_schema.name",
            )
        if not is_object(outer.get("schema")):
            raise refused(
                "Missing required parameter: 'response_format.json_schema.schema'.",
                "missing_required_parameter",
                "response_format.json_schema.schema",
            )
        if outer.get("strict") is True and flavour.name in _OWN | {"groq"}:
            wrong = unlike_strict(child(outer, "schema"))
            if wrong:
                raise refused(f"Invalid schema for response_format '{name}': {wrong}", None, "response_format")
    elif not among(kind, (None, "text", "regex")):
        raise refused(f"Invalid value: {kind!r}.", "invalid_value", "response_format.type")


def _passed_back(flavour: Flavour, ask: Ask, around: Around) -> None:
    for message in objects(ask.body.get("messages")):
        calls = objects(message.get("tool_calls"))
        if message.get("role") != "assistant" or not calls:
            continue
        given = message.get("reasoning_content")
        said = around.memory.said(f"{flavour.name} {string(calls[0].get('id'))}")
        if not isinstance(given, str) or (said is not None and given != said):
            raise refused(
                "The `reasoning_content` in the thinking mode must be passed back to the API.", "invalid_request_error"
            )


def _details(flavour: Flavour, ask: Ask, around: Around) -> None:
    for at, message in numbered(ask.body.get("messages")):
        if message.get("role") != "assistant":
            continue
        given = message.get("reasoning_details")
        calls = objects(message.get("tool_calls"))
        said = around.memory.said(f"{flavour.name} {string(calls[0].get('id'))}") if calls else None
        changed = given is not None and said is not None and given != said
        broken = any(
            string(part.get("signature")) != signature(string(part.get("text")))
            for part in objects(given)
            if part.get("type") == "reasoning.text" and part.get("signature") is not None
        )
        lost = given is None and said is not None and around.options.strict
        if changed or broken or lost:
            raise RefusedError(
                Problem(
                    trouble="invalid",
                    status=400,
                    message="Provider returned error",
                    details={
                        "raw": f"messages.{at}.content.0: `thinking` blocks cannot be modified. These blocks must "
                        "remain as they were in the original response.",
                        "provider_name": "StandIn",
                    },
                )
            )


def limit_of(body: Object) -> int | None:
    """Return the most tokens of an answer.

    Raises:
        RefusedError: It is no number of tokens.
    """
    value = body.get("max_completion_tokens", body.get("max_tokens"))
    if value is None:
        return None
    found = number(value)
    if found is None or found < 1:
        raise refused("the token limit has to be at least 1")
    return found
