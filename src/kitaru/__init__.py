"""Durable execution for Python flows that call language models."""

from typing import TYPE_CHECKING

from kitaru.errors import (
    AnswerError,
    CredentialError,
    DivergenceError,
    EncodeError,
    KitaruError,
    ModelConnectionError,
    ModelError,
    ProviderError,
    RunCancelledError,
    RunParkedError,
    StepError,
    StepTimeoutError,
    Suspended,
    UnsupportedError,
    UsageError,
)
from kitaru.runtime.call import Call
from kitaru.runtime.calls.llm import llm
from kitaru.runtime.calls.reply import Reply, ToolCall
from kitaru.runtime.checkpoint import Checkpoint, checkpoint
from kitaru.runtime.combine import as_completed, gather, map
from kitaru.runtime.default import default_runtime
from kitaru.runtime.durable import load, log, now, random, save, sleep, timeout, uuid
from kitaru.runtime.flow import Flow, flow
from kitaru.runtime.fork import Fork, ReplayOptions
from kitaru.runtime.handle import RunHandle
from kitaru.runtime.health import Health
from kitaru.runtime.keys import scope
from kitaru.runtime.reading import RunEvent, RunInfo
from kitaru.runtime.runtime import Runtime
from kitaru.runtime.secrets.credentials import credentials
from kitaru.runtime.secrets.image import ImageSettings, getenv
from kitaru.runtime.secrets.named import (
    Secret,
    SecretSummary,
    create_secret,
    delete_secret,
    get_secret,
    list_secrets,
    set_secret,
)

if TYPE_CHECKING:
    from kitaru.adapters import Retry, SecretStr, Timeouts

__version__ = "0.1.0"

__all__ = [
    "AnswerError",
    "Call",
    "Checkpoint",
    "CredentialError",
    "DivergenceError",
    "EncodeError",
    "Flow",
    "Fork",
    "Health",
    "ImageSettings",
    "KitaruError",
    "ModelConnectionError",
    "ModelError",
    "ProviderError",
    "ReplayOptions",
    "Reply",
    "Retry",
    "RunCancelledError",
    "RunEvent",
    "RunHandle",
    "RunInfo",
    "RunParkedError",
    "Runtime",
    "Secret",
    "SecretStr",
    "SecretSummary",
    "StepError",
    "StepTimeoutError",
    "Suspended",
    "Timeouts",
    "ToolCall",
    "UnsupportedError",
    "UsageError",
    "as_completed",
    "checkpoint",
    "create_secret",
    "credentials",
    "default_runtime",
    "delete_secret",
    "flow",
    "gather",
    "get_secret",
    "getenv",
    "list_secrets",
    "llm",
    "load",
    "log",
    "map",
    "now",
    "random",
    "save",
    "scope",
    "set_secret",
    "sleep",
    "timeout",
    "uuid",
]


def __getattr__(name: str) -> object:
    # The adapters are imported with the first model call, or with the first of these.
    if name in ("Retry", "SecretStr", "Timeouts"):
        from kitaru import adapters

        return getattr(adapters, name)
    raise AttributeError(f"module 'kitaru' has no attribute {name!r}")
