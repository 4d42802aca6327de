"""From decoded JSON to values, piece by piece, with the path of whatever does not fit."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from kitaru.adapters.schema.parts import alternatives
from kitaru.runtime.calls.fields import Field

Read: TypeAlias = "Callable[[object, str, Reading], object]"
"""Makes a value of JSON: the JSON, the path to it, and how it is read."""

_MOST_SAID: Final = 5
_NO_FIT: Final = 1000
_DEEPEST: Final = 4
"""Levels that `misfit` looks at: each branch of a union multiplies what lies below."""


class Reading:
    """One reading of one piece of JSON.

    Args:
        lax: Whether "5" will do for 5.

    Attributes:
        known: What became of a part as a certain union, by the identity of both: unions within unions ask again and
            again.
    """

    __slots__ = ("known", "lax")

    def __init__(self, *, lax: bool) -> None:
        self.lax = lax
        self.known: dict[tuple[int, int], object] = {}


class UnfitError(Exception):
    """JSON that is no value of the type; each problem names its path."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems[:_MOST_SAID]))
        self.problems = problems


def misfit(value: object, schema: object, defs: Mapping[str, object], depth: int = 0) -> int:
    """Return how far JSON is from what a schema describes: 0 where it is just that.

    Counts what the schema does not know and what it would have to make up; what it refuses counts most.
    """
    if depth > _DEEPEST:
        return 0
    return min((_misfit_one(value, one, defs, depth + 1) for one in alternatives(schema, defs)), default=0)


def record(cls: Any, fields: Sequence[tuple[Field, Read]], value: object, path: str, reading: Reading) -> object:
    """Make an object of a class with named fields, or tell of all its fields that do not fit."""
    if not isinstance(value, dict):
        raise UnfitError(f"{place(path)} should be an object, not {kind_of(value)}")
    config = getattr(cls, "__struct_config__", None)
    known = {field.key for field, _ in fields}
    if config is not None and config.tag is not None:
        known.add(config.tag_field)
        if value.get(config.tag_field) != config.tag:
            raise UnfitError(f"{place(f'{path}.{config.tag_field}')} should be {config.tag!r}")
    if config is not None and config.forbid_unknown_fields and (more := sorted(value.keys() - known)):
        raise UnfitError(f"{place(path)} has no field {', '.join(map(repr, more))}")
    given = [(field, read) for field, read in fields if field.key in value]
    missing = [
        f"{place(f'{path}.{field.key}')} is missing" for field, _ in fields if field.required and field.key not in value
    ]
    reads = [functools.partial(read, value[field.key], f"{path}.{field.key}", reading) for field, read in given]
    try:
        values = every(reads)
    except UnfitError as error:
        raise UnfitError(*missing, *error.problems) from None
    if missing:
        raise UnfitError(*missing)
    named = dict(zip((field.name for field, _ in given), values, strict=True))
    if typing.is_typeddict(cls):
        return named
    try:
        return cls(**named)
    except Exception as error:  # the class's own checks
        raise UnfitError(f"{place(path)} is refused by {cls.__qualname__}: {error}") from error


def every(reads: Sequence[Callable[[], object]]) -> list[object]:
    """Make all values, or tell of all that cannot be made."""
    values: list[object] = []
    problems: list[str] = []
    for read in reads:
        try:
            values.append(read())
        except UnfitError as error:
            problems += error.problems
    if problems:
        raise UnfitError(*problems)
    return values


def converted(note: Any, value: object, path: str, reading: Reading) -> object:
    """Make what msgspec knows by itself."""
    try:
        return msgspec.convert(value, note, strict=not reading.lax)
    except msgspec.ValidationError as error:
        text, _, inner = str(error).rpartition(" - at `$")
        where = place(path + inner.removesuffix("`")) if text else place(path)
        raise UnfitError(f"{where}: {text or error}") from None


def validated(adapter: Any, value: object, path: str, reading: Reading) -> object:
    """Make what pydantic knows."""
    del reading  # pydantic models say themselves how strict they are
    try:
        return adapter.validate_json(msgspec.json.encode(value))
    except Exception as error:  # pydantic's own, or what a validator of the model raised
        errors = getattr(error, "errors", None)
        if errors is None:
            raise UnfitError(f"{place(path)}: {error}") from error
        problems = []
        for one in errors(include_url=False, include_input=False, include_context=False):
            inner = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in one["loc"])
            problems.append(f"{place(path + inner)}: {one['msg']}")
        raise UnfitError(*problems) from None


def path_of(cls: Any, value: object, path: str, reading: Reading) -> object:
    """Make a path."""
    del reading
    if not isinstance(value, str):
        raise UnfitError(f"{place(path)} should be a text, not {kind_of(value)}")
    return cls(value)


def as_it_is(value: object, path: str, reading: Reading) -> object:
    """Take JSON for what it is."""
    del path, reading
    return value


def _misfit_one(value: object, schema: Mapping[str, object], defs: Mapping[str, object], depth: int) -> int:
    kind: Any = schema.get("type")
    if isinstance(value, dict) and kind in ("object", None):
        properties: Any = schema.get("properties") or {}
        more: Any = schema.get("additionalProperties", not properties)
        unknown = sum(2 for name in value if name not in properties) if not more else 0
        lacking = sum(1 for name in properties if name not in value)
        return (
            unknown
            + lacking
            + sum(misfit(value[name], part, defs, depth) for name, part in properties.items() if name in value)
        )
    if isinstance(value, list) and kind == "array":
        items: Any = schema.get("items") or {}
        return sum(misfit(one, items, defs, depth) for one in value)
    choices: Any = schema.get("enum")
    if choices is not None:
        return 0 if value in choices else _NO_FIT
    if kind == "number" and isinstance(value, int):
        return 1
    return 0 if kind is None or kind_of(value) == kind else _NO_FIT


def listed(values: Sequence[object]) -> str:
    """Return values as JSON, for people."""
    return msgspec.json.encode(list(values)).decode()[1:-1]


def kind_of(value: object) -> str:
    """Return what JSON calls the type of a value."""
    if value is None:
        return "null"
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return names.get(type(value), type(value).__name__)


def place(path: str) -> str:
    """Return a path, for people."""
    return path.removeprefix(".") or "the value"
