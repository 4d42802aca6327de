"""Every call through one proxy."""

from __future__ import annotations

import pytest

from kitaru.errors import UsageError
from kitaru.runtime.alias import Alias
from kitaru.runtime.gateway import gateway, gateway_fallback, gateway_route
from kitaru.runtime.registry import Registry
from kitaru.runtime.routes import Route, placed, route_in, still_local

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
