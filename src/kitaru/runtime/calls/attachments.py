"""Attachments: files, bytes and addresses as parts of a message."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

from kitaru.errors import UsageError
from kitaru.runtime.call import Call
from kitaru.runtime.work import stand_in
from kitaru.store import files

if TYPE_CHECKING:
    from kitaru.adapters import Document, Image, Media

Attachment: TypeAlias = "str | os.PathLike[str] | bytes | Mapping[str, object] | Image | Document | Media"
"""A path, bytes, an http(s) or data: URL, or `{"data": ..., "media_type": ..., "name": ...}`."""

LARGEST: Final = 20 * 1024 * 1024
"""Bytes that one attachment may have; most providers take no more in a whole request."""

# The first bytes of what providers take.
_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
# Not of `mimetypes`: what a machine's own tables say would become part of the call's fingerprint.
_ENDINGS: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "htm": "text/html",
    "html": "text/html",
}
_KNOWN: Final = "Images are PNG, JPEG, GIF or WebP, documents are PDF."


def part_of(attachment: object) -> Image | Document | Media:
    """Return an attachment as a part of a message.

    Args:
        attachment: A path, which is read now; bytes; an http(s) URL, which is handed on for the provider to fetch; a
            data: URL; a mapping with `data` (bytes, or base64 text) or `url`, `media_type` and `name`; or a part. The
            type is told by the first bytes, whatever the name says.

    Raises:
        UsageError: It is missing, unreadable, empty, too large, or of an unknown type; names it.
    """
    from kitaru.adapters import Document, Image, Media

    attachment = stand_in(attachment)
    if isinstance(attachment, Image | Document | Media):
        return attachment
    if isinstance(attachment, bytes | bytearray | memoryview):
        return _from_bytes(bytes(attachment), "the attachment", "")
    if isinstance(attachment, Mapping):
        return _from_mapping(attachment)
    if isinstance(attachment, str):
        if attachment[:5].lower() == "data:":
            data, stated = data_url(attachment, "the attached data: URL")
            return _from_bytes(data, "the attached data: URL", "", stated)
        if attachment[:8].lower().startswith(("http://", "https://")):
            return _from_url(attachment, "", "")
    if isinstance(attachment, str | os.PathLike):
        return _from_path(Path(os.fspath(attachment)))
    raise UsageError(
        f"a {type(attachment).__name__} cannot be attached", hint="Attach a path, bytes, a URL, or a mapping with data."
    )


def attached(messages: Sequence[Mapping[str, Any]], attachments: Sequence[object]) -> list[dict[str, Any]]:
    """Return a conversation with attachments in its last user message, before that message's text.

    Claude and Gemini read a question better after what it is about; the others do not mind.

    Args:
        messages: As `normalised` gives them; they are not changed.
        attachments: See `part_of`.

    Raises:
        UsageError: There is no user message, or an attachment cannot be used.
    """
    found = [dict(message) for message in messages]
    if isinstance(attachments, str | bytes | Mapping) or not isinstance(attachments, Sequence):
        attachments = [attachments]
    if not attachments:
        return found
    last = next((message for message in reversed(found) if message["role"] == "user"), None)
    if last is None:
        raise UsageError("there is no user message to attach anything to", hint='Add one: {"role": "user", ...}.')
    before = last["content"]
    if isinstance(before, str | Call):
        before = [] if before == "" else [{"type": "text", "text": before}]
    last["content"] = [*(builtins_of(part_of(one)) for one in attachments), *before]
    return found


def builtins_of(part: Image | Document | Media) -> dict[str, Any]:
    """Return a part as it is recorded: what is empty is left out, and bytes stay bytes."""
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(part, builtin_types=(bytes,))
    return found


def data_url(url: str, what: str) -> tuple[bytes, str]:
    """Return the bytes of a data: URL and the media type that it states.

    Args:
        url: The URL.
        what: What an error calls it.

    Raises:
        UsageError: It is damaged or too large.
    """
    head, comma, body = url.partition(",")
    stated, *parameters = head[5:].split(";")
    if not comma:
        raise UsageError(f"{what} holds no data", hint="Write data:image/png;base64,....")
    if "base64" not in [one.strip().lower() for one in parameters]:
        data = unquote_to_bytes(body)
        _check_size(len(data), what)
        return data, stated.strip().lower()
    return _decoded(body, what), stated.strip().lower()


def sniffed(data: bytes) -> str:
    """Return the media type that the first bytes tell, or an empty string."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for begin, media_type in _SIGNATURES if data.startswith(begin)), "")


def media_type_of(name: str) -> str:
    """Return the media type that a file's name tells, or an empty string."""
    return _ENDINGS.get(name.rpartition(".")[2].lower(), "")


def _from_path(path: Path) -> Image | Document | Media:
    what = f"the attachment {str(path)!r}"
    try:
        data = files.read_file(path, LARGEST)
    except FileNotFoundError:
        raise UsageError(f"{what} does not exist", hint=f"Paths are seen from {str(Path.cwd())!r}.") from None
    except files.FileTooLargeError:
        _check_size(max(path.stat().st_size, LARGEST + 1), what)
        raise
    except IsADirectoryError:
        raise UsageError(f"{what} is a folder", hint="Attach its files one by one.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return _from_bytes(data, what, path.name)


def _from_url(url: str, stated: str, name: str) -> Image | Document | Media:
    from kitaru.adapters import Document, Image

    if any(char.isspace() for char in url) or not urlsplit(url).netloc:
        raise UsageError("an attached URL is not a valid http(s) address")
    path = urlsplit(url).path
    media_type = stated or media_type_of(path)
    if media_type == "application/pdf" or media_type.startswith("text/"):
        return Document(media_type=media_type, url=url, name=name)
    return Image(media_type=media_type if media_type.startswith("image/") else "", url=url)


def _from_mapping(mapping: Mapping[str, object]) -> Image | Document | Media:
    if more := sorted(str(key) for key in mapping.keys() - {"data", "url", "media_type", "name"}):
        raise UsageError(
            f"an attachment has no {', '.join(more)}", hint='Write {"data": ..., "media_type": ..., "name": ...}.'
        )
    stated, name = str(mapping.get("media_type") or "").lower(), str(mapping.get("name") or "")
    what = f"the attachment {name!r}" if name else "the attached data"
    url, data = mapping.get("url"), stand_in(mapping.get("data"))
    if isinstance(url, str) and data is None:
        return _from_url(url, stated, name)
    if isinstance(data, str):
        data = _decoded(data, what)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UsageError(f"{what} has no data", hint="Its data are bytes, or base64 text.")
    return _from_bytes(bytes(data), what, name, stated)


def _from_bytes(data: bytes, what: str, name: str, stated: str = "") -> Image | Document | Media:
    from kitaru.adapters import Document, Image, Media

    if not data:
        raise UsageError(f"{what} is empty")
    _check_size(len(data), what)
    media_type = sniffed(data) or stated
    if not media_type or "/" not in media_type:
        raise UsageError(f"{what} is of an unknown type", hint=f"{_KNOWN} Another type has to be named: media_type.")
    if media_type.startswith("image/"):
        return Image(media_type=media_type, data=data)
    if media_type.startswith(("audio/", "video/")):
        return Media("audio" if media_type.startswith("audio/") else "video", media_type=media_type, data=data)
    return Document(media_type=media_type, data=data, name=name)


def _decoded(text: str, what: str) -> bytes:
    _check_size(len(text) * 3 // 4 - 3, what)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise UsageError(f"{what} is not valid base64") from None


def _check_size(size: int, what: str) -> None:
    if size > LARGEST:
        raise UsageError(
            f"{what} has {size / 2**20:.1f} MB, more than the {LARGEST // 2**20} MB that can be attached",
            hint="Make it smaller, or put it where the provider can fetch it and attach the URL.",
        )
