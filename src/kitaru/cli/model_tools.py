"""Models as they are elsewhere: checking that one answers, fetching one into ollama, importing LiteLLM's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kitaru.cli import model_words as words
from kitaru.cli import wording
from kitaru.cli.commands import Context, command
from kitaru.cli.failures import CREDENTIALS, FAILED, OK
from kitaru.cli.groups import MODEL
from kitaru.cli.output import clean
from kitaru.cli.pulling import Bar, volume

if TYPE_CHECKING:
    from kitaru.runtime.models.litellm_config import Imported


@command(
    (MODEL, "check"),
    examples="""
kitaru model check fast
kitaru model check openai/gpt-5-nano
kitaru model check --gateway
""",
    details="Sends one small request, which costs a few tokens and is not recorded. It distinguishes an unknown host, "
    "a stopped server, a TLS error, a proxy, a missing or wrong key, an unknown model, a base URL without /v1, an "
    "exhausted quota, and a timeout. The exit code is 4 for a missing or wrong key.",
)
def check(
    context: Context,
    name: words.ModelName = None,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="Use KITARU_GATEWAY_URL; without NAME, with a fictional model.")
    ] = False,
) -> int:
    """Send a small request to a model, and explain an error."""
    import anyio

    from kitaru.runtime.models.check import KEY_KINDS, Verdict, key_for, route_to_check
    from kitaru.runtime.models.check import check as checked
    from kitaru.runtime.models.gateway import gateway as gateway_now

    out = context.out
    route = route_to_check(name, through_gateway=gateway)
    if not gateway and gateway_now() is not None:
        out.note("Checked without the gateway, though calls go through it: --gateway checks that way.")

    if context.store is not None:
        os.environ["KITARU_STORE"] = context.store  # where the linked secret is looked for
    credential = key_for(route)

    async def work() -> Verdict:
        return await checked(route, credential.key, bearer=credential.bearer)

    verdict = anyio.run(work)
    if out.as_json:
        out.document(
            {
                "ok": verdict.ok,
                "kind": verdict.kind,
                "message": verdict.message,
                "hint": verdict.hint or None,
                "model": route.name,
                "alias": route.alias or None,
                "base_url": words.bare(route.base_url),
                "seconds": round(verdict.seconds, 3),
                "answered_by": verdict.answered_by or None,
                "warnings": list(verdict.warnings),
            }
        )
    elif verdict.ok:
        by = f" as {clean(verdict.answered_by)}" if verdict.answered_by not in ("", route.model) else ""
        took = f" in {wording.duration(verdict.seconds)}" if verdict.seconds else ""
        out.line(f"{out.paint('✓', 'green')} {clean(verdict.message)}{by}{took}")
        for warning in verdict.warnings:
            out.note(f"  {clean(warning)}")
    else:
        out.error(verdict.kind, verdict.message, verdict.hint or None)
    return OK if verdict.ok else CREDENTIALS if verdict.kind in KEY_KINDS else FAILED


@command(
    (MODEL, "pull"),
    examples="""
kitaru model pull llama3.2:1b
kitaru model pull ollama/llama3.2:1b
""",
    details="The ollama server downloads the model; OLLAMA_HOST is its address. After Ctrl-C, the next pull resumes "
    "the download.",
)
def pull(
    context: Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model in ollama's library, or an alias for one.")],
) -> int:
    """Download a model to ollama."""
    from kitaru.runtime.models.pull import pull as fetch
    from kitaru.runtime.models.pull import to_pull

    out = context.out
    model, base_url, key = to_pull(name)
    bar = Bar(out, model)
    last = None
    with bar:
        for last in fetch(model, base_url, key):
            bar.show(last)
    size = last.total if last is not None else 0
    if out.as_json:
        out.document({"model": model, "base_url": base_url.partition("?")[0], "bytes": size})
    else:
        shown = f" ({volume(size)})" if size else ""
        out.line(f"{out.paint('✓', 'green')} ollama/{clean(model)}{shown}")
    return OK


@command(
    (MODEL, "import"),
    examples="""
kitaru model import litellm_config.yaml --dry-run
kitaru model import litellm_config.yaml
""",
    details="Reads the configuration of a LiteLLM proxy. Several entries with one name become fallbacks, called in "
    "order. Keys are not imported: for each key in the file or in a variable, the command that stores it is printed. "
    "Settings without a counterpart are listed. Needs the extra `litellm`.",
)
def import_litellm(
    context: Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="litellm_config.yaml")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be registered; write nothing.")] = False,
) -> int:
    """Register the models of a LiteLLM configuration."""
    from kitaru.runtime.models.litellm_config import read_config
    from kitaru.runtime.models.registry import effective
    from kitaru.runtime.models.registry import register as write

    out = context.out
    found = read_config(file)
    here = effective()
    replaced = [name for name in found.aliases if here.sources.get(name) == "file"]
    if not dry_run and found.aliases:
        write(found.aliases)
    if out.as_json:
        out.document(_imported_json(found, replaced, written=not dry_run))
        return OK
    rows = [
        ["~" if name in replaced else "+", name, clean(alias.model), words.more(alias)]
        for name, alias in found.aliases.items()
    ]
    out.table(rows, colours=[["green", "bold", "", "dim"]] * len(rows))
    for title, remarks in (("Changed:", found.changed), ("Not mapped:", found.unmapped)):
        if remarks:
            out.line()
            out.line(title)
            out.table([[clean(one.where), clean(one.message)] for one in remarks], indent=2)
    if found.secrets:
        out.line()
        out.line("To do, for the keys:")
        for needed in found.secrets:
            out.line(f"  {clean(needed.command)}")
    count = wording.count(len(found.aliases), "alias").replace("aliass", "aliases")
    out.note(f"{count} would be registered; nothing was written." if dry_run else f"{count} registered.")
    return OK


def _imported_json(found: Imported, replaced: list[str], *, written: bool) -> dict[str, object]:
    return {
        "written": written,
        "aliases": [{"name": name, **words.fields(alias)} for name, alias in found.aliases.items()],
        "replaced": replaced,
        "changed": [{"where": one.where, "message": one.message} for one in found.changed],
        "unmapped": [{"where": one.where, "message": one.message} for one in found.unmapped],
        "secrets": [{"secret": one.secret, "key": one.key, "command": one.command} for one in found.secrets],
    }
