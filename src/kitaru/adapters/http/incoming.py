"""What becomes of an answer's bytes as they arrive: gathered or streamed, masked, and read by the adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from kitaru.adapters.adapter import Adapter
from kitaru.adapters.call import ModelCall
from kitaru.adapters.masking import DeltaMasker, Masker, Pieces, mask_error, mask_reply
from kitaru.adapters.mending import readable, usable
from kitaru.adapters.reply import Delta, Reply
from kitaru.errors import ModelError, ProviderError

# What no API streams in: an answer in one of these is a whole one, most often an error, or from a server that
# cannot stream.
_WHOLE: Final = frozenset({"application/json", "application/problem+json", "text/html"})


class ListenerError(Exception):
    """Whoever listens to a stream failed, not the stream; the listener holds its exception."""


class Incoming(Protocol):
    """Takes the pieces of one body, decompressed."""

    def feed(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            ModelError: An error inside a stream, or what no API promises.
        """
        ...

    def finish(self) -> Reply:
        """Return the reply, after the last piece.

        Raises:
            ModelError: The answer is an error, not whole, or cannot be understood.
        """
        ...


class Listener:
    """Hands the pieces of a streamed answer on, over all attempts of a call.

    Args:
        on_delta: Gets each piece; None where nobody listens.
        on_restart: Told that what was handed out is void: the answer begins anew.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        on_delta: Callable[[Delta], None] | None,
        on_restart: Callable[[], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self._on_delta = on_delta
        self._on_restart = on_restart
        self._clock = clock
        self._told = False
        self.first_at: float | None = None
        """When the first piece of the present attempt arrived."""
        self.failed: Exception | None = None
        """What the listener raised."""

    def restart(self) -> None:
        """A new attempt begins."""
        self.first_at = None
        if self._told:
            self._told = False
            if self._on_restart is not None:
                self._on_restart()

    def arrived(self) -> None:
        """A piece of the answer is here, whether or not it can be shown yet."""
        if self.first_at is None:
            self.first_at = self._clock()

    def tell(self, delta: Delta) -> None:
        """Hand a piece out.

        Raises:
            ListenerError: The listener raised what must not be taken for the connection's failure.
        """
        if self._on_delta is None:
            return
        self._told = True
        try:
            self._on_delta(delta)
        except Exception as error:
            self.failed = error
            raise ListenerError from None


def is_stream(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer to a request for a stream is one."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return 200 <= status < 300 and kind not in _WHOLE


class Whole:
    """A body that is read when all of it is there."""

    def __init__(self, adapter: Adapter, call: ModelCall, status: int, headers: Mapping[str, str], masker: Masker):
        self._adapter, self._call, self._status, self._headers = adapter, call, status, headers
        self._masker = masker
        self._pieces: list[bytes] = []

    def feed(self, piece: bytes) -> None:
        """Take the next piece."""
        self._pieces.append(piece)

    def finish(self) -> Reply:
        """Return the reply.

        Raises:
            ModelError: As `parse_response`.
        """
        good = 200 <= self._status < 300
        echoes = self._masker.answer_bytes if good else self._masker.error_bytes
        body = readable(echoes.mask(b"".join(self._pieces)))
        try:
            reply = self._adapter.parse_response(self._call, self._status, self._headers, body)
            return mask_reply(usable(reply, thinks_in_text=self._adapter.row.thinks_in_text), self._masker)
        except Exception as failed:
            error = _as_model_error(failed, self._call, self._status, self._masker)
        # Raised outside the handler, so that it has no context.
        raise error


class Streamed:
    """A body that is read as it comes."""

    def __init__(
        self,
        adapter: Adapter,
        call: ModelCall,
        status: int,
        headers: Mapping[str, str],
        masker: Masker,
        listener: Listener,
    ) -> None:
        self._call, self._status = call, status
        self._parser = adapter.parse_stream(call, status, headers)
        self._thinks_in_text = adapter.row.thinks_in_text
        self._masker = masker
        self._bytes = Pieces(masker.answer_bytes, b"") if masker.answer_bytes else None
        self._texts = DeltaMasker(masker.answer_texts)
        self._listener = listener

    def feed(self, piece: bytes) -> None:
        """Take the next piece and hand on what it adds.

        Raises:
            ModelError: As `StreamParser.feed`.
        """
        self._read(self._bytes.feed(piece) if self._bytes is not None else piece)

    def finish(self) -> Reply:
        """Return the reply.

        Raises:
            ModelError: As `StreamParser.feed` and `.finish`.
        """
        if self._bytes is not None:
            self._read(self._bytes.finish())
        try:
            reply = mask_reply(usable(self._parser.finish(), thinks_in_text=self._thinks_in_text), self._masker)
        except Exception as failed:
            error = _as_model_error(failed, self._call, self._status, self._masker)
        else:
            for delta in self._texts.finish():
                self._listener.tell(delta)
            return reply
        raise error

    def _read(self, data: bytes) -> None:
        if not data:
            return
        try:
            deltas = self._parser.feed(data)
        except Exception as failed:
            error = _as_model_error(failed, self._call, self._status, self._masker)
        else:
            if deltas:
                self._listener.arrived()
            for delta in deltas:
                shown = self._texts.feed(delta)
                if shown is not None:
                    self._listener.tell(shown)
            return
        raise error


def _as_model_error(failed: Exception, call: ModelCall, status: int, masker: Masker) -> ModelError:
    """What a call fails with where its answer arrived and could not be read: paid for, it is never lost in silence."""
    if isinstance(failed, ModelError):
        return mask_error(failed, masker)
    return ProviderError(
        f"the answer of {call.provider} could not be read: {type(failed).__name__}",
        status=status,
        hint="It may have been charged. Please report this as a bug of Kitaru.",
    )
