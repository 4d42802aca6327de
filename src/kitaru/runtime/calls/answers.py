"""The form of an answer: what the model is told of it, and how its text is read."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec

from kitaru.adapters import Message, Output
from kitaru.adapters.schema.answers import unwrapped, without_nulls
from kitaru.adapters.secret import clean
from kitaru.errors import AnswerError, UsageError
from kitaru.runtime.calls.from_json import Reading, UnfitError, kind_of
from kitaru.runtime.calls.shapes import Shape, name_of, shape_of

Description: TypeAlias = dict[str, object]

_BEGINS: Final = "; the answer begins: "
_FENCE: Final = "```"
_MOST_LOOKED_AT: Final = 64
"""Places in an answer where JSON may begin that are tried."""


class Form:
    """How an answer is to be read. Made by `form_of`.

    Attributes:
        type: What `read` gives, for the codec.
        schema: The JSON schema of the answer; None where any object will do.
    """

    __slots__ = ("_keys", "_name", "_shape", "schema", "type")

    def __init__(self, type_: object, name: str, shape: Shape | None, keys: tuple[str, ...]) -> None:
        self.type = type_
        self._name = name
        self._shape = shape
        self._keys = keys
        if shape is not None:
            self.schema: dict[str, object] | None = shape.schema
        else:
            wanted: dict[str, object] = {"properties": {key: {} for key in keys}, "required": list(keys)}
            self.schema = {"type": "object", **wanted} if keys else None

    def output(self) -> Output:
        """Return what a call says of the answer's form."""
        if self._shape is None:
            return Output("json", self.schema)
        return Output("schema", self.schema, self._name, strict=True)

    def describe(self) -> Description:
        """Return what identifies the form, the same in every process: for the call's fingerprint."""
        said: Description = {"kind": "json" if self._shape is None else "schema", "name": self._name}
        if self._keys:
            said["keys"] = list(self._keys)
        if self._shape is not None:
            written = msgspec.json.encode(self.schema, order="sorted")
            said["schema"] = hashlib.blake2b(written, digest_size=16).hexdigest()
        return said

    def read(self, text: str, *, wrapped: bool) -> object:
        """Return the value that an answer's text stands for.

        JSON is found inside a code fence or prose, too; of several values that fit the last one counts. What the type
        calls optional and the answer gives as null was left out. Where nothing else fits, JSON with line breaks in its
        texts or with trailing commas is read, too, and numbers given as text and a list of one value are taken.

        Args:
            text: The answer.
            wrapped: It was asked for as an object around the value (`Fitted.wrapped`).

        Raises:
            AnswerError: It holds no such value; says what does not fit, where, and how the answer begins.
        """
        found = _values_in(text)
        loosely = [*found, *_values_in(_tolerable(text))]
        if not loosely:
            what = "is empty" if not text.strip() else f"holds no JSON ({_why_no_json(text)})"
            raise self._unusable(f"the answer {what}", text)
        problem = ""
        for lax, values in ((False, found), (True, [*loosely, *(one[0] for one in loosely if _is_single(one))])):
            for value in sorted(values, key=lambda value: unwrapped(value) is value) if wrapped else values:
                try:
                    return self._value(value, lax=lax, wrapped=wrapped)
                except UnfitError as error:
                    problem = problem or str(error)
        wanted = "JSON object" if self._shape is None else clean(name_of(self.type), 80)
        raise self._unusable(f"the answer is no {wanted}: {problem}", text)

    def repair(self, text: str, error: AnswerError) -> list[Message]:
        """Return what to append to the conversation so that the model mends its answer.

        Args:
            text: The answer.
            error: What `read` raised for it.
        """
        problem = error.message.partition(_BEGINS)[0]
        asked = (
            f"That cannot be used: {problem}. Answer again, with the JSON alone: the whole of it, mended, "
            "and nothing before or after it."
        )
        # Providers refuse a turn without content.
        said = [Message("assistant", text)] if text.strip() else []
        return [*said, Message("user", asked)]

    def _value(self, value: object, *, lax: bool, wrapped: bool) -> object:
        if self._shape is None:
            if not isinstance(value, dict):
                raise UnfitError(f"it is a JSON {kind_of(value)}")
            missing = [key for key in self._keys if key not in value]
            if missing:
                raise UnfitError(f"the key{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))} "
                    f"{'are' if len(missing) > 1 else 'is'} missing")  # fmt: skip
            return value
        inner = unwrapped(value) if wrapped else value
        try:
            return self._made(inner, lax=lax)
        except UnfitError:
            # Told of a wrapper, a model may still answer with the value alone.
            if inner is value:
                raise
            try:
                return self._made(value, lax=lax)
            except UnfitError:
                pass
            raise

    def _made(self, value: object, *, lax: bool) -> object:
        assert self._shape is not None
        try:
            return self._shape.read(without_nulls(value, self._shape.schema), "", Reading(lax=lax))
        except UnfitError:
            raise
        except RecursionError:
            raise UnfitError("it is nested too deeply") from None
        except (Exception, SystemExit) as error:  # checks of the type's own
            raise UnfitError(f"its type refuses it: {type(error).__name__}: {error}") from error

    def _unusable(self, problem: str, text: str) -> AnswerError:
        begins = f"{_BEGINS}{clean(text, 200)}" if text.strip() else ""
        return AnswerError(
            f"{problem}{begins}", hint="Call again, say in the prompt what is wanted, or ask another model."
        )


def form_of(response_type: object = None, json: bool = False, json_keys: Sequence[str] | None = None) -> Form | None:
    """Return the form that a call asks for, None for text.

    Args:
        response_type: The type of the answer: a dataclass, a Struct, a NamedTuple, a TypedDict, a pydantic model, an
            enum, plain types, and lists, dicts and unions of them. None or `str`: text.
        json: Any JSON object.
        json_keys: A JSON object with at least these keys.

    Raises:
        UsageError: They contradict each other, or values of the type cannot be written as JSON or recorded.
    """
    names = json_keys is None or (not isinstance(json_keys, str) and all(isinstance(key, str) for key in json_keys))
    if not names or (json_keys is not None and not json_keys):
        raise UsageError("json_keys is a list of names, at least one", hint='Such as json_keys=["title", "body"].')
    if response_type is None or response_type is types.NoneType or response_type is str:
        if not json and json_keys is None:
            return None
        if response_type is str:
            raise UsageError("response_type=str asks for text, json for an object", hint="Leave one of them out.")
        return Form(dict[str, Any], "object", None, tuple(dict.fromkeys(json_keys or ())))
    if json or json_keys is not None:
        raise UsageError(
            "response_type says what the answer is like already", hint="Leave json and json_keys out beside it."
        )
    if isinstance(response_type, str):
        raise UsageError(f"response_type={response_type!r} is a text, not a type", hint="Pass the type itself.")
    try:
        # By what it reads as, too: `int | str` equals `str | int`, but is not tried in the same order.
        return _typed_form(response_type, repr(response_type))
    except TypeError as error:
        if "unhashable" not in str(error):
            raise
        return _typed_form.__wrapped__(response_type, "")


@functools.lru_cache(maxsize=256)
def _typed_form(response_type: object, _: str) -> Form:
    shape = shape_of(response_type, "response_type")
    return Form(response_type, _short_name(response_type), shape, ())


def _short_name(response_type: object) -> str:
    """A name of letters, digits and underscores, as schemas' names have to be."""
    origin = typing.get_origin(response_type)
    name = name_of(response_type) if origin is None else getattr(origin, "__name__", "")
    if origin in (typing.Union, types.UnionType, typing.Literal, typing.Annotated):
        name = ""
    kept = "".join(char if char.isascii() and char.isalnum() else "_" for char in name).strip("_")
    return kept[:64] or "answer"


# ---- JSON in a text -------------------------------------------------------------------------------------------------


def _values_in(text: str) -> list[Any]:
    """The JSON values in a text, the last first: all of it, else wherever an object or array begins, and those in code
    fences."""
    text = text.strip().removeprefix("\ufeff")
    try:
        value = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    else:
        # Some models write the object as a text that holds JSON.
        return [value, *reversed(_embedded(value))] if isinstance(value, str) else [value]
    fenced: list[object] = []
    for block in text.split(_FENCE)[1::2]:
        head, _, rest = block.partition("\n")
        inner = rest if head.strip().isalnum() else block.removeprefix("json")
        try:
            fenced.append(msgspec.json.decode(inner.strip()))
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            continue
    return [*reversed(_embedded(text)), *reversed(fenced)]


def _embedded(text: str) -> list[object]:
    """The objects and arrays between words, in order."""
    found: list[object] = []
    at = 0
    for _ in range(_MOST_LOOKED_AT):
        places = [place for place in (text.find("{", at), text.find("[", at)) if place >= 0]
        if not places:
            break
        at = min(places)
        try:
            _, end = _DECODER.raw_decode(text, at)
            found.append(msgspec.json.decode(text[at:end]))
            at = end
        except (ValueError, UnicodeError, RecursionError):
            at += 1
    return found


_TEXT_OR_COMMA: Final = re.compile(r'"(?:\\.|[^"\\])*"|,(?=\s*[}\]])', re.DOTALL)
_CONTROLS: Final = {code: f"\\u{code:04x}" for code in range(32)}


def _tolerable(text: str) -> str:
    """A text whose JSON has no bare line breaks in its texts, and no commas before a closing bracket."""
    return _TEXT_OR_COMMA.sub(lambda found: found[0].translate(_CONTROLS) if found[0] != "," else "", text)


def _is_single(value: object) -> bool:
    return isinstance(value, list) and len(value) == 1


def _not_json(constant: str) -> object:
    raise ValueError(constant)


_DECODER: Final = json.JSONDecoder(parse_constant=_not_json)


def _why_no_json(text: str) -> str:
    try:
        msgspec.json.decode(text.strip())
    except (msgspec.MsgspecError, UnicodeError) as error:
        return clean(str(error), 120)
    except RecursionError:
        return "it is nested too deeply"
    return "it is odd"
