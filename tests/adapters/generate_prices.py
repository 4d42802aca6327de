"""Write the price table from genai-prices: `python -m tests.adapters.generate_prices`."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import genai_prices
from genai_prices.data import providers
from genai_prices.types import ConditionalPrice, StartDateConstraint, TieredPrices, TimeOfDateConstraint
from genai_prices.units import _get_registry

FILE = Path(__file__).resolve().parents[2] / "src/kitaru/adapters/prices.json"

# What a usage of ours may state, priced or not.
COUNTED = {
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens",
    "input_audio_tokens", "cache_audio_read_tokens", "output_audio_tokens", "output_reasoning_tokens", "web_searches",
}  # fmt: skip

Json = dict[str, Any]


def number(value: Decimal) -> str:
    return format(value.normalize(), "f")


def price(value: Any) -> Any:
    if isinstance(value, TieredPrices):
        return [number(value.base), *([tier.start, number(tier.price)] for tier in value.tiers)]
    return number(value)


def prices(model_price: Any) -> Json:
    return {key: price(value) for key, value in vars(model_price).items() if value is not None}


def match(clause: Any) -> Json:
    ((name, value),) = vars(clause).items()
    return {name.rstrip("_"): [match(one) for one in value] if isinstance(value, list) else value}


def constraint(found: Any) -> Json:
    match found:
        case None:
            return {}
        case StartDateConstraint():
            return {"since": found.start_date.isoformat()}
        case TimeOfDateConstraint():
            return {"between": [found.start_time.isoformat(), found.end_time.isoformat()]}
        case _:
            raise TypeError(found)


def model(found: Any) -> Json:
    listed = found.prices if isinstance(found.prices, list) else [ConditionalPrice(prices=found.prices)]
    made: Json = {
        "id": found.id,
        "match": match(found.match),
        "prices": [{"prices": prices(one.prices), **constraint(one.constraint)} for one in listed],
    }
    if found.price_variants:
        made["variants"] = [
            {"when": one.when, "prices": prices(one.prices), **constraint(one.constraint)}
            for one in found.price_variants
        ]
    return made


def table() -> str:
    """The file's text: a line for each model, so that a new version's changes can be read."""
    used: set[str] = set()
    blocks = []
    for provider in providers:
        lines = []
        for one in provider.models:
            made = model(one)
            for priced in (*made["prices"], *made.get("variants", ())):
                used |= priced["prices"].keys()
            lines.append(json.dumps(made, ensure_ascii=False, separators=(",", ":")))
        head = json.dumps({"fallback": provider.fallback_model_providers or []})[1:-1]
        blocks.append(f'{json.dumps(provider.id)}: {{{head}, "models": [\n' + ",\n".join(lines) + "\n]}")
    registry = _get_registry()
    units = {
        unit.price_key: {"usage": unit.usage_key, "per": unit.per, "dimensions": dict(unit.dimensions)}
        for unit in registry.units.values()
        if unit.price_key in used or unit.usage_key in COUNTED
    }
    source = f"genai-prices {genai_prices.__version__} (MIT), https://github.com/pydantic/genai-prices"
    return (
        f'{{"source": {json.dumps(source)},\n"version": {json.dumps(genai_prices.__version__)},\n"units": {{\n'
        + ",\n".join(f"{json.dumps(key)}: {json.dumps(unit)}" for key, unit in units.items())
        + '\n},\n"providers": {\n'
        + ",\n".join(blocks)
        + "\n}}\n"
    )


if __name__ == "__main__":
    FILE.write_text(table(), encoding="utf-8")
    print(f"{FILE.name}: {FILE.stat().st_size} bytes, {sum(len(one.models) for one in providers)} models")
