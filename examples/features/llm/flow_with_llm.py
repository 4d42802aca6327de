"""Two tracked model calls: the flow asks for a plan, a checkpoint has it written out.

The calls name an alias, `fast`; what it stands for is registered once (see README.md beside this file). Then

    python examples/features/llm/flow_with_llm.py
"""

import sys

import kitaru
from kitaru import checkpoint, flow


@checkpoint
def written_out(subject: str, plan: str) -> str:
    return kitaru.llm(
        f"Here is a plan for a paragraph on {subject}:\n{plan}\nWrite the paragraph.", model="fast", name="paragraph"
    ).ref


@flow
def tracked(subject: str) -> str:
    plan = kitaru.llm(f"Plan a paragraph on {subject}, in three lines.", model="fast", name="plan")
    # The handle itself is handed on, so that the log knows where the plan came from.
    return written_out(subject, plan.ref).ref


def main() -> None:
    run = tracked.run(" ".join(sys.argv[1:]) or "the tides")
    print(run.wait())
    print(f"\nRecorded as {run.id}: kitaru show {run.id}")


if __name__ == "__main__":
    main()
