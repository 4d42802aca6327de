"""Values made from a JSON schema, the same for the same words, and the ways in which a model gets them wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle
from typing import Final, Literal, TypeAlias

from kitaru.adapters.standin.asked import Object, child, is_object, string, within

Slip: TypeAlias = Literal["missing-key", "wrong-type"]

_DEEPEST: Final = 24
_FORMATS: Final = {
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "time": "03:04:05",
    "duration": "PT5M",
    "email": "someone@example.org",
    "uri": "https://example.org/page",
    "uuid": "5f1d3c52-8a0e-4b7d-9c64-2f3b1a6e7d80",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "hostname": "example.org",
    "binary": "AAECAw==",
    "byte": "AAECAw==",
}


def sample(schema: Object, words: Sequence[str]) -> object:
    """Return a value that fits a schema.

    Args:
        schema: Keywords it does not know are left aside; a `pattern` is not followed.
        words: What texts are made of, one after the other; not empty.
    """
    source = cycle(words)

    def made(here: object, depth: int) -> object:
        if not is_object(here) or depth > _DEEPEST:
            return None if depth > _DEEPEST else next(source)
        if (target := _target(schema, here)) is not here:
            return made(target, depth + 1)
        if "const" in here:
            return here["const"]
        if isinstance(options := here.get("enum"), list) and options:
            return options[0]
        for keyword in ("anyOf", "oneOf"):
            if isinstance(choices := here.get(keyword), list) and choices:
                return made(_plainest(schema, choices, depth), depth + 1)
        if isinstance(parts := here.get("allOf"), list) and parts:
            return made(_merged(schema, here, parts), depth + 1)
        match _kind(here):
            case "object":
                return _object(here, depth)
            case "array":
                fixed = here.get("prefixItems")
                items = [made(each, depth + 1) for each in fixed] if isinstance(fixed, list) else []
                least = here.get("minItems", 0 if items or depth > _DEEPEST // 2 else 2)
                missing = (least if isinstance(least, int) else 1) - len(items)
                most = here.get("maxItems")
                items += [made(here.get("items", {}), depth + 1) for _ in range(max(0, missing))]
                return items[:most] if isinstance(most, int) else items
            case "integer" | "number" as kind:
                return _number(here, whole=kind == "integer")
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return _text(here, next(source))

    def _object(here: Object, depth: int) -> Object:
        named = child(here, "properties")
        required = here.get("required")
        wanted = required if isinstance(required, list) else []
        # Deep down only what has to be there, so that a type that holds itself comes to an end.
        found = {name: made(each, depth + 1) for name, each in named.items() if depth < 4 or name in wanted}
        found |= {name: next(source) for name in wanted if isinstance(name, str) and name not in found}
        more = here.get("additionalProperties")
        if not found and is_object(more):
            found = {next(source): made(more, depth + 1)}
        return found

    return made(schema, 0)


def slipped(value: object, schema: Object | None, slip: Slip) -> object:
    """Return a value that does not fit any more: a key of the outermost object lost, or of another type."""
    if not (is_object(value) and value):
        return {} if slip == "missing-key" else {"value": value}
    required = within(schema, "required")
    name = next((each for each in required if each in value), next(iter(value))) if isinstance(required, list) else None
    name = name if isinstance(name, str) else next(iter(value))
    if slip == "missing-key":
        return {key: each for key, each in value.items() if key != name}
    wrong: object = {"unexpected": True} if not is_object(value[name]) else ["unexpected"]
    return value | {name: wrong}


def _target(root: Object, here: Object) -> object:
    reference = here.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#"):
        return here
    found: object = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            found = within(found, step.replace("~1", "/").replace("~0", "~"))
    return found


def _plainest(root: Object, choices: Sequence[object], depth: int) -> object:
    kinds = [(_kind(found) if is_object(found := _resolved(root, each)) else "", each) for each in choices]
    if depth > 3:
        # An optional part of a type that holds itself ends here.
        for kind, each in kinds:
            if kind == "null":
                return each
    return next((each for kind, each in kinds if kind != "null"), choices[0])


def _resolved(root: Object, here: object) -> object:
    return _target(root, here) if is_object(here) else here


def _merged(root: Object, here: Object, parts: Sequence[object]) -> Object:
    whole: Object = {key: value for key, value in here.items() if key != "allOf"}
    for part in parts:
        found = _resolved(root, part)
        if is_object(found):
            properties = child(whole, "properties") | child(found, "properties")
            whole = whole | found | ({"properties": properties} if properties else {})
    return whole


def _kind(here: Object) -> str:
    kind = here.get("type")
    if isinstance(kind, list):
        kind = next((each for each in kind if string(each).lower() != "null"), "null")
    if isinstance(kind, str):
        return kind.lower()  # google's own schemas write theirs in capitals
    if "properties" in here or "additionalProperties" in here:
        return "object"
    return "array" if "items" in here or "prefixItems" in here else ""


def _number(here: Object, *, whole: bool) -> int | float:
    bounds = {key: each for key in _BOUNDS if isinstance(each := here.get(key), (int, float))}
    low = bounds.get("minimum", bounds.get("exclusiveMinimum", -1) + 1 if "exclusiveMinimum" in bounds else None)
    high = bounds.get("maximum", bounds.get("exclusiveMaximum", 1) - 1 if "exclusiveMaximum" in bounds else None)
    value: int | float = 3 if whole else 1.5
    if low is not None and value < low:
        value = low
    if high is not None and value > high:
        value = high
    step = bounds.get("multipleOf")
    if step:
        value = step * -(-value // step)
    return int(value) if whole else value


_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def _text(here: Object, word: str) -> str:
    form = here.get("format")
    if isinstance(form, str) and form in _FORMATS:
        return _FORMATS[form]
    if isinstance(pattern := here.get("pattern"), str) and re.fullmatch(r"\^\[.*\]\{\d+\}\$", pattern):
        return "1" * int(pattern.rpartition("{")[2].rstrip("}$"))
    least, most = here.get("minLength"), here.get("maxLength")
    if isinstance(least, int) and len(word) < least:
        word = (word * least)[:least]
    return word[:most] if isinstance(most, int) else word
