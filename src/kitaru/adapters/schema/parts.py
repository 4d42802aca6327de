"""The parts of JSON schemas: what references stand for, what values may be, how a part is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from kitaru.adapters.fields import is_object, object_at

Schema: TypeAlias = dict[str, object]

# Nothing that any of these says can be promised by a strict mode.
STRUCTURAL: Final = frozenset(
    {
        "patternProperties", "propertyNames", "if", "then", "else", "not", "dependentRequired", "dependentSchemas",
        "dependencies", "contains", "unevaluatedProperties", "unevaluatedItems", "additionalItems", "$dynamicRef",
    }
)  # fmt: skip

# Limits on values: where a dialect has no word for one, the description says it, and decoding checks it.
LIMITS: Final = (
    "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "contentEncoding",
    "default", "examples",
)  # fmt: skip

TYPES: Final[Mapping[type, str]] = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


class LooseError(Exception):
    """Something in the schema cannot be followed to the letter."""


def resolved(node: object, defs: Mapping[str, object]) -> object:
    """Return what a schema's reference to one of its definitions stands for; itself where it is none.

    Args:
        node: A schema within a schema.
        defs: The definitions by name.
    """
    seen: set[str] = set()
    while is_object(node) and isinstance(name := node.get("$ref"), str):
        target = defs.get(def_name(name) or "")
        if target is None or name in seen:
            break
        seen.add(name)
        rest = {key: item for key, item in node.items() if key != "$ref"}
        node = {**target, **rest} if rest and is_object(target) else target
    return node


def alternatives(node: object, defs: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the schemas that a value may follow: the branches of a union, references resolved."""
    found: list[Mapping[str, object]] = []
    waiting, seen = [node], 0
    while waiting and seen < 1000:
        seen += 1
        one = resolved(waiting.pop(0), defs)
        if not is_object(one):
            continue
        branches = [branch for key in ("anyOf", "oneOf") for branch in list_of(one.get(key))]
        if branches:
            waiting = branches + waiting
        else:
            found.append(one)
    return found


def takes_null(node: object, defs: Mapping[str, object]) -> bool:
    """Whether null may stand where a schema stands."""
    for one in alternatives(node, defs):
        kind = one.get("type")
        if kind == "null" or (isinstance(kind, list) and "null" in kind):
            return True
        if None in list_of(one.get("enum")) or ("const" in one and one["const"] is None):
            return True
        if not {"type", "enum", "const", "$ref"} & one.keys():
            return True
    return False


def defs_of(schema: Mapping[str, object]) -> Schema:
    """Return a schema's definitions by name, older ones included."""
    return {**object_at(schema.get("definitions")), **object_at(schema.get("$defs"))}


def def_name(ref: str) -> str | None:
    """Return the definition that a reference names, None where it names something else."""
    name = ref.removeprefix("#/$defs/").removeprefix("#/definitions/")
    return name.replace("~1", "/").replace("~0", "~") if name != ref and "/" not in name else None


def list_of(value: object) -> list[object]:
    """Return a list, an empty one for anything else."""
    return value if isinstance(value, list) else []


def enumerated(values: Sequence[object], kind: object = None) -> Schema:
    """Return the schema of fixed values. A strict mode wants their type beside them.

    Args:
        values: Scalars.
        kind: Their type where it is stated already.

    Raises:
        LooseError: One is no scalar.
    """
    if any(type(value) not in TYPES for value in values):
        raise LooseError("a fixed value that is no scalar")
    kinds = list(dict.fromkeys(TYPES[type(value)] for value in values))
    stated: object = kind if kind is not None else kinds[0] if len(kinds) == 1 else kinds
    return {"type": stated, "enum": list(values)}


def noted(out: Schema, node: Mapping[str, object], keys: Iterable[str]) -> Schema:
    """Add to a schema's description what `node` says by keywords that cannot be sent.

    Args:
        out: The schema as it is sent; it is changed.
        node: The schema as it was.
        keys: The keywords.
    """
    # No default is no news, nor is a null one.
    said = [key for key in keys if key in node and (key not in ("default", "examples") or node[key])]
    if said:
        note = f"({', '.join(f'{key}: {msgspec.json.encode(node[key]).decode()}' for key in said)})"
        out["description"] = f"{out['description']} {note}" if "description" in out else note
    return out
