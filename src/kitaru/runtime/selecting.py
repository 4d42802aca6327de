"""What a selector means, alike for every command and call that takes one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from kitaru.errors import AmbiguousError, DecodeError, NotFoundError
from kitaru.runtime import history as histories
from kitaru.runtime.keys import name_of
from kitaru.store import codec
from kitaru.store.events import Blob, BoundaryEvent, Copied, LlmAttempted, Overridden, Reused
from kitaru.store.protocol import Recorded

_BOUNDARY: Final = msgspec.msgpack.Decoder(BoundaryEvent)
_VALUES: Final = frozenset({"now", "uuid", "random", "log"})


class _Choice:
    """A boundary that a selector may mean."""

    __slots__ = ("inputs", "key", "kind", "name", "numbers", "seq")

    def __init__(self, key: str) -> None:
        self.key = key
        self.name = name_of(key)
        self.kind = ""
        self.seq = 0
        self.numbers: set[int] = set()
        self.inputs: Blob = b""

    @property
    def inside(self) -> str:
        """The key of the checkpoint that it was called in."""
        return checkpoint_around(self.key)

    @property
    def saved(self) -> str:
        """The name of what it saved."""
        if self.kind != "save" or not isinstance(self.inputs, bytes) or not self.inputs:
            return ""
        try:
            inputs: Any = codec.decoder()(self.inputs)
        except DecodeError:
            return ""
        return str(inputs[0])


def checkpoint_around(key: str) -> str:
    """The key of the checkpoint that a boundary was called in; empty for one of the flow's own."""
    parent, inside, _ = key.rpartition("/")
    return parent.rpartition(">")[0] if inside and ">" in parent else ""


def selected(run: str, events: Iterable[Recorded], selector: str) -> str:
    """The key of the one boundary that a selector means.

    It is a key, the number of one of the boundary's events, its name, or the name of what was saved. A name means the
    flow's own boundary before one that was called in a checkpoint.

    Args:
        run: The run's id, for errors.
        events: Its log.
        selector: As it was typed; `checkpoint.` in front of it is left out.

    Raises:
        NotFoundError: It means none.
        AmbiguousError: It means several; the message lists them.
    """
    selector = selector.removeprefix("checkpoint.")
    choices = _choices(events)
    found = _found(choices, selector)
    if len(found) == 1:
        return found[0].key
    if not found:
        names = ", ".join(dict.fromkeys(c.name for c in choices if c.kind not in _VALUES))
        raise NotFoundError(f"run {run} has no boundary {selector!r}", hint=f"It has: {names or 'none yet'}.")
    listed = "\n".join(f"  event {c.seq}: {c.key}({histories.shown(c.inputs)})" for c in found)
    raise AmbiguousError(
        f"{selector!r} matches {len(found)} boundaries of run {run}:\n{listed}", hint="Name one by its event number."
    )


def events_of(events: Iterable[Recorded], key: str) -> list[BoundaryEvent | Overridden]:
    """The events of one boundary, those copied from a replay's source included where they were reused."""
    copies = {r.seq: r.event for r in events if isinstance(r.event, Copied)}
    found: list[BoundaryEvent | Overridden] = []
    for recorded in events:
        event = recorded.event
        if isinstance(event, Reused) and event.key == key:
            found.append(_BOUNDARY.decode(copies[event.seq].event))
        elif isinstance(event, BoundaryEvent | Overridden) and event.key == key:
            found.append(event)
    return found


def _found(choices: list[_Choice], selector: str) -> list[_Choice]:
    bare = not any(sign in selector for sign in "[/>")
    named = [c for c in choices if c.name == selector]
    own = [c for c in named if not c.inside] or named
    # The key of a name's first boundary is the bare name: a choice only where there is no other of that name.
    if bare and own:
        return own
    key = selector.removesuffix("[0]")
    if exact := [c for c in choices if c.key in (selector, key)]:
        return exact
    if selector.isdecimal() and (numbered := [c for c in choices if int(selector) in c.numbers]):
        return numbered
    return [c for c in choices if c.saved == selector][-1:]


def _choices(events: Iterable[Recorded]) -> list[_Choice]:
    own: dict[str, _Choice] = {}
    copied: dict[str, _Choice] = {}
    copies: dict[int, BoundaryEvent] = {}

    def take(found: dict[str, _Choice], key: str, seq: int, event: BoundaryEvent | None) -> _Choice:
        # A checkpoint that the process died in has no event of its own yet, but what was called in it does.
        if (around := checkpoint_around(key)) and around not in found:
            take(found, around, seq, None).numbers.clear()
        choice = found.setdefault(key, _Choice(key))
        choice.seq = seq
        choice.numbers.add(seq)
        if event is not None:
            choice.kind, choice.inputs = event.kind, event.inputs or choice.inputs
        return choice

    for seq, _, event in events:
        if isinstance(event, Copied):
            inner: BoundaryEvent = _BOUNDARY.decode(event.event)
            copies[seq] = inner
            take(copied, inner.key, seq, inner)
        elif isinstance(event, Reused):
            take(own, event.key, seq, copies.get(event.seq)).numbers.add(event.seq)
        elif isinstance(event, Overridden):
            take(own, event.key, seq, None).kind = event.kind
        elif isinstance(event, LlmAttempted):
            if event.key in own:
                own[event.key].numbers.add(seq)
        elif isinstance(event, BoundaryEvent):
            take(own, event.key, seq, event)
    # A replay's log may also hold what it never came to.
    return list((own or copied).values())
