"""JSON schemas as google takes them: `responseJsonSchema` and `parametersJsonSchema` know a subset."""

from __future__ import annotations

from typing import Final

from kitaru.adapters.fields import is_object, object_at
from kitaru.adapters.schema.parts import (
    LIMITS,
    STRUCTURAL,
    TYPES,
    LooseError,
    Schema,
    def_name,
    defs_of,
    enumerated,
    list_of,
    noted,
)

# google-genai SDK `types.py`, `GenerateContentConfig.response_json_schema`.
_KNOWN_LIMITS: Final = frozenset({"format", "minItems", "maxItems", "minimum", "maximum"})

_MOST_INLINED: Final = 500
"""References that are written out; beyond, they stay, as definitions that use each other would explode."""


_UPPER: Final = frozenset({"OBJECT", "ARRAY", "STRING", "INTEGER", "NUMBER", "BOOLEAN", "NULL"})
_SCHEMAS_BY_NAME: Final = frozenset({"properties", "$defs", "definitions", "patternProperties"})


def from_google(schema: Schema) -> Schema:
    """Return a schema whose types may be in Gemini's upper case, with `nullable`, as JSON schema has them.

    Args:
        schema: It is not changed.
    """
    found: Schema = {}
    for key, value in schema.items():
        if is_object(value):
            named = key in _SCHEMAS_BY_NAME
            found[key] = (
                {name: from_google(dict(part)) if is_object(part) else part for name, part in value.items()}
                if named
                else from_google(dict(value))
                if key in ("items", "additionalProperties", "not")
                else value
            )
        elif isinstance(value, list) and key in ("anyOf", "oneOf", "allOf", "prefixItems"):
            found[key] = [from_google(dict(part)) if is_object(part) else part for part in value]
        else:
            found[key] = value
    kind = found.get("type")
    if isinstance(kind, str) and kind in _UPPER:
        found["type"] = kind.lower()
        if found.pop("nullable", False) is True:
            found["type"] = [kind.lower(), "null"]
            if isinstance(values := found.get("enum"), list):
                found["enum"] = [*values, None]
    return found


class Google:
    """One pass that leaves what google takes: references are written out unless they are recursive.

    Args:
        root: A schema whose root is no reference, its definitions under `$defs`; it is not changed.
    """

    def __init__(self, root: Schema) -> None:
        self._root = root
        self._defs = defs_of(root)
        self._open: list[str] = []
        self._kept: dict[str, Schema] = {}
        self._inlined = 0
        self._loose = ""

    def whole(self) -> Schema:
        """Return the schema.

        Raises:
            LooseError: It would promise less than the original.
        """
        schema = self.loosely()
        if self._loose:
            raise LooseError(self._loose)
        return schema

    def loosely(self) -> Schema:
        """Return the schema, whatever had to be left out."""
        self._kept, self._inlined = {}, 0
        body = self._node({key: value for key, value in self._root.items() if key != "$defs"})
        while missing := [name for name in _names(body, *self._kept.values()) if name not in self._kept]:
            for name in missing:
                self._open = [name]
                self._kept[name] = self._node(self._defs[name])
                self._open = []
        kept = {name: self._kept[name] for name in self._defs if name in self._kept}
        return {**body, "$defs": kept} if kept else body

    def _node(self, node: object) -> Schema:
        if not is_object(node):
            return {}
        ref = node.get("$ref")
        if isinstance(ref, str):
            return self._reference(ref, {key: value for key, value in node.items() if key != "$ref"})
        allof = list_of(node.get("allOf"))
        if allof:
            if len(allof) > 1:
                self._loose = "allOf"
            return self._node({**object_at(allof[0]), **{key: value for key, value in node.items() if key != "allOf"}})
        if unknown := sorted(STRUCTURAL & node.keys()):
            self._loose = unknown[0]
        out: Schema = {key: node[key] for key in ("title", "description") if isinstance(node.get(key), str)}
        for key in ("anyOf", "oneOf"):
            if branches := list_of(node.get(key)):
                out["anyOf"] = [self._node(branch) for branch in branches]
        values = [node["const"]] if "const" in node else list_of(node.get("enum"))
        if values:
            out |= _fixed(values, node.get("type"))
        elif "type" in node:
            out["type"] = node["type"]
        if "properties" in node:
            out["properties"] = {name: self._node(part) for name, part in object_at(node["properties"]).items()}
        if first := list_of(node.get("prefixItems")):
            out["prefixItems"] = [self._node(one) for one in first]
        if "required" in node:
            out["required"] = node["required"]
        for key in ("items", "additionalProperties"):
            if key in node:
                out[key] = self._node(node[key]) if is_object(node[key]) else node[key]
        out |= {key: node[key] for key in LIMITS if key in node and key in _KNOWN_LIMITS}
        return noted(out, node, [key for key in LIMITS if key not in _KNOWN_LIMITS])

    def _reference(self, ref: str, rest: Schema) -> Schema:
        name = def_name(ref)
        if name is None or name not in self._defs:
            self._loose = "a reference to another document"
            return {}
        self._inlined += 1
        # Nothing may stand beside a reference that stays.
        if name in self._open or self._inlined > _MOST_INLINED:
            return {"$ref": ref}
        self._open.append(name)
        try:
            return self._node({**object_at(self._defs[name]), **rest})
        finally:
            self._open.pop()


def _fixed(values: list[object], kind: object) -> Schema:
    """Return the schema of fixed values: enumerations hold texts and numbers only."""
    plain = [value for value in values if isinstance(value, str | int | float) and not isinstance(value, bool)]
    if len(plain) == len(values):
        return enumerated(values, kind)
    others = dict.fromkeys(
        TYPES.get(type(one), "object") for one in values if one not in plain or isinstance(one, bool)
    )
    return {"anyOf": ([enumerated(plain)] if plain else []) + [{"type": one} for one in others]}


def _names(*nodes: object) -> list[str]:
    """The definitions that schemas refer to, in the order of their first use."""
    found: dict[str, None] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop(0)
        if is_object(node):
            ref = node.get("$ref")
            if isinstance(ref, str) and (name := def_name(ref)) is not None:
                found[name] = None
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return list(found)
