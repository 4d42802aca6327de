"""Faults that the stand-in server plays: what goes wrong, how often for one prompt, for which prompts."""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from kitaru.errors import UsageError

FaultKind: TypeAlias = Literal[
    "429", "500", "503", "529", "quota", "context",
    "malformed", "truncated", "html", "error-in-200", "error-in-stream", "drop", "slow", "hang",
    "refusal", "filter", "empty",
    "invalid-json", "fenced-json", "missing-key", "wrong-type", "bad-arguments",
    "echo-error", "echo-error-400", "echo-header", "echo-body", "echo-stream",
]  # fmt: skip
"""What can go wrong.

`429` with Retry-After, or what the provider has in its place; `500`, `503`; `529`: overloaded, in the provider's own
words and status; `quota`: a refusal that waiting does not cure; `context`: the prompt is too long.

`malformed`: JSON that breaks off; `truncated`: all but the end, a stream's end marker; `html`: a web page;
`error-in-200`; `error-in-stream`: after half of it, in a plain answer like `error-in-200`; `drop`: the connection
closes in the middle of the body; `slow`: the body comes in pieces with a pause before each; `hang`: no answer at all,
until the client leaves.

`refusal`; `filter`: the content filter; `empty`: no text, the token limit spent.

`invalid-json`, `fenced-json` (JSON in a code fence), `missing-key`, `wrong-type`: an answer of JSON that is none, or
does not fit; `bad-arguments`: the arguments of a tool call are no JSON, where the API has them as text.

The credential that came with the request comes back, as it is, JSON-escaped and in base64: `echo-error` and
`echo-error-400` in a refusal, `echo-header` in headers, the request id's among them, `echo-body` in the answer's text,
`echo-stream` in a stream, split in the middle over two events and over two pieces of one event.
"""

_KINDS: Final = get_args(FaultKind)


class Fault(msgspec.Struct, frozen=True):
    """One fault.

    Args:
        kind: What goes wrong.
        first: For how many requests of a prompt, counted from its first; 0 for each of them.
        retry_after: Seconds that a 429, 503 or 529 asks to wait, and that `slow` pauses.
        match: A regular expression; the fault befalls prompts in whose last message it is found.

    Raises:
        UsageError: Not a kind of fault, a negative number, or no regular expression.
    """

    kind: FaultKind
    first: int = 0
    retry_after: float = 1.0
    match: str = ""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise UsageError(f"{self.kind!r} is not a kind of fault", hint=f"One of {', '.join(_KINDS)}.")
        if self.first < 0 or not self.retry_after >= 0:
            raise UsageError(f"fault {self.kind}: numbers may not be negative")
        try:
            re.compile(self.match)
        except re.error as error:
            raise UsageError(f"fault {self.kind}: {self.match!r} is no regular expression: {error}") from None

    def befalls(self, text: str, nth: int) -> bool:
        """Return whether the `nth` request (from 1) of a prompt is hit."""
        return (self.first == 0 or nth <= self.first) and re.search(self.match, text) is not None


def parse_fault(text: str) -> Fault:
    """Read a fault as written on the command line or in the request header `x-standin-fault`.

    Args:
        text: `KIND[*FIRST][;retry-after=SECONDS][;match=REGEX]`, such as `429*2;retry-after=0.1`. `match` comes last:
            all that follows belongs to it.

    Raises:
        UsageError: It cannot be read.
    """
    settings, _, match = text.partition(";match=")
    head, *rest = settings.split(";")
    kind, star, first = head.partition("*")
    wait = 1.0
    try:
        for setting in rest:
            name, _, value = setting.partition("=")
            if name.strip() != "retry-after":
                raise UsageError(f"fault {text!r}: {name!r} is not known", hint="Known are retry-after and match.")
            wait = float(value)
        return Fault(_kind(kind.strip()), int(first) if star else 0, wait, match)
    except ValueError:
        raise UsageError(
            f"the fault {text!r} cannot be read", hint="KIND[*FIRST][;retry-after=SECONDS][;match=REGEX]"
        ) from None


def _kind(text: str) -> FaultKind:
    for kind in _KINDS:
        if kind == text:
            found: FaultKind = kind
            return found
    raise UsageError(f"{text!r} is not a kind of fault", hint=f"One of {', '.join(_KINDS)}.")
