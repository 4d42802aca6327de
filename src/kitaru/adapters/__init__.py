"""Provider wire formats and the transport that sends for them. Knows nothing of runs, stores or flows."""

from kitaru.adapters.adapter import Adapter, StreamParser
from kitaru.adapters.call import Effort, ModelCall, Output, Settings, Tool, ToolChoice
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.fit import Fitted, fit
from kitaru.adapters.http.exchange import Timeouts
from kitaru.adapters.message import Document, Image, Media, Message, Opaque, Part, Role, Text, ToolCall
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
from kitaru.adapters.retry import Retry, RetryLike, retry_of
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
    "Fitted",
    "Image",
    "Media",
    "Message",
    "ModelCall",
    "Opaque",
    "Output",
    "Part",
    "Provider",
    "Reply",
    "Retry",
    "RetryLike",
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
    "fit",
    "names",
    "provider",
    "providers",
    "reply_of",
    "require_finished",
    "retry_of",
    "split_model",
]
