from __future__ import annotations

import pytest

from kitaru.adapters import Endpoint, Message, ModelCall, SecretStr, adapter, names, provider, split_model
from kitaru.errors import UsageError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("openai/gpt-5-nano", ("openai", "gpt-5-nano")),
        ("openai-compatible/org/model:8b", ("openai-compatible", "org/model:8b")),
        (" openai / x ", ("openai", "x")),
        ("OpenAI/gpt-4.1", ("openai", "gpt-4.1")),
        ("together_ai/org/m", ("together", "org/m")),
        ("openai_responses/gpt-5", ("openai-responses", "gpt-5")),
        ("openai:gpt-4.1", ("openai", "gpt-4.1")),
        ("openrouter:org/m", ("openrouter", "org/m")),
        ("ollama:llama3:8b", ("ollama", "llama3:8b")),
        ("mistral:mistral-small-latest", ("mistral", "mistral-small-latest")),
    ],
)
def test_a_full_name_splits_once_and_a_provider_may_be_spelled_otherwise(name: str, parts: tuple[str, str]) -> None:
    assert split_model(name) == parts


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("gpt-4o", "'openai/gpt-4o'"),
        ("o3-mini", "'openai/o3-mini'"),
        ("llama3.2:1b", "'ollama/llama3.2:1b'"),
        ("mistral:7b", "'mistral/7b' or 'ollama/mistral:7b'"),
        ("openai", "openai/MODEL"),
        ("openai/", "PROVIDER/MODEL"),
        ("/gpt", "PROVIDER/MODEL"),
        ("", "PROVIDER/MODEL"),
    ],
)
def test_a_name_without_provider_or_model_is_refused_with_the_full_name(name: str, suggestion: str) -> None:
    with pytest.raises(UsageError) as caught:
        split_model(name)
    assert suggestion in str(caught.value)


def test_a_name_with_a_tag_belongs_to_the_default_provider_where_that_is_ollama() -> None:
    assert split_model("mistral:7b", "ollama") == ("ollama", "mistral:7b")
    assert split_model("openai:x", "ollama") == ("ollama", "openai:x")
    assert split_model("openai:x", "anthropic") == ("openai", "x")


def test_an_unknown_provider_lists_the_known_and_names_the_closest() -> None:
    with pytest.raises(UsageError) as caught:
        provider("OpenAy")
    for name in names():
        assert name in caught.value.message
    assert caught.value.hint == "Did you mean 'openai'?"


def test_an_address_comes_from_the_first_variable_that_is_set_else_from_the_row() -> None:
    row = provider("openai")
    assert row.base_url_from({}) == "https://api.openai.com/v1"
    assert row.base_url_from({"OPENAI_API_BASE": "http://old/v1"}) == "http://old/v1"
    assert (
        row.base_url_from({"OPENAI_BASE_URL": "http://new/v1", "OPENAI_API_BASE": "http://old/v1"}) == "http://new/v1"
    )
    assert row.base_url_from({"OPENAI_BASE_URL": "  "}) == "https://api.openai.com/v1"
    assert provider("openai-compatible").base_url_from({"OPENAI_BASE_URL": "http://new/v1"}) is None


def test_organisation_and_project_become_headers() -> None:
    headers = provider("openai").headers_from({"OPENAI_ORG_ID": "org-1", "OPENAI_PROJECT_ID": ""})
    assert headers == {"OpenAI-Organization": "org-1"}


@pytest.mark.parametrize("name", names())
def test_every_row_has_an_adapter(name: str) -> None:
    assert hasattr(adapter(name), "build_request")


@pytest.mark.parametrize(
    ("name", "variable", "value", "base_url"),
    [
        ("groq", "GROQ_BASE_URL", "https://h", "https://h/openai/v1"),
        ("groq", "GROQ_API_BASE", "https://h/openai/v1/", "https://h/openai/v1"),
        ("together", "TOGETHER_BASE_URL", "https://h/", "https://h/v1"),
        ("together", "TOGETHER_AI_API_BASE", "https://api.together.xyz/v1", "https://api.together.xyz/v1"),
        ("mistral", "MISTRAL_API_BASE", "https://h", "https://h/v1"),
        ("perplexity", "PERPLEXITY_BASE_URL", "https://h", "https://h"),
        ("deepseek", "DEEPSEEK_API_BASE", "https://h/beta", "https://h/beta"),
        ("openrouter", "OPENROUTER_API_BASE", "https://h/api/v1", "https://h/api/v1"),
        ("xai", "XAI_API_BASE", "https://h/v1", "https://h/v1"),
        ("lmstudio", "LM_STUDIO_API_BASE", "http://h:1/v1", "http://h:1/v1"),
        ("vllm", "HOSTED_VLLM_API_BASE", "http://h:1/v1", "http://h:1/v1"),
    ],
)
def test_an_address_from_the_environment_is_completed_where_its_variable_names_the_host(
    name: str, variable: str, value: str, base_url: str
) -> None:
    assert provider(name).base_url_from({variable: value}) == base_url


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("openai", "https://api.openai.com/v1/chat/completions"),
        ("groq", "https://api.groq.com/openai/v1/chat/completions"),
        ("mistral", "https://api.mistral.ai/v1/chat/completions"),
        ("together", "https://api-inference.together.ai/v1/chat/completions"),
        ("perplexity", "https://api.perplexity.ai/chat/completions"),
        ("deepseek", "https://api.deepseek.com/chat/completions"),
        ("openrouter", "https://openrouter.ai/api/v1/chat/completions"),
        ("xai", "https://api.x.ai/v1/chat/completions"),
        ("fireworks", "https://api.fireworks.ai/inference/v1/chat/completions"),
        ("cerebras", "https://api.cerebras.ai/v1/chat/completions"),
        ("moonshot", "https://api.moonshot.ai/v1/chat/completions"),
        ("nvidia", "https://integrate.api.nvidia.com/v1/chat/completions"),
        ("huggingface", "https://router.huggingface.co/v1/chat/completions"),
        ("lmstudio", "http://localhost:1234/v1/chat/completions"),
        ("vllm", "http://localhost:8000/v1/chat/completions"),
    ],
)
def test_every_row_of_the_family_is_called_where_it_lives_and_with_its_key(name: str, url: str) -> None:
    row = provider(name)
    endpoint = Endpoint(base_url=row.base_url_from({}) or "", api_key=SecretStr("key-of-the-test"))
    request = adapter(name).build_request(ModelCall(name, "org/m", (Message("user", "hi"),)), endpoint)
    assert str(request.url) == url
    assert request.headers["authorization"] == "Bearer key-of-the-test"
    assert row.title
    assert row.docs.startswith("https://")
    assert row.key_env


@pytest.mark.parametrize("name", ["lmstudio", "vllm", "openai-compatible"])
def test_servers_of_one_s_own_need_no_key_anywhere(name: str) -> None:
    endpoint = Endpoint(base_url="http://h.example/v1")
    request = adapter(name).build_request(ModelCall(name, "m", (Message("user", "hi"),)), endpoint)
    assert "authorization" not in request.headers


def test_openrouter_is_told_who_calls_by_either_name() -> None:
    row = provider("openrouter")
    assert row.headers_from({"OR_SITE_URL": "https://me", "OR_APP_NAME": "me"}) == {
        "HTTP-Referer": "https://me",
        "X-OpenRouter-Title": "me",
    }
    assert row.headers_from({"OR_SITE_URL": "https://me", "OPENROUTER_HTTP_REFERER": "https://it"}) == {
        "HTTP-Referer": "https://it"
    }


@pytest.mark.parametrize(
    ("bare", "owner"),
    [
        ("mistral-small-latest", "mistral"),
        ("sonar-pro", "perplexity"),
        ("deepseek-chat", "deepseek"),
        ("grok-4", "xai"),
        ("kimi-k2.5", "moonshot"),
        ("deepseek-r1:8b", "ollama"),
    ],
)
def test_a_bare_name_is_suggested_with_the_provider_whose_it_is(bare: str, owner: str) -> None:
    with pytest.raises(UsageError, match=f"'{owner}/{bare}'"):
        split_model(bare)


@pytest.mark.parametrize(
    ("name", "model", "lacked"),
    [
        ("openai", "gpt-5-nano", {"temperature", "top_p"}),
        ("openai", "gpt-4.1", set()),
        ("openai", "o3", {"temperature", "top_p", "stop"}),
        ("azure", "o4-mini", {"temperature", "top_p", "stop"}),
        ("xai", "grok-4-fast", {"stop"}),
        ("deepseek", "deepseek-chat", {"images", "image_urls"}),
        ("moonshot", "moonshot-v1-8k", {"images"}),
    ],
)
def test_what_a_model_lacks_is_in_the_table(name: str, model: str, lacked: set[str]) -> None:
    capabilities = provider(name).capabilities
    assert capabilities.features - capabilities.of(model) == lacked
