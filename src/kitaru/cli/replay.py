"""Replaying a run with today's code, and what that did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kitaru.cli import render
from kitaru.cli.commands import Context, Inputs, Moved, Run, RunId, command
from kitaru.cli.failures import OK
from kitaru.cli.groups import APP, EXECUTIONS
from kitaru.cli.inputs import json_inputs, parsed_pairs
from kitaru.cli.output import Output
from kitaru.cli.running import run_to_end, users_code
from kitaru.cli.runs import called, flow_behind
from kitaru.cli.session import with_runtime
from kitaru.errors import ReplayError, UsageError

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.flow import Flow
    from kitaru.runtime.fork import Fork, ReplayOptions
    from kitaru.runtime.handle import RunHandle
    from kitaru.runtime.views.report import ReplayReport


@command(
    (APP, "replay"),
    (EXECUTIONS, "replay"),
    examples="""
kitaru replay last
kitaru replay last --dry-run
kitaru replay last --from draft_call
kitaru replay last --override 'draft_call="Another draft"'
kitaru replay last --input topic=moon --model openai/a=openai/b
kitaru replay last --verify
""",
    details="Starts a new run from RUN: a step with the same name, inputs and code is reused, all others execute. RUN "
    "is not changed. SELECTOR is a name, a key, or an event number as printed by `kitaru show`.",
)
def replay(
    context: Context,
    run: Run,
    from_: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="SELECTOR",
            help="Run this boundary again, and all that started after it; repeatable.",
        ),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--override", metavar="SELECTOR=VALUE", help="Use this outcome, JSON or a text; repeatable."),
    ] = None,
    inputs: Inputs = None,
    keep_code: Annotated[
        bool, typer.Option("--keep-code", help="Reuse outcomes even if the code has changed.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Fail instead of executing; exit 1 at the first difference.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would run; execute and record nothing.")
    ] = False,
    allow_effects: Annotated[
        list[str] | None,
        typer.Option("--allow-effects", metavar="NAME", help="Allow this effects=True checkpoint to run again."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="[A=]B", help="Call model B in place of A, or in place of all models; repeatable."
        ),
    ] = None,
    registry: Annotated[
        str,
        typer.Option(
            "--registry", metavar="current|source", help="The registry of models: the current one, or that of RUN."
        ),
    ] = "current",
    run_id: RunId = None,
    moved: Moved = None,
) -> int:
    """Replay a run: reuse unchanged steps, execute the others."""
    out = context.out
    if verify and dry_run:
        raise UsageError("--verify and --dry-run exclude each other", hint="Choose one.")
    if registry not in ("current", "source"):
        raise UsageError(f"--registry {registry!r} is not known", hint="It is current or source.")
    source = ""

    async def fork(runtime: Core) -> Fork:
        nonlocal source
        source = await runtime.store.find(run)
        flow = await flow_behind(runtime, source, moved)
        return await runtime.replay(source, options(flow, await _models(runtime, source, model or [])), flow)

    def options(flow: Flow[..., Any], models: dict[str, str]) -> ReplayOptions:
        from kitaru.runtime.fork import ReplayOptions

        return ReplayOptions(
            run_id=run_id,
            from_=tuple(from_ or ()),
            overrides=dict(parsed_pairs(override or [], "--override")),
            inputs=json_inputs(flow.work, inputs or []),
            keep_code=keep_code,
            verify=verify,
            dry_run=dry_run,
            allow_effects=tuple(allow_effects or ()),
            model=models,
            registry=registry,
        )

    if dry_run:
        return _dry(context, fork)
    if verify:
        return _verify(context, fork)

    async def begin(runtime: Core) -> RunHandle[Any]:
        made = await fork(runtime)
        out.note(f"Replaying {source} {await called(runtime, source)}  →  {out.paint(made.run, 'bold', err=True)}")
        handle: RunHandle[Any] = made.handle
        return handle

    async def finish(runtime: Core, handle: RunHandle[Any]) -> int:
        from kitaru.runtime.views.inspect import view
        from kitaru.runtime.views.report import report

        _print(out, await report(runtime, source, handle.id), (await view(runtime, handle.id)).result)
        return OK

    # The report says what became of each boundary; the same lines as they come would say it twice.
    return run_to_end(out, context.store, begin, finish=finish, tell=False)


async def _models(runtime: Core, source: str, texts: list[str]) -> dict[str, str]:
    """`--model` arguments: `A=B`, or `B` in place of every model that the run's calls named."""
    from kitaru.runtime.views.inspect import view

    every = [text for text in texts if "=" not in text]
    asked = {b.model for b in (await view(runtime, source)).boundaries if b.kind == "llm"} if every else set()
    pairs = parsed_pairs([text for text in texts if "=" in text], "--model")
    return {**{name: text for text in every for name in asked}, **dict(pairs)}


def _print(out: Output, done: ReplayReport, result: object) -> None:
    if out.as_json:
        out.document({**_as_json(done), "output": result})
        return
    render.show_report(out, done)
    render.show_result(out, done)


def _as_json(done: ReplayReport) -> dict[str, object]:
    from kitaru.runtime.views.transcript import struct_as_json

    return struct_as_json(done)


def _dry(context: Context, fork: Any) -> int:
    from kitaru.runtime.views.report import dry_report

    async def work(runtime: Core) -> ReplayReport:
        return await dry_report(runtime, await fork(runtime))

    with users_code(context.out):
        done = with_runtime(context.store, work)
    if context.out.as_json:
        context.out.document({**_as_json(done), "dry_run": True})
    else:
        render.show_report(context.out, done, dry=True)
    return OK


def _verify(context: Context, fork: Any) -> int:
    from kitaru.runtime.fork import verified

    out = context.out

    async def work(runtime: Core) -> str:
        made = await fork(runtime)
        try:
            await verified(runtime, made)
        except ReplayError:
            raise
        except Exception:
            # The source had failed, and the replay fails the same way: nothing had to run.
            if (await runtime.store.run(made.source)).status != "failed":
                raise
        return str(made.source)

    with users_code(out):
        source = with_runtime(context.store, work)
    if out.as_json:
        out.document({"run": source, "same": True})
    else:
        out.line(f"{out.paint('✓ same', 'green')}  every boundary of {source} is reused")
    return OK
