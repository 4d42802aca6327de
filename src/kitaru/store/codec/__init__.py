"""Values to bytes and back: one self-describing form for everything that Kitaru records. Nothing is ever unpickled."""

from __future__ import annotations

from kitaru.store.codec.classes import portable_module, register_main_alias
from kitaru.store.codec.convert import from_json
from kitaru.store.codec.decode import Decode, decoder
from kitaru.store.codec.digests import content_digest, fingerprint
from kitaru.store.codec.display import display
from kitaru.store.codec.encode import Unknown, canonical, encode
from kitaru.store.codec.exceptions import (
    as_exception,
    decode_exception,
    decode_raised,
    describe_exception,
    encode_exception,
    format_exception,
    mask_exception,
)
from kitaru.store.codec.explain import UnrecordableError
from kitaru.store.codec.hidden import Hidden, hidden_in, revealing

__all__ = [
    "Decode",
    "Hidden",
    "Unknown",
    "UnrecordableError",
    "as_exception",
    "canonical",
    "content_digest",
    "decode_exception",
    "decode_raised",
    "decoder",
    "describe_exception",
    "display",
    "encode",
    "encode_exception",
    "fingerprint",
    "format_exception",
    "from_json",
    "hidden_in",
    "mask_exception",
    "portable_module",
    "register_main_alias",
    "revealing",
]
