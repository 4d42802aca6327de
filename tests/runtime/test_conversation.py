"""Conversations: the forms in which people write them, the form that is recorded, and the way back."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kitaru
from kitaru import Runtime, checkpoint, flow
from kitaru.adapters import Document, Image, Media, Message, Opaque, Reply, Text, ToolCall, Usage
from kitaru.adapters.message import assistant, own_form
from kitaru.errors import UsageError
from kitaru.runtime.calls.conversation import chained, neutral, normalised, public_message, unchained
from kitaru.runtime.work import stand_in
from kitaru.store import codec

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"
PNG64 = base64.b64encode(PNG).decode()
IMAGE = {"type": "image", "media_type": "image/png", "data": PNG}
CALL = ToolCall("c1", "search", '{"q": "tides"}')
NEUTRAL_CALL = {"id": "c1", "name": "search", "arguments": '{"q": "tides"}'}
TURN = assistant("thinking", [CALL], provider="p", model="m", own=b'[{"type": "thinking", "signature": "\xc3\xa4"}]')


def one(message: object) -> dict[str, Any]:
    """A single message as it is recorded."""
    (found,) = normalised([message], None, "llm")
    return found


def parts(*content: object) -> list[dict[str, Any]]:
    """A user message's parts as they are recorded."""
    found: list[dict[str, Any]] = one({"role": "user", "content": list(content)})["content"]
    return found


# ---- text -----------------------------------------------------------------------------------------------------------


def test_a_text_is_a_user_message_after_the_system_message() -> None:
    assert normalised("hi", "Be kind.", "llm") == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "hi"},
    ]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_a_text_message_is_recorded_as_it_is_written(role: str) -> None:
    written = {"content": "hi", "role": role}
    found = one(written)
    assert list(found.items()) == list(written.items())
    assert found is not written


def test_a_text_message_has_the_bytes_that_older_logs_hold() -> None:
    head, nodes = chained(normalised([{"role": "user", "content": "hi"}], "s", "llm"))
    assert head.hex() == OLD_HEAD
    assert len(nodes) == 2


OLD_HEAD = "fa9eecc0e4e6d0338158a230c64a08efb02842f13d266d19841218b35eeca270"


# ---- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG64}"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{PNG64}"},
        {"type": "image_url", "image_url": f"data:;base64,{PNG64}"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG64}"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG64}},
        {"type": "image", "source": {"data": PNG64}},
        {"type": "image", "media_type": "image/png", "data": PNG},
        Image("image/png", PNG),
    ],
)
def test_the_bytes_of_an_image_come_in_many_forms(part: object) -> None:
    assert parts(part) == [IMAGE]


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("hi", {"type": "text", "text": "hi"}),
        ({"type": "text", "text": "hi"}, {"type": "text", "text": "hi"}),
        ({"type": "input_text", "text": "hi"}, {"type": "text", "text": "hi"}),
        (Text("hi"), {"type": "text", "text": "hi"}),
        (
            {"type": "image_url", "image_url": {"url": "https://h/x.png", "detail": "low"}},
            {"type": "image", "url": "https://h/x.png", "detail": "low"},
        ),
        (
            {"type": "input_image", "image_url": "https://h/x.png", "detail": "high"},
            {"type": "image", "url": "https://h/x.png", "detail": "high"},
        ),
        ({"type": "image", "source": {"type": "url", "url": "https://h/x"}}, {"type": "image", "url": "https://h/x"}),
        (
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "eA=="},
                "title": "t",
            },
            {"type": "document", "media_type": "application/pdf", "data": b"x", "name": "t"},
        ),
        (
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a b"}},
            {"type": "document", "media_type": "text/plain", "data": b"a b"},
        ),
        (Document(url="https://h/x.pdf"), {"type": "document", "url": "https://h/x.pdf"}),
        (
            {"type": "file", "file": {"filename": "x.pdf", "file_data": "data:application/pdf;base64,eA=="}},
            {"type": "document", "media_type": "application/pdf", "data": b"x", "name": "x.pdf"},
        ),
        (
            {"type": "input_file", "filename": "a.txt", "file_data": "eA=="},
            {"type": "document", "media_type": "text/plain", "data": b"x", "name": "a.txt"},
        ),
        (
            {"type": "input_file", "file_url": "https://h/x.pdf"},
            {"type": "document", "url": "https://h/x.pdf"},
        ),
        (
            {"type": "document_url", "document_url": "https://h/x.pdf", "document_name": "x"},
            {"type": "document", "url": "https://h/x.pdf", "name": "x"},
        ),
        ({"type": "file_url", "file_url": {"url": "https://h/x"}}, {"type": "document", "url": "https://h/x"}),
        (
            {"type": "input_audio", "input_audio": {"data": "eA==", "format": "mp3"}},
            {"type": "media", "kind": "audio", "media_type": "audio/mpeg", "data": b"x"},
        ),
        (
            {"type": "input_audio", "input_audio": "https://h/a.wav"},
            {"type": "media", "kind": "audio", "url": "https://h/a.wav"},
        ),
        (
            {"type": "video_url", "video_url": {"url": "data:video/webm;base64,eA=="}},
            {"type": "media", "kind": "video", "media_type": "video/webm", "data": b"x"},
        ),
        (Media("video", url="https://h/v"), {"type": "media", "kind": "video", "url": "https://h/v"}),
    ],
)
def test_parts_are_recorded_in_neutral_terms(part: object, found: dict[str, Any]) -> None:
    assert parts(part) == [found]
    (message,) = neutral([{"role": "user", "content": [found]}])
    assert len(message.parts) == 1


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "audio", "audio": {}}, "part 0 has the type 'audio', which is not known"),
        ({"type": "tool_result", "content": "x"}, "'tool_result'"),
        ({"text": "x"}, "the type none"),
        ({"type": "text"}, "its text is a NoneType"),
        ({"type": "image_url"}, "has no image_url"),
        ({"type": "image_url", "image_url": {"url": "/tmp/x.png"}}, r"neither http\(s\) nor data:"),
        ({"type": "image_url", "image_url": "data:image/png;base64,***"}, "not valid base64"),
        ({"type": "image", "source": "x"}, "its source is a str"),
        ({"type": "image"}, "neither data nor a url"),
        ({"type": "image", "source": {"data": base64.b64encode(b"%PDF-1").decode()}}, "its bytes are application/pdf"),
        (5, "part 0 is a int"),
        ({"type": "file", "file": {"file_id": "f-1"}}, "names a file by its id"),
        ({"type": "input_file", "filename": "x.pdf"}, "holds no file"),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, "holds no audio"),
        ({"type": "video_url", "video_url": {"url": "ftp://h/v"}}, "not valid base64"),
    ],
)
def test_a_part_that_cannot_be_right_is_refused_and_its_place_named(part: object, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        normalised([{"role": "user", "content": "a"}, {"role": "user", "content": [part]}], None, "draft")
    assert caught.value.message.startswith("draft: message 1, part 0")


def test_further_fields_of_a_part_are_recorded_beside_it() -> None:
    mark = {"type": "ephemeral"}
    text = {"type": "text", "text": "a", "cache_control": mark, "annotations": [1]}
    image = {"type": "image_url", "image_url": {"url": "https://h/a", "format": "png"}, "cache_control": mark}
    document = {
        "type": "document",
        "source": {"type": "text", "data": "x"},
        "citations": {"enabled": True},
        "odd": None,
    }
    assert [part.get("more") for part in parts(text, image, document, {"type": "text", "text": "b"})] == [
        {"cache_control": mark},
        {"format": "png", "cache_control": mark},
        {"citations": {"enabled": True}},
        None,
    ]


def test_a_message_s_cache_control_belongs_to_its_last_part() -> None:
    mark = {"type": "ephemeral"}
    marked = {"type": "text", "text": "b", "more": {"cache_control": mark}}
    assert one({"role": "system", "content": "b", "cache_control": mark})["content"] == [marked]
    both = one({"role": "user", "content": [{"type": "text", "text": "a"}, "b"], "cache_control": mark})
    assert both["content"] == [{"type": "text", "text": "a"}, marked]


# ---- tool calls and their results -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        NEUTRAL_CALL,
        {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "tides"}'}},
    ],
)
def test_a_tool_call_comes_in_many_forms(call: object) -> None:
    found = one({"role": "assistant", "content": None, "tool_calls": [call]})
    assert found == {"role": "assistant", "content": "", "tool_calls": [NEUTRAL_CALL]}


def test_arguments_may_be_a_mapping_or_left_out() -> None:
    message = {
        "role": "assistant",
        "tool_calls": [{"id": "a", "name": "f", "arguments": {"x": 1}}, {"id": "b", "name": "f"}],
    }
    assert [call["arguments"] for call in one(message)["tool_calls"]] == ['{"x":1}', "{}"]


@dataclass
class Found:
    title: str


class Page(pydantic.BaseModel):
    url: str


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("42", "42"),
        (42, "42"),
        (None, "null"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ([1, 2], "[1,2]"),
        ([{"type": "hotel"}], '[{"type":"hotel"}]'),
        ([], "[]"),
        (Found("t"), '{"title":"t"}'),
        ([Page(url="u")], '[{"url":"u"}]'),
    ],
)
def test_a_tools_result_that_is_no_text_becomes_json(content: object, text: str) -> None:
    assert one({"role": "tool", "tool_call_id": "c1", "content": content})["content"] == text


def test_a_tools_result_may_have_parts_a_name_and_be_an_error() -> None:
    found = one({
        "role": "tool", "tool_call_id": "c1", "name": "search", "is_error": True,
        "content": [{"type": "text", "text": "see"}, Image("image/png", PNG)],
    })  # fmt: skip
    assert found == {
        "role": "tool", "content": [{"type": "text", "text": "see"}, IMAGE], "tool_call_id": "c1", "name": "search",
        "is_error": True,
    }  # fmt: skip


def test_objects_stand_for_their_messages() -> None:
    reply = Reply("thinking", TURN, "tool_calls", Usage(), "m")
    for item in (TURN, reply, public_message(TURN)):
        assert neutral([one(item)]) == (TURN,)
    assert neutral([one(CALL)]) == (Message("assistant", "", (CALL,)),)
    whole = kitaru.Reply("t", {"role": "assistant", "content": "t"}, "stop", Usage(), "m", "p", "r", 0.1)  # type: ignore[arg-type]  # usage is not looked at
    assert one(whole) == {"role": "assistant", "content": "t"}


def test_what_servers_write_beside_an_answer_is_left_out() -> None:
    dumped: dict[str, object] = {
        "role": "assistant", "content": "hi", "refusal": None, "annotations": [], "audio": None, "function_call": None,
        "tool_calls": None, "id": "m-1", "logprobs": {},
    }  # fmt: skip
    assert one(dumped) == {"role": "assistant", "content": "hi"}


def test_what_a_model_thought_is_recorded_beside_its_turn() -> None:
    turn = {"role": "assistant", "content": "hi", "reasoning_content": "hm", "reasoning": None}
    assert one(turn) == {"role": "assistant", "content": "hi", "more": {"reasoning_content": "hm"}}
    assert public_message(neutral([one(turn)])[0]) == {"role": "assistant", "content": "hi", "reasoning_content": "hm"}


# ---- mistakes -------------------------------------------------------------------------------------------------------

LONG = "very secret " * 100


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (5, "has no role or no content"),
        ({"content": "x"}, "has no role or no content"),
        ({"role": "user"}, "has no role or no content"),
        ({"role": "user", "content": None}, "its content is a NoneType"),
        ({"role": "user", "content": {"text": LONG}}, "its content is a dict"),
        ({"role": "user", "content": b"x"}, "its content is a bytes"),
        ({"role": "boss", "content": LONG}, "has the role 'boss'"),
        ({"role": LONG, "content": "x"}, "has the role a str"),
        ({"role": ["user"], "content": "x"}, "has the role a list"),
        ({"role": "function", "content": "x"}, "has the role 'function'"),
        ({"role": "user", "content": "x", "contents": LONG}, "has 'contents', which means nothing"),
        ({"role": "assistant", "content": None, "function_call": {"name": LONG}}, "has a function_call"),
        ({"role": "tool", "content": LONG}, "has no tool_call_id"),
        ({"role": "tool", "tool_call_id": "c", "content": object()}, "cannot be written as JSON"),
        ({"role": "user", "content": LONG, "tool_call_id": "c"}, "has tool_call_id, which belongs to the role tool"),
        (
            {"role": "user", "content": LONG, "tool_calls": [NEUTRAL_CALL]},
            "tool_calls, which belongs to the role assistant",
        ),
        ({"role": "user", "content": LONG, "opaque": {"data": LONG}}, "opaque, which belongs to the role assistant"),
        ({"role": "assistant", "tool_calls": "x"}, "its tool_calls are a str"),
        ({"role": "assistant", "tool_calls": [5]}, "tool call 0 is an int"),
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, "tool call 0 has no name"),
        ({"role": "assistant", "tool_calls": [{"name": "a"}]}, "tool call 0 has no id"),
        ({"role": "assistant", "tool_calls": [{"id": "a", "name": "f", "arguments": 5}]}, "its arguments are an int"),
        ({"role": "assistant", "content": "", "opaque": {"data": LONG}}, "its opaque part is not as a reply gave it"),
        ({"role": "assistant", "content": "", "opaque": 5}, "its opaque part is not as a reply gave it"),
        ({"role": "tool", "tool_call_id": "c", "content": "", "name": 5}, "its name is an int"),
    ],
)
def test_a_message_that_cannot_be_right_is_refused_by_its_number_without_its_content(
    message: object, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        normalised([{"role": "user", "content": "ok"}, message], None, "draft")
    assert caught.value.message.startswith("draft: message 1")
    assert said in caught.value.message
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("prompt", [5, b"x", {"role": "user", "content": "x"}, None])
def test_what_is_no_prompt_is_refused(prompt: object) -> None:
    with pytest.raises(UsageError, match="a text or a list of messages"):
        normalised(prompt, None, "llm")


# ---- handles --------------------------------------------------------------------------------------------------------


async def test_handles_are_left_for_the_codec_and_stand_for_their_values(runtime: Runtime) -> None:
    @checkpoint
    async def found() -> dict[str, int]:
        return {"a": 1}

    @checkpoint
    async def said() -> str:
        return "hello"

    @flow
    async def talks() -> list[str]:
        text, value = said(), found()
        await text
        await value
        messages = normalised(
            [
                {"role": "user", "content": text},
                {"role": "user", "content": [{"type": "text", "text": text}]},
                {"role": "tool", "tool_call_id": "c", "content": value},
                {"role": "tool", "tool_call_id": "c", "content": [value]},
            ],
            None,
            "llm",
        )
        copy: Any = codec.decoder()(codec.encode(messages, unknown=stand_in))
        return [message.text for message in neutral(copy)]

    assert await (await runtime.start(talks)).result() == ["hello", "hello", '{"a":1}', '[{"a":1}]']


def test_a_handle_that_stood_for_no_text_is_refused_after_all() -> None:
    with pytest.raises(UsageError, match="message 1 holds a handle whose value is no text"):
        neutral([{"role": "user", "content": "a"}, {"role": "user", "content": {"a": 1}}])


# ---- the way back ---------------------------------------------------------------------------------------------------


def test_a_public_message_is_in_openais_form_and_plain_json() -> None:
    public: Any = public_message(TURN)
    assert public["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "tides"}'}}
    ]
    assert public["content"] == "thinking"
    again = json.loads(json.dumps(public))
    (back,) = neutral([one(again)])
    assert back == TURN
    assert own_form(back, "p", "m") == own_form(TURN, "p", "m") is not None


def test_a_public_text_message_has_role_and_content_only() -> None:
    assert public_message(Message("assistant", "hi")) == {"role": "assistant", "content": "hi"}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(min_size=1, max_size=8)
media = st.sampled_from(["image/png", "image/jpeg", "application/pdf", "text/plain"])
urls = texts.map(lambda text: f"https://h/{text}")
calls = st.builds(ToolCall, names, names, texts)
opaques = st.builds(Opaque, texts, texts, st.binary(max_size=20), st.binary(max_size=16))
some_parts = (
    st.builds(Text, texts)
    | st.builds(Image, media_type=media, data=st.binary(min_size=1, max_size=9), detail=st.sampled_from(["", "low"]))
    | st.builds(Image, media_type=st.sampled_from(["", "image/png"]), url=urls, detail=st.sampled_from(["", "low"]))
    | st.builds(Document, media_type=media, data=st.binary(min_size=1, max_size=9), name=texts)
    | st.builds(Document, media_type=st.sampled_from(["", "text/plain"]), url=urls, name=texts)
    | st.builds(Media, st.just("audio"), st.just("audio/mpeg"), data=st.binary(min_size=1, max_size=9))
    | st.builds(Media, st.just("video"), st.sampled_from(["", "video/mp4"]), url=urls)
)
contents = texts | st.lists(some_parts, min_size=1, max_size=3).map(tuple)
messages = (
    st.builds(
        Message, st.just("assistant"), contents, st.lists(calls, max_size=2).map(tuple), opaque=st.none() | opaques
    )
    | st.builds(Message, st.sampled_from(["user", "system"]), contents, name=texts)
    | st.builds(Message, st.just("tool"), contents, tool_call_id=names, name=texts, is_error=st.booleans())
)


@given(messages)
def test_law_a_public_message_stands_for_the_message_it_was_made_of(message: Message) -> None:
    public = public_message(message)
    assert neutral([one(public)]) == (message,)
    assert neutral([one(json.loads(json.dumps(public)))]) == (message,)
    assert neutral([one(message)]) == (message,)


@given(st.lists(messages, min_size=1, max_size=4))
def test_law_a_conversation_is_recorded_and_comes_back_whole(conversation: list[Message]) -> None:
    recorded = normalised(conversation, None, "llm")
    copy: Any = codec.decoder()(codec.encode(recorded))
    assert copy == recorded
    assert neutral(copy) == tuple(conversation)
    assert normalised(recorded, None, "llm") == recorded


async def test_a_chain_holds_bytes_and_comes_back_whole() -> None:
    recorded = normalised(
        [{"role": "user", "content": ["look", Image("image/png", PNG)]}, TURN, {"role": "user", "content": "and?"}],
        "s",
        "llm",
    )
    head, nodes = chained(recorded)
    assert len(nodes) == 4

    async def read(digest: bytes) -> bytes:
        return nodes[digest]

    assert await unchained(head, read) == recorded
