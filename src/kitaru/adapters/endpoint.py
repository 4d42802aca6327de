"""Where a call is sent, and as whom. Never recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from kitaru.adapters.secret import SecretStr
from kitaru.errors import UsageError

if TYPE_CHECKING:
    import httpx

Authorise: TypeAlias = "Callable[[httpx.Request], Awaitable[Sequence[SecretStr]]]"
"""Fetches or computes a credential for one attempt, puts it into the request's headers, and returns what to mask."""

# Headers that carry a credential or belong to the adapter or to HTTP itself.
_RESERVED_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "api-key",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "host",
        "proxy-authorization",
        "transfer-encoding",
        "x-api-key",
        "x-goog-api-key",
    }
)


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where to send a call, and as whom.

    Args:
        base_url: The address below which the API lives, with or without a final slash; a query is kept.
        api_key: The credential, if there is one.
        headers: Further headers by name. Their values do not show in `repr`.
        authorise: For credentials that must be fetched or signed (cloud identities): called for every attempt, after
            the request is built and before it is sent. May raise CredentialError.
        bearer: The credential is a token for `Authorization: Bearer`, where the provider's keys go into another header.

    Raises:
        UsageError: A header that carries a credential or belongs to HTTP, or one that cannot be sent.
    """

    base_url: str
    api_key: SecretStr | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    authorise: Authorise | None = None
    bearer: bool = False

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if name.lower() in _RESERVED_HEADERS:
                raise UsageError(
                    f"the header {name!r} cannot be set by hand",
                    hint="Pass a credential as api_key=; the other reserved headers belong to the transport.",
                )
            if not name.isascii() or not name.isprintable() or not name or set(name) & set(' :"(),/;<=>?@[]{}\\'):
                raise UsageError(f"{name!r} is not a header name")
            if not value.isascii() or not value.isprintable():
                raise UsageError(
                    f"the value of header {name!r} holds a character that HTTP cannot carry",
                    hint="Headers hold printable ASCII; look for a line break.",
                )

    def __repr__(self) -> str:
        shown = self.base_url.partition("?")[0].rpartition("@")
        return f"Endpoint(base_url={shown[2]!r}, api_key={self.api_key!r}, headers={sorted(self.headers)!r})"
