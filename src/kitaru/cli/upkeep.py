"""Looking after the store, and the odds and ends: verify, rebuild, prune, version, the mock model server."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kitaru.cli import wording
from kitaru.cli.commands import Context, command
from kitaru.cli.failures import FAILED, OK
from kitaru.cli.groups import APP
from kitaru.cli.output import clean
from kitaru.cli.session import with_runtime
from kitaru.errors import StoreError, UsageError

if TYPE_CHECKING:
    from kitaru.runtime.core import Core


@command(
    (APP, "verify"),
    examples="""
kitaru verify
kitaru verify last
kitaru verify --write-heads heads.json
kitaru verify --heads heads.json
""",
    details="Checks the digest chain of each run, the artifacts that it names, and SQLite's tables and indexes; says "
    "which of these `kitaru rebuild` makes again. Heads kept elsewhere show a tail that was cut off or a run that was "
    "rewritten. It is no defence against someone who can write both.",
)
def verify(
    context: Context,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Only this run: id, prefix, `last`, `last~1`.")
    ] = None,
    heads: Annotated[
        Path | None, typer.Option("--heads", metavar="FILE", help="Compare with the heads kept in FILE.")
    ] = None,
    write_heads: Annotated[
        Path | None,
        typer.Option("--write-heads", metavar="FILE", help="If the check passes, write the heads to FILE."),
    ] = None,
) -> int:
    """Check the log for alterations."""
    from kitaru.runtime.views.transcript import heads_from_text

    kept = heads_from_text(_read(heads), str(heads)) if heads is not None else []

    async def work(runtime: Core) -> tuple[str | None, list[Any], list[Any]]:
        names = {head.run for head in kept}
        # A run that is gone from the store may still be in the heads.
        name = run if run is None or run in names else await runtime.store.find(run)
        problems = await runtime.store.verify(name, heads=kept)
        try:
            return name, problems, await runtime.store.heads()
        except StoreError:
            if problems:
                return name, problems, []
            raise

    name, problems, found = with_runtime(context.store, work)
    if write_heads is not None and not problems:
        _write(write_heads, [head for head in found if name in (None, head.run)])
    count = 1 if name is not None else len(found) or len({problem.run for problem in problems} - {""})
    out = context.out
    if out.as_json:
        listed = [{"run": p.run or None, "seq": p.seq, "what": p.what} for p in problems]
        out.document({"ok": not problems, "runs": count, "problems": listed})
    elif problems:
        rows = [[clean(p.run) or "store", f"event {p.seq}" if p.seq else "", clean(p.what)] for p in problems]
        out.table(rows, colours=[["bold", "", "red"]] * len(rows))
        out.line(f"✗ {wording.count(len(problems), 'problem')} in {wording.count(count, 'run')}")
    else:
        written = f"; heads written to {write_heads}" if write_heads is not None else ""
        compared = f", {wording.count(len(kept), 'head')} compared" if heads is not None else ""
        out.line(out.paint("✓", "green") + f" {wording.count(count, 'run')} verified{compared}{written}")
    if problems and write_heads is not None:
        out.note(f"No heads were written to {write_heads}.")
    return FAILED if problems else OK


def _read(path: Path) -> str:
    from kitaru.runtime.views.transcript import read_text

    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _write(path: Path, heads: list[Any]) -> None:
    from kitaru.runtime.views.transcript import write_heads

    try:
        write_heads(path, heads)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


@command(
    (APP, "rebuild"),
    examples="kitaru rebuild",
    details="The list of runs, their states and heads are derived from the events and rebuilt from them. A run "
    "whose events cannot all be read is named, and the others are rebuilt. The exit code is then 1.",
)
def rebuild(context: Context) -> int:
    """Rebuild the tables that are derived from the log."""

    async def work(runtime: Core) -> Any:
        return await runtime.store.rebuild()

    count, problems = with_runtime(context.store, work)
    out = context.out
    if out.as_json:
        listed = [{"run": p.run, "seq": p.seq, "what": p.what} for p in problems]
        out.document({"runs": count, "problems": listed})
    else:
        out.line(f"Rebuilt {wording.count(count, 'run')}.")
        for problem in problems:
            out.line(f"✗ {clean(problem.run)}  event {problem.seq}  {clean(problem.what)}")
    return FAILED if problems else OK


@command(
    (APP, "prune"),
    examples="""
kitaru prune --older-than 30d
kitaru prune --older-than 90d --yes
""",
    details="Removes whole finished runs and the artifacts that no other run names; a tombstone with the head's digest "
    "stays. Asks first; without a terminal, --yes is needed.",
)
def prune(
    context: Context,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="PERIOD", help="Runs last changed before: 30d, 12h, 4w.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Remove finished runs that are older than a period."""
    limit = time.time() - wording.period(older_than, "--older-than")
    out = context.out

    async def count(runtime: Core) -> int:
        rows = await runtime.store.runs(status=("completed", "failed", "cancelled"), limit=None)
        return sum(row.updated < limit and not row.live for row in rows)

    async def work(runtime: Core) -> Any:
        return await runtime.store.prune(older_than=limit)

    if not yes:
        found = with_runtime(context.store, count)
        question = f"Remove {wording.count(found, 'finished run')} last touched more than {older_than} ago, for good?"
        if not (sys.stdin.isatty() and out.err.isatty()):
            raise UsageError(
                f"{wording.count(found, 'run')} would be removed, and there is no terminal to confirm it on",
                hint="Pass --yes.",
            )
        if not typer.confirm(question, err=True):
            out.note("Nothing was removed.")
            return OK
    done = with_runtime(context.store, work)
    if out.as_json:
        out.document({"runs": done.runs, "events": done.events, "artifacts": done.artifacts})
    else:
        removed = (done.runs, "run"), (done.events, "event"), (done.artifacts, "artifact")
        said = ", ".join(wording.count(number, noun) for number, noun in removed)
        out.line(f"Removed {said}.")
    return OK


@command((APP, "version"), examples="kitaru version")
def version(context: Context) -> int:
    """Print the version."""
    import platform
    import sqlite3

    from kitaru import __version__

    if context.out.as_json:
        context.out.document(
            {"kitaru": __version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
        )
    else:
        context.out.line(f"kitaru {__version__}")
    return OK


@command(
    (APP, "mock-llm"),
    examples="""
kitaru mock-llm --port 8099
kitaru mock-llm --latency 0.2-0.8 --journal requests.jsonl
kitaru mock-llm --fault '429*2;retry-after=0.1' --fault 'drop;match=draft'
""",
    details="Implements the API of every provider without a model, on the provider's own paths and below /at/PROVIDER, "
    "and counts the requests at /_kitaru/requests. The models gpt-5-nano and o4-mini refuse a temperature and return "
    "thinking. A fault is KIND[*FIRST][;retry-after=SECONDS][;match=REGEX]; kinds: 429, 500, 503, 529, quota, "
    "context, malformed, truncated, html, error-in-200, error-in-stream, drop, slow, hang, refusal, filter, empty, "
    "invalid-json, fenced-json, missing-key, wrong-type, bad-arguments, echo-error, echo-error-400, echo-header, "
    "echo-body, echo-stream. Needs the extra `serve`.",
)
def mock_llm(
    context: Context,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")] = 0,
    latency: Annotated[
        str, typer.Option("--latency", metavar="SECONDS", help="Before each answer: 0.2, or 0.2-0.8.")
    ] = "0",
    fault: Annotated[
        list[str] | None, typer.Option("--fault", metavar="FAULT", help="A fault to simulate; repeatable.")
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option("--journal", metavar="FILE", help="Append a JSON line for each request and each response."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse every field that an API does not know.")] = False,
) -> int:
    """Serve a mock model on a loopback address."""
    from kitaru.runtime.standin import serve_standin

    out = context.out

    def ready(base_url: str) -> None:
        # Any text serves as the key: nothing checks it.
        settings = {
            "OPENAI_BASE_URL": base_url,
            "OPENAI_API_KEY": "none",
            "KITARU_DEFAULT_MODEL": "openai/mock",
        }
        if out.as_json:
            out.document({"base_url": base_url, "environment": settings}, indent=None)
            return
        out.line(base_url)
        out.note("In another shell:")
        out.note("  export " + " ".join(f"{name}={value}" for name, value in settings.items()))
        out.note(f"Other providers' APIs: {base_url.removesuffix('/v1')}/at/PROVIDER")

    serve_standin(
        host, port, latency=_latency(latency), faults=fault or (), journal=journal, strict=strict, ready=ready
    )
    return OK


def _latency(text: str) -> tuple[float, float]:
    low, dash, high = text.partition("-")
    try:
        return float(low), float(high if dash else low)
    except ValueError:
        raise UsageError(f"--latency {text!r} is not a number of seconds", hint="Write 0.2, or 0.2-0.8.") from None
