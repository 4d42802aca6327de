"""A flow that answers a question from a text: plan, searches in parallel, a note on each finding, draft, critique, end.

    $ kitaru run examples/research_writer.py:research_writer --input question="Who may declare war?"

Any model will do: `KITARU_DEFAULT_MODEL` names it. Without a key, `kitaru mock-llm` stands in for one.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import kitaru
from kitaru import checkpoint, flow

MODEL = os.environ.get("KITARU_DEFAULT_MODEL") or "openai/standin"
TEXT = Path(__file__).parent / "data" / "constitution.txt"

PLAN = """\
List the subjects to look up in the Constitution of the United States in order to answer this question.

Question: {question}
"""

NOTE = """\
In two sentences, say what this passage has to say about "{subject}".

{where}:
{passage}
"""

DRAFT = """\
Answer the question from these notes, and from nothing else.

Question: {question}

{notes}
"""

CRITIQUE = """\
Name the weakest point of this answer to the question "{question}".

{draft}
"""

FINAL = """\
Rewrite the answer so that the criticism no longer holds.

Question: {question}

Answer: {draft}

Criticism: {critique}
"""


@dataclass(frozen=True)
class Finding:
    """A passage that speaks of a subject."""

    subject: str
    where: str
    passage: str


@checkpoint
async def subjects(question: str, plan: str, limit: int) -> list[str]:
    """The words of question and plan that the text knows, rarest first."""
    words = re.findall(r"[a-z]{3,}", f"{question} {plan}".lower())
    text = TEXT.read_text(encoding="utf-8").lower()
    times = {word: len(re.findall(rf"\b{word}\b", text)) for word in dict.fromkeys(words)}
    known = sorted((word for word in times if times[word]), key=lambda word: (times[word], word))
    return known[:limit]


@checkpoint
async def search(subject: str) -> Finding:
    """The paragraph that speaks of a subject most, and where it stands."""
    best = Finding(subject, "nowhere", "")
    most, article, section = 0, "", ""
    for paragraph in TEXT.read_text(encoding="utf-8").split("\n\n"):
        head = paragraph.strip()
        if re.fullmatch(r"Article [IVX]+", head):
            article, section = head, ""
        elif re.fullmatch(r"Section \d+", head):
            section = f", {head}"
        else:
            times = len(re.findall(rf"\b{subject}\b", head.lower()))
            if times > most:
                most, best = times, Finding(subject, f"{article}{section}", head)
    return best


async def study(subject: str) -> str:
    """A note on one subject: a search, and a model call on what it found."""
    found = await search(subject)
    prompt = NOTE.format(subject=found.subject, where=found.where, passage=found.passage)
    note = await kitaru.llm(prompt, model=MODEL, name="note")
    return f"{found.where}: {note}"


@flow
async def research_writer(question: str, breadth: int = 5) -> str:
    """Answer a question from the text.

    Args:
        question: What to find out.
        breadth: How many subjects to look up, all at once.
    """
    plan = await kitaru.llm(PLAN.format(question=question), model=MODEL, name="plan")
    found = await subjects(question, plan, breadth)
    kitaru.log(subjects=found)
    notes = await kitaru.map(study, found)
    draft = await kitaru.llm(DRAFT.format(question=question, notes="\n\n".join(notes)), model=MODEL, name="draft")
    critique = await kitaru.llm(CRITIQUE.format(question=question, draft=draft), model=MODEL, name="critique")
    prompt = FINAL.format(question=question, draft=draft, critique=critique)
    return await kitaru.llm(prompt, model=MODEL, name="final")
