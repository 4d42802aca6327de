"""What a stand-in server was asked: exact counts by prompt, and the journal on disk."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from kitaru.errors import UsageError

Ending: TypeAlias = Literal["answered", "abandoned"]

_TEXT_SHOWN = 120


class PromptCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of one prompt.

    Args:
        digest: Of all its messages.
        text: The beginning of its last message.
        total: How many arrived: the sum of the three others.
        finished: How many were answered in full, faults included.
        abandoned: How many clients left before their answer was out.
        in_flight: How many are under way.
    """

    digest: str
    text: str
    total: int = 0
    finished: int = 0
    abandoned: int = 0
    in_flight: int = 0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """All requests; by prompt in the order of first arrival, and how many each provider got."""

    total: int = 0
    finished: int = 0
    abandoned: int = 0
    in_flight: int = 0
    prompts: tuple[PromptCounts, ...] = ()
    providers: dict[str, int] = {}


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A request that came in, understood or not.

    Args:
        name: `standin-<n>`, where it was understood; empty else.
        provider: Whose API was asked.
        path: Of the URL.
        query: Its parameters; a key among them is masked.
        headers: By lower-case name; the credential is masked.
        credential: The credential's SHA-256, in hexadecimal; empty where none came.
        raw: The body.
        body: The body decoded; None where it is no JSON.
    """

    name: str
    provider: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    credential: str
    raw: bytes
    body: object


class Entry(msgspec.Struct, frozen=True):
    """One request under way.

    Args:
        name: `standin-<n>`, also its `x-request-id`.
        digest: Of its prompt.
        nth: Which request of its prompt it is, from 1.
        since: The reset that was the last when it came; earlier ones no longer count.
    """

    name: str
    digest: str
    nth: int
    since: int


class _Line(msgspec.Struct, omit_defaults=True):
    at: float
    event: Literal["arrived", "answered", "abandoned"]
    id: str
    digest: str
    nth: int
    model: str = ""
    text: str = ""
    status: int = 0
    fault: str = ""


class _Tally:
    __slots__ = ("abandoned", "arrived", "finished", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.arrived = self.finished = self.abandoned = 0


class Ledger:
    """Counts requests. Safe from any thread.

    Args:
        journal: A file to append to; made where it does not exist.
        keep: Whether the requests themselves are kept.

    Raises:
        UsageError: The journal cannot be opened.
    """

    def __init__(self, journal: Path | None = None, *, keep: bool = False) -> None:
        self._lock = threading.Lock()
        self._came = threading.Condition(self._lock)
        self._keep = keep
        self._seen: list[Seen] = []
        self._providers: dict[str, int] = {}
        self._tallies: dict[str, _Tally] = {}
        self._names = 0
        self._resets = 0
        self._file: int | None = None
        if journal is not None:
            try:
                self._file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise UsageError(f"the journal {journal} cannot be opened: {error.strerror}") from None

    def arrive(self, digest: str, text: str, model: str, provider: str, seen: Seen) -> Entry:
        """Count a request that has arrived and was understood."""
        with self._came:
            self._names += 1
            self._providers[provider] = self._providers.get(provider, 0) + 1
            if self._keep:
                self._seen.append(msgspec.structs.replace(seen, name=f"standin-{self._names}"))
            tally = self._tallies.setdefault(digest, _Tally(text[:_TEXT_SHOWN]))
            tally.arrived += 1
            entry = Entry(f"standin-{self._names}", digest, tally.arrived, self._resets)
            self._write(_Line(time.time(), "arrived", entry.name, digest, entry.nth, model, tally.text))
            self._came.notify_all()
            return entry

    def note(self, seen: Seen) -> None:
        """Keep a request that was not understood; it counts for nothing."""
        if self._keep:
            with self._lock:
                self._seen.append(seen)

    def seen(self) -> tuple[Seen, ...]:
        """Return all requests that were kept, in the order of arrival."""
        with self._lock:
            return tuple(self._seen)

    def wait_for(self, count: int, timeout: float) -> bool:
        """Wait until so many requests have arrived since the last reset; False where the time is over before."""
        with self._came:
            return self._came.wait_for(lambda: sum(self._providers.values()) >= count, timeout)

    def leave(self, entry: Entry, ending: Ending, status: int, fault: str = "") -> None:
        """Count the end of a request."""
        with self._lock:
            self._write(_Line(time.time(), ending, entry.name, entry.digest, entry.nth, status=status, fault=fault))
            if entry.since != self._resets:
                return
            tally = self._tallies[entry.digest]
            if ending == "answered":
                tally.finished += 1
            else:
                tally.abandoned += 1

    def counts(self) -> Counts:
        """Return all counts at one moment."""
        with self._lock:
            prompts = tuple(
                PromptCounts(
                    digest=digest,
                    text=tally.text,
                    total=tally.arrived,
                    finished=tally.finished,
                    abandoned=tally.abandoned,
                    in_flight=tally.arrived - tally.finished - tally.abandoned,
                )
                for digest, tally in self._tallies.items()
            )
            providers = dict(self._providers)
        return Counts(
            total=sum(prompt.total for prompt in prompts),
            finished=sum(prompt.finished for prompt in prompts),
            abandoned=sum(prompt.abandoned for prompt in prompts),
            in_flight=sum(prompt.in_flight for prompt in prompts),
            prompts=prompts,
            providers=providers,
        )

    def reset(self) -> None:
        """Forget all counts. Request names go on; requests under way are no longer counted."""
        with self._lock:
            self._tallies.clear()
            self._providers.clear()
            self._seen.clear()
            self._resets += 1

    def close(self) -> None:
        """Close the journal."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _write(self, line: _Line) -> None:
        if self._file is not None:
            # One write to a file opened for appending: lines of several servers do not mix, and no buffer can be lost.
            os.write(self._file, msgspec.json.encode(line) + b"\n")
