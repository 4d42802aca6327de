"""Shared by the tests of conversations: two tools, what the stand-in does with them, and who speaks which format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kitaru.adapters import provider
from kitaru.adapters.standin import Options, Rule, StandInServer

PROMPT: Final = "Say how high the tide is in Brest, and what the moon does."
OPTIONS: Final = Options(
    rules=(
        Rule("how high", tool="height", arguments={"place": "Brest"}, times=2),
        Rule(r"3\.4 m", tool="moon", arguments={"day": "Monday"}),
    )
)

WIRES: Final = (
    "openai",
    "mistral",
    "deepseek",
    "openai-responses",
    "anthropic",
    "google",
    "cohere",
    "ollama",
    "azure",
    "test",
)
"""A provider for each way to put a conversation."""

_MODELS: Final[Mapping[str, str]] = {
    "openai": "gpt-4.1",
    "mistral": "magistral-medium-latest",
    "deepseek": "deepseek-reasoner",
    "openai-responses": "o4-mini",
    "anthropic": "claude-sonnet-4-5",
    "google": "gemini-3-pro",
    "cohere": "command-a-reasoning-08-2025",
    "ollama": "qwen3:8b",
    "azure": "a deployment",
    "perplexity": "sonar-pro",
    "test": "echo",
}

OWN: Final = frozenset(
    {
        "mistral",
        "deepseek",
        "openai-responses",
        "anthropic",
        "google",
        "cohere",
        "ollama",
        "groq",
        "together",
        "openrouter",
    }
)
"""Those whose models show their thinking, and want it back."""


def model_of(name: str) -> str:
    """A model that thinks, where the provider has one that shows it."""
    return _MODELS.get(name, "a-model")


def address(server: StandInServer, name: str) -> str:
    """What `base_url=` is for a provider."""
    return server.address(name) + provider(name).base_path
