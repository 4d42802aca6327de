"""Which model a call means: aliases, defaults, fallbacks, addresses."""

from __future__ import annotations

import pytest

from kitaru.adapters import Settings
from kitaru.errors import UsageError
from kitaru.runtime.models.alias import Alias
from kitaru.runtime.models.registry import Registry, register, snapshot
from kitaru.runtime.models.routes import Defaults, Route, checked_model, filled, placed, route, still_local

FAST = Alias(model="openai/gpt-5-nano", secret="creds", temperature=0.2, max_tokens=100, retries=1)
SMART = Alias(model="openai/gpt-5", fallbacks=("fast", "openai/gpt-4o"))


def to(model: str | None, registry: Registry, **instead: str) -> Route:
    return route(model, snapshot(registry), instead)


def known(**more: str) -> Registry:
    return Registry({"fast": FAST, "smart": SMART}, "fast", **more)


def test_a_full_name_is_split_at_its_first_slash_only() -> None:
    found = to("openai-compatible/org/model:tag", Registry())
    assert (found.provider, found.model, found.alias) == ("openai-compatible", "org/model:tag", "")


def test_an_alias_brings_what_it_holds() -> None:
    found = to("fast", known())
    assert (found.asked, found.alias, found.name, found.secret) == ("fast", "fast", "openai/gpt-5-nano", "creds")
    assert found.settings == Defaults(temperature=0.2, max_tokens=100)


@pytest.mark.parametrize(
    ("asked", "default_model", "expected"),
    [
        ("openai/x", "smart", "openai/x"),
        (None, "smart", "openai/gpt-5"),
        (None, "openai/raw", "openai/raw"),
        (None, "", "openai/gpt-5-nano"),
    ],
)
def test_the_argument_comes_first_then_the_variable_then_the_default(
    asked: str | None, default_model: str, expected: str
) -> None:
    assert to(asked, known(default_model=default_model)).name == expected


def test_without_a_model_and_a_default_the_error_says_what_to_do() -> None:
    with pytest.raises(UsageError) as caught:
        to(None, Registry())
    assert "KITARU_DEFAULT_MODEL" in str(caught.value)
    assert "kitaru model register" in str(caught.value)


def test_the_calls_own_settings_win_over_the_aliass() -> None:
    own = Settings(temperature=0.0, seed=4)
    assert filled(own, to("fast", known()).settings) == Settings(temperature=0.0, max_tokens=100, seed=4)


def test_a_name_that_is_neither_suggests_the_alias_and_how_to_make_one() -> None:
    with pytest.raises(UsageError, match="no alias") as caught:
        to("fst", known())
    assert "'fast'" in str(caught.value)
    assert "kitaru model register fst" in str(caught.value)


def test_a_models_name_without_its_provider_suggests_the_full_name() -> None:
    with pytest.raises(UsageError) as caught:
        to("gpt-4o", known())
    assert "'openai/gpt-4o'" in str(caught.value)


def test_a_provider_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UsageError, match="opnai"):
        to("opnai/x", known())


def test_the_default_provider_is_that_of_bare_names() -> None:
    assert to("llama3.2:1b", known(default_provider="openai-compatible")).name == "openai-compatible/llama3.2:1b"
    assert to("fast", known(default_provider="openai-compatible")).name == "openai/gpt-5-nano"


def test_a_model_may_be_asked_instead_of_another() -> None:
    assert to("fast", known(), fast="openai/x").name == "openai/x"
    assert to("fast", known(), fast="smart").alias == "smart"
    assert to(None, known(), fast="smart").alias == "smart"


# -- fallbacks --------------------------------------------------------------------------------------------------------


def test_fallbacks_come_in_their_order_each_followed_by_its_own() -> None:
    registry = Registry(
        {
            "a": Alias(model="openai/a", fallbacks=("b", "openai/d", "openai/c")),
            "b": Alias(model="openai/b", fallbacks=("openai/c",)),
        }
    )
    assert [one.name for one in to("a", registry).fallbacks] == ["openai/b", "openai/c", "openai/d"]


def test_fallbacks_that_go_round_in_a_circle_are_an_error() -> None:
    registry = Registry(
        {"a": Alias(model="openai/a", fallbacks=("b",)), "b": Alias(model="openai/b", fallbacks=("a",))}
    )
    with pytest.raises(UsageError, match="a -> b -> a"):
        to("a", registry)


def test_a_fallback_replaced_by_what_was_asked_already_is_left_out() -> None:
    assert [one.name for one in to("smart", known(), fast="smart").fallbacks] == ["openai/gpt-4o"]


# -- addresses --------------------------------------------------------------------------------------------------------


def at(base_url: str, model: str = "openai/m") -> Registry:
    return Registry({"here": Alias(model=model, base_url=base_url)})


def test_an_address_is_the_calls_else_the_aliass_else_the_environments_else_the_providers() -> None:
    environ = {"OPENAI_BASE_URL": "https://env.example/v1"}
    alias, raw = to("here", at("https://alias.example/v1")), to("openai/m", Registry())

    def where(found: Route) -> tuple[str, str]:
        return found.base_url, found.base_url_source

    assert where(placed(alias, "https://call.example/v1", environ)) == ("https://call.example/v1", "argument")
    assert where(placed(alias, None, environ)) == ("https://alias.example/v1", "alias")
    assert where(placed(raw, None, environ)) == ("https://env.example/v1", "environment")
    assert where(placed(raw, None, {})) == ("https://api.openai.com/v1", "")


def test_a_provider_without_an_address_says_how_to_name_one() -> None:
    with pytest.raises(UsageError, match="no address") as caught:
        placed(to("openai-compatible/m", Registry()), None, {})
    assert "base_url=" in str(caught.value.hint)


@pytest.mark.parametrize("source", ["alias", "argument", "environment"])
def test_an_openai_model_at_an_azure_host_is_azures(source: str) -> None:
    url = "https://mine.openai.azure.com/openai/v1"
    match source:
        case "alias":
            found = to("here", at(url))
        case "argument":
            found = placed(to("openai/m", Registry()), url, {})
        case _:
            found = placed(to("openai/m", Registry()), None, {"OPENAI_BASE_URL": url})
    assert (found.provider, found.model, found.base_url) == ("azure", "m", url)


def test_an_address_that_only_a_runs_snapshot_names_is_not_local() -> None:
    kept = to("here", at("https://elsewhere.example/v1", "openai-compatible/m"))
    assert not still_local(kept)
    register({"here": Alias(model="openai-compatible/m", base_url="https://other.example/v1")})
    assert not still_local(kept)
    register({"here": Alias(model="openai-compatible/m", base_url="https://elsewhere.example/v1")})
    assert still_local(kept)


def test_an_address_that_no_alias_names_is_local() -> None:
    assert still_local(to("openai/m", Registry()))
    assert still_local(placed(to("openai/m", Registry()), "https://call.example/v1", {}))


# -- what an alias may stand for --------------------------------------------------------------------------------------


def test_an_alias_stands_for_a_full_name_of_a_known_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checked_model(" openai/gpt-4o ") == "openai/gpt-4o"
    for bad in ("gpt-4o", "opnai/x", "openai/"):
        with pytest.raises(UsageError):
            checked_model(bad)
    monkeypatch.setenv("KITARU_DEFAULT_PROVIDER", "openai")
    assert checked_model("gpt-4o") == "openai/gpt-4o"


def test_an_alias_does_not_stand_for_another() -> None:
    register({"fast": FAST})
    with pytest.raises(UsageError, match="alias itself"):
        checked_model("fast")
