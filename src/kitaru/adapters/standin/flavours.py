"""The providers that speak OpenAI's chat completions, and all in which they differ from it."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final, Literal, TypeAlias

import msgspec

from kitaru.adapters.standin.asked import Object, Trouble, child

Said: TypeAlias = tuple[int, str, str | None]
"""A status, a message and a code."""

_SHARED: Final = frozenset(
    {
        "model", "messages", "stream", "temperature", "top_p", "stop", "n", "tools", "tool_choice", "response_format",
        "frequency_penalty", "presence_penalty", "logprobs",
    }
)  # fmt: skip
# `completion_create_params.py` of each SDK; mistral: `chatcompletionrequest.py`; openrouter: `chatrequest.py`.
_OPENAI: Final = _SHARED | {
    "audio", "function_call", "functions", "logit_bias", "max_completion_tokens", "max_tokens", "metadata",
    "modalities", "moderation", "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "reasoning_effort", "safety_identifier", "seed", "service_tier", "store",
    "stream_options", "top_logprobs", "user", "verbosity", "web_search_options",
}  # fmt: skip
_MISTRAL: Final = _SHARED | {
    "guardrails", "max_tokens", "metadata", "min_tokens", "parallel_tool_calls", "prediction", "prompt_cache_key",
    "prompt_logprobs", "prompt_mode", "random_seed", "reasoning_effort", "repetition_penalty", "safe_prompt",
    "service_tier", "top_k", "top_logprobs", "top_prompt_logprobs",
}  # fmt: skip
_GROQ: Final = _SHARED | {
    "citation_options", "compound_custom", "disable_tool_validation", "documents", "exclude_domains", "function_call",
    "functions", "include_domains", "include_reasoning", "logit_bias", "max_completion_tokens", "max_tokens",
    "metadata", "parallel_tool_calls", "reasoning_effort", "reasoning_format", "search_settings", "seed",
    "service_tier", "store", "top_logprobs", "user",
}  # fmt: skip
_TOGETHER: Final = _SHARED | {
    "chat_template_kwargs", "compliance", "context_length_exceeded_behavior", "echo", "function_call", "logit_bias",
    "max_tokens", "min_p", "reasoning", "reasoning_effort", "repetition_penalty", "safety_model", "seed", "top_k",
}  # fmt: skip
_PERPLEXITY: Final = _SHARED | {
    "best_of", "country", "cum_logprobs", "disable_search", "enable_search_classifier", "image_domain_filter",
    "image_format_filter", "language_preference", "last_updated_after_filter", "last_updated_before_filter",
    "latitude", "longitude", "max_tokens", "num_images", "num_search_results", "parallel_tool_calls",
    "reasoning_effort", "return_images", "return_related_questions", "safe_search", "search_after_date_filter",
    "search_before_date_filter", "search_domain_filter", "search_language_filter", "search_mode",
    "search_recency_filter", "stream_mode", "top_k", "top_logprobs", "web_search_options",
}  # fmt: skip
_DEEPSEEK: Final = _SHARED | {
    "max_tokens", "reasoning_effort", "stream_options", "thinking", "top_logprobs", "user"
}  # fmt: skip
_OPENROUTER: Final = _OPENAI | {
    "debug", "include_reasoning", "min_p", "models", "plugins", "provider", "reasoning", "repetition_penalty",
    "route", "session_id", "top_a", "top_k", "trace", "transforms", "usage",
}  # fmt: skip

_PROBLEMS: Final[Mapping[Trouble, Said]] = {
    "auth": (401, "Incorrect API key provided.", "invalid_api_key"),
    "rate": (429, "Rate limit reached.", "rate_limit_exceeded"),
    "quota": (429, "You exceeded your current quota.", "insufficient_quota"),
    "context": (400, "This model's maximum context length is 128000 tokens.", "context_length_exceeded"),
    "filter": (400, "The prompt was filtered by the content management policy.", "content_filter"),
    "server": (500, "The server had an error.", None),
    "overloaded": (503, "The engine is overloaded.", None),
    "upstream": (502, "Upstream is overloaded.", "502"),
}


class Flavour(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's way of OpenAI's chat completions.

    Args:
        name: The provider's name.
        fields: The request's fields that it knows.
        refuses: Whether it refuses others: always, or only where the server is strict.
        id_header: Where it tells the request's id.
        waits: The statuses with which it tells how long to wait, in a header.
        problems: What it says to troubles, where that is not what OpenAI says.
        thinking: The field of a message that shows its thinking.
        ids: The shape of its tool calls' ids.
        whole_calls: Whether a tool call comes in one piece of a stream.
        usage: Where a stream tells the usage: in a last chunk if asked, or always; in the chunk that tells the finish;
            there under groq's own key.
        filters: Whether it knows the finish `content_filter`.
        refusals: Whether a message may hold a refusal beside its text.
        stop: The finish of an answer that came to its end.
        comment: What its streams say to keep a connection open.
    """

    name: str
    fields: frozenset[str] = _OPENAI
    refuses: Literal["always", "strict"] = "strict"
    id_header: str = "x-request-id"
    waits: frozenset[int] = frozenset({429, 503})
    problems: Mapping[Trouble, Said] = {}
    thinking: Literal["", "reasoning", "reasoning_content", "details", "chunks"] = ""
    ids: Literal["call", "nine"] = "call"
    whole_calls: bool = False
    usage: Literal["asked", "always", "finish", "x_groq"] = "asked"
    filters: bool = False
    refusals: bool = False
    stop: str = "stop"
    comment: bytes = b""

    def says(self, trouble: Trouble) -> Said:
        """Return status, message and code of some trouble."""
        found = self.problems.get(trouble) or _PROBLEMS.get(trouble)
        return found or (400, "The request cannot be answered.", None)

    def thinks(self, payload: Object, model: str) -> bool:
        """Return whether a request wants the model to show what it thinks."""
        bare = model.rpartition("/")[2].lower()
        match self.name:
            case "deepseek":
                told = child(payload, "thinking").get("type")
                default = fnmatchcase(bare, "*reasoner*") or fnmatchcase(bare, "deepseek-v4*")
                return default if told is None else told == "enabled"
            case "openrouter":
                reasoning = child(payload, "reasoning")
                wanted = bool(reasoning) and reasoning.get("enabled") is not False and not reasoning.get("exclude")
                return wanted and reasoning.get("effort") != "none"
            case "together":
                return child(payload, "reasoning").get("enabled") is True or "reasoning_effort" in payload
            case "groq":
                shown = payload.get("include_reasoning") is True or payload.get("reasoning_format") == "parsed"
                hidden = payload.get("reasoning_format") == "hidden" or payload.get("include_reasoning") is False
                return shown or ("reasoning_effort" in payload and not hidden and payload["reasoning_effort"] != "none")
            case "mistral":
                asked = payload.get("prompt_mode") == "reasoning" or payload.get("reasoning_effort") == "high"
                return asked or (fnmatchcase(bare, "magistral*") and "reasoning_effort" not in payload)
            case _:
                return False


_AZURE: Final = Flavour(name="azure", id_header="apim-request-id", filters=True, refusals=True)

FLAVOURS: Final[Mapping[str, Flavour]] = {
    flavour.name: flavour
    for flavour in (
        Flavour(name="openai", filters=True, refusals=True),
        _AZURE,
        Flavour(name="openai-compatible", filters=True, refusals=True),
        Flavour(
            name="mistral", fields=_MISTRAL, refuses="always", id_header="mistral-correlation-id",
            problems={
                "auth": (401, "Unauthorized", None),
                "rate": (429, "Requests rate limit exceeded", "1300"),
                "quota": (402, "You have reached your monthly spending limit.", None),
                "context": (400, "Prompt contains too many tokens for this model.", "3051"),
                "overloaded": (503, "Service unavailable.", "3505"),
                "server": (500, "Service unavailable.", "1000"),
            },
            thinking="chunks", ids="nine", whole_calls=True, usage="finish",
        ),
        Flavour(
            name="groq", fields=_GROQ, waits=frozenset({429}), thinking="reasoning", whole_calls=True, usage="x_groq",
            problems={
                "auth": (401, "Invalid API Key", "invalid_api_key"),
                "rate": (429, "Rate limit reached on tokens per minute.", "rate_limit_exceeded"),
                "context": (400, "Please reduce the length of the messages or completion.", "context_length_exceeded"),
                "overloaded": (498, "Flex tier capacity exceeded.", "capacity_exceeded"),
                "upstream": (400, "Failed to call a function. Please adjust your prompt.", "tool_use_failed"),
            },
        ),
        Flavour(
            name="together", fields=_TOGETHER, thinking="reasoning", usage="finish", stop="eos",
            problems={"quota": (402, "Credit limit exceeded.", "credit_limit")},
        ),
        Flavour(name="perplexity", fields=_PERPLEXITY, usage="finish"),
        Flavour(
            name="deepseek", fields=_DEEPSEEK, waits=frozenset(), thinking="reasoning_content", usage="finish",
            filters=True, comment=b": keep-alive\n\n",
            problems={
                "auth": (401, "Authentication Fails (no such user)", "invalid_request_error"),
                "quota": (402, "Insufficient Balance", "invalid_request_error"),
            },
        ),
        Flavour(
            name="openrouter", fields=_OPENROUTER, id_header="x-generation-id", filters=True, refusals=True,
            thinking="details", usage="always", comment=b": OPENROUTER PROCESSING\n\n",
            problems={
                "auth": (401, "No auth credentials found", None),
                "quota": (402, "Insufficient credits. Add more using the credits page.", None),
            },
        ),
    )
}  # fmt: skip

_BY_MODEL: Final = (
    ("mistral", ("mistral*", "magistral*", "codestral*", "ministral*", "pixtral*", "devstral*", "open-mistral*")),
    ("deepseek", ("deepseek*",)),
    ("perplexity", ("sonar*",)),
)


def flavour_of(provider: str, model: str) -> Flavour:
    """Return the flavour of a provider; where none is named, the one that has such models.

    Args:
        provider: Its name; one that is not known speaks as OpenAI does. Empty where the path named none.
        model: The model's name.
    """
    if provider:
        return FLAVOURS.get(provider) or msgspec.structs.replace(FLAVOURS["openai-compatible"], name=provider)
    # Only bare names: `org/model` is what servers of open models use.
    found = next((name for name, patterns in _BY_MODEL if any(fnmatchcase(model, each) for each in patterns)), "openai")
    return FLAVOURS[found]
