"""The table of edits: which boundaries a replay executes after each, and what it makes of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kitaru import Runtime
from kitaru.adapters.standin import Options, Rule, StandInServer
from tests.runtime.replay import noted
from tests.runtime.replay.project import Project

WRITER = '''
PROMPT = "Find {topic}"
SHORTEST = 3


def clean(text):
    return text.strip().lower()


def signed(mark):
    @checkpoint
    async def sign(text):
        ran("sign")
        return text + mark

    return sign


sign = signed("!")


@dataclass
class Agent:
    mood: str = "calm"

    @checkpoint
    async def review(self, text):
        ran("review")
        return self.tone(text)

    def tone(self, text):
        return f"{text} ({self.mood})"


@checkpoint(retries=1, backoff=0.01)
async def search(topic):
    """Look for a topic."""
    ran("search")
    found = PROMPT.format(topic=topic)
    # Short ones are of no use.
    return clean(found) if len(found) > SHORTEST else ""


@checkpoint
async def shorten(text, longest=60):
    ran("shorten")
    return text[:longest]


@flow
async def writer(topic):
    found = await search(topic)
    outline = await kitaru.llm(f"Outline it: {found}", model="openai/stand-in", name="outline")
    short = await shorten(outline)
    reviewed = await Agent().review(short)
    done = await sign(reviewed)
    text = await kitaru.llm(f"Write it: {done}", model="openai/stand-in", name="draft")
    return f"{text}"
'''

ORDER = ["search", "outline", "shorten", "review", "sign", "draft"]
RULES = (
    Rule(r"Outline it: (.*)", r"outline of \1"),
    Rule(r"(?i)(?:plan|sketch) it: (.*)", r"outline of \1"),
    Rule(r"Write it: (.*)", r"text from \1"),
    Rule(r"Write it well: (.*)", r"good text from \1"),
)


class Edit(NamedTuple):
    """An edit, what a replay executes after it, and what the flow then gives."""

    what: str
    old: str
    new: str
    executed: list[str]
    result: str = "text from outline of find tides (calm)!"


EDITS = [
    Edit("nothing", "ran", "ran", []),
    Edit(
        "the last prompt", "Write it: {done}", "Write it well: {done}", ["draft"],
        "good text from outline of find tides (calm)!",
    ),
    Edit("a prompt whose answer stays", "Outline it: {found}", "Sketch it: {found}", ["outline"]),
    Edit("a comment", "# Short ones are of no use.", "# Nobody reads short ones.", []),
    Edit("a docstring", "Look for a topic.", "Search for a topic.", []),
    Edit("formatting", "clean(found) if len(found) > SHORTEST", "clean( found ) if len( found ) > SHORTEST", []),
    Edit("positions", "PROMPT =", "\n\n\nPROMPT =", []),
    Edit(
        "a helper", "text.strip().lower()", "text.strip().upper()", ORDER,
        "text from outline of FIND TIDES (calm)!",
    ),
    Edit("a helper whose value stays", "text.strip().lower()", "text.lower().strip()", ["search"]),
    Edit("a prompt constant", "Find {topic}", "Seek {topic}", ORDER, "text from outline of seek tides (calm)!"),
    Edit("a constant that changes nothing", "SHORTEST = 3", "SHORTEST = 4", ["search"]),
    Edit("a closure value", 'signed("!")', 'signed("?")', ["sign", "draft"], "text from outline of find tides (calm)?"),
    Edit("a decorator option", "retries=1", "retries=2", []),
    Edit(
        "a method", "({self.mood})", "[{self.mood}]", ["review", "sign", "draft"],
        "text from outline of find tides [calm]!",
    ),
    Edit("a method whose value stays", 'f"{text} ({self.mood})"', 'text + f" ({self.mood})"', ["review"]),
    Edit(
        "what self is", 'mood: str = "calm"', 'mood: str = "glad"', ["review", "sign", "draft"],
        "text from outline of find tides (glad)!",
    ),
    Edit(
        "a default", "longest=60", "longest=15", ["shorten", "review", "sign", "draft"],
        "text from outline of find (calm)!",
    ),
    Edit("a default whose value stays", "longest=60", "longest=50", ["shorten"]),
    Edit(
        "a checkpoint's body", "return text + mark", 'return text + mark + "."', ["sign", "draft"],
        "text from outline of find tides (calm)!.",
    ),
    Edit("the flow's own code", 'f"{text}"', 'f"Said: {text}"', [], "Said: text from outline of find tides (calm)!"),
    Edit("an unrelated function", "class Agent:", "class Other:\n    pass\n\n\n@dataclass\nclass Agent:", []),
]  # fmt: skip


@pytest.fixture(scope="module")
def answers() -> Iterator[StandInServer]:
    """One model server for the whole table."""
    with StandInServer(Options(rules=RULES)) as server:
        yield server


def synchronous(text: str) -> str:
    """The same as sync code."""
    return text.replace("async def", "def").replace("await ", "")


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("edit", EDITS, ids=[edit.what for edit in EDITS])
async def test_a_replay_executes_exactly_what_an_edit_concerns(
    edit: Edit,
    sync: bool,
    tmp_path: Path,
    runtime: Runtime,
    answers: StandInServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", answers.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    project = Project(tmp_path, runtime)
    project.load(synchronous(WRITER) if sync else WRITER)
    assert await project.run("writer", "tides") == EDITS[0].result
    assert noted.taken() == ["review", "search", "shorten", "sign"]
    answers.reset()

    if edit.old != edit.new:
        project.edit((synchronous(edit.old), synchronous(edit.new)) if sync else (edit.old, edit.new))
    seen = await project.replay("writer")

    assert seen.result == edit.result
    assert seen.executed == sorted(edit.executed)
    assert seen.with_verdict("reused") == sorted(set(ORDER) - set(edit.executed))
    assert seen.ran == sorted(set(edit.executed) - {"outline", "draft"})
    assert answers.counts.total == len({"outline", "draft"} & set(edit.executed))
    same = edit.result == EDITS[0].result
    assert seen.report.result == ("same" if same else "changed")
    assert set(seen.outputs.values()) <= ({"same"} if same else {"changed"})
