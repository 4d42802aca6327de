"""A model's whole answer, as flows see it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from kitaru.errors import AnswerError
from kitaru.store import codec
from kitaru.store.events import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kitaru.runtime.calls.tools import ToolSource

# Of the call that was answered, not of the answer: the codec leaves such names out.
_TOOL: Final = "__tool__"


class ToolCall(msgspec.Struct, frozen=True, dict=True):
    """What a model wants to have called.

    Args:
        id: Names the call; its result goes into the conversation under this id.
        name: The tool's name.
        arguments: A JSON text, as the model wrote it; not necessarily valid.
    """

    id: str
    name: str
    arguments: str

    def parsed(self, tool: ToolSource | None = None) -> dict[str, Any]:
        """Return the arguments as the tool takes them: checked, of its annotated types, null for a default left out.

        Args:
            tool: The tool; by default that of the answered call. A reply that went through a checkpoint no longer knows
                the tools, and returns the JSON.

        Raises:
            AnswerError: The model wrote something else than a JSON object, or what the tool does not take. The message
                may go back to the model: `call.result(str(error), is_error=True)`.
            UsageError: `tool` cannot be a tool.
        """
        tool = tool if tool is not None else self.__dict__.get(_TOOL)
        if tool is not None:
            from kitaru.runtime.calls.tools import arguments_for

            return arguments_for(tool, self)
        try:
            found = msgspec.json.decode(self.arguments or "{}")
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise AnswerError(f"the arguments of {self.name} are not JSON: {error}") from None
        if not isinstance(found, dict):
            raise AnswerError(f"the arguments of {self.name} are a JSON {type(found).__name__}, not an object")
        return found

    def result(self, content: object, *, is_error: bool = False) -> dict[str, Any]:
        """Return the message that gives the model this call's result.

        Args:
            content: A text, or what becomes JSON.
            is_error: The call failed, and `content` says why.
        """
        text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
        message: dict[str, Any] = {"role": "tool", "tool_call_id": self.id, "name": self.name, "content": text}
        return {**message, "is_error": True} if is_error else message


class Reply(msgspec.Struct, frozen=True):
    """A model's whole answer.

    Args:
        text: What it said.
        message: What to append to the conversation for the next turn, tool calls and the provider's own parts included.
        finish: Why it stopped: `stop`, `length`, `tool_calls`, `content_filter`, `error` or `other`.
        usage: Tokens.
        model: The model that answered, by its own account.
        provider: Who answered.
        request_id: The provider's name for the request.
        latency: Seconds, waits between attempts included.
        cost: USD of the answer; None where it is not known.
        warnings: What the caller should know although the answer is good.
        tool_calls: What it wants to have called.
        reasoning: Its thinking, as far as the provider shows it.
        refusal: Its own words of refusal, where the provider tells them apart.
        logprobs: The probabilities of its tokens, as the provider writes them; None where it was not asked for any.
        raw: The provider's whole answer, where the call says `raw=True`.
    """

    text: str
    message: dict[str, Any]
    finish: str
    usage: Usage
    model: str
    provider: str
    request_id: str
    latency: float
    cost: Decimal | None = None
    warnings: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""
    refusal: str | None = None
    logprobs: Any = None
    raw: dict[str, Any] | None = None


def reply_from_json(value: object) -> Reply:
    """A reply as `kitaru show` prints it, or its text alone.

    Raises:
        UsageError: It is neither.
    """
    if isinstance(value, str):
        value = {
            "text": value, "message": {"role": "assistant", "content": value}, "finish": "stop", "usage": {},
            "model": "", "provider": "", "request_id": "", "latency": 0.0,
        }  # fmt: skip
    if isinstance(value, dict) and isinstance(usage := value.get("usage"), dict):
        known = {name: count for name, count in usage.items() if name in Usage.__struct_fields__}
        value = {**value, "usage": list(msgspec.structs.astuple(Usage(**known)))}
    reply: Any = codec.from_json(value, Reply)
    return cast(Reply, reply)


def with_tools(value: object, tools: Mapping[str, ToolSource]) -> object:
    """Let the tool calls of a reply know the tools that they name.

    Args:
        value: What a call came to; anything but a `Reply` stays as it is.
        tools: The call's tools by name.
    """
    if tools and isinstance(value, Reply):
        for call in value.tool_calls:
            if call.name in tools:
                call.__dict__[_TOOL] = tools[call.name]
    return value
