"""What Google's API refuses, in its own words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, TypeAlias

import msgspec

from kitaru.adapters.standin.asked import (
    Arrived,
    Ask,
    Object,
    Problem,
    RefusedError,
    among,
    child,
    is_object,
    objects,
    refused,
    string,
)
from kitaru.adapters.standin.deciding import signature
from kitaru.adapters.standin.wire import Around, missing

Known: TypeAlias = Mapping[str, "Known | None"]
"""The fields of a message: None where any value may stand, else the fields of the messages below."""

# Of `types.py` of google-genai 3.4, without what only Vertex takes.
_BLOB: Final[Known] = {"mimeType": None, "data": None, "displayName": None}
_PART: Final[Known] = {
    "text": None, "thought": None, "thoughtSignature": None, "inlineData": _BLOB,
    "fileData": {"mimeType": None, "fileUri": None, "displayName": None},
    "functionCall": {"id": None, "name": None, "args": None, "partialArgs": None, "willContinue": None},
    "functionResponse": {
        "id": None, "name": None, "response": None, "parts": None, "willContinue": None, "scheduling": None,
    },
    "executableCode": None, "codeExecutionResult": None, "videoMetadata": None, "mediaResolution": None,
    "toolCall": None, "toolResponse": None, "partMetadata": None,
}  # fmt: skip
_CONTENT: Final[Known] = {"role": None, "parts": _PART}
_DECLARATION: Final[Known] = dict.fromkeys(
    ("name", "description", "parameters", "parametersJsonSchema", "response", "responseJsonSchema", "behavior")
)
_TOOL: Final[Known] = {
    "functionDeclarations": _DECLARATION, "googleSearch": None, "googleSearchRetrieval": None, "codeExecution": None,
    "urlContext": None, "computerUse": None, "fileSearch": None, "googleMaps": None, "mcpServers": None,
}  # fmt: skip
_CONFIG: Final[Known] = {
    **dict.fromkeys(
        (
            "audioTimestamp", "candidateCount", "enableAffectiveDialog", "enableEnhancedCivicAnswers",
            "frequencyPenalty", "logprobs", "maxOutputTokens", "mediaResolution", "presencePenalty", "responseFormat",
            "responseJsonSchema", "responseLogprobs", "responseMimeType", "responseModalities", "responseSchema",
            "seed", "speechConfig", "stopSequences", "temperature", "topK", "topP", "imageConfig",
        )
    ),
    "thinkingConfig": {"includeThoughts": None, "thinkingBudget": None, "thinkingLevel": None},
}  # fmt: skip
_REQUEST: Final[Known] = {
    "contents": _CONTENT, "systemInstruction": _CONTENT, "tools": _TOOL,
    "toolConfig": {
        "functionCallingConfig": {"mode": None, "allowedFunctionNames": None, "streamFunctionCallArguments": None},
        "retrievalConfig": None, "includeServerSideToolInvocations": None,
    },
    "safetySettings": {"category": None, "threshold": None, "method": None}, "generationConfig": _CONFIG,
    "cachedContent": None, "model": None, "store": None, "serviceTier": None, "labels": None,
}  # fmt: skip
_DATA: Final = (
    "text", "inlineData", "fileData", "functionCall", "functionResponse", "executableCode", "codeExecutionResult",
    "toolCall", "toolResponse",
)  # fmt: skip
_UNSIGNED: Final = frozenset({"skip_thought_signature_validator", "context_engineering_is_the_way_to_go"})
"""What may stand for a signature under a call that another model made (the guide to thought signatures)."""


def signed_call(name: str, args: object) -> str:
    """Return the text of a call that its signature vouches for."""
    return f"{name}{msgspec.json.encode(args, order='deterministic').decode()}"


def spelled(value: object, known: Known | None = _REQUEST) -> object:
    """Return a request with its fields in camel case: the API takes them as `max_output_tokens`, too.

    Google's own client sends some of them so. What only looks alike, in schemas and arguments, stays as it is.
    """
    if known is None:
        return value
    if isinstance(value, list):
        return [spelled(each, known) for each in value]
    if not is_object(value):
        return value
    named = {name if name in known else _camel(name): name for name in value}
    return {(name if name in known else given): spelled(value[given], known.get(name)) for name, given in named.items()}


def check(arrived: Arrived, ask: Ask, around: Around) -> None:
    """Find what the API would not take.

    Raises:
        RefusedError: Something.
    """
    version = arrived.path.strip("/").partition("/")[0]
    # The aliases of newest models are known to the beta version alone.
    if not around.knows(ask.model) or (version == "v1" and fnmatchcase(ask.model, "gemini-*-latest")):
        raise missing(
            f"models/{ask.model} is not found for API version {version}, or is not supported for generateContent. Call "
            "ListModels to see the list of available models and their supported methods."
        )
    violations = _unknown(ask.body, _REQUEST, "")
    if violations:
        raise RefusedError(_invalid(violations))
    _settings(ask)
    _contents(ask)
    _tools(ask)
    _signatures(ask)


def _unknown(value: object, known: Known, path: str) -> list[tuple[str, str]]:
    if isinstance(value, list):
        return [each for at, item in enumerate(value) for each in _unknown(item, known, f"{path}[{at}]")]
    if not is_object(value):
        return []
    found = []
    for name, each in value.items():
        if name not in known:
            found.append((path, name))
        elif (below := known[name]) is not None:
            found += _unknown(each, below, f"{path}.{_snake(name)}" if path else _snake(name))
    return found


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", name)


def _invalid(violations: list[tuple[str, str]]) -> Problem:
    texts = [
        f'Invalid JSON payload received. Unknown name "{name}"{f" at {path!r}" if path else ""}: Cannot find field.'
        for path, name in violations
    ]
    fields = [{"field": path, "description": text} for (path, _), text in zip(violations, texts, strict=True)]
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": fields}]
    return Problem(trouble="invalid", status=400, message="\n".join(texts), details=details)


def _settings(ask: Ask) -> None:
    config = child(ask.body, "generationConfig")
    for name, most in (("temperature", 2), ("topP", 1)):
        value = config.get(name)
        if isinstance(value, (int, float)) and not 0 <= value <= most:
            raise refused(
                f"* GenerateContentRequest.generation_config.{_snake(name)}: {_snake(name)} must be in the range "
                f"[0.0, {most}.0]."
            )
    if ask.limit is not None and ask.limit < 1:
        raise refused("max_output_tokens must be positive")
    if len(ask.stop) > 5:
        raise refused("The number of stop sequences exceeds the maximum of 5.")
    schema = "responseJsonSchema" in config or "responseSchema" in config
    if schema and config.get("responseMimeType") != "application/json":
        raise refused(
            "* GenerateContentRequest.generation_config.response_json_schema: only allowed when `response_mime_type` "
            'is "application/json".'
        )
    if "responseJsonSchema" in config and "responseSchema" in config:
        raise refused("Only one of response_schema and response_json_schema may be set.")
    if ask.tools and ask.form != "text" and fnmatchcase(ask.model, "gemini-[12]*"):
        raise refused("Function calling with a response mime type: 'application/json' is unsupported")
    thinking = child(config, "thinkingConfig")
    if "thinkingBudget" in thinking and "thinkingLevel" in thinking:
        raise refused("You can only set only one of thinking budget and thinking level.")


def _contents(ask: Ask) -> None:
    calls: list[Object] = []
    before = ""
    for at, content in enumerate(objects(ask.body.get("contents"))):
        role = string(content.get("role"), "user")
        if role not in {"user", "model", "function"}:
            raise refused("Please use a valid role: user, model.")
        parts = objects(content.get("parts"))
        if not parts:
            raise refused(f"* GenerateContentRequest.contents[{at}].parts: contents.parts must not be empty.")
        for nth, part in enumerate(parts):
            if sum(name in part for name in _DATA) != 1:
                raise refused(
                    f"* GenerateContentRequest.contents[{at}].parts[{nth}].data: required oneof field 'data' must have "
                    "one initialized field"
                )
            blob = child(part, "inlineData")
            if "inlineData" in part and not (blob.get("mimeType") and blob.get("data")):
                raise refused("Unable to process input image. Please retry or report.")
        made = [child(part, "functionCall") for part in parts if "functionCall" in part]
        answers = [child(part, "functionResponse") for part in parts if "functionResponse" in part]
        if made and before not in {"user", "function"}:
            raise refused(
                "Please ensure that function call turn comes immediately after a user turn or after a function "
                "response turn."
            )
        if answers and not calls:
            raise refused("Please ensure that function response turn comes immediately after a function call turn.")
        if len(answers) != len(calls):
            raise refused(
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
        if sorted(string(each.get("name")) for each in answers) != sorted(string(each.get("name")) for each in calls):
            raise refused("Please ensure that function response names match the function calls.")
        for each in answers:
            if not is_object(each.get("response")):
                raise refused("Function response must be an object.")
        calls, before = made, role
    if calls:
        raise refused("Please ensure that single turn requests end with a user role or the role field is empty.")


def _tools(ask: Ask) -> None:
    names: set[str] = set()
    for tool in objects(ask.body.get("tools")):
        for at, each in enumerate(objects(tool.get("functionDeclarations"))):
            name = string(each.get("name"))
            if re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}", name) is None:
                raise refused(
                    f"* GenerateContentRequest.tools[0].function_declarations[{at}].name: Invalid function name. Must "
                    "start with a letter or an underscore."
                )
            if name in names:
                raise refused(f"Duplicate function declaration found: {name}")
            if "parameters" in each and "parametersJsonSchema" in each:
                raise refused("Only one of parameters and parameters_json_schema may be set.")
            names.add(name)
    calling = child(ask.body, "toolConfig", "functionCallingConfig")
    allowed = calling.get("allowedFunctionNames")
    if allowed and not among(calling.get("mode"), ("ANY", "VALIDATED")):
        raise refused("Allowed function names may only be set when the mode is ANY or VALIDATED.")
    for name in allowed if isinstance(allowed, list) else ():
        if name not in names:
            raise refused(f"allowed_function_names: '{name}' is not declared.")
    if string(calling.get("mode"), "AUTO") not in {"AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED"}:
        raise refused("Invalid value at 'tool_config.function_calling_config.mode'")


def _signatures(ask: Ask) -> None:
    """Find signatures that were changed, and in the turn that is not over yet, calls that lost theirs."""
    contents = objects(ask.body.get("contents"))
    opened = max(
        (
            at
            for at, content in enumerate(contents)
            if content.get("role", "user") == "user"
            and any("functionResponse" not in part for part in objects(content.get("parts")))
        ),
        default=-1,
    )
    for at, content in enumerate(contents):
        first = True
        for nth, part in enumerate(objects(content.get("parts"))):
            signed = part.get("thoughtSignature")
            call = child(part, "functionCall")
            if signed is not None and not among(signed, _UNSIGNED) and not _genuine(ask, call, signed):
                raise refused("Thought signature is not valid")
            if not call:
                continue
            if first and signed is None and at > opened and fnmatchcase(ask.model, "gemini-3*"):
                raise refused(
                    "Function call is missing a thought_signature in functionCall parts. This is required for tools to "
                    "work correctly, and missing thought_signature may lead to degraded model performance. Additional "
                    f"data, function call `default_api:{string(call.get('name'))}` , position {at + nth + 1}. Please "
                    "refer to https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
                )
            first = False


def _genuine(ask: Ask, call: Object, signed: object) -> bool:
    told = signed_call(string(call.get("name")), call.get("args", {})) if call else "text"
    # Bytes come back in either alphabet of base64: Google's own client changes it.
    return string(signed).replace("-", "+").replace("_", "/") == signature(ask.model, told)
