"""The registry of models: its file, the variable over it, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from kitaru.errors import NotFoundError, UsageError
from kitaru.runtime.models import current_registry
from kitaru.runtime.models.alias import Alias, Prices, looks_like_a_key
from kitaru.runtime.models.registry import (
    Registry,
    effective,
    from_snapshot,
    register,
    registry_path,
    remove,
    set_default,
    snapshot,
)
from kitaru.runtime.models.routes import route_in

FAST = Alias(model="openai/gpt-5-nano", secret="openai-creds")
SMART = Alias(model="openai/gpt-5", temperature=0.5, stop=("END",), fallbacks=("fast",))

Write = Callable[[str], Path]


@pytest.fixture
def write() -> Write:
    """Writes the registry's file as a hand would."""

    def to_file(text: str) -> Path:
        path = registry_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def environment(monkeypatch: pytest.MonkeyPatch, **aliases: object) -> None:
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", json.dumps({"aliases": aliases}))


# -- writing ----------------------------------------------------------------------------------------------------------


def test_the_first_alias_becomes_the_default_and_the_next_does_not() -> None:
    assert register({"fast": FAST})["fast"].default
    assert not register({"smart": SMART})["smart"].default
    assert effective().registry == Registry({"fast": FAST, "smart": SMART}, "fast")


def test_the_file_has_the_form_of_the_variable() -> None:
    register({"fast": FAST})
    assert json.loads(registry_path().read_text()) == {
        "aliases": {"fast": {"model": "openai/gpt-5-nano", "secret": "openai-creds"}},
        "default": "fast",
    }


def test_every_field_comes_back_as_it_was() -> None:
    whole = Alias(
        model="openai-compatible/m", secret="s", base_url="http://localhost:1/v1", temperature=0.1, max_tokens=5,
        top_p=0.9, stop=("a", "b"), seed=3, reasoning="low", context_length=4096, fallbacks=("openai/x",), cache="5m",
        retries=0, prices=Prices(Decimal("0.05"), Decimal("1.1"), Decimal("0.005")),
    )  # fmt: skip
    register({"whole": whole})
    assert effective().registry.aliases["whole"] == whole
    assert from_snapshot(current_registry()).aliases["whole"] == whole


def test_only_its_user_can_read_the_file() -> None:
    register({"fast": FAST})
    registry_path().chmod(0o644)
    register({"smart": SMART})
    assert stat.S_IMODE(registry_path().stat().st_mode) == 0o600


def test_a_file_that_is_a_link_stays_one(tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.json"
    real.write_text("{}")
    registry_path().parent.mkdir(parents=True)
    registry_path().symlink_to(real)
    register({"fast": FAST})
    assert registry_path().is_symlink()
    assert "fast" in real.read_text()


def test_an_alias_registered_anew_says_what_it_was() -> None:
    register({"fast": FAST})
    done = register({"fast": Alias(model="openai/gpt-6")}, default="fast")["fast"]
    assert done.before == FAST
    assert effective().registry.aliases["fast"].secret == ""


def test_a_refused_alias_leaves_the_file_as_it_was(write: Write) -> None:
    path = write('{"aliases": {}}')
    with pytest.raises(UsageError, match="nothere"):
        register({"fast": Alias(model="openai/x", fallbacks=("nothere",))})
    assert path.read_text() == '{"aliases": {}}'


def test_a_fallback_may_be_spelled_as_other_libraries_do() -> None:
    register({"fast": Alias(model="openai/x", fallbacks=("anthropic:claude-x", "together_ai/org/m"))})
    assert [way.name for way in route_in(effective().registry, "fast", {}).fallbacks] == [
        "anthropic/claude-x",
        "together/org/m",
    ]


def test_aliases_that_fall_back_to_each_other_are_refused() -> None:
    register({"a": Alias(model="openai/a"), "b": Alias(model="openai/b", fallbacks=("a",))})
    with pytest.raises(UsageError, match="a -> b -> a"):
        register({"a": Alias(model="openai/a", fallbacks=("b",))})


def test_the_default_is_chosen_by_name() -> None:
    register({"fast": FAST, "smart": SMART})
    set_default("smart")
    assert effective().registry.default == "smart"
    with pytest.raises(NotFoundError, match="smort") as caught:
        set_default("smort")
    assert "smart" in str(caught.value.hint)


def test_removing_the_default_leaves_none() -> None:
    register({"fast": FAST, "other": Alias(model="openai/x")})
    assert remove("fast")
    assert effective().registry == Registry({"other": Alias(model="openai/x")}, None)


def test_an_alias_that_another_falls_back_to_is_not_removed() -> None:
    register({"fast": FAST, "smart": SMART})
    with pytest.raises(UsageError, match="'smart'"):
        remove("fast")


def registers_many(home: str, number: int) -> None:
    os.environ["KITARU_HOME"] = home
    for count in range(5):
        register({f"alias-{number}-{count}": Alias(model=f"openai/m{number}")})


def test_writers_at_once_do_not_lose_each_others_aliases(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=registers_many, args=(str(tmp_path / "home"), number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(effective().registry.aliases) == 15


# -- written by hand --------------------------------------------------------------------------------------------------


def test_what_a_hand_wrote_stays_in_its_order(write: Write) -> None:
    write('{"default": "z", "aliases": {"z": {"stop": "END", "model": "openai/z"}, "a": {"model": "openai/a"}}}')
    register({"m": Alias(model="openai/m")})
    document = json.loads(registry_path().read_text())
    assert list(document) == ["default", "aliases"]
    assert list(document["aliases"]) == ["z", "a", "m"]
    assert document["aliases"]["z"] == {"stop": "END", "model": "openai/z"}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('{\n  "aliases": {\n    "fast": {"model": "openai/x",\n      "temprature": 1}}}', 4, "'temprature'"),
        ('{\n  "alias": {}}', 2, "'alias'"),
        ('{"aliases":\n {"fast": {"model": "openai/x"}},\n "default": "fats"}', 3, "'fats'"),
        ('{"aliases": {\n"a": {"model": "openai/x"},\n"a": {"model": "openai/y"}}}', 3, "twice"),
        ('{"aliases": {"a": {\n"model": "openai/x"\n', 3, "comma"),
        ('{"aliases": {"a": {"model": "openai/x",\n"max_tokens": "many"}}}', 2, "max_tokens"),
        ('{"aliases": {"a": {"model": "openai/x",\n"prices": {\n"input": 1, "output": 2, "in": 1}}}}', 3, "prices.in"),
        ('{"aliases": {\n"a/b": {"model": "openai/x"}}}', 2, "provider/model"),
        ('{"aliases": {\n"a": {}}}', 2, "model"),
        ('{"aliases": {"a": {"model": "openai/x", "temperature": NaN}}}', 1, "NaN"),
        ("[]", 1, "no object"),
        ('{"aliases": ' + '{"a":' * 3000, 1, "deep"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_left_alone(write: Write, text: str, line: int, words: str) -> None:
    path = write(text)
    for reads in (effective, lambda: register({"new": FAST})):
        with pytest.raises(UsageError) as caught:
            reads()
        assert f"{path}, line {line}:" in caught.value.message
        assert words in caught.value.message
    assert path.read_text() == text


@pytest.mark.parametrize("name", ["api_key", "key", "token"])
def test_a_key_in_the_file_is_refused_and_not_shown(write: Write, name: str) -> None:
    write(json.dumps({"aliases": {"a": {"model": "openai/x", name: "value-of-the-test"}}}))
    with pytest.raises(UsageError) as caught:
        effective()
    assert "kitaru secrets set" in str(caught.value)
    assert "value-of-the-test" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"secret": "sk-0123456789"},
        {"secret": "0123456789abcdef0123456789abcdef01"},
        {"secret": "Bearer of-the-test"},
        {"base_url": "https://me:of-the-test@host/v1"},
        {"base_url": "https://host/v1?api_key=of-the-test"},
        {"base_url": "https://host/v1?x=of-the-test"},
        {"base_url": "https://host/v1?of-the-test"},
        {"base_url": "ftp://of-the-test"},
        {"reasoning": "of-the-test"},
    ],
)
def test_what_may_be_a_key_is_refused_and_not_shown(fields: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        register({"a": Alias(model="openai/x", **fields)})  # type: ignore[arg-type]  # wrong on purpose
    assert next(iter(fields.values())) not in str(caught.value)
    assert "of-the-test" not in str(caught.value)
    assert not registry_path().exists()


@pytest.mark.parametrize("name", ["openai-creds", "team.keys", "prod_2026", "0a1b2c3d4e5f6a7b", "hf_inference_creds"])
def test_names_of_secrets_are_not_taken_for_keys(name: str) -> None:
    assert not looks_like_a_key(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -1.0}, {"top_p": 1.5}, {"max_tokens": 0}, {"retries": -1}, {"cache": "soon"},
        {"model": "openai/*"}, {"fallbacks": ("openai/a", "openai/a")},
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="'a'"):
        register({"a": Alias(**{"model": "openai/x", **fields})})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("name", ["a b", "", "-x", "a=b", "a,b", "*", "a\x1b[31m"])
def test_a_name_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        register({name: FAST})


# -- the variable -----------------------------------------------------------------------------------------------------


def test_the_variable_wins_over_the_file_alias_by_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    register({"fast": FAST, "local": Alias(model="openai/local")})
    environment(monkeypatch, fast={"model": "openai/other"}, more={"model": "openai/more"})
    now = effective()
    assert {name: alias.model for name, alias in now.registry.aliases.items()} == {
        "fast": "openai/other",
        "local": "openai/local",
        "more": "openai/more",
    }
    assert now.sources == {"fast": "environment", "local": "file", "more": "environment"}
    assert now.registry.default == "fast"


def test_the_variables_default_may_be_an_alias_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    register({"fast": FAST, "local": Alias(model="openai/local")})
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", '{"default": "local"}')
    assert effective().registry.default == "local"


def test_a_blank_variable_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", "  \n ")
    assert effective().registry == Registry()


@pytest.mark.parametrize("text", ["[]", "{", '{"default": "nosuch"}', '{"aliases": {"a": {"model": 1}}}'])
def test_a_variable_that_is_no_registry_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", text)
    with pytest.raises(UsageError, match="KITARU_MODEL_REGISTRY"):
        current_registry()


def test_an_alias_hidden_by_the_variable_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, fast={"model": "openai/other"})
    assert register({"fast": FAST})["fast"].hidden


def test_an_alias_of_the_variable_is_not_removed_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, fast={"model": "openai/other"})
    with pytest.raises(UsageError, match="KITARU_MODEL_REGISTRY"):
        remove("fast")


# -- what a run keeps -------------------------------------------------------------------------------------------------


def test_a_snapshot_of_an_earlier_version_is_read() -> None:
    from kitaru.store import codec

    former = codec.encode({"aliases": {"fast": {"model": "openai/x"}}, "default": "fast", "default_model": ""})
    assert from_snapshot(former) == Registry({"fast": Alias(model="openai/x")}, "fast")


def test_what_a_newer_version_adds_to_a_snapshot_is_passed_over() -> None:
    from kitaru.store import codec

    newer = codec.encode({"aliases": {"fast": {"model": "openai/x", "voice": "alto"}}, "regions": ["eu"]})
    assert from_snapshot(newer) == Registry({"fast": Alias(model="openai/x")})


def test_a_snapshot_holds_what_decides_over_a_model_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_DEFAULT_MODEL", "fast")
    monkeypatch.setenv("KITARU_DEFAULT_PROVIDER", "openai")
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test")
    register({"fast": FAST})
    data = current_registry()
    assert from_snapshot(data) == Registry({"fast": FAST}, "fast", "fast", "openai")
    assert b"key-of-the-test" not in data
    assert snapshot(from_snapshot(data)) == data
