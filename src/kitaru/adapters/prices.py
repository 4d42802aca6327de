"""What a call costs: by the provider's word, an alias's prices, or a table of list prices that ships with Kitaru.

The table is generated from genai-prices, whose rules of calculation are followed here: a price belongs to a unit of
usage, units are told apart by dimensions (direction, modality, cache, ...), and what a more specific price covers is
not charged by a wider one. `tests/adapters/test_prices.py` compares every entry with the original.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from importlib.resources import files
from typing import Final, Literal, TypeAlias

import msgspec

from kitaru.adapters.provider import Provider
from kitaru.adapters.reply import Usage
from kitaru.adapters.request import loopback

Source: TypeAlias = Literal["provider", "alias", "table", "free", ""]


class Cost(msgspec.Struct, frozen=True):
    """What a call costs.

    Args:
        usd: US dollars; None where it is not known.
        source: Who says so: the provider, the alias, the table; or it is free.
        prices: The prices used, as JSON: USD by unit.
        version: The table's version.
    """

    usd: Decimal | None
    source: Source = ""
    prices: str = ""
    version: str = ""


class _Unit(msgspec.Struct, frozen=True):
    usage: str
    per: int
    dimensions: dict[str, str]


class _Prices(msgspec.Struct, frozen=True):
    """Prices by unit, a text or, where they depend on the input's length, a text and pairs of threshold and text."""

    prices: dict[str, str | list[str | tuple[int, str]]]
    when: dict[str, str] = {}
    since: date | None = None
    between: tuple[time, time] | None = None

    def active(self, at: datetime) -> bool:
        if self.since is not None:
            return at.date() >= self.since
        if self.between is not None:
            start, end = (_utc(moment) for moment in self.between)
            now = at.time()
            return start <= now < end if start <= end else now >= start or now < end
        return True


class _Model(msgspec.Struct, frozen=True):
    id: str
    match: dict[str, object]
    prices: list[_Prices]
    variants: list[_Prices] = []


class _Provider(msgspec.Struct, frozen=True):
    fallback: list[str]
    models: list[_Model]


class _Table(msgspec.Struct, frozen=True):
    source: str
    version: str
    units: dict[str, _Unit]
    providers: dict[str, msgspec.Raw]


# The table's names for providers that are called otherwise here.
_NAMES: Final[Mapping[str, str]] = {
    "openai-responses": "openai",
    "xai": "x-ai",
    "moonshot": "moonshotai",
}

# What the table calls the choice that a provider reports as its tier.
_TIER_NAMES: Final = ("service_tier", "speed", "processing")

_COMPACT_DATE: Final = re.compile(r"(?<=-)(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")

_PER_MILLION: Final[Mapping[str, str]] = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
}


def cost_of(
    row: Provider,
    base_url: str,
    asked: str,
    answered: str,
    usage: Usage,
    *,
    stated: str = "",
    override: Mapping[str, float | str] | None = None,
    at: float,
) -> Cost:
    """Return what a call costs.

    The provider's own word comes first, then the alias's prices, then what is free, then the table. A model that the
    table prices is not free behind a loopback address: a proxy may stand there.

    Args:
        row: Who answered.
        base_url: Where; at a loopback address, models without a price in the table are free.
        asked: The model asked for.
        answered: The model that answered, which is looked for first.
        usage: What was used.
        stated: USD that the provider says it charges; empty where it does not say.
        override: USD per million tokens: `input`, `output`, `cached_input`, `cache_write`.
        at: UTC seconds since the epoch of the request.
    """
    if stated:
        return Cost(Decimal(stated), "provider")
    if override:
        prices = {_PER_MILLION[name]: str(price) for name, price in override.items() if name in _PER_MILLION}
        usd = _charge(list(_resolved(prices)), usage)
        return Cost(None) if usd is None else Cost(usd, "alias", _shown(prices))
    if row.free:
        return Cost(Decimal(0), "free")
    provider = row.price_id or _NAMES.get(row.name, row.name)
    if loopback(base_url) and not priced(provider, (answered, asked)):
        return Cost(Decimal(0), "free")
    return list_price(provider, (answered, asked), usage, at)


def priced(provider: str, models: Sequence[str]) -> bool:
    """Whether the table has a price of one of a provider's models."""
    return any(name and _find(provider, name) is not None for name in models)


def list_price(provider: str, models: Sequence[str], usage: Usage, at: float) -> Cost:
    """Return what the table says.

    Args:
        provider: By the table's name.
        models: Names of the model, the best first.
        usage: What was used.
        at: UTC seconds since the epoch of the request.
    """
    model = next((model for name in models if name and (model := _find(provider, name))), None)
    if model is None:
        return Cost(None)
    moment = datetime.fromtimestamp(at, UTC)
    standard = next((one for one in reversed(model.prices) if one.active(moment)), model.prices[0])
    prices = dict(standard.prices)
    if usage.tier and _own(provider, model):
        chosen: dict[str, str | list[str | tuple[int, str]]] = {}
        for variant in model.variants:
            if variant.active(moment) and variant.when in [{name: usage.tier} for name in _TIER_NAMES]:
                chosen = {**variant.prices, **chosen}
        prices |= chosen
    usd = _charge(list(_resolved(prices)), usage)
    return Cost(None) if usd is None else Cost(usd, "table", _shown(prices), version())


def version() -> str:
    """Return the table's version."""
    return _table().version


# -- the table ---------------------------------------------------------------------------------------------------------


@functools.cache
def _table() -> _Table:
    return msgspec.json.decode(files("kitaru.adapters").joinpath("prices.json").read_bytes(), type=_Table)


@functools.cache
def _provider(name: str) -> _Provider | None:
    raw = _table().providers.get(name)
    return msgspec.json.decode(raw, type=_Provider) if raw is not None else None


@functools.lru_cache(maxsize=1024)
def _find(provider: str, name: str) -> _Model | None:
    listed = _provider(provider)
    if listed is None:
        return None
    name = name.lower()
    dashed = _COMPACT_DATE.sub(r"\1-\2-\3", name)
    for one in dict.fromkeys((name, dashed)):
        for owner in (listed, *filter(None, map(_provider, listed.fallback))):
            for model in owner.models:
                if _matches(model.match, one):
                    return model
    return None


def _own(provider: str, model: _Model) -> bool:
    listed = _provider(provider)
    return listed is not None and any(model is one for one in listed.models)


def _matches(clause: Mapping[str, object], text: str) -> bool:
    for kind, value in clause.items():
        match kind, value:
            case "or", list():
                return any(_matches(one, text) for one in value)
            case "and", list():
                return all(_matches(one, text) for one in value)
            case "starts_with", str():
                return text.startswith(value.lower())
            case "ends_with", str():
                return text.endswith(value.lower())
            case "contains", str():
                return value.lower() in text
            case "equals", str():
                return text == value.lower()
            case "regex", str():
                return re.search(value, text) is not None
            case _:
                return False
    return False


# -- the calculation ---------------------------------------------------------------------------------------------------


class _Priced(msgspec.Struct, frozen=True):
    """A unit and its price: the usual one, and what it is from a threshold of input tokens on."""

    unit: _Unit
    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()

    def at(self, input_tokens: int) -> Decimal:
        applying = self.base
        for start, price in self.tiers:
            if input_tokens > start:
                applying = price
        return applying


def _resolved(prices: Mapping[str, str | list[str | tuple[int, str]]]) -> Sequence[_Priced]:
    units = _table().units
    found = []
    for key, price in prices.items():
        if isinstance(price, str):
            found.append(_Priced(units[key], Decimal(price)))
            continue
        tiers = sorted((one[0], Decimal(one[1])) for one in price if not isinstance(one, str))
        found.append(_Priced(units[key], Decimal(str(price[0])), tuple(tiers)))
    return found


def _charge(priced: Sequence[_Priced], usage: Usage) -> Decimal | None:
    """The price of a usage; None where the prices do not cover it or its parts contradict each other."""
    counts = _counts(usage)
    if not counts:
        return None
    try:
        total = _known(counts, _units_by_usage()["input_tokens"]) if any(one.tiers for one in priced) else 0
        leaves = _leaves(priced, counts)
    except ValueError:
        return None
    usd = Decimal(0)
    for one in priced:
        usd += one.at(total) * leaves[one.unit.usage] / one.unit.per
    return usd


def _leaves(priced: Sequence[_Priced], counts: Mapping[str, int]) -> dict[str, int]:
    """How much of each priced unit no more specific price covers."""
    leaves: dict[str, int] = {}
    units = [one.unit for one in priced]
    for unit in sorted(units, key=lambda unit: (-len(unit.dimensions), unit.usage)):
        if unit.usage == "requests":
            leaves[unit.usage] = 1
            continue
        inner = sum(
            leaves[one.usage] for one in units if one is not unit and one.usage in leaves and _within(one, unit)
        )
        left = _known(counts, unit) - inner
        if left < 0:
            raise ValueError
        leaves[unit.usage] = left
    return leaves


def _known(counts: Mapping[str, int], unit: _Unit) -> int:
    """How much of a unit was used. What was not stated is none, unless parts of it were."""
    if unit.usage in counts:
        return counts[unit.usage]
    known = _units_by_usage()
    stated = [known[name] for name, count in counts.items() if count > 0]
    if any(_within(one, unit) for one in stated):
        raise ValueError
    for at, left in enumerate(stated):
        for right in stated[at + 1 :]:
            joined = {**left.dimensions, **right.dimensions}
            agree = all(right.dimensions.get(key, value) == value for key, value in left.dimensions.items())
            if agree and joined == unit.dimensions and not _within(left, right) and not _within(right, left):
                raise ValueError
    return 0


def _counts(usage: Usage) -> dict[str, int]:
    """A usage in the table's terms. What is billed instead of what was used comes first."""
    stated = {
        "input_tokens": usage.input if usage.billed_input is None else usage.billed_input,
        "output_tokens": usage.output if usage.billed_output is None else usage.billed_output,
        "cache_read_tokens": usage.cached_input,
        "cache_write_tokens": usage.cache_write,
        "cache_write_1h_tokens": usage.cache_write_1h,
        "input_audio_tokens": usage.input_audio,
        "cache_audio_read_tokens": usage.cached_audio,
        "output_audio_tokens": usage.output_audio,
        "output_reasoning_tokens": usage.reasoning,
        "web_searches": usage.searches,
    }
    return {name: count for name, count in stated.items() if count is not None}


@functools.cache
def _units_by_usage() -> Mapping[str, _Unit]:
    return {unit.usage: unit for unit in _table().units.values()}


def _within(inner: _Unit, outer: _Unit) -> bool:
    return outer.dimensions.items() <= inner.dimensions.items()


def _shown(prices: Mapping[str, object]) -> str:
    return msgspec.json.encode(prices).decode()


def _utc(moment: time) -> time:
    if moment.tzinfo is None:
        return moment
    return datetime.combine(date(1970, 1, 1), moment).astimezone(UTC).time()
