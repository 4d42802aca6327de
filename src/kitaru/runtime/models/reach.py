"""Why an address cannot be reached: found step by step, after a call has failed."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

Step: TypeAlias = Literal["reached", "name", "refused", "timeout", "unreachable", "tls", "no-tls"]
"""How far it got: the host's name has no address, nobody listens, nothing comes back, no way there, the certificate is
not trusted, the server speaks no TLS."""

_SECONDS: Final = 10.0


class Reach(NamedTuple):
    """How far a connection got.

    Args:
        step: Where it ended.
        place: `host:port`.
        proxy: Whether that is a proxy of the environment, which stands before the address itself.
        detail: What the system says.
    """

    step: Step
    place: str
    proxy: bool
    detail: str = ""


async def reach(url: str, *, seconds: float = _SECONDS) -> Reach:
    """Connect to an address, or to the proxy that the environment puts before it, and say how far that gets.

    Args:
        url: An http(s) address.
        seconds: How long to wait.
    """
    return await asyncio.to_thread(_reach, url, seconds)


def _reach(url: str, seconds: float) -> Reach:
    from kitaru.adapters.http.proxies import proxy_named

    parts = urlsplit(url)
    host, scheme = parts.hostname or "", parts.scheme
    proxy = proxy_named(url)
    if proxy is not None:
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
        host, scheme = parts.hostname or "", parts.scheme
    port = parts.port or (443 if scheme == "https" else 80)
    place = f"{f'[{host}]' if ':' in host else host}:{port}"

    def ended(step: Step, detail: str = "") -> Reach:
        return Reach(step, place, proxy is not None, detail)

    try:
        with socket.create_connection((host, port), timeout=seconds) as plain:
            if scheme != "https":
                return ended("reached")
            with ssl.create_default_context().wrap_socket(plain, server_hostname=host):
                return ended("reached")
    except socket.gaierror as error:
        return ended("name", error.strerror or "")
    except ssl.SSLCertVerificationError as error:
        return ended("tls", error.verify_message or error.reason or "")
    except ssl.SSLError as error:
        return ended("no-tls", error.reason or "")
    except TimeoutError:
        return ended("timeout")
    except ConnectionRefusedError:
        return ended("refused")
    except (OSError, UnicodeError) as error:
        return ended("unreachable", getattr(error, "strerror", None) or str(error))
