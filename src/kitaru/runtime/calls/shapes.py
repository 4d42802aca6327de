"""Python types as JSON schemas and back: dataclasses, Structs, models, unions, one inside the other."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import sys
import types
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from kitaru.errors import UsageError
from kitaru.runtime.calls.docstrings import described
from kitaru.runtime.calls.fields import fields_of
from kitaru.runtime.calls.from_json import (
    Read,
    Reading,
    UnfitError,
    as_it_is,
    converted,
    every,
    kind_of,
    listed,
    misfit,
    path_of,
    place,
    record,
    validated,
)
from kitaru.store.codec.classes import is_pydantic, is_record, named_classes

Schema: TypeAlias = dict[str, object]
_SCALARS: Final = frozenset(
    {
        str, int, float, bool, bytes, bytearray, datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
        decimal.Decimal, uuid.UUID,
    }
)  # fmt: skip

_LISTS: Final[Mapping[object, Callable[[list[Any]], object]]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.deque: collections.deque,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
}
_MAPS: Final = frozenset({dict, collections.abc.Mapping, collections.abc.MutableMapping})

# Modules whose classes a pydantic model may hold and the log can keep; records and enums are looked at one by one.
_KEPT_MODULES: Final = frozenset(
    {
        "builtins", "typing", "types", "datetime", "decimal", "uuid", "pathlib", "ipaddress", "fractions", "enum",
        "collections", "collections.abc", "zoneinfo", "pydantic.networks", "abc",
    }
)  # fmt: skip

_LONGEST: Final = 500


class Shape(msgspec.Struct, frozen=True):
    """A type, as JSON.

    Args:
        schema: Its JSON schema.
        read: Makes a value of decoded JSON; raises UnfitError.
    """

    schema: Schema
    read: Read


class _Node(NamedTuple):
    schema: Schema
    read: Read


def shape_of(annotation: object, what: str) -> Shape:
    """Return the shape of a type.

    Args:
        annotation: The type.
        what: What an error calls the use of it, such as `response_type`.

    Raises:
        UsageError: Its values cannot be written as JSON, or cannot be recorded; names the part that cannot.
    """
    builder = _Builder(what)
    node = builder.node(annotation)
    return Shape(builder.whole(node.schema), node.read)


def name_of(annotation: object) -> str:
    """Return a type's name, for people."""
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__qualname__.rpartition("<locals>.")[2]
    return str(annotation).replace("typing.", "")


# ---- from a type ----------------------------------------------------------------------------------------------------


class _Builder:
    """Builds the shape of one annotation; classes become definitions, so that they may contain themselves."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._defs: Schema = {}
        self._names: dict[object, str] = {}
        self._reads: dict[str, Read] = {}

    def whole(self, schema: Schema) -> Schema:
        """Return the schema with its definitions; a root that is a reference is written out."""
        seen: set[object] = set()
        while isinstance(ref := schema.get("$ref"), str) and ref not in seen:
            seen.add(ref)
            target: Any = self._defs[ref.removeprefix("#/$defs/")]
            schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
        used = _reachable(schema, self._defs)
        return {**schema, "$defs": used} if used else schema

    def node(self, note: object) -> _Node:
        note, metadata = _stripped(note)
        node = self._constrained(note, metadata) or self._plain(note)
        said = next((text for one in reversed(metadata) if (text := _said_by(one))), "")
        return _Node({**node.schema, "description": said}, node.read) if said else node

    def _plain(self, note: object) -> _Node:
        if note is Any or note is object:
            return _Node({}, as_it_is)
        if note is None or note is types.NoneType:
            return _Node({"type": "null"}, functools.partial(converted, types.NoneType))
        if isinstance(note, typing.TypeVar):
            return self.node(note.__bound__ or (typing.Union[note.__constraints__] if note.__constraints__ else Any))  # noqa: UP007  # made at run time
        if type(note).__name__ == "TypeAliasType":
            return self._named(
                note, str(getattr(note, "__name__", "")), lambda: self.node(getattr(note, "__value__", Any))
            )
        origin, args = typing.get_origin(note), typing.get_args(note)
        if origin is typing.Union or origin is types.UnionType:
            return self._union(args)
        if origin is typing.Literal:
            return self._literal(args)
        cls = origin or note
        if cls is tuple:
            return self._tuple(args)
        if cls in _LISTS:
            return self._list(cls, args)
        if cls in _MAPS:
            return self._map(args)
        if isinstance(cls, type):
            return self._class(note, cls)
        raise self._refused(note)

    def _class(self, note: object, cls: type) -> _Node:
        if cls in _SCALARS:
            # Msgspec says nothing of a datetime's form, because it may or may not have a zone.
            dated: Schema = {"type": "string", "format": "date-time"}
            return _Node(
                dated if cls is datetime.datetime else msgspec.json.schema(cls), functools.partial(converted, cls)
            )
        if issubclass(cls, pathlib.PurePath):
            return _Node({"type": "string", "format": "path"}, functools.partial(path_of, cls))
        if is_pydantic(cls) or hasattr(cls, "__pydantic_validator__"):
            return self._pydantic(note, cls)
        if issubclass(cls, enum.Enum):
            return self._enum(cls)
        if issubclass(cls, msgspec.Struct) and cls.__struct_config__.array_like:
            return self._by_msgspec(note)
        if is_record(cls) or typing.is_typeddict(cls):
            return self._named(note, cls.__name__, lambda: self._record(note, cls))
        raise self._refused(note)

    def _constrained(self, note: object, metadata: Sequence[object]) -> _Node | None:
        """A type with limits beside it, as msgspec's or pydantic's annotations give them."""
        metas = [one for one in metadata if isinstance(one, msgspec.Meta)]
        if metas:
            if note in _SCALARS:
                return self._by_msgspec(_annotated(note, metas))
            inner = self._plain(note)
            kind = {"array": list, "object": dict, "string": str}.get(str(inner.schema.get("type")))
            if kind is None:
                return inner
            limits = _annotated(kind, metas)
            return _Node(
                {**inner.schema, **msgspec.json.schema(limits), "type": inner.schema["type"]},
                lambda value, path, reading: (
                    converted(limits, value, path, Reading(lax=False)),
                    inner.read(value, path, reading),
                )[1],
            )
        foreign = [one for one in metadata if type(one).__module__.partition(".")[0] in ("pydantic", "annotated_types")]
        if foreign and note in _SCALARS and "pydantic" in sys.modules:
            return self._pydantic(_annotated(note, foreign), None)
        return None

    def _by_msgspec(self, note: Any) -> _Node:
        try:
            (schema,), defs = msgspec.json.schema_components([note], ref_template="#/$defs/{name}")
        except TypeError:
            raise self._refused(note) from None
        return _Node(self._adopted(schema, defs), functools.partial(converted, note))

    def _union(self, members: Sequence[object]) -> _Node:
        wanted = [one for one in members if one is not msgspec.UnsetType]
        nodes = [(name_of(one), self.node(one)) for one in wanted if one not in (None, types.NoneType)]
        null = len(nodes) < len(wanted)
        schemas: list[object] = []
        for _, node in nodes:
            schemas += [one for one in _branches(node.schema) if one not in schemas]
        if null:
            schemas.append({"type": "null"})
        schema: Schema = (
            {"anyOf": schemas} if len(schemas) > 1 else dict(nodes[0][1].schema) if nodes else {"type": "null"}
        )
        defs = self._defs

        whole = object()

        def read(value: object, path: str, reading: Reading) -> object:
            if value is None and null:
                return None
            key = (id(value), id(whole)) if isinstance(value, dict | list) else None
            found = reading.known.get(key) if key is not None else None
            if found is None:
                try:
                    found = (best(value, path, reading),)
                except UnfitError as error:
                    found = error
                if key is not None:
                    reading.known[key] = found
            if isinstance(found, UnfitError):
                raise found
            return typing.cast("tuple[object]", found)[0]

        def best(value: object, path: str, reading: Reading) -> object:
            if len(nodes) == 1:
                return nodes[0][1].read(value, path, reading)
            reasons: list[str] = []
            # Of those that would do, the one that it fits best; of equals, the first.
            for name, node in sorted(nodes, key=lambda one: misfit(value, one[1].schema, defs)):
                try:
                    return node.read(value, path, reading)
                except UnfitError as error:
                    reasons.append(f"as {name}: {error}")
            names = ", ".join(name for name, _ in nodes)
            raise UnfitError(f"{place(path)} fits none of {names} ({'; '.join(reasons)})"[:_LONGEST])

        return _Node(schema, read)

    def _literal(self, values: Sequence[object]) -> _Node:
        if any(type(value) not in (str, int, bool, types.NoneType) for value in values):
            raise self._refused(typing.Literal[tuple(values)])

        def read(value: object, path: str, reading: Reading) -> object:
            for one in values:
                if (value == one and type(value) is type(one)) or (reading.lax and str(value) == str(one)):
                    return one
            raise UnfitError(f"{place(path)} is none of {listed(values)}")

        return _Node(_enumerated(values), read)

    def _enum(self, cls: type[enum.Enum]) -> _Node:
        members = {member.value: member for member in cls}
        if issubclass(cls, enum.Flag) or any(type(value) not in (str, int) for value in members):
            raise self._refused(cls)

        def read(value: object, path: str, reading: Reading) -> object:
            for plain, member in members.items():
                if (value == plain and type(value) is type(plain)) or (reading.lax and str(value) == str(plain)):
                    return member
            raise UnfitError(f"{place(path)} is none of {listed(list(members))}")

        return _Node(_enumerated(list(members)), read)

    def _list(self, cls: object, args: Sequence[object]) -> _Node:
        item = self.node(args[0] if args else Any)
        make = _LISTS[cls]
        schema: Schema = {"type": "array", "items": item.schema}
        if make in (set, frozenset):
            schema["uniqueItems"] = True

        def read(value: object, path: str, reading: Reading) -> object:
            if not isinstance(value, list):
                raise UnfitError(f"{place(path)} should be an array, not {kind_of(value)}")
            items = every([functools.partial(item.read, one, f"{path}[{at}]", reading) for at, one in enumerate(value)])
            try:
                return make(items)
            except TypeError as error:
                raise UnfitError(f"{place(path)}: {error}") from None

        return _Node(schema, read)

    def _tuple(self, args: Sequence[object]) -> _Node:
        if not args or (len(args) == 2 and args[1] is Ellipsis):
            listed = self._list(list, args[:1])
            return _Node(
                listed.schema,
                lambda value, path, reading: tuple(typing.cast("list[Any]", listed.read(value, path, reading))),
            )
        items = [self.node(one) for one in args if one != ()]
        schema: Schema = {
            "type": "array", "prefixItems": [one.schema for one in items], "items": False, "minItems": len(items),
            "maxItems": len(items),
        }  # fmt: skip

        def read(value: object, path: str, reading: Reading) -> object:
            if not isinstance(value, list) or len(value) != len(items):
                raise UnfitError(f"{place(path)} should be an array of {len(items)} items")
            pairs = enumerate(zip(items, value, strict=True))
            return tuple(
                every([functools.partial(node.read, one, f"{path}[{at}]", reading) for at, (node, one) in pairs])
            )

        return _Node(schema, read)

    def _map(self, args: Sequence[object]) -> _Node:
        key, item = self.node(args[0] if args else str), self.node(args[1] if args else Any)
        schema: Schema = {"type": "object"}
        if item.schema:
            schema["additionalProperties"] = item.schema

        def read(value: object, path: str, reading: Reading) -> object:
            if not isinstance(value, dict):
                raise UnfitError(f"{place(path)} should be an object, not {kind_of(value)}")
            # A key is text in JSON, whatever it stands for.
            keys = every([functools.partial(key.read, name, f"{path}[{name!r}]", Reading(lax=True)) for name in value])
            return dict(
                zip(
                    keys,
                    every(
                        [functools.partial(item.read, one, f"{path}[{name!r}]", reading) for name, one in value.items()]
                    ),
                    strict=True,
                )
            )

        return _Node(schema, read)

    # ---- classes

    def _named(self, key: object, name: str, build: Callable[[], _Node]) -> _Node:
        """A definition, made once; what is inside may refer to it."""
        known = self._names.get(key)
        if known is None:
            known = self._fresh(name)
            self._names[key] = known
            node = build()
            self._defs[known], self._reads[known] = node.schema, node.read
        chosen, reads = known, self._reads

        def read(value: object, path: str, reading: Reading) -> object:
            # Looked up late: the class may contain itself.
            return reads[chosen](value, path, reading)

        return _Node({"$ref": f"#/$defs/{chosen}"}, read)

    def _fresh(self, name: str) -> str:
        name = "".join(char if char.isalnum() else "_" for char in name) or "Type"
        taken = {*self._defs, *self._names.values()}
        return next(
            one for number in range(1, 10**6) if (one := name if number == 1 else f"{name}_{number}") not in taken
        )

    def _record(self, note: object, cls: type) -> _Node:
        try:
            fields = fields_of(note, cls)
        except NameError as error:
            raise UsageError(
                f"{self._what}: an annotation of {name_of(cls)} cannot be resolved: {error}",
                hint="Define what it names at the top of its module.",
            ) from None
        about, told = _documented(cls)
        nodes = [(field, self.node(field.type)) for field in fields]
        properties: dict[str, object] = {}
        config: Any = getattr(cls, "__struct_config__", None)
        if config is not None and config.tag is not None:
            properties[config.tag_field] = _enumerated([config.tag])
        for field, node in nodes:
            schema = dict(node.schema)
            if "description" not in schema and field.name in told:
                schema["description"] = told[field.name]
            if field.default is not dataclasses.MISSING and (plain := _plain_default(field.default)):
                schema["default"] = plain[0]
            properties[field.key] = schema
        optional = {field.key for field in fields if not field.required}
        required = [name for name in properties if name not in optional]
        whole: Schema = {"type": "object", "properties": properties, "required": required}
        if about:
            whole = {"description": about, **whole}
        if config is not None and config.forbid_unknown_fields:
            whole["additionalProperties"] = False
        return _Node(whole, functools.partial(record, cls, [(field, node.read) for field, node in nodes]))

    def _pydantic(self, note: object, cls: type | None) -> _Node:
        self._check_kept(note)
        pydantic: Any = sys.modules["pydantic"]
        try:
            adapter = pydantic.TypeAdapter(note)
            schema: Schema = adapter.json_schema(ref_template="#/$defs/{model}")
        except pydantic.errors.PydanticUserError as error:
            raise self._refused(note, str(error).partition("\n")[0]) from None
        defs: Any = schema.pop("$defs", {})
        read = functools.partial(validated, adapter)
        if cls is None:
            return _Node(self._adopted(schema, defs), read)
        return self._named(note, cls.__name__, lambda: _Node(self._adopted(schema, defs), read))

    def _check_kept(self, note: object) -> None:
        for cls in named_classes([note]):
            if is_record(cls) or typing.is_typeddict(cls) or issubclass(cls, enum.Enum):
                continue
            if cls.__module__ not in _KEPT_MODULES:
                raise self._refused(note, f"the log cannot keep a {cls.__module__}.{cls.__qualname__}")

    def _adopted(self, schema: Schema, defs: Mapping[str, object]) -> Schema:
        """Take over foreign definitions, under other names where theirs are taken."""
        names: dict[str, str] = {}
        for name, part in defs.items():
            names[name] = name if self._defs.get(name) == part else self._fresh(name)
            self._defs.setdefault(names[name], {})
        renamed = functools.partial(_with_refs, names=names)
        for name, part in defs.items():
            self._defs[names[name]] = renamed(part)
        return typing.cast("Schema", renamed(schema))

    def _refused(self, note: object, why: str = "") -> UsageError:
        reason = f": {why}" if why else ""
        return UsageError(
            f"{self._what} cannot be {name_of(note)}{reason}",
            hint="Use a dataclass, a msgspec Struct, a NamedTuple, a TypedDict, a pydantic model, an enum of texts, "
            "plain types, and lists, dicts and unions of them.",
        )


# ---- small parts ----------------------------------------------------------------------------------------------------


def _stripped(note: object) -> tuple[object, list[object]]:
    """A type without what stands around it, and the metadata, innermost first."""
    metadata: list[object] = []
    while True:
        origin = typing.get_origin(note)
        if origin is typing.Annotated:
            inner, *more = typing.get_args(note)
            note, metadata = inner, [*metadata, *more]
        elif getattr(origin, "__name__", getattr(origin, "_name", "")) in _QUALIFIERS:
            note = typing.get_args(note)[0]
        elif isinstance(note, typing.NewType):
            note = note.__supertype__
        else:
            return note, metadata


_QUALIFIERS: Final = frozenset({"Required", "NotRequired", "ReadOnly", "Final", "ClassVar"})


def _annotated(note: object, metadata: Sequence[object]) -> Any:
    return typing.Annotated[(note, *metadata)]


def _said_by(metadata: object) -> str:
    """The description that an annotation's metadata gives: a text, `Doc`, msgspec's Meta, pydantic's Field."""
    if isinstance(metadata, str):
        return metadata
    for name in ("description", "documentation"):
        text = getattr(metadata, name, None)
        if isinstance(text, str):
            return text
    return ""


def _documented(cls: type) -> tuple[str, dict[str, str]]:
    doc = cls.__dict__.get("__doc__")
    # What dataclasses and NamedTuples write themselves says nothing.
    if not isinstance(doc, str) or doc.startswith(f"{cls.__name__}("):
        return "", {}
    return described(doc)


def _plain_default(value: object) -> list[object]:
    """A default as JSON has it, in a list; nothing where JSON has no form for it."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, str | int | float | bool):
        return [value]
    return []


def _enumerated(values: Sequence[object]) -> Schema:
    kinds = list(dict.fromkeys(kind_of(value) for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": list(values)}


def _branches(schema: Schema) -> list[object]:
    inner = schema.get("anyOf")
    return inner if isinstance(inner, list) and len(schema) == 1 else [schema]


def _reachable(schema: Schema, defs: Mapping[str, object]) -> Schema:
    found: set[str] = set()
    waiting: list[object] = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            ref = part.get("$ref")
            name = ref.removeprefix("#/$defs/") if isinstance(ref, str) else ""
            if name in defs and name not in found:
                found.add(name)
                waiting.append(defs[name])
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return {name: defs[name] for name in defs if name in found}


def _with_refs(part: object, names: Mapping[str, str]) -> object:
    if isinstance(part, dict):
        found = {key: _with_refs(item, names) for key, item in part.items()}
        ref = part.get("$ref")
        if isinstance(ref, str):
            name = ref.removeprefix("#/$defs/")
            found["$ref"] = f"#/$defs/{names.get(name, name)}"
        return found
    return [_with_refs(item, names) for item in part] if isinstance(part, list) else part
