from __future__ import annotations

import json

import pytest

from kitaru.adapters import Endpoint, Message, ModelCall, SecretStr, Settings, adapter, provider
from kitaru.adapters.azure import is_azure, versioned
from kitaru.errors import CredentialError, UsageError

AZURE = adapter("azure")
ROW = provider("azure")
CALL = ModelCall("azure", "gpt mini", (Message("user", "hi"),), Settings(max_tokens=5))
HOST = "https://me.openai.azure.com"
VERSION = "2024-10-21"
DATED = f"{HOST}/openai/deployments/gpt%20mini/chat/completions?api-version={VERSION}"
V1 = f"{HOST}/openai/v1/chat/completions"


def endpoint(base_url: str, *, bearer: bool = False) -> Endpoint:
    return Endpoint(base_url=base_url, api_key=SecretStr("key-of-the-test"), bearer=bearer)


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (HOST, V1),
        (f"{HOST}/", V1),
        (f"{HOST}/openai", V1),
        (f"{HOST}/openai/v1", V1),
        (f"{HOST}/openai/v1/", V1),
        (f"{V1}", V1),
        (f"{HOST}?api-version=preview", f"{V1}?api-version=preview"),
        (f"{HOST}?api-version={VERSION}", DATED),
        (f"{HOST}/openai/?api-version={VERSION}", DATED),
        (f"{HOST}/openai/deployments/gpt%20mini?api-version={VERSION}", DATED),
        (DATED, DATED),
        (f"https://gw.example/a?api-version={VERSION}", DATED.replace(HOST, "https://gw.example/a")),
        (
            f"{HOST}/openai/deployments/other?api-version={VERSION}",
            f"{HOST}/openai/deployments/other/chat/completions?api-version={VERSION}",
        ),
        (
            "https://me.services.ai.azure.com/models?api-version=2024-05-01-preview",
            "https://me.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview",
        ),
    ],
)
def test_every_form_of_the_address_leads_to_the_api(base_url: str, url: str) -> None:
    assert str(AZURE.build_request(CALL, endpoint(base_url)).url) == url


@pytest.mark.parametrize("name", ["a/b", "../x", "a?b=c", "a#b"])
def test_a_deployment_s_name_cannot_change_the_path(name: str) -> None:
    call = ModelCall("azure", name, CALL.messages)
    url = AZURE.build_request(call, endpoint(f"{HOST}?api-version={VERSION}")).url
    assert url.raw_path.count(b"/") == 5
    assert dict(url.params) == {"api-version": VERSION}


@pytest.mark.parametrize("name", [".", "..", ""])
def test_a_name_that_is_no_path_segment_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a deployment's name"):
        AZURE.build_request(ModelCall("azure", name, CALL.messages), endpoint(f"{HOST}?api-version={VERSION}"))


def test_a_deployment_s_address_without_a_version_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match="no API version") as caught:
        AZURE.build_request(CALL, endpoint(f"{HOST}/openai/deployments/x"))
    assert "OPENAI_API_VERSION" in str(caught.value)


def test_a_key_and_a_token_go_into_their_own_headers() -> None:
    keyed = AZURE.build_request(CALL, endpoint(HOST)).headers
    assert (keyed["api-key"], "authorization" in keyed) == ("key-of-the-test", False)
    signed = AZURE.build_request(CALL, endpoint(HOST, bearer=True)).headers
    assert (signed["authorization"], "api-key" in signed) == ("Bearer key-of-the-test", False)


def test_a_missing_key_is_refused_and_a_token_may_come_later() -> None:
    with pytest.raises(CredentialError, match="AZURE_OPENAI_API_KEY"):
        AZURE.build_request(CALL, Endpoint(base_url=HOST))

    async def authorise(request: object) -> tuple[SecretStr, ...]:
        return ()

    headers = AZURE.build_request(CALL, Endpoint(base_url=HOST, authorise=authorise)).headers
    assert "api-key" not in headers


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        ("2024-10-21", {"max_completion_tokens": 5, "stream_options": {"include_usage": True}}),
        ("2024-09-01-preview", {"max_completion_tokens": 5, "stream_options": {"include_usage": True}}),
        ("2024-06-01", {"max_tokens": 5}),
        ("preview", {"max_completion_tokens": 5, "stream_options": {"include_usage": True}}),
    ],
)
def test_an_older_version_gets_the_older_fields(version: str, fields: dict[str, object]) -> None:
    body = json.loads(AZURE.build_request(CALL, endpoint(f"{HOST}?api-version={version}"), stream=True).content)
    for name in ("model", "messages", "stream"):
        del body[name]
    assert body == fields


@pytest.mark.parametrize(
    ("environ", "base_url"),
    [
        ({}, None),
        ({"OPENAI_API_VERSION": VERSION}, None),
        ({"AZURE_OPENAI_ENDPOINT": f"{HOST}/"}, f"{HOST}/"),
        ({"AZURE_API_BASE": HOST, "AZURE_API_VERSION": VERSION}, f"{HOST}?api-version={VERSION}"),
        ({"AZURE_OPENAI_ENDPOINT": HOST, "AZURE_API_BASE": "https://other"}, HOST),
        (
            {"AZURE_OPENAI_ENDPOINT": HOST, "OPENAI_API_VERSION": VERSION, "AZURE_API_VERSION": "2023-05-15"},
            f"{HOST}?api-version={VERSION}",
        ),
        ({"AZURE_OPENAI_ENDPOINT": f"{HOST}/openai/v1/", "OPENAI_API_VERSION": VERSION}, f"{HOST}/openai/v1/"),
        (
            {"AZURE_OPENAI_ENDPOINT": f"{HOST}?api-version=2023-05-15", "OPENAI_API_VERSION": VERSION},
            f"{HOST}?api-version=2023-05-15",
        ),
    ],
)
def test_the_environment_names_endpoint_and_version(environ: dict[str, str], base_url: str | None) -> None:
    assert ROW.base_url_named(environ) == base_url


def test_a_version_from_the_environment_cannot_add_to_the_query() -> None:
    assert versioned(HOST, {"OPENAI_API_VERSION": "1&x=y"}) == f"{HOST}?api-version=1%26x%3Dy"


def test_the_token_is_looked_for_before_the_keys_and_is_the_only_bearer() -> None:
    assert ROW.key_env == ("AZURE_OPENAI_AD_TOKEN", "AZURE_OPENAI_API_KEY", "AZURE_OPENAI_KEY", "AZURE_API_KEY")
    assert ROW.bearer_env == ("AZURE_OPENAI_AD_TOKEN",)


@pytest.mark.parametrize(
    ("base_url", "azure"),
    [
        (f"{HOST}/openai/v1", True),
        ("https://me.openai.azure.com:443", True),
        ("https://ME.OpenAI.Azure.com.", True),
        ("https://me.cognitiveservices.azure.com/", True),
        ("https://me.services.ai.azure.com", True),
        ("https://api.openai.com/v1", False),
        ("https://openai.azure.com.evil.example", False),
        ("https://evil.example/me.openai.azure.com", False),
        ("https://me.openai.azure.com@evil.example", False),
        ("https://notopenai.azure.com", False),
        ("http://[::1", False),
        ("", False),
    ],
)
def test_azure_is_known_by_its_hosts(base_url: str, azure: bool) -> None:
    assert is_azure(base_url) is azure
