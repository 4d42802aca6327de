"""The mock model server, for the command line, which knows no adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kitaru.adapters.standin import Options, parse_fault, serve


def serve_standin(
    host: str,
    port: int,
    *,
    latency: tuple[float, float] = (0.0, 0.0),
    faults: Sequence[str] = (),
    journal: Path | None = None,
    strict: bool = False,
    ready: Callable[[str], None],
) -> None:
    """Run the mock model server in this process until it is interrupted or terminated.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        latency: The least and the most seconds before an answer.
        faults: As `KIND[*FIRST][;retry-after=SECONDS][;match=REGEX]`.
        journal: A file that gets one JSON line when a request arrives and one when it is done with.
        strict: Whether a field that an API does not know is refused also where the real one may be silent.
        ready: Told the base URL once connections are taken.

    Raises:
        UsageError: An option cannot be right, the address cannot be listened on, or the extra `serve` is missing.
    """
    played = tuple(parse_fault(text) for text in faults)
    options = Options(latency=latency, faults=played, journal=journal, strict=strict)
    serve(host, port, options, ready=ready)
