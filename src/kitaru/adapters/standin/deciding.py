"""What to answer: the rules first, then tools, JSON where it is asked for, and a text else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from kitaru.adapters.standin.answers import asked_for_json, digest, made_up, quoted, thought, tokens, words
from kitaru.adapters.standin.asked import Ask, Object, Offer, among
from kitaru.adapters.standin.faults import FaultKind
from kitaru.adapters.standin.options import Options, Rule
from kitaru.adapters.standin.samples import sample, slipped

Finish: TypeAlias = Literal["stop", "length", "tool_calls", "filter"]

REFUSAL: Final = "I'm sorry, but I can't help with that."

ESCAPED: Final = "[[the-credential-json-escaped]]"
"""Stands in an echo for the credential with each of its characters escaped, as only the bytes of a JSON text show."""


class ToolUse(msgspec.Struct, frozen=True):
    """A call of a tool.

    Args:
        seed: What its id is made of: each API has its own shape for those.
        name: The tool's name.
        arguments: As JSON; `bad-arguments` breaks it.
        value: The arguments themselves.
    """

    seed: str
    name: str
    arguments: str
    value: Object


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the model says, in neutral terms.

    Args:
        name: The request's name.
        finish: Why it ended.
        pieces: Its text, as it comes in a stream.
        thinking: What it shows of its thinking.
        refusal: Why it will not answer, in place of a text.
        calls: The tools it calls.
        prompt: Tokens of the prompt, `cached` not among them.
        cached: Tokens of the prompt read from a cache.
        thought: Tokens spent on thinking.
    """

    name: str
    finish: Finish
    pieces: tuple[str, ...] = ()
    thinking: str = ""
    refusal: str = ""
    calls: tuple[ToolUse, ...] = ()
    prompt: int = 0
    cached: int = 0
    thought: int = 0

    @property
    def text(self) -> str:
        """Its text in one piece."""
        return "".join(self.pieces)

    @property
    def output(self) -> int:
        """All the tokens it made, thinking included."""
        return tokens(self.text) + self.thought + sum(tokens(call.arguments) + 8 for call in self.calls)


def decide(options: Options, ask: Ask, name: str, fault: FaultKind | None = None, credential: str = "") -> Answer:
    """Return the answer to a request.

    Args:
        options: How to answer.
        ask: The request.
        name: Its name.
        fault: What goes wrong with the answer's content; other kinds are played elsewhere.
        credential: What came with the request, for a fault that echoes it.
    """
    # Four tokens a message for its frame, as OpenAI's models count them.
    prompt = sum(tokens(text) + 4 for _, text in ask.messages)
    common = {"name": name, "prompt": prompt, "cached": options.cached_tokens}
    match fault:
        case "refusal":
            return msgspec.structs.replace(_told(common, REFUSAL), refusal=REFUSAL, pieces=())
        case "filter":
            return _told(common, "", "filter")
        case "empty":
            return msgspec.structs.replace(_told(common, "", "length"), thought=ask.limit or 16)
        case "echo-body" | "echo-stream":
            return msgspec.structs.replace(_told(common, ""), pieces=_echoed(credential))
        case _:
            pass
    spent, thinking = _thinking(options, ask)
    if spent and ask.limit is not None and ask.limit <= spent:
        return msgspec.structs.replace(
            _told(common, "", "length"), thought=ask.limit, thinking=" ".join(thinking.split(" ")[: ask.limit])
        )
    text, calls = _content(options, ask, name, fault)
    limit = None if ask.limit is None else ask.limit - spent
    finish: Finish = "tool_calls"
    if not calls:
        text, finish = _cut(text, limit, ask.stop)
    return msgspec.structs.replace(_told(common, text, finish), thinking=thinking, thought=spent, calls=calls)


def identity(shape: Literal["call", "toolu", "nine", "plain"], seed: str) -> str:
    """Return the id of a tool call in an API's own shape, the same for the same seed."""
    code = hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    match shape:
        case "call":
            return f"call_{code[:24]}"
        case "toolu":
            return f"toolu_01{code[:22]}"
        case "nine":
            return code[:9]
        case "plain":
            return code[:12]


def signature(*parts: str) -> str:
    """Return what only this server could have put under some texts: by it they are known when they come back."""
    seen = hashlib.blake2b(digest_size=48, person=b"stand-in")
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        seen.update(len(data).to_bytes(8, "big") + data)
    return base64.b64encode(seen.digest()).decode()


def sealed(text: str) -> str:
    """Return a text as a client cannot read it, but the server can."""
    return base64.b64encode(text.encode("utf-8", "surrogatepass")).decode() + "." + signature(text)


def unsealed(data: str) -> str | None:
    """Return a text that this server sealed; None where it did not, or something has changed."""
    body, _, signed = data.partition(".")
    try:
        text = base64.b64decode(body, validate=True).decode("utf-8", "surrogatepass")
    except ValueError:
        return None
    return text if signed == signature(text) else None


def echo(credential: str) -> str:
    """Return a text that holds a credential as it is, JSON-escaped and in base64."""
    return f"{credential} {ESCAPED} {base64.b64encode(credential.encode('utf-8', 'surrogatepass')).decode()}"


def unmarked(data: bytes, credential: str) -> bytes:
    """Return bytes of a JSON text with the credential, each character escaped, where an echo left its mark."""
    escaped = "".join(f"\\u{unit:04x}" for unit in _units(credential))
    return data.replace(ESCAPED.encode(), escaped.encode())


def _units(text: str) -> list[int]:
    data = text.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def _told(common: dict[str, object], text: str, finish: Finish = "stop") -> Answer:
    found = msgspec.convert(common | {"finish": finish}, Answer)
    return msgspec.structs.replace(found, pieces=_pieces(text))


def _pieces(text: str) -> tuple[str, ...]:
    return tuple(f" {word}" if at else word for at, word in enumerate(text.split(" "))) if text else ()


def _echoed(credential: str) -> tuple[str, ...]:
    half = max(1, len(credential) // 2)
    # Once split over two events; then in all its forms within one.
    return ("You", " sent", " me ", credential[:half], credential[half:], ",", f" that is {echo(credential)}", ".")


def _thinking(options: Options, ask: Ask) -> tuple[int, str]:
    """Return the tokens of thinking, and what is shown of it."""
    shown = thought(ask) if ask.thinks else ""
    spent = options.thinking_tokens if options.reasons(ask.model) and not _hasty(ask) else 0
    return max(spent, tokens(shown)), shown


def _hasty(ask: Ask) -> bool:
    reasoning = ask.body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else ask.body.get("reasoning_effort")
    return among(effort, ("none", "minimal"))


def _cut(text: str, limit: int | None, stop: Sequence[str]) -> tuple[str, Finish]:
    for mark in stop:
        text = text.partition(mark)[0] if mark else text
    found = list(re.finditer(r"\S+", text))
    if limit is not None and len(found) > limit:
        return text[: found[limit - 1].end()], "length"
    return text, "stop"


def _content(options: Options, ask: Ask, name: str, fault: FaultKind | None) -> tuple[str, tuple[ToolUse, ...]]:
    rule, said = _rule(options.rules, ask)
    if rule is not None and rule.tool:
        offer = next(offer for offer in ask.tools if offer.name == rule.tool)
        times = rule.times if ask.parallel else 1
        return said, _uses(ask, name, [offer] * times, fault, rule.arguments_for(ask.text))
    if rule is None and not ask.results and (called := _called(ask)):
        return "", _uses(ask, name, called, fault)
    schema = ask.schema if ask.form == "schema" else None
    if ask.form != "schema":
        schema = asked_for_json(ask)
    if ask.form == "text" and schema is None:
        return (said if rule else quoted(ask) if ask.results else made_up(ask)), ()
    if rule is None:
        value = sample(schema or {"type": "object", "properties": {"answer": {}}}, words(ask.text))
        if ask.results and isinstance(value, dict):
            value = {key: quoted(ask) if isinstance(each, str) else each for key, each in value.items()}
        said = msgspec.json.encode(value).decode()
    return _spoiled(said, schema, fault), ()


def _rule(rules: Sequence[Rule], ask: Ask) -> tuple[Rule | None, str]:
    offered = {offer.name for offer in ask.tools} if ask.choice != "none" else set()
    brought = {result.name for result in ask.results}
    for rule in rules:
        said = rule.apply(ask.text)
        if said is not None and (not rule.tool or (rule.tool in offered and rule.tool not in brought)):
            return rule, said
    return None, ""


def _called(ask: Ask) -> list[Offer]:
    """Return the tools to call: those that the prompt names, and where one has to be called, that or the first."""
    if ask.choice == "none" or not ask.tools:
        return []
    if ask.named:
        return [offer for offer in ask.tools if offer.name == ask.named][:1]
    mentioned = [offer for offer in ask.tools if re.search(rf"\b{re.escape(offer.name)}\b", ask.text)]
    if not mentioned and ask.choice == "required":
        mentioned = list(ask.tools[:1])
    return mentioned if ask.parallel else mentioned[:1]


def _uses(
    ask: Ask, name: str, called: Sequence[Offer], fault: FaultKind | None, given: Object | None = None
) -> tuple[ToolUse, ...]:
    found = []
    for at, offer in enumerate(called):
        names = words(ask.text.replace(offer.name, " "))
        made = given if given is not None else sample(offer.schema or {"type": "object"}, names)
        value: Object = made if isinstance(made, dict) else {}
        text = msgspec.json.encode(value).decode()
        if fault == "bad-arguments":
            text = text[: len(text) // 2] + ", oops"
        elif fault in {"missing-key", "wrong-type"}:
            wrong = slipped(value, offer.schema, fault)
            value = wrong if isinstance(wrong, dict) else {}
            text = msgspec.json.encode(value).decode()
        found.append(ToolUse(f"{digest(ask.messages)}{name}{at}", offer.name, text, value))
    return tuple(found)


def _spoiled(text: str, schema: Object | None, fault: FaultKind | None) -> str:
    match fault:
        case "invalid-json":
            return text[: max(1, len(text) - 1)] + ", oops"
        case "fenced-json":
            return f"Here is what you asked for:\n\n```json\n{text}\n```\n\nLet me know if you need more."
        case "missing-key" | "wrong-type":
            try:
                value = msgspec.json.decode(text)
            except msgspec.MsgspecError:
                return text
            return msgspec.json.encode(slipped(value, schema, fault)).decode()
        case _:
            return text
