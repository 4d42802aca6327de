"""Which proxy the environment names for an address. Python's own rules, which curl's documents describe."""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass

import httpx

from kitaru.adapters.request import loopback
from kitaru.errors import UsageError


def proxy_for(url: httpx.URL) -> httpx.Proxy | None:
    """Return the proxy for an address; None where it is called direct, as this machine's own always is.

    Read are `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in lower case too, on macOS and Windows also the
    system's settings.

    Raises:
        UsageError: What is named is no proxy that can be used.
    """
    if loopback(str(url)):
        return None
    found = getproxies()
    named = found.get(url.scheme) or found.get("all")
    port = url.port or {"http": 80, "https": 443}[url.scheme]
    if not named or proxy_bypass(f"{url.host}:{port}"):
        return None
    try:
        return httpx.Proxy(named if "://" in named else f"http://{named}")
    except (ValueError, httpx.InvalidURL):
        # The library's message would quote the proxy's address, and its password.
        raise unusable() from None


def unusable() -> UsageError:
    """Return the error for proxy or certificate settings that cannot be used."""
    return UsageError(
        "the proxy or certificate settings of the environment cannot be used",
        hint="Look at HTTP_PROXY, HTTPS_PROXY, ALL_PROXY (socks needs httpx[socks]) and SSL_CERT_FILE.",
    )
