"""How two recorded values differ, for people: a few paths, each with what was there and what is."""

from __future__ import annotations

from typing import Final

MOST: Final = 5
LONGEST: Final = 60


def differences(was: object, now: object, *, most: int = MOST, longest: int = LONGEST) -> tuple[str, ...]:
    """Name where two values in their shown form (see `codec.display`) differ.

    Args:
        was: The earlier one.
        now: The later one.
        most: How many to name; a last entry says how many more there are.
        longest: Characters of a value to show.

    Returns:
        Texts like `notes[2].title: 'a' → 'b'`; empty where the values are equal.
    """
    found: list[str] = []
    _compare("", was, now, found, longest)
    if len(found) > most:
        return (*found[:most], f"and {len(found) - most} more")
    return tuple(found)


def _compare(path: str, was: object, now: object, found: list[str], longest: int) -> None:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in [*was, *(name for name in now if name not in was)]:
            inner = f"{path}.{name}" if path else str(name)
            if name not in now:
                found.append(f"{inner}: {_short(was[name], longest)} is gone")
            elif name not in was:
                found.append(f"{inner}: {_short(now[name], longest)} is new")
            else:
                _compare(inner, was[name], now[name], found, longest)
    elif isinstance(was, list) and isinstance(now, list):
        for number in range(max(len(was), len(now))):
            inner = f"{path}[{number}]"
            if number >= len(now):
                found.append(f"{inner}: {_short(was[number], longest)} is gone")
            elif number >= len(was):
                found.append(f"{inner}: {_short(now[number], longest)} is new")
            else:
                _compare(inner, was[number], now[number], found, longest)
    elif type(was) is not type(now) or was != now:
        found.append((f"{path}: " if path else "") + _both(was, now, longest))


def _both(was: object, now: object, longest: int) -> str:
    if isinstance(was, str) and isinstance(now, str) and max(len(was), len(now)) > longest:
        # Two long texts are told apart by where they part.
        same = next((n for n, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
        start = max(0, same - longest // 4)
        lead = "…" if start else ""
        return f"{lead}{_short(was[start:], longest)} → {lead}{_short(now[start:], longest)}"
    return f"{_short(was, longest)} → {_short(now, longest)}"


def _short(value: object, longest: int) -> str:
    text = repr(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"
