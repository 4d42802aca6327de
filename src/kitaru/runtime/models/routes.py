"""Which model a call means, and how it is to be called: pure, over the registry that a run keeps."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from kitaru.errors import UsageError
from kitaru.runtime.models.alias import Alias, Effort
from kitaru.runtime.models.registry import Registry, effective, from_snapshot

if TYPE_CHECKING:
    from kitaru.adapters import Retry, Settings

BaseUrlSource: TypeAlias = Literal["", "argument", "alias", "environment", "gateway"]
"""Who named an address: the call, its alias, a variable of the provider, `KITARU_GATEWAY_URL`; empty: the provider."""


class Defaults(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an alias wants its model to answer, where a call does not say otherwise."""

    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning: Effort | int | None = None
    context_length: int | None = None


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a name leads to.

    Args:
        asked: The name as the call wrote it, or the default that stands for it.
        alias: The alias that it led to; empty for a `provider/model`.
        provider: The row of the provider, never an alias of it.
        model: The provider's own name of the model.
        base_url: The address that was named for it; empty where none was.
        base_url_source: Who named the address.
        secret: The name of the secret that holds its key; empty where none is linked.
        settings: How to answer, where the call does not say otherwise.
        fallbacks: What to ask where it cannot answer, in this order; a fallback's own ones follow it.
        retries: How often a failed attempt is repeated, where the call does not say otherwise.
        prices: USD per million tokens of `input`, `output`, `cached_input`, where the alias says so.
        cache: How long an answer may serve again, such as `5m`; empty for not at all.
    """

    asked: str
    alias: str
    provider: str
    model: str
    base_url: str = ""
    base_url_source: BaseUrlSource = ""
    secret: str = ""
    settings: Defaults = Defaults()
    fallbacks: tuple[Route, ...] = ()
    retries: int | None = None
    prices: dict[str, str] | None = None
    cache: str = ""

    @property
    def name(self) -> str:
        """`provider/model`."""
        return f"{self.provider}/{self.model}"

    @property
    def retry(self) -> Retry | None:
        """The alias's retries as the transport takes them; None where it says nothing."""
        from kitaru.adapters import Retry

        return None if self.retries is None else Retry(attempts=self.retries + 1)


def route(model: str | None, snapshot: bytes, instead: Mapping[str, str]) -> Route:
    """Find what a call's model means: the one it names, else `KITARU_DEFAULT_MODEL`, else the default alias.

    Args:
        model: As the call names it, an alias or `provider/model`; None for the default.
        snapshot: The registry that the run keeps.
        instead: Names to take instead of those written, for the fallbacks of an alias too.

    Raises:
        UsageError: None was named and there is no default, the name leads nowhere, or fallbacks go round in a circle.
    """
    return route_in(from_snapshot(snapshot), model, instead)


def route_in(registry: Registry, model: str | None, instead: Mapping[str, str]) -> Route:
    """As `route`, over a registry that is not encoded."""
    name = model.strip() if model is not None else registry.default_model or registry.default
    if name is None:
        raise UsageError(
            "no model was named, and there is no default",
            hint='Pass model="provider/model", set KITARU_DEFAULT_MODEL, or name one for good: '
            "`kitaru model register NAME --model PROVIDER/MODEL`.",
        )
    return _route(name, registry, instead, ())


def checked_model(name: str, environ: Mapping[str, str] | None = None) -> str:
    """The full name of the model that an alias is to stand for.

    Args:
        name: `provider/model`, or a model's alone where `KITARU_DEFAULT_PROVIDER` is set.
        environ: The environment; this process's if None.

    Raises:
        UsageError: It names no provider, or one that does not exist; or it is an alias itself.
    """
    now = effective(environ).registry
    name = name.strip()
    if name in now.aliases:
        raise UsageError(
            f"{name!r} is an alias itself", hint=f"An alias names a model: --model {now.aliases[name].model}."
        )
    from kitaru.adapters import provider, split_model

    before, model = split_model(name, now.default_provider)
    return f"{provider(before).name}/{model}"


def filled(settings: Settings, defaults: Defaults) -> Settings:
    """A call's settings, with an alias's where the call leaves them open."""
    open_ = {
        name: value
        for name in Defaults.__struct_fields__
        if (value := getattr(defaults, name)) not in (None, ()) and getattr(settings, name) in (None, ())
    }
    return msgspec.structs.replace(settings, **open_) if open_ else settings


def placed(found: Route, base_url: str | None = None, environ: Mapping[str, str] | None = None) -> Route:
    """The route with its address: the call's, else its alias's, else the environment's, else the provider's own.

    An `openai/` model at an Azure host becomes azure's. Fallbacks keep their own addresses.

    Args:
        found: As `route` gave it; one that goes to a gateway stays as it is.
        base_url: The call's own.
        environ: The environment; this process's if None.

    Raises:
        UsageError: The provider has no address of its own, and none is named.
    """
    from kitaru.adapters import provider

    if found.base_url_source == "gateway":
        return found
    if base_url:
        return _at(found, base_url, "argument")
    if found.base_url:
        return found
    row = provider(found.provider)
    environ = os.environ if environ is None else environ
    named = row.base_url_named(environ)
    if named:
        return _at(found, named, "environment")
    if not row.base_url:
        names = f"Set {row.base_url_env[0]}, or pass base_url=." if row.base_url_env else "Pass base_url="
        hint = f"{names.rstrip('.')}, or register an alias with --base-url."
        raise UsageError(f"{found.provider} has no address of its own", hint=hint)
    return msgspec.structs.replace(found, base_url=row.base_url, base_url_source="")


def still_local(found: Route) -> bool:
    """Whether this machine's own registry, as it is today, names the same address for a route's alias.

    An address that only a run's snapshot names may come from another machine, or from an import: no key of the
    environment and no secret is sent there. Addresses that no alias named are local by their nature.

    Raises:
        UsageError: Today's registry cannot be read.
    """
    if found.base_url_source != "alias":
        return True
    today = effective().registry.aliases.get(found.alias)
    return today is not None and today.base_url == found.base_url


def _route(asked: str, registry: Registry, instead: Mapping[str, str], above: tuple[str, ...]) -> Route:
    name = instead.get(asked, asked)
    if name in above:
        raise UsageError(
            f"aliases fall back to each other: {' -> '.join((*above, name))}", hint="Take one of these fallbacks away."
        )
    alias = registry.aliases.get(name)
    provider, model = _full(alias.model if alias is not None else name, registry)
    if alias is None:
        return Route(asked, "", provider, model)
    found = Route(
        asked,
        name,
        provider,
        model,
        secret=alias.secret,
        settings=_settings(alias),
        fallbacks=_fallbacks(alias, registry, instead, (*above, name)),
        retries=alias.retries,
        prices=msgspec.to_builtins(alias.prices),
        cache=alias.cache,
    )
    return _at(found, alias.base_url, "alias") if alias.base_url else found


def _fallbacks(
    alias: Alias, registry: Registry, instead: Mapping[str, str], above: tuple[str, ...]
) -> tuple[Route, ...]:
    """An alias's fallbacks, each followed by its own, none twice."""
    found: list[Route] = []
    for one in alias.fallbacks:
        if one in instead and instead[one] in above:
            continue  # what was put in its place has been asked already
        first = _route(one, registry, instead, above)
        for each in (msgspec.structs.replace(first, fallbacks=()), *first.fallbacks):
            if all((each.alias or each.name) != (other.alias or other.name) for other in found):
                found.append(each)
    return tuple(found)


def _at(found: Route, base_url: str, source: BaseUrlSource) -> Route:
    provider = found.provider
    if provider == "openai":
        from kitaru.adapters.azure import is_azure

        provider = "azure" if is_azure(base_url) else provider
    return msgspec.structs.replace(found, provider=provider, base_url=base_url, base_url_source=source)


def _full(name: str, registry: Registry) -> tuple[str, str]:
    """Split a name that is no alias into provider and model.

    Raises:
        UsageError: It names no provider, or one that does not exist.
    """
    from kitaru.adapters import provider, split_model

    try:
        before, model = split_model(name, registry.default_provider)
        provider(before)
    except UsageError as error:
        if "/" in name or not name:
            raise
        close = difflib.get_close_matches(name, registry.aliases, n=1)
        full = error.hint or ""
        hints = [
            f"Did you mean the alias {close[0]!r}?" if close else "",
            full if full.startswith("Did you mean") or not close else "",
            f"Or make it an alias: `kitaru model register {name} --model PROVIDER/MODEL`.",
        ]
        raise UsageError(
            f"{name!r} is no alias, and names no provider", hint=" ".join(hint for hint in hints if hint)
        ) from None
    return before, model


def _settings(alias: Alias) -> Defaults:
    return Defaults(
        alias.temperature, alias.max_tokens, alias.top_p, alias.stop, alias.seed, alias.reasoning, alias.context_length
    )
