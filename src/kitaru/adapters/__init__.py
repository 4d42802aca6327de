"""Provider wire formats and the transport that sends for them. Knows nothing of runs, stores or flows."""

from kitaru.adapters.adapter import Adapter, StreamParser
from kitaru.adapters.call import Effort, ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.exchange import Timeouts
from kitaru.adapters.message import Document, Image, Message, Opaque, Part, Role, Text, ToolCall
from kitaru.adapters.provider import Capabilities, Provider
from kitaru.adapters.providers import adapter, names, provider, providers, split_model
from kitaru.adapters.reply import (
    Attempt,
    Delta,
    FinishReason,
    Reply,
    Usage,
    attempts_of,
    reply_of,
    require_finished,
)
from kitaru.adapters.retry import RetryPolicy
from kitaru.adapters.secret import SecretStr
from kitaru.adapters.transport import Sent, Transport

__all__ = [
    "Adapter",
    "Attempt",
    "Capabilities",
    "Delta",
    "Document",
    "Effort",
    "Endpoint",
    "FinishReason",
    "Image",
    "Message",
    "ModelCall",
    "Opaque",
    "Output",
    "Part",
    "Provider",
    "Reply",
    "RetryPolicy",
    "Role",
    "SecretStr",
    "Sent",
    "Settings",
    "StreamParser",
    "Text",
    "Timeouts",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "Transport",
    "Usage",
    "adapter",
    "attempts_of",
    "names",
    "provider",
    "providers",
    "reply_of",
    "require_finished",
    "split_model",
]
