"""What aimock is to answer, as its fixtures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

ANSWER: Final = "Tides come from the moon. "

_CITY: Final = '{"name":"Paris","days":3}'
_CALLS: Final = [{"name": "get_weather", "arguments": f'{{"city":"{city}"}}'} for city in ("Paris", "Rome")]
_BUSY: Final = {"error": {"message": "slow down", "type": "rate_limit_error"}, "status": 429}


def fixtures(labels: Iterable[str]) -> dict[str, Any]:
    """The fixtures file: what is answered to each prompt, `[label]` in it where the server counts."""
    counted = [one for label in labels for one in _counted(f"[{label}]")]
    return {"fixtures": [*counted, *_errors(), *_always()]}


def _counted(whose: str) -> list[dict[str, Any]]:
    """First trouble, then the answer."""
    found = []
    for prompt, trouble in (
        ("busy", {"response": _BUSY}),
        ("occupied", {"response": _BUSY}),
        ("flaky", {"response": {"content": ANSWER}, "chaos": {"disconnectRate": 1}}),
        ("torn", {"response": {"content": ANSWER}, "truncateAfterChunks": 2, "latency": 30}),
    ):
        asked = f"{prompt} {whose}"
        found.append({"match": {"userMessage": asked, "sequenceIndex": 0}, **trouble})
        found.append({"match": {"userMessage": asked}, "response": {"content": ANSWER}})
    mend = f"mend {whose}"
    found.append({"match": {"systemMessage": mend, "turnIndex": 0}, "response": {"content": '{"name":"Paris"}'}})
    found.append({"match": {"systemMessage": mend, "turnIndex": 1}, "response": {"content": _CITY}})
    return found


def _errors() -> list[dict[str, Any]]:
    spent = {
        "message": "You exceeded your current quota",
        "type": "insufficient_quota",
        "code": "credit_balance_exhausted",
    }
    long = {
        "message": "This model's maximum context length is 8192 tokens.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }
    unsupported = {
        "message": "Unsupported value: 'temperature' does not support 0.2 with this model.",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "unsupported_value",
    }
    overloaded = {"message": "Overloaded", "type": "overloaded_error"}
    return [
        {"match": {"userMessage": "error quota"}, "response": {"error": spent, "status": 429}},
        {"match": {"userMessage": "error context"}, "response": {"error": long, "status": 400}},
        {
            "match": {"userMessage": "error temperature", "sequenceIndex": 0},
            "response": {"error": unsupported, "status": 400},
        },
        {"match": {"userMessage": "error temperature"}, "response": {"content": ANSWER}},
        {"match": {"userMessage": "error overloaded"}, "response": {"error": overloaded, "status": 529}},
        {
            "match": {"userMessage": "echo"},
            "response": {
                "error": {"message": "who are you, key-of-the-test?", "type": "invalid_request_error"},
                "status": 400,
            },
        },
    ]


def _always() -> list[dict[str, Any]]:
    usage = {
        "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18,
        "input_tokens": 11, "output_tokens": 7, "promptTokenCount": 11, "candidatesTokenCount": 7,
    }  # fmt: skip
    return [
        {"match": {"userMessage": "weather", "hasToolResult": False}, "response": {"toolCalls": _CALLS}},
        {"match": {"userMessage": "weather", "hasToolResult": True}, "response": {"content": "Sunny in both."}},
        {"match": {"userMessage": "typed"}, "response": {"content": _CITY}},
        {"match": {"userMessage": "cut"}, "response": {"content": ANSWER * 5}, "truncateAfterChunks": 3, "latency": 30},
        {
            "match": {"userMessage": "long"},
            "response": {"content": "Tides come", "finishReason": "length", "usage": usage},
        },
        {"match": {"userMessage": "filter [anthropic]"}, "response": {"content": "No.", "finishReason": "refusal"}},
        {"match": {"userMessage": "filter"}, "response": {"content": "Nothing.", "finishReason": "content_filter"}},
        {
            "match": {"userMessage": "think"},
            "response": {"content": ANSWER, "reasoning": "Let me think of the moon."},
        },
        {"match": {"userMessage": "plain"}, "response": {"content": ANSWER}},
    ]
