"""Source with its secrets masked, as it is recorded, and compared with source as it is."""

from __future__ import annotations

import ast
import functools
import json
import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kitaru.adapters.secret import SecretStr

_STARS: Final = "*" * 10
_MARK: Final = re.compile(r"\*{10}([0-9a-f]{16})")
_LONGEST: Final = 8192

# Names that a credential has, and a literal that is assigned or passed under one.
_NAME: Final = r"(?:(?<![a-z])(?:api_?)?key(?![a-z])|(?<![a-z])token(?![a-z])|secret|password|passwd|credential)"
_CREDENTIAL: Final = re.compile(_NAME, re.IGNORECASE)
_NAMED: Final = re.compile(
    rf"""\b\w*{_NAME}\w*["']?\s*(?::\s*\w+\s*)?[=:]\s*[bru]{{0,2}}(?P<quote>["'])(?P<value>[^"'\n]{{12,}})(?P=quote)""",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=256)
def masked(source: bytes, secrets: tuple[SecretStr, ...]) -> bytes:
    """Return a `Code.source` without these secrets and without literals that are credentials by their names.

    In the place of each is the digest of its text, so that the same code still compares as the same (`same_text`) and
    an exchanged key as a change.

    Args:
        source: The source.
        secrets: The values to look for.
    """
    forms = sorted({form for secret in secrets for form in _forms(secret)}, key=lambda form: (-len(form), form))
    values = [secret.reveal() for secret in secrets]
    document = json.loads(source)
    for row in document["code"]:
        name, kind, texts, _ = row
        whole = kind == "value" and _CREDENTIAL.search(name.rpartition(".")[2])
        if whole:
            row[2] = [text if _MARK.search(text) else _mark(text) for text in texts]
        else:
            row[2] = [_masked(_without_literals(text, values) if kind != "value" else text, forms) for text in texts]
    return json.dumps(document, separators=(",", ":")).encode()


def same_text(one: str, other: str) -> bool:
    """Whether two texts of source are the same, where a secret may be masked in either."""
    return one == other or _fits(one, other) or _fits(other, one)


def _without_literals(text: str, values: list[str]) -> str:
    """Mask the literals whose value holds a secret that their text does not show: escaped, or in several pieces."""
    if not values:
        return text
    try:
        tree, data = ast.parse(text), text.encode()
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text
    starts = [0, *(at + 1 for at, byte in enumerate(data) if byte == ord("\n"))]
    found: list[tuple[int, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.BinOp) and (literal := _folded(node)) is not None:
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
            segment = data[start:end].decode()
            within = any(outer <= start and end <= last for outer, last in found)
            if not within and any(value in literal and value not in segment for value in values):
                found.append((start, end))
    for start, end in sorted(found, reverse=True):
        data = data[:start] + _mark(data[start:end].decode()).encode() + data[end:]
    return data.decode()


def _folded(node: ast.AST) -> str | None:
    """The text that a literal, or a sum of literals, stands for."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bytes):
            return node.value.decode("utf-8", "replace")
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _folded(node.left), _folded(node.right)
        return None if left is None or right is None else left + right
    return None


def _masked(text: str, forms: list[str]) -> str:
    for form in forms:
        if form in text:
            text = text.replace(form, _mark(form))
    return _NAMED.sub(_without_value, text)


def _without_value(found: re.Match[str]) -> str:
    value = found["value"]
    return found[0] if _MARK.search(value) else found[0].replace(value, _mark(value))


def _fits(marked: str, plain: str) -> bool:
    """Whether `plain` is `marked` with each mark replaced by the text that it stands for."""
    pieces = _MARK.split(marked)
    if len(pieces) == 1 or not plain.startswith(pieces[0]):
        return False
    at = len(pieces[0])
    for digest, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        end = at
        while (end := plain.find(piece, end + 1) if piece else len(plain)) > at and end - at <= _LONGEST:
            if _digest(plain[at:end]) == digest:
                break
            if not piece:
                return False
        else:
            return False
        at = end + len(piece)
    return at == len(plain)


def _mark(text: str) -> str:
    return _STARS + _digest(text)


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _forms(secret: SecretStr) -> list[str]:
    """How a secret may be written in source: as an echo, in single quotes, or in an encoded constant."""
    value = secret.reveal()
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    plain = [*secret.forms(), quoted.encode("utf-8", "surrogatepass")]
    texts = [form.decode("utf-8", "surrogatepass") for form in plain]
    return [*texts, *(form.hex() for form in plain)]
