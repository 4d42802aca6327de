"""Sealing a value: an authenticated cipher, bound to the place where the sealed value lies.

A sealed value cannot be moved: the store, its holder, its name and its version are authenticated with it. Every value
says under which key it was sealed, so several keys can be in use while one replaces the other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
from typing import Final

import msgspec

from kitaru.store.protocol import Sealed, SealedAt

KEY_BYTES: Final = 32
_FORM: Final = b"\x01"
_NONCE_BYTES: Final = 12
# About 0.1 s and 32 MB, once a process: a passphrase is guessed offline by whoever has the file.
_SCRYPT: Final = {"n": 2**15, "r": 8, "p": 1, "maxmem": 64 << 20}


class UnsealError(Exception):
    """A sealed value was altered, moved, or sealed by something else."""


class Sealer:
    """One key.

    Args:
        key: 32 bytes.
        source: Where it came from, as an error names it.
    """

    __slots__ = ("_cipher", "id", "source")

    def __init__(self, key: bytes, source: str) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.id = _derived(key, b"kitaru key id")[:8]
        self.source = source
        self._cipher = AESGCM(_derived(key, b"kitaru sealing"))

    def seal(self, store: bytes, at: SealedAt, value: bytes) -> Sealed:
        """Seal a value for one place of one store."""
        nonce = os.urandom(_NONCE_BYTES)
        return Sealed(self.id, _FORM + nonce + self._cipher.encrypt(nonce, value, _bound(store, at)))

    def open(self, store: bytes, at: SealedAt, sealed: Sealed) -> bytes:
        """The value that was sealed for this place under this key.

        Raises:
            UnsealError: It was altered, or belongs to another place.
        """
        from cryptography.exceptions import InvalidTag

        data = sealed.data
        if data[:1] != _FORM:
            raise UnsealError(f"its form {data[:1].hex() or 'is missing'} is not known here")
        start = 1 + _NONCE_BYTES
        try:
            return self._cipher.decrypt(data[1:start], data[start:], _bound(store, at))
        except (InvalidTag, ValueError):
            raise UnsealError("it was altered, or moved here from another place") from None

    def __repr__(self) -> str:
        return f"<key {self.id.hex()} of {self.source}>"


def new_key() -> bytes:
    """A fresh random key."""
    return os.urandom(KEY_BYTES)


def key_from_text(text: str, store: bytes) -> bytes:
    """The key that a text means: itself, where it is 32 bytes in base64 or hexadecimal, else derived from it by scrypt.

    Args:
        text: What the user set.
        store: The store's identity, which salts a passphrase.
    """
    text = text.strip()
    if len(text) == 2 * KEY_BYTES:
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    try:
        plain = base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        plain = b""
    if len(plain) == KEY_BYTES:
        return plain
    return hashlib.scrypt(text.encode("utf-8", "surrogatepass"), salt=b"kitaru" + store, dklen=KEY_BYTES, **_SCRYPT)


def keyed_digest(key: bytes, value: bytes) -> bytes:
    """A digest of 16 bytes that tells equal values, and that nobody without the key can guess values by."""
    return hmac.digest(key, value, "sha256")[:16]


def _derived(key: bytes, purpose: bytes) -> bytes:
    # The key is uniform already, so HKDF's expansion alone is enough: one block of it.
    return hmac.digest(key, purpose + b"\x01", "sha256")


def _bound(store: bytes, at: SealedAt) -> bytes:
    return msgspec.msgpack.encode([store, *at])
