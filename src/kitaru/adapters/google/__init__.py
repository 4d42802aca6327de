"""Google's Gemini API: `generateContent`, plain and as a stream.

The version of the API is part of the address. The default is `v1beta`, although google-genai 3 asks `v1`: `v1` has
answered 400 `Unknown name` to `systemInstruction` and `tools` (req_llm issue 162) and to `fileData` (js-genai issue
1746, July 2026), and the aliases `gemini-*-latest` live on `v1beta` only. `GOOGLE_GENAI_API_VERSION`, or a base URL
that ends in a version, chooses another. Vertex AI's addresses are understood, with an access token of Google Cloud or
an express key as credential.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

from kitaru.adapters.call import ModelCall, Tool
from kitaru.adapters.call_ids import arguments_of, is_made, tool_names
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.google.reply import read
from kitaru.adapters.google.stream import GoogleStream
from kitaru.adapters.message import Document, Image, Media, Message, Part, Text, own_form
from kitaru.adapters.nested import with_nested
from kitaru.adapters.provider import Capabilities, Feature, Lacks, Provider
from kitaru.adapters.reply import Reply
from kitaru.adapters.request import address, body_of, key_of, post, without_endpoint
from kitaru.errors import UsageError

if TYPE_CHECKING:
    import httpx

_HOST: Final = "https://generativelanguage.googleapis.com"  # google-genai `_api_client.py`
_VERSION: Final = "v1beta"
_VERTEX: Final = "aiplatform.googleapis.com"  # google-genai `_api_client.py`

_FEATURES: Final[frozenset[Feature]] = frozenset(
    {
        "temperature", "top_p", "seed", "reasoning", "tools", "tool_choice", "json_schema", "json_mode", "images",
        "image_urls", "documents", "document_urls", "audio", "audio_urls", "videos", "video_urls", "stop", "max_tokens",
    }
)  # fmt: skip


def _base_url(environ: Mapping[str, str]) -> str | None:
    base = environ.get("GOOGLE_GEMINI_BASE_URL", "").strip()
    version = environ.get("GOOGLE_GENAI_API_VERSION", "").strip().strip("/")
    if not base and not version:
        return None
    # google-genai `_api_client.py`: "beta" stands for v1beta.
    return _versioned(base or _HOST, "v1beta" if version == "beta" else version or _VERSION)


ROW: Final = Provider(
    name="google",
    aliases=("gemini",),
    title="Google Gemini",
    capabilities=Capabilities(
        features=_FEATURES,
        most_stops=5,  # `GenerationConfig.stopSequences` in the API's reference
        schema_dialect="google",
        tool_sets=True,
        # google-genai `types.py`; the API takes either case.
        part_fields=frozenset({"mediaResolution", "media_resolution", "videoMetadata", "video_metadata"}),
        tool_fields=frozenset({"behavior", "response", "responseJsonSchema", "response_json_schema"}),
        models=(
            # The API's pages "Thinking" and "Gemma": thinking came with 2.5; gemma 3 has neither tools nor JSON mode.
            Lacks(
                ("gemini-1*", "gemini-2.0*", "models/gemini-1*", "models/gemini-2.0*", "*gemma-3*", "*learnlm*"),
                frozenset({"reasoning"}),
            ),
            Lacks(("*gemma-3*",), frozenset({"tools", "tool_choice", "json_schema", "json_mode"})),
        ),
    ),
    base_url=f"{_HOST}/{_VERSION}",
    key_env=("GOOGLE_API_KEY", "GEMINI_API_KEY"),  # google-genai `_api_client.py`: in this order
    base_url_env=("GOOGLE_GEMINI_BASE_URL", "GOOGLE_GENAI_API_VERSION"),
    find_base_url=_base_url,
    retryable=frozenset({408, 429}),  # and every 5xx; google-genai `_api_client.py`
    # 429s that no wait cures and that no `quotaId` tells: a tier without any quota for the model, an empty account.
    quota_phrases=("limit: 0,", "credits are depleted", "funds are depleted", "spending cap"),
    model_prefixes=("gemini-", "gemma-"),
    # No limit is published. Ten minutes of a slow model, as anthropic's SDK reckons it (`_base_client.py`).
    stream_over=21_333,
    docs="https://ai.google.dev/api/generate-content",
)

# A model's method, and where Google speaks OpenAI's API.
_ENDPOINT: Final = re.compile(r"/models(/[^/]+)?$|(?:(?<=/v1)|(?<=/v1beta))/openai(/chat/completions)?$")

# Not to be set through `extra`: they have settings of their own, or change the form of the answer. The API takes each
# name in snake case, too.
_OWN_FIELDS: Final = frozenset(
    {"contents", "systemInstruction", "system_instruction", "toolConfig", "tool_config", "generation_config", "model"}
)
_OWN_SETTINGS: Final = frozenset(
    {
        "temperature", "topP", "top_p", "maxOutputTokens", "max_output_tokens", "stopSequences", "stop_sequences",
        "seed", "candidateCount", "candidate_count", "responseMimeType", "response_mime_type", "responseSchema",
        "response_schema", "responseJsonSchema", "response_json_schema",
    }
)  # fmt: skip

# The API's page "OpenAI compatibility" translates efforts so; its numbers are for Gemini 2.5.
_LEVELS: Final[Mapping[str, str]] = {
    "none": "MINIMAL", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH", "max": "HIGH",
}  # fmt: skip
_BUDGETS: Final[Mapping[str, int]] = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}
_MOST: Final = (24576, 32768)  # what 2.5 flash and 2.5 pro may think
_LEAST_OF_PRO: Final = 128  # 2.5 pro cannot be kept from thinking

# From Gemini 3 on, a turn with a call and no signature is a 400. The API's page "Thought signatures" names this value
# for turns that another model wrote.
_NO_SIGNATURE: Final = "skip_thought_signature_validator"


class Google(msgspec.Struct, frozen=True):
    """The adapter: pure translation between neutral terms and this wire format."""

    row: Provider = ROW

    def build_request(self, call: ModelCall, endpoint: Endpoint, *, stream: bool = False) -> httpx.Request:
        """Return the request for a call.

        Effort words become a `thinkingLevel` from Gemini 3 on (`none` the least there is: it cannot be switched off)
        and a `thinkingBudget` before; a number of tokens is a `thinkingBudget` for all. Thoughts are asked for wherever
        the model is told to think. `extra` may hold `generationConfig` and `tools`, which are added to the call's own.

        Raises:
            UsageError: The call or the address cannot be right.
            CredentialError: A key is needed and missing, or cannot be sent in a header.
        """
        method = ":streamGenerateContent" if stream else ":generateContent"
        path = f"/{_model_path(call.model)}{method}"
        url = address(
            self.row,
            _versioned(without_endpoint(endpoint.base_url, _ENDPOINT), _VERSION),
            path,
            "alt=sse" if stream else "",
        )
        outer, config = with_nested(call, "generationConfig", _config(call), _OWN_SETTINGS)
        contents, system = _contents(call, self.row.name)
        fields: dict[str, object] = {
            "contents": contents,
            "systemInstruction": {"parts": system} if system else None,
            "toolConfig": _tool_config(call),
            "generationConfig": config,
        }
        outer, fields["tools"] = _tools(outer)
        body = body_of(outer, fields, _OWN_FIELDS)
        key = key_of(self.row, endpoint, url)
        # Access tokens of Google Cloud, which Vertex AI asks for, begin so.
        bearer = endpoint.bearer or key.startswith("ya29.")
        named = {"authorization": f"Bearer {key}"} if bearer else {"x-goog-api-key": key}
        return post(self.row, url, body, endpoint, named if key else {})

    def parse_response(self, call: ModelCall, status: int, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return the reply held by a response, finished or not.

        Raises:
            CredentialError: The key was refused.
            ProviderError: An error, also one inside a success, or a body that is not what the API promises.
        """
        return read(self.row, call, status, headers, body)

    def parse_stream(self, call: ModelCall, status: int, headers: Mapping[str, str]) -> GoogleStream:
        """Return a parser for the body of a streamed success."""
        return GoogleStream(self.row, call, status, headers)


ADAPTER: Final = Google()


def _versioned(base_url: str, version: str) -> str:
    """Return an address that ends in a version of the API: its own, else `version`.

    Vertex AI's addresses (`.../v1/projects/P/locations/L`, or the host alone with an express key) end in a publisher.
    """
    try:
        parts = urlsplit(base_url.strip())
    except ValueError:
        return base_url  # `address` says what is wrong with it
    path = parts.path.rstrip("/")
    vertex = (parts.hostname or "").endswith(_VERTEX) or re.search(r"/projects/[^/]+/locations/[^/]+", path)
    if not re.search(r"/v\d+[a-z0-9]*(/projects/.+|/publishers/.+)?$", path):
        path = f"{path}/{'v1' if vertex else version}"
    if vertex and "/publishers/" not in path and "/endpoints/" not in path:
        path += "/publishers/google"
    return urlunsplit(parts._replace(path=path))


def _model_path(model: str) -> str:
    """Return a model's resource name, escaped: `models/` goes before a bare one (google-genai `t_model`)."""
    names = model.strip("/").split("/")
    if any(name in ("", ".", "..") for name in names):
        raise UsageError(
            f"{model!r} is not the name of a model", hint="Such as google/MODEL or google/tunedModels/NAME."
        )
    if names[0] not in ("models", "tunedModels"):
        names.insert(0, "models")
    return "/".join(quote(name, safe="") for name in names)


def _generation(model: str) -> int:
    """Return the generation a model belongs to; the newest for an alias, 0 for what is no Gemini."""
    name = model.lower().rpartition("/")[2]
    found = re.match(r"gemini-(\d+)", name)
    if found:
        return int(found.group(1))
    return 99 if name.startswith("gemini-") else 0


def _config(call: ModelCall) -> dict[str, object]:
    settings, output = call.settings, call.output
    return {
        "temperature": settings.temperature,
        "topP": settings.top_p,
        "maxOutputTokens": settings.max_tokens,
        "stopSequences": list(settings.stop) or None,
        "seed": settings.seed,
        "responseMimeType": None if output.kind == "text" else "application/json",
        "responseJsonSchema": output.schema if output.kind == "schema" else None,
        "thinkingConfig": _thinking(call),
    }


def _thinking(call: ModelCall) -> dict[str, object] | None:
    effort = call.settings.reasoning
    if effort is None:
        return None
    pro = "pro" in call.model.lower()
    if isinstance(effort, str) and _generation(call.model) >= 3:
        level = _LEVELS[effort]
        found: dict[str, object] = {"thinkingLevel": "LOW" if pro and level == "MINIMAL" else level}
    elif isinstance(effort, str):
        found = {"thinkingBudget": max(_BUDGETS.get(effort, _MOST[pro]), _LEAST_OF_PRO if pro else 0)}
    else:
        found = {"thinkingBudget": effort}
    return found if effort in ("none", 0) else {**found, "includeThoughts": True}


def _tools(call: ModelCall) -> tuple[ModelCall, list[object] | None]:
    """Return the call without tools in its `extra` (such as `{"googleSearch": {}}`), and all tools."""
    stated: list[object] = [{"functionDeclarations": [_declaration(tool) for tool in call.tools]}] if call.tools else []
    others = call.settings.extra.get("tools")
    if others is None:
        return call, stated or None
    if not isinstance(others, list):
        raise UsageError("extra's tools must be a list")
    rest = {key: value for key, value in call.settings.extra.items() if key != "tools"}
    settings = msgspec.structs.replace(call.settings, extra=rest)
    return msgspec.structs.replace(call, settings=settings), [*stated, *others] or None


def _declaration(tool: Tool) -> dict[str, object]:
    found: dict[str, object] = {"name": tool.name}
    if tool.description:
        found["description"] = tool.description
    if tool.parameters.get("properties"):  # `FunctionDeclaration.parameters`: left unset where there are none
        found["parametersJsonSchema"] = tool.parameters
    return {**found, **tool.more}


def _tool_config(call: ModelCall) -> dict[str, object] | None:
    mode = call.tool_choice.mode if call.tool_choice else "auto"
    config: dict[str, object]
    match mode:
        case "none":
            config = {"mode": "NONE"}
        case "required":
            config = {"mode": "ANY"}
        case "auto" if call.tool_choice is not None and call.tool_choice.names:
            config = {"mode": "VALIDATED"}  # AUTO takes no names
        case "tool":
            assert call.tool_choice is not None
            config = {"mode": "ANY", "allowedFunctionNames": [call.tool_choice.name]}
        case _ if any(tool.strict for tool in call.tools):
            config = {"mode": "VALIDATED"}  # the only way to have arguments held to the schema without forcing a call
        case _ if call.tool_choice is not None:
            config = {"mode": "AUTO"}
        case _:
            return None
    if call.tool_choice is not None and call.tool_choice.names:
        config["allowedFunctionNames"] = list(call.tool_choice.names)
    return {"functionCallingConfig": config}


def _contents(call: ModelCall, provider: str) -> tuple[list[dict[str, object]], list[object]]:
    """Return the conversation in turns of user and model that alternate, and the parts of the system instruction."""
    names = tool_names(call.messages)
    system: list[object] = []
    turns: list[tuple[str, list[object]]] = []
    results: list[Message] = []
    asked: list[str] = []

    def add(role: str, parts: Iterable[object]) -> None:
        found = list(parts)
        if not found:
            return
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(found)
        else:
            turns.append((role, found))

    def hand_in() -> None:
        # In the order of the calls: without ids it is all that tells two calls of one name apart.
        results.sort(key=lambda one: asked.index(one.tool_call_id) if one.tool_call_id in asked else len(asked))
        add("user", [_result(one, names) for one in results])
        add("user", [_part(part) for one in results for part in one.parts if not isinstance(part, Text)])
        results.clear()

    for message in call.messages:
        if message.role == "tool":
            results.append(message)
            continue
        hand_in()
        match message.role:
            case "system" | "developer":
                system.extend(_part(part) for part in message.parts)
            case "assistant":
                asked = [one.id for one in message.tool_calls]
                add("model", _model_parts(message, call, provider))
            case _:
                add("user", [_part(part) for part in message.parts] or [{"text": ""}])
    hand_in()
    if not turns:  # instructions alone: the API wants somebody to speak
        turns, system = [("user", system)], []
    return [{"role": role, "parts": parts} for role, parts in turns], system


def _model_parts(message: Message, call: ModelCall, provider: str) -> list[object]:
    own = own_form(message, provider, call.model)
    if own is not None:
        try:
            return list(msgspec.json.decode(own, type=list[msgspec.Raw]))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass  # recorded by something else: text and calls are still there
    parts: list[object] = [_part(part) for part in message.parts if not isinstance(part, Text) or part.text]
    for index, one in enumerate(message.tool_calls):
        called = {"name": one.name, "args": arguments_of(one)}
        part: dict[str, object] = {"functionCall": called if is_made(one.id) else {"id": one.id, **called}}
        # Only the first of parallel calls carries a signature.
        if index == 0 and _generation(call.model) >= 3:
            part["thoughtSignature"] = _NO_SIGNATURE
        parts.append(part)
    return parts


def _result(message: Message, names: Mapping[str, str]) -> dict[str, object]:
    # `FunctionResponse.response` of google-genai: an object, with the result under "output" or "error".
    found: dict[str, object] = {
        "name": message.name or names.get(message.tool_call_id, ""),
        "response": {"error" if message.is_error else "output": message.text},
    }
    if message.tool_call_id and not is_made(message.tool_call_id):
        found["id"] = message.tool_call_id
    return {"functionResponse": found}


def _part(part: Part) -> dict[str, object]:
    match part:
        case Text(text):
            return {"text": text, **part.more}
        case Image() | Document() | Media():
            media_type, data, url = part.media_type, part.data, part.url
            if data:
                return {"inlineData": {"mimeType": media_type, "data": base64.b64encode(data).decode()}, **part.more}
            named = {"mimeType": media_type} if media_type else {}
            return {"fileData": {**named, "fileUri": url}, **part.more}
