"""What a user types for a flow's inputs, as values of the flow's own types."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kitaru.cli import wording
from kitaru.errors import UsageError

_MOST: Final = 64 << 20

if TYPE_CHECKING:
    from kitaru.runtime.flow import Flow, FlowWork


def flow_inputs(flow: Flow[..., Any], pairs: Sequence[str], document: str | None) -> dict[str, object]:
    """A flow's inputs by name.

    Args:
        pairs: `name=value` as typed; they win over the document.
        document: A JSON object, `@file`, or `-` for stdin.

    Raises:
        UsageError: A value does not fit, or a parameter is missing or unknown; names the flow's signature.
    """
    work = flow.work
    given: dict[str, object] = {}
    if document is not None:
        for name, value in _object(document).items():
            given[name] = typed(work, name, value)
    for name, text in parsed_pairs(pairs, "--input"):
        given[name] = typed_text(work, name, text)
    try:
        return work.named_inputs((), given)
    except UsageError:
        missing = [
            p.name for p in work.signature.parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in given
        ]  # fmt: skip
        inputs = wording.listed([f"{name}=..." for name in missing])
        raise UsageError(
            f"{work.name} needs {'an input that is' if len(missing) == 1 else 'inputs that are'} not given: {inputs}",
            hint=f"Pass --input {missing[0] if missing else 'name'}=VALUE. The flow is {signature(work)}.",
        ) from None


def parsed_pairs(pairs: Sequence[str], option: str) -> list[tuple[str, str]]:
    """`name=value` arguments, taken apart.

    Raises:
        UsageError: One has no `=` or no name.
    """
    found = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{option} {pair!r} is not NAME=VALUE", hint=f"Write it as {option} name=value.")
        found.append((name, text))
    return found


def typed(work: FlowWork, name: str, value: object) -> object:
    """A value parsed from JSON as the flow's annotation wants it.

    Raises:
        UsageError: There is no such parameter, or the value does not fit it.
    """
    try:
        return work.input_from_json(name, value)
    except UsageError as error:
        raise _with_signature(work, name, error) from None


def typed_text(work: FlowWork, name: str, text: str) -> object:
    """A typed text as the flow's annotation wants it: itself for a str, else JSON where it is JSON."""
    from kitaru.runtime.annotations import hints_of

    if hints_of(work.function).get(name) is str:
        return typed(work, name, text)
    try:
        value = json.loads(text)
    except ValueError:
        return typed(work, name, text)
    except RecursionError:
        raise _too_deep(f"--input {name}") from None
    try:
        return typed(work, name, value)
    except UsageError as error:
        if isinstance(value, str):
            raise
        # `5` may be meant as the text "5", as in `str | None`.
        try:
            return typed(work, name, text)
        except UsageError:
            raise error from None


def json_inputs(work: FlowWork, pairs: Sequence[str]) -> dict[str, object]:
    """`name=value` arguments as values that parse as JSON would give them, each of which fits its parameter.

    Raises:
        UsageError: As `flow_inputs`.
    """
    found: dict[str, object] = {}
    for name, text in parsed_pairs(pairs, "--input"):
        typed_text(work, name, text)
        found[name] = _as_json(work, name, text)
    return found


def _as_json(work: FlowWork, name: str, text: str) -> object:
    from kitaru.runtime.annotations import hints_of

    if hints_of(work.function).get(name) is str:
        return text
    try:
        value: object = json.loads(text)
        work.input_from_json(name, value)
    except (ValueError, UsageError):
        return text
    return value


def _object(document: str) -> dict[str, object]:
    from kitaru.runtime.views.transcript import read_text

    source = "--input-json"
    try:
        if document == "-":
            document, source = stdin_text(), "stdin"
        elif document.startswith("@"):
            source = document[1:]
            document = read_text(Path(source))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} cannot be read: {error}") from None
    try:
        value = json.loads(document)
    except ValueError as error:
        raise UsageError(f"{source} is not JSON: {error}") from None
    except RecursionError:
        raise _too_deep(source) from None
    if not isinstance(value, dict):
        raise UsageError(f"{source} is not a JSON object", hint='Write {"parameter": value, ...}.')
    return value


def stdin_text() -> str:
    """What stands on stdin, up to a limit.

    Raises:
        UsageError: There is more.
    """
    text = sys.stdin.read(_MOST + 1)
    if len(text) > _MOST:
        raise UsageError(f"stdin holds more than {_MOST >> 20} MB")
    return text


def _too_deep(source: str) -> UsageError:
    return UsageError(
        f"{source} is nested too deep", hint="A value may have a few hundred levels of lists and objects."
    )


def signature(work: FlowWork) -> str:
    """The flow as it is called: `writer(topic: str) -> str`."""
    # A script's own types are known under the name that it was loaded by.
    return f"{work.name}{work.signature}".replace(f"{work.module}.", "")


def _with_signature(work: FlowWork, name: str, error: UsageError) -> UsageError:
    if name not in work.signature.parameters:
        return UsageError(f"{work.name} has no input {name!r}", hint=f"The flow is {signature(work)}.")
    message = name + error.message.removeprefix("value") if error.message.startswith("value") else error.message
    return UsageError(message, hint=f"{error.hint or ''} The flow is {signature(work)}.".strip())
