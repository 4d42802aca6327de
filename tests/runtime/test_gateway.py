"""Every call through one proxy."""

from __future__ import annotations

import pytest

import kitaru
from kitaru import Runtime, flow
from kitaru.adapters.standin import Fault, Options, StandInServer
from kitaru.errors import CredentialError, ModelConnectionError, ModelError, ProviderError, UsageError
from kitaru.runtime.models.alias import Alias
from kitaru.runtime.models.gateway import explained, gateway, gateway_fallback, gateway_route, key_trouble
from kitaru.runtime.models.registry import Registry
from kitaru.runtime.models.routes import Route, placed, route_in, still_local
from kitaru.store.events import LlmCompleted
from tests.runtime.runs import of_type

ENVIRON = {"KITARU_GATEWAY_URL": "http://localhost:4000/v1", "KITARU_GATEWAY_KEY": "key-of-the-test"}
REGISTRY = Registry(
    {
        "fast": Alias(
            model="openai/gpt-5-nano",
            secret="creds",
            base_url="https://h/v1",
            temperature=0.3,
            fallbacks=("openai/gpt-5",),
        )
    }
)


def through(model: str, environ: dict[str, str]) -> Route | None:
    return gateway_route(route_in(REGISTRY, model, {}), environ)


def test_without_its_variable_calls_go_direct() -> None:
    assert gateway({}) is None
    assert through("fast", {"KITARU_GATEWAY_URL": " "}) is None


def test_an_aliass_name_is_passed_on() -> None:
    found = through("fast", ENVIRON)
    assert found is not None
    assert (found.provider, found.model, found.base_url) == ("openai-compatible", "fast", "http://localhost:4000/v1")
    assert found.settings.temperature == 0.3


def test_a_full_name_is_passed_on_as_it_is() -> None:
    found = through("openai/gpt-5", ENVIRON)
    assert found is not None
    assert found.model == "openai/gpt-5"


def test_no_secret_and_no_address_of_the_direct_way_goes_along() -> None:
    found = through("fast", ENVIRON)
    assert found is not None
    assert found.secret == ""
    assert found.base_url_source == "gateway"
    assert still_local(found)
    assert placed(found, "https://elsewhere.example", {}) is found


def test_fallbacks_go_through_it_too() -> None:
    found = through("fast", ENVIRON)
    assert found is not None
    assert [(one.provider, one.model) for one in found.fallbacks] == [("openai-compatible", "openai/gpt-5")]


def test_its_key_does_not_show() -> None:
    proxy = gateway(ENVIRON)
    assert proxy is not None
    assert proxy.key is not None
    assert proxy.key.reveal() == "key-of-the-test"
    assert "key-of-the-test" not in repr(proxy)


@pytest.mark.parametrize("url", ["localhost:4000", "ftp://h", "http://", "http://user:of-the-test@h:4000"])
def test_an_address_that_is_none_is_a_usage_error_that_does_not_show_it(url: str) -> None:
    with pytest.raises(UsageError, match="KITARU_GATEWAY_URL") as caught:
        gateway({"KITARU_GATEWAY_URL": url})
    assert "of-the-test" not in str(caught.value)


def test_going_direct_instead_is_asked_for_by_name() -> None:
    assert not gateway_fallback({})
    assert gateway_fallback({"KITARU_GATEWAY_FALLBACK": " Direct "})
    with pytest.raises(UsageError, match="KITARU_GATEWAY_FALLBACK"):
        gateway_fallback({"KITARU_GATEWAY_FALLBACK": "yes"})


@pytest.mark.parametrize(
    ("error", "keyed", "whose"),
    [
        (CredentialError("answered 401: Invalid API key"), True, "gateway_key"),
        (CredentialError("answered 401: litellm.AuthenticationError: no"), True, "upstream_key"),
        (ProviderError("answered 400: No connected db.", status=400), True, "gateway_key"),
        (ProviderError("answered 500: Internal Server Error", status=500), False, "gateway_key"),
        (ProviderError("answered 500: Internal Server Error", status=500), True, ""),
        (ModelConnectionError("no answer"), True, ""),
    ],
)
def test_it_is_told_whose_key_is_wrong(error: ModelError, keyed: bool, whose: str) -> None:
    assert key_trouble(error, keyed=keyed) == whose


def test_a_refused_master_key_is_a_credential_error_that_names_its_variable() -> None:
    proxy = gateway(ENVIRON)
    assert proxy is not None
    error = explained(ProviderError("answered 400: No connected db.", status=400, request_id="r"), proxy)
    assert isinstance(error, CredentialError)
    assert (error.status, error.request_id) == (400, "r")
    assert "http://localhost:4000/v1 refused its key" in error.message
    assert "KITARU_GATEWAY_KEY" in (error.hint or "")


async def test_where_it_does_not_run_the_error_says_so(
    runtime: Runtime, standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITARU_GATEWAY_URL", "http://127.0.0.1:9/v1")

    @flow
    async def asks() -> str:
        return await kitaru.llm("tides", model="openai/x", base_url=standin.base_url, retry=1)

    with pytest.raises(ModelConnectionError, match=r"gateway at http://127\.0\.0\.1:9/v1 cannot be reached") as caught:
        await (await runtime.start(asks)).result()
    assert "KITARU_GATEWAY_FALLBACK" in (caught.value.hint or "")
    assert standin.counts.total == 0


async def test_two_aliases_of_one_model_are_two_models_to_it(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    aliases = '{"aliases": {"one": {"model": "openai/x", "fallbacks": ["two"]}, "two": {"model": "openai/x"}}}'
    with StandInServer(Options(faults=(Fault("context", first=1),))) as server:
        monkeypatch.setenv("KITARU_MODEL_REGISTRY", aliases)
        monkeypatch.setenv("KITARU_GATEWAY_URL", server.base_url)

        @flow
        async def asks() -> str:
            return await kitaru.llm("tides", model="one")

        await (await runtime.start(asks.options(run_id="r"))).result()
    (done,) = await of_type(runtime, "r", LlmCompleted)
    assert (done.llm.alias, done.llm.via, done.llm.trail) == ("two", "gateway", (("openai/x", "context"),))
