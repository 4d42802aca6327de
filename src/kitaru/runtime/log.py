"""The library's own log: structlog over the standard logger `kitaru`, which says nothing until somebody listens."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

logging.getLogger("kitaru").addHandler(logging.NullHandler())


def log() -> BoundLogger:
    """The logger. Unconfigured structlog would print to standard output, so it wraps the standard library's."""
    import structlog

    logger: BoundLogger = structlog.wrap_logger(
        logging.getLogger("kitaru"),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.render_to_log_kwargs],
    )
    return logger
