"""Which proxy the environment names for an address, and which addresses `NO_PROXY` excepts."""

from __future__ import annotations

import ipaddress
import re
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

import httpx

from kitaru.adapters.request import loopback
from kitaru.errors import UsageError

_PORTS: Final = {"http": 80, "https": 443}


def proxy_for(url: str) -> httpx.Proxy | None:
    """Return the proxy for an address; None where it is called direct, as this machine's own always is.

    Raises:
        UsageError: What is named is no proxy that can be used.
    """
    named = proxy_named(url)
    if named is None:
        return None
    try:
        proxy = httpx.Proxy(named if "://" in named else f"http://{named}")
        # The library takes any number for a port, and any text for a host.
        if proxy.url.host and (proxy.url.port is None or 0 < proxy.url.port < 65536) and proxy.url.host.encode("idna"):
            return proxy
        raise unusable()
    except (ValueError, httpx.InvalidURL):
        # The library's message would quote the proxy's address, and its password.
        raise unusable() from None


def proxy_named(url: str) -> str | None:
    """Return the proxy that the environment names for an address, as it is written there.

    Read are `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in lower case too, on macOS and Windows also the
    system's settings.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return None  # whoever calls the address says what is wrong with it
    found = getproxies()
    named = found.get(parts.scheme) or found.get("all")
    if not named or loopback(url) or excepted(host, port, found.get("no", "")):
        return None
    # Python reads the exceptions of macOS and Windows, and these only where no variable names a proxy.
    return None if not getproxies_environment() and proxy_bypass(f"{host}:{port}") else named


def excepted(host: str, port: int, no_proxy: str) -> bool:
    """Whether `NO_PROXY` excepts a host.

    Its entries, between commas or spaces, are `*`, a domain (with or without a leading dot, for its subdomains too), a
    pattern such as `10.0.*`, an IP address, or a network such as `10.0.0.0/8` and `fd00::/8`; each may name a port.
    """
    host = host.rstrip(".").lower()
    return any(_matches(host, port, entry) for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


def _matches(host: str, port: int, entry: str) -> bool:
    entry = entry.rpartition("://")[2].rstrip("/")
    if entry.count(":") == 1 or "]:" in entry:
        entry, _, stated = entry.rpartition(":")
        if stated and stated != str(port):
            return False
    entry = entry.replace("[", "").replace("]", "")
    if "*" in entry and not entry.startswith("*."):
        return fnmatchcase(host, entry)
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry.partition("%")[0], strict=False)
        except ValueError:
            return False
    name = _ascii(entry.removeprefix("*").strip("."))
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _ascii(name: str) -> str:
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def unusable() -> UsageError:
    """Return the error for proxy or certificate settings that cannot be used."""
    return UsageError(
        "the proxy or certificate settings of the environment cannot be used",
        hint="Look at HTTP_PROXY, HTTPS_PROXY, ALL_PROXY (socks needs httpx[socks]) and SSL_CERT_FILE.",
    )
