"""What model calls cost: `kitaru costs`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from kitaru.cli import wording
from kitaru.cli.commands import Context, command
from kitaru.cli.failures import OK
from kitaru.cli.groups import APP
from kitaru.cli.output import Colour, Output, clean, width_of
from kitaru.cli.session import place_of, with_runtime
from kitaru.cli.wording import UNKNOWN, money

if TYPE_CHECKING:
    from decimal import Decimal

    from kitaru.runtime.core import Core
    from kitaru.runtime.views.costs import By, CostRow, Costs

_COLUMNS: Final = ("CALLS", "REUSED", "INPUT", "CACHED", "OUTPUT", "COST", "SAVED")
_NAMED: Final = 3


@command(
    (APP, "costs"),
    examples="""
kitaru costs
kitaru costs --by flow --since 7d
kitaru costs --by day --json | jq '.rows[] | {name, cost}'
""",
    details="COST is the certain cost of all answers, including unusable ones. SAVED is the original cost of the calls "
    "that replays reused. Calls that may have been billed, and answers without a known price, are listed below the "
    "table. Calls of pruned runs are not included. Days are UTC.",
)
def costs(
    context: Context,
    by: Annotated[str, typer.Option("--by", metavar="WHAT", help="model, flow, run, day, or alias.")] = "model",
    since: Annotated[
        str | None, typer.Option("--since", metavar="PERIOD", help="Only calls that ended within: 90s, 2h, 7d.")
    ] = None,
) -> int:
    """Show the cost of model calls."""
    from kitaru.runtime.views.costs import BY, nothing
    from kitaru.runtime.views.costs import costs as read
    from kitaru.runtime.views.transcript import iso, struct_as_json

    if by not in BY:
        raise typer.BadParameter(f"{by!r} is not one of {', '.join(BY)}", param_hint="--by")
    oldest = time.time() - wording.period(since, "--since") if since is not None else None

    async def work(runtime: Core) -> Costs:
        return await read(runtime, by=cast("By", by), since=oldest)

    found = with_runtime(context.store, work, absent=nothing(cast("By", by)))
    if context.out.as_json:
        shown = struct_as_json(found)
        unpriced = [{"model": model, "answers": number} for model, number in found.unpriced]
        context.out.document({**shown, "unpriced": unpriced, "since": iso(oldest) if oldest is not None else None})
    elif not found.rows:
        place = clean(place_of(context.store))
        context.out.note(f"No model calls yet in {place}" if since is None else "No such model calls.")
        for note in _notes(found):
            context.out.note(note)
    else:
        _show(context.out, found)
    return OK


def _show(out: Output, found: Costs) -> None:
    rows = [[found.by.upper(), *_COLUMNS], *(_cells(row) for row in found.rows)]
    colours: list[Sequence[Colour]] = [["dim"] * len(rows[0])]
    colours += [["bold"] for _ in found.rows]
    if len(found.rows) > 1:
        rows.append(_cells(found.total))
        colours.append(["dim", "", "", "", "", "", "bold"])
    widths = [max(width_of(row[at]) for row in rows) for at in range(len(rows[0]))]
    aligned = [
        [row[0], *(" " * (widths[at] - width_of(cell)) + cell for at, cell in enumerate(row) if at)] for row in rows
    ]
    out.table(aligned, colours=colours)
    for note in _notes(found):
        out.line(note)


def _cells(row: CostRow) -> list[str]:
    return [
        clean(row.name) or "(none)", str(row.calls), str(row.reused), tokens(row.input), tokens(row.cached),
        tokens(row.output), money(row.cost), money(row.saved or None),
    ]  # fmt: skip


def _notes(found: Costs) -> list[str]:
    total, notes = found.total, []
    if total.unpriced:
        models = [clean(model) for model, _ in found.unpriced]
        more = f" and {len(models) - _NAMED} more" if len(models) > _NAMED else ""
        notes.append(f"{wording.count(total.unpriced, 'answer')} unpriced ({', '.join(models[:_NAMED])}{more})")
    if total.possible:
        notes.append(f"{wording.count(total.possible, 'attempt')} possibly billed{_possible(total)}")
    if total.unanswered:
        notes.append(f"{wording.count(total.unanswered, 'call')} without a usable answer")
    if found.damaged:
        runs = ", ".join(map(clean, found.damaged[:_NAMED]))
        more = f" and {len(found.damaged) - _NAMED} more" if len(found.damaged) > _NAMED else ""
        notes.append(f"not all of it: the logs of {runs}{more} are damaged (`kitaru verify`)")
    if found.prices:
        notes.append(f"prices {', '.join(map(clean, found.prices))}")
    return notes


def _possible(total: CostRow) -> str:
    cost: Decimal | None = total.possible_cost
    if cost is None:
        return ": nobody knows how much"
    unknown = f", {total.possible_unknown} of them unknown" if total.possible_unknown else ""
    return f": about {money(cost)} more at most{unknown}"


def tokens(number: int | None) -> str:
    """A number of tokens in words."""
    if number is None:
        return UNKNOWN
    if number < 10_000:
        return str(number)
    return f"{number / 1000:.0f}k" if number < 999_500 else f"{number / 1e6:.1f}M"
