"""Models in the words of the command line, and as its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from kitaru.cli import wording
from kitaru.cli.output import Colour, Output, clean

if TYPE_CHECKING:
    from kitaru.runtime.models.alias import Alias
    from kitaru.runtime.models.routes import Route
    from kitaru.runtime.models.view import Feature, KeyState, Price

ModelName = Annotated[
    str | None, typer.Argument(metavar="NAME", help="An alias or PROVIDER/MODEL; without it, the default.")
]

_MARKS: Final[dict[str, tuple[str, Colour]]] = {
    "yes": ("✓", "green"),
    "no": ("−", "dim"),
    "not this model": ("✗", "yellow"),
}


SOURCES = {
    "": "the provider's own",
    "alias": "named by the alias",
    "environment": "named by the environment",
    "argument": "",
    "gateway": "the gateway",
}


def features(out: Output, features: Sequence[Feature]) -> None:
    """What provider and model have, as a table."""
    rows: list[list[str]] = []
    colours: list[list[Colour]] = []
    for one in features:
        mark, colour = _MARKS[one.has]
        lacked = "" if one.has == "yes" else "dropped with a warning" if one.advisory else "refused"
        note = one.note or (f"{'this model lacks it; ' if one.has == 'not this model' else ''}{lacked}")
        rows.append([mark, one.name, note])
        colours.append([colour, "", "dim"])
    out.table(rows, colours=colours, indent=2)


def fields(alias: Alias) -> dict[str, object]:
    """An alias as the registry's file has it."""
    import msgspec

    made: dict[str, object] = msgspec.to_builtins(alias)
    return made


def route_json(route: Route) -> dict[str, object]:
    """A route, without what may be a credential."""
    return {
        "name": route.alias or route.name,
        "model": route.name,
        "base_url": bare(route.base_url),
        "base_url_source": route.base_url_source or "provider",
        "secret": route.secret or None,
        "settings": dict(_stated(route)),
        "fallbacks": [one.alias or one.name for one in route.fallbacks],
        "retries": route.retries,
        "cache": route.cache or None,
    }


def _stated(route: Route) -> list[tuple[str, object]]:
    names = route.settings.__struct_fields__
    return [(name, value) for name in names if (value := getattr(route.settings, name)) not in (None, ())]


def settings(route: Route) -> str:
    """A route's settings in a line."""
    parts = [f"{name}={wording.value(value, 40)}" for name, value in _stated(route)]
    parts += [f"retries={route.retries}"] if route.retries is not None else []
    parts += [f"cache={route.cache}"] if route.cache else []
    return ", ".join(parts)


def more(alias: Alias) -> str:
    """What an alias holds beside model and secret, in a line."""
    parts = [f"{name}={wording.value(value, 40)}" for name, value in fields(alias).items() if name not in _COLUMNS]
    parts += [f"then {', '.join(clean(one) for one in alias.fallbacks)}"] if alias.fallbacks else []
    return ", ".join(parts)


_COLUMNS = frozenset({"model", "secret", "fallbacks"})


def key_words(key: KeyState | None) -> tuple[str, Colour]:
    """Where a key would come from, in words."""
    if key is None:
        return "", ""
    missing = key.present is False
    match key.source:
        case "environment":
            return f"{key.name}{' (missing)' if missing else ''}", "red" if missing and key.needed else ""
        case "secret":
            return f"secret {clean(key.name)}{' (missing)' if missing else ''}", "red" if missing else ""
        case _ if key.needed:
            return f"missing: {key.name}" if key.name else "missing", "red"
        case _:
            return "none needed", "dim"


def key_json(key: KeyState | None) -> dict[str, object] | None:
    """Where a key would come from."""
    if key is None:
        return None
    return {"source": key.source, "name": key.name or None, "present": key.present, "needed": key.needed}


def price_json(price: Price) -> dict[str, object] | None:
    """What a model costs, as far as it is known."""
    if not price.source:
        return None
    return {"source": price.source, "usd_per_million": price.rates or None, "version": price.version or None}


def price_words(price: Price) -> str:
    """What a model costs, in words."""
    if price.source == "free":
        return "free"
    parts = [f"{name.replace('_', ' ')} ${rate}" for name, rate in price.rates.items() if name in _USUAL]
    said = "the alias's own" if price.source == "alias" else "by the price table"
    return f"{', '.join(parts)} per million tokens ({said})" if parts else wording.UNKNOWN


_USUAL: Final = ("input", "cached_input", "cache_read", "output")


def bare(base_url: str) -> str:
    """An address without what may be a credential."""
    scheme, _, rest = base_url.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
