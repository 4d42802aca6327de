"""What servers get wrong in good answers, put right before anybody reads them: JSON that no reader takes, calls of no
tool, thinking written into the text."""

from __future__ import annotations

import json
import math
import re
from typing import Final

import msgspec

from kitaru.adapters.message import assistant
from kitaru.adapters.reply import Reply

_SURROGATE: Final = (b"\\ud", b"\\uD")

_HIGH_AT_END: Final = re.compile(rb'((?<!\\)(?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2})(?=")')
_LOW_AT_START: Final = re.compile(rb'(?<=")(?=\\u[dD][c-fC-F][0-9a-fA-F]{2})')


def readable(body: bytes) -> bytes:
    """Return a body as strict JSON: half a character becomes U+FFFD; NaN and numbers without end become null; line
    breaks in strings are escaped.

    Args:
        body: JSON from outside. One that is strict, or no JSON at all, comes back as it is.
    """
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            body = body.decode("utf-8", "replace").encode()
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        pass
    else:
        return body
    try:
        value = _LENIENT.decode(body.removeprefix(b"\xef\xbb\xbf").decode())
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return body
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


_LENIENT: Final = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite, strict=False)


class EventMender:
    """Makes the events of one stream readable. A surrogate pair that two events share becomes one character."""

    def __init__(self) -> None:
        self._half = b""

    def readable(self, data: bytes) -> bytes:
        """Return an event's data as `readable` does."""
        if not any(mark in data for mark in _SURROGATE):
            return readable(data)
        if self._half:
            data, joined = _LOW_AT_START.subn(self._half.replace(b"\\", b"\\\\"), data, count=1)
            if joined:
                self._half = b""
        found = _HIGH_AT_END.search(data)
        if found is not None:
            self._half = found[2]
            data = data[: found.start(2)] + data[found.end(2) :]
        return readable(data)


_BEATS: Final = (b"null", b"true", b"ok", b"ping", b"keep-alive", b"keepalive", b"heartbeat")
_HEARTBEATS: Final = frozenset(
    {b"", b'""', b"[]", *(form % beat for beat in _BEATS for form in (b"%s", b'"%s"', b"[%s]"))}
)


def is_heartbeat(data: bytes) -> bool:
    """Say whether an event's data says nothing: some servers send such events while an answer is under way."""
    return data[:1] != b"{" and (data.strip().lower() in _HEARTBEATS or data.startswith(b":"))


def usable(reply: Reply, *, thinks_in_text: bool) -> Reply:
    """Return a reply without calls of no tool, and with its thinking apart from its text.

    Args:
        reply: As the provider's adapter read it.
        thinks_in_text: Whether its provider serves models that write their thinking into the text.
    """
    text, reasoning = (reply.text, "") if not thinks_in_text else _apart(reply.text)
    calls = tuple(call for call in reply.tool_calls if call.name.strip())
    if text == reply.text and len(calls) == len(reply.tool_calls):
        return reply
    opaque = reply.message.opaque
    warnings, finish = reply.warnings, reply.finish
    if len(calls) < len(reply.tool_calls):
        # A turn that holds such a call cannot go back as it came.
        opaque = None
        warnings = (*warnings, "a tool call that names no tool was left out")
        finish = "stop" if finish == "tool_calls" and not calls else finish
    made = (
        assistant(text, calls)
        if opaque is None
        else assistant(text, calls, provider=opaque.provider, model=opaque.model, own=opaque.data)
    )
    return msgspec.structs.replace(
        reply, text=text, message=made, finish=finish, warnings=warnings, reasoning=reply.reasoning + reasoning
    )


_TAGS: Final = (
    *((rf"(?i:<{name}\s*>)", rf"(?i:</{name}\s*>)") for name in ("think", "thinking", "seed:think")),
    (r"\[THINK\]", r"\[/THINK\]"),
    ("◁think▷", "◁/think▷"),
)
_THOUGHT: Final = re.compile("|".join(rf"\s*{begin}(.*?)(?:{end}\s*|\Z)" for begin, end in _TAGS), re.DOTALL)
# The opening tag is part of the prompt of some templates. The end of a line or of a sentence before it, or a line break
# or JSON behind it, tells it from a mention.
_THOUGHT_END: Final = re.compile(
    r"(?:(?:\A|\n)[ \t]*TAG\s*|(?<=[.!?])TAG\s*|TAG\s*(?:\n\s*|(?=[{\[])|\Z))".replace("TAG", "</think(?:ing)?>"),
    re.IGNORECASE,
)
_CHANNEL: Final = re.compile(
    r"(?:<\|start\|>\w*)?<\|channel\|>(\w+)[^\n]{0,200}?<\|message\|>(.*?)(?:<\|end\|>|<\|return\|>|<\|call\|>|\Z)",
    re.DOTALL,
)


def _apart(text: str) -> tuple[str, str]:
    """The text of an answer, and the thinking that was written before it."""
    if not any(mark in text for mark in "<[◁"):
        return text, ""
    if text.lstrip().startswith(("<|channel|>", "<|start|>")):
        parts = _CHANNEL.findall(text)
        if parts:
            final = "".join(said for channel, said in parts if channel == "final")
            return final, "".join(said for channel, said in parts if channel != "final")
    at, thoughts = 0, list[str]()
    while (thought := _THOUGHT.match(text, at)) is not None:
        at = thought.end()
        thoughts.append(thought[thought.lastindex or 0].strip())
    if thoughts:
        return text[at:], "\n".join(thoughts)
    if "<think" not in text and (end := _THOUGHT_END.search(text)) is not None:
        before = text[: end.start()]
        if before.count("```") % 2 == 0:
            return text[end.end() :], before.strip()
    return text, ""
