"""Fitting a call to what a provider and a model have: what they lack is dropped, said another way, or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from kitaru.adapters.call import ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.fields import is_object
from kitaru.adapters.message import Document, Image, Media, Message, Part, Text, own_form
from kitaru.adapters.provider import ADVISORY, Capabilities, Provider
from kitaru.adapters.schema import rewrite
from kitaru.errors import UnsupportedError, UsageError

JsonMode: TypeAlias = Literal["", "native", "schema", "instruction"]
"""What holds an answer to JSON: nothing, the provider's JSON mode, its JSON schemas, or an instruction alone."""

_ASK: Final = "Answer in JSON, with one object."
_ASK_ONLY: Final = "Answer with one JSON object and nothing else: no explanation before or after it, no code fence."
_FOLLOW: Final = "The object follows this JSON schema:"
_OBJECT: Final[dict[str, object]] = {"type": "object"}


class Fitted(msgspec.Struct, frozen=True):
    """A call that holds nothing that the provider or model lacks.

    Args:
        call: The call, its schemas in the provider's dialect.
        warnings: What was left out of it.
        json_mode: What holds the answer to JSON; `native` is the provider's JSON mode, with an instruction where a
            schema was asked for, and `schema` its JSON schemas.
        wrapped: The answer will be an object around the value that was asked for.
    """

    call: ModelCall
    warnings: tuple[str, ...] = ()
    json_mode: JsonMode = ""
    wrapped: bool = False


def fit(call: ModelCall, row: Provider, lacking: Mapping[str, str] = {}) -> Fitted:
    """Return a call as its provider and model can take it.

    Args:
        call: The model call.
        row: The provider.
        lacking: Settings that this model is known to lack beyond the row's table, and why.

    Raises:
        UnsupportedError: A binding setting, or with `call.strict` an advisory one, that the provider or model lacks.
        UsageError: A choice of tool without that tool.
    """
    has: frozenset[str] = row.capabilities.of(call.model) - lacking.keys()
    settings, warnings = _settings(call, row, has, lacking)
    _check_limits(call, row, has)
    _check_parts(call, has)
    call = _narrowed(call, row)
    choice = _choice(call, row, has)
    call, unknown = _without_unknown_fields(call, row)
    messages, left_out = _without_foreign_turns(call)
    fitted = msgspec.structs.replace(
        call,
        messages=messages,
        settings=settings,
        tools=tuple(_tool(tool, row) for tool in call.tools),
        tool_choice=choice,
    )
    fitted, json_mode, wrapped = _output(fitted, row, has)
    formed = _lacked_forms(call, lacking, json_mode)
    return Fitted(fitted, (*warnings, *unknown, *left_out, *formed), json_mode, wrapped)


# ---- settings -------------------------------------------------------------------------------------------------------


def _settings(
    call: ModelCall, row: Provider, has: frozenset[str], lacking: Mapping[str, str]
) -> tuple[Settings, list[str]]:
    lacked = [name for name in ADVISORY if name not in has and getattr(call.settings, name) is not None]
    ruled_out = row.rules_out(call) if row.rules_out is not None else {}
    ruled_out = {name: why for name, why in ruled_out.items() if name not in lacked}
    if ruled_out and call.strict:
        raise UnsupportedError(
            f"{_name(call)} does not take {' or '.join(ruled_out)} here: {'; '.join(ruled_out.values())}",
            hint="Leave it out, or call without strict=True.",
        )
    if lacked and call.strict:
        raise UnsupportedError(
            f"{_name(call)} does not take {' or '.join(lacked)}"
            + "".join(f": {lacking[name]}" for name in lacked if name in lacking),
            hint="Leave it out, or call without strict=True.",
        )
    why = f"{_name(call)} does not take it"
    warnings = [f"{name} was left out: {lacking.get(name, why)}" for name in lacked]
    warnings += [f"{name} was left out: {why}" for name, why in ruled_out.items()]
    lacked += ruled_out
    return msgspec.structs.replace(call.settings, **dict.fromkeys(lacked)) if lacked else call.settings, warnings


def _check_limits(call: ModelCall, row: Provider, has: frozenset[str]) -> None:
    settings, most = call.settings, row.capabilities.most_stops
    if settings.stop and "stop" not in has:
        raise UnsupportedError(
            f"{_name(call)} takes no stop texts", hint="Leave stop= out and cut the answer, or ask another model."
        )
    if most is not None and len(settings.stop) > most:
        raise UnsupportedError(
            f"{_name(call)} takes at most {most} stop texts, not {len(settings.stop)}",
            hint="Pass the ones that matter most, or ask another model.",
        )
    if settings.max_tokens is not None and "max_tokens" not in has:
        raise UnsupportedError(
            f"{_name(call)} takes no max_tokens", hint="Leave it out and ask for a short answer, or ask another model."
        )


# ---- fields that not every API has ----------------------------------------------------------------------------------


def _without_unknown_fields(call: ModelCall, row: Provider) -> tuple[ModelCall, list[str]]:
    """Drop the fields of parts and tools, and the names of speakers, that the API does not have."""
    known, places = row.capabilities, dict[str, list[str]]()
    messages = [
        _known_message(message, known, f"message {number}", places) for number, message in enumerate(call.messages)
    ]
    tools = [
        msgspec.structs.replace(tool, more=_known(tool.more, known.tool_fields, f"tool {tool.name}", places))
        if tool.more
        else tool
        for tool in call.tools
    ]
    if not places:
        return call, []
    if call.strict:
        raise UnsupportedError(
            f"{_name(call)} does not take {' or '.join(places)}: {next(iter(places.values()))[0]}",
            hint="Leave it out, or call without strict=True.",
        )
    warnings = [
        f"{field} was left out of {', '.join(dict.fromkeys(where))}: {_name(call)} does not take it"
        for field, where in places.items()
    ]
    return msgspec.structs.replace(call, messages=tuple(messages), tools=tuple(tools)), warnings


def _known_message(message: Message, known: Capabilities, where: str, places: dict[str, list[str]]) -> Message:
    if message.name and message.role != "tool" and not known.speakers:
        places.setdefault("name", []).append(where)
        message = msgspec.structs.replace(message, name="")
    if message.more:
        message = msgspec.structs.replace(message, more=_known(message.more, known.turn_fields, where, places))
    if isinstance(message.content, str) or not any(part.more for part in message.content):
        return message
    parts = tuple(
        msgspec.structs.replace(part, more=_known(part.more, known.part_fields, where, places))
        for part in message.content
    )
    return msgspec.structs.replace(message, content=parts)


def _known(
    more: dict[str, object], known: frozenset[str], where: str, places: dict[str, list[str]]
) -> dict[str, object]:
    if "*" in known:
        return more
    for field in more.keys() - known:
        places.setdefault(field, []).append(where)
    return {field: value for field, value in more.items() if field in known}


# ---- parts ----------------------------------------------------------------------------------------------------------


def _check_parts(call: ModelCall, has: frozenset[str]) -> None:
    for number, part in _parts(call):
        what, one, by_url = _CALLED[part.kind if isinstance(part, Media) else type(part).__name__]
        if part.url and by_url not in has:
            if what in has:
                raise UnsupportedError(
                    f"{_name(call)} takes {one} as bytes only, and message {number} holds its address",
                    hint="Download it first, and attach the file or its bytes.",
                )
        elif part.url or what in has:
            continue
        elif by_url in has:
            raise UnsupportedError(
                f"{_name(call)} takes {one} by its address only, and message {number} holds its bytes",
                hint="Put it where the provider can fetch it, and attach the http(s) URL.",
            )
        raise UnsupportedError(
            f"{_name(call)} takes no {what}, and message {number} holds one",
            hint="Ask a model that takes them, or put what they say into words.",
        )


_CALLED: Final[Mapping[str, tuple[str, str, str]]] = {
    "Image": ("images", "an image", "image_urls"),
    "Document": ("documents", "a document", "document_urls"),
    "audio": ("audio", "a sound", "audio_urls"),
    "video": ("videos", "a video", "video_urls"),
}


def _parts(call: ModelCall) -> Iterator[tuple[int, Image | Document | Media]]:
    for number, message in enumerate(call.messages):
        if not isinstance(message.content, str):
            for part in message.content:
                if not isinstance(part, Text):
                    yield number, part


def _without_foreign_turns(call: ModelCall) -> tuple[tuple[Message, ...], list[str]]:
    """Drop what only another provider or model understands, or what belongs to a turn that was edited since."""
    warnings: dict[str, None] = {}
    messages = []
    for number, message in enumerate(call.messages):
        own = message.opaque
        if own is not None and own_form(message, call.provider, call.model) is None:
            if (own.provider, own.model) == (call.provider, call.model):
                warnings[
                    f"message {number} was edited: the thinking of {_name(call)} that belonged to it is left out"
                ] = None
            else:
                warnings[f"the thinking of {own.provider}/{own.model} is not sent to {_name(call)}"] = None
            message = msgspec.structs.replace(message, opaque=None)
        messages.append(message)
    return tuple(messages), list(warnings)


# ---- tools ----------------------------------------------------------------------------------------------------------


def _narrowed(call: ModelCall, row: Provider) -> ModelCall:
    """Offer only the tools that a choice allows, where the API cannot be told to choose among them."""
    choice, names = call.tool_choice, {tool.name for tool in call.tools}
    if choice is None or not choice.names:
        return call
    if unknown := [name for name in choice.names if name not in names]:
        raise UsageError(f"tool_choice names {unknown[0]!r}, which is none of the call's tools: {', '.join(names)}")
    if row.capabilities.tool_sets:
        return call
    tools = tuple(tool for tool in call.tools if tool.name in choice.names)
    return msgspec.structs.replace(call, tools=tools, tool_choice=ToolChoice(choice.mode))


def _choice(call: ModelCall, row: Provider, has: frozenset[str]) -> ToolChoice | None:
    choice, names = call.tool_choice, [tool.name for tool in call.tools]
    if names and "tools" not in has:
        raise UnsupportedError(
            f"{_name(call)} takes no tools", hint="Ask a model that does, or ask for JSON that says what to do."
        )
    if choice is None:
        return None
    if not names and choice.mode in ("required", "tool"):
        raise UsageError(f"tool_choice asks for a tool, but the call of {_name(call)} has none", hint="Pass tools=.")
    if choice.mode == "tool" and choice.name not in names:
        raise UsageError(f"tool_choice names {choice.name!r}, which is none of the call's tools: {', '.join(names)}")
    if not names:
        return None
    known = row.capabilities.tool_choices if "tool_choice" in has else frozenset[str]()
    if choice.mode == "auto" or choice.mode in known:
        return choice
    if choice.mode == "tool" and len(names) == 1 and "required" in known:
        return ToolChoice("required")
    what, hint = {
        "none": ("be told not to call a tool", "Leave the tools out of this call."),
        "required": ("be made to call a tool", "Ask for it in the prompt, or ask another model."),
        "tool": ("be made to call one certain tool", "Offer only that tool, or ask for it in the prompt."),
    }[choice.mode]
    raise UnsupportedError(f"{_name(call)} cannot {what}", hint=hint)


def _tool(tool: Tool, row: Provider) -> Tool:
    dialect = row.capabilities.schema_dialect
    plain = tool.parameters
    if "properties" not in plain and not {"$ref", "anyOf", "oneOf", "allOf"} & plain.keys():
        # OpenAI: "object schema missing properties".
        tool = msgspec.structs.replace(tool, parameters={"type": "object", **plain, "properties": {}})
    if not tool.strict and dialect != "google":
        return tool
    found = rewrite(tool.parameters, dialect, keywords=row.capabilities.schema_keywords, wrap=False)
    return msgspec.structs.replace(tool, parameters=found.schema, strict=tool.strict and found.strict)


# ---- the form of the answer -----------------------------------------------------------------------------------------


def _output(call: ModelCall, row: Provider, has: frozenset[str]) -> tuple[ModelCall, JsonMode, bool]:
    match call.output.kind:
        case "text":
            return call, "", False
        case "json":
            return *_json(call, row, has), False
        case "schema":
            return _schema(call, row, has)


def _lacked_forms(call: ModelCall, lacking: Mapping[str, str], mode: JsonMode) -> list[str]:
    """What to say of forms of the answer that were refused before, where that has led to another one."""
    if call.output.kind == "text":
        return []
    instead = {"schema": "a JSON schema", "native": "JSON mode", "instruction": "an instruction"}.get(mode, "")
    used = {"schema": "json_schema", "native": "json_mode"}.get(mode, "")
    passed = ("json_schema", "json_mode") if call.output.kind == "schema" or mode == "instruction" else ("json_mode",)
    return [f"{name} was replaced by {instead}: {lacking[name]}" for name in passed if name in lacking and name != used]


def _json(call: ModelCall, row: Provider, has: frozenset[str]) -> tuple[ModelCall, JsonMode]:
    """Any object, perhaps with certain keys."""
    keys = call.output.schema
    said = _keys(keys)
    if "json_mode" in has:
        # Several refuse their JSON mode unless the prompt speaks of JSON (openai, groq, deepseek, mistral).
        told = said or not _speaks_of_json(call)
        return _asked(call, Output("json"), f"{_ASK}{said}" if told else ""), "native"
    # An object with free keys can be promised by no schema that has to be closed.
    if "json_schema" in has and row.capabilities.schema_dialect in ("open", "google"):
        found = rewrite(keys or _OBJECT, row.capabilities.schema_dialect)
        output = Output("schema", found.schema, call.output.name, strict=False)
        return _asked(call, output, f"{_ASK}{said}" if said else ""), "schema"
    return _asked(call, Output(), f"{_ASK_ONLY}{said}"), "instruction"


def _schema(call: ModelCall, row: Provider, has: frozenset[str]) -> tuple[ModelCall, JsonMode, bool]:
    output, dialect = call.output, row.capabilities.schema_dialect
    plain = rewrite(output.schema or _OBJECT, "open")
    if "json_schema" in has:
        found = rewrite(output.schema or _OBJECT, dialect, keywords=row.capabilities.schema_keywords)
        # Anthropic has no schemas that are not followed to the letter.
        if found.strict or dialect != "anthropic":
            sent = found if output.strict or dialect in ("google", "anthropic") else plain
            native = Output("schema", sent.schema, output.name, strict=output.strict and found.strict)
            return msgspec.structs.replace(call, output=native), "schema", found.wrapped
    text = f"{_ASK_ONLY} {_FOLLOW}\n{msgspec.json.encode(plain.schema).decode()}"
    if "json_mode" in has:
        return _asked(call, Output("json"), text), "native", plain.wrapped
    return _asked(call, Output(), text), "instruction", plain.wrapped


def _keys(schema: object) -> str:
    names = schema.get("required") if is_object(schema) else None
    return f" Its keys are {msgspec.json.encode(names).decode()[1:-1]}." if isinstance(names, list) and names else ""


def _speaks_of_json(call: ModelCall) -> bool:
    return any("json" in message.text.lower() for message in call.messages)


def _asked(call: ModelCall, output: Output, instruction: str) -> ModelCall:
    """Add an instruction to the system message: several refuse one that stands anywhere but at the beginning."""
    call = msgspec.structs.replace(call, output=output)
    if not instruction:
        return call
    if not call.messages or call.messages[0].role not in ("system", "developer"):
        return msgspec.structs.replace(call, messages=(Message("system", instruction), *call.messages))
    first, *others = call.messages
    if isinstance(first.content, str):
        content: str | tuple[Part, ...] = f"{first.content}\n\n{instruction}".lstrip()
    else:
        content = (*first.content, Text(instruction))
    return msgspec.structs.replace(call, messages=(msgspec.structs.replace(first, content=content), *others))


def _name(call: ModelCall) -> str:
    return f"{call.provider}/{call.model}"
