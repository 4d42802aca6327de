"""Names for models: registering, listing, checking, fetching, importing them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kitaru.cli import model_words as words
from kitaru.cli.commands import Context, command
from kitaru.cli.failures import OK
from kitaru.cli.groups import MODEL
from kitaru.cli.output import Colour, Output, clean
from kitaru.cli.pulling import volume
from kitaru.cli.session import with_runtime
from kitaru.errors import KitaruError, UsageError

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.models.alias import Effort
    from kitaru.runtime.models.view import Listed

_DIM: Final[Sequence[Colour]] = ("dim",) * 6
_MODEL_ROW: Final[Sequence[Colour]] = ("bold", "", "dim", "dim", "")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The alias.")]


@MODEL.callback()
def group(context: typer.Context) -> None:
    """What `kitaru model` does by itself."""
    if context.invoked_subcommand is None:
        Output().line(context.get_help().rstrip())
        raise typer.Exit(OK)


@command(
    (MODEL, "register"),
    examples="""
kitaru model register fast --model openai/gpt-5-nano --secret openai-creds
kitaru model register local --model ollama/llama3.2:1b --context-length 8192
kitaru model register smart --model anthropic/claude-x --fallback fast --default
""",
    details="An existing alias is replaced. The first alias becomes the default. The settings of a call override those "
    "of the alias. The registry contains no keys, only the names of secrets.",
)
def register(
    context: Context,
    name: Name,
    model: Annotated[str, typer.Option("--model", metavar="PROVIDER/MODEL", help="The model of the alias.")],
    secret: Annotated[str, typer.Option("--secret", metavar="NAME", help="The secret that holds the key.")] = "",
    base_url: Annotated[str, typer.Option("--base-url", metavar="URL", help="The address of the API.")] = "",
    temperature: Annotated[float | None, typer.Option("--temperature", help="Sampling temperature.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", help="The most tokens of an answer.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Nucleus sampling.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="Ends an answer; may be repeated.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="For repeatable sampling.")] = None,
    reasoning: Annotated[
        str | None,
        typer.Option("--reasoning", metavar="EFFORT", help="none, minimal, low, medium, high, max, or tokens."),
    ] = None,
    context_length: Annotated[
        int | None, typer.Option("--context-length", help="Tokens of context to reserve (ollama).")
    ] = None,
    fallback: Annotated[
        list[str] | None,
        typer.Option("--fallback", metavar="ALIAS", help="Called if the model cannot answer; repeatable."),
    ] = None,
    retries: Annotated[int | None, typer.Option("--retries", help="Number of retries of a failed attempt.")] = None,
    cache: Annotated[
        str, typer.Option("--cache", metavar="PERIOD", help="How long an answer may be reused: 5m, 2h.")
    ] = "",
    price_input: Annotated[
        str | None, typer.Option("--price-input", metavar="USD", help="Price per million input tokens.")
    ] = None,
    price_output: Annotated[
        str | None, typer.Option("--price-output", metavar="USD", help="Price per million output tokens.")
    ] = None,
    price_cached: Annotated[
        str | None, typer.Option("--price-cached-input", metavar="USD", help="Price per million cached input tokens.")
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Make it the default model.")] = False,
) -> int:
    """Register a name for a model."""
    from kitaru.runtime.models.alias import Alias
    from kitaru.runtime.models.registry import register as write
    from kitaru.runtime.models.routes import checked_model

    alias = Alias(
        model=checked_model(model),
        secret=secret.strip(),
        base_url=base_url.strip(),
        temperature=temperature,
        max_tokens=max_tokens,
        top_p=top_p,
        stop=tuple(stop or ()),
        seed=seed,
        reasoning=_reasoning(reasoning),
        context_length=context_length,
        fallbacks=tuple(one.strip() for one in fallback or ()),
        cache=cache.strip(),
        retries=retries,
        prices=_prices(price_input, price_output, price_cached),
    )
    done = write({name: alias}, default=name if default else None)[name]
    out = context.out
    if out.as_json:
        out.document(
            {"name": name, **words.fields(alias), "default": done.default, "replaced": done.before is not None}
        )
        return OK
    verb = "Registered" if done.before is None else "Changed"
    tail = "; it is the default" if done.default else ""
    out.line(f"{verb} {out.paint(name, 'bold')}: {clean(alias.model)}{tail}.")
    if done.before is not None and done.before.model != alias.model:
        out.note(f"It was {clean(done.before.model)}. Runs that have started keep that model; replays use the new one.")
    if done.hidden:
        out.always(f"warning: KITARU_MODEL_REGISTRY has another {name}, which overrides this one.")
    return OK


def _reasoning(text: str | None) -> Effort | int | None:
    from typing import get_args

    from kitaru.runtime.models.alias import Effort

    if text is None:
        return None
    if text.isdecimal():
        return int(text)
    found: Effort | None = next((word for word in get_args(Effort) if word == text.strip().lower()), None)
    if found is None:
        raise UsageError(
            f"--reasoning {text!r} is not known", hint=f"It is {', '.join(get_args(Effort))}, or a number of tokens."
        )
    return found


def _prices(read: str | None, produced: str | None, cached: str | None) -> Any:
    from kitaru.runtime.models.alias import Prices

    if read is None and produced is None and cached is None:
        return None
    if read is None or produced is None:
        raise UsageError("a price is missing", hint="Give both --price-input and --price-output.")
    try:
        return Prices(Decimal(read), Decimal(produced), Decimal(cached) if cached is not None else None)
    except InvalidOperation:
        raise UsageError("a price is no amount", hint="Prices are USD per million tokens, such as 0.05.") from None


@command(
    (MODEL, "list"),
    examples="""
kitaru model list
kitaru model list --provider ollama
kitaru model list --json
""",
    details="Shows the effective registry: the file, overridden by KITARU_MODEL_REGISTRY, with the source of each "
    "alias and of its key. Keys are never shown. With --provider ollama, the models of the server are listed.",
)
def list_models(
    context: Context,
    provider: Annotated[
        str | None,
        typer.Option("--provider", metavar="NAME", help="Only this provider; ollama lists the server's models."),
    ] = None,
) -> int:
    """List the aliases and their models."""
    from kitaru.runtime.models.view import catalogue

    out = context.out
    if provider is not None and provider.strip().lower() == "ollama":
        return _list_ollama(out)
    found = catalogue(provider.strip().lower() if provider is not None else None, lambda: _secrets(context))
    if out.as_json:
        out.document(
            {
                "aliases": [_listed_json(one) for one in found.listed],
                "default": found.default,
                "default_model": found.default_model or None,
                "gateway": found.gateway.url.partition("?")[0] if found.gateway else None,
            }
        )
        return OK
    if not found.listed:
        out.note("No aliases. `kitaru model register NAME --model PROVIDER/MODEL` makes one.")
    rows: list[list[str]] = [["", "NAME", "MODEL", "KEY", "FROM", "MORE"]] if found.listed else []
    colours: list[Sequence[Colour]] = [_DIM]
    for one in found.listed:
        key, colour = words.key_words(one.key)
        source = "models.json" if one.source == "file" else "KITARU_MODEL_REGISTRY"
        more = clean(one.problem) if one.problem else words.more(one.alias)
        rows.append(["*" if one.default else "", one.name, clean(one.alias.model), key, source, more])
        colours.append(["green", "bold", "", colour, "dim", "red" if one.problem else "dim"])
    out.table(rows, colours=colours)
    if found.default_model:
        out.note(f"KITARU_DEFAULT_MODEL={clean(found.default_model)}: calls without model= use this model.")
    if found.gateway is not None:
        out.note(f"All calls go through the gateway at {clean(found.gateway.url.partition('?')[0])}.")
    return OK


def _secrets(context: Context) -> frozenset[str] | None:
    """Names and ids of the secrets in the store; None where it cannot be read, which is no reason to list nothing."""
    from kitaru.runtime.secrets.named import list_secrets

    async def work(runtime: Core) -> frozenset[str]:
        rows = await asyncio.to_thread(list_secrets, runtime=runtime)
        return frozenset(name for row in rows for name in (row.name, row.id))

    try:
        nothing: frozenset[str] = frozenset()
        return with_runtime(context.store, work, absent=nothing)
    except KitaruError:
        return None


def _listed_json(one: Listed) -> dict[str, object]:
    return {
        "name": one.name,
        **words.fields(one.alias),
        "source": one.source,
        "default": one.default,
        "provider": one.route.provider if one.route else None,
        "key": words.key_json(one.key),
        "problem": one.problem or None,
    }


def _list_ollama(out: Output) -> int:
    from kitaru.runtime.models.pull import installed, ollama_server
    from kitaru.runtime.models.view import catalogue

    server = ollama_server()
    models = installed(*server)
    names = {one.route.model: one.name for one in catalogue("ollama").listed if one.route is not None}

    def alias_of(name: str) -> str:
        return names.get(name) or names.get(name.removesuffix(":latest")) or ""

    if out.as_json:
        listed = [
            {
                "name": one.name,
                "size": one.size,
                "modified": one.modified_at,
                "parameters": one.details.parameter_size,
                "quantization": one.details.quantization_level,
                "alias": alias_of(one.name) or None,
            }
            for one in models
        ]
        out.document({"base_url": server[0].partition("?")[0], "models": listed})
        return OK
    if not models:
        out.note("The server holds no model. `kitaru model pull NAME` fetches one.")
        return OK
    rows = [["NAME", "SIZE", "PARAMETERS", "MODIFIED", "ALIAS"]]
    for one in models:
        make = " ".join(part for part in (one.details.parameter_size, one.details.quantization_level) if part)
        rows.append([clean(one.name), volume(one.size), clean(make), clean(one.modified_at)[:10], alias_of(one.name)])
    out.table(rows, colours=[_DIM, *([_MODEL_ROW] * len(models))])
    return OK


@command(
    (MODEL, "show"),
    examples="""
kitaru model show fast
kitaru model show openai/gpt-5-nano
""",
    details="Shows the address, the settings, the fallbacks, the source of the key, and the capabilities of the "
    "provider and model. A call leaves out a best-effort setting that the model lacks, with a warning; a call with a "
    "required one is refused.",
)
def show(context: Context, name: words.ModelName = None) -> int:
    """Show the address, settings and capabilities of a model."""
    from kitaru.runtime.models.view import show as shown

    found = shown(name, lambda: _secrets(context))
    out, route = context.out, found.route
    if out.as_json:
        out.document(
            {
                **words.route_json(route),
                "source": found.source or None,
                "default": found.default,
                "key": words.key_json(found.key),
                "gateway": found.gateway or None,
                "price": words.price_json(found.price),
                "features": {one.name: one.has for one in found.features},
                "docs": found.docs or None,
            }
        )
        return OK
    source = {"file": " (models.json)", "environment": " (KITARU_MODEL_REGISTRY)", "": ""}[found.source]
    default = ", the default" if found.default else ""
    out.line(f"{out.paint(clean(route.alias or route.name), 'bold')}{source}{default}")
    key, colour = words.key_words(found.key)
    rows = [
        ["model", clean(route.name)],
        ["address", clean(words.bare(route.base_url)) + (f" ({words.SOURCES[route.base_url_source]})")],
        ["key", key],
        ["settings", words.settings(route)],
        ["fallbacks", ", ".join(clean(one.alias or one.name) for one in route.fallbacks)],
        ["price", words.price_words(found.price)],
        ["gateway", f"{clean(found.gateway)}: calls go there" if found.gateway else ""],
        ["docs", found.docs],
    ]
    kept = [row for row in rows if row[1]]
    out.table(kept, colours=[["dim", colour if row[0] == "key" else ""] for row in kept], indent=2)
    out.line()
    words.features(out, found.features)
    return OK


@command(
    (MODEL, "default"),
    examples="""
kitaru model default
kitaru model default fast
""",
)
def default(
    context: Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The alias to make the default; without it, print it.")
    ] = None,
) -> int:
    """Print or change the default model."""
    from kitaru.runtime.models.registry import effective, set_default

    out = context.out
    if name is not None:
        set_default(name)
    now = effective().registry
    chosen = now.default_model or now.default
    if out.as_json:
        out.document({"default": now.default, "default_model": now.default_model or None})
        return OK
    if name is not None:
        out.line(f"{out.paint(name, 'bold')} is the default now.")
        if chosen != name:
            variable = "KITARU_DEFAULT_MODEL" if now.default_model else "KITARU_MODEL_REGISTRY"
            out.always(f"warning: {variable} names {clean(chosen or '')}, which overrides this default.")
    elif chosen is not None:
        out.line(clean(chosen))
    else:
        out.note("There is no default. `kitaru model default NAME` chooses one.")
    return OK


@command(
    (MODEL, "remove"),
    examples="""
kitaru model remove fast
kitaru model remove fast --yes
""",
    details="Refused while it is a fallback of another alias. Running runs are not affected. The command asks first; "
    "without a terminal, --yes is needed.",
)
def remove(
    context: Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Remove an alias."""
    from kitaru.runtime.models.registry import remove as take_out

    out = context.out
    if not yes:
        if not (sys.stdin.isatty() and out.err.isatty()):
            raise UsageError(
                f"{name!r} would be removed, and there is no terminal to confirm it on", hint="Pass --yes."
            )
        if not typer.confirm(f"Remove the alias {name}?", err=True):
            out.note("Nothing was removed.")
            return OK
    was_default = take_out(name)
    if out.as_json:
        out.document({"removed": name, "was_default": was_default})
        return OK
    out.line(f"Removed {name}.")
    if was_default:
        out.note("It was the default; there is none now. `kitaru model default NAME` chooses one.")
    return OK
