"""Why a boundary may not go on, said to whoever waits for the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kitaru.errors import EffectsError, KitaruError, LiveCallError
from kitaru.runtime.call import Call
from kitaru.runtime.replay import Decision, Record, Verdict

if TYPE_CHECKING:
    from kitaru.runtime.execution import Execution


def refusal(execution: Execution, call: Call[Any], record: Record | None, decision: Decision) -> KitaruError:
    """The error for a decision that forbids a boundary or finds that it diverges."""
    here_ = f"run {execution.run}, boundary {call.key}, {call.where}"
    if decision.verdict is Verdict.FORBID_LIVE:
        return LiveCallError(
            f"{call.work.name} would have to run ({decision.why}): {here_}",
            hint="`--verify` executes nothing. Replay without it to execute the changed steps.",
        )
    if decision.verdict is Verdict.FORBID_EFFECT:
        return EffectsError(
            f"{call.work.name} has effects=True and would have to run again ({decision.why}): {here_}",
            hint=f"Allow it with `--allow-effects {call.work.name}`, or leave its inputs unchanged.",
        )
    assert record is not None
    return execution.history.divergence(call, record, decision.why)
