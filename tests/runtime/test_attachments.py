"""Attachments: what may be attached, and where it goes."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from kitaru.adapters import Document, Image
from kitaru.errors import UsageError
from kitaru.runtime.calls import attachments
from kitaru.runtime.calls.attachments import attached, part_of

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"
JPEG = b"\xff\xd8\xff\xe0" + b"rest"
GIF = b"GIF89a" + b"rest"
WEBP = b"RIFF\x10\x00\x00\x00WEBPVP8 "
PDF = b"%PDF-1.7\nrest"


@pytest.mark.parametrize(
    ("data", "media_type"),
    [(PNG, "image/png"), (JPEG, "image/jpeg"), (GIF, "image/gif"), (WEBP, "image/webp")],
)
def test_an_images_type_is_told_by_its_bytes_whatever_its_name(tmp_path: Path, data: bytes, media_type: str) -> None:
    path = tmp_path / "picture.pdf"
    path.write_bytes(data)
    for attachment in (path, str(path), data, bytearray(data), {"data": data, "media_type": "image/odd"}):
        assert part_of(attachment) == Image(media_type, data)


def test_a_document_keeps_its_name(tmp_path: Path) -> None:
    path = tmp_path / "report.bin"
    path.write_bytes(PDF)
    assert part_of(path) == Document("application/pdf", PDF, name="report.bin")
    assert part_of({"data": PDF, "name": "r.pdf"}) == Document("application/pdf", PDF, name="r.pdf")


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("https://h/a/cat.PNG?x=1", Image("image/png", url="https://h/a/cat.PNG?x=1")),
        ("http://h/cat", Image(url="http://h/cat")),
        ("HTTPS://h/paper.pdf", Document("application/pdf", url="HTTPS://h/paper.pdf")),
        ({"url": "https://h/x", "media_type": "application/pdf", "name": "n"},
         Document("application/pdf", url="https://h/x", name="n")),
    ],
)  # fmt: skip
def test_a_url_is_handed_on(url: Any, part: object) -> None:
    assert part_of(url) == part


def test_a_data_url_is_decoded() -> None:
    text = base64.b64encode(PNG).decode()
    assert part_of(f"data:image/png;base64,{text}") == Image("image/png", PNG)
    assert part_of("data:text/plain,a%20b") == Document("text/plain", b"a b")


def test_base64_text_is_decoded_and_a_stated_type_believed_where_the_bytes_tell_none() -> None:
    assert part_of({"data": base64.b64encode(b"abc").decode(), "media_type": "image/heic"}) == Image(
        "image/heic", b"abc"
    )
    assert part_of({"data": b"abc", "media_type": "text/csv", "name": "t.csv"}) == Document(
        "text/csv", b"abc", name="t.csv"
    )


def test_a_part_is_a_part_already() -> None:
    assert part_of(Image("image/png", PNG)) == Image("image/png", PNG)


@pytest.mark.parametrize(
    ("attachment", "said"),
    [
        ("missing.png", "'missing.png' does not exist"),
        (Path(), "is a folder"),
        (os.devnull, "is not a regular file"),
        ("/dev/zero", "is not a regular file"),
        ("\0", "cannot be read"),
        (b"", "the attachment is empty"),
        (b"plain text", "is of an unknown type"),
        ("data:image/png;base64", "holds no data"),
        ("data:image/png;base64,***", "not valid base64"),
        ({"data": "***"}, "not valid base64"),
        ({"data": 5, "name": "n"}, "'n' has no data"),
        ({"bytes": b"x"}, "has no bytes"),
        ("https://", "not a valid http"),
        ("https://h/a b", "not a valid http"),
        (5, "a int cannot be attached"),
        (None, "a NoneType cannot be attached"),
    ],
)
def test_what_cannot_be_attached_is_refused_and_named(attachment: object, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        part_of(attachment)


def test_a_pipe_is_refused_without_waiting_for_its_other_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match="is not a regular file"):
        part_of(tmp_path / "pipe.png")


def test_a_file_of_an_unknown_type_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(UsageError, match=r"notes\.txt.*unknown type") as caught:
        part_of(path)
    assert "PDF" in str(caught.value)


def test_what_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(attachments.LARGEST + 1)
    with pytest.raises(UsageError, match=r"large\.png' has 20\.0 MB, more than the 20 MB"):
        part_of(path)
    with pytest.raises(UsageError, match="more than the 20 MB"):
        part_of(PNG + bytes(attachments.LARGEST))
    with pytest.raises(UsageError, match="more than the 20 MB"):
        part_of("data:image/png;base64," + "A" * (attachments.LARGEST * 4 // 3 + 100))


def test_attachments_go_before_the_text_of_the_last_user_message() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "user", "content": "what is it?"},
        {"role": "assistant", "content": "Well, "},
    ]
    found = attached(messages, [PNG, "https://h/x.pdf"])
    assert found[0] == messages[0]
    assert found[2] == messages[2]
    assert found[1]["content"] == [
        {"type": "image", "media_type": "image/png", "data": PNG},
        {"type": "document", "media_type": "application/pdf", "url": "https://h/x.pdf"},
        {"type": "text", "text": "what is it?"},
    ]
    assert messages[1]["content"] == "what is it?"


def test_attachments_join_parts_that_are_there() -> None:
    parts = [{"type": "text", "text": "a"}]
    (found,) = attached([{"role": "user", "content": parts}], [PNG])
    assert [part["type"] for part in found["content"]] == ["image", "text"]
    assert len(parts) == 1


def test_one_attachment_needs_no_list_and_none_change_nothing() -> None:
    messages = [{"role": "user", "content": ""}]
    assert attached(messages, PNG)[0]["content"] == [{"type": "image", "media_type": "image/png", "data": PNG}]
    assert attached(messages, []) == messages


def test_attachments_without_a_user_message_are_a_mistake() -> None:
    with pytest.raises(UsageError, match="no user message"):
        attached([{"role": "system", "content": "s"}], [PNG])
