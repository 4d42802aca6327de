"""Durable execution for Python flows that call language models."""

from kitaru.errors import (
    DivergenceError,
    EncodeError,
    KitaruError,
    ModelError,
    RunCancelledError,
    RunParkedError,
    StepError,
    StepTimeoutError,
    Suspended,
    UsageError,
)
from kitaru.runtime.call import Call
from kitaru.runtime.checkpoint import Checkpoint, checkpoint
from kitaru.runtime.combine import as_completed, gather, map
from kitaru.runtime.default import default_runtime
from kitaru.runtime.durable import load, log, now, random, save, sleep, timeout, uuid
from kitaru.runtime.flow import Flow, flow
from kitaru.runtime.fork import Fork, ReplayOptions
from kitaru.runtime.handle import RunHandle
from kitaru.runtime.keys import scope
from kitaru.runtime.llm import Reply, llm
from kitaru.runtime.runtime import Runtime

__version__ = "0.1.0"

__all__ = [
    "Call",
    "Checkpoint",
    "DivergenceError",
    "EncodeError",
    "Flow",
    "Fork",
    "KitaruError",
    "ModelError",
    "ReplayOptions",
    "Reply",
    "RunCancelledError",
    "RunHandle",
    "RunParkedError",
    "Runtime",
    "StepError",
    "StepTimeoutError",
    "Suspended",
    "UsageError",
    "as_completed",
    "checkpoint",
    "default_runtime",
    "flow",
    "gather",
    "llm",
    "load",
    "log",
    "map",
    "now",
    "random",
    "save",
    "scope",
    "sleep",
    "timeout",
    "uuid",
]
