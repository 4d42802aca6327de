"""Random flows, as data: a spec is a tree of nodes, `[kind, id, ...]`, that `flows.play` plays.

The same seed gives the same spec in every process, whatever its hash seed.
"""

from __future__ import annotations

import json
import random
from typing import Any, Final, TypeAlias

Node: TypeAlias = list[Any]

LEAVES: Final = (
    "step",
    "step",
    "step",
    "sync",
    "big",
    "nested",
    "twins",
    "retry",
    "fail",
    "same",
    "values",
    "submit",
    "nap",
    "own",
    "context",
    "chain",
    "threads",
    "forgotten",
    "generator",
)
BRANCHES: Final = (
    "seq", "seq", "seq", "gather", "gather", "calls", "group", "anyio", "kgather", "kmap", "scope", "orphan", "try",
    "completed", "kcompleted", "first", "hedge", "queue", "cancel", "krace", "waitfor", "ktimeout", "child", "shared",
    "started",
)  # fmt: skip
OF_TIMERS: Final = frozenset({"waitfor"})
"""A timer of the flow's own decides something: kept out of races, whose order it would leave undefined."""
RACES: Final = frozenset({"completed", "kcompleted", "first", "hedge", "queue", "cancel", "krace"})
"""What the flow builds depends on the order of live outcomes, until that is recorded."""
FAILING: Final = "raise"


class Maker:
    """Makes one spec."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.count = 0

    def fresh(self) -> int:
        self.count += 1
        return self.count

    def leaf(self, *, failing: bool) -> Node:
        kind = FAILING if failing and self.random.random() < 0.25 else self.random.choice(LEAVES)
        return [kind, self.fresh(), self.random.randint(1, 3)]

    def node(self, depth: int, *, racing: bool = False, failing: bool = False) -> Node:
        """A node at most `depth` deep. `racing`: it stands in a race. `failing`: it may raise."""
        if depth <= 0 or self.random.random() < 0.3:
            return self.leaf(failing=failing)
        kind = self.random.choice(BRANCHES)
        while racing and kind in OF_TIMERS:
            kind = self.random.choice(BRANCHES)
        number, few = self.fresh(), self.random.randint(2, 4)
        if kind in ("calls", "kmap", "kcompleted", "queue", "waitfor", "ktimeout", "shared"):
            return [kind, number, few, self.random.randint(0, 5)]
        inside = racing or kind in RACES
        if kind in ("scope", "child", "started", "krace"):
            few = 1
        elif kind in ("orphan", "cancel"):
            few = 2
        if kind == "try":
            return [kind, number, [self.node(depth - 1, racing=inside, failing=True)]]
        if kind == "hedge" and self.random.random() < 0.3:
            return [kind, number, [self.node(depth - 1, racing=inside), ["never", self.fresh(), 1]]]
        return [kind, number, [self.node(depth - 1, racing=inside, failing=failing) for _ in range(few)]]


def spec_of(seed: int) -> Node:
    """The flow of a seed. One in six is a sync flow, one in twenty may fail."""
    maker = Maker(seed)
    choice = maker.random.random()
    if choice < 1 / 6:
        kinds = (
            "step",
            "sync",
            "big",
            "nested",
            "retry",
            "fail",
            "values",
            "submit",
            "pool",
            "nap",
            "child",
            "started",
            "handles",
            "own",
            "context",
            "chain",
            "threads",
        )
        steps: list[Node] = []
        for _ in range(maker.random.randint(2, 6)):
            kind = maker.random.choice(kinds)
            number = maker.fresh()
            steps.append(
                [kind, number, [maker.node(1)] if kind in ("child", "started") else maker.random.randint(2, 4)]
            )
        return ["thread", 0, steps]
    failing = choice > 0.95
    few = maker.random.randint(1, 3)
    return ["seq", 0, [maker.node(maker.random.randint(1, 3), failing=failing) for _ in range(few)]]


def kinds_of(spec: Node) -> set[str]:
    """The kinds of nodes in a spec."""
    kind, _, more = spec[:3]
    found = {str(kind)}
    if isinstance(more, list):
        for node in more:
            found |= kinds_of(node)
    return found


def raises_of(spec: Node) -> int:
    """How many nodes of a spec raise."""
    kind, _, more = spec[:3]
    return int(kind == FAILING) + (sum(map(raises_of, more)) if isinstance(more, list) else 0)


def timed(spec: Node) -> bool:
    """Whether the result depends on which of several live outcomes, or failures, comes first."""
    return bool(kinds_of(spec) & RACES) or raises_of(spec) > 1


def smaller(spec: Node) -> list[Node]:
    """Specs with a part of this one left out, the smallest first."""
    kind, number, more, *rest = spec
    found: list[Node] = []
    if not isinstance(more, list):
        return found
    if kind != "thread":
        found += [node for node in more if isinstance(node, list)]
    if len(more) > 1 and kind not in ("orphan", "cancel"):
        found += [[kind, number, more[:at] + more[at + 1 :], *rest] for at in range(len(more))]
    for at, node in enumerate(more):
        found += [[kind, number, [*more[:at], less, *more[at + 1 :]], *rest] for less in smaller(node)]
    return sorted(found, key=lambda one: len(json.dumps(one)))
