"""The table of providers that speak OpenAI's chat completions: a row each, with all that differs between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kitaru.adapters.openai_chat import Dialect, OpenAIChat
from kitaru.adapters.provider import Capabilities, Feature, Lacks, Provider

_CHAT: Final[frozenset[Feature]] = frozenset(
    {
        "temperature", "top_p", "seed", "reasoning", "tools", "tool_choice", "json_schema", "json_mode", "images",
        "image_urls", "stop", "max_tokens",
    }
)  # fmt: skip

# Reasoning models take no temperature but the default (`unsupported_value`); what others lack is learned from a 400.
_REASONING: Final = (
    Lacks(models=("o1*", "o3*", "o4*", "gpt-5", "gpt-5-*"), features=frozenset({"temperature", "top_p"})),
    Lacks(models=("o3", "o3-2*", "o4-mini*"), features=frozenset({"stop"})),
)

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

_ROWS: Final[tuple[tuple[Provider, Dialect], ...]] = (
    (
        Provider(
            name="openai",
            capabilities=Capabilities(features=_CHAT, schema_dialect="closed", most_stops=4, models=_REASONING),
            base_url="https://api.openai.com/v1",  # openai SDK `_client.py`
            key_env=("OPENAI_API_KEY",),
            base_url_env=("OPENAI_BASE_URL", "OPENAI_API_BASE"),  # the second: SDK before 1.0
            header_env=(("OPENAI_ORG_ID", "OpenAI-Organization"), ("OPENAI_PROJECT_ID", "OpenAI-Project")),
            quota_codes=_QUOTA_CODES,
            model_prefixes=("gpt-", "chatgpt-", "o1", "o3", "o4", "ft:gpt-"),
        ),
        Dialect(max_tokens="max_completion_tokens"),
    ),  # `completion_create_params.py`: o-series refuse max_tokens
    (
        Provider(
            name="openai-compatible",
            capabilities=Capabilities(features=_CHAT),
            key_required=False,
            # litellm's proxy and azure behind a gateway name theirs differently.
            request_id_headers=(
                "x-request-id",
                "request-id",
                "x-litellm-call-id",
                "apim-request-id",
                "x-generation-id",
            ),
            quota_codes=_QUOTA_CODES,
        ),
        Dialect(),
    ),
)


ADAPTERS: Final[Mapping[str, OpenAIChat]] = {row.name: OpenAIChat(row, dialect) for row, dialect in _ROWS}
