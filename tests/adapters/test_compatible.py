from __future__ import annotations

import pytest

from kitaru.adapters import adapter, names, provider, split_model
from kitaru.errors import UsageError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("openai/gpt-5-nano", ("openai", "gpt-5-nano")),
        ("openai-compatible/org/model:8b", ("openai-compatible", "org/model:8b")),
        (" openai / x ", ("openai", "x")),
    ],
)
def test_a_full_name_splits_at_the_first_slash_only(name: str, parts: tuple[str, str]) -> None:
    assert split_model(name) == parts


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("gpt-4o", "'openai/gpt-4o'"),
        ("o3-mini", "'openai/o3-mini'"),
        ("llama3.2:1b", "'ollama/llama3.2:1b'"),
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


def test_an_unknown_provider_lists_the_known_and_names_the_closest() -> None:
    with pytest.raises(UsageError) as caught:
        provider("OpenAi")
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
