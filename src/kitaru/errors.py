"""The one tree of exceptions, below every part of Kitaru.

    KitaruError
    ├── UsageError                 the call cannot be right; nothing happened
    │   ├── ForkedProcessError     a forked child touched its parent's runtime
    │   ├── NotAwaitedError        an attribute of a call that was not awaited (also an AttributeError)
    │   ├── UnguardedError         a script starts a run while it is loaded for another run
    │   ├── UnsupportedError       a binding setting that the provider or model lacks
    │   └── NotRecordedError       an exception's attribute that could not be recorded (also an AttributeError)
    ├── NotFoundError              no such run, flow, alias, artifact
    │   └── AmbiguousError         a prefix or selector that fits several
    ├── EncodeError                a value cannot be recorded (names the path inside it)
    ├── DecodeError                recorded bytes do not fit the type asked for
    ├── DivergenceError            resumed code asks for something else than the log holds
    ├── ReplayError                a replay may not go on
    │   ├── LiveCallError          `--verify` met a boundary that would have to run
    │   └── EffectsError           an `effects=True` checkpoint would have to run again
    ├── RunError                   a run cannot do what was asked of it
    │   ├── RunExistsError         the id is taken
    │   ├── RunOwnedError          another live process owns the run
    │   ├── FencedError            this process lost the run to a newer epoch
    │   ├── RunParkedError         the run left memory before it had a result
    │   ├── RunStuckError          the run's process died too often to be resumed unasked
    │   └── RunCancelledError      the run was cancelled
    ├── StepError                  a step failed with an exception whose class is not loaded here
    ├── StepTimeoutError           a step ran longer than its `timeout` (also a TimeoutError)
    ├── StoreError                 the log cannot be read or written
    │   ├── StoreBusyError         another process holds the file; retryable
    │   ├── StoreFullError         no space left; retryable once there is
    │   ├── StoreReadOnlyError     the file or its folder cannot be written
    │   ├── StoreClosedError       closed, or shut for writing after a failed flush
    │   ├── CorruptStoreError      the file is damaged
    │   ├── SchemaError            written by a newer Kitaru
    │   └── SecretKeyError         a sealed value cannot be opened with the keys at hand
    └── ModelError                 a model call gave no finished answer
        ├── CredentialError        no key, or one that the provider refused
        ├── ProviderError          the provider answered with an error
        ├── ModelConnectionError   no answer arrived
        └── AnswerError            an answer arrived that is not a finished one

`Suspended` is a BaseException outside the tree: it stops flow code while a run leaves memory.
"""

from __future__ import annotations

from typing import Literal, TypeAlias


class KitaruError(Exception):
    """Base of everything Kitaru raises.

    Args:
        message: What happened and where.
        hint: What to do next, one sentence; shown after the message.
    """

    code = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(KitaruError):
    """The call cannot be right; nothing was started or recorded."""

    code = "usage"


class ForkedProcessError(UsageError):
    """A forked child touched a runtime or store that its parent opened."""

    code = "forked"


class NotAwaitedError(UsageError, AttributeError):
    """An attribute of a call was asked for before the call was awaited."""

    code = "not_awaited"


class UnguardedError(UsageError):
    """A script starts a run, or calls a model, while it is loaded for another run."""

    code = "unguarded"


class UnsupportedError(UsageError):
    """A binding setting (tools, stop, max_tokens, ...) that the provider or model lacks."""

    code = "unsupported"


class NotRecordedError(UsageError, AttributeError):
    """An exception's attribute was used that could not be recorded with it."""

    code = "not_recorded"


class NotFoundError(KitaruError):
    """No run, flow, alias, event or artifact answers to that name."""

    code = "not_found"


class AmbiguousError(NotFoundError):
    """Several things answer to that name; the message lists them."""

    code = "ambiguous"


class EncodeError(KitaruError, TypeError):
    """A value cannot be recorded; the message names the path inside the value and the way out."""

    code = "encode"


class DecodeError(KitaruError, ValueError):
    """Recorded bytes do not fit the type that the code now asks for."""

    code = "decode"


class DivergenceError(KitaruError):
    """Resumed code asks for something else than the run's log holds.

    The log is unharmed: mend the code and resume, or replay the run.
    """

    code = "divergence"


class ReplayError(KitaruError):
    """A replay may not go on."""

    code = "replay"


class LiveCallError(ReplayError):
    """A replay that allows nothing live (`--verify`) met a boundary that would have to run."""

    code = "live_call"


class EffectsError(ReplayError):
    """A checkpoint with `effects=True` would have to run again and was not allowed to."""

    code = "effects"


class RunError(KitaruError):
    """A run cannot do what was asked of it."""

    code = "run"


class RunExistsError(RunError):
    """A run of that id exists already."""

    code = "exists"


class RunOwnedError(RunError):
    """Another live process owns the run."""

    code = "owned"


class FencedError(RunError):
    """This process lost the run: a newer epoch claimed it. What was not acknowledged is dropped."""

    code = "fenced"


class RunParkedError(RunError):
    """The run left memory before it had a result; it can be resumed."""

    code = "parked"


class RunStuckError(RunError):
    """The run took its process down too often in a row; only a person resumes it."""

    code = "stuck"


class RunCancelledError(RunError):
    """The run was cancelled."""

    code = "cancelled"


class StepError(KitaruError):
    """A step failed with an exception whose class is not loaded here.

    Args:
        message: The original's message.
        type_name: The original's class, as `module:qualname`.
    """

    code = "step"

    def __init__(self, message: str, *, type_name: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.type_name = type_name


class StepTimeoutError(KitaruError, TimeoutError):
    """A step ran longer than its `timeout`."""

    code = "timeout"


class StoreError(KitaruError):
    """The log cannot be read or written."""

    code = "store"


class StoreBusyError(StoreError):
    """Another process holds the file longer than the busy timeout. Retryable."""

    code = "store_busy"


class StoreFullError(StoreError):
    """No space left on the disk. Retryable once there is."""

    code = "store_full"


class StoreReadOnlyError(StoreError):
    """The file or its folder cannot be written."""

    code = "store_read_only"


class StoreClosedError(StoreError):
    """The store is closed, or shut itself for writing after a failed flush."""

    code = "store_closed"


class CorruptStoreError(StoreError):
    """The file is damaged."""

    code = "store_corrupt"


class SchemaError(StoreError):
    """The file was written by a newer Kitaru; it is left untouched."""

    code = "schema"


class SecretKeyError(StoreError):
    """A sealed value cannot be opened with the keys at hand, or no key can be had. Nothing is lost."""

    code = "secret_key"


class ModelError(KitaruError):
    """A model call gave no finished answer."""

    code = "model"
    attempts: tuple[object, ...] = ()
    """The HTTP attempts that were made, oldest first; the adapters' `attempts_of` gives them typed."""


class CredentialError(ModelError):
    """No credential is set up for the provider, or the provider refused it."""

    code = "credential"
    status: int = 0
    """HTTP status of the refusal; 0 when nothing was sent."""
    request_id: str | None = None
    """The provider's name for the refused request."""


Reason: TypeAlias = Literal[
    "rate_limit", "overloaded", "quota", "context", "not_found", "forbidden", "unsupported", "invalid", "other"
]
"""What kind of failure a provider reports; it decides whether a fallback may help."""


class ProviderError(ModelError):
    """The provider answered with an error.

    Args:
        status: HTTP status of the answer.
        request_id: The provider's name for the request, to quote to its support.
        retryable: Whether the same request may succeed later.
        retry_after: Seconds that the provider asks to wait, if it said so.
        provider_code: The provider's own code of the error.
        reason: What kind of failure it is.
        refuses: The setting that the provider refuses, where it names one of those that may be left out.
    """

    code = "provider"

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        request_id: str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        provider_code: str | None = None,
        reason: Reason = "other",
        refuses: str = "",
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.request_id = request_id
        self.retryable = retryable
        self.retry_after = retry_after
        self.provider_code = provider_code
        self.reason: Reason = reason
        self.refuses = refuses


class ModelConnectionError(ModelError):
    """No answer arrived: refused, reset, timed out, or cut off.

    Args:
        sent: Whether the request had been sent, so that it may have been billed.
    """

    code = "connection"

    def __init__(self, message: str, *, sent: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent


class AnswerError(ModelError):
    """An answer arrived that is not a finished one: a refusal, a filter, an empty text."""

    code = "answer"
    reply: object | None = None
    """What arrived; the adapters' `reply_of` gives it typed."""


class Suspended(BaseException):
    """Raised by every boundary while its run leaves memory. Not an error; never catch it."""
