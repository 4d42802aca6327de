"""Answers without a model: readable, made from the prompt's own words, the same for the same prompt."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from kitaru.adapters.standin.options import Rule

_COMMON: Final = frozenset(
    re.findall(
        r"\w+",
        """
        about above after again also because been before being below between both could does doing down during each from
        further give have having here into itself just like make more most must only other over please same should some
        such tell than that their them then there these they this those through under until very want what when where
        which while will with would write your
        """,
    )
)

_OPENINGS: Final = (
    "In short, {0} is best understood through {1}.",
    "Three things matter about {0}: {1}, {2}, and how they meet.",
    "{0} begins with {1}.",
    "Most accounts of {0} start from {1}.",
)
_MIDDLES: Final = (
    "What is often missed is that {1} depends on {2}.",
    "Where {1} changes, {2} follows.",
    "A closer look at {2} shows why {0} matters.",
    "Between {1} and {2} lies most of the difficulty.",
)
_ENDINGS: Final = (
    "So a good next step is to look at {2}.",
    "All told, {0} repays the effort.",
    "That is why {1} comes first and {2} after it.",
    "The rest is a question of {2}.",
)


class Answer(NamedTuple):
    """An answer and why it ended."""

    text: str
    finish: str


def digest(messages: Sequence[tuple[str, str]]) -> str:
    """Return the digest of a prompt, from roles and texts."""
    seen = hashlib.blake2b(digest_size=8)
    for role, text in messages:
        for part in (role, text):
            data = part.encode("utf-8", "surrogatepass")
            seen.update(len(data).to_bytes(8, "big") + data)
    return seen.hexdigest()


def answer(
    rules: Sequence[Rule], messages: Sequence[tuple[str, str]], *, limit: int | None, stop: Sequence[str]
) -> Answer:
    """Return the answer to a prompt.

    Args:
        rules: Tried in order on the last message.
        messages: Roles and texts; not empty.
        limit: The most tokens; here a token is a word.
        stop: Texts before which the answer ends.
    """
    text = messages[-1][1]
    full = next((found for rule in rules if (found := rule.apply(text)) is not None), None)
    if full is None:
        full = _made_up(text, digest(messages))
    for mark in stop:
        full = full.partition(mark)[0] if mark else full
    words = list(re.finditer(r"\S+", full))
    if limit is not None and len(words) > limit:
        return Answer(full[: words[limit - 1].end()], "length")
    return Answer(full, "stop")


def tokens(text: str) -> int:
    """Return how many tokens a text counts for: its words."""
    return len(text.split())


def _made_up(text: str, seed: str) -> str:
    chance = random.Random(seed)  # noqa: S311 - variety, not secrecy
    words = dict.fromkeys(word for word in re.findall(r"[^\W\d_]{4,}", text.lower()) if word not in _COMMON)
    keys = sorted(words, key=lambda word: -len(word))[:5]
    chance.shuffle(keys)
    keys += ["the question", "its parts", "the context"][: max(0, 3 - len(keys))]
    sentences = (chance.choice(forms).format(*keys) for forms in (_OPENINGS, _MIDDLES, _ENDINGS))
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
