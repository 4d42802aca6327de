"""A LiteLLM configuration as aliases: what is mapped, what is said, what is left out."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from kitaru.errors import UsageError
from kitaru.runtime.models.alias import Alias, Prices
from kitaru.runtime.models.litellm_config import Imported, from_config, read_config
from kitaru.runtime.models.registry import effective, register
from kitaru.runtime.models.safe_yaml import LARGEST, load


def imported(text: str, **environ: str) -> Imported:
    return from_config(load(text.encode(), "c.yaml"), "c.yaml", environ)


def one(params: str, **environ: str) -> Imported:
    lines = "\n".join(f"      {line}" for line in params.strip().splitlines())
    return imported(f"model_list:\n  - model_name: it\n    litellm_params:\n{lines}\n", **environ)


def unmapped(found: Imported) -> dict[str, str]:
    return {remark.where: remark.message for remark in found.unmapped}


def changed(found: Imported) -> str:
    return "\n".join(f"{remark.where}: {remark.message}" for remark in found.changed)


# The shape of LiteLLM's quick start.
QUICK_START = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://mine-eu.openai.azure.com/
      api_key: os.environ/AZURE_API_KEY_EU
      api_version: 2024-10-21
      rpm: 6
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
  - model_name: claude
    litellm_params:
      model: anthropic/claude-sonnet
      temperature: 0.5
      max_tokens: 1000
  - model_name: vllm-models
    litellm_params:
      model: openai/facebook/opt-125m
      api_base: http://0.0.0.0:4000/v1
      api_key: none
  - model_name: "anthropic/*"
    litellm_params:
      model: "anthropic/*"
litellm_settings:
  drop_params: true
  num_retries: 3
  fallbacks: [{"claude": ["gpt-4o"]}]
  success_callback: ["langfuse"]
general_settings:
  master_key: sk-of-the-test
"""


def test_the_quick_start_becomes_aliases() -> None:
    found = imported(QUICK_START)
    assert found.aliases == {
        "gpt-4o": Alias(
            model="azure/gpt-4o-eu",
            base_url="https://mine-eu.openai.azure.com?api-version=2024-10-21",
            secret="azure-api-key-eu",
            retries=3,
            fallbacks=("openai/gpt-4o",),
        ),
        "claude": Alias(
            model="anthropic/claude-sonnet", temperature=0.5, max_tokens=1000, retries=3, fallbacks=("gpt-4o",)
        ),
        "vllm-models": Alias(model="openai-compatible/facebook/opt-125m", base_url="http://0.0.0.0:4000/v1", retries=3),
    }


def test_what_has_no_counterpart_is_listed_by_its_place() -> None:
    assert set(unmapped(imported(QUICK_START))) == {
        "model_list[0] (gpt-4o).litellm_params.rpm",
        "model_list[4] (anthropic/*)",
        "litellm_settings.drop_params",
        "litellm_settings.success_callback",
        "general_settings.master_key",
    }


def test_what_was_imported_can_be_registered() -> None:
    found = imported(QUICK_START)
    register(found.aliases)
    assert effective().registry.aliases == found.aliases
    assert effective().registry.default == "gpt-4o"


def test_several_entries_under_one_name_are_said_to_be_asked_in_order() -> None:
    assert "asked in order: azure/gpt-4o-eu, then openai/gpt-4o" in changed(imported(QUICK_START))


def test_an_entry_with_settings_of_its_own_becomes_an_alias_of_its_own() -> None:
    found = imported(
        """
model_list:
  - {model_name: it, litellm_params: {model: openai/a, temperature: 0.1, order: 2}}
  - {model_name: it, litellm_params: {model: openai/b, temperature: 0.2, order: 1}}
  - {model_name: it-2, litellm_params: {model: openai/c}}
"""
    )
    assert found.aliases["it"] == Alias(model="openai/b", temperature=0.2, fallbacks=("it-2-2",))
    assert found.aliases["it-2-2"] == Alias(model="openai/a", temperature=0.1)
    assert found.aliases["it-2"] == Alias(model="openai/c")


# -- one entry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("gemini/gemini-x", "google/gemini-x"),
        ("ollama_chat/llama3.2:1b", "ollama/llama3.2:1b"),
        ("together_ai/org/m", "together/org/m"),
        ("fireworks_ai/accounts/x/m", "fireworks/accounts/x/m"),
        ("fireworks_ai/m", "fireworks/accounts/fireworks/models/m"),
        ("azure/o_series/mine", "azure/mine"),
        ("azure/gpt5_series/mine", "azure/mine"),
        ("huggingface/together/org/m", "huggingface/org/m:together"),
        ("cohere_chat/command", "cohere/command"),
        ("hosted_vllm/m", "vllm/m"),
        ("nvidia_nim/m", "nvidia/m"),
        ("lm_studio/m", "lmstudio/m"),
        ("huggingface/org/m", "huggingface/org/m"),
        ("openrouter/openai/m", "openrouter/openai/m"),
        ("openai/responses/m", "openai-responses/m"),
        ("gpt-4o", "openai/gpt-4o"),
    ],
)
def test_a_provider_is_called_as_it_is_here(theirs: str, ours: str) -> None:
    assert one(f"model: {theirs}").aliases["it"].model == ours


@pytest.mark.parametrize(
    "model", ["vertex_ai/gemini-x", "bedrock/anthropic.x", "nosuch/m", "mystery", "vllm/m", "openai/os.environ/M"]
)
def test_a_model_of_a_provider_that_is_not_here_is_listed(model: str) -> None:
    found = one(f"model: {model}")
    assert found.aliases == {}
    assert list(unmapped(found)) == ["model_list[0] (it)"]


def test_settings_are_taken_over() -> None:
    found = one(
        """
model: openai/x
temperature: 0
max_completion_tokens: 7
top_p: 0.5
stop: [a, b]
seed: 1
reasoning_effort: low
max_retries: 2
input_cost_per_token: 0.00000005
output_cost_per_token: 4e-7
"""
    )
    assert found.aliases["it"] == Alias(
        model="openai/x", temperature=0.0, max_tokens=7, top_p=0.5, stop=("a", "b"), seed=1, reasoning="low", retries=2,
        prices=Prices(Decimal("0.05"), Decimal("0.4")),
    )  # fmt: skip
    assert found.unmapped == ()


def test_a_budget_of_thinking_is_taken_over() -> None:
    found = one("model: anthropic/x\nthinking: {type: enabled, budget_tokens: 2048}")
    assert found.aliases["it"].reasoning == 2048


def test_a_value_that_cannot_be_is_listed_and_the_rest_kept() -> None:
    found = one("model: openai/x\ntemperature: hot\nreasoning_effort: of-the-test\nseed: 3")
    assert found.aliases["it"] == Alias(model="openai/x", seed=3)
    assert len(found.unmapped) == 2
    assert "of-the-test" not in str(found)


def test_prices_in_the_model_info_count_and_its_other_fields_are_listed() -> None:
    found = imported(
        """
model_list:
  - model_name: it
    litellm_params: {model: openai/x}
    model_info: {id: a, mode: chat, input_cost_per_token: 0.000001, output_cost_per_token: 0.000002, base_model: y}
"""
    )
    assert found.aliases["it"].prices == Prices(Decimal(1), Decimal(2))
    assert list(unmapped(found)) == ["model_list[0] (it).model_info.base_model"]


def test_a_model_that_does_not_chat_is_listed() -> None:
    found = imported("model_list: [{model_name: e, litellm_params: {model: openai/e}, model_info: {mode: embedding}}]")
    assert found.aliases == {}
    assert "no chat model" in unmapped(found)["model_list[0] (e)"]


# -- keys and addresses -----------------------------------------------------------------------------------------------


def test_the_providers_usual_variable_needs_nothing() -> None:
    found = one("model: openai/x\napi_key: os.environ/OPENAI_API_KEY")
    assert found == Imported({"it": Alias(model="openai/x")}, (), (), ())


@pytest.mark.parametrize("reference", ["os.environ/MODEL", "${MODEL}", "$MODEL", "${MODEL:-x}"])
def test_a_model_in_a_variable_is_kept_as_it_is_now(reference: str) -> None:
    found = one(f"model: '{reference}'", MODEL="gemini/gemini-x")
    assert found.aliases["it"] == Alias(model="google/gemini-x")
    assert "MODEL" in changed(found)
    unset = one(f"model: '{reference}'")
    assert unset.aliases == {}
    assert "MODEL, which is not set" in unmapped(unset)["model_list[0] (it)"]


def test_a_reference_that_a_template_left_is_a_variable_and_no_key() -> None:
    found = one("model: openai/x\napi_key: ${TEAM_KEY}\napi_base: ${PROXY}", PROXY="https://h.example/v1")
    assert found.aliases["it"] == Alias(
        model="openai-compatible/x", base_url="https://h.example/v1", secret=found.aliases["it"].secret
    )
    (needed,) = found.secrets
    assert (needed.secret, needed.variable) == ("team-key", "TEAM_KEY")
    assert one("model: openai/x\napi_key: ${OPENAI_API_KEY}").secrets == ()


def test_another_variable_becomes_a_secret_with_the_command_that_makes_it() -> None:
    found = one("model: openai/x\napi_key: os.environ/TEAM_KEY")
    assert found.aliases["it"].secret == "team-key"
    assert [needed.command for needed in found.secrets] == [
        "printenv TEAM_KEY | kitaru secrets set team-key OPENAI_API_KEY"
    ]
    assert "TEAM_KEY" in changed(found)


def test_a_key_in_the_file_is_never_kept_nor_shown() -> None:
    found = one("model: openai/x\napi_key: key-of-the-test")
    assert found.aliases["it"].secret == "it-key"
    assert [needed.command for needed in found.secrets] == ["kitaru secrets set it-key OPENAI_API_KEY"]
    assert "key-of-the-test" not in str(found)


def test_one_key_for_several_models_is_one_secret() -> None:
    found = imported(
        """
model_list:
  - {model_name: a, litellm_params: {model: openai/a, api_key: key-of-the-test}}
  - {model_name: b, litellm_params: {model: openai/b, api_key: key-of-the-test}}
"""
    )
    assert {alias.secret for alias in found.aliases.values()} == {"a-key"}
    assert len(found.secrets) == 1


def test_an_address_in_a_variable_is_kept_as_it_is_now() -> None:
    found = one("model: openai/x\napi_base: os.environ/PROXY", PROXY="http://10.0.0.1:8000/v1")
    assert found.aliases["it"] == Alias(model="openai-compatible/x", base_url="http://10.0.0.1:8000/v1")
    assert "PROXY" in changed(found)


def test_an_address_in_a_variable_that_is_not_set_leaves_the_entry_out() -> None:
    found = one("model: openai/x\napi_base: os.environ/PROXY")
    assert found.aliases == {}
    assert "PROXY" in unmapped(found)["model_list[0] (it)"]


def test_the_providers_own_variable_for_its_address_needs_nothing() -> None:
    found = one("model: openai/x\napi_base: os.environ/OPENAI_BASE_URL")
    assert found == Imported({"it": Alias(model="openai/x")}, (), (), ())


def test_the_providers_own_address_is_not_repeated() -> None:
    assert one("model: openai/x\napi_base: https://api.openai.com/v1/").aliases["it"] == Alias(model="openai/x")


def test_an_address_with_a_key_in_it_is_not_kept() -> None:
    found = one("model: openai/x\napi_base: https://me:of-the-test@host/v1")
    assert found.aliases == {}
    assert "of-the-test" not in str(found)


# -- names and fallbacks ----------------------------------------------------------------------------------------------


def test_a_full_name_that_stands_for_itself_needs_no_alias() -> None:
    found = imported(
        """
model_list:
  - {model_name: openai/gpt-4o, litellm_params: {model: openai/gpt-4o}}
  - {model_name: gemini/gemini-x, litellm_params: {model: gemini/gemini-x}}
  - {model_name: it, litellm_params: {model: openai/x}}
litellm_settings: {fallbacks: [{it: [openai/gpt-4o, gemini/gemini-x]}]}
"""
    )
    assert found.aliases == {"it": Alias(model="openai/x", fallbacks=("openai/gpt-4o", "google/gemini-x"))}


def test_a_name_with_a_slash_is_called_otherwise_and_found_by_its_fallbacks() -> None:
    found = imported(
        """
model_list:
  - {model_name: team/fast, litellm_params: {model: openai/a}}
  - {model_name: slow, litellm_params: {model: openai/b}}
router_settings: {fallbacks: [{slow: [team/fast]}]}
"""
    )
    assert found.aliases["slow"].fallbacks == ("team-fast",)
    assert "is called team-fast" in changed(found)


MUTUAL = """
model_list:
  - {model_name: a, litellm_params: {model: openai/a}}
  - {model_name: b, litellm_params: {model: openai/b, temperature: 0.5}}
litellm_settings: {fallbacks: [{a: [b]}, {b: [a]}]}
"""


def test_names_that_fall_back_to_each_other_fall_back_once_each() -> None:
    found = imported(MUTUAL)
    assert found.aliases["a"].fallbacks == ("b-alone",)
    assert found.aliases["b"].fallbacks == ("openai/a",)
    assert found.aliases["b-alone"] == Alias(model="openai/b", temperature=0.5)
    register(found.aliases)


def test_shared_fallbacks_come_last_and_not_from_themselves() -> None:
    found = imported(
        """
model_list:
  - {model_name: a, litellm_params: {model: openai/a}}
  - {model_name: b, litellm_params: {model: openai/b}}
  - {model_name: z, litellm_params: {model: openai/z}}
litellm_settings: {default_fallbacks: [z], fallbacks: [{a: [b]}]}
"""
    )
    assert {name: alias.fallbacks for name, alias in found.aliases.items()} == {"a": ("b", "z"), "b": ("z",), "z": ()}


def test_a_fallback_to_what_is_not_there_is_listed() -> None:
    found = imported(
        """
model_list: [{model_name: a, litellm_params: {model: openai/a}}]
router_settings: {fallbacks: [{a: [nosuch]}]}
"""
    )
    assert unmapped(found) == {"router_settings.fallbacks[0].a": "'nosuch' is no model of the list"}


def test_another_name_for_a_group_is_another_alias() -> None:
    found = imported(
        """
model_list: [{model_name: a, litellm_params: {model: openai/a, seed: 1}}]
router_settings: {model_group_alias: {gpt-4: a, odd: nosuch}}
"""
    )
    assert found.aliases["gpt-4"] == Alias(model="openai/a", seed=1)
    assert list(unmapped(found)) == ["router_settings.model_group_alias.odd"]


# -- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1]\nb: *x\n", "line 1: anchors"),
        ("a: 1\nb: *x\n", "line 2: anchors"),
        ("a: 1\na: 2\n", "line 2: 'a' is there twice"),
        ("a: {b: 1, c: 2, b: 3}\n", "twice"),
        ("a: !!python/object/apply:os.system [echo]\n", "not YAML"),
        ("a: [1\n", "not YAML"),
        ("? [1, 2]\n: 3\n", "not a word"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deep"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
    ],
)
def test_yaml_that_is_not_plain_data_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(text.encode(), "c.yaml")
    assert words in caught.value.message
    assert caught.value.message.startswith("c.yaml")


def test_a_huge_file_is_refused() -> None:
    with pytest.raises(UsageError, match="larger"):
        load(b"#" * (LARGEST + 1), "c.yaml")


def test_a_file_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        load(b"a: \xff\xfe", "c.yaml")


@pytest.mark.parametrize("text", ["", "[]", "model_list: 3", "models: []"])
def test_a_file_without_a_list_of_models_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="model_list"):
        imported(text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nosuch"):
        read_config(tmp_path / "nosuch.yaml")
