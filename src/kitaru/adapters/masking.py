"""Masking what a provider echoes of a credential: in bytes and texts, whole or in pieces however they are cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from kitaru.adapters.fields import is_object
from kitaru.adapters.message import Message, Text, assistant
from kitaru.adapters.reply import Delta, Reply, reply_of
from kitaru.adapters.secret import MASK, SHORTEST_IN_ANSWERS, SHORTEST_IN_ERRORS, SecretStr
from kitaru.errors import AnswerError, CredentialError, ModelError, ProviderError

T = TypeVar("T", str, bytes)


class Echoes(Generic[T]):
    """The forms of some secrets, to be looked for in texts or in bytes.

    Args:
        forms: What to look for, longest first: a secret may be the beginning of another.
        stars: What to put in its place.
        pattern: Finds any of the forms.
        first: Finds any of their first characters.
    """

    __slots__ = ("_first", "_forms", "_longest", "_pattern", "_stars")

    def __init__(self, forms: tuple[T, ...], stars: T, pattern: re.Pattern[T], first: re.Pattern[T]) -> None:
        self._forms: tuple[T, ...] = forms
        self._stars: T = stars
        self._pattern: re.Pattern[T] = pattern
        self._first: re.Pattern[T] = first
        self._longest = max(map(len, forms), default=0)

    def __bool__(self) -> bool:
        return bool(self._forms)

    def mask(self, data: T) -> T:
        """Return the data with every echo replaced; the very same object where there is none."""
        for form in self._forms:
            if form in data:
                return self._pattern.sub(self._stars, data)
        return data

    def split(self, data: T) -> tuple[T, T]:
        """Return what of the data can be shown, masked, and the end that may be the beginning of an echo."""
        shown: list[T] = []
        at = 0
        found = any(form in data for form in self._forms)
        while True:
            held = self._beginning(data, at)
            match = self._pattern.search(data, at) if found else None
            if match is None or match.start() >= held:
                break
            shown += (data[at : match.start()], self._stars)
            at = match.end()
        shown.append(data[at:held])
        return data[:0].join(shown), data[held:]

    def _beginning(self, data: T, at: int) -> int:
        """Return where the longest end of the data begins that is the beginning, and not the whole, of a form."""
        end = len(data)
        for match in self._first.finditer(data, max(at, end - self._longest + 1)):
            start = match.start()
            tail = data[start:]
            if any(len(form) > len(tail) and form.startswith(tail) for form in self._forms):
                return start
        return end


class Pieces(Generic[T]):
    """Masks one text or body that arrives in pieces; holds back what may be the beginning of an echo."""

    __slots__ = ("_echoes", "_held")

    def __init__(self, echoes: Echoes[T], nothing: T) -> None:
        self._echoes: Echoes[T] = echoes
        self._held: T = nothing

    def feed(self, piece: T) -> T:
        """Return what may be shown by now."""
        shown, self._held = self._echoes.split(self._held + piece if self._held else piece)
        return shown

    def finish(self) -> T:
        """Return what was held back, masked: it may hold an echo that could have become a longer one."""
        held, self._held = self._held, self._held[:0]
        return self._echoes.mask(held)


class Masker:
    """What to look for on behalf of one call.

    Args:
        secrets: Its credentials.

    Attributes:
        error_bytes, error_texts: For what does not count as an answer.
        answer_bytes, answer_texts: For answers; a placeholder for a key, as local servers want one, may well occur
            there.
    """

    __slots__ = ("answer_bytes", "answer_texts", "error_bytes", "error_texts")

    def __init__(self, secrets: Iterable[SecretStr] = ()) -> None:
        secrets = tuple(secrets)
        self.error_bytes, self.error_texts = _echoes(secrets, SHORTEST_IN_ERRORS)
        self.answer_bytes, self.answer_texts = _echoes(secrets, SHORTEST_IN_ANSWERS)


def _echoes(secrets: Sequence[SecretStr], shortest: int) -> tuple[Echoes[bytes], Echoes[str]]:
    forms = [form for secret in secrets if len(secret.reveal()) >= shortest for form in secret.forms()]
    forms = sorted(set(forms), key=lambda form: (-len(form), form))
    texts = [form.decode("utf-8", "surrogatepass") for form in forms]
    firsts = sorted({form[:1] for form in forms})
    return (
        Echoes(
            tuple(forms),
            MASK.encode(),
            re.compile(b"|".join(map(re.escape, forms))),
            re.compile(b"|".join(map(re.escape, firsts))),
        ),
        Echoes(
            tuple(texts),
            MASK,
            re.compile("|".join(map(re.escape, texts))),
            re.compile("|".join(sorted({re.escape(text[:1]) for text in texts}))),
        ),
    )


class DeltaMasker:
    """Masks what streams: each kind of piece, and each tool call, is a text of its own.

    Args:
        echoes: What to look for.
    """

    def __init__(self, echoes: Echoes[str]) -> None:
        self._echoes = echoes
        self._texts: dict[tuple[str, int], tuple[Pieces[str], Delta]] = {}

    def feed(self, delta: Delta) -> Delta | None:
        """Return as much of the piece as may be shown by now; None where that is nothing."""
        if not self._echoes:
            return delta
        where = (delta.kind, delta.index)
        known = self._texts.get(where)
        if known is None:
            known = self._texts[where] = (Pieces(self._echoes, ""), Delta(delta.kind, index=delta.index))
        text = known[0].feed(delta.text)
        name, id_ = self._echoes.mask(delta.name), self._echoes.mask(delta.id)
        if text is delta.text and name is delta.name and id_ is delta.id:
            return delta
        if not (text or name or id_):
            return None
        return Delta(delta.kind, text, delta.index, id_, name)

    def finish(self) -> list[Delta]:
        """Return what was held back."""
        left = [(pieces.finish(), empty) for pieces, empty in self._texts.values()]
        return [msgspec.structs.replace(empty, text=text) for text, empty in left if text]


class _Mask(Protocol):
    def __call__(self, text: str, /) -> str: ...


def mask_reply(reply: Reply, masker: Masker) -> Reply:
    """Return a reply without echoes; the very same object where there were none.

    What the adapter has put together, or unescaped, may hold an echo that its bytes did not show.
    """
    if not masker.answer_texts:
        return reply
    mask = masker.answer_texts.mask
    usage = reply.usage
    masked = msgspec.structs.replace(
        reply,
        raw=masker.answer_bytes.mask(reply.raw),
        text=mask(reply.text),
        message=_message(reply.message, mask, masker),
        model=mask(reply.model),
        request_id=mask(reply.request_id),
        refusal=reply.refusal and mask(reply.refusal),
        reasoning=mask(reply.reasoning),
        stated_cost=mask(reply.stated_cost),
        warnings=tuple(map(mask, reply.warnings)) if reply.warnings else reply.warnings,
        usage=msgspec.structs.replace(usage, tier=mask(usage.tier)) if usage.tier else usage,
    )
    return reply if masked == reply else msgspec.structs.replace(masked, raw=mask_json(masked.raw, masker))


def mask_error(error: ModelError, masker: Masker) -> ModelError:
    """Take echoes out of an error that an adapter made of an answer, and what it would show of the adapter's work.

    Its traceback and context are dropped: their frames hold pieces of the answer from before it was masked.
    """
    mask = masker.error_texts.mask
    error.message = mask(error.message)
    error.args = (error.message,)
    error.hint = error.hint and mask(error.hint)
    if isinstance(error, ProviderError | CredentialError):
        error.request_id = error.request_id and mask(error.request_id)
    if isinstance(error, ProviderError):
        error.provider_code = error.provider_code and mask(error.provider_code)
    if isinstance(error, AnswerError):
        reply = reply_of(error)
        error.reply = reply and mask_reply(reply, masker)
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def mask_json(data: bytes, masker: Masker) -> bytes:
    """Return JSON with every text in it masked, whatever its escapes; bytes that are none masked as they are."""
    try:
        masked = _deep(msgspec.json.decode(data), masker.answer_texts.mask)
        return masker.answer_bytes.mask(msgspec.json.encode(masked))
    except (msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
        return masker.answer_bytes.mask(data)


def _deep(value: object, mask: _Mask) -> object:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [_deep(one, mask) for one in value]
    if is_object(value):
        return {mask(name): _deep(one, mask) for name, one in value.items()}
    return value


def _message(message: Message, mask: _Mask, masker: Masker) -> Message:
    content: object = message.content
    if isinstance(message.content, str):
        content = mask(message.content)
    else:
        parts = tuple(
            msgspec.structs.replace(part, text=masked)
            if isinstance(part, Text) and (masked := mask(part.text)) is not part.text
            else part
            for part in message.content
        )
        if any(new is not old for new, old in zip(parts, message.content, strict=True)):
            content = parts
    calls = message.tool_calls and tuple(
        msgspec.structs.replace(call, id=mask(call.id), name=mask(call.name), arguments=mask(call.arguments))
        for call in message.tool_calls
    )
    own = message.opaque
    clean = own is None or masker.answer_bytes.mask(own.data) is own.data
    if content is message.content and calls == message.tool_calls and clean:
        return message
    changed = msgspec.structs.replace(message, content=content, tool_calls=calls, opaque=None)
    if own is None:
        return changed
    # The digest of what the turn stands for is made anew.
    fresh = assistant(changed.text, calls, provider=own.provider, model=own.model, own=mask_json(own.data, masker))
    return msgspec.structs.replace(changed, opaque=fresh.opaque)


NOTHING: Final = Masker()
"""For a call without credential."""
