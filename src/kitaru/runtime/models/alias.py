"""What an alias may hold, and what is wrong with one that cannot be right."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msgspec

Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "max"]

_NAME: Final = re.compile(r"[^\s/=,'\"\\*-][^\s/=,'\"\\*]{0,127}")
_PERIOD: Final = re.compile(r"\d+(?:\.\d+)?\s*(?:s|m|min|h|d|w)")

# How keys begin: openai and its many imitators; then groq, xai, perplexity, hugging face, google, nvidia, cerebras,
# fireworks, together, replicate, and signed tokens.
_KEY_START: Final = re.compile(
    r"sk[-_]|bearer\s|(?:gsk_|xai-|pplx-|hf_|AIza|nvapi-|csk-|fw_|tgp_|r8_|eyJ)(?=.*\d)[\w.-]{16,}", re.IGNORECASE
)
_RUN: Final = re.compile(r"[A-Za-z0-9+]{33,}")
_KEY_FIELDS: Final = frozenset({"key", "api_key", "apikey", "api-key", "token", "password", "secret_key", "auth"})


class Prices(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model costs, in USD per million tokens; used instead of the price table."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None


class Alias(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A name for a model, and how it is to be called. A call's own settings win over those given here.

    Args:
        model: `provider/model`.
        secret: The name of the secret that holds its key; never the key.
        base_url: Where the provider's API lives, if not at its usual address.
        temperature: Sampling temperature.
        max_tokens: The most tokens of an answer.
        top_p: Nucleus sampling.
        stop: Texts that end an answer.
        seed: For repeatable sampling.
        reasoning: How hard to think: an effort, or a budget in tokens.
        context_length: Tokens of context to reserve (ollama).
        fallbacks: Aliases, or `provider/model`, to ask in this order where it cannot answer.
        cache: How long an answer may serve again, such as `5m`.
        retries: How often a failed attempt is repeated.
        prices: What it costs, where that is known better than by the price table.
    """

    model: str
    secret: str = ""
    base_url: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning: Effort | int | None = None
    context_length: int | None = None
    fallbacks: tuple[str, ...] = ()
    cache: str = ""
    retries: int | None = None
    prices: Prices | None = None


class Problem(NamedTuple):
    """What is wrong with one field."""

    field: str
    message: str
    hint: str | None = None


def alias_of(value: object) -> Alias | Problem:
    """The alias that a JSON object describes, or why it is none. Nothing of a value is shown: it may be a key."""
    if not isinstance(value, dict):
        return Problem("", "is not an object", 'Write {"model": "provider/model"}.')
    unknown = next((name for name in value if name not in Alias.__struct_fields__), None)
    if unknown is not None:
        return _unknown(unknown, Alias.__struct_fields__)
    if not value.get("model"):
        return Problem("", "names no model", 'Add "model": "provider/model".')
    prices = value.get("prices")
    if isinstance(prices, dict):
        unknown = next((name for name in prices if name not in Prices.__struct_fields__), None)
        if unknown is not None:
            return _unknown(f"prices.{unknown}", tuple(f"prices.{name}" for name in Prices.__struct_fields__))
    if isinstance(value.get("stop"), str):
        value = {**value, "stop": [value["stop"]]}
    for name, part in value.items():
        if part is None:
            return Problem(name, f"has no value for {name}", "Leave the field out instead.")
        try:
            msgspec.convert({"model": "provider/model", name: part}, Alias)
        except msgspec.ValidationError as error:
            return Problem(name, f"has a value for {name} that cannot be: {_told(error)}")
    alias = msgspec.convert(value, Alias)
    return next(problems(alias), alias)


def problems(alias: Alias) -> Iterator[Problem]:
    """What is wrong with an alias by itself."""
    yield from _names(alias)
    yield from _numbers(alias)
    if alias.cache and not _PERIOD.fullmatch(alias.cache.strip()):
        yield Problem("cache", "has a cache time that is no period", "Write a number and a unit: 90s, 5m, 2h, 1d.")


def bad_name(name: str) -> Problem | None:
    """Why a text cannot be an alias's name, if it cannot."""
    if _NAME.fullmatch(name) and name.isprintable():
        return None
    if "/" in name:
        return Problem("", "holds a /, and a name with one is always provider/model", "Choose a name without it.")
    return Problem("", "is not a name", "A name has no spaces, quotes, commas, =, * or \\, and no - at its start.")


def looks_like_a_key(text: str) -> bool:
    """Whether a text is rather a credential than the name of one."""
    text = text.strip()
    runs: list[str] = _RUN.findall(text)  # letters and digits, longer than names are without a break
    return _KEY_START.match(text) is not None or any(not run.isalpha() and not run.isdigit() for run in runs)


def circle(aliases: Mapping[str, Alias]) -> tuple[str, ...]:
    """Aliases that fall back to each other, from the first one to itself again; empty where there are none."""
    done: set[str] = set()

    def look(name: str, above: tuple[str, ...]) -> tuple[str, ...]:
        if name in above:
            return (*above[above.index(name) :], name)
        if name in done:
            return ()
        found = next(
            (way for one in aliases[name].fallbacks if one in aliases and (way := look(one, (*above, name)))), ()
        )
        done.add(name)
        return found

    return next((way for name in aliases if (way := look(name, ()))), ())


def _names(alias: Alias) -> Iterator[Problem]:
    provider, slash, model = alias.model.partition("/")
    if alias.model != alias.model.strip() or (slash and not (provider and model)):
        yield Problem("model", "has a model that is not provider/model")
    if "*" in alias.model:
        yield Problem("model", "names many models", "An alias names one model.")
    if looks_like_a_key(alias.secret) or re.search(r"[\s=:]", alias.secret):
        yield Problem(
            "secret",
            "has a secret that looks like a key; only the name of a secret is kept",
            "Store the key: `kitaru secrets set NAME KEY`, then link it by NAME.",
        )
    if alias.base_url:
        yield from _address(alias.base_url)
    if any(not one.strip() or "*" in one for one in alias.fallbacks):
        yield Problem("fallbacks", "has a fallback that names nothing")
    if len(set(alias.fallbacks)) < len(alias.fallbacks):
        yield Problem("fallbacks", "names a fallback twice")


def _address(base_url: str) -> Iterator[Problem]:
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good, parts = False, urlsplit("")
    if not good or re.search(r"\s", base_url):
        yield Problem("base_url", "has a base URL that is not an http(s) address", "Such as https://host/v1.")
        return
    from kitaru.adapters.request import private_part

    private = private_part(base_url)
    if private:
        yield Problem("base_url", f"has a base URL with {private}", "Store a key as a secret instead.")


def _numbers(alias: Alias) -> Iterator[Problem]:
    for name, number, least in (
        ("temperature", alias.temperature, 0.0),
        ("top_p", alias.top_p, 0.0),
        ("max_tokens", alias.max_tokens, 1),
        ("context_length", alias.context_length, 1),
        ("retries", alias.retries, 0),
        ("reasoning", alias.reasoning if isinstance(alias.reasoning, int) else None, 0),
    ):
        if number is not None and not (math.isfinite(number) and number >= least):
            yield Problem(name, f"has {name}={number:g}: at least {least:g} is needed")
    if alias.top_p is not None and alias.top_p > 1:
        yield Problem("top_p", f"has top_p={alias.top_p:g}: at most 1 makes sense")
    if alias.prices is not None:
        amounts = (alias.prices.input, alias.prices.output, alias.prices.cached_input or Decimal(0))
        if any(not amount.is_finite() or amount < 0 for amount in amounts):
            yield Problem("prices", "has a price that is no amount", "Prices are USD per million tokens.")


def _unknown(name: str, known: tuple[str, ...]) -> Problem:
    close = difflib.get_close_matches(name, known, n=1)
    if name.rpartition(".")[2].lower() in _KEY_FIELDS:
        hint = 'Keys are never kept here: `kitaru secrets set NAME KEY`, then "secret": "NAME".'
    else:
        hint = f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(known)}."
    return Problem(name, f"has a field {name!r} that is not known", hint)


def _told(error: msgspec.ValidationError) -> str:
    """The library's message without the value that it may quote, and without a path."""
    return re.sub(r"(Invalid enum value).*", r"\1", str(error)).partition(" - at ")[0]
