"""Whose key a model call is sent with: an argument, the run's credentials, the environment, the alias's secret."""

from __future__ import annotations

from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import msgspec

from kitaru.errors import CredentialError, NotFoundError, UsageError
from kitaru.runtime.arguments import flag_of
from kitaru.runtime.keys import here
from kitaru.runtime.log import log
from kitaru.runtime.secrets.bound import Bound, bound
from kitaru.runtime.secrets.image import run_environment
from kitaru.runtime.secrets.known import SHORTEST_KEY

if TYPE_CHECKING:
    from kitaru.adapters.provider import Provider
    from kitaru.adapters.secret import SecretStr
    from kitaru.runtime.secrets.vault import Vault

Source: TypeAlias = Literal["argument", "environment", "secret", "none"]


class Credential(msgspec.Struct, frozen=True):
    """What a call is sent with.

    Args:
        key: The key or token, if there is one.
        source: Where it came from; recorded with the call.
        bearer: It is a token for `Authorization: Bearer`, where the provider's keys go into another header.
    """

    key: SecretStr | None
    source: Source
    bearer: bool = False


NONE: Final = Credential(None, "none")


class credentials:  # noqa: N801  # used like a function
    """Bind keys to the runs started inside: `async with kitaru.credentials(openai=user_key): await flow(...)`.

    They are kept sealed under the run's id, so that a resume finds them again, and deleted when the run ends; child
    runs inherit them. Works with `async with` and with `with`.

    Args:
        persist: Keep them with the run. Where False, a run that left memory waits until it is resumed or started again
            inside `kitaru.credentials` with that provider.
        keys: Keys by provider, `-` written as `_`: `openai=...`, `openai_compatible=...`.

    Raises:
        UsageError: There is no such provider, or a key is empty.
    """

    def __init__(self, *, persist: bool = True, **keys: str | SecretStr) -> None:
        from kitaru.adapters.providers import provider
        from kitaru.adapters.secret import SecretStr

        if not keys:
            raise UsageError("kitaru.credentials() without a key", hint="Write kitaru.credentials(openai=key).")
        found: dict[str, SecretStr] = {}
        given: dict[str, Any] = keys
        for name, key in given.items():
            secret = key if isinstance(key, SecretStr) else SecretStr(key.strip() if isinstance(key, str) else "")
            if not secret:
                raise UsageError(f"kitaru.credentials({name}=...) is given no key", hint="Pass the key as text.")
            found[provider(name.replace("_", "-")).name] = secret
        self._bound = Bound(found, frozenset() if flag_of(persist, "persist") else frozenset(found))
        self._tokens: list[Token[Bound | None]] = []

    def __enter__(self) -> Self:
        outer = bound.get()
        self._tokens.append(bound.set(self._bound if outer is None else outer.within(self._bound)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        bound.reset(self._tokens.pop())

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<credentials for {', '.join(self._bound.keys)}>"


def find(row: Provider, *, argument: str | SecretStr | None, linked: str | None, trusted_host: bool) -> Credential:
    """The credential for a call to a provider.

    In this order: the argument, `kitaru.credentials`, the run's own environment and then the process's, the alias's
    linked secret. May wait for the disk.

    Args:
        row: The provider.
        argument: `api_key=` of the call.
        linked: The name of the secret that the model's alias links.
        trusted_host: Whether code, the local registry or the provider's own variable named the host, or it is the
            provider's own. Where not, keys of the environment and secrets stay here.

    Returns:
        The credential; its source is `none` where there is none.

    Raises:
        CredentialError: The linked secret does not exist, or holds no key for the provider.
        SecretKeyError: It cannot be opened.
    """
    from kitaru.adapters.secret import SecretStr

    if argument is not None:
        key = argument if isinstance(argument, SecretStr) else SecretStr(argument.strip())
        if key:
            remember(key, sent=True)
            return Credential(key, "argument")
    given = _given(row)
    if given is not None:
        remember(given)
        return Credential(given, "argument")
    if not trusted_host:
        return NONE
    environ = run_environment()
    for name in row.key_env:
        value = environ.get(name, "").strip()
        if value:
            if linked:
                _warn_of_shadow(row, name, linked)
            key = SecretStr(value)
            remember(key)
            return Credential(key, "environment", name in row.bearer_env)
    return _linked(row, linked) if linked else NONE


def missing(row: Provider, linked: str | None = None, *, trusted_host: bool = True) -> CredentialError:
    """The error for a provider without a credential: says how to set one up."""
    if not trusted_host:
        return CredentialError(
            f"no key for {row.name}: the host was named by a recorded run, so no key of this environment is sent there",
            hint="Name the host yourself (base_url=, or `kitaru model register --base-url`), or pass api_key=.",
        )
    variable = row.key_env[0] if row.key_env else "KEY"
    ways = [f"set {' or '.join(row.key_env)}"] if row.key_env else []
    ways += [f"store it (`kitaru secrets set {linked or row.name + '-creds'} {variable}`) and link it to an alias"]
    ways += ["pass api_key=, or start the run inside kitaru.credentials(...)"]
    text = "; ".join(ways)
    return CredentialError(f"no key for {row.title or row.name}", hint=f"{text[0].upper()}{text[1:]}.")


def _given(row: Provider) -> SecretStr | None:
    """The key that `kitaru.credentials` bound here, else to the run; one for a provider of the same keys will do."""
    place = here.get()
    inner = bound.get()
    keys = {**(place.execution.secrets.credentials if place is not None else {}), **(inner.keys if inner else {})}
    if not keys:
        return None
    if row.name in keys:
        return keys[row.name]
    from kitaru.adapters.providers import provider

    return next((key for name, key in keys.items() if row.key_env and provider(name).key_env == row.key_env), None)


def _vault() -> Vault:
    place = here.get()
    if place is not None:
        return place.execution.secrets.vault
    from kitaru.runtime.default import default_core

    runtime = default_core()
    runtime.open_now()
    return runtime.vault


def remember(key: SecretStr, *, sent: bool = False) -> None:
    """Have a key of this run's calls kept out of what is recorded.

    Args:
        key: The key.
        sent: Code passed it, so an input may hold it; a key that was looked up has no business there.
    """
    place = here.get()
    if place is None or len(key.reveal()) < SHORTEST_KEY:
        return
    known = place.execution.secrets.vault.known
    if sent:
        known.add_sent(key)
    else:
        known.add(key)


def _linked(row: Provider, linked: str) -> Credential:
    from kitaru.runtime.secrets import named as secrets

    vault = _vault()
    try:
        values = secrets.read(vault, secrets.find(vault, linked))
    except NotFoundError as error:
        raise CredentialError(f"no key for {row.name}: {error.message}", hint=error.hint) from None
    for name in row.key_env:
        if name in values:
            return Credential(values[name], "secret", name in row.bearer_env)
    if len(values) == 1:
        return Credential(next(iter(values.values())), "secret")
    raise CredentialError(
        f"secret {linked!r} holds no key for {row.name}: it has {', '.join(sorted(values))}",
        hint=f"Add it: `kitaru secrets set {linked} {row.key_env[0] if row.key_env else 'KEY'}`.",
    )


def _warn_of_shadow(row: Provider, variable: str, linked: str) -> None:
    place = here.get()
    warned = place.execution.secrets.vault.warned if place is not None else None
    if warned is None or (variable, linked) in warned:
        return
    warned.add((variable, linked))
    log().warning(
        "credential.shadowed", provider=row.name, variable=variable, secret=linked,
        why=f"the environment's {variable} is used, not the alias's secret",
    )  # fmt: skip
