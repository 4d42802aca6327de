"""The digest chain: each event's digest covers the digest before it, so an altered log shows.

The digest before the first event stands for the run's id, so a log cannot be passed off as another run's.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final

DIGEST_SIZE: Final = 16

_position: Final = struct.Struct(">QQ").pack


def origin(run: str) -> bytes:
    """The digest that stands before a run's first event.

    Args:
        run: The run's id.
    """
    return blake2b(run.encode(), digest_size=DIGEST_SIZE, person=b"kitaru run").digest()


def link(previous: bytes, seq: int, turn: int, data: bytes) -> bytes:
    """The digest of an event.

    Args:
        previous: The digest of the event before it, or `origin` of the run.
        seq: The event's place in its run, from 1.
        turn: The event's turn.
        data: The event as it is stored.
    """
    return blake2b(previous + _position(seq, turn) + data, digest_size=DIGEST_SIZE).digest()
