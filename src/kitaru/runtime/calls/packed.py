"""A provider's raw answer as an event keeps it: packed, for most of it stands in the outcome beside it already.

What stands beside it, and what answers have in common, is replaced by control characters: no JSON holds any. This is no
compression, on purpose: zlib gives up the interpreter lock at each call, and beside a busy writer getting it back takes
longer than all else that is done here. What is still large is an artifact, which the writer compresses.

The first byte tells how: that of a JSON text means that it stands there as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Final

from kitaru.errors import CorruptStoreError

_AS_IS: Final = b"\x00"
_ALONE: Final = b"\x01"
_BESIDE: Final = b"\x02"
_BESIDE_ESCAPED: Final = b"\x03"
_FIRST_OF_JSON: Final = frozenset(b"\t\n\r ") | frozenset(range(0x21, 0x7F))

_CONTROLS: Final = bytes(code for code in range(0x20) if code not in b"\t\n\r")
_MOST_BESIDE: Final = 8
"""Pieces of an outcome that are looked for; each has a code, from 1."""
_SHORTEST: Final = 8
_LONGEST: Final = 128 << 10
"""Bytes above which looking for all of them would keep the loop."""

# It must never change: what was packed with it is unpacked with it. One that fits later answers better is another, with
# first bytes of its own. A longer piece comes before those that it contains.
_COMMON: Final = (
    # OpenAI's form, as Python's, other servers' and OpenAI's own encoders write it
    b'"object": "chat.completion", "created": ',
    b'"choices": [{"index": 0, "message": {"role": "assistant", "content": ',
    b'}, "finish_reason": "stop"}], "usage": {"prompt_tokens": ',
    b', "completion_tokens": ',
    b', "total_tokens": ',
    b'"object":"chat.completion","created":',
    b'"choices":[{"index":0,"message":{"role":"assistant","content":',
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":',
    b',"completion_tokens":',
    b',"total_tokens":',
    b'"object": "chat.completion",\n  "created": ',
    (
        b',\n  "choices": [\n    {\n      "index": 0,\n      "message": {\n        "role": "assistant",\n      '
        b'  "content": '
    ),
    (
        b',\n        "refusal": null,\n        "annotations": []\n      },\n      "logprobs": null,\n      '
        b'"finish_reason": '
    ),
    b'\n    }\n  ],\n  "usage": {\n    "prompt_tokens": ',
    b',\n    "completion_tokens": ',
    b',\n    "total_tokens": ',
    b',\n    "prompt_tokens_details": {\n      "cached_tokens": ',
    b',\n    "completion_tokens_details": {\n      "reasoning_tokens": ',
    b',\n      "audio_tokens": 0',
    b',\n      "accepted_prediction_tokens": 0',
    b',\n      "rejected_prediction_tokens": 0',
    b'\n    }\n  },\n  "service_tier": "default",\n  "system_fingerprint": ',
    b'"id":"chatcmpl-',
    b'"id": "chatcmpl-',
    b'"refusal":null',
    b'"reasoning_content":',
    b'"logprobs":null',
    b'"tool_calls":[{"id":"call_',
    b'"type":"function","function":{"name":',
    b'"arguments":',
    b'"prompt_tokens_details":{"cached_tokens":',
    b'"completion_tokens_details":{"reasoning_tokens":',
    b'"system_fingerprint":',
    # Anthropic's
    b'"type":"message","role":"assistant"',
    b'"content":[{"type":"text","text":',
    b'"stop_reason":"end_turn","stop_sequence":null',
    b'"usage":{"input_tokens":',
    b',"cache_creation_input_tokens":0,"cache_read_input_tokens":0',
    b',"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0}',
    b',"output_tokens":',
    b',"service_tier":"standard"',
    # OpenAI's Responses
    b'"object": "response",\n  "created_at": ',
    (
        b'"status": "completed",\n  "background": false,\n  "error": null,\n  "incomplete_details": null,\n  '
        b'"instructions": '
    ),
    b'null,\n  "max_output_tokens": null,\n  "max_tool_calls": null,\n  "model": ',
    (
        b'"type": "message",\n      "status": "completed",\n      "content": [\n        {\n          "type": '
        b'"output_text",\n   '
    ),
    b'       "annotations": [],\n          "logprobs": [],\n          "text": ',
    b'"parallel_tool_calls": true,\n  "previous_response_id": null,\n  "prompt_cache_key": null,\n  "reasoning": {',
    b'"service_tier": "default",\n  "store": ',
    (
        b'"temperature": 1.0,\n  "text": {\n    "format": {\n      "type": "text"\n    },\n    "verbosity": '
        b'"medium"\n  },\n  '
    ),
    b'"tool_choice": "auto",\n  "tools": [],\n  "top_logprobs": 0,\n  "top_p": 1.0,\n  "truncation": "disabled",\n  ',
    b'"usage": {\n    "input_tokens": ',
    b',\n    "input_tokens_details": {\n      "cached_tokens": ',
    b',\n    "output_tokens": ',
    b',\n    "output_tokens_details": {\n      "reasoning_tokens": ',
    # Google's
    b'"candidates": [\n    {\n      "content": {\n        "parts": [\n          {\n            "text": ',
    b'"role": "model"\n      },\n      "finishReason": "STOP",\n      "index": 0',
    b'"usageMetadata": {\n    "promptTokenCount": ',
    b',\n    "candidatesTokenCount": ',
    b',\n    "totalTokenCount": ',
    b',\n    "promptTokensDetails": [\n      {\n        "modality": "TEXT",\n        "tokenCount": ',
    b',\n    "thoughtsTokenCount": ',
    b'"modelVersion": "gemini-',
    b'"responseId": ',
    # Ollama's and Cohere's
    b'"message":{"role":"assistant","content":',
    b'"done":true,"done_reason":"stop","total_duration":',
    b'"prompt_eval_duration":',
    b'"prompt_eval_count":',
    b'"eval_duration":',
    b'"load_duration":',
    b'"usage":{"billed_units":{"input_tokens":',
)
_CODED: Final = tuple((common, b"\x1f" + bytes((0x21 + at,))) for at, common in enumerate(_COMMON))


def pack(raw: bytes, said: Sequence[str | bytes] | None) -> bytes:
    """Return an answer as it is recorded, never longer by more than a byte.

    Args:
        raw: The body that arrived.
        said: What stands beside it and probably in it too: texts, and pieces of JSON as bytes; None for nothing.
    """
    plain = raw if raw and raw[0] in _FIRST_OF_JSON else _AS_IS + raw
    if len(raw) > _LONGEST or len(raw.translate(None, _CONTROLS)) != len(raw):
        return plain
    # Some write JSON with every letter beyond ASCII escaped.
    how = _ALONE if not said else _BESIDE_ESCAPED if b"\\u" in raw else _BESIDE
    packed = raw
    for piece, code in _beside(how, said or ()):
        packed = packed.replace(piece, code)
    for piece, code in _CODED:
        packed = packed.replace(piece, code)
    return how + packed if len(packed) + 1 < len(plain) else plain


def needs_outcome(data: bytes) -> bool:
    """Whether `unpack` has to be told what stood beside the answer."""
    return data[:1] in (_BESIDE, _BESIDE_ESCAPED)


def unpack(data: bytes, said: Sequence[str | bytes] = ()) -> bytes:
    """Return the body that arrived.

    Args:
        data: What `pack` gave.
        said: As `pack` was told, where the data needs it.

    Raises:
        CorruptStoreError: It is damaged, or of a later version.
    """
    how = data[:1]
    if data and data[0] in _FIRST_OF_JSON:
        return data
    if how == _AS_IS:
        return data[1:]
    if how not in (_ALONE, _BESIDE, _BESIDE_ESCAPED):
        raise CorruptStoreError(f"a recorded answer is packed in a way that this version does not know ({how!r})")
    raw = data[1:]
    for piece, code in reversed(_CODED):
        raw = raw.replace(code, piece)
    for piece, code in reversed(list(_beside(how, said))):
        raw = raw.replace(code, piece)
    if len(raw.translate(None, _CONTROLS)) != len(raw):
        raise CorruptStoreError("a recorded answer cannot be unpacked: the outcome beside it is another one")
    return raw


def _beside(how: bytes, said: Sequence[str | bytes]) -> Iterator[tuple[bytes, bytes]]:
    """What to replace of an outcome, each with its code."""
    for at, one in enumerate(said[:_MOST_BESIDE], 1):
        piece = one if isinstance(one, bytes) else _json(one, escaped=how == _BESIDE_ESCAPED)
        if len(piece) >= _SHORTEST:
            yield piece, bytes((at,))


def _json(text: str, *, escaped: bool) -> bytes:
    return json.dumps(text, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
