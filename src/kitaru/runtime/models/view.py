"""What is shown of models: the registry in effect, one model in full, and where a key would come from."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import msgspec

from kitaru.errors import NotFoundError, UsageError
from kitaru.runtime.models.alias import Alias
from kitaru.runtime.models.gateway import KEY, Gateway, gateway
from kitaru.runtime.models.registry import Effective, Source, effective
from kitaru.runtime.models.routes import Route, placed, route_in

if TYPE_CHECKING:
    from kitaru.adapters import Provider

KeySource: TypeAlias = Literal["environment", "secret", "none"]
Has: TypeAlias = Literal["yes", "no", "not this model"]


class KeyState(msgspec.Struct, frozen=True):
    """Where the key of a call would come from; never the key.

    Args:
        source: The environment, a secret, or nowhere.
        name: The variable, or the secret; where none is set up, the variable to set.
        present: Whether it is there; None where nobody looked.
        needed: Whether a call is refused without one.
    """

    source: KeySource
    name: str
    present: bool | None
    needed: bool


class Listed(msgspec.Struct, frozen=True):
    """One alias of the registry in effect.

    `route` is None where it leads nowhere; `problem` says why.
    """

    name: str
    alias: Alias
    source: Source
    default: bool
    route: Route | None = None
    key: KeyState | None = None
    problem: str = ""


class Catalogue(NamedTuple):
    """The registry in effect, and what else decides which model a call means."""

    listed: list[Listed]
    default: str | None
    default_model: str
    gateway: Gateway | None


class Feature(msgspec.Struct, frozen=True):
    """One thing that a call can ask for.

    `advisory` ones are dropped with a warning where they are lacked; without the others the call is refused.
    """

    name: str
    advisory: bool
    has: Has
    note: str = ""


class Price(msgspec.Struct, frozen=True):
    """What a model costs.

    Args:
        source: The alias, the price table, or that it is free; empty where it is not known.
        rates: USD per million tokens, or for a thousand of what is no token; from a number of input tokens on,
            others may hold.
        version: The table's version.
    """

    source: Literal["alias", "table", "free", ""]
    rates: dict[str, str] = msgspec.field(default_factory=dict)
    version: str = ""


class Shown(msgspec.Struct, frozen=True):
    """One model in full.

    Args:
        route: Where it leads, its address included.
        source: Where the alias comes from; empty for a `provider/model`.
        default: Whether calls that name no model mean it.
        key: Where its key would come from.
        features: What provider and model have.
        price: What it costs.
        gateway: The proxy that its calls go through.
        docs: Where the provider's API is described.
    """

    route: Route
    source: Source | Literal[""]
    default: bool
    key: KeyState
    features: tuple[Feature, ...]
    price: Price
    gateway: str
    docs: str


Secrets: TypeAlias = Callable[[], Container[str] | None]
"""Gives the names and ids of the secrets that this user may see; None where they cannot be looked at."""


def catalogue(provider: str | None = None, secrets: Secrets | None = None) -> Catalogue:
    """The registry in effect.

    Args:
        provider: Only aliases of this one.
        secrets: Called, once, if a key would come from one.

    Raises:
        UsageError: The registry cannot be read, or there is no such provider.
    """
    from kitaru.adapters import provider as provider_named

    wanted = provider_named(provider).name if provider is not None else None
    now = effective()
    chosen = now.registry.default_model or now.registry.default
    known = functools.cache(secrets) if secrets is not None else None
    listed = [_listed(name, now, known, default=name == chosen) for name in now.registry.aliases]
    if wanted is not None:
        listed = [one for one in listed if one.route is not None and one.route.provider == wanted]
    return Catalogue(listed, now.registry.default, now.registry.default_model, gateway())


def show(name: str | None, secrets: Secrets | None = None) -> Shown:
    """One model in full: what a call of that name would do today.

    Args:
        name: An alias or `provider/model`; None for the default.
        secrets: Called if its key would come from one.

    Raises:
        NotFoundError: It is neither.
        UsageError: It leads nowhere, or there is no default.
    """
    from kitaru.adapters import provider

    now = effective()
    if name is not None and "/" not in name and name not in now.registry.aliases and not now.registry.default_provider:
        try:
            route_in(now.registry, name, {})
        except UsageError as error:
            raise NotFoundError(error.message, hint=error.hint) from None
    here = placed(route_in(now.registry, name, {}))
    row = provider(here.provider)
    through = gateway()
    chosen = now.registry.default_model or now.registry.default
    return Shown(
        here,
        now.sources.get(here.alias, ""),
        chosen is not None and chosen in (here.alias, here.name),
        key_state(here, secrets),
        _features(row, here.model),
        _price(row, here),
        through.url.partition("?")[0] if through is not None else "",
        row.docs,
    )


def key_state(route: Route, secrets: Secrets | None = None, environ: Mapping[str, str] | None = None) -> KeyState:
    """Where a route's key would come from.

    Args:
        route: As `placed` gave it.
        secrets: Called if it would come from one.
        environ: The environment; this process's if None.
    """
    from kitaru.adapters import provider
    from kitaru.adapters.request import loopback

    environ = os.environ if environ is None else environ
    if route.base_url_source == "gateway":
        return KeyState("environment", KEY, bool(environ.get(KEY, "").strip()), needed=False)
    row = provider(route.provider)
    needed = row.key_required and not loopback(route.base_url)
    names = tuple(dict.fromkeys((*row.key_env, *row.bearer_env)))
    variable = next((name for name in names if environ.get(name, "").strip()), None)
    if variable is not None:
        return KeyState("environment", variable, present=True, needed=needed)
    if route.secret:
        known = secrets() if secrets is not None else None
        return KeyState("secret", route.secret, None if known is None else route.secret in known, needed)
    return KeyState("none", names[0] if names else "", present=False, needed=needed)


def _listed(name: str, now: Effective, secrets: Secrets | None, *, default: bool) -> Listed:
    alias, source = now.registry.aliases[name], now.sources[name]
    try:
        here = placed(route_in(now.registry, name, {}))
    except UsageError as error:
        return Listed(name, alias, source, default, problem=error.message)
    return Listed(name, alias, source, default, here, key_state(here, secrets))


def _features(row: Provider, model: str) -> tuple[Feature, ...]:
    from typing import get_args

    from kitaru.adapters.provider import ADVISORY, Binding

    here = row.capabilities.of(model)
    made = []
    for name in (*ADVISORY, *get_args(Binding)):
        has: Has = "yes" if name in here else "not this model" if name in row.capabilities.features else "no"
        note = ""
        if name == "tool_choice" and has == "yes":
            note = ", ".join(["auto", *sorted(row.capabilities.tool_choices)])
        if name == "stop" and has == "yes" and row.capabilities.most_stops is not None:
            note = f"at most {row.capabilities.most_stops}"
        made.append(Feature(name, name in ADVISORY, has, note))
    return tuple(made)


def _price(row: Provider, route: Route) -> Price:
    from kitaru.adapters.prices import cost_of
    from kitaru.adapters.reply import Usage

    if route.prices:
        return Price("alias", route.prices)
    nothing = Usage(input=0, output=0)
    cost = cost_of(row, route.base_url, route.model, route.model, nothing, at=time.time())
    if cost.source == "free":
        return Price("free")
    if not cost.prices:
        return Price("")
    stated: dict[str, str | list[str | tuple[int, str]]] = msgspec.json.decode(
        cost.prices, type=dict[str, str | list[str | tuple[int, str]]]
    )
    return Price("table", {_unit(name): _rate(value) for name, value in stated.items()}, cost.version)


def _unit(name: str) -> str:
    return name.removesuffix("_mtok") if name.endswith("_mtok") else name


def _rate(value: str | list[str | tuple[int, str]]) -> str:
    if isinstance(value, str):
        return value
    return ", ".join(one if isinstance(one, str) else f"{one[1]} from {one[0]:,} tokens on" for one in value)
