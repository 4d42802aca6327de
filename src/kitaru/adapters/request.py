"""Building a request: addresses, keys and bodies, checked alike for every wire format."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import msgspec

from kitaru.adapters.call import ModelCall
from kitaru.adapters.endpoint import Endpoint
from kitaru.adapters.message import Text
from kitaru.adapters.provider import Provider
from kitaru.errors import CredentialError, UsageError

if TYPE_CHECKING:
    import httpx

_VERSIONS: Final = frozenset({"api-version"})
_VERSION: Final = re.compile(r"[\w.-]{1,32}", re.ASCII)

_HEADERS: Final = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "content-type": "application/json",
    "user-agent": "kitaru",
}


def address(row: Provider, base_url: str, path: str, query: str = "") -> str:
    """Return the address to call.

    Args:
        row: Whose it is.
        base_url: The address below which the API lives, with or without a final slash; a query is kept.
        path: What to add, beginning with a slash and already escaped.
        query: What to add to the query, already escaped.

    Raises:
        UsageError: Not an http(s) address, or one with a user or password. The message shows neither these nor a query.
    """
    try:
        return _address(base_url.strip(), path, query)
    except ValueError:
        raise _bad_address(row) from None
    except PermissionError:
        raise UsageError(
            f"the base URL for {row.name} holds a user name or password", hint="Pass a credential as api_key=."
        ) from None


@lru_cache(maxsize=64)
def _address(base_url: str, path: str, query: str) -> str:
    parts = urlsplit(base_url)
    host, _ = parts.hostname, parts.port
    if parts.scheme not in ("http", "https") or not host or any(char.isspace() for char in base_url):
        raise ValueError
    if parts.username is not None or parts.password is not None:
        raise PermissionError
    query = "&".join(one for one in (parts.query, query) if one)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, query=query, fragment=""))


@lru_cache(maxsize=64)
def without_endpoint(base_url: str, endpoint: re.Pattern[str]) -> str:
    """Return an address without what its path ends in, for callers who paste the whole address of an endpoint.

    Args:
        base_url: As the caller wrote it. A text that is no address comes back as it is, for `address` to refuse.
        endpoint: What to leave out.
    """
    try:
        parts = urlsplit(base_url.strip())
    except ValueError:
        return base_url
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path[: found.start()])) if (found := endpoint.search(path)) else base_url


def private_part(base_url: str) -> str:
    """Return the part of a base URL that may be a credential and so may not be recorded: empty where there is none.

    Args:
        base_url: An address, as a call or an alias names it. Of a query only an API version is recorded.
    """
    try:
        parts = urlsplit(base_url.strip())
        if parts.username is not None or parts.password is not None:
            return "a user name or password"
    except ValueError:
        return ""
    plain = all(
        name in _VERSIONS and _VERSION.fullmatch(value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    )
    return "" if plain and not parts.fragment else "a query"


def without_query(text: str, url: str) -> str:
    """Return what an HTTP library said of a request, without the query and the user of its address.

    Args:
        text: Its message.
        url: The address.
    """
    parts = urlsplit(url)
    private = [part for part in (parts.query, parts.netloc.rpartition("@")[0]) if part]
    for part in private:
        text = text.replace(f"?{part}", "").replace(part, "...") if len(part) > 3 else text.replace(url, "the address")
    return text


def key_of(row: Provider, endpoint: Endpoint, url: str) -> str:
    """Return the key to send, or an empty string where none is needed.

    Raises:
        CredentialError: A key is needed and missing, or cannot be sent in a header.
    """
    key = endpoint.api_key.reveal().strip() if endpoint.api_key else ""
    if not key:
        if row.key_required and endpoint.authorise is None and not loopback(url):
            names = " or ".join(row.key_env)
            raise CredentialError(f"there is no key for {row.name}", hint=f"Set {names}, or pass api_key=.")
    # An illegal header value would be quoted in full by the HTTP library's own error.
    elif not key.isascii() or not key.isprintable() or " " in key:
        raise CredentialError(
            f"the key for {row.name} holds a character that no key has (a space, a line break, or one beyond ASCII)",
            hint="Copy it again, whole and alone.",
        )
    return key


def body_of(call: ModelCall, fields: Mapping[str, object], own: frozenset[str]) -> bytes:
    """Return the body of a request: `fields` that are not None, and the call's `extra`.

    Args:
        call: The model call.
        fields: The body; `msgspec.Raw` values are written as they are.
        own: Fields that `extra` may not hold: they have settings of their own, or change the form of the answer.

    Raises:
        UsageError: A value that cannot be right or cannot be written as JSON.
    """
    settings = call.settings
    if not call.messages:
        raise UsageError(f"the call of {call.provider}/{call.model} has no message")
    for name, value in (("temperature", settings.temperature), ("top_p", settings.top_p)):
        if value is not None and not math.isfinite(value):
            raise UsageError(f"{name}={value} is not a number that can be sent")
    if settings.max_tokens is not None and settings.max_tokens < 1:
        raise UsageError(f"max_tokens={settings.max_tokens}: at least 1 is needed")
    taken = own & settings.extra.keys()
    if taken:
        raise UsageError(
            f"extra may not hold {', '.join(sorted(taken))}",
            hint="Pass a setting under its own name; replies come whole.",
        )
    stated = {name: value for name, value in fields.items() if value is not None}
    try:
        return msgspec.json.encode(stated | settings.extra)
    except UnicodeEncodeError:
        place = next((at for at, message in enumerate(call.messages) if not _encodable(message.parts)), None)
        where = "extra, stop, a tool or the model's name" if place is None else f"message {place}"
        raise UsageError(
            f"the text of {where} holds half of a surrogate pair, which is not valid Unicode",
            hint="Decode it with errors='replace' where it is read.",
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"extra, or a tool's schema, cannot be written as JSON: {error}") from None


def post(
    row: Provider, url: str, body: bytes, endpoint: Endpoint, credential: Mapping[str, str], own: Mapping[str, str] = {}
) -> httpx.Request:
    """Return the request.

    Args:
        row: Who is asked.
        url: As `address` gave it.
        body: As `body_of` gave it.
        endpoint: For the caller's own headers, which win over `own`.
        credential: The header with the key, by lower-case name; nothing overrides it.
        own: Headers of the wire format, by lower-case name.

    Raises:
        UsageError: The HTTP library refuses the address.
    """
    import httpx

    callers = {name.lower(): value for name, value in endpoint.headers.items()}
    try:
        parsed, host = _parsed(url)
    except (httpx.InvalidURL, UnicodeError):
        raise _bad_address(row) from None
    # With these two and a stream, httpx has nothing left to work out, which takes it six times as long.
    sizes = {"host": host, "content-length": str(len(body))}
    headers = [*sizes.items(), *{**_HEADERS, **own, **callers, **credential}.items()]
    request = httpx.Request("POST", parsed, headers=headers, stream=httpx.ByteStream(body))
    request.read()
    return request


@lru_cache(maxsize=32)
def _parsed(url: str) -> tuple[httpx.URL, str]:
    # An address seldom changes, and to parse it takes httpx a third of what building a request takes.
    import httpx

    parsed = httpx.URL(url)
    # Decodes an international name, which fails where it is none.
    assert parsed.host
    return parsed, parsed.netloc.decode("ascii")


@lru_cache(maxsize=64)
def loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _encodable(parts: tuple[object, ...]) -> bool:
    try:
        for part in parts:
            if isinstance(part, Text):
                part.text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad_address(row: Provider) -> UsageError:
    return UsageError(
        f"the base URL for {row.name} is not an http(s) address",
        hint="Such as https://host/v1 or http://localhost:8000/v1.",
    )
