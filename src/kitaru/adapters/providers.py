"""Every provider by name: one line of registration each, and how a model's full name is read."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import import_module
from typing import Final, cast

from kitaru.adapters.adapter import Adapter
from kitaru.adapters.provider import Provider
from kitaru.errors import UsageError

# A module of each provider with a wire format of its own, with its adapter as ADAPTER; imported when it is asked for.
# All others are rows of `compatible`.
_MODULES: Final[Mapping[str, str]] = {
    "anthropic": "anthropic",
    "openai-responses": "openai_responses",
    "azure": "azure",
    "google": "google",
    "cohere": "cohere",
    "ollama": "ollama",
    "test": "echo",
}

# Other names: LiteLLM's, LangChain's, pydantic-ai's, the AI SDK's and people's own, in lower case, `-` for `_`.
_ALIASES: Final[Mapping[str, str]] = {
    "gemini": "google",
    "google-genai": "google",
    "google-ai": "google",
    "google-gla": "google",
    "googleai": "google",
    "claude": "anthropic",
    "openai-chat": "openai",
    "openai-completions": "openai",
    "azure-openai": "azure",
    "azureopenai": "azure",
    "mistralai": "mistral",
    "cohere-chat": "cohere",
    "ollama-chat": "ollama",
    "together-ai": "together",
    "togetherai": "together",
    "perplexity-ai": "perplexity",
    "perplexityai": "perplexity",
    "open-router": "openrouter",
    "x-ai": "xai",
    "grok": "xai",
    "fireworks-ai": "fireworks",
    "fireworksai": "fireworks",
    "moonshotai": "moonshot",
    "kimi": "moonshot",
    "nvidia-nim": "nvidia",
    "nim": "nvidia",
    "hugging-face": "huggingface",
    "hf": "huggingface",
    "lm-studio": "lmstudio",
    "hosted-vllm": "vllm",
    "openai-like": "openai-compatible",
    "custom-openai": "openai-compatible",
    "litellm-proxy": "openai-compatible",
}

# Models of Ollama's library that are called like a provider: `mistral:7b` may be meant for either.
_ALSO_MODELS: Final = frozenset({"mistral"})


def adapter(name: str) -> Adapter:
    """Return the adapter that speaks to a provider.

    Args:
        name: What stands before the first `/` of a model's full name.

    Raises:
        UsageError: There is none; the message lists those there are, the hint names the closest.
    """
    name = canonical(name)
    module = _MODULES.get(name)
    if module is not None:
        return cast("Adapter", import_module(f"kitaru.adapters.{module}").ADAPTER)
    from kitaru.adapters.compatible import ADAPTERS

    found = ADAPTERS.get(name)
    if found is not None:
        return found
    known = names()
    close = difflib.get_close_matches(name.strip().lower(), [*known, *_ALIASES], n=1)
    hint = (
        f"Did you mean {close[0]!r}?"
        if close
        else "Any server with OpenAI's API: openai-compatible/MODEL with base_url=."
    )
    raise UsageError(f"no provider is called {name!r}; known are {', '.join(known)}", hint=hint)


def canonical(name: str) -> str:
    """Return the name of a provider's row for another name or spelling of it; what is no provider comes back as it is.

    Args:
        name: Such as `OpenAI`, `together_ai` or `gemini`.
    """
    if name in _MODULES:
        return name
    plain = name.strip().lower().replace("_", "-")
    return _ALIASES.get(plain) or (plain if plain in names() else name.strip())


def provider(name: str) -> Provider:
    """Return the row of a provider.

    Raises:
        UsageError: There is none.
    """
    return adapter(name).row


def names() -> tuple[str, ...]:
    """Return the names of all providers, those with a wire format of their own first."""
    from kitaru.adapters.compatible import ADAPTERS

    return (*_MODULES, *(name for name in ADAPTERS if name not in _MODULES))


def providers() -> tuple[Provider, ...]:
    """Return the rows of all providers. Imports every wire format."""
    return tuple(provider(name) for name in names())


def split_model(name: str, default_provider: str = "") -> tuple[str, str]:
    """Split a model's full name at its first `/`, or at the `:` that other libraries write after a provider.

    Args:
        name: Such as `openai/gpt-5-nano`, `openai-compatible/org/model` or `openai:gpt-5-nano`.
        default_provider: The provider of a name without one; empty where that is an error.

    Returns:
        The provider's name (never an alias of it) and the model's. Whether the provider exists is for `provider` to
        say.

    Raises:
        UsageError: No provider, or no model, in it.
    """
    before, slash, after = name.partition("/")
    colon = _before_colon(name, default_provider)
    if colon is not None:
        return colon
    if slash and before.strip() and after.strip():
        return canonical(before), after.strip()
    if slash:
        raise UsageError(
            f"{name!r} names no {'model' if before.strip() else 'provider'}", hint="A full name is PROVIDER/MODEL."
        )
    bare = name.strip()
    if not bare:
        raise UsageError("the model's name is empty", hint="A full name is PROVIDER/MODEL.")
    if canonical(bare) in names():
        raise UsageError(f"{bare!r} is a provider, not a model", hint=f"Add the model: {bare}/MODEL.")
    if default_provider:
        return canonical(default_provider), bare
    owner = next((row.name for row in providers() if bare.lower().startswith(row.model_prefixes or ("\0",))), None)
    if owner is None and ":" in bare:
        owner = "ollama"  # tags such as llama3.2:1b are its habit
    if owner is not None:
        hint = f"Did you mean '{owner}/{bare}'?"
        if (before := canonical(bare.partition(":")[0])) in names():
            hint = f"Did you mean '{before}/{bare.partition(':')[2]}' or '{owner}/{bare}'?"
    else:
        hint = f"Put the provider first, such as 'openai-compatible/{bare}' with base_url=."
    raise UsageError(f"the model {bare!r} names no provider", hint=hint)


def _before_colon(name: str, default_provider: str) -> tuple[str, str] | None:
    """Return provider and model of `provider:model`; None where that is not certain.

    Ollama's own names hold a colon before a tag, and some of its models are called like a provider.
    """
    before, _, after = name.strip().partition(":")
    if not after.strip() or "/" in before or (found := canonical(before)) not in names():
        return None
    if before.strip().lower() in _ALSO_MODELS or (found != "ollama" == canonical(default_provider)):
        model, known = after.strip().lower(), provider(found).model_prefixes
        if not known or not model.startswith(known):
            return None
    return found, after.strip()
