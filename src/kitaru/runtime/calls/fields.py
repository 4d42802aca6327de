"""The fields of a class with named fields, whatever kind of class it is."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

import msgspec

from kitaru.store.codec.classes import is_namedtuple


class Field(msgspec.Struct, frozen=True):
    """One field.

    Args:
        name: What the constructor calls it.
        key: What JSON calls it.
        type: Its annotation, resolved.
        required: Whether it has to be given.
        default: What it is otherwise, `dataclasses.MISSING` where that is nothing fixed.
    """

    name: str
    key: str
    type: object
    required: bool
    default: object = dataclasses.MISSING


def fields_of(note: object, cls: Any) -> list[Field]:
    """Return the fields that a constructor takes, in their order.

    Args:
        note: The class, or one of its parametrised forms.
        cls: The class.

    Raises:
        NameError: An annotation names what cannot be found.
    """
    hints = _hints(note, cls)
    if issubclass(cls, msgspec.Struct):
        return [
            Field(
                one.name, one.encode_name, hints.get(one.name, Any), one.required,
                dataclasses.MISSING if one.default is msgspec.NODEFAULT else one.default,
            )
            for one in msgspec.structs.fields(cls)
        ]  # fmt: skip
    if is_namedtuple(cls):
        defaults = cls._field_defaults
        return [
            Field(name, name, hints.get(name, Any), name not in defaults, defaults.get(name, dataclasses.MISSING))
            for name in cls._fields
        ]
    if typing.is_typeddict(cls):
        return [Field(name, name, hint, _is_required(cls, name, hint)) for name, hint in hints.items()]
    return [
        Field(
            one.name, one.name, hints.get(one.name, Any),
            one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING, one.default,
        )
        for one in dataclasses.fields(cls)
        if one.init
    ]  # fmt: skip


def _is_required(cls: Any, name: str, hint: object) -> bool:
    # The class itself does not know where its annotations were strings.
    origin = typing.get_origin(hint)
    said = getattr(origin, "_name", "")
    if said in ("Required", "NotRequired"):
        return bool(said == "Required")
    return name in cls.__required_keys__


def _hints(note: object, cls: Any) -> dict[str, Any]:
    """Annotations by field, type variables replaced by what a parametrised class says."""
    hints = typing.get_type_hints(cls, include_extras=True)
    variables: Mapping[Any, Any] = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(note), strict=False))
    for base in getattr(cls, "__orig_bases__", ()):
        known = getattr(typing.get_origin(base), "__parameters__", ())
        variables = {**dict(zip(known, typing.get_args(base), strict=False)), **variables}
    return {name: _filled(hint, variables) for name, hint in hints.items()} if variables else hints


def _filled(hint: Any, variables: Mapping[Any, Any]) -> Any:
    if hint in variables:
        return variables[hint]
    open_ones = getattr(hint, "__parameters__", ())
    if open_ones and typing.get_origin(hint) is not None:
        return hint[tuple(variables.get(one, one) for one in open_ones)]
    return hint
