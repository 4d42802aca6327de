"""Objects with named fields: taken apart into fields, and put together again without running their constructors.

What an object holds besides its fields goes into `rest`: `dict` has attributes set by hand, and for pydantic models
`set`, `extra` and `private` are what pydantic keeps beside the fields.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from kitaru.errors import DecodeError
from kitaru.store.codec.classes import is_namedtuple, is_pydantic, is_record

Fields: TypeAlias = dict[str, object]
Rest: TypeAlias = dict[str, Any]
TakeApart: TypeAlias = Callable[[Any], tuple[Fields, Rest | None]]
PutTogether: TypeAlias = Callable[[Fields, Rest], object]


# ---- apart


@functools.lru_cache(maxsize=4096)
def taker(cls: Any) -> TakeApart | None:
    """How to take an instance of `cls` apart; None if it is no record."""
    if not is_record(cls):
        return None
    if is_namedtuple(cls):
        names: tuple[str, ...] = cls._fields
        return lambda value: (dict(zip(names, value, strict=True)), None)
    if is_pydantic(cls):
        return _pydantic_taker(cls)
    if issubclass(cls, msgspec.Struct):
        return _attribute_taker(cls, cls.__struct_fields__)
    return _attribute_taker(cls, tuple(field.name for field in dataclasses.fields(cls)))


def _attribute_taker(cls: Any, names: tuple[str, ...]) -> TakeApart:
    known = frozenset(names)

    def take(value: Any) -> tuple[Fields, Rest | None]:
        attributes = getattr(value, "__dict__", None)
        if attributes is not None and len(attributes) == len(names) and attributes.keys() == known:
            return {name: attributes[name] for name in names}, None
        fields = {}
        for name in names:
            try:
                fields[name] = getattr(value, name)
            except AttributeError:  # declared, never set
                continue
        if not attributes:
            return fields, None
        extra = {
            name: item
            for name, item in attributes.items()
            if name not in known and not name.startswith("__") and not _is_cache(cls, name)
        }
        return fields, {"dict": extra} if extra else None

    return take


def _is_cache(cls: type, name: str) -> bool:
    return any(isinstance(base.__dict__.get(name), functools.cached_property) for base in cls.__mro__)


def _pydantic_taker(cls: Any) -> TakeApart:
    names: tuple[str, ...] = tuple(cls.__pydantic_fields__)

    def take(value: Any) -> tuple[Fields, Rest | None]:
        attributes = value.__dict__
        fields = {name: attributes[name] for name in names if name in attributes}
        rest: Rest = {}
        if value.__pydantic_fields_set__ != fields.keys():
            rest["set"] = sorted(value.__pydantic_fields_set__)
        if value.__pydantic_extra__:
            rest["extra"] = value.__pydantic_extra__
        if value.__pydantic_private__:
            rest["private"] = value.__pydantic_private__
        return fields, rest or None

    return take


# ---- together


@functools.lru_cache(maxsize=4096)
def builder(cls: Any) -> PutTogether:
    """How to put an instance of `cls` together. Missing fields get their defaults, unknown ones are dropped."""
    if is_namedtuple(cls):
        return _namedtuple_builder(cls)
    if is_pydantic(cls):
        return _pydantic_builder(cls)
    if issubclass(cls, msgspec.Struct):
        return _struct_builder(cls)
    return _dataclass_builder(cls)


def _missing(cls: type, name: str) -> DecodeError:
    return DecodeError(
        f"the recorded {cls.__qualname__} has no field {name!r}, and the class has no default for it",
        hint=f"Give {cls.__qualname__}.{name} a default value.",
    )


def _namedtuple_builder(cls: Any) -> PutTogether:
    names: tuple[str, ...] = cls._fields
    defaults: Mapping[str, object] = cls._field_defaults

    def build(fields: Fields, _: Rest) -> object:
        items = []
        for name in names:
            if name in fields:
                items.append(fields[name])
            elif name in defaults:
                items.append(defaults[name])
            else:
                raise _missing(cls, name)
        return tuple.__new__(cls, items)

    return build


def _dataclass_builder(cls: Any) -> PutTogether:
    declared = dataclasses.fields(cls)
    names = frozenset(field.name for field in declared)
    # Straight into __dict__ only where no descriptor would be passed by.
    direct = getattr(cls, "__dictoffset__", 0) != 0 and not any(
        hasattr(type(base.__dict__.get(name)), "__set__") for base in cls.__mro__ for name in names
    )
    new, set_attribute = object.__new__, object.__setattr__

    def build(fields: Fields, rest: Rest) -> object:
        value = new(cls)
        if direct and fields.keys() == names:
            value.__dict__.update(fields)
        else:
            for field in declared:
                if field.name in fields:
                    set_attribute(value, field.name, fields[field.name])
                elif field.default is not dataclasses.MISSING:
                    set_attribute(value, field.name, field.default)
                elif field.default_factory is not dataclasses.MISSING:
                    set_attribute(value, field.name, field.default_factory())
                elif field.init:
                    raise _missing(cls, field.name)
        _set_extra(value, names, rest)
        return value

    return build


def _set_extra(value: object, names: frozenset[str], rest: Rest) -> None:
    extra: dict[str, object] | None = rest.get("dict")
    attributes = getattr(value, "__dict__", None)
    if extra and attributes is not None:
        attributes.update((name, item) for name, item in extra.items() if name not in names)


def _struct_builder(cls: Any) -> PutTogether:
    declared = msgspec.structs.fields(cls)
    names = frozenset(field.name for field in declared)
    required = [field.name for field in declared if field.required]
    # A Struct can only be made by its own constructor. That runs none of the user's code but __post_init__, so where
    # there is one, an heir without it is made and then declared to be the class itself: their layouts are the same.
    make = cls
    if hasattr(cls, "__post_init__"):
        config = cls.__struct_config__
        body = {"__post_init__": lambda _: None, "__module__": __name__, "__qualname__": "<blank>"}
        options = {"dict": config.dict, "weakref": config.weakref, "gc": config.gc, "frozen": config.frozen}
        make = type(cls)("blank", (cls,), body, **options)
    set_class = object.__dict__["__class__"].__set__

    def build(fields: Fields, rest: Rest) -> object:
        known = fields if fields.keys() <= names else {name: fields[name] for name in names if name in fields}
        for name in required:
            if name not in known:
                raise _missing(cls, name)
        value: object = make(**known)
        if make is not cls:
            set_class(value, cls)
        _set_extra(value, names, rest)
        return value

    return build


def _pydantic_builder(cls: Any) -> PutTogether:
    declared = dict(cls.__pydantic_fields__)
    private = dict(cls.__private_attributes__)
    set_attribute = object.__setattr__

    def build(fields: Fields, rest: Rest) -> object:
        values: Fields = {}
        for name, field in declared.items():
            if name in fields:
                values[name] = fields[name]
            elif field.is_required():
                raise _missing(cls, name)
            else:
                values[name] = field.get_default(call_default_factory=True, validated_data=values)
        value = cls.__new__(cls)
        set_attribute(value, "__dict__", values)
        extra = dict(rest.get("extra", ())) if cls.model_config.get("extra") == "allow" else None
        set_attribute(value, "__pydantic_extra__", extra)
        known = values if extra is None else values.keys() | extra.keys()
        set_attribute(value, "__pydantic_fields_set__", {name for name in rest.get("set", fields) if name in known})
        hidden: Fields | None = None
        if private:
            hidden = {}
            kept = rest.get("private", {})
            for name, attribute in private.items():
                if name in kept:
                    hidden[name] = kept[name]
                elif attribute.default_factory is not None or repr(attribute.default) != "PydanticUndefined":
                    hidden[name] = attribute.get_default()
        set_attribute(value, "__pydantic_private__", hidden)
        return value

    return build
