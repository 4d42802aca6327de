"""Provider wire formats and the transport that sends for them. Knows nothing of runs, stores or flows."""

from kitaru.adapters.call import (
    Adapter,
    Attempt,
    Endpoint,
    FinishReason,
    Message,
    ModelCall,
    Reply,
    Role,
    Settings,
    Usage,
    attempts_of,
    reply_of,
    require_finished,
)
from kitaru.adapters.compatible import PROVIDERS, Provider, adapter, provider, split_model
from kitaru.adapters.exchange import Timeouts
from kitaru.adapters.retry import RetryPolicy
from kitaru.adapters.secret import SecretStr
from kitaru.adapters.transport import Sent, Transport

__all__ = [
    "PROVIDERS",
    "Adapter",
    "Attempt",
    "Endpoint",
    "FinishReason",
    "Message",
    "ModelCall",
    "Provider",
    "Reply",
    "RetryPolicy",
    "Role",
    "SecretStr",
    "Sent",
    "Settings",
    "Timeouts",
    "Transport",
    "Usage",
    "adapter",
    "attempts_of",
    "provider",
    "reply_of",
    "require_finished",
    "split_model",
]
