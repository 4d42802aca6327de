"""What a model call was asked, as it was written: its fingerprint's material, and what is never recorded of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kitaru.runtime.models.alias import Effort

if TYPE_CHECKING:
    from kitaru.adapters import Retry, SecretStr, Timeouts


class Settings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call asks for beside its prompt, as written: part of its fingerprint.

    Args:
        model: An alias, or `provider/model`; None for the default.
        whole: The whole reply is wanted, not its text.
        raw: The provider's own answer is wanted in it.
        form: The description of the answer's form, where it is not text.
        tools: As neutral terms have them.
        tool_choice: As neutral terms have it.
        extra: Further fields of request bodies, by provider.
    """

    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    base_url: str | None = None
    extra: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    whole: bool = False
    reasoning: Effort | int | None = None
    context_length: int | None = None
    strict: bool = False
    fallbacks: tuple[str, ...] = ()
    form: Any = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: dict[str, Any] | None = None
    raw: bool = False


class Sending(msgspec.Struct, frozen=True):
    """How a call is sent: never recorded."""

    api_key: str | SecretStr | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    timeout: float | Timeouts | None = None
    retry: Retry | None = None
