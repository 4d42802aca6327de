"""Parsed JSON to typed values: what somebody typed at a shell, as the function's annotations want it."""

from __future__ import annotations

import inspect
import pathlib
import sys
import types
import typing
from typing import Any

import msgspec

from kitaru.errors import UsageError
from kitaru.store.codec.classes import is_namedtuple, is_pydantic


def from_json(value: object, annotation: object, *, name: str = "value") -> object:
    """A JSON value as what the annotation names.

    Scalars given as text are read ("5" as int, ISO 8601 as datetime), an object becomes a dataclass, Struct,
    NamedTuple, TypedDict or pydantic model, with their own checks.

    Args:
        value: What a JSON parser returned.
        annotation: The type wanted; without one (or with Any or object) the value is returned as it is.
        name: What error messages call the value.

    Raises:
        UsageError: It does not fit, or the type cannot be written in JSON; names the field.
    """
    if annotation is inspect.Parameter.empty or annotation is Any or annotation is object:
        return value
    if annotation is str and type(value) is int:
        return str(value)
    if isinstance(annotation, type) and isinstance(value, dict) and is_namedtuple(annotation):
        return _namedtuple(value, annotation, name)
    try:
        wanted: Any = annotation
        return msgspec.convert(value, wanted, strict=False, dec_hook=_convert)
    except msgspec.ValidationError as cause:
        raise UsageError(_named(str(cause), name), hint=f"It should be {_shown(annotation)}.") from cause
    except (TypeError, NotImplementedError) as cause:
        if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
            return _first_that_fits(value, annotation, name)
        raise UsageError(
            f"{name}: {_shown(annotation)} cannot be given as JSON", hint="Start the run from Python instead."
        ) from cause
    except RecursionError:
        raise UsageError(f"{name} is nested too deeply") from None


def _first_that_fits(value: object, annotation: object, name: str) -> object:
    """For unions that msgspec does not take, such as one of two dataclasses."""
    reasons = []
    for option in typing.get_args(annotation):
        try:
            return from_json(value, option, name=name)
        except UsageError as cause:
            reasons.append(f"as {_shown(option)}: {cause.message}")
    raise UsageError(f"{name} fits none of {_shown(annotation)}; " + "; ".join(reasons))


def _namedtuple(value: dict[str, object], cls: Any, name: str) -> object:
    """Msgspec reads NamedTuples from arrays only; people write their fields' names."""
    hints = typing.get_type_hints(cls)
    for key in value:
        if key not in cls._fields:
            raise UsageError(f"{name} has no field {key!r}", hint=f"It has {', '.join(cls._fields)}.")
    fields = {key: from_json(item, hints.get(key, Any), name=f"{name}.{key}") for key, item in value.items()}
    for key in cls._fields:
        if key not in fields and key not in cls._field_defaults:
            raise UsageError(f"{name}.{key} is missing")
    return cls(**fields)


def _convert(cls: Any, value: Any) -> object:
    """For msgspec: a type that it does not know."""
    if isinstance(cls, type):
        if is_pydantic(cls):
            return _pydantic(cls, value)
        if issubclass(cls, pathlib.PurePath) and isinstance(value, str):
            return cls(value)
        if cls is complex and isinstance(value, (int, float, str)):
            return complex(value)
        if cls is object:
            return value
    raise NotImplementedError


def _pydantic(cls: Any, value: Any) -> object:
    validation_error: type[Exception] = sys.modules["pydantic_core"].ValidationError
    try:
        return cls.model_validate(value)
    except validation_error as cause:
        errors: Any = cause
        lines = []
        for error in errors.errors(include_url=False, include_input=False, include_context=False):
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
            lines.append(f"{path}: {error['msg']}" if path else error["msg"])
        raise ValueError("; ".join(lines)) from cause


def _named(message: str, name: str) -> str:
    """Msgspec says "Expected `int`, got `str` - at `$.pages[0]`"; here the field comes first."""
    text, at, path = message.rpartition(" - at `$")
    if not at:
        text, path = message, "`"
    return f"{name}{path[:-1]}{'' if text.startswith('.') else ': '}{text}"


def _shown(annotation: object) -> str:
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__qualname__
    return str(annotation).replace("typing.", "")
