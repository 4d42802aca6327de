"""What OpenAI's SDK sends to Azure, against the adapter."""

from __future__ import annotations

from typing import Any, Final

import pytest
from openai import AzureOpenAI, OpenAI

from kitaru.adapters import adapter
from tests.adapters.sdk.chat_cases import KEY, Case, cases, differences, sent_by

AZURE = adapter("azure")
VERSION = "2024-10-21"

EXPLAINED: Final = {"stream_options": "asks for the usage of a stream, which the API leaves out otherwise"}


def ask(url: str, given: dict[str, Any]) -> None:
    with AzureOpenAI(api_key=KEY, azure_endpoint=url, api_version=VERSION, max_retries=0) as client:
        found = client.chat.completions.create(**given)
        if given.get("stream"):
            list(found)


def spelled(case: Case) -> dict[str, Any]:
    return {"max_completion_tokens" if name == "max_tokens" else name: value for name, value in case.given.items()}


@pytest.mark.parametrize("name", cases())
def test_the_adapter_sends_what_the_sdk_sends(name: str) -> None:
    case = cases()[name]
    found = differences(AZURE, case, sent_by(ask, spelled(case)), f"https://h.example?api-version={VERSION}")
    assert found <= EXPLAINED.keys()


@pytest.mark.parametrize("model", ["m", "a b", "ä/ö", "x?y#z", "100%"])
def test_a_deployment_s_name_is_escaped_as_the_sdk_does(model: str) -> None:
    import msgspec

    case = cases()["text"]
    theirs = sent_by(ask, {**case.given, "model": model})
    ours = Case(msgspec.structs.replace(case.call, model=model), case.given)
    assert differences(AZURE, ours, theirs, f"https://h.example?api-version={VERSION}") == set()


def test_a_token_is_sent_as_the_sdk_does() -> None:
    def with_token(url: str, given: dict[str, Any]) -> None:
        with AzureOpenAI(azure_ad_token=KEY, azure_endpoint=url, api_version=VERSION, max_retries=0) as client:
            client.chat.completions.create(**given)

    case = cases()["text"]
    theirs = sent_by(with_token, case.given)
    assert differences(AZURE, case, theirs, f"https://h.example?api-version={VERSION}", bearer=True) == set()


def test_a_deployment_in_the_address_is_kept_as_the_sdk_does() -> None:
    def there(url: str, given: dict[str, Any]) -> None:
        with AzureOpenAI(
            api_key=KEY, base_url=f"{url}/openai/deployments/d", api_version=VERSION, max_retries=0
        ) as client:
            client.chat.completions.create(**given)

    case = cases()["text"]
    base_url = f"https://h.example/openai/deployments/d?api-version={VERSION}"
    assert differences(AZURE, case, sent_by(there, case.given), base_url) == set()


def test_the_v1_api_is_asked_as_the_plain_sdk_does_but_for_the_key_s_header() -> None:
    def v1(url: str, given: dict[str, Any]) -> None:
        with OpenAI(api_key=KEY, base_url=f"{url}/openai/v1/", max_retries=0) as client:
            client.chat.completions.create(**given)

    case = cases()["text"]
    theirs = sent_by(v1, case.given)
    for base_url in ("https://h.example", "https://h.example/openai/v1/"):
        assert differences(AZURE, case, theirs, base_url) == {"authorization", "api-key"}
        assert differences(AZURE, case, theirs, base_url, bearer=True) == set()
