"""The least value that fits a JSON schema."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from kitaru.adapters.fields import Object, is_object, object_at, objects_in

# A schema that refers to itself is followed so far; below, what is not required is left out.
_DEEP: Final = 6
_DEEPEST: Final = 24

_FORMATS: Final[Mapping[str, str]] = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "duration": "PT0S",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "email": "echo@example.com",
    "hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uri": "https://example.com",
}


def fitting(schema: Object, text: str) -> object:
    """Return a value that fits a schema.

    Args:
        schema: A JSON schema. `pattern`, `not` and conditions between fields are not looked at.
        text: What strings are to hold, as far as their schema lets them.

    Returns:
        Objects with their required properties only; lists with as many items as they must have, and one where they may.
    """
    return _fit(schema, text, schema, 0)


def _fit(schema: object, text: str, root: Object, depth: int) -> object:
    if not is_object(schema) or depth > _DEEPEST:
        return text if schema is True else None
    reference = schema.get("$ref")
    if isinstance(reference, str):
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _fit({**_target(reference, root), **rest}, text, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    parts = objects_in(schema.get("allOf"))
    if parts:
        rest = {key: value for key, value in schema.items() if key != "allOf"}
        return _fit(_merged([*parts, rest], root), text, root, depth + 1)
    for word in ("anyOf", "oneOf"):
        options = objects_in(schema.get(word))
        if options:
            # Deep down, what ends the recursion is better than what goes on.
            simple = next((one for one in options if one.get("type") == "null"), None) if depth > _DEEP else None
            rest = {key: value for key, value in schema.items() if key != word}
            return _fit(_merged([rest, simple or options[0]], root), text, root, depth + 1)
    match _kind(schema):
        case "object":
            return _object(schema, text, root, depth)
        case "array":
            return _array(schema, text, root, depth)
        case "integer" | "number" as kind:
            return _number(schema, whole=kind == "integer")
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return _string(schema, text)


def _kind(schema: Object) -> str:
    stated = schema.get("type")
    if isinstance(stated, list):
        stated = next((one for one in stated if one != "null"), "null")
    if isinstance(stated, str):
        return stated
    return "object" if "properties" in schema else "array" if "items" in schema else "string"


def _target(reference: str, root: Object) -> Object:
    found: object = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if is_object(found) else None
    return found if is_object(found) else {}


def _merged(parts: list[Object], root: Object) -> Object:
    found: dict[str, object] = {}
    for part in parts:
        reference = part.get("$ref")
        whole = {**_target(reference, root), **part} if isinstance(reference, str) else dict(part)
        whole.pop("$ref", None)
        required = [*_list(found.get("required")), *_list(whole.get("required"))]
        properties = {**object_at(found, "properties"), **object_at(whole, "properties")}
        found |= whole
        found |= {"required": required} if required else {}
        found |= {"properties": properties} if properties else {}
    return found


def _object(schema: Object, text: str, root: Object, depth: int) -> dict[str, object]:
    properties = object_at(schema, "properties")
    required = [name for name in _list(schema.get("required")) if isinstance(name, str)]
    return {name: _fit(properties.get(name, True), text, root, depth + 1) for name in dict.fromkeys(required)}


def _array(schema: Object, text: str, root: Object, depth: int) -> list[object]:
    fixed = _list(schema.get("prefixItems"))
    least, most = _size(schema.get("minItems")), _size(schema.get("maxItems"))
    wanted = max(least or 0, len(fixed), 0 if depth > _DEEP else 1)
    wanted = min(wanted, most) if most is not None else min(wanted, 1000)
    more = schema.get("items", True)
    return [_fit(fixed[at] if at < len(fixed) else more, text, root, depth + 1) for at in range(wanted)]


def _number(schema: Object, *, whole: bool) -> int | float:
    step = _real(schema.get("multipleOf")) or (1 if whole else 0)
    low, high = _real(schema.get("minimum")), _real(schema.get("maximum"))
    over, under = _real(schema.get("exclusiveMinimum")), _real(schema.get("exclusiveMaximum"))
    found: int | float = 0
    if low is not None and found < low:
        found = math.ceil(low / step) * step if step else low
    if high is not None and found > high:
        found = math.floor(high / step) * step if step else high
    if over is not None and found <= over:
        found = (math.floor(over / step) + 1) * step if step else over + 1
    if under is not None and found >= under:
        found = (math.ceil(under / step) - 1) * step if step else under - 1
    if not step and over is not None and under is not None and not over < found < under:
        found = (over + under) / 2
    return int(found) if whole else found


def _string(schema: Object, text: str) -> str:
    stated = schema.get("format")
    if isinstance(stated, str) and stated in _FORMATS:
        return _FORMATS[stated]
    least, most = _size(schema.get("minLength")), _size(schema.get("maxLength"))
    return text.ljust(min(least or 0, 100_000), ".")[:most]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _real(value: object) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
