"""Tools: what a model may ask to have called, made of functions, checkpoints and schemas."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from kitaru.adapters import Tool, ToolCall, ToolChoice
from kitaru.adapters.schema import rewrite
from kitaru.adapters.schema.answers import without_nulls
from kitaru.adapters.schema.google import from_google
from kitaru.errors import AnswerError, UsageError
from kitaru.runtime.calls.docstrings import described
from kitaru.runtime.calls.from_json import Reading, UnfitError, kind_of
from kitaru.runtime.calls.shapes import Shape, shape_of
from kitaru.runtime.code.objects import durable_function

if TYPE_CHECKING:
    from kitaru.runtime.calls.reply import ToolCall as Answered

ToolSource: TypeAlias = "Callable[..., object] | Tool | Mapping[str, object]"
"""A function, a checkpoint, a schema in a provider's form, or a tool in neutral terms."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NO_PARAMETERS: Final[dict[str, object]] = {"type": "object", "properties": {}}
_SCHEMAS: Final = ("parameters", "input_schema", "inputSchema")
_READ: Final = frozenset({"type", "function", "name", "description", "strict", *_SCHEMAS})
_OF_CLIENTS: Final = frozenset({"title", "annotations", "outputSchema", "icons", "execution", "_meta", "meta"})
# Fields that some API has; `fit` says where one is left out.
_PASSED_ON: Final = frozenset(
    {
        "allowed_callers", "behavior", "cache_control", "defer_loading", "eager_input_streaming", "input_examples",
        "output_schema", "response", "responseJsonSchema", "response_json_schema",
    }
)  # fmt: skip
_FORM: Final = 'Write {"name": ..., "description": ..., "parameters": {a JSON schema}}'
_OWN_TOOLS: Final = "tools of the provider's own go through extra=."
_WORDS: Final[Mapping[str, ToolChoice]] = {
    "auto": ToolChoice("auto"),
    "none": ToolChoice("none"),
    "required": ToolChoice("required"),
    "any": ToolChoice("required"),
}


class _Signature(msgspec.Struct, frozen=True):
    """A function as a tool: what the model is told, and how its arguments are read."""

    tool: Tool
    parameters: dict[str, Shape]
    required: frozenset[str]


def tool_of(source: ToolSource) -> Tool:
    """Return a tool in neutral terms.

    Args:
        source: A function (plain or async) or a checkpoint, whose name, docstring and annotations say what the model is
            told; a `Tool`; or a mapping as OpenAI has it (`{type, function: {...}}`), bare (`{name, description,
            parameters}`), as Anthropic has it (`{name, description, input_schema}`), or the Model Context Protocol
            (`inputSchema`).

    Raises:
        UsageError: It cannot be a tool; names the function and the parameter.
    """
    if isinstance(source, Tool):
        return _checked(source)
    if isinstance(source, Mapping):
        return _checked(_from_mapping(source))
    return _signature(source).tool


def tools_of(sources: Sequence[ToolSource] | None) -> tuple[Tool, ...]:
    """Return tools in neutral terms, in their order.

    Raises:
        UsageError: One cannot be a tool, or two have one name.
    """
    if sources is None:
        return ()
    if isinstance(sources, str | Mapping) or not isinstance(sources, Sequence):
        raise UsageError("tools is a list of functions, checkpoints or schemas", hint="Such as tools=[search].")
    tools: dict[str, Tool] = {}
    for source in sources:
        tool = tool_of(source)
        if tool.name in tools:
            raise UsageError(
                f"two tools are called {tool.name!r}", hint="A model calls a tool by its name: rename one."
            )
        tools[tool.name] = tool
    return tuple(tools.values())


def choice_of(choice: object, tools: Sequence[Tool]) -> ToolChoice | None:
    """Return which tool the model may or must call, in neutral terms; None where that is left to it.

    Args:
        choice: "auto", "none", "required" (or "any"), a tool's name, the function itself, a list of these two, one of
            which has to be called, or a mapping as OpenAI (`allowed_tools` too) or Anthropic has it.
        tools: The call's tools.

    Raises:
        UsageError: It is nothing of the kind, or names no tool of the call.
    """
    if choice is None:
        return None
    if isinstance(choice, ToolChoice):
        name = choice.name
        found = choice
    elif isinstance(choice, str):
        if choice in _WORDS:
            return _required_of(_WORDS[choice], tools)
        name, found = choice, ToolChoice("tool", choice)
    elif isinstance(choice, Mapping):
        found = _choice_from_mapping(choice)
        name = found.name
    elif callable(choice):
        name = tool_of(choice).name
        found = ToolChoice("tool", name)
    elif isinstance(choice, Sequence) and not isinstance(choice, bytes):
        names = [one if isinstance(one, str) else tool_of(one).name for one in choice]
        name, found = "", ToolChoice("required", names=tuple(dict.fromkeys(names)))
        if not names:
            raise UsageError("tool_choice names no tool", hint=_CHOICES)
    else:
        raise UsageError(f"tool_choice cannot be a {type(choice).__name__}", hint=_CHOICES)
    if found.mode != "tool" and not found.names:
        return _required_of(found, tools)
    known = [tool.name for tool in tools]
    name = next((one for one in found.names or (name,) if one not in known), "")
    if name:
        listed = ", ".join(known) or "none at all"
        raise UsageError(f"tool_choice names {name!r}, which is none of the call's tools: {listed}", hint=_CHOICES)
    return found


_CHOICES: Final = 'Pass "auto", "none", "required", one of the tools, or a list of some.'


def arguments_for(source: ToolSource, call: ToolCall | Answered) -> dict[str, Any]:
    """Return the arguments of a model's call as the tool's function takes them, by keyword.

    An optional argument that came as null, as a strict schema has it, is left out, so that its default counts.

    Args:
        source: The tool, as it was given to `tools_of`.
        call: What the model wrote, as an adapter or a reply has it.

    Raises:
        AnswerError: The arguments are not JSON or do not fit. The message may be sent back to the model.
        UsageError: The source cannot be a tool.
    """
    try:
        found = msgspec.json.decode(call.arguments.strip() or "{}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise AnswerError(f"the arguments of {call.name} are not JSON: {error}") from None
    if not isinstance(found, dict):
        raise AnswerError(f"the arguments of {call.name} are a JSON {kind_of(found)}, not an object")
    if isinstance(source, Tool | Mapping):
        return _as_told(tool_of(source), call, found)
    signature = _signature(source)
    plain: Any = without_nulls(found, signature.tool.parameters)
    problems = [f"{name} is unknown" for name in plain if name not in signature.parameters]
    problems += [f"{name} is missing" for name in signature.parameters if name in signature.required - plain.keys()]
    arguments: dict[str, Any] = {}
    for name, shape in signature.parameters.items():
        if name in plain:
            try:
                arguments[name] = _read(shape, plain[name], name)
            except UnfitError as error:
                problems += error.problems
    if problems:
        raise AnswerError(f"the arguments of {call.name} do not fit: {'; '.join(problems[:5])}")
    return arguments


def _read(shape: Shape, value: object, name: str) -> object:
    try:
        return shape.read(value, name, Reading(lax=False))
    except UnfitError as strict:
        try:
            return shape.read(value, name, Reading(lax=True))
        except UnfitError:
            raise strict from None


def _as_told(tool: Tool, call: ToolCall | Answered, found: dict[str, object]) -> dict[str, Any]:
    """Of a tool that is only a schema, no more is known than which arguments it needs and has."""
    properties, required = tool.parameters.get("properties"), tool.parameters.get("required")
    plain: Any = without_nulls(found, tool.parameters)
    missing = [str(name) for name in required if name not in plain] if isinstance(required, list) else []
    closed = tool.parameters.get("additionalProperties") is False and isinstance(properties, dict)
    unknown = [name for name in plain if isinstance(properties, dict) and closed and name not in properties]
    problems = [f"{name} is missing" for name in missing] + [f"{name} is unknown" for name in unknown]
    if problems:
        raise AnswerError(f"the arguments of {call.name} do not fit: {'; '.join(problems)}")
    return dict(plain)


# ---- functions ------------------------------------------------------------------------------------------------------


def _signature(source: object) -> _Signature:
    inner = durable_function(source)
    if inner is None and not (inspect.isroutine(source) or isinstance(source, functools.partial)):
        if not callable(source) or isinstance(source, type):
            kind = f"the class {source.__name__}" if isinstance(source, type) else f"a {type(source).__name__}"
            raise UsageError(f"{kind} cannot be a tool", hint="Pass a function, a checkpoint or a schema.")
        return _function_tool(type(source).__call__, 1, type(source).__name__, ())
    bound = len(getattr(source, "_bound", ())) if inner is not None else 0
    name = getattr(source, "name", "") if inner is not None else ""
    work = getattr(source, "_work", None)
    ignored = getattr(getattr(work, "options", None), "ignore", ())
    function: Any = inner if inner is not None else source
    try:
        return _function_tool(function, bound, str(name), tuple(ignored))
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _function_tool.__wrapped__(function, bound, str(name), tuple(ignored))


@functools.lru_cache(maxsize=256)
def _function_tool(function: Callable[..., object], bound: int, name: str, ignored: tuple[str, ...]) -> _Signature:
    """Read a function's signature.

    Args:
        function: The function.
        bound: How many of its first parameters are given already.
        name: The tool's name, where it is not the function's own.
        ignored: Parameters that are not the model's to give.
    """
    name = name or getattr(function, "__name__", "")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"a tool cannot be called {name or 'nothing'!r}",
            hint="Names are letters, digits, _ and -, at most 64; give a lambda or a partial a function of its own.",
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise UsageError(f"{name}() has no signature to read", hint="Wrap it in a function with annotations.") from None
    hints = _hints(function, name)
    about, told = described(inspect.getdoc(function))
    properties: dict[str, object] = {}
    defs: dict[str, object] = {}
    shapes: dict[str, Shape] = {}
    required: list[str] = []
    for parameter in list(signature.parameters.values())[bound:]:
        needed = parameter.default is inspect.Parameter.empty
        if parameter.name in ignored:
            if needed:
                raise UsageError(
                    f"{name}(): {parameter.name} is not recorded, and a model cannot give it",
                    hint="Give it a default, or take it from elsewhere.",
                )
            continue
        _check(name, parameter, hints)
        shape = shape_of(hints[parameter.name], f"{name}(): {parameter.name}")
        shapes[parameter.name] = shape
        schema = dict(shape.schema)
        for key, part in dict(_object(schema.pop("$defs", {}))).items():
            if defs.setdefault(key, part) != part:
                raise UsageError(
                    f"{name}(): two different types of its parameters are called {key}", hint="Rename one of them."
                )
        if "description" not in schema or parameter.name in told:
            schema |= {"description": told[parameter.name]} if parameter.name in told else {}
        default = parameter.default
        if not needed and (default is None or isinstance(default, str | int | float | bool)):
            schema["default"] = msgspec.to_builtins(default)
        properties[parameter.name] = schema
        if needed:
            required.append(parameter.name)
    parameters: dict[str, object] = {"type": "object", "properties": properties, "required": required}
    if defs:
        parameters["$defs"] = defs
    strict = rewrite(parameters, "closed", wrap=False).strict
    return _Signature(Tool(name, about, parameters, strict), shapes, frozenset(required))


def _check(name: str, parameter: inspect.Parameter, hints: Mapping[str, object]) -> None:
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        stars = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else "**"
        raise UsageError(
            f"{name}() takes {stars}{parameter.name}: a model has to be told each parameter",
            hint="Name the parameters, or take a list.",
        )
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise UsageError(
            f"{name}(): {parameter.name} is positional only, and a model gives arguments by name",
            hint="Drop the / from its signature.",
        )
    if parameter.name not in hints:
        raise UsageError(
            f"{name}(): {parameter.name} has no annotation, so that a model cannot be told what it is",
            hint=f"Such as {parameter.name}: str.",
        )


def _hints(function: Any, name: str) -> dict[str, Any]:
    import typing

    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    try:
        return typing.get_type_hints(inspect.unwrap(inner), include_extras=True)
    except (NameError, TypeError) as error:
        raise UsageError(
            f"{name}(): its annotations cannot be resolved: {error}", hint="Define what they name at the module's top."
        ) from None


# ---- mappings -------------------------------------------------------------------------------------------------------


def _from_mapping(source: Mapping[str, object]) -> Tool:
    inner = source.get("function")
    stated: Mapping[str, object] = inner if isinstance(inner, Mapping) else source
    kind = source.get("type", "function")
    # Anthropic calls a function custom; OpenAI's custom tools take a text instead of arguments.
    known = kind == "function" or (kind == "custom" and isinstance(source.get("input_schema"), Mapping))
    if not known or not isinstance(stated.get("name"), str):
        raise UsageError(
            "a tool has no name" if known else f"a tool of type {kind!r} is not known", hint=f"{_FORM}; {_OWN_TOOLS}"
        )
    name, about = str(stated["name"]), stated.get("description") or ""
    parameters = next((stated[key] for key in _SCHEMAS if stated.get(key)), _NO_PARAMETERS)
    more = {str(key): value for key, value in {**source, **stated}.items() if key not in _READ and value is not None}
    if "inputSchema" in stated:  # the Model Context Protocol's: the others of its fields are for its client
        more = {key: value for key, value in more.items() if key not in _OF_CLIENTS}
    for key in more.keys() - _PASSED_ON:
        close = difflib.get_close_matches(key, ("description", *_SCHEMAS, "strict", *_PASSED_ON), n=1)
        meant = f"Did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"the tool {name!r} has {key[:40]!r}, which means nothing", hint=f"{meant}{_FORM}.")
    if not isinstance(parameters, Mapping) or not isinstance(about, str):
        raise UsageError(f"the tool {name!r} has no JSON schema as its parameters, or no text as its description")
    strict = bool(stated.get("strict", source.get("strict", False)))
    return Tool(name, about, dict(parameters), strict, more)


def _checked(tool: Tool) -> Tool:
    if not _NAME.fullmatch(tool.name):
        raise UsageError(
            f"a tool cannot be called {tool.name[:80]!r}", hint="Names are letters, digits, _ and -, at most 64."
        )
    tool = msgspec.structs.replace(tool, parameters=from_google(tool.parameters))
    if tool.parameters.get("type", "object") != "object":
        raise UsageError(
            f"the parameters of {tool.name} are a JSON {tool.parameters.get('type')}, not an object",
            hint='Write {"type": "object", "properties": {...}}.',
        )
    return tool


def _choice_from_mapping(choice: Mapping[str, object]) -> ToolChoice:
    kind, inner = choice.get("type"), choice.get("function")
    if kind == "allowed_tools":
        return _allowed_tools(choice)
    if more := sorted(str(key)[:40] for key in choice.keys() - {"type", "name", "function"} if choice[key]):
        raise UsageError(
            f"tool_choice has {', '.join(map(repr, more))}, which is not known here",
            hint="Fields of one provider's own go through extra=, such as extra={'anthropic': {'tool_choice': {...}}}.",
        )
    name = inner.get("name") if isinstance(inner, Mapping) else choice.get("name")
    if kind in ("function", "tool") and isinstance(name, str):
        return ToolChoice("tool", name)
    if isinstance(kind, str) and kind in _WORDS:
        return _WORDS[kind]
    raise UsageError(f"tool_choice of type {str(kind)[:40]!r} is not known", hint=_CHOICES)


def _allowed_tools(choice: Mapping[str, object]) -> ToolChoice:
    stated = choice.get("allowed_tools", choice)
    mode, listed = (stated.get("mode"), stated.get("tools")) if isinstance(stated, Mapping) else (None, None)
    names = [
        _object(one.get("function", one)).get("name")
        for one in (listed if isinstance(listed, Sequence) else ())
        if isinstance(one, Mapping)
    ]
    if mode not in ("auto", "required") or not names or not all(isinstance(name, str) for name in names):
        raise UsageError(
            "tool_choice's allowed_tools have a mode, auto or required, and a list of functions", hint=_CHOICES
        )
    return ToolChoice(mode, names=tuple(str(name) for name in names))


def _required_of(choice: ToolChoice, tools: Sequence[Tool]) -> ToolChoice:
    if choice.mode == "required" and not tools:
        raise UsageError("tool_choice asks for a tool, but the call has none", hint="Pass tools=.")
    return choice


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
