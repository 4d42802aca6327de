"""Reading a chat completion: what is said, thought, called, used and charged. Nothing in it is trusted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.failures import decode, failure_within, malformed, not_json, request_id
from kitaru.adapters.fields import Object, count, is_object, json_text, object_at, objects_in, text_in
from kitaru.adapters.message import ToolCall, assistant
from kitaru.adapters.notes import notes
from kitaru.adapters.openai_chat.dialect import Dialect
from kitaru.adapters.openai_chat.messages import made_id
from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import FinishReason, Reply, Usage
from kitaru.adapters.secret import clean

# Every enum is open: what is not listed becomes "other". `eos`: together. `model_length`: mistral.
# `insufficient_system_resource`: deepseek. Section 3 of the provider facts; openai SDK `types/chat/chat_completion.py`.
_FINISH: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "eos": "stop",
    "length": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "error": "error",
    "insufficient_system_resource": "error",
}

# What a provider calls the tier that everybody gets: openai, groq, mistral SDKs.
_USUAL_TIERS: Final = frozenset({"", "auto", "default", "standard", "on_demand"})

_CALL_FIELDS: Final = frozenset({"id", "type", "function", "index"})

_DECIMAL: Final = re.compile(r"\d{1,12}(?:\.\d{1,30})?(?:[eE]-?\d{1,2})?")
_MOST_USD: Final = 10**9

# https://docs.x.ai/developers/cost-tracking: 1 USD is 10^10 ticks.
_TICK: Final = -10


class _Choice(msgspec.Struct):
    message: dict[str, msgspec.Raw]


class _Payload(msgspec.Struct):
    choices: list[msgspec.Raw]


def read_reply(
    row: Provider, dialect: Dialect, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes
) -> Reply:
    """Return the reply that a success holds, finished or not.

    Args:
        row: Who answered.
        dialect: How it writes.
        call: What was asked.
        status: HTTP status.
        headers: By lower-case name.
        body: The whole body, decompressed; of a stream, the body that its plain form would have had.

    Raises:
        ProviderError: An error inside the success, or a body that is not what the API promises.
    """
    try:
        payload = decode(body)
    except ValueError as error:
        raise malformed(row, status, headers, body, not_json(str(error))) from None
    if not is_object(payload):
        raise malformed(row, status, headers, body, "the body is not a JSON object")
    problem = error_in(payload)
    if problem:
        raise failure_within(row, status, headers, problem)
    choices = payload.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not is_object(choice):
        raise malformed(row, status, headers, body, "the body holds no choice")
    message = choice.get("message")
    if message is None and choice.get("finish_reason") == "content_filter":
        message = {}  # azure
    if not is_object(message):
        raise malformed(row, status, headers, body, "its choice holds no message")
    text = _text(message.get("content"))
    if text is None:
        raise malformed(row, status, headers, body, "its message's content is not text")
    calls, odd = _calls(message, text_in(payload.get("id")), dialect)
    finish = _finish(choice, message)
    usage, complete = _usage(payload, dialect)
    more = [clean(text_in(one.get("message")), 200) for one in objects_in(payload.get("warnings"))[:5]]  # together
    if odd:
        more.append("a tool call that names no tool was left out")
        finish = "stop" if finish == "tool_calls" and not calls else finish
    warnings = notes(
        text,
        finish,
        choice.get("finish_reason"),
        usage_read=complete,
        more=tuple(one for one in more if one),
    )
    return Reply(
        text=text,
        message=assistant(
            text, calls, provider=row.name, model=call.model, own=_own(body, message, text, calls, dialect)
        ),
        finish=finish,
        usage=usage,
        model=clean(text_in(payload.get("model")), 200),
        request_id=request_id(row, headers) or clean(text_in(object_at(payload, "x_groq").get("id")), 200),
        raw=body,
        refusal=_refusal(message),
        reasoning=_reasoning(message),
        stated_cost=_cost(payload.get("usage"), headers, dialect),
        warnings=tuple(warnings),
    )


def error_in(payload: Object) -> object:
    """Return the error that a success, or an event of a stream, holds; something false where there is none.

    Openrouter and proxies report upstream failures inside a 200, in the body or in the choice; mistral and vLLM write
    the error's own fields to the top; groq puts a text into `x_groq`.
    """
    choices = payload.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return (
        payload.get("error")
        or (payload if payload.get("object") == "error" else None)
        or (first.get("error") if is_object(first) else None)
        or object_at(payload, "x_groq").get("error")
    )


def thought_in(chunk: Object) -> str:
    """Return the thinking that a part of mistral's content holds, or an entry of openrouter's `reasoning_details`."""
    found = chunk.get("thinking") or chunk.get("text") or chunk.get("summary")
    if isinstance(found, str):
        return found
    return "".join(text_in(one.get("text")) for one in objects_in(found))


def _finish(choice: Object, message: Object) -> FinishReason:
    said = choice.get("finish_reason")
    finish = _FINISH.get(said, "other") if isinstance(said, str) else "other"
    # LiteLLM's mocks and some servers say "stop" to a call, xAI nothing: LiteLLM `xai/chat/transformation.py`.
    if finish == "stop" or said == "":
        return "tool_calls" if message.get("tool_calls") or not blank(message.get("function_call")) else "stop"
    return finish


def _text(content: object) -> str | None:
    """Return the text of a message: a string, or the `text` parts of a list (mistral, some gateways)."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    return "".join(
        text_in(part.get("text")) for part in objects_in(content) if part.get("type") in ("text", "output_text")
    )


def _refusal(message: Object) -> str | None:
    said = text_in(message.get("refusal")) or "".join(
        text_in(part.get("refusal")) for part in objects_in(message.get("content")) if part.get("type") == "refusal"
    )
    return clean(said) if said else None


def _reasoning(message: Object) -> str:
    # deepseek, moonshot and their like the first; groq, openrouter, cerebras the second; together either.
    stated = text_in(message.get("reasoning_content")) or text_in(message.get("reasoning"))
    chunks = [part for part in objects_in(message.get("content")) if part.get("type") == "thinking"]
    details = chunks or objects_in(message.get("reasoning_details"))
    steps = [text_in(one.get("thought")) for one in objects_in(message.get("reasoning_steps"))]  # perplexity
    return stated or "".join(thought_in(one) for one in details) or "\n".join(step for step in steps if step)


def _calls(message: Object, response: str, dialect: Dialect) -> tuple[list[ToolCall], bool]:
    """Return the tool calls, and whether something among them is none."""
    listed = message.get("tool_calls")
    entries = objects_in(listed)
    odd = bool(listed) and len(entries) != (len(listed) if isinstance(listed, list) else -1)
    if not entries and not blank(message.get("function_call")):
        entries = [{"function": message.get("function_call")}]
    found: list[ToolCall] = []
    taken: set[str] = set()
    for position, entry in enumerate(entries):
        function = object_at(entry, "function")
        name = text_in(function.get("name"))
        if not name:
            odd = True
            continue
        stated = text_in(entry.get("id"))
        # "null": what mistral's SDK takes a missing id for, and some of its servers write.
        known = stated not in ("", "null") and stated not in taken
        name_of_call = stated if known else made_id(response, position, dialect)
        taken.add(name_of_call)
        arguments = function.get("arguments")
        found.append(ToolCall(name_of_call, name, json_text(arguments) if arguments not in (None, "") else "{}"))
    return found, odd


def blank(function: object) -> bool:
    """Whether a `function_call` calls nothing: some servers write an empty one into every answer."""
    return not is_object(function) or not (function.get("name") or function.get("arguments"))


def _own(body: bytes, message: Object, text: str, calls: list[ToolCall], dialect: Dialect) -> bytes:
    """Return the turn in the provider's own JSON where it holds what has to go back with it, else nothing."""
    kept = [name for name in dialect.echoes if _tells(name, message, calls)]
    if not kept:
        return b""
    first = msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"), type=_Payload).choices[0]
    given = msgspec.json.decode(first, type=_Choice).message
    made = [
        {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}} for one in calls
    ]
    turn: dict[str, object] = {"role": "assistant", "content": text or (None if made else "")}
    if made:
        turn["tool_calls"] = made
    return msgspec.json.encode(turn | {name: given[name] for name in kept})


def _tells(name: str, message: Object, calls: list[ToolCall]) -> bool:
    match name:
        case "content":
            return any(part.get("type") != "text" for part in objects_in(message.get("content")))
        case "tool_calls":
            entries = objects_in(message.get("tool_calls"))
            told = any(entry.keys() - _CALL_FIELDS for entry in entries)
            return told and [entry.get("id") for entry in entries] == [one.id for one in calls]
        case _:
            return bool(message.get(name))


def _usage(payload: Object, dialect: Dialect) -> tuple[Usage, bool]:
    """Return the usage in neutral terms, and whether all that was stated could be read. An odd one spoils no answer."""
    found = payload.get("usage")
    if found is None:
        found = object_at(payload, "x_groq").get("usage")
    if found is None:
        return Usage(), True
    if not is_object(found):
        return Usage(), False
    # openai SDK `types/completion_usage.py`: prompt_tokens holds the cached ones, completion_tokens the reasoning.
    prompt, completion = object_at(found, "prompt_tokens_details"), object_at(found, "completion_tokens_details")
    stated = {
        "input": found.get("prompt_tokens"),
        "output": found.get("completion_tokens"),
        # deepseek says the first two alike; moonshot the last.
        "cached_input": _first(
            prompt.get("cached_tokens"), found.get("prompt_cache_hit_tokens"), found.get("cached_tokens")
        ),
        "cache_write": prompt.get("cache_write_tokens"),
        "reasoning": _first(completion.get("reasoning_tokens"), found.get("reasoning_tokens")),  # the last: perplexity
        "input_audio": prompt.get("audio_tokens"),
        "output_audio": completion.get("audio_tokens"),
        "searches": _first(
            found.get("num_search_queries"),  # perplexity SDK `shared/usage_info.py`
            object_at(found, "server_tool_use_details").get("web_search_requests"),  # openrouter SDK `chatusage.py`
        ),
    }
    counts = {name: count(value) for name, value in stated.items()}
    complete = all((counts[name] is None) == (value is None) for name, value in stated.items())
    known, produced, thought = counts["input"], counts["output"], counts["reasoning"]
    if known is not None and produced is not None and thought:
        # xAI leaves the thinking out, as its total shows: LiteLLM `xai/chat/transformation.py`.
        apart = count(found.get("total_tokens")) == known + produced + thought
        counts["output"] = produced + thought if apart or dialect.thinking_apart else produced
    tier = text_in(payload.get("service_tier")) or text_in(found.get("service_tier"))  # the second: mistral
    return Usage(**counts, tier="" if tier in _USUAL_TIERS else clean(tier, 40)), complete


def _cost(usage: object, headers: Mapping[str, str], dialect: Dialect) -> str:
    found = usage if is_object(usage) else {}
    stated: Decimal | None = None
    match dialect.cost:
        case "openrouter":  # openrouter SDK `chatusage.py`; with a key of one's own the upstream charges, too
            parts = [_usd(found.get("cost"))]
            if found.get("is_byok") is True:
                parts.append(_usd(object_at(found, "cost_details").get("upstream_inference_cost")))
            known = [part for part in parts if part is not None]
            stated = sum(known, Decimal(0)) if len(known) == len(parts) else None
        case "perplexity":  # perplexity SDK `shared/usage_info.py`
            stated = _usd(object_at(found, "cost").get("total_cost"))
        case "ticks":
            ticks = count(found.get("cost_in_usd_ticks"))
            stated = None if ticks is None else Decimal(ticks).scaleb(_TICK)
        case "litellm":  # the proxy writes 0 where it knows no price, and at the head of a stream
            stated = _usd(headers.get("x-litellm-response-cost")) or None
        case "":
            pass
    return "" if stated is None else _plain(stated)


def _usd(value: object) -> Decimal | None:
    if isinstance(value, str):
        amount = Decimal(value) if _DECIMAL.fullmatch(value) else None
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MOST_USD:
        amount = None
    else:
        amount = Decimal(repr(value))
    return amount if amount is not None and amount < _MOST_USD else None


def _plain(amount: Decimal) -> str:
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)
