"""Runs, boundaries and replays on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kitaru.cli import wording
from kitaru.cli.output import Colour, Output, clean, width_of
from kitaru.cli.wording import UNKNOWN, duration, money, state_colour, state_word

if TYPE_CHECKING:
    from kitaru.runtime.views.inspect import BoundaryView, RunView, StepView
    from kitaru.runtime.views.report import ReplayReport
    from kitaru.runtime.views.shown import Failure

_MANY: Final = 12
_FIRST: Final = 4
_LAST: Final = 3
_INDENT: Final = 2


def short_path(file: str) -> str:
    """A file relative to the working directory, where it lies below it."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file


def where(failure: Failure) -> str:
    """The source line of a failure: `flow.py:41  page = await fetch(url)`."""
    if not failure.file:
        return ""
    return clean(f"{short_path(failure.file)}:{failure.line}") + (f"  {clean(failure.code)}" if failure.code else "")


def type_of(failure: Failure) -> str:
    """The type of a failure, without the module where that says nothing."""
    return failure.type.removeprefix("kitaru.errors.").removeprefix("__main__.")


def what(failure: Failure, *, first_line: bool = False) -> str:
    """A failure's type and message, or the first line of the message, on one line."""
    message = failure.message.partition("\n")[0] if first_line else failure.message
    return clean(f"{type_of(failure)}: {message}" if message else type_of(failure))


def call_of(flow: str, inputs: object) -> str:
    """A flow with its inputs: `writer(topic="tides")`."""
    named = inputs.items() if isinstance(inputs, dict) else ()
    return f"{clean(flow)}({', '.join(f'{clean(name)}={wording.value(item, 40)}' for name, item in named)})"


# -- one run -----------------------------------------------------------------------------------------------------------


def show_run(out: Output, view: RunView, *, everything: bool = False) -> None:
    """A run: its state, inputs, boundaries, failure, and the command that helps."""
    from kitaru.runtime.views.transcript import iso

    head = [clean(view.flow), view.id, state_word(view.status), iso(view.created).replace("T", " ")[:19] + "Z"]
    colours: list[Colour] = ["bold", "", state_colour(view.status)]
    if view.status in ("completed", "failed", "cancelled"):
        head.append(duration(view.seconds))
    out.table([head], colours=[colours], keep=3)
    if view.damage:
        out.line(f"  {out.paint('✗ damaged', 'red')}  {view.damage} and is left out here (`kitaru verify {view.id}`)")
    facts = [("input", out.value(view.inputs))]
    if view.metadata:
        facts.append(("log", _metadata(out, view.metadata)))
    if view.source:
        facts.append(("replay", f"of {view.source}"))
    if view.parent:
        facts.append(("child", f"of {view.parent}"))
    if view.cost is not None:
        facts.append(("cost", money(view.cost)))
    out.table(facts, indent=_INDENT, colours=[["dim"]] * len(facts))
    _boundaries(out, view.boundaries, everything=everything)
    for note in view.deviations:
        out.line(f"  order   {clean(note)}")
    if view.status == "completed" and not (view.damage and view.result is None):
        result = out.value(view.result)
        out.table([("result", result)], indent=_INDENT, colours=[["dim"]])
        if out.width is not None and _INDENT + len("result  ") + width_of(result) > out.width:
            out.line(f"  whole: kitaru result {view.id}")
    if view.failure is not None:
        out.table([("error", what(view.failure))], indent=_INDENT, colours=[["dim", "red"]])
        if view.failure.file:
            out.table([("at", where(view.failure))], indent=_INDENT, colours=[["dim"]])
    elif view.note:
        out.line(f"  {'reason':<6}  {clean(view.note)}")
    if doubtful := view.in_doubt:
        calls = wording.count(len(doubtful), "call" if all(b.kind == "llm" for b in doubtful) else "step")
        then = ", and will run again on resume" if view.status in ("interrupted", "parked", "stuck") else ""
        may = " or ".join(sorted({may_have(b) for b in doubtful}))
        out.line(f"  {calls} in doubt: started, no outcome recorded; {may}{then}")
    if view.help:
        out.line(f"  {view.help}")


def _boundaries(out: Output, boundaries: Sequence[BoundaryView], *, everything: bool) -> None:
    from kitaru.runtime.views.inspect import VALUES
    from kitaru.runtime.views.measures import DONE

    shown = [b for b in boundaries if everything or b.kind not in VALUES]
    rows: list[Sequence[str]] = []
    colours: list[Sequence[Colour]] = []

    def add(boundary: BoundaryView) -> None:
        rows.append(
            [
                str(boundary.seq),
                "  " * boundary.depth + clean(boundary.key.rpartition("/")[2] if boundary.depth else boundary.key),
                state_word(boundary.state),
                duration(boundary.seconds),
                ", ".join(part for part in (_details(out, boundary), *_warnings(boundary)) if part),
            ]
        )
        colours.append(["dim", "", state_colour(boundary.state), "", "dim"])

    at = 0
    while at < len(shown):
        stretch = at
        while stretch < len(shown) and shown[stretch].state in DONE:
            stretch += 1
        if not everything and out.width is not None and stretch - at > _MANY:
            for boundary in shown[at : at + _FIRST]:
                add(boundary)
            rows.append(["…", f"{stretch - at - _FIRST - _LAST} more done", "(--all)"])
            colours.append(["dim", "dim", "dim"])
            at = stretch - _LAST
        for boundary in shown[at : max(stretch, at + 1)]:
            add(boundary)
        at = max(stretch, at + 1)
    out.table(rows, colours=colours, indent=_INDENT, keep=3)


def _details(out: Output, b: BoundaryView) -> str:
    parts = []
    if b.llm is not None:
        parts.append(clean(b.llm.model))
        usage = b.llm.usage
        if usage.input is not None or usage.output is not None:
            parts.append(f"{_number(usage.input)}+{_number(usage.output)} tokens")
        if b.cost is not None:
            parts.append(f"was {money(b.cost)}" if b.state == "reused" else money(b.cost))
        if len(b.llm.attempts) > 1:
            parts.append(wording.count(len(b.llm.attempts), "attempt"))
    elif b.model:
        parts.append(clean(b.model))
        if b.cost is not None:
            parts.append(money(b.cost))
    if b.attempt > 1:
        parts.append(wording.count(b.attempt, "attempt"))
    if b.tools:
        parts.append("calls " + ", ".join(clean(name) for name in b.tools))
    if b.state == "waiting" and b.deadline is not None:
        parts.append(wording.until(b.deadline))
    if b.child:
        parts.append(f"child run {b.child}")
    if b.state == "reused":
        parts.append(f"from {b.reused_from}" + (f", there {clean(b.moved_from)}" if b.moved_from else ""))
    if b.state == "in doubt":
        parts.append(may_have(b))
    if b.state == "cancelled":
        parts.append("by the flow" if b.seconds is not None else "with the run")
    if b.failure is not None:
        parts.append(what(b.failure))
    if b.outcome_size and b.state in ("done", "reused", "overridden") and b.kind not in ("llm", "sleep", "timer"):
        parts.append(wording.size(b.outcome_size) + (f" → artifact {b.artifact[:6]}" if b.artifact else ""))
    if b.metadata:
        parts.append(_metadata(out, b.metadata))
    return ", ".join(parts)


def may_have(b: BoundaryView) -> str:
    """What a boundary that is in doubt may have done."""
    return "may have been billed" if b.kind == "llm" else "may have had effects"


def _warnings(b: BoundaryView) -> list[str]:
    return [f"warning: {clean(text)}" for text in b.llm.warnings] if b.llm is not None else []


def _cost(b: BoundaryView) -> str:
    """What a call cost, and who says so."""
    llm = b.llm
    if llm is None or b.cost is None:
        return UNKNOWN
    said = {"provider": "as the provider says", "alias": "by the alias's prices", "table": "by the price table"}
    source = said.get(llm.cost_source, "")
    if source and llm.price_version:
        source += f" {clean(llm.price_version)}"
    return f"{money(b.cost)}, {source}" if source else money(b.cost)


def _number(count: int | None) -> str:
    return UNKNOWN if count is None else str(count)


def _metadata(out: Output, metadata: dict[str, object]) -> str:
    return " ".join(f"{clean(name)}={out.value(item, 60)}" for name, item in metadata.items())


# -- one boundary ------------------------------------------------------------------------------------------------------


def show_step(out: Output, step: StepView) -> None:
    """A boundary: what it was given, what it gave, and its attempts."""
    b = step.boundary
    state = out.paint(state_word(b.state), state_colour(b.state))
    out.line(f"{out.paint(clean(b.key), 'bold')}  {state}  {duration(b.seconds)}  {_details(out, b)}".rstrip())
    facts = [("run", step.run), ("event", str(b.seq)), ("kind", b.kind)]
    if b.llm is not None:
        facts += [
            ("answered by", clean(b.llm.answered_by)),
            ("finish", clean(b.llm.finish)),
            ("request id", clean(b.llm.request_id) or UNKNOWN),
            ("credential", b.llm.credential),
            ("cost", _cost(b)),
        ]
        facts += [("warning", clean(text)) for text in b.llm.warnings]
    if isinstance(step.settings, dict):
        facts += [("settings", out.value(step.settings))]
    out.table(facts, indent=_INDENT, colours=[["dim"]] * len(facts))
    if step.messages:
        for message in step.messages:
            _message(out, str(message.get("role", "")), message)
    else:
        _section(out, "inputs", step.inputs)
    if b.state in ("done", "reused", "overridden"):
        said = step.outcome.get("message") if b.kind == "llm" and isinstance(step.outcome, dict) else None
        if isinstance(said, dict) and isinstance(step.outcome, dict) and "finish" in step.outcome:
            _message(out, "answer", said)
        else:
            _section(out, "answer" if b.kind == "llm" else "outcome", step.outcome)
    for number, attempt in enumerate(step.attempts, 1):
        said = attempt.error or f"HTTP {attempt.status}"
        billed = ", may have been billed" if attempt.possibly_billed else ""
        parts = [f"  attempt {number}", duration(attempt.seconds), clean(said) + billed, clean(attempt.request_id)]
        out.line("  ".join(parts).rstrip())
    for number, failure in enumerate(step.failures, 1):
        out.line(f"  failure {number}  {what(failure)}")
    if step.traceback and b.state != "done":
        _section(out, "traceback", step.traceback)


def _message(out: Output, title: str, message: Mapping[str, object]) -> None:
    """A message of a conversation, with the tools that it calls."""
    from kitaru.runtime.views.transcript import called_in

    called = called_in(message)
    if name := message.get("name"):
        title = f"{title} {name}"
    if (content := message.get("content")) or not called:
        _section(out, title, content if content is not None else "")
    else:
        out.line()
        out.line(out.paint(clean(title), "dim"))
    for tool, arguments in called:
        out.line(f"→ {clean(tool)}({clean(arguments)})")


def _section(out: Output, title: str, content: object) -> None:
    out.line()
    out.line(out.paint(clean(title), "dim"))
    out.text(content if isinstance(content, str) else out.json_text(content, indent=2))


# -- a replay ----------------------------------------------------------------------------------------------------------


def show_report(out: Output, report: ReplayReport, *, dry: bool = False) -> None:
    """What a replay reused and executed, beside its source."""
    rows: list[Sequence[str]] = []
    colours: list[Sequence[Colour]] = []
    costs = any(line.cost is not None or line.was_cost is not None for line in report.lines)
    for line in report.lines:
        if line.kind == "log" and line.output in ("same", ""):
            continue  # metadata, written again as it was
        why = line.why
        if line.verdict == "executed" and line.output in ("same", "changed"):
            why = f"{why}, output {line.output}"
        elif line.moved_from:
            why = f"was {clean(line.moved_from)}"
        was = f"was {duration(line.was_seconds)}" if line.was_seconds is not None else ""
        row = [f"{wording.STATES[line.verdict][0]} {clean(line.key)}", line.verdict]
        row.append(duration(line.seconds) if line.seconds is not None else "")
        row.append(was)
        if costs:
            row.append(listed_costs(line.cost, line.was_cost))
        rows.append([*row, why])
        colour = state_colour(line.verdict)
        colours.append([colour, colour, "", "dim", *(["dim"] if costs else []), "dim"])  # type: ignore[list-item]  # a literal
    out.table(rows, colours=colours, indent=_INDENT)
    verdicts = [line.verdict for line in report.lines if line.kind != "log"]
    counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    said = ", ".join(f"{number} {verdict}" for verdict, number in counts.items()) or "no boundaries"
    if dry:
        out.line(f"Dry run: {said}. Nothing was executed or recorded.")
        return
    out.line(
        f"Done in {duration(report.seconds)} (source {duration(report.source_seconds)}). {said}.{_savings(report)}"
    )


def show_result(out: Output, report: ReplayReport) -> None:
    """Whether a replay's result is the source's, and where they differ."""
    if report.result == "same":
        out.line(f"Result same as the source's:  kitaru show {report.run}")
        return
    out.line(f"Result changed:  kitaru result {report.run}")
    from kitaru.runtime.views.difference import differences

    whole = {} if out.width is not None else {"most": sys.maxsize, "longest": sys.maxsize}
    for text in differences(report.source_output, report.output, **whole):
        out.line(f"  {clean(text)}")


def listed_costs(cost: object, was: object) -> str:
    """`$0.0034   was $0.0048`."""
    now = money(cost) if cost is not None else ""  # type: ignore[arg-type]  # a Decimal or None
    before = f"was {money(was)}" if was is not None else ""  # type: ignore[arg-type]  # a Decimal or None
    return " ".join(part for part in (now, before) if part)


def _savings(report: ReplayReport) -> str:
    saved = duration(report.saved_seconds) if report.saved_seconds >= 0.001 else ""
    amount = money(report.saved) if report.saved else ""
    both = " and ".join(part for part in (amount, saved) if part)
    spent = f" Spent {money(report.spent)}." if report.spent else ""
    return spent + (f" Saved {both}." if both else "")
