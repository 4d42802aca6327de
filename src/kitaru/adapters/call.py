"""A model call in neutral terms: what every wire format is translated from. Holds no address and no credential."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from kitaru.adapters.message import Message

Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "max"]


class Settings(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the model is to answer. What is None is left to the provider.

    Args:
        temperature: Sampling temperature. Advisory.
        max_tokens: The most tokens to produce, thinking included. Binding.
        top_p: Nucleus sampling. Advisory.
        stop: Texts that end the answer. Binding.
        seed: For repeatable sampling, as far as the provider keeps it. Advisory.
        reasoning: How hard to think: an effort, or a budget in tokens. Advisory.
        context_length: Tokens of context to reserve (ollama). Advisory.
        extra: Further fields of this provider's own request body, sent as they are.
    """

    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning: Effort | int | None = None
    context_length: int | None = None
    extra: dict[str, object] = msgspec.field(default_factory=dict)


class Tool(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the model may ask to have called.

    Args:
        name: Letters, digits, `_` and `-`, at most 64.
        description: For the model.
        parameters: The JSON schema of its arguments, an object.
        strict: Whether the arguments are to follow the schema to the letter, where the provider can promise that.
        more: Further fields as the caller wrote them, such as `cache_control`, for providers that have them.
    """

    name: str
    description: str = ""
    parameters: dict[str, object] = msgspec.field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False
    more: dict[str, object] = {}


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the model may, must not, or must call a tool, or which one.

    Args:
        mode: `tool` is the one called `name`.
        name: Of that tool.
        names: With `auto` and `required`: the tools that are allowed; empty for all.
    """

    mode: Literal["auto", "none", "required", "tool"] = "auto"
    name: str = ""
    names: tuple[str, ...] = ()


class Output(msgspec.Struct, frozen=True, omit_defaults=True):
    """The form of the answer.

    Args:
        kind: Text, any JSON object, or JSON that follows `schema`.
        schema: A JSON schema, already in the provider's dialect when an adapter sees it.
        name: The schema's name.
        strict: Whether the schema may be sent as one to be followed to the letter.
    """

    kind: Literal["text", "json", "schema"] = "text"
    schema: dict[str, object] | None = None
    name: str = "answer"
    strict: bool = False


class ModelCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked, of which model.

    Args:
        provider: Name of the provider's row.
        model: The provider's own name of the model.
        messages: The conversation, oldest first.
        settings: How to answer.
        tools: What the model may ask to have called.
        tool_choice: Whether it has to; None leaves it to the provider.
        output: The form of the answer.
        strict: An advisory setting that the provider or model lacks is an error instead of dropped.
    """

    provider: str
    model: str
    messages: tuple[Message, ...]
    settings: Settings = Settings()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    output: Output = Output()
    strict: bool = False
