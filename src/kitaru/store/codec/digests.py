"""Digests of recorded bytes."""

from __future__ import annotations

from hashlib import blake2b


def fingerprint(data: bytes) -> bytes:
    """16 bytes of BLAKE2b: the identity of a boundary's inputs. Give it what `canonical` returned."""
    return blake2b(data, digest_size=16).digest()


def content_digest(data: bytes) -> bytes:
    """32 bytes of BLAKE2b: the name of an artifact with that content."""
    return blake2b(data, digest_size=32).digest()
