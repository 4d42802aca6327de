"""A request in neutral terms, whatever API it came in by, and the reading of JSON that nobody vouches for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal, TypeAlias, TypeGuard

import msgspec

from kitaru.errors import UsageError

Object: TypeAlias = dict[str, object]

Trouble: TypeAlias = Literal[
    "auth", "invalid", "missing", "context", "rate", "quota", "filter", "server", "overloaded", "upstream"
]
"""What a refusal is about, in neutral terms: each API has its own words, and some their own status, for each."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request gets no answer.

    Args:
        trouble: What it is about.
        status: The HTTP status.
        message: In the provider's words.
        code: The provider's code, where it has one.
        param: The field that is to blame, where the provider names it.
        wait: Seconds that the client is asked to wait; None says nothing of it.
        details: Whatever else the provider tells, in its own form.
    """

    trouble: Trouble
    status: int
    message: str
    code: str | None = None
    param: str | None = None
    wait: float | None = None
    details: object = None


class RefusedError(UsageError):
    """The request is not one that the API takes."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def refused(message: str, code: str | None = None, param: str | None = None, status: int = 400) -> RefusedError:
    """Return the error of a request that the API cannot take as it is."""
    return RefusedError(Problem(trouble="invalid", status=status, message=message, code=code, param=param))


class Arrived(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it came in.

    Args:
        path: Of the URL, without what names the provider.
        query: Its parameters.
        headers: By lower-case name.
        raw: The body.
        payload: The body decoded; None where it is no JSON object.
        model: The model that the URL names.
    """

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw: bytes
    payload: Object | None
    model: str = ""


class Offer(msgspec.Struct, frozen=True):
    """A tool that the model may call.

    Args:
        name: Its name.
        schema: The JSON schema of its arguments.
    """

    name: str
    schema: Object


class Result(msgspec.Struct, frozen=True):
    """What a tool returned.

    Args:
        call: The id of the call; empty where the API has none.
        name: The tool's name, where it is told.
        text: What it said.
    """

    call: str
    name: str
    text: str


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request as understood: its prompt, and how it wants to be answered.

    Args:
        model: The model's name.
        messages: Roles and texts; not empty.
        body: The body.
        limit: The most tokens of the answer.
        stop: Texts before which it ends.
        stream: Whether it comes in pieces.
        tools: What may be called.
        choice: Whether something has to be called.
        named: The tool that has to be called; empty for any.
        parallel: Whether several calls may come at once.
        results: Of the calls just answered; only where they are what the conversation ends with.
        form: Text, any JSON object, or JSON by `schema`.
        schema: The schema.
        thinks: Whether the model shows what it thinks.
    """

    model: str
    messages: tuple[tuple[str, str], ...]
    body: Object
    limit: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    tools: tuple[Offer, ...] = ()
    choice: Literal["auto", "none", "required"] = "auto"
    named: str = ""
    parallel: bool = True
    results: tuple[Result, ...] = ()
    form: Literal["text", "json", "schema"] = "text"
    schema: Object | None = None
    thinks: bool = False

    @property
    def text(self) -> str:
        """The last message's text."""
        return self.messages[-1][1]


def is_object(value: object) -> TypeGuard[Object]:
    """Return whether a value is a JSON object."""
    return isinstance(value, dict)


def among(value: object, words: Collection[str | None]) -> bool:
    """Return whether a value of any kind is one of some words."""
    return (value is None or isinstance(value, str)) and value in words


def within(value: object, *keys: str) -> object:
    """Return what lies at a path of keys; None where it leads nowhere."""
    for key in keys:
        value = value.get(key) if is_object(value) else None
    return value


def child(value: object, *keys: str) -> Object:
    """Return the object at a path of keys; an empty one where there is none."""
    found = within(value, *keys)
    return found if is_object(found) else {}


def objects(value: object) -> list[Object]:
    """Return the objects of a list; none where it is no list."""
    return [each for each in value if is_object(each)] if isinstance(value, list) else []


def string(value: object, default: str = "") -> str:
    """Return a value that is a string, else the default."""
    return value if isinstance(value, str) else default


def strings(value: object) -> tuple[str, ...]:
    """Return a string, or the strings of a list."""
    if isinstance(value, str):
        return (value,)
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def text_of(content: object) -> str:
    """Return the text of a message's content: a string, or the parts that have one."""
    if isinstance(content, list):
        return " ".join(string(part.get("text")) for part in objects(content))
    return string(content)


def number(value: object) -> int | None:
    """Return a value that is a whole number; None else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def numbered(values: object) -> Iterator[tuple[int, Object]]:
    """Yield the objects of a list with their places."""
    if isinstance(values, list):
        yield from ((at, value) for at, value in enumerate(values) if is_object(value))


def offers(tools: object, schema: str = "parameters") -> tuple[Offer, ...]:
    """Return the tools of a list whose objects have a name and, under `schema`, a schema."""
    found = (child(tool, "function") or tool for tool in objects(tools))
    return tuple(
        Offer(name, child(tool, schema)) for tool in found if isinstance(name := tool.get("name"), str) and name
    )
