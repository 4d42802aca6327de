"""The secrets that this process has read: found in what is about to be recorded, masked in what is to be shown."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from kitaru.errors import EncodeError

if TYPE_CHECKING:
    from kitaru.adapters.secret import SecretStr

SHORTEST: Final = 8
"""Characters from which a value is looked for: a shorter one would be found in text that has nothing to do with it."""

MOST_SENT: Final = 100
"""Keys passed to model calls that are remembered: a server may see one for each of its users."""

SHORTEST_KEY: Final = 12
"""The same for a variable of the environment: local servers want placeholders there, such as "lm-studio"."""

_SECRET_NAME: Final = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(?:$|_)", re.IGNORECASE)


class Known:
    """Secrets by value. Any thread may add one."""

    def __init__(self) -> None:
        self._secrets: dict[str, SecretStr] = {}
        self._sent: dict[str, SecretStr] = {}
        self.any = False
        """Whether there is one: looked at before everything that is recorded."""

    def add(self, value: SecretStr) -> None:
        """Remember a value that was read."""
        text = value.reveal()
        if len(text) >= SHORTEST:
            self._secrets.setdefault(text, value)
            self.any = True

    def add_sent(self, value: SecretStr) -> None:
        """Remember a key that code passed to a model call: it is masked, but an input may still hold it."""
        text = value.reveal()
        if len(text) >= SHORTEST_KEY and text not in self._sent:
            while len(self._sent) >= MOST_SENT:
                self._sent.pop(next(iter(self._sent)), None)
            self._sent[text] = value
            self.any = True

    def all(self, *, sent: bool = False) -> list[SecretStr]:
        """All that were read, and with `sent` the keys that code passed, too."""
        return [*self._secrets.values(), *(self._sent.values() if sent else ())]


def found_in(data: bytes, secrets: Iterable[SecretStr]) -> bool:
    """Whether encoded data holds one of the values: raw, or as base64, percent- or JSON-escaped text."""
    return any(len(secret.reveal()) >= SHORTEST and any(form in data for form in secret.forms()) for secret in secrets)


def refusal(data: bytes, secrets: list[SecretStr], what: str) -> EncodeError:
    """The error for data that holds one of the values: it names the path to it, never the value."""
    from kitaru.store import codec

    path = _path(codec.display(data), secrets)
    return unrecordable(f"{what}{path or ''}")


def unrecordable(what: str) -> EncodeError:
    """The error for what holds a secret; says where, never the value."""
    return EncodeError(
        f"{what} holds a secret that this process has read, which is never recorded",
        hint="Pass the secret's name and read it where it is used, or take the input as a kitaru.SecretStr.",
    )


def _path(value: object, secrets: list[SecretStr]) -> str | None:
    """Where in a displayed value the first of them is; None where it is nowhere in it."""
    if isinstance(value, str):
        return "" if found_in(value.encode("utf-8", "surrogatepass"), secrets) else None
    if isinstance(value, dict):
        for key, item in value.items():
            inner = _path(item, secrets)
            if inner is not None:
                return f'["{key}"]{inner}' if _path(key, secrets) is None else "[...]" + inner
            if _path(key, secrets) is not None:
                return ".keys()"
    if isinstance(value, list):
        for index, item in enumerate(value):
            inner = _path(item, secrets)
            if inner is not None:
                return f"[{index}]{inner}"
    return None


def holds_environment_secret(data: bytes) -> bool:
    """Whether encoded data holds the value of a variable whose name says that it is secret."""
    return any(secret.reveal().encode("utf-8", "surrogatepass") in data for secret in environment_secrets())


def environment_secrets(environ: Mapping[str, str] | None = None) -> list[SecretStr]:
    """The values of environment variables whose names say that they are secret."""
    from kitaru.adapters.secret import SecretStr

    environ = os.environ if environ is None else environ
    values = [environ.get(name, "").strip() for name in filter(_is_secret_name, environ)]
    return [SecretStr(value) for value in values if len(value) >= SHORTEST_KEY]


@functools.lru_cache(maxsize=4096)
def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None
