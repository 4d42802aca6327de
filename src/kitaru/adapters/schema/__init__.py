"""A JSON schema in the dialect that a provider follows to the letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from kitaru.adapters.fields import is_object, object_at
from kitaru.adapters.schema.answers import WRAPPER
from kitaru.adapters.schema.google import Google
from kitaru.adapters.schema.parts import (
    LIMITS,
    STRUCTURAL,
    LooseError,
    Schema,
    def_name,
    defs_of,
    enumerated,
    list_of,
    noted,
    takes_null,
)

Dialect: TypeAlias = Literal["closed", "open", "google", "anthropic"]

# OpenAI, "Structured outputs": the formats that strict mode knows. Anthropic's SDK, `_transform.py`, adds `uri`.
_FORMATS: Final = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})


class Rewritten(msgspec.Struct, frozen=True):
    """A schema in a dialect.

    Args:
        schema: What to send.
        strict: Whether it may be sent as one to be followed to the letter; else it is the plain schema.
        wrapped: Whether the answer will be an object around the value that was asked for.
        why: What cannot be strict in it, where it is not.
    """

    schema: Schema
    strict: bool
    wrapped: bool = False
    why: str = ""


def rewrite(
    schema: Mapping[str, object], dialect: Dialect, *, keywords: frozenset[str] = frozenset(), wrap: bool = True
) -> Rewritten:
    """Return a schema as a provider wants it.

    Args:
        schema: A JSON schema; it is not changed.
        dialect: `closed`: every object closed and every property required, an optional one nullable instead.
            `anthropic`: objects closed, nothing recursive. `google`: a subset, references inlined. `open`: as it is.
        keywords: Limits on values that a `closed` provider takes beside the structure, such as `minimum`. The others
            move into the description.
        wrap: Put an object around what is no object, as an answer has to be one; not for a tool's arguments.
    """
    try:
        return _rewritten(schema, dialect, keywords, wrap=wrap)
    except RecursionError:
        plain = dict(schema)
        wrapped = wrap and plain.get("type") != "object"
        return Rewritten(_wrapped(plain) if wrapped else plain, False, wrapped, "it is nested too deeply")


def _rewritten(schema: Mapping[str, object], dialect: Dialect, keywords: frozenset[str], *, wrap: bool) -> Rewritten:
    root = _rooted(schema)
    wrapped = wrap and not _is_object(root)
    if wrapped:
        root = _wrapped(root)
    if dialect == "open":
        return Rewritten(root, True, wrapped)
    walk = Google(root) if dialect == "google" else _Closed(root, keywords, every=dialect == "closed")
    try:
        return Rewritten(walk.whole(), True, wrapped)
    except LooseError as error:
        return Rewritten(walk.loosely() if isinstance(walk, Google) else root, False, wrapped, str(error))


# ---- the root -------------------------------------------------------------------------------------------------------


def _rooted(schema: Mapping[str, object]) -> Schema:
    """Return the schema with all definitions under `$defs`, and a root that is no reference."""
    root: Schema = {key: value for key, value in schema.items() if key not in ("definitions", "$schema", "$id")}
    defs = defs_of(schema)
    if "definitions" in schema:
        root = _renamed(root, "#/definitions/", "#/$defs/")
        defs = {name: _renamed(part, "#/definitions/", "#/$defs/") for name, part in defs.items()}
    if _refers_to_root(root):
        name = next(one for one in ("Root", "Root_", "Root__") if one not in defs)
        body = {key: value for key, value in root.items() if key != "$defs"}
        defs = {name: body, **defs}
        whole = _renamed({"root": body, "$defs": defs}, "#", f"#/$defs/{name}", exact=True)
        root, defs = dict(object_at(whole["root"])), dict(object_at(whole["$defs"]))
    root.pop("$defs", None)
    while isinstance(ref := root.get("$ref"), str) and is_object(target := defs.get(def_name(ref) or "")):
        rest = {key: value for key, value in root.items() if key != "$ref"}
        if target.get("$ref") == ref:
            break
        root = {**target, **rest}
    if "type" not in root and "properties" in root:
        root["type"] = "object"
    return {**root, "$defs": defs} if defs else root


def _is_object(root: Schema) -> bool:
    return root.get("type") == "object" and not {"anyOf", "oneOf"} & root.keys()


def _wrapped(root: Schema) -> Schema:
    inner = {key: value for key, value in root.items() if key != "$defs"}
    outer: Schema = {
        "type": "object", "properties": {WRAPPER: inner}, "required": [WRAPPER], "additionalProperties": False,
    }  # fmt: skip
    return {**outer, "$defs": root["$defs"]} if "$defs" in root else outer


def _renamed(node: object, before: str, after: str, *, exact: bool = False) -> Schema:
    """Return a schema with other references; `before` is their beginning, or the whole of them."""

    def walk(part: object) -> object:
        if is_object(part):
            return {key: named(item) if key == "$ref" else walk(item) for key, item in part.items()}
        return [walk(item) for item in part] if isinstance(part, list) else part

    def named(ref: object) -> object:
        if not isinstance(ref, str) or not (ref == before if exact else ref.startswith(before)):
            return ref
        return after + ref[len(before) :]

    return dict(object_at(walk(node)))


def _refers_to_root(node: object) -> bool:
    if is_object(node):
        return node.get("$ref") == "#" or any(_refers_to_root(item) for item in node.values())
    return isinstance(node, list) and any(_refers_to_root(item) for item in node)


# ---- closed ---------------------------------------------------------------------------------------------------------


class _Closed:
    """One pass that closes objects. `every`: and requires all their properties (openai), else nothing recursive."""

    def __init__(self, root: Schema, keywords: frozenset[str], *, every: bool) -> None:
        self._root = root
        self._defs = defs_of(root)
        self._keywords = keywords if every else frozenset({"format", "minItems"})
        self._formats = _FORMATS if every else _FORMATS | {"uri"}
        self._every = every
        self._used: dict[str, Schema | None] = {}
        self._open: list[str] = []

    def whole(self) -> Schema:
        body = self.node({key: value for key, value in self._root.items() if key != "$defs"})
        used = {name: part for name in self._defs if (part := self._used.get(name)) is not None}
        return {**body, "$defs": used} if used else body

    def node(self, node: object) -> Schema:
        if not is_object(node):
            raise LooseError("a place where anything may stand")
        if "$ref" in node:
            return self._reference(node)
        if unknown := sorted(STRUCTURAL & node.keys()):
            raise LooseError(unknown[0])
        allof = list_of(node.get("allOf"))
        if len(allof) == 1 and is_object(allof[0]):
            return self.node({**allof[0], **{key: value for key, value in node.items() if key != "allOf"}})
        if allof:
            raise LooseError("allOf")
        out: Schema = {key: node[key] for key in ("title", "description") if isinstance(node.get(key), str)}
        for key in ("anyOf", "oneOf"):
            if branches := list_of(node.get(key)):
                return self._union(key, branches, node, out)
        values = [node["const"]] if "const" in node else list_of(node.get("enum"))
        kind = node.get("type")
        if values:
            out |= enumerated(values, kind)
        elif isinstance(kind, list):
            if {"object", "array"} & set(map(str, kind)) and len(kind) > 1:
                return {**out, "anyOf": [self.node({**_bare(node), "type": one}) for one in kind]}
            out["type"] = kind[0] if len(kind) == 1 else kind
        elif kind == "object":
            out |= self._object(node)
        elif kind == "array":
            out |= self._array(node)
        elif isinstance(kind, str):
            out["type"] = kind
        else:
            raise LooseError("a place where anything may stand")
        return self._limited(out, node)

    def _reference(self, node: Mapping[str, object]) -> Schema:
        ref = node["$ref"]
        name = def_name(ref) if isinstance(ref, str) else None
        if name is None or name not in self._defs:
            raise LooseError("a reference to another document")
        if not self._every and name in self._open:
            raise LooseError("recursion")
        again = name in self._open
        self._open.append(name)
        try:
            rest = {key: value for key, value in node.items() if key != "$ref"}
            # A strict mode takes nothing beside a reference: what is said of this use is said of a copy.
            if _said(rest) and not again:
                return self.node({**object_at(self._defs[name]), **rest})
            if name not in self._used:
                self._used[name] = None
                self._used[name] = self.node(self._defs[name])
        finally:
            self._open.pop()
        return {"$ref": ref}

    def _union(self, key: str, branches: Sequence[object], node: Mapping[str, object], out: Schema) -> Schema:
        if {"properties", "items", "enum", "const", "required"} & node.keys():
            raise LooseError(f"{key} beside other demands")
        if key == "oneOf" and self._every and "discriminator" not in node:
            raise LooseError("oneOf")
        return self._limited({**out, "anyOf": [self.node(branch) for branch in branches]}, node)

    def _object(self, node: Mapping[str, object]) -> Schema:
        more = node.get("additionalProperties", False)
        if more is not False or ("properties" not in node and "additionalProperties" not in node):
            raise LooseError("an object with free keys")
        required = [name for name in list_of(node.get("required")) if isinstance(name, str)]
        properties: Schema = {}
        for name, part in object_at(node.get("properties")).items():
            closed = self.node(part)
            if self._every and name not in required and not takes_null(closed, self._used):
                closed = {"anyOf": [closed, {"type": "null"}]}
            properties[name] = closed
        names = list(properties) if self._every else [name for name in properties if name in required]
        return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}

    def _array(self, node: Mapping[str, object]) -> Schema:
        first = list_of(node.get("prefixItems"))
        if first and any(item != first[0] for item in first):
            raise LooseError("a tuple of several types")
        items = first[0] if first else node.get("items")
        return {"type": "array", "items": self.node(items)}

    def _limited(self, out: Schema, node: Mapping[str, object]) -> Schema:
        """Take over the limits that the dialect knows; say the others in the description."""
        others: list[str] = []
        for key in LIMITS:
            value = node.get(key)
            known = key in self._keywords and (key != "format" or value in self._formats)
            if key in node and known and (self._every or key != "minItems" or value in (0, 1)):
                out[key] = value
            else:
                others.append(key)
        return noted(out, node, others)


def _bare(node: Mapping[str, object]) -> Schema:
    return {key: value for key, value in node.items() if key not in ("title", "description")}


def _said(rest: Mapping[str, object]) -> bool:
    return bool(rest.keys() - {"title", "default", "$defs"})
