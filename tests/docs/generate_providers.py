"""The tables of `docs/providers.md`, from what the code uses; `python -m tests.docs.generate_providers` writes them."""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import msgspec

from kitaru.adapters import (
    Endpoint,
    Message,
    ModelCall,
    Output,
    Provider,
    SecretStr,
    Settings,
    Tool,
    ToolChoice,
    adapter,
    providers,
)
from kitaru.adapters.anthropic import DEFAULT_MAX_TOKENS
from kitaru.adapters.call import Effort
from kitaru.adapters.provider import ADVISORY, Binding
from kitaru.errors import UsageError

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENT: Final = ROOT / "docs" / "providers.md"
BEGIN: Final = "<!-- From here to the end of the tables: python -m tests.docs.generate_providers -->"
END: Final = "<!-- The tables end here. -->"

EFFORTS: Final[tuple[Effort | int, ...]] = (*get_args(Effort), 2_048)
NONE: Final = "–"
WIDTH: Final = 120

# Where a wire format treats models differently: one of each kind, for the table of efforts. Others get `m`.
KINDS: Final[Mapping[str, Sequence[str]]] = {
    "anthropic": ("claude-opus-4-7", "claude-sonnet-4-5"),
    "google": ("gemini-3-pro-preview", "gemini-2.5-flash"),
    "cohere": ("command-a-plus",),
    "ollama": ("qwen3", "gpt-oss"),
    "openai-responses": ("gpt-5",),
}

_HI: Final = (Message("user", "hi"),)
_TOOL: Final = Tool("look", "Looks", {"type": "object", "properties": {}})
_SCHEMA: Final[dict[str, object]] = {
    "type": "object",
    "properties": {},
    "required": [],
    "additionalProperties": False,
}


def document(text: str) -> str:
    """The document with its tables made anew.

    Raises:
        ValueError: It has lost one of the two lines between which they stand.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has lost its line {BEGIN if not begin else END!r}")
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def tables() -> str:
    """All tables, each below its heading."""
    rows = providers()
    parts: list[str] = []
    for title, words, make in SECTIONS:
        said = textwrap.fill(" ".join(words.split()), WIDTH)
        parts += [f"## {title}\n", *([f"{said}\n"] if said else []), make(rows)]
    return "\n".join(parts)


# ---- names ----------------------------------------------------------------------------------------------------------


def _names(rows: Sequence[Provider]) -> str:
    def address(row: Provider) -> str:
        # A host that never resolves stands for: nothing is sent.
        return NONE if row.base_url is None or ".invalid" in row.base_url else _code(row.base_url)

    return _table(
        ["provider", "what it is", "address", "variables of its key", "variables of its address"],
        [
            [
                ", ".join(_code(f"{name}/") for name in (row.name, *row.aliases)),
                f"[{row.title}]({row.docs})" if row.docs else row.title,
                address(row),
                _codes(row.key_env) + ("" if row.key_required or not row.key_env else " (not needed)"),
                _codes(row.base_url_env),
            ]
            for row in rows
        ],
    )


def _headers(rows: Sequence[Provider]) -> str:
    return _table(
        ["provider", "variable", "header"],
        [[row.name, _code(name), _code(header)] for row in rows for name, header in row.header_env]
        + [[row.name, _code(name), "`Authorization: Bearer`"] for row in rows for name in row.bearer_env],
    )


# ---- what they have -------------------------------------------------------------------------------------------------


def _advisory(rows: Sequence[Provider]) -> str:
    return _table(
        ["provider", *(_code(one) for one in ADVISORY)],
        [[row.name, *(_mark(one in row.capabilities.features) for one in ADVISORY)] for row in rows],
    )


def _binding(rows: Sequence[Provider]) -> str:
    def cell(row: Provider, feature: str) -> str:
        has = row.capabilities
        if feature not in has.features:
            return NONE
        match feature:
            case "tool_choice":
                return ", ".join(sorted(has.tool_choices)) or "auto only"
            case "stop" if has.most_stops is not None:
                return f"≤ {has.most_stops}"
            case "json_schema":
                return has.schema_dialect
            case _:
                return "✓"

    columns = get_args(Binding)
    return _table(
        ["provider", *(_code(one) for one in columns)],
        [[row.name, *(cell(row, one) for one in columns)] for row in rows],
    )


def _lacking(rows: Sequence[Provider]) -> str:
    return _table(
        ["provider", "models", "lack"],
        [
            [row.name, _codes(lacks.models), _codes(sorted(lacks.features))]
            for row in rows
            for lacks in row.capabilities.models
        ],
    )


def _habits(rows: Sequence[Provider]) -> str:
    def cells(row: Provider) -> list[str]:
        again = [*map(str, sorted(row.retryable)), "5xx", *map(_code, sorted(row.retryable_codes))]
        never = [*map(_code, sorted(row.quota_codes)), *(f"“{words}”" for words in row.quota_phrases)]
        return [
            NONE if row.stream_over is None else f"{row.stream_over:,} tokens",
            ", ".join(again),
            ", ".join(never) or NONE,
            "nothing" if row.free else "by the price table",
        ]

    return _table(
        ["provider", "streams underneath beyond", "tried again after", "never after", "costs"],
        _grouped((row.name, cells(row)) for row in rows),
    )


# ---- what is sent ---------------------------------------------------------------------------------------------------


def _fields(rows: Sequence[Provider]) -> str:
    """What each setting is called in the body: what appears there when it is set."""
    asked: Mapping[str, Callable[[ModelCall], ModelCall]] = {
        "max_tokens": lambda call: _with(call, max_tokens=1_000),
        "temperature": lambda call: _with(call, temperature=0.5),
        "top_p": lambda call: _with(call, top_p=0.5),
        "stop": lambda call: _with(call, stop=("END",)),
        "seed": lambda call: _with(call, seed=7),
        "context_length": lambda call: _with(call, context_length=4_096),
        "tools": lambda call: msgspec.structs.replace(call, tools=(_TOOL,)),
        "tool_choice": lambda call: msgspec.structs.replace(call, tools=(_TOOL,), tool_choice=ToolChoice("required")),
        "json_mode": lambda call: msgspec.structs.replace(call, output=Output("json")),
        "json_schema": lambda call: msgspec.structs.replace(call, output=Output("schema", _SCHEMA, strict=True)),
    }

    def cells(row: Provider) -> list[str]:
        has = row.capabilities.features
        plain = ModelCall(row.name, KINDS.get(row.name, ("m",))[-1], _HI)
        found = []
        for name, change in asked.items():
            known = name in has and (name != "tool_choice" or "required" in row.capabilities.tool_choices)
            before = msgspec.structs.replace(plain, tools=(_TOOL,)) if name == "tool_choice" else plain
            found.append(_said(name, _added(before, change(before))) if known else NONE)
        return found

    spoken = [row for row in rows if row.name != "test"]
    return _table(["provider", *map(_code, asked)], _grouped((row.name, cells(row)) for row in spoken))


def _efforts(rows: Sequence[Provider]) -> str:
    def cells(row: Provider, model: str) -> list[str]:
        plain = ModelCall(row.name, model, _HI)
        found = []
        for effort in EFFORTS:
            try:
                added = _added(plain, _with(plain, reasoning=effort))
            except UsageError:
                added = {}
            last = {".".join(place.split(".")[-2:]): value for place, value in added.items()}
            found.append("<br>".join(_code(f"{place}: {_json(value)}") for place, value in last.items()) or NONE)
        return found

    asked = [
        (f"{row.name} ({model})" if model != "m" else row.name, cells(row, model))
        for row in rows
        if "reasoning" in row.capabilities.features and row.name != "test"
        for model in KINDS.get(row.name, ("m",))
    ]
    return _table(
        ["provider", *(_code(str(one)) if isinstance(one, str) else f"{one:,} tokens" for one in EFFORTS)],
        _grouped(asked),
    )


def _added(before: ModelCall, after: ModelCall) -> dict[str, object]:
    """What the second call's body has that the first one's has not, by its path."""
    first, second = (dict(_leaves(_body(call))) for call in (before, after))
    return {place: value for place, value in second.items() if first.get(place, _body) != value}


def _body(call: ModelCall) -> object:
    spoken = adapter(call.provider)
    base = spoken.row.base_url or "https://host.openai.azure.com"
    request = spoken.build_request(call, Endpoint(base_url=base, api_key=SecretStr("key-of-the-test")))
    found: object = msgspec.json.decode(request.content)
    return found


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    # A schema is one value, and so is what says how to choose a tool.
    whole = path in ("tool_choice", "toolConfig")
    if isinstance(value, dict) and value and "properties" not in value and not whole:
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else key)
    else:
        yield path, value


def _said(name: str, added: Mapping[str, object]) -> str:
    match name:
        case "json_mode":
            return _codes(f"{place}: {_json(value)}" for place, value in added.items())
        case "json_schema":
            return _codes(place for place, value in added.items() if isinstance(value, dict))
        case _:
            return _codes(added)


def _with(call: ModelCall, **settings: Any) -> ModelCall:
    return msgspec.structs.replace(call, settings=msgspec.structs.replace(Settings(), **settings))


# ---- what SDKs send otherwise ---------------------------------------------------------------------------------------


def explained() -> dict[str, dict[str, str]]:
    """The differences to the official SDKs that their tests allow, with the reasons, by the test's name."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((ROOT / "tests" / "adapters" / "sdk").glob("test_*_sdk.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "EXPLAINED":
                assert node.value is not None
                name = path.stem.removeprefix("test_").removesuffix("_sdk").replace("_", "-")
                found[name] = ast.literal_eval(node.value)
    return found


def _differences(_: Sequence[Provider]) -> str:
    names = {"openai-chat": "openai"}
    return _table(
        ["SDK of", "what differs", "why"],
        [
            [names.get(name, name), _code(what), why]
            for name, reasons in explained().items()
            for what, why in reasons.items()
        ],
    )


SECTIONS: Final[tuple[tuple[str, str, Callable[[Sequence[Provider]], str]], ...]] = (
    ("Names, addresses, keys", "If several variables are set, the first one is used.", _names),
    ("Other variables", "", _headers),
    (
        "Best-effort settings",
        """If the provider lacks one, the call leaves it out, with a warning in the reply and in the log. With
        `strict=True` it raises an error.""",
        _advisory,
    ),
    (
        "Required settings",
        """
        If the provider lacks one, the call raises `UnsupportedError`, and nothing is sent. The exceptions are
        `json_mode` and `json_schema`: if the provider lacks one of them, the call uses the other one, or an instruction
        in the prompt. The column `json_schema` names the provider's form of a schema.""",
        _binding,
    ),
    (
        "Settings that models lack",
        """
        Kitaru knows these before a call. If a model refuses another best-effort setting with status 400, a second
        attempt and all later calls leave it out.""",
        _lacking,
    ),
    (
        "Request fields of the settings",
        f"""
        This table compares the request of each adapter with and without the setting. `max_tokens` includes the thinking
        of reasoning models. Anthropic requires it: a call without it sends {DEFAULT_MAX_TOKENS:,}, or more if its
        thinking has a budget. Other providers use their own limit.""",
        _fields,
    ),
    (
        "Request fields of `reasoning`",
        """The table shows the last two names of a field's path. A model in brackets is an example of its family. If an
        API lacks an effort, the call uses the nearest one.""",
        _efforts,
    ),
    (
        "Internal streams, retries, costs",
        """
        A call with a larger `max_tokens` than in the second column uses a stream internally, so that its connection is
        not idle for minutes. The third column has the statuses and codes that are retried; the fourth, those that are
        not. Calls to loopback addresses cost nothing where the price table has no price of the model.""",
        _habits,
    ),
    (
        "Differences to the official SDKs",
        "The tests compare the requests for the same call field by field. These differences are intended.",
        _differences,
    ),
)


# ---- tables ---------------------------------------------------------------------------------------------------------


def _grouped(rows: Iterable[tuple[str, list[str]]]) -> list[list[str]]:
    """Rows with the same cells become one, under all their names."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, cells in rows:
        groups.setdefault(tuple(cells), []).append(name)
    return [[", ".join(names), *cells] for cells, names in groups.items()]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _mark(has: bool) -> str:
    return "✓" if has else NONE


def _code(text: str) -> str:
    return f"`{text}`"


def _codes(texts: Iterable[str]) -> str:
    return ", ".join(map(_code, texts)) or NONE


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def main() -> int:
    """Write the document, where it has changed."""
    before = DOCUMENT.read_text(encoding="utf-8")
    after = document(before)
    if after != before:
        DOCUMENT.write_text(after, encoding="utf-8")
    print(f"{DOCUMENT.name}: {'unchanged' if after == before else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
