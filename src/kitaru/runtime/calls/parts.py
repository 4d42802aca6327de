"""The parts of a message's content, in the forms in which people write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from kitaru.errors import UsageError
from kitaru.runtime.call import Call
from kitaru.runtime.calls.attachments import builtins_of, data_url, media_type_of, part_of

# What is read of a part; whatever else it holds goes along to the providers that have it.
_OF_TEXT: Final = frozenset({"type", "text", "annotations", "logprobs"})
_OF_IMAGE_URL: Final = frozenset({"type", "image_url", "detail", "url"})
_OF_SOURCE: Final = frozenset({"type", "source", "media_type", "data", "url", "detail", "title", "name"})

_OF_FILE: Final = frozenset(
    {
        "type", "kind", "source", "data", "url", "format", "media_type", "file", "file_data", "filename", "input_audio",
        "file_url", "file_name", "document_url", "document_name", "audio_url", "video_url",
    }
)  # fmt: skip

_KNOWN: Final = (
    "Parts are text, image_url, image, document, file, input_audio and video_url; a file is easier attached: "
    "attachments=[path]."
)


def part_from(part: object, at: str) -> dict[str, Any]:
    """Return a part of a message's content in the form that is recorded.

    Known are OpenAI's `text`, `image_url`, `file`, `input_audio`, `input_text`, `input_image` and `input_file`;
    Mistral's `document_url`, Perplexity's `file_url`, and `audio_url` and `video_url` of other servers; Anthropic's
    `image` and `document` with a `source`; the neutral form; and Text, Image, Document and Media objects.

    Args:
        part: The part; a text stands for one.
        at: What an error calls its place.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(part, str | Call):
        return {"type": "text", "text": part}
    if isinstance(part, msgspec.Struct):
        return _from_object(part, at)
    if not isinstance(part, Mapping):
        raise UsageError(f"{at} is a {type(part).__name__}", hint=_KNOWN)
    match part.get("type"):
        case "text" | "input_text" | "output_text":
            return _with_more({"type": "text", "text": _text(part, at)}, part, _OF_TEXT)
        case "image_url" | "input_image":
            inner = part.get("image_url")
            stated = {**inner, **part} if isinstance(inner, Mapping) else part
            return _with_more(_image_url(part, at), stated, _OF_IMAGE_URL)
        case "image" | "document" as kind:
            return _with_more(_from_source(part, kind, at), part, _OF_SOURCE)
        case "file" | "input_file" | "document_url" | "file_url" as kind:
            return _with_more(_file(part, kind, at), part, _OF_FILE)
        case "input_audio" | "audio_url" | "video_url" | "media" as kind:
            return _with_more(_media(part, kind, at), part, _OF_FILE)
        case other:
            shown = repr(other[:40]) if isinstance(other, str) else "none" if other is None else "no text"
            hint = "Write a tool's result as a message with the role tool." if other == "tool_result" else _KNOWN
            raise UsageError(f"{at} has the type {shown}, which is not known", hint=hint)


def _with_more(found: dict[str, Any], part: Mapping[str, object], known: frozenset[str]) -> dict[str, Any]:
    stated = part.get("more")
    more = {str(key): value for key, value in part.items() if key not in known and key != "more" and value}
    more |= stated if isinstance(stated, Mapping) else {"more": stated} if stated else {}
    return {**found, "more": more} if more else found


def _text(part: Mapping[str, object], at: str) -> object:
    text = part.get("text")
    if not isinstance(text, str | Call):
        raise UsageError(f"{at}: its text is a {type(text).__name__}", hint='Write {"type": "text", "text": "..."}.')
    return text


def _image_url(part: Mapping[str, object], at: str) -> dict[str, Any]:
    stated, detail = part.get("image_url"), part.get("detail")
    image: object = stated
    if isinstance(stated, Mapping):
        image, detail = stated.get("url"), stated.get("detail", detail)
    if not isinstance(image, str) or not image:
        raise UsageError(
            f"{at} has no image_url", hint='Write {"type": "image_url", "image_url": {"url": "https://..."}}.'
        )
    return _image(_located("image", image, at), detail, at)


def _file(part: Mapping[str, object], kind: str, at: str) -> dict[str, Any]:
    """A document in the form of OpenAI's APIs (`file`, `input_file`), Mistral's or Perplexity's."""
    inner = part.get(kind)
    stated: Mapping[str, object] = inner if isinstance(inner, Mapping) else part
    keys = ("file_data", "file_url", "document_url", "url", "data")
    where = "".join(value for key in keys if isinstance(value := stated.get(key), str))
    if not where:
        uploaded = "file_id" in stated
        raise UsageError(
            f"{at} names a file by its id, which only its own provider knows" if uploaded else f"{at} holds no file",
            hint="Attach its bytes or its address: attachments=[path].",
        )
    names = (stated.get(key) or part.get(key) for key in ("filename", "document_name", "file_name"))
    name = next((value for value in names if isinstance(value, str)), "")
    if where[:5].lower() == "data:" or where[:8].lower().startswith(("http://", "https://")):
        found = _located("image" if where[:11].lower() == "data:image/" else "document", where, at)
    else:
        found = builtins_of(part_of({"data": where, "name": name, "media_type": media_type_of(name)}))
    return {**found, "name": name} if name and found["type"] == "document" else found


def _media(part: Mapping[str, object], form: str, at: str) -> dict[str, Any]:
    """A recording in OpenAI's form (`input_audio`), Mistral's, that of others (`audio_url`), or the neutral one."""
    kind = part.get("kind") if form == "media" else "video" if form == "video_url" else "audio"
    if kind not in ("audio", "video"):
        raise UsageError(f"{at} is neither audio nor video")
    inner = part.get("source", part) if form == "media" else part.get(form)
    stated: Mapping[str, object] = inner if isinstance(inner, Mapping) else {"url": inner}
    where = stated.get("url") or stated.get("data")
    if not isinstance(where, str | bytes) or not where:
        raise UsageError(f"{at} holds no {kind}", hint='Such as {"data": "base64...", "format": "wav"}.')
    ending = stated.get("format")
    media_type = str(stated.get("media_type") or (f"{kind}/{_MEDIA.get(str(ending), ending)}" if ending else ""))
    if isinstance(where, str) and where[:8].lower().startswith(("http://", "https://")):
        return {"type": "media", "kind": kind, "url": where, **({"media_type": media_type} if media_type else {})}
    if isinstance(where, bytes):
        data, said = where, ""
    else:
        data, said = data_url(where if where[:5].lower() == "data:" else f"data:;base64,{where}", at)
    media_type = said or media_type or ("audio/wav" if kind == "audio" else "video/mp4")
    return {"type": "media", "kind": kind, "media_type": media_type, "data": data}


_MEDIA: Final = {"mp3": "mpeg"}


def _from_source(part: Mapping[str, object], kind: str, at: str) -> dict[str, Any]:
    # In the neutral form the part itself says where its bytes are.
    source = part.get("source", part)
    if not isinstance(source, Mapping):
        raise UsageError(f"{at}: its source is a {type(source).__name__}", hint="Write {type, media_type, data}.")
    stated = str(source.get("media_type") or "").lower()
    url, data = source.get("url"), source.get("data")
    if isinstance(url, str) and url and not data:
        found = _located(kind, url, at)
        if stated:
            found["media_type"] = stated
    elif source.get("type") == "text" and isinstance(data, str):
        found = {"type": kind, "media_type": stated or "text/plain", "data": data.encode()}
    elif isinstance(data, bytes | bytearray) and stated:
        found = {"type": kind, "media_type": stated, "data": bytes(data)}
    elif isinstance(data, str) and stated:
        found = {"type": kind, "media_type": stated, "data": data_url(f"data:;base64,{data}", at)[0]}
    elif isinstance(data, str | bytes | bytearray):
        found = _of_kind(kind, part_of({"data": data}), at)
    else:
        raise UsageError(f"{at}: its source has neither data nor a url", hint="Write {type, media_type, data}.")
    if kind == "image":
        return _image(found, part.get("detail"), at)
    name = part.get("title") or part.get("name") or ""
    if not isinstance(name, str):
        raise UsageError(f"{at}: its name is a {type(name).__name__}")
    return {**found, "name": name} if name else found


def _located(kind: str, url: str, at: str) -> dict[str, Any]:
    if url[:5].lower() == "data:":
        data, stated = data_url(url, f"{at}: its data: URL")
        if stated:
            return {"type": kind, "media_type": stated, "data": data}
        return _of_kind(kind, part_of(data), at)
    if not url[:8].lower().startswith(("http://", "https://")):
        raise UsageError(
            f"{at}: its URL is neither http(s) nor data:", hint="Attach a file by its path: attachments=[path]."
        )
    return {"type": kind, "url": url}


def _image(found: dict[str, Any], detail: object, at: str) -> dict[str, Any]:
    if not detail:
        return found
    if not isinstance(detail, str):
        raise UsageError(f"{at}: its detail is a {type(detail).__name__}", hint='Such as "low" or "high".')
    return {**found, "detail": detail}


def _from_object(part: msgspec.Struct, at: str) -> dict[str, Any]:
    from kitaru.adapters import Document, Image, Media, Text

    if isinstance(part, Text):
        return _with_more({"type": "text", "text": part.text}, {"more": part.more}, _OF_TEXT)
    if not isinstance(part, Image | Document | Media):
        raise UsageError(f"{at} is a {type(part).__name__}", hint=_KNOWN)
    return builtins_of(part)


def _of_kind(kind: str, part: Any, at: str) -> dict[str, Any]:
    found = builtins_of(part)
    if found["type"] != kind:
        raise UsageError(f"{at} is said to be of the type {kind}, but its bytes are {found['media_type']}")
    return found
