"""Printing what a run or a step came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kitaru.cli.commands import Context, Run, command
from kitaru.cli.failures import OK
from kitaru.cli.groups import APP
from kitaru.cli.running import print_value, run_failure
from kitaru.cli.session import with_runtime

if TYPE_CHECKING:
    from kitaru.runtime.core import Core


@command(
    (APP, "result"),
    examples="""
kitaru result last
kitaru result last draft_call
kitaru result last --raw > draft.md
""",
    details="The value is printed whole: a text without its control characters, all else as JSON. STEP is a name, a "
    "key, or an event number, as `kitaru show` prints it.",
)
def result(
    context: Context,
    run: Run,
    step: Annotated[
        str | None, typer.Argument(metavar="STEP", help="A step, for its outcome; the run's result without it.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="A text exactly as it was recorded, without a line break after it.")
    ] = False,
) -> int:
    """Print the result of a run, or the outcome of one of its steps."""
    from kitaru.runtime.views.transcript import struct_as_json

    async def work(runtime: Core) -> Any:
        from kitaru.runtime.views import inspect, results

        name = await runtime.store.find(run)
        failed = run_failure(await inspect.view(runtime, name)) if step is None else None
        if failed is not None:
            raise failed
        return await results.result(runtime, name, step)

    found = with_runtime(context.store, work)
    if context.out.as_json:
        context.out.document(struct_as_json(found))
    elif raw and isinstance(found.result, str):
        context.out.raw(found.result)
    else:
        print_value(context.out, found.result)
    return OK
