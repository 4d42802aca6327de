"""Starting runs, going on with them, stopping them, and looking at them."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from kitaru.cli import render, wording
from kitaru.cli.commands import Context, Inputs, Moved, Run, RunId, command
from kitaru.cli.failures import OK
from kitaru.cli.groups import APP, EXECUTIONS
from kitaru.cli.inputs import flow_inputs
from kitaru.cli.output import Output, clean
from kitaru.cli.running import loads, print_result, run_to_end
from kitaru.cli.session import place_of, with_runtime
from kitaru.errors import KitaruError, RunError

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.flow import Flow
    from kitaru.runtime.handle import RunHandle

_TECHNICAL: Final = frozenset({"fingerprint", "code", "kind", "order", "started", "digest"})
_EMPTY: Final[tuple[object, ...]] = (None, "", [], 0)
_LIMIT: Final = 20
_ENDED: Final = frozenset({"completed", "failed", "cancelled", "pruned"})


@command(
    (APP, "run"),
    examples="""
kitaru run flows.py:writer -i topic=tides
kitaru run package.flows:writer --input-json '{"topic": "tides"}'
kitaru run flows.py:writer -i topic=tides --run-id tides-1
""",
    details="The run ID is printed on stderr before the first step, the flow's result on stdout. Ctrl-C parks the run; "
    "`kitaru resume` continues it. A second Ctrl-C ends the process immediately.",
)
def run(
    context: Context,
    flow: Annotated[
        str, typer.Argument(metavar="FLOW", help="`file.py:flow`, `package.module:flow`, or without `:flow`.")
    ],
    inputs: Inputs = None,
    input_json: Annotated[
        str | None,
        typer.Option("--input-json", metavar="JSON", help="Inputs as a JSON object: its text, @FILE, or - for stdin."),
    ] = None,
    run_id: RunId = None,
) -> int:
    """Run a flow and print its result."""
    out = context.out

    async def begin(runtime: Core) -> RunHandle[Any]:
        from kitaru.runtime.loader import load_spec
        from kitaru.runtime.views.inspect import fresh_run_id

        with loads(flow):
            found = load_spec(flow)
        given = flow_inputs(found, inputs or [], input_json)
        bound = found.work.signature.bind_partial()
        bound.arguments.update(given)
        # Told before the flow's first line runs: that line may be the last one that this process gets to.
        name = run_id if run_id is not None else fresh_run_id()
        named = found.options(run_id=name)
        say_begun(out, "Run", name, render.call_of(found.name, given))
        return await runtime.start(named, *bound.args, **bound.kwargs)

    return run_to_end(out, context.store, begin, new=True)


def say_begun(out: Output, verb: str, run: str, called: str, doubts: Sequence[tuple[str, str]] = ()) -> None:
    """Say which run goes now, and what was in doubt before."""
    out.note(f"{verb} {out.paint(run, 'bold', err=True)}  {called}")
    for key, may in doubts:
        word = out.paint(wording.state_word("in doubt"), "yellow", err=True)
        out.note(f"  {word}  {clean(key)}  has no outcome, {may}; it runs again")


async def called(runtime: Core, run: str) -> str:
    """A run's flow with its inputs."""
    from kitaru.runtime.views.inspect import opening_view

    view = await opening_view(runtime, run)
    return render.call_of(view.flow, view.inputs)


@command(
    (APP, "resume"),
    (EXECUTIONS, "resume"),
    examples="""
kitaru resume last
kitaru resume 0199a2f1
kitaru resume 0199a2f1 --flow moved.py:writer
""",
    details="Steps with a recorded outcome do not run again. Steps that were running when the process died do; they "
    "are listed first, because they may have been billed. A completed run prints its result again.",
)
def resume(context: Context, run: Run, flow: Moved = None) -> int:
    """Resume a run that was killed, interrupted or parked."""
    out = context.out
    last = 0

    async def begin(runtime: Core) -> RunHandle[Any] | None:
        from kitaru.runtime.views.inspect import view

        nonlocal last
        name = await runtime.store.find(run)
        row = await runtime.store.run(name)
        last = row.seq
        if row.status == "completed":
            out.note(f"Run {name} is already completed; this is its result.")
            print_result(out, await view(runtime, name))
            return None
        if row.status in ("failed", "cancelled", "pruned"):
            hint = f"Retry it: kitaru retry {name}" if row.status != "pruned" else "`kitaru runs` lists the others."
            raise RunError(f"run {name} is {row.status}; only an unfinished run is resumed", hint=hint)
        found = await flow_behind(runtime, name, flow)
        what, doubts = await called(runtime, name), await in_doubt(runtime, name)
        handle = await runtime.claim_and_resume(name, found)
        say_begun(out, "Resume", name, what, doubts)
        return handle

    return run_to_end(out, context.store, begin, after=lambda: last)


async def in_doubt(runtime: Core, run: str) -> list[tuple[str, str]]:
    """The boundaries that are in doubt before a run is resumed, and what may have happened; afterwards they run."""
    from kitaru.runtime.views.inspect import view

    return [(b.key, render.may_have(b)) for b in (await view(runtime, run)).in_doubt]


async def flow_behind(runtime: Core, run: str, moved: str | None) -> Flow[..., Any]:
    """The flow that a run remembers, loaded, or the one that it became.

    Raises:
        LoadError: Its file raised.
        NotFoundError: Neither its module nor its file is there.
    """
    from kitaru.runtime.loader import flow_of, load_spec
    from kitaru.runtime.views.inspect import flow_ref

    with loads(moved or (await flow_ref(runtime, run)).file):
        return load_spec(moved) if moved else await flow_of(runtime, run)


@command(
    (APP, "retry"),
    (EXECUTIONS, "retry"),
    examples="kitaru retry last",
    details="The failed steps re-execute; all other steps keep their recorded outcome.",
)
def retry(context: Context, run: Run, flow: Moved = None) -> int:
    """Retry a failed or cancelled run."""
    last = 0

    async def begin(runtime: Core) -> RunHandle[Any]:
        nonlocal last
        name = await runtime.store.find(run)
        last = (await runtime.store.run(name)).seq
        handle = await runtime.retry(name, await flow_behind(runtime, name, flow))
        say_begun(context.out, "Retry", name, await called(runtime, name))
        return handle

    return run_to_end(context.out, context.store, begin, after=lambda: last)


@command(
    (APP, "cancel"),
    (EXECUTIONS, "cancel"),
    examples="""
kitaru cancel last
kitaru cancel 0199a2f1 --reason "wrong input"
kitaru cancel 0199a2f1 --now
""",
    details="The flow sees a cancellation, and its cleanup code runs: in the process that runs it, or here if none "
    "does. If its file cannot be loaded, the request is recorded for the next process that has the flow.",
)
def cancel(
    context: Context,
    run: Run,
    reason: Annotated[str, typer.Option("--reason", help="Why; recorded with the run.")] = "",
    now: Annotated[
        bool, typer.Option("--now", help="Close a run that no process runs at once, without its cleanup.")
    ] = False,
    flow: Moved = None,
) -> int:
    """Cancel a run, in this or another process."""

    async def work(runtime: Core) -> tuple[str, str, str]:
        name = await runtime.store.find(run)
        row = await runtime.store.run(name)
        found, why = None, ""
        if not now and not row.live and row.status not in _ENDED:
            try:
                found = await flow_behind(runtime, name, flow)
            except KitaruError as error:
                why = error.message
        await runtime.cancel(name, reason, now=now, flow=found)
        deadline, row = time.monotonic() + 10.0, await runtime.store.run(name)
        # Another process records the end there; a flow that cleans up for long is waited for only here.
        while row.live and row.status not in _ENDED and (runtime.health().live or time.monotonic() < deadline):
            await runtime.store.watch(name, after=row.seq, timeout=1.0)
            row = await runtime.store.run(name)
        return name, row.status, why

    name, status, why = with_runtime(context.store, work)
    if context.out.as_json:
        context.out.document({"run": name, "status": status})
    elif status == "cancelled":
        context.out.line(f"Cancelled {name}.")
    elif why:
        context.out.line(f"Asked {name} to end, but its flow cannot be loaded here: {why}")
        context.out.line("The next process that has the flow cancels it. Without its cleanup, at once:")
        context.out.line(f"  kitaru cancel {name} --now")
    else:
        context.out.line(f"Asked {name} to end; it is {status}. See: kitaru show {name}")
    return OK


@command(
    (APP, "runs"),
    (EXECUTIONS, "list"),
    examples="""
kitaru runs
kitaru runs --status failed --status interrupted --since 2h
kitaru runs --flow writer -n 50 --json
""",
    details="Newest first. `interrupted` are runs whose process died; `stuck` those that took it down too often.",
)
def runs(
    context: Context,
    status: Annotated[
        list[str] | None,
        typer.Option(
            "--status",
            help="running, parked, interrupted, stuck, completed, failed, cancelled, pruned; may be repeated.",
        ),
    ] = None,
    flow: Annotated[str | None, typer.Option("--flow", help="Only runs of this flow.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="PERIOD", help="Only runs started within: 90s, 2h, 7d.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="The most runs to list.")] = _LIMIT,
    cursor: Annotated[str | None, typer.Option("--cursor", metavar="RUN", help="List the runs after this one.")] = None,
) -> int:
    """List runs."""
    from kitaru.runtime.views.listing import STATUSES, Listed, listing

    wanted = ["completed" if name == "done" else name for name in status or []]
    for name in wanted:
        if name not in STATUSES:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(STATUSES)}", param_hint="--status")
    typed = context.store if context.store != os.environ.get("KITARU_STORE") else None
    oldest = time.time() - wording.period(since, "--since") if since is not None else None

    async def work(runtime: Core) -> tuple[list[Listed], bool]:
        before = await runtime.store.find(cursor) if cursor is not None else None
        found = await listing(runtime, status=wanted, flow=flow, since=oldest, limit=limit + 1, before=before)
        return found[:limit], len(found) > limit

    nothing: tuple[list[Listed], bool] = ([], False)
    found, more = with_runtime(context.store, work, absent=nothing)
    if context.out.as_json:
        following = found[-1].id if more else None
        context.out.document({"runs": [one.as_json() for one in found], "cursor": following})
        return OK
    if not found:
        filtered = wanted or flow or since or cursor
        context.out.note("No such runs." if filtered else f"No runs yet in {clean(place_of(context.store))}")
        return OK
    render_listing(context.out, found)
    if more:
        filters = [word for name in status or [] for word in ("--status", name)]
        for option, value in (("--flow", flow), ("--since", since), ("--store", typed)):
            filters += [option, value] if value is not None else []
        filters += ["-n", str(limit)] if limit != _LIMIT else []
        context.out.note(f"More: kitaru runs {shlex.join([*filters, '--cursor', found[-1].id])}")
    return OK


def noted(one: Any) -> str:
    """The note of a run in a list: how long it sleeps first."""
    sleeps = [f"sleeps {wording.until(one.until)}"] if one.until is not None else []
    return clean("; ".join([*sleeps, *([one.note] if one.note else [])]))


def render_listing(out: Output, found: list[Any]) -> None:
    """Runs as a table."""
    costs = any(one.cost is not None for one in found)
    rows = [["RUN", "FLOW", "STATUS", "STARTED", "TIME", "STEPS", *(["COST"] if costs else []), "NOTE"]]
    colours: list[list[Any]] = [["dim"] * len(rows[0])]
    for one in found:
        cost = [wording.money(one.cost)] if costs else []
        rows.append(
            [
                one.short, clean(one.flow), wording.state_word(one.status), wording.age(one.created),
                wording.duration(one.seconds), str(one.steps or ""), *cost, noted(one),
            ]
        )  # fmt: skip
        colours.append(["", "", wording.state_colour(one.status)])
    out.table(rows, colours=colours, keep=3)


@command(
    (APP, "show"),
    (EXECUTIONS, "get"),
    examples="""
kitaru show last
kitaru show last draft_call
kitaru show 0199a2f1 12
""",
    details="A step is named by its name, its key, or the event number in the first column: its inputs, outcome, "
    "prompt and answer are shown. `in doubt` means started without a recorded outcome: it may have been billed.",
)
def show(
    context: Context,
    run: Run,
    step: Annotated[
        str | None, typer.Argument(metavar="STEP", help="A boundary: its name, key, or event number.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every boundary, values such as now() included.")] = False,
) -> int:
    """Show a run, or one of its steps."""
    from kitaru.runtime.views import inspect
    from kitaru.runtime.views.transcript import struct_as_json

    async def work(runtime: Core) -> Any:
        name = await runtime.store.find(run)
        return await (inspect.view(runtime, name) if step is None else inspect.step(runtime, name, step))

    seen = with_runtime(context.store, work)
    if context.out.as_json:
        context.out.document(seen.as_json() if step is None else struct_as_json(seen))
    elif step is None:
        render.show_run(context.out, seen, everything=everything)
    else:
        render.show_step(context.out, seen)
    return OK


@command(
    (APP, "events"),
    examples="""
kitaru events last
kitaru events last --follow
kitaru events last --json | jq '.events[] | select(.type == "LlmCompleted")'
""",
    details="--follow continues until the run has ended; with --json it prints one JSON document a line.",
)
def events(
    context: Context,
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for further events.")] = False,
) -> int:
    """Print a run's log."""
    from kitaru.runtime.views.transcript import event_as_json

    out = context.out

    def print_events(found: list[Any]) -> None:
        for recorded in found:
            shown = event_as_json(recorded)
            if out.as_json:
                out.document(shown, indent=None)
                continue
            seq, at, kind = (shown.pop(name) for name in ("seq", "at", "type"))
            shown.pop("turn")
            key = str(shown.pop("key", ""))
            rest = {n: v for n, v in shown.items() if n == "outcome" or (n not in _TECHNICAL and v not in _EMPTY)}
            row = [f"{seq:>5}", str(at)[11:], f"{kind:<13}", clean(key), out.value(rest, 160)]
            out.table([row], colours=[["dim", "dim", "", "bold", "dim"]])

    async def work(runtime: Core) -> None:
        name = await runtime.store.find(run)
        found, problems = await runtime.store.readable(name)
        if out.as_json and not follow:
            damaged = [{"seq": problem.seq, "problem": problem.what} for problem in problems]
            out.document({"run": name, "events": [event_as_json(one) for one in found], "damaged": damaged})
            return
        print_events(found)
        for problem in problems:
            out.note(f"✗ event {problem.seq}: {clean(problem.what)}")
        after = found[-1].seq if found else 0
        while follow and (await runtime.store.run(name)).status not in _ENDED:
            found = await runtime.store.watch(name, after=after, timeout=1.0)
            print_events(found)
            after = found[-1].seq if found else after
        if follow:
            print_events(await runtime.store.events(name, after=after))

    with_runtime(context.store, work)
    return OK
