"""What a model without a model says: readable, made from the prompt's own words, the same for the same prompt."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from typing import Final

from kitaru.adapters.standin.asked import Ask, Object, is_object

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

_WANTS_JSON: Final = re.compile(
    r"(?i)\b(?:answer|respond|reply|return|output|give|write|produce)\b[^.\n]*\bJSON\b|\bJSON (?:only|object|schema)\b"
)
_KEYS: Final = re.compile(r"(?i)\b(?:keys?|fields?|properties)\b[^\"'`\n]{0,40}((?:[\"'`]\w+[\"'`](?:,| and|\s)*)+)")


def digest(messages: Sequence[tuple[str, str]]) -> str:
    """Return the digest of a prompt, from roles and texts."""
    seen = hashlib.blake2b(digest_size=8)
    for role, text in messages:
        for part in (role, text):
            data = part.encode("utf-8", "surrogatepass")
            seen.update(len(data).to_bytes(8, "big") + data)
    return seen.hexdigest()


def made_up(ask: Ask) -> str:
    """Return an answer in three sentences."""
    chance = random.Random(digest(ask.messages))  # noqa: S311 - variety, not secrecy
    keys = _longest(ask.text)
    chance.shuffle(keys)
    keys += ["the question", "its parts", "the context"][: max(0, 3 - len(keys))]
    sentences = (chance.choice(forms).format(*keys) for forms in (_OPENINGS, _MIDDLES, _ENDINGS))
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def thought(ask: Ask) -> str:
    """Return what the model thinks before it answers; with what an encoding on the way could spoil."""
    first, second, *_ = [*_longest(ask.text), "the question", "its parts"]
    return f'The question is about “{first}”.\nWhat do I know of\t"{second}"? Étude № {len(ask.messages)} — enough.'


def words(text: str) -> list[str]:
    """Return what made-up values are made of: the words of a text that say something; never empty."""
    return _longest(text) or ["something"]


def quoted(ask: Ask) -> str:
    """Return an answer that quotes what the tools said."""
    said = (f"{result.name or result.call or 'the tool'} said: {result.text}" for result in ask.results)
    return f"Having asked, I know: {'; '.join(said)}."


def asked_for_json(ask: Ask) -> Object | None:
    """Return the schema that the prompt's own words ask an answer to fit; None where they ask for no JSON.

    Where an API has no JSON mode, its users ask for JSON in plain words: models follow those, too.
    """
    told = [text for role, text in ask.messages if role not in {"assistant", "tool"}]
    if not any(_WANTS_JSON.search(text) for text in told):
        return None
    for text in told:
        for found in _schemas(text):
            return found
    names = [name for text in told for found in _KEYS.findall(text) for name in re.findall(r"\w+", found)]
    names = [name for name in dict.fromkeys(names) if name != "and"] or ["answer"]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names)}


def tokens(text: str) -> int:
    """Return how many tokens a text counts for: its words."""
    return len(text.split())


def _schemas(text: str) -> Iterator[Object]:
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        if is_object(found) and {"properties", "type", "anyOf", "oneOf", "$ref"} & found.keys():
            yield found
        at = text.find("{", end)


def _longest(text: str) -> list[str]:
    found = dict.fromkeys(word for word in re.findall(r"[^\W\d_]{4,}", text.lower()) if word not in _COMMON)
    return sorted(found, key=lambda word: -len(word))[:5]
