"""The table of providers that speak OpenAI's chat completions: a row each, with all that differs between them.

Where no official SDK names a variable, LiteLLM's name is taken (its `get_llm_provider_logic.py`, and
`llms/<provider>/chat/transformation.py`); capabilities beyond section 9 of the provider facts are LiteLLM's, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from kitaru.adapters.call import Effort
from kitaru.adapters.openai_chat import OpenAIChat
from kitaru.adapters.openai_chat.dialect import Dialect
from kitaru.adapters.provider import Capabilities, Feature, Lacks, Provider

# What every server of the family has.
_PLAIN: Final[frozenset[Feature]] = frozenset(
    {"temperature", "top_p", "seed", "reasoning", "tools", "tool_choice", "json_mode", "stop", "max_tokens"}
)
_CHAT: Final[frozenset[Feature]] = _PLAIN | {"json_schema", "images", "image_urls"}

# Reasoning models take no temperature but the default (`unsupported_value`); what others lack is learned from a 400.
REASONING_MODELS: Final = (
    Lacks(models=("o1*", "o3*", "o4*", "gpt-5", "gpt-5-*"), features=frozenset({"temperature", "top_p"})),
    Lacks(models=("o3", "o3-2*", "o4-mini*"), features=frozenset({"stop"})),
)

# What OpenAI's strict schemas take beside the structure: its guide "Structured model outputs", supported schemas.
_STRICT_KEYWORDS: Final = frozenset(
    {
        "pattern",
        "format",
        "multipleOf",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minItems",
        "maxItems",
    }
)

# The first: the type of all the others, which older accounts also get as the code. The last: a 400 of the image API.
QUOTA_CODES: Final = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
    }
)

# What takes ten minutes, the usual limit of an idle connection, at 128,000 tokens an hour: the anthropic SDK's rule
# (`_base_client.py`), the only one that an SDK has.
TEN_MINUTES: Final = 21_333

_THREE: Final[tuple[Effort, ...]] = ("low", "medium", "high")
_FOUR: Final[tuple[Effort, ...]] = ("none", *_THREE)

_ROWS: Final[tuple[tuple[Provider, Dialect], ...]] = (
    (
        Provider(
            name="openai",
            title="OpenAI",
            capabilities=Capabilities(
                speakers=True,
                part_fields=frozenset({"prompt_cache_breakpoint"}),
                features=_CHAT | {"documents", "audio"},
                tool_sets=True,
                schema_dialect="closed",
                schema_keywords=_STRICT_KEYWORDS,
                most_stops=4,
                models=REASONING_MODELS,
            ),
            base_url="https://api.openai.com/v1",  # openai SDK `_client.py`
            key_env=("OPENAI_API_KEY",),
            base_url_env=("OPENAI_BASE_URL", "OPENAI_API_BASE"),  # the second: SDK before 1.0
            header_env=(("OPENAI_ORG_ID", "OpenAI-Organization"), ("OPENAI_PROJECT_ID", "OpenAI-Project")),
            quota_codes=QUOTA_CODES,
            model_prefixes=("gpt-", "chatgpt-", "o1", "o3", "o4", "ft:gpt-"),
            stream_over=TEN_MINUTES,
            docs="https://platform.openai.com/docs/api-reference/chat",
        ),
        # `completion_create_params.py`: o-series refuse max_tokens
        Dialect(max_tokens="max_completion_tokens", developer=True, text_parts=True),
    ),
    (
        Provider(
            name="groq",
            thinks_in_text=True,
            title="Groq",
            capabilities=Capabilities(speakers=True, features=_CHAT, schema_dialect="closed", most_stops=4),
            base_url="https://api.groq.com/openai/v1",  # groq SDK `_client.py`, `resources/chat/completions.py`
            key_env=("GROQ_API_KEY",),
            base_url_env=("GROQ_BASE_URL", "GROQ_API_BASE"),  # the SDK's, the host only; LiteLLM's, the whole
            base_path="/openai/v1",
            retryable=frozenset({408, 409, 429, 498}),  # 498: flex capacity, Groq "API Error Codes"
            retryable_codes=frozenset({"tool_use_failed"}),  # the model wrote a call that is none
            quota_codes=QUOTA_CODES,
            stream_over=TEN_MINUTES,
            docs="https://console.groq.com/docs/api-reference",
        ),
        # `completion_create_params.py`: no stream_options, the usage comes in `x_groq`; efforts none, low, medium, high
        Dialect(
            max_tokens="max_completion_tokens",
            stream_usage=False,
            reasoning="groq",
            efforts=_FOUR,
            echoes=("reasoning",),  # `chat_completion_assistant_message_param.py`
        ),
    ),
    (
        Provider(
            name="mistral",
            thinks_in_text=True,
            title="Mistral AI",
            capabilities=Capabilities(
                features=_CHAT | {"documents", "document_urls", "audio", "audio_urls"}, schema_dialect="closed"
            ),
            base_url="https://api.mistral.ai/v1",  # mistralai SDK `sdkconfiguration.py`, `chat.py`
            key_env=("MISTRAL_API_KEY",),
            base_url_env=("MISTRAL_API_BASE",),  # LiteLLM
            base_path="/v1",
            request_id_headers=("mistral-correlation-id", "x-request-id"),
            quota_codes=QUOTA_CODES,
            model_prefixes=(
                "mistral-",
                "ministral-",
                "magistral-",
                "codestral-",
                "devstral-",
                "pixtral-",
                "open-mi",
                "voxtral-",
            ),
            stream_over=TEN_MINUTES,
            docs="https://docs.mistral.ai/api",
        ),
        # `chatcompletionrequest.py`; any field that is not in it is a 422 `extra_forbidden`
        Dialect(
            seed="random_seed",
            stream_usage=False,
            must_call="any",
            prefix=True,
            call_ids="short",
            tool_name=True,  # `toolmessage.py`
            documents="document_url",
            audio="text",
            echoes=("content",),  # `thinkchunk.py`: its signature is for the next turn
        ),
    ),
    (
        Provider(
            name="together",
            thinks_in_text=True,
            title="Together AI",
            capabilities=Capabilities(speakers=True, features=_CHAT | {"audio", "audio_urls", "videos", "video_urls"}),
            # together SDK `resources/chat/completions.py`: chat has a host of its own; `_client.py` names the other.
            base_url="https://api-inference.together.ai/v1",
            key_env=("TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_TOKEN"),
            base_url_env=("TOGETHER_BASE_URL", "TOGETHER_AI_API_BASE"),  # the SDK's, the host only; LiteLLM's
            base_path="/v1",
            quota_codes=QUOTA_CODES,
            stream_over=TEN_MINUTES,
            docs="https://docs.together.ai/reference/chat-completions-1",
        ),
        # `completion_create_params.py`, `tools_param.py`, `chat_completion_structured_message_image_url_param.py`
        Dialect(
            stream_usage=False,
            reasoning="switch",
            efforts=_THREE,
            tool_strict=False,
            image_detail=False,
            echoes=("reasoning_content", "reasoning"),  # `chat_completion_assistant_message_param.py`
        ),
    ),
    (
        Provider(
            name="perplexity",
            thinks_in_text=True,
            title="Perplexity",
            capabilities=Capabilities(
                features=_CHAT - {"seed", "json_mode"} | {"documents", "document_urls"},
                tool_choices=frozenset({"none", "required"}),
            ),
            base_url="https://api.perplexity.ai",  # perplexity SDK `_client.py`
            key_env=("PERPLEXITY_API_KEY", "PERPLEXITYAI_API_KEY"),  # the second: LiteLLM
            base_url_env=("PERPLEXITY_BASE_URL", "PERPLEXITY_API_BASE"),
            quota_codes=QUOTA_CODES,
            model_prefixes=("sonar",),
            stream_over=TEN_MINUTES,
            docs="https://docs.perplexity.ai/api-reference/chat-completions-post",
        ),
        # `completion_create_params.py`; the guide "Chat completions": user and assistant alternate
        Dialect(
            stream_usage=False,
            efforts=("minimal", *_THREE),
            alternate=True,
            image_detail=False,
            documents="file_url",
            thinking_apart=True,  # `shared/usage_info.py`: charged beside the output
            cost="perplexity",
        ),
    ),
    (
        Provider(
            name="deepseek",
            thinks_in_text=True,
            title="DeepSeek",
            capabilities=Capabilities(
                speakers=True,
                features=_PLAIN - {"seed"} | {"images", "image_urls"},
                models=(
                    Lacks(models=("deepseek-chat", "deepseek-reasoner"), features=frozenset({"images", "image_urls"})),
                ),
            ),
            base_url="https://api.deepseek.com",
            key_env=("DEEPSEEK_API_KEY",),
            base_url_env=("DEEPSEEK_API_BASE",),  # LiteLLM
            quota_codes=QUOTA_CODES,
            model_prefixes=("deepseek-chat", "deepseek-reasoner", "deepseek-v", "deepseek-flash"),
            stream_over=TEN_MINUTES,
            docs="https://api-docs.deepseek.com/api/create-chat-completion",
        ),
        # https://api-docs.deepseek.com/guides/thinking_mode: on unless it is switched off; with tools every assistant's
        # turn has to bring its thinking
        Dialect(
            reasoning="thinking",
            efforts=("low", "medium", "high", "max"),
            echoes=("reasoning_content",),
            demands="reasoning_content",
        ),
    ),
    (
        Provider(
            name="openrouter",
            thinks_in_text=True,
            title="OpenRouter",
            # What stands behind it decides; it leaves out what a model lacks.
            capabilities=Capabilities(
                speakers=True,
                part_fields=frozenset({"cache_control", "prompt_cache_breakpoint"}),
                tool_fields=frozenset({"cache_control", "defer_loading"}),
                features=_CHAT | {"documents", "document_urls", "audio", "videos", "video_urls"},
                schema_dialect="closed",
                most_stops=4,
            ),
            base_url="https://openrouter.ai/api/v1",  # openrouter SDK `sdkconfiguration.py`
            key_env=("OPENROUTER_API_KEY", "OR_API_KEY"),  # `utils/security.py`; LiteLLM
            base_url_env=("OPENROUTER_API_BASE",),  # LiteLLM
            # openrouter SDK `sdk.py`; LiteLLM's names
            header_env=(
                ("OPENROUTER_HTTP_REFERER", "HTTP-Referer"),
                ("OR_SITE_URL", "HTTP-Referer"),
                ("OPENROUTER_X_OPEN_ROUTER_TITLE", "X-OpenRouter-Title"),
                ("OR_APP_NAME", "X-OpenRouter-Title"),
            ),
            request_id_headers=("x-generation-id", "x-request-id"),
            quota_codes=QUOTA_CODES,
            stream_over=TEN_MINUTES,
            docs="https://openrouter.ai/docs/api-reference/chat-completion",
        ),
        # `chatassistantmessage.py`; "Preserving reasoning" wants the details back as they came, in their order
        Dialect(
            reasoning="object",
            developer=True,
            text_parts=True,
            echoes=("reasoning_details", "reasoning"),
            cost="openrouter",
        ),
    ),
    (
        Provider(
            name="xai",
            title="xAI",
            capabilities=Capabilities(
                speakers=True,
                features=_CHAT,
                models=(Lacks(models=("grok-3-mini*", "grok-4*", "grok-code*"), features=frozenset({"stop"})),),
            ),
            base_url="https://api.x.ai/v1",
            key_env=("XAI_API_KEY",),
            base_url_env=("XAI_API_BASE",),
            quota_codes=QUOTA_CODES,
            quota_phrases=("used all available credits", "monthly spending limit"),
            model_prefixes=("grok-",),
            stream_over=TEN_MINUTES,
            price_id="x-ai",
            docs="https://docs.x.ai/docs/api-reference",
        ),
        Dialect(efforts=_FOUR, tool_strict=False, cost="ticks"),
    ),
    (
        Provider(
            name="fireworks",
            thinks_in_text=True,
            title="Fireworks AI",
            capabilities=Capabilities(speakers=True, features=_CHAT),
            base_url="https://api.fireworks.ai/inference/v1",
            key_env=("FIREWORKS_API_KEY", "FIREWORKS_AI_API_KEY", "FIREWORKSAI_API_KEY", "FIREWORKS_AI_TOKEN"),
            base_url_env=("FIREWORKS_API_BASE",),
            quota_codes=QUOTA_CODES,
            stream_over=TEN_MINUTES,
            docs="https://docs.fireworks.ai/api-reference/post-chatcompletions",
        ),
        Dialect(efforts=_FOUR, echoes=("reasoning_content",)),
    ),
    (
        Provider(
            name="cerebras",
            thinks_in_text=True,
            title="Cerebras",
            capabilities=Capabilities(speakers=True, features=_PLAIN | {"json_schema"}, schema_dialect="closed"),
            base_url="https://api.cerebras.ai/v1",
            key_env=("CEREBRAS_API_KEY",),
            base_url_env=("CEREBRAS_API_BASE",),
            quota_codes=QUOTA_CODES,
            stream_over=TEN_MINUTES,
            docs="https://inference-docs.cerebras.ai/api-reference/chat-completions",
        ),
        Dialect(efforts=_FOUR),
    ),
    (
        Provider(
            name="moonshot",
            title="Moonshot AI",
            # LiteLLM: its tool_choice knows no "required".
            capabilities=Capabilities(
                speakers=True,
                features=_PLAIN | {"images"},
                tool_choices=frozenset({"none"}),
                models=(Lacks(models=("moonshot-v1-*k",), features=frozenset({"images"})),),
            ),
            base_url="https://api.moonshot.ai/v1",
            key_env=("MOONSHOT_API_KEY",),
            base_url_env=("MOONSHOT_API_BASE",),
            quota_codes=QUOTA_CODES | {"exceeded_current_quota_error"},
            model_prefixes=("kimi-", "moonshot-"),
            stream_over=TEN_MINUTES,
            price_id="moonshotai",
            docs="https://platform.moonshot.ai/docs/api/chat",
        ),
        # LiteLLM `moonshot/chat/transformation.py`: turns with calls have to bring their thinking
        Dialect(reasoning="thinking", efforts=(), echoes=("reasoning_content",), demands="reasoning_content"),
    ),
    (
        Provider(
            name="nvidia",
            thinks_in_text=True,
            title="NVIDIA NIM",
            capabilities=Capabilities(features=_PLAIN | {"images", "image_urls"}),
            base_url="https://integrate.api.nvidia.com/v1",
            key_env=("NVIDIA_NIM_API_KEY", "NVIDIA_API_KEY"),  # the second: NVIDIA's own examples
            base_url_env=("NVIDIA_NIM_API_BASE",),
            request_id_headers=("nvcf-reqid", "x-request-id"),
            quota_codes=QUOTA_CODES,
            stream_over=TEN_MINUTES,
            docs="https://docs.api.nvidia.com/nim/reference/llm-apis",
        ),
        Dialect(efforts=_THREE),
    ),
    (
        Provider(
            name="huggingface",
            thinks_in_text=True,
            title="Hugging Face Inference Providers",
            capabilities=Capabilities(speakers=True, features=_CHAT),
            base_url="https://router.huggingface.co/v1",
            key_env=("HF_TOKEN", "HUGGINGFACE_API_KEY"),  # Hugging Face's own; LiteLLM's
            base_url_env=("HUGGINGFACE_API_BASE", "HF_API_BASE"),
            quota_codes=QUOTA_CODES,
            stream_over=TEN_MINUTES,
            docs="https://huggingface.co/docs/inference-providers/tasks/chat-completion",
        ),
        Dialect(efforts=_THREE),
    ),
    (
        Provider(
            name="lmstudio",
            thinks_in_text=True,
            title="LM Studio",
            # "'response_format.type' must be 'json_schema' or 'text'": its tracker; named tools are not known either.
            capabilities=Capabilities(
                features=_CHAT - {"json_mode", "image_urls"}, tool_choices=frozenset({"none", "required"})
            ),
            base_url="http://localhost:1234/v1",
            key_env=("LM_STUDIO_API_KEY",),
            base_url_env=("LM_STUDIO_API_BASE",),
            key_required=False,
            docs="https://lmstudio.ai/docs/app/api/endpoints/openai",
        ),
        Dialect(efforts=_THREE),
    ),
    (
        Provider(
            name="vllm",
            thinks_in_text=True,
            title="vLLM",
            capabilities=Capabilities(speakers=True, features=_CHAT | {"audio", "audio_urls", "videos", "video_urls"}),
            base_url="http://localhost:8000/v1",
            key_env=("HOSTED_VLLM_API_KEY", "VLLM_API_KEY"),  # LiteLLM's; the server's own
            base_url_env=("HOSTED_VLLM_API_BASE",),
            key_required=False,
            docs="https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
        ),
        Dialect(efforts=_THREE, tool_strict=False),  # LiteLLM `hosted_vllm/chat/transformation.py`: no strict
    ),
    (
        Provider(
            name="openai-compatible",
            thinks_in_text=True,
            title="Any server with OpenAI's chat completions",
            # Closed schemas are followed by every server, open ones are refused by some that stand behind gateways.
            capabilities=Capabilities(
                speakers=True,
                part_fields=frozenset({"*"}),
                tool_fields=frozenset({"*"}),
                features=_CHAT | {"documents", "audio", "audio_urls", "videos", "video_urls"},
                schema_dialect="closed",
            ),
            key_required=False,
            # litellm's proxy and azure behind a gateway name theirs differently.
            request_id_headers=(
                "x-request-id",
                "request-id",
                "x-litellm-call-id",
                "apim-request-id",
                "x-generation-id",
            ),
            quota_codes=QUOTA_CODES,
        ),
        # A server takes back what it gave: deepseek's and its like, openrouter's, LiteLLM's for anthropic, google's
        # signatures beside the calls.
        Dialect(echoes=("reasoning_content", "reasoning_details", "thinking_blocks", "tool_calls"), cost="litellm"),
    ),
)


def _taking_back(row: Provider, dialect: Dialect) -> Provider:
    """A server takes the same fields of a turn from a caller as from its own answers."""
    fields = frozenset(dialect.echoes) - {"content", "tool_calls"}
    return msgspec.structs.replace(row, capabilities=msgspec.structs.replace(row.capabilities, turn_fields=fields))


ADAPTERS: Final[Mapping[str, OpenAIChat]] = {
    row.name: OpenAIChat(_taking_back(row, dialect), dialect) for row, dialect in _ROWS
}
