"""Answers that followed a rewritten schema, back in terms of the original one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from kitaru.adapters.fields import is_object, object_at
from kitaru.adapters.schema.parts import Schema, alternatives, defs_of, list_of, resolved, takes_null

WRAPPER: Final = "value"
"""The only property of the object that stands around an answer that is no object itself."""

_MOST_BRANCHES: Final = 100


def unwrapped(value: object) -> object:
    """Return what stands inside the object that `rewrite` put around a value; anything else as it is."""
    return value[WRAPPER] if is_object(value) and value.keys() == {WRAPPER} else value


def without_nulls(value: object, schema: Mapping[str, object]) -> object:
    """Return an answer without the nulls that stand only for "left out".

    A strict mode wants every property, so that an optional one comes back as null.

    Args:
        value: Decoded JSON; it is not changed.
        schema: The schema as it was before `rewrite`.
    """
    try:
        return _pruned(value, [schema], defs_of(schema))
    except RecursionError:
        return value


def _pruned(value: object, schemas: Iterable[object], defs: Mapping[str, object]) -> object:
    if not isinstance(value, list | dict):
        return value
    every = [branch for schema in schemas for branch in alternatives(schema, defs)]
    if isinstance(value, list):
        return [_pruned(item, _unique(_item(one, at) for one in every), defs) for at, item in enumerate(value)]
    every = [one for one in every if "properties" in one or _more(one)]
    meant = [one for one in every if _may_be(value, one, defs)] or every
    kept: Schema = {}
    for name, item in value.items():
        parts = [(object_at(one.get("properties")).get(name), one) for one in meant]
        known = _unique(part for part, _ in parts) or _unique(_more(one) for one in meant)
        optional = any(part is not None and name not in list_of(one.get("required")) for part, one in parts)
        if item is None and optional and not any(takes_null(part, defs) for part in known):
            continue
        kept[name] = _pruned(item, known, defs)
    return kept


def _unique(schemas: Iterable[object]) -> list[object]:
    """Schemas, each once: unions that contain themselves would double them at every level."""
    found: list[object] = []
    for schema in schemas:
        if schema is not None and schema not in found:
            found.append(schema)
    return found[:_MOST_BRANCHES]


def _may_be(value: Mapping[str, object], schema: Mapping[str, object], defs: Mapping[str, object]) -> bool:
    """Whether a value has the tags that a schema fixes, and all properties that it requires."""
    for name, part in object_at(schema.get("properties")).items():
        part = resolved(part, defs)
        fixed = [part["const"]] if is_object(part) and "const" in part else list_of(object_at(part).get("enum"))
        if len(fixed) == 1 and name in value and value[name] is not None and value[name] != fixed[0]:
            return False
    return all(name in value for name in list_of(schema.get("required")))


def _item(schema: Mapping[str, object], at: int) -> object:
    first = list_of(schema.get("prefixItems"))
    return first[at] if at < len(first) else schema.get("items")


def _more(schema: Mapping[str, object]) -> object:
    more = schema.get("additionalProperties")
    return more if is_object(more) else None
