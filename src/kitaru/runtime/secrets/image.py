"""What a run finds in its environment: variables and secrets of its own, beside those of the process.

A run's own values come first wherever Kitaru looks something up. They are put into `os.environ` too while the run
lives, for libraries that know nothing of runs, but never over a value that is there, and no other run's look-up sees
them.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

import msgspec

from kitaru.errors import UsageError
from kitaru.runtime.keys import here
from kitaru.store import codec

if TYPE_CHECKING:
    from kitaru.adapters.secret import SecretStr

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ImageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the runs of a flow get as their environment.

    Args:
        environment: Variables by name. They are recorded with the run, so no secrets.
        secret_environment_from: Names (or ids) of secrets whose keys become variables.

    Raises:
        UsageError: A name cannot be a variable's, or a value is no text.
    """

    environment: Mapping[str, str] = msgspec.field(default_factory=dict)
    secret_environment_from: Sequence[str] = ()

    def __post_init__(self) -> None:
        # Whatever somebody wrote, checked by a type checker or not.
        names: Any = self.secret_environment_from
        variables: Mapping[Any, Any] = self.environment
        if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
            raise UsageError(
                f"secret_environment_from={names!r} is no list of names",
                hint='Write secret_environment_from=["openai-creds"].',
            )
        if not isinstance(variables, Mapping):
            raise UsageError(f"environment={type(variables).__name__} is no mapping of variables")
        for name, value in variables.items():
            if not isinstance(name, str) or NAME.fullmatch(name) is None:
                raise UsageError(f"{name!r} cannot name an environment variable")
            if not isinstance(value, str) or "\0" in value:
                raise UsageError(f"the value of environment variable {name} is no text")
        msgspec.structs.force_setattr(self, "environment", dict(self.environment))
        msgspec.structs.force_setattr(self, "secret_environment_from", tuple(dict.fromkeys(names)))

    def __bool__(self) -> bool:
        return bool(self.environment or self.secret_environment_from)

    def __repr__(self) -> str:
        # A value may be a secret by mistake.
        return (
            f"ImageSettings(environment={sorted(self.environment)}, "
            f"secret_environment_from={list(self.secret_environment_from)})"
        )


NO_IMAGE: Final = ImageSettings()


def as_image(given: ImageSettings | Mapping[str, object] | None) -> ImageSettings:
    """Image settings from what a user wrote: themselves, or a dictionary of their fields.

    Raises:
        UsageError: It is neither, or has a field that is none.
    """
    if given is None:
        return NO_IMAGE
    if isinstance(given, ImageSettings):
        return given
    if not isinstance(given, Mapping):
        raise UsageError(f"image={type(given).__name__} is neither kitaru.ImageSettings nor a dictionary of its fields")
    unknown = sorted(str(name) for name in given.keys() - set(ImageSettings.__struct_fields__))
    if unknown:
        raise UsageError(
            f"image= has no field {', '.join(unknown)}",
            hint=f"It has {' and '.join(ImageSettings.__struct_fields__)}: a run has an environment, but no container.",
        )
    fields: dict[str, Any] = dict(given)
    return ImageSettings(**fields)


def merged(outer: ImageSettings, inner: ImageSettings) -> ImageSettings:
    """What a child run gets: its parent's and its own, which win."""
    if not outer or not inner:
        return outer or inner
    return ImageSettings(
        environment={**outer.environment, **inner.environment},
        secret_environment_from=(*outer.secret_environment_from, *inner.secret_environment_from),
    )


def encoded(image: ImageSettings) -> bytes:
    """The recorded form, empty for none: names of secrets, never values."""
    if not image:
        return b""
    return codec.encode(
        {"environment": dict(image.environment), "secret_environment_from": list(image.secret_environment_from)}
    )


def decoded(data: bytes) -> ImageSettings:
    """What `encoded` gave."""
    fields: Any = codec.decoder()(data) if data else {}
    return ImageSettings(**fields)


def overlay_of(
    image: ImageSettings, secrets: Mapping[str, Mapping[str, SecretStr]]
) -> tuple[dict[str, SecretStr], str | None]:
    """The variables that an image gives, and what two of its sources disagree about.

    Args:
        image: The settings.
        secrets: The values of the secrets it names, by name.
    """
    from kitaru.adapters.secret import SecretStr

    overlay = {name: SecretStr(value) for name, value in image.environment.items()}
    source = dict.fromkeys(overlay, "environment=")
    for secret, values in secrets.items():
        for name, value in values.items():
            if name in overlay and overlay[name] != value:
                return {}, f"{source[name]} and secret {secret!r} give {name} different values"
            overlay[name], source[name] = value, f"secret {secret!r}"
    return overlay, None


class Exports:
    """What `os.environ` holds for the sake of live runs: one table a process, as there is one environment."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._needed: dict[str, tuple[SecretStr, dict[int, str]]] = {}
        self._exported: dict[str, SecretStr] = {}

    def enter(self, holder: object, run: str, overlay: Mapping[str, SecretStr]) -> None:
        """A run begins.

        Args:
            holder: Stands for it until it leaves.
            run: Its id.
            overlay: Its variables.

        Raises:
            UsageError: A live run needs another value of one of them; nothing was exported.
        """
        with self._gate:
            for name, value in overlay.items():
                needed = self._needed.get(name)
                if needed is not None and needed[0] != value:
                    other = next(iter(needed[1].values()))
                    raise UsageError(
                        f"run {run} needs another value of {name} than run {other}, which is live in this process",
                        hint="A process has one environment: start it when that run has ended, in a process of its "
                        "own, or pass the key with kitaru.credentials(...).",
                    )
            for name, value in overlay.items():
                self._needed.setdefault(name, (value, {}))[1][id(holder)] = run
                if name not in os.environ:
                    os.environ[name] = value.reveal()
                    self._exported[name] = value

    def leave(self, holder: object, overlay: Mapping[str, SecretStr]) -> None:
        """A run has left memory: what only it needed goes, unless somebody has set it to something else since."""
        with self._gate:
            for name in overlay:
                needed = self._needed.get(name)
                if needed is None:
                    continue
                needed[1].pop(id(holder), None)
                if needed[1]:
                    continue
                del self._needed[name]
                exported = self._exported.pop(name, None)
                if exported is not None and os.environ.get(name) == exported.reveal():
                    del os.environ[name]

    def hidden(self, name: str) -> bool:
        """Whether the environment has a variable only because a run needs it."""
        exported = self._exported.get(name)
        return exported is not None and os.environ.get(name) == exported.reveal()


EXPORTS: Final = Exports()


T = TypeVar("T")


class RunEnvironment(Mapping[str, str]):
    """The environment as one run sees it: its own variables, then the process's without those of other runs."""

    def __init__(self, overlay: Mapping[str, SecretStr]) -> None:
        self._overlay = overlay

    def __getitem__(self, name: str) -> str:
        own = self._overlay.get(name)
        if own is not None:
            return own.reveal()
        if EXPORTS.hidden(name):
            raise KeyError(name)
        return os.environ[name]

    @overload
    def get(self, name: str, default: None = None, /) -> str | None: ...

    @overload
    def get(self, name: str, default: str, /) -> str: ...

    @overload
    def get(self, name: str, default: T, /) -> str | T: ...

    def get(self, name: str, default: object = None, /) -> object:
        """Return a variable, without the exception that one which is not set costs at every call."""
        own = self._overlay.get(name)
        if own is not None:
            return own.reveal()
        return default if EXPORTS.hidden(name) else os.environ.get(name, default)

    def __iter__(self) -> Iterator[str]:
        yield from self._overlay
        yield from (name for name in list(os.environ) if name not in self._overlay and not EXPORTS.hidden(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<environment of a run: {len(self._overlay)} variables of its own>"


def run_environment() -> RunEnvironment:
    """The environment as the running code sees it: inside a run with the run's own variables first."""
    place = here.get()
    return RunEnvironment(place.execution.secrets.overlay if place is not None else {})


def getenv(name: str, default: str | None = None) -> str | None:
    """An environment variable as the run that this code is in sees it.

    The run's own (`@flow(image=...)`) come first; what other runs have in `os.environ` is not seen. Outside any run it
    is what `os.environ` holds, without what runs have put there.

    Args:
        name: The variable.
        default: What to give where it is not set.
    """
    return run_environment().get(name, default)
