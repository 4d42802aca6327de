"""What a docstring says of a function or class, and of its parameters or fields."""

from __future__ import annotations

import inspect
import re
from typing import Final

_PARAMETERS: Final = frozenset({"args", "arguments", "parameters", "params", "attributes", "fields", "keyword args"})
_OTHERS: Final = frozenset(
    {"returns", "return", "raises", "yields", "example", "examples", "note", "notes", "warns", "warnings", "see also"}
)
# Google: `name (type): text`. Sphinx: `:param type name: text`. NumPy: `name : type`, its text below.
_GOOGLE: Final = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")
_SPHINX: Final = re.compile(r":(?:param|parameter|arg|argument|attr|ivar)\s+(?:[^:]*\s)?\*{0,2}(\w+):\s*(.*)")
_SPHINX_OTHER: Final = re.compile(r":(?:returns?|rtype|raises?|type)\b[^:]*:")
_NUMPY: Final = re.compile(r"\*{0,2}(\w+)(?:\s*:.*)?$")


def described(doc: str | None) -> tuple[str, dict[str, str]]:
    """Return what a docstring says of the whole, and of each parameter or field by name.

    Args:
        doc: In Google's, NumPy's or Sphinx's style.
    """
    lines = inspect.cleandoc(doc or "").splitlines()
    summary: list[str] = []
    found: dict[str, list[str]] = {}
    section = ""
    name = ""
    numpy = False
    for at, line in enumerate(lines):
        stripped = line.strip()
        head = stripped.removesuffix(":").lower()
        underlined = at + 1 < len(lines) and len(rule := lines[at + 1].strip()) > 2 and not rule.strip("-")
        indented = line[:1].isspace()
        if not indented and head in _PARAMETERS | _OTHERS and (stripped.endswith(":") or underlined):
            section, numpy, name = head, underlined, ""
        elif match := _SPHINX.match(stripped):
            section, name = "params", match[1]
            found[name] = [match[2]]
        elif _SPHINX_OTHER.match(stripped):
            section = "returns"
        elif not section:
            summary.append(line)
        elif section not in _PARAMETERS or (stripped and not stripped.strip("-")):
            continue
        elif not stripped:
            name = "" if not numpy else name
        elif numpy:
            if not indented and (match := _NUMPY.match(stripped)):
                name = match[1]
                found[name] = []
            elif name:
                found[name].append(stripped)
        elif not indented and name == "":
            section = "prose"
        elif (match := _GOOGLE.match(stripped)) and _depth(line) <= _depth_of_entries(lines, at, name, found):
            name = match[1]
            found[name] = [match[2]]
        elif name:
            found[name].append(stripped)
    told = {name: " ".join(part for part in parts if part) for name, parts in found.items()}
    return "\n".join(summary).strip(), {name: text for name, text in told.items() if text}


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _depth_of_entries(lines: list[str], at: int, name: str, found: dict[str, list[str]]) -> int:
    """How deep the entries of the section at hand stand: a continuation line stands deeper."""
    if not name or name not in found:
        return _depth(lines[at])
    for before in range(at - 1, -1, -1):
        if lines[before].strip().lstrip("*").startswith(name):
            return _depth(lines[before])
    return _depth(lines[at])
