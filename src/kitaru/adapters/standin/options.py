"""How a stand-in server answers."""

from __future__ import annotations

import math
import re
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from kitaru.adapters.standin.faults import Fault
from kitaru.errors import UsageError


class Rule(msgspec.Struct, frozen=True):
    r"""An answer for certain prompts.

    Args:
        pattern: A regular expression, looked for in the text of the last message.
        answer: The text; `\1` or `\g<name>` stand for what the pattern's groups found.
        tool: A tool to call; where the request offers none of that name, or brings this tool's result, the rule is
            passed over.
        arguments: Its arguments; in their texts `\1` stands for what was found, too. None makes them from its schema.
        times: How many calls come at once.

    Raises:
        UsageError: Not a regular expression, an answer that names a group which the pattern lacks, or fewer than one
            call.
    """

    pattern: str
    answer: str = ""
    tool: str = ""
    arguments: dict[str, object] | None = None
    times: int = 1

    def __post_init__(self) -> None:
        try:
            # With an empty alternative something is found, so that the answer's group names are checked.
            found = re.search(f"{self.pattern}\n|", "")
            assert found is not None
            for text in (self.answer, *(self.arguments or {}).values()):
                if isinstance(text, str):
                    found.expand(text)
        except (re.error, IndexError) as error:
            raise UsageError(f"the rule {self.pattern!r} -> {self.answer!r} cannot be used: {error}") from None
        if self.times < 1:
            raise UsageError(f"the rule {self.pattern!r} calls a tool {self.times} times")

    def apply(self, text: str) -> str | None:
        """Return the answer, or None where the pattern is not found."""
        found = re.search(self.pattern, text)
        return found.expand(self.answer) if found else None

    def arguments_for(self, text: str) -> dict[str, object] | None:
        """Return the tool's arguments for a text in which the pattern is found; None where the rule names none."""
        found = re.search(self.pattern, text)
        if found is None or self.arguments is None:
            return None
        return {key: found.expand(each) if isinstance(each, str) else each for key, each in self.arguments.items()}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a stand-in server answers.

    Args:
        rules: Tried in order; where none fits, the answer is made from the prompt's own words.
        latency: Seconds before each answer: one number, or the least and the most.
        faults: Tried in order; the first that befalls a request is played.
        api_key: The key that every request has to bring, where its API wants it; None asks for none.
        journal: A file that gets one JSON line when a request arrives and one when it is done with.
        models: What the lists of models name. Any name is answered, but see `unknown_models`.
        strict: Whether a field that an API does not know is refused also where the real one may be silent.
        reasoning_models: Patterns of models that think before they answer, and take no temperature where OpenAI's own
            API is asked.
        thinking_tokens: What those spend on thinking: with no more than this to spend, they give an empty text.
        unknown_models: Patterns of models that are not found; ollama finds them once they are pulled.
        cached_tokens: How many tokens of each prompt count as read from a cache, beside those of its words.
        comments: Whether streams hold comments, where the provider is known to send some.
        hold: Whether requests wait from the start until they are released.

    Raises:
        UsageError: A latency that is no time, or a negative number of tokens.
    """

    rules: tuple[Rule, ...] = ()
    latency: float | tuple[float, float] = 0.0
    faults: tuple[Fault, ...] = ()
    api_key: str | None = None
    journal: Path | None = None
    models: tuple[str, ...] = ("stand-in",)
    strict: bool = False
    reasoning_models: tuple[str, ...] = ("o1*", "o3*", "o4*", "gpt-5", "gpt-5-[!c]*")
    thinking_tokens: int = 64
    unknown_models: tuple[str, ...] = ("no-such-*",)
    cached_tokens: int = 0
    comments: bool = False
    hold: bool = False

    def __post_init__(self) -> None:
        low, high = self.latency_range
        if not (0 <= low <= high and math.isfinite(high)):
            raise UsageError(f"latency {self.latency!r} is not a number of seconds, or a least and a most")
        if self.thinking_tokens < 0 or self.cached_tokens < 0:
            raise UsageError("a number of tokens may not be negative")

    def __repr__(self) -> str:
        key = "None" if self.api_key is None else "'**********'"
        return f"Options(rules={self.rules!r}, latency={self.latency!r}, faults={self.faults!r}, api_key={key})"

    @property
    def latency_range(self) -> tuple[float, float]:
        """The least and the most seconds before an answer."""
        return self.latency if isinstance(self.latency, tuple) else (self.latency, self.latency)

    def reasons(self, model: str) -> bool:
        """Return whether a model, by its name after the last `/`, thinks before it answers."""
        return named(model, self.reasoning_models)

    def knows(self, model: str) -> bool:
        """Return whether a model is found."""
        return not named(model, self.unknown_models)


def named(model: str, patterns: tuple[str, ...]) -> bool:
    """Return whether a model's name, after its last `/`, fits one of some patterns as of `fnmatch`."""
    bare = model.rpartition("/")[2].lower()
    return any(fnmatchcase(bare, pattern) for pattern in patterns)
