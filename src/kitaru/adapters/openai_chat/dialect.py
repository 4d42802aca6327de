"""How the servers of the chat-completions family differ from OpenAI's: data, a record for each row of the table."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from kitaru.adapters.call import Effort

# From the least to the most.
_EFFORTS: Final[tuple[Effort, ...]] = ("none", "minimal", "low", "medium", "high", "max")

# A budget in tokens, where the API knows words only: up to so many stand for the word.
_BUDGETS: Final[tuple[tuple[int, Effort], ...]] = ((0, "none"), (1_024, "minimal"), (4_096, "low"), (16_384, "medium"))


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How a server's requests and replies differ from OpenAI's.

    Args:
        max_tokens: The field for the token limit. All servers of the family know the older one; some only that.
        seed: The field for the seed.
        stream_usage: Whether `stream_options` asks for the usage of a stream; others send it unasked, and some refuse
            the field.
        must_call: The word by which a tool has to be called.
        reasoning: Where the effort goes: `effort` is `reasoning_effort`; `groq` also asks to show the thinking;
            `thinking` switches it by `thinking.type`; `switch` by `reasoning.enabled`; `object` is openrouter's
            `reasoning`, which takes an effort or a budget.
        efforts: The efforts that the server has a word for; the nearest of them is sent. Empty: it has none.
        developer: Whether it knows the role `developer`; it becomes `system` elsewhere.
        alternate: Whether user and assistant have to alternate, so that neighbours of one role become one message.
        prefix: Whether a conversation that ends with an assistant's turn has to say that it is to be continued.
        call_ids: What ids of tool calls have to look like: `short` is nine letters or digits, `forty` anything up to
            40 characters. Others are rewritten, alike in the call and in its result.
        tool_name: Whether a tool's result repeats the tool's name.
        tool_strict: Whether a tool may say `strict`.
        image_detail: Whether an image may say how closely to look.
        documents: How a document is written.
        audio: How sound is written: as data and format, or as a text alone.
        text_parts: Whether several texts of one message go as parts of their own; else a line break joins them.
        echoes: Fields of an assistant's turn that go back with it, as they came; `content` where its parts hold more
            than text, `tool_calls` where they hold more than calls.
        demands: A field that every assistant's turn needs in a conversation with tools while the model thinks; turns
            that others wrote get a blank.
        thinking_apart: Whether `completion_tokens` leaves the thinking out.
        cost: How the server states what it charges.
    """

    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    seed: Literal["seed", "random_seed"] = "seed"
    stream_usage: bool = True
    must_call: Literal["required", "any"] = "required"
    reasoning: Literal["effort", "groq", "thinking", "switch", "object"] = "effort"
    efforts: tuple[Effort, ...] = _EFFORTS
    developer: bool = False
    alternate: bool = False
    prefix: bool = False
    call_ids: Literal["forty", "short"] = "forty"
    tool_name: bool = False
    tool_strict: bool = True
    image_detail: bool = True
    documents: Literal["file", "document_url", "file_url"] = "file"
    text_parts: bool = False
    audio: Literal["object", "text"] = "object"
    echoes: tuple[str, ...] = ()
    demands: str = ""
    thinking_apart: bool = False
    cost: Literal["", "openrouter", "perplexity", "ticks", "litellm"] = ""


def effort_of(reasoning: Effort | int) -> Effort:
    """Return the effort that a budget in tokens stands for; an effort stands for itself.

    Up to 1,024 tokens are `minimal`, up to 4,096 `low`, up to 16,384 `medium`, more are `high`; none at all is `none`.
    """
    if not isinstance(reasoning, int):
        return reasoning
    return next((word for limit, word in _BUDGETS if reasoning <= limit), "high")


def thinks(reasoning: Effort | int | None) -> bool:
    """Whether a call leaves the thinking on, as far as the call decides."""
    return reasoning is None or effort_of(reasoning) != "none"


def reasoning_fields(dialect: Dialect, reasoning: Effort | int | None, extra: dict[str, object]) -> dict[str, object]:
    """Return the fields by which a server is told how hard to think.

    An effort that the server has no word for becomes the nearest that it has, the greater of two.

    Args:
        dialect: The server's.
        reasoning: What is asked.
        extra: The caller's own fields, which may decide how the thinking is shown.
    """
    if reasoning is None:
        return {}
    asked = effort_of(reasoning)
    at = _EFFORTS.index(asked)
    near = sorted(dialect.efforts, key=lambda word: (abs(_EFFORTS.index(word) - at), -_EFFORTS.index(word)))
    word: dict[str, object] = {"reasoning_effort": near[0]} if near else {}
    match dialect.reasoning:
        case "effort":
            return word
        case "groq":
            # The one field excludes the other; without either some models write their thinking into the text.
            shown = asked != "none" and not {"reasoning_format", "include_reasoning"} & extra.keys()
            return {**word, **({"include_reasoning": True} if shown else {})}
        case "thinking":
            if asked == "none":
                return {"thinking": {"type": "disabled"}}
            return {"thinking": {"type": "enabled"}, **word}
        case "switch":
            if asked == "none":
                return {"reasoning": {"enabled": False}}
            return {"reasoning": {"enabled": True}, **word}
        case "object":
            if isinstance(reasoning, int) and reasoning > 0:
                return {"reasoning": {"max_tokens": reasoning}}
            return {"reasoning": {"effort": near[0]}} if near else {}
