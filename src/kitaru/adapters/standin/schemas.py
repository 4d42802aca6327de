"""What OpenAI and Anthropic demand of a JSON schema that they promise to follow to the letter."""

from __future__ import annotations

from collections.abc import Iterator

from kitaru.adapters.standin.asked import Object, is_object


def unlike_strict(schema: Object, *, every: bool = True) -> str | None:
    """Return what keeps a schema from being followed to the letter, in OpenAI's words; None where nothing does.

    Args:
        schema: The schema.
        every: Whether every property has to be required.
    """
    if every and schema.get("type") != "object":
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."
    for path, part in _objects(schema, ()):
        context = f"In context=({', '.join(repr(step) for step in path)}), "
        properties = part.get("properties")
        names = list(properties) if is_object(properties) else []
        if part.get("additionalProperties") is not False:
            return context + "'additionalProperties' is required to be supplied and to be false."
        required = part.get("required")
        if not every:
            continue
        if names and not isinstance(required, list):
            return context + (
                "'required' is required to be supplied and to be an array including every key in properties. "
                f"Missing '{names[0]}'."
            )
        lacking = [name for name in names if isinstance(required, list) and name not in required]
        if lacking:
            return context + (
                "'required' is required to be supplied and to be an array including every key in properties. "
                f"Missing '{lacking[0]}'."
            )
    return None


def _objects(schema: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Object]]:
    if isinstance(schema, list):
        for at, each in enumerate(schema):
            yield from _objects(each, (*path, str(at)))
    if not is_object(schema):
        return
    kind = schema.get("type")
    if kind == "object" or (isinstance(kind, list) and "object" in kind) or ("properties" in schema and kind is None):
        yield path, schema
    for key in ("properties", "$defs", "definitions"):
        named = schema.get(key)
        for name, each in named.items() if is_object(named) else ():
            yield from _objects(each, (*path, key, name))
    for key in ("items", "anyOf", "oneOf", "allOf", "prefixItems"):
        if key in schema:
            yield from _objects(schema[key], (*path, key))
