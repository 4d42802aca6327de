"""One OpenAI-compatible proxy for every call, such as LiteLLM's: `KITARU_GATEWAY_URL` and `KITARU_GATEWAY_KEY`.

Looked up at each call, never kept by a run: which way a call takes does not change what it asks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

import msgspec

from kitaru.errors import CredentialError, ModelConnectionError, ModelError, ProviderError, UsageError
from kitaru.runtime.models.routes import Route

if TYPE_CHECKING:
    from kitaru.adapters import SecretStr

URL: Final = "KITARU_GATEWAY_URL"
KEY: Final = "KITARU_GATEWAY_KEY"
FALLBACK: Final = "KITARU_GATEWAY_FALLBACK"

PROVIDER: Final = "openai-compatible"
"""The row whose wire format a gateway speaks."""


class Gateway(msgspec.Struct, frozen=True):
    """The proxy that every call goes through.

    Args:
        url: Its address, as a base URL.
        key: Its key (LiteLLM's master key), if one is set. No other key is sent to it.
    """

    url: str
    key: SecretStr | None


def gateway(environ: Mapping[str, str] | None = None) -> Gateway | None:
    """The proxy that calls go through now; None where they go direct.

    Args:
        environ: The environment; this process's if None.

    Raises:
        UsageError: `KITARU_GATEWAY_URL` is not an http(s) address.
    """
    from kitaru.adapters import SecretStr

    environ = os.environ if environ is None else environ
    url, key = environ.get(URL, "").strip(), environ.get(KEY, "").strip()
    if not url:
        return None
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        good = False
    if not good:
        raise UsageError(
            f"{URL} is not an http(s) address", hint=f"Such as http://localhost:4000/v1; its key belongs into {KEY}."
        )
    return Gateway(url, SecretStr(key) if key else None)


def gateway_route(direct: Route, environ: Mapping[str, str] | None = None) -> Route | None:
    """The route through the proxy: the alias's name is passed on where the call used one, else `provider/model`.

    Secrets and addresses of the direct route are left out: the proxy has its own. The key to send is `gateway().key`,
    and no other.

    Args:
        direct: As `route` gave it.
        environ: The environment; this process's if None.

    Returns:
        None where calls go direct.

    Raises:
        UsageError: As `gateway`.
    """
    through = gateway(environ)
    return None if through is None else _through(direct, through.url)


def gateway_fallback(environ: Mapping[str, str] | None = None) -> bool:
    """Whether a call goes direct where the proxy cannot be reached and nothing was sent.

    Raises:
        UsageError: `KITARU_GATEWAY_FALLBACK` is set, and not to `direct`.
    """
    environ = os.environ if environ is None else environ
    said = environ.get(FALLBACK, "").strip().lower()
    if said not in ("", "direct"):
        raise UsageError(f"{FALLBACK}={said!r} is not known", hint="It is `direct`, or unset.")
    return said == "direct"


def key_trouble(error: ModelError, *, keyed: bool) -> Literal["", "gateway_key", "upstream_key"]:
    """Whose key is wrong where a call through the proxy failed: the proxy's, or its own for a provider; else empty.

    Args:
        error: What the call failed with.
        keyed: Whether a key was sent to the proxy.
    """
    said = error.message
    match error:
        case CredentialError():
            return "upstream_key" if keyed and "AuthenticationError" in said else "gateway_key"
        # litellm's proxy without a database, to a key that is not its master key; then to a request without a key
        case ProviderError() if "no connected db" in said.lower() or (error.status == 500 and not keyed):
            return "gateway_key"
        case ProviderError() if "AuthenticationError" in said:
            return "upstream_key"
        case _:
            return ""


def explained(error: ModelError, through: Gateway) -> ModelError:
    """What a failed call through the proxy failed with, in terms of the proxy where it is to blame.

    Args:
        error: As it came.
        through: The proxy.
    """
    where = f"the gateway at {through.url.partition('?')[0]}"
    if isinstance(error, ModelConnectionError) and not error.sent:
        return ModelConnectionError(
            f"{where} cannot be reached: {error.message}",
            hint=f"Start it, correct {URL}, or unset it to go direct; {FALLBACK}=direct goes direct while it is away.",
        )
    match key_trouble(error, keyed=through.key is not None):
        case "gateway_key":
            what = "refused its key" if through.key else "asks for a key"
            refused = CredentialError(f"{where} {what}: {error.message}", hint=f"Set {KEY} to its master key.")
            if isinstance(error, CredentialError | ProviderError):
                refused.status, refused.request_id = error.status, error.request_id
            return refused
        case "upstream_key":
            error.hint = f"The key that {where} has for the provider was refused: correct it in its configuration."
    return error


def _through(direct: Route, url: str) -> Route:
    return msgspec.structs.replace(
        direct,
        provider=PROVIDER,
        model=direct.alias or direct.name,
        base_url=url,
        base_url_source="gateway",
        secret="",
        fallbacks=tuple(_through(one, url) for one in direct.fallbacks),
    )
