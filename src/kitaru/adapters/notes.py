"""What a caller should know of an answer although it is good: the warnings of a reply, worded alike for all."""

from __future__ import annotations

from kitaru.adapters.reply import FinishReason
from kitaru.adapters.secret import clean


def notes(text: str, finish: FinishReason, said: object, *, usage_read: bool, more: tuple[str, ...] = ()) -> list[str]:
    """Return the warnings of a reply.

    Args:
        text: The answer's text.
        finish: Why the model stopped.
        said: The provider's own word for it.
        usage_read: Whether all of the stated usage could be read.
        more: Warnings that only this provider has.
    """
    found: list[str] = []
    if text and finish == "length":
        found.append("the text was cut off by the token limit")
    elif text and finish == "other":
        found.append(f"the provider gave {clean(str(said), 40)!r} as finish reason")
    elif not text and finish == "stop":
        found.append("the text is empty")
    if not usage_read:
        found.append("the provider's usage could not be read in full")
    return [*found, *more]
