"""Secret values: a string that never shows itself, and the forms in which it may be echoed."""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Iterable
from typing import Final, NoReturn
from urllib.parse import quote

from kitaru.errors import UsageError

MASK: Final = "**********"

# Shorter keys are placeholders of local servers ("EMPTY", "lm-studio"): masking them in an answer would mangle it.
SHORTEST_IN_ANSWERS: Final = 12
SHORTEST_IN_ERRORS: Final = 4

# A piece of base64 shorter than this fits text that has nothing to do with the secret.
_SHORTEST_BASE64: Final = 12


class SecretStr:
    """A string that shows as asterisks wherever it is printed, formatted, logged or found in a traceback's locals.

    Not encodable, not picklable, and not a `str`: `reveal()` is the only way to the value.

    Args:
        value: The secret.

    Raises:
        UsageError: It is no text.
    """

    __slots__ = ("_forms", "_value")

    def __init__(self, value: str) -> None:
        given: object = value
        if not isinstance(given, str):
            raise UsageError(f"SecretStr(...) of a {type(given).__name__}: a text is needed")
        self._value = value
        self._forms: tuple[bytes, ...] | None = None

    def reveal(self) -> str:
        """Return the value itself."""
        return self._value

    def forms(self) -> tuple[bytes, ...]:
        """Return how the value may be echoed, longest first: raw, JSON-escaped, percent-encoded, base64."""
        if self._forms is None:
            self._forms = _forms(self._value)
        return self._forms

    def __repr__(self) -> str:
        return f"SecretStr('{MASK}')"

    def __str__(self) -> str:
        return MASK

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretStr):
            return NotImplemented
        return hmac.compare_digest(
            self._value.encode("utf-8", "surrogatepass"), other._value.encode("utf-8", "surrogatepass")
        )

    def __hash__(self) -> int:
        return hash((SecretStr, self._value))

    def __copy__(self) -> SecretStr:
        return self

    def __deepcopy__(self, memo: object) -> SecretStr:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")


def _forms(value: str) -> tuple[bytes, ...]:
    raw = value.encode("utf-8", "surrogatepass")
    if not raw:
        return ()
    escaped = json.dumps(value)[1:-1]
    percent = quote(raw, safe="")
    lowered = re.sub("%..", lambda code: code.group().lower(), percent)
    found = {
        raw,
        escaped.encode(),
        escaped.replace("/", "\\/").encode(),
        json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass"),
        percent.encode(),
        lowered.encode(),
        quote(raw, safe="/").encode(),
        # JSON inside a JSON text, as gateways wrap what their upstream said.
        json.dumps(escaped)[1:-1].encode(),
    }
    for offset in range(3):
        # Base64 of a longer text that holds the value: three alignments, without the characters its neighbours share.
        whole = base64.b64encode(b"\0" * offset + raw)
        piece = whole[(0, 2, 3)[offset] : (offset + len(raw)) * 8 // 6]
        if len(piece) >= _SHORTEST_BASE64:
            found |= {piece, piece.replace(b"+", b"-").replace(b"/", b"_")}
    return tuple(sorted(found, key=lambda form: (-len(form), form)))


def mask(data: bytes, secrets: Iterable[SecretStr], *, shortest: int = SHORTEST_IN_ERRORS) -> bytes:
    """Replace every echo of the secrets in `data` by asterisks. For many texts, and for pieces, there is `masking`.

    Args:
        data: What arrived.
        secrets: The values to look for.
        shortest: Values of fewer characters are left alone.

    Returns:
        The same bytes where nothing was found.
    """
    for secret in secrets:
        if len(secret.reveal()) < shortest:
            continue
        for form in secret.forms():
            if form in data:
                data = data.replace(form, MASK.encode())
    return data


def mask_text(text: str, secrets: Iterable[SecretStr], *, shortest: int = SHORTEST_IN_ERRORS) -> str:
    """Do what `mask` does, for text."""
    return mask(text.encode("utf-8", "surrogatepass"), secrets, shortest=shortest).decode("utf-8", "replace")


def clean(text: str, limit: int = 500) -> str:
    """Return text from outside fit for a terminal: one line, no control characters, at most `limit` characters."""
    # Cut first, generously: a body of megabytes need not be walked for its first line.
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def excerpt(body: bytes, limit: int = 200) -> str:
    """Return the first `limit` bytes of a body that could not be understood, fit for a terminal."""
    return clean(body[:limit].decode("utf-8", "replace"), limit)
