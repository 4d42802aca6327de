"""The table of providers: a row each, with all that differs between those that speak OpenAI's chat completions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from kitaru.adapters.call import Adapter
from kitaru.errors import UsageError

Wire: TypeAlias = Literal["openai-chat"]


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One provider: where it lives, where its credential is looked for, how its API differs.

    Args:
        name: What stands before the first `/` of a model's full name.
        wire: The wire format it speaks.
        base_url: Its own address; None where the caller has to name one.
        key_env: Environment variables that may hold its key, first wins.
        base_url_env: Environment variables that may hold its address, first wins.
        header_env: Environment variable and the header that carries its value.
        key_required: Whether a call without key is refused before it is sent (never for a loopback address).
        max_tokens_field: The request field for the token limit.
        request_id_headers: Response headers that may hold the request's id, first wins.
        retryable: Statuses after which the same request may succeed; every 5xx is one too.
        quota_codes: The provider's own codes of errors that waiting does not cure.
        model_prefixes: How its models' names start, to suggest a full name for a bare one.
    """

    name: str
    wire: Wire = "openai-chat"
    base_url: str | None = None
    key_env: tuple[str, ...] = ()
    base_url_env: tuple[str, ...] = ()
    header_env: tuple[tuple[str, str], ...] = ()
    key_required: bool = True
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    request_id_headers: tuple[str, ...] = ("x-request-id", "request-id")
    retryable: frozenset[int] = frozenset({408, 409, 429})
    quota_codes: frozenset[str] = frozenset()
    model_prefixes: tuple[str, ...] = ()

    def base_url_from(self, environ: Mapping[str, str]) -> str | None:
        """Return the address that the environment names, else the provider's own, else None."""
        return _first(environ, self.base_url_env) or self.base_url

    def headers_from(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that the environment asks for."""
        found = {header: environ.get(name, "").strip() for name, header in self.header_env}
        return {header: value for header, value in found.items() if value}


# The first: the type of all the others, which older accounts also get as the code. The last: a 400 of the image API.
_QUOTA_CODES: Final = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
    }
)

_ROWS: Final = (
    Provider(
        name="openai",
        base_url="https://api.openai.com/v1",  # openai SDK `_client.py`
        key_env=("OPENAI_API_KEY",),
        base_url_env=("OPENAI_BASE_URL", "OPENAI_API_BASE"),  # the second: SDK before 1.0
        header_env=(("OPENAI_ORG_ID", "OpenAI-Organization"), ("OPENAI_PROJECT_ID", "OpenAI-Project")),
        max_tokens_field="max_completion_tokens",  # `completion_create_params.py`: max_tokens is refused by o-series
        quota_codes=_QUOTA_CODES,
        model_prefixes=("gpt-", "chatgpt-", "o1", "o3", "o4", "ft:gpt-"),
    ),
    Provider(
        name="openai-compatible",
        key_required=False,
        # Understood by every server of the family; some (old vLLM, together) know only this one.
        max_tokens_field="max_tokens",
        # litellm's proxy and azure behind a gateway name theirs differently.
        request_id_headers=("x-request-id", "request-id", "x-litellm-call-id", "apim-request-id", "x-generation-id"),
        quota_codes=_QUOTA_CODES,
    ),
)

PROVIDERS: Final[Mapping[str, Provider]] = {row.name: row for row in _ROWS}


def provider(name: str) -> Provider:
    """Return the row of a provider.

    Args:
        name: What stands before the first `/` of a model's full name.

    Raises:
        UsageError: There is none; the message lists those there are, the hint names the closest.
    """
    row = PROVIDERS.get(name)
    if row is not None:
        return row
    close = difflib.get_close_matches(name.strip().lower(), PROVIDERS, n=1)
    hint = (
        f"Did you mean {close[0]!r}?"
        if close
        else "Any server with OpenAI's API: openai-compatible/MODEL with base_url=."
    )
    raise UsageError(f"no provider is called {name!r}; known are {', '.join(PROVIDERS)}", hint=hint)


def adapter(row: Provider) -> Adapter:
    """Return the adapter that speaks a provider's wire format."""
    match row.wire:
        case "openai-chat":
            from kitaru.adapters.openai_chat import OpenAIChat

            return OpenAIChat(row)


def split_model(name: str) -> tuple[str, str]:
    """Split a model's full name at its first `/` only.

    Args:
        name: Such as `openai/gpt-5-nano` or `openai-compatible/org/model`.

    Returns:
        The provider's name and the model's. Whether the provider exists is for `provider` to say.

    Raises:
        UsageError: No provider, or no model, in it.
    """
    before, slash, after = name.partition("/")
    if slash and before.strip() and after.strip():
        return before.strip(), after.strip()
    if slash:
        raise UsageError(
            f"{name!r} names no {'model' if before.strip() else 'provider'}", hint="A full name is PROVIDER/MODEL."
        )
    bare = name.strip()
    if not bare:
        raise UsageError("the model's name is empty", hint="A full name is PROVIDER/MODEL.")
    if bare in PROVIDERS:
        raise UsageError(f"{bare!r} is a provider, not a model", hint=f"Add the model: {bare}/MODEL.")
    owner = next((row.name for row in _ROWS if bare.lower().startswith(row.model_prefixes or ("\0",))), None)
    if owner is not None:
        hint = f"Did you mean '{owner}/{bare}'?"
    else:
        hint = f"Put the provider first, such as 'openai-compatible/{bare}' with base_url=."
    raise UsageError(f"the model {bare!r} names no provider", hint=hint)


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := environ.get(name, "").strip())), None)
