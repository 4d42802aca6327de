"""Records that this code cannot turn into values: they leave the run open, for code that can."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from kitaru.errors import DecodeError, StepError, Suspended
from kitaru.store import codec

if TYPE_CHECKING:
    from kitaru.runtime.call import Call
    from kitaru.runtime.execution import Execution
    from kitaru.store.events import BoundaryEvent


def value_of(execution: Execution, call: Call[Any], data: bytes, event: BoundaryEvent) -> object:
    """The value of a recorded outcome.

    Raises:
        Suspended: This code cannot decode it; the run leaves memory.
    """
    try:
        return call.work.value_of(data, event)
    except DecodeError as error:
        raise left_open(execution, f"the outcome of {call.key}, called at {call.where}", error) from None


def failure_of(execution: Execution, call: Call[Any], data: bytes) -> BaseException:
    """A recorded failure.

    Raises:
        Suspended: Its class was the project's and is not there any more, so that no `except` of the flow would fit it;
            the run leaves memory.
    """
    try:
        error = codec.decode_raised(data, module=call.work.module)
        refuse_lost_class(error)
    except DecodeError as unfit:
        raise left_open(execution, f"the failure of {call.key}, called at {call.where}", unfit) from None
    return error


def refuse_lost_class(error: BaseException) -> None:
    """Refuse an exception that stands for one whose class a loaded module of the project no longer has.

    Raises:
        DecodeError: It is such a one.
    """
    if type(error) is not StepError:
        return
    module, _, qualname = error.type_name.partition(":")
    if not qualname or "<locals>" in qualname or module not in sys.modules:
        return
    from kitaru.runtime.code.sources import is_project_module

    value: object = sys.modules[module]
    for part in qualname.split("."):
        value = getattr(value, part, None)
    if value is None and is_project_module(module):
        raise DecodeError(
            f"the recorded exception {qualname} is not in module {module} any more",
            hint="Keep exceptions that recorded runs raised.",
        )


def left_open(execution: Execution, what: str, error: DecodeError) -> Suspended:
    """Have a run leave memory because `what` of its log cannot be decoded. Gives what stops the code that asked."""
    run = execution.run
    execution.stop(
        DecodeError(
            f"run {run} cannot resume with this code: {what}: {error.message}",
            hint=f"{error.hint} The run stays open: `kitaru resume {run}` with code that fits its log.".strip(),
        )
    )
    return Suspended()
