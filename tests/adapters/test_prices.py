"""The calculator against the library that its table is generated from, and the order in which costs are looked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage as OriginalUsage
from genai_prices.data import providers
from genai_prices.types import ConditionalPrice, StartDateConstraint, TieredPrices, TimeOfDateConstraint
from hypothesis import given, settings
from hypothesis import strategies as st

from kitaru.adapters import Usage, provider
from kitaru.adapters.prices import Cost, cost_of, list_price, version
from tests.adapters import generate_prices
from tests.cases import cases

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
USAGE = Usage(input=1000, output=200, cached_input=300, cache_write=100, reasoning=50, searches=2)
CLOUD = "https://api.example.com/v1"


def original(usage: Usage) -> OriginalUsage:
    names = {
        "input": "input_tokens", "output": "output_tokens", "cached_input": "cache_read_tokens",
        "cache_write": "cache_write_tokens", "cache_write_1h": "cache_write_1h_tokens",
        "input_audio": "input_audio_tokens", "cached_audio": "cache_audio_read_tokens",
        "output_audio": "output_audio_tokens", "reasoning": "output_reasoning_tokens", "searches": "web_searches",
    }  # fmt: skip
    stated = {theirs: getattr(usage, ours) for ours, theirs in names.items() if getattr(usage, ours) is not None}
    return OriginalUsage(**stated)


def expected(owner: Any, model: Any, usage: Usage, at: datetime) -> Decimal | None:
    context = dict.fromkeys(("service_tier", "speed", "processing"), usage.tier) if usage.tier else None
    try:
        found = model.calc_price(original(usage), owner, genai_request_timestamp=at, price_context=context)
    except ValueError:
        return None
    total: Decimal = found.total_price
    return total


def moments(model: Any) -> list[datetime]:
    """Now, and both sides of every date and hour at which a price changes."""
    found = [NOW]
    listed = model.prices if isinstance(model.prices, list) else [ConditionalPrice(prices=model.prices)]
    for one in (*listed, *(model.price_variants or ())):
        match one.constraint:
            case StartDateConstraint():
                start = datetime.combine(one.constraint.start_date, datetime.min.time(), UTC)
                found += [start, start - timedelta(seconds=1)]
            case TimeOfDateConstraint():
                for edge in (one.constraint.start_time, one.constraint.end_time):
                    start = datetime.combine(NOW.date(), edge).astimezone(UTC)
                    found += [start, start - timedelta(seconds=1)]
            case _:
                pass
    return found


def usages(model: Any) -> list[Usage]:
    """An ordinary usage, and both sides of every length at which a price changes; each for every tier."""
    found = [USAGE, Usage(input=10, output=5)]
    listed = model.prices if isinstance(model.prices, list) else [ConditionalPrice(prices=model.prices)]
    for one in listed:
        for price in vars(one.prices).values():
            if isinstance(price, TieredPrices):
                for tier in price.tiers:
                    found += [Usage(input=tier.start, output=7), Usage(input=tier.start + 1, output=7)]
    tiers = {tier for one in model.price_variants or () for tier in one.when.values()}
    return [*found, *(Usage(input=1000, output=200, tier=tier) for tier in sorted(tiers))]


@pytest.mark.parametrize("owner", providers, ids=lambda one: one.id)
def test_every_entry_costs_what_the_original_says(owner: Any) -> None:
    for model in owner.models:
        found = owner.find_model(model.id, all_providers=providers)
        if found is None:
            # The original does not find some entries by their own id.
            assert list_price(owner.id, [model.id], USAGE, NOW.timestamp()) == Cost(None)
            continue
        for at in moments(found):
            for usage in usages(found):
                cost = list_price(owner.id, [model.id], usage, at.timestamp())
                assert cost.usd == expected(owner, found, usage, at), (model.id, at, usage)


counts = st.none() | st.integers(0, 5000)


@given(
    st.sampled_from([(owner, model) for owner in providers[:8] for model in owner.models]),
    st.builds(
        Usage, input=counts, output=counts, cached_input=counts, cache_write=counts, reasoning=counts,
        cache_write_1h=counts, input_audio=counts, cached_audio=counts, output_audio=counts, searches=counts,
    ),
)  # fmt: skip
@settings(max_examples=cases(300), deadline=None)
def test_any_usage_costs_what_the_original_says_or_nothing_is_said(entry: tuple[Any, Any], usage: Usage) -> None:
    owner, model = entry
    found = owner.find_model(model.id, all_providers=providers)
    if found is None or usage == Usage():
        return
    assert list_price(owner.id, [model.id], usage, NOW.timestamp()).usd == expected(owner, found, usage, NOW)


def test_the_table_is_what_the_library_in_use_generates() -> None:
    assert generate_prices.FILE.read_text(encoding="utf-8") == generate_prices.table()


def cost(name: str = "openai", base_url: str = CLOUD, model: str = "gpt-5-nano", **more: Any) -> Cost:
    usage = more.pop("usage", Usage(input=1_000_000, output=1_000_000))
    return cost_of(provider(name), base_url, model, more.pop("answered", model), usage, at=NOW.timestamp(), **more)


def test_a_cost_names_its_source_its_unit_prices_and_the_tables_version() -> None:
    found = cost()
    assert found.usd is not None
    assert found.usd > 0
    assert found.source == "table"
    assert '"input_mtok":' in found.prices
    assert found.version == version()


def test_what_the_provider_states_comes_before_everything_else() -> None:
    assert cost(stated="0.00123", override={"input": 9}) == Cost(Decimal("0.00123"), "provider")


def test_an_aliass_prices_come_before_the_table() -> None:
    found = cost(override={"input": 1.5, "output": "2"})
    assert (found.usd, found.source) == (Decimal("3.5"), "alias")


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:8000/v1", "http://localhost:4000/v1", "http://[::1]:4000/v1"])
def test_a_loopback_address_is_free_where_the_table_has_no_price(base_url: str) -> None:
    free = Cost(Decimal(0), "free")
    assert cost(base_url=base_url, model="no-such-model") == free
    assert cost(base_url=base_url, name="openai-compatible") == free
    assert cost(base_url=base_url, name="ollama") == free
    # A proxy may stand there.
    assert cost(base_url=base_url) == cost()
    assert cost(base_url=base_url, usage=Usage()) == Cost(None)


@pytest.mark.parametrize("unknown", [{"model": "no-such-model"}, {"usage": Usage()}, {"name": "openai-compatible"}])
def test_what_is_not_known_is_none_and_never_zero(unknown: dict[str, Any]) -> None:
    assert cost(**unknown) == Cost(None)


def test_the_model_that_answered_is_priced_before_the_one_that_was_asked() -> None:
    assert cost(model="gpt-5-nano", answered="gpt-5") == cost(model="gpt-5")
    assert cost(model="gpt-5-nano", answered="unheard-of") == cost(model="gpt-5-nano")


def test_what_is_billed_counts_instead_of_what_was_used() -> None:
    used = Usage(input=1_000_000, output=0, billed_input=1000, billed_output=0)
    assert cost(usage=used) == cost(usage=Usage(input=1000, output=0))
