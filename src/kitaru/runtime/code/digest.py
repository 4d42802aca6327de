"""The code digest: what a checkpoint's outcome depends on in the project's source.

A walk over live objects, beginning at the function: its body, its defaults and closure, then every function, class and
constant of the project that it names, and what those name. What an installed package holds is taken as it is. The
digest covers normal forms, values and who names whom, but neither modules' names nor files, so moving code about
changes nothing. The source of all of it is kept beside, for a Python version that would parse it differently.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from kitaru.runtime.code.dependencies import Walk
from kitaru.runtime.code.graph import Entry
from kitaru.runtime.code.masked import same_text
from kitaru.runtime.code.objects import name_of
from kitaru.runtime.code.syntax import normal_of

_FORM = 1


class Code(NamedTuple):
    """What an outcome depends on in the project's source.

    Attributes:
        digest: 16 bytes; empty where some of it has no source, which counts as changed.
        source: The same as text, to be kept: see `same_code` and `what_changed`.
        names: What was covered, dotted names, the function itself first.
    """

    digest: bytes
    source: bytes
    names: tuple[str, ...]


def code_of(function: Callable[..., object], *, uses: Sequence[object] = ()) -> Code:
    """Find what a function's outcome depends on. Never raises, and imports nothing of the project.

    Args:
        function: The user's function; a bound method says of which class `self` is.
        uses: Further functions, classes, modules or plain values that it depends on.
    """
    walk = Walk()
    try:
        walk.start(function, uses)
    except Exception:  # any attribute of a user's object may raise anything
        return Code(b"", b"", (name_of(function),))
    entries = walk.entries
    whole = not any(entry.kind == "missing" for entry in entries)
    meaning = json.dumps([_FORM, [[entry.kind, entry.normal, entry.uses] for entry in entries]])
    rows = [[entry.name, entry.kind, entry.texts, entry.uses] for entry in entries]
    source = json.dumps({"form": _FORM, "code": rows}, separators=(",", ":")).encode()
    names = tuple(dict.fromkeys(entry.name for entry in entries if entry.name))
    return Code(blake2b(meaning.encode(), digest_size=16).digest() if whole else b"", source, names)


def same_code(recorded: bytes, current: bytes) -> bool:
    """Compare two `Code.source` by parsing both under this Python: for digests made by another version.

    Returns:
        Whether they are the same code. False where either has a part without source, or cannot be read.
    """
    one, other = _entries(recorded), _entries(current)
    if one is None or other is None or len(one) != len(other):
        return False
    return all(
        mine.kind == its.kind != "missing" and mine.uses == its.uses and _same_text(mine, its)
        for mine, its in zip(one, other, strict=True)
    )


def what_changed(recorded: bytes, current: bytes) -> list[str]:
    """Name what differs between two `Code.source`: changed, added and removed, sorted.

    Args:
        recorded: The earlier source.
        current: The later one.

    Returns:
        Dotted names; empty where the code is the same. Code that only moved to another module is not named.
    """
    one, other = _entries(recorded), _entries(current)
    if not one or not other:
        names = {entry.name for entry in (one or other or ()) if entry.name}
        return sorted(names) if bool(one) != bool(other) else []
    before, after = _numbered(one), _numbered(other)
    removed = [key for key in before if key not in after]
    added = [key for key in after if key not in before]
    for key in list(removed):
        for moved in added:
            if before[key].short == after[moved].short and _same_entry(before[key], after[moved], one, other):
                removed.remove(key)
                added.remove(moved)
                break
    changed = [key for key in before if key in after and not _same_entry(before[key], after[key], one, other)]
    edited = [key for key in changed if not _same_text(before[key], after[key]) or before[key].kind == "missing"]
    # Whoever names something else now is of interest only where that is the whole change.
    names = {key[0] for key in (*removed, *added, *edited) if key[0]} or {key[0] for key in changed if key[0]}
    if not names and changed:
        names = {next((entry.name for entry in other if entry.name), "")}
    return sorted(names)


def _entries(source: bytes) -> list[Entry] | None:
    try:
        data = json.loads(source)
        if data["form"] != _FORM:
            return None
        return [
            Entry(str(name), str(kind), [str(text) for text in texts], "", [(str(ref), to) for ref, to in uses])
            for name, kind, texts, uses in data["code"]
        ]
    except (ValueError, TypeError, KeyError):
        return None


def _numbered(entries: list[Entry]) -> dict[tuple[str, int], Entry]:
    """Entries by name; several of one name (lambdas, closures) are told apart by their order."""
    seen: dict[str, int] = {}
    found: dict[tuple[str, int], Entry] = {}
    for entry in entries:
        count = seen[entry.name] = seen.get(entry.name, 0) + 1
        found[entry.name, count] = entry
    return found


def _same_entry(mine: Entry, its: Entry, one: list[Entry], other: list[Entry]) -> bool:
    if mine.kind != its.kind or mine.kind == "missing" or not _same_text(mine, its):
        return False
    return _named_uses(mine, one) == _named_uses(its, other)


def _named_uses(entry: Entry, entries: list[Entry]) -> list[tuple[str, str]]:
    """Whom an entry names, by short names: numbers shift when anything is added."""
    return [(ref, entries[to].short if isinstance(to, int) else to) for ref, to in entry.uses]


def _same_text(mine: Entry, its: Entry) -> bool:
    if mine.texts == its.texts:
        return True
    if len(mine.texts) != len(its.texts):
        return False
    if all(map(same_text, mine.texts, its.texts)):
        return True
    if mine.kind not in {"code", "module"}:
        return False
    try:
        return all(
            normal_of(a, module=mine.kind == "module") == normal_of(b, module=mine.kind == "module")
            for a, b in zip(mine.texts, its.texts, strict=True)
        )
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
