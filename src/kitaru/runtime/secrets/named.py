"""Named secrets: stored sealed, read where they are used.

The functions here wait for the disk, and the first of them for the key, so in async code they take a moment each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kitaru.errors import AmbiguousError, NotFoundError, UsageError
from kitaru.runtime.arguments import flag_of, text_of
from kitaru.runtime.keys import here
from kitaru.runtime.secrets.image import NAME as KEY
from kitaru.runtime.secrets.vault import Vault, me
from kitaru.store.protocol import Sealed, SealedAt, SecretRow

if TYPE_CHECKING:
    from kitaru.adapters.secret import SecretStr
    from kitaru.runtime.core import Core
    from kitaru.runtime.runtime import Runtime

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}")
_SHORTEST_PREFIX: Final = 4
_LONGEST_VALUE: Final = 1 << 16


class Values(Mapping[str, str]):
    """A secret's values by key: plain text when read, masked when printed."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, SecretStr]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> str:
        return self._values[key].reveal()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


class Secret:
    """A secret that was read.

    Args:
        name: Its name.
        id: Its id.
        values: Its values by key, plain text; they are masked wherever the secret itself is printed.
        private: Whether only its owner gets to see it.
    """

    __slots__ = ("id", "name", "private", "values")

    def __init__(self, name: str, id: str, values: Mapping[str, SecretStr], private: bool) -> None:  # noqa: A002  # the public guides' names
        self.name = name
        self.id = id
        self.values = Values(values)
        self.private = private

    def get(self, key: str, default: str | None = None) -> str | None:
        """The value of a key, or `default` where the secret has no such key."""
        return self.values.get(key, default)

    def __getitem__(self, key: str) -> str:
        try:
            return self.values[key]
        except KeyError:
            raise NotFoundError(
                f"secret {self.name!r} has no key {key!r}", hint=f"It has {', '.join(self.values) or 'none'}."
            ) from None

    def __repr__(self) -> str:
        return f"Secret(name={self.name!r}, id={self.id!r}, values={self.values!r}, private={self.private})"


class SecretSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A secret without its values.

    Args:
        name: Its name.
        id: Its id.
        private: Whether only its owner gets to see it.
        keys: The names of its values, sorted.
        owner: The user who stored it.
        updated: When it was set last, UTC seconds since the epoch.
    """

    name: str
    id: str
    private: bool
    keys: tuple[str, ...]
    owner: str
    updated: float


def get_secret(name_or_id: str, *, runtime: Runtime | Core | None = None) -> Secret:
    """Read a secret. Its values are then never recorded: a boundary that would is an error.

    Call it where the value is used, in a flow or checkpoint, in sync or async code, or outside any run.

    Args:
        name_or_id: Its name, its id, or a unique prefix of the id.
        runtime: Whose store; that of the run that this code is in, else the default runtime's.

    Raises:
        NotFoundError: There is none that this user may see.
        AmbiguousError: Several other users share one of that name.
        SecretKeyError: It was sealed under a key that is not at hand.
    """
    vault = _vault(runtime)
    row = find(vault, name_or_id)
    return Secret(row.name, row.id, read(vault, row), row.private)


def describe_secret(name_or_id: str, *, runtime: Runtime | Core | None = None) -> SecretSummary:
    """What may be shown of a secret: nothing is opened, and no key is needed. Raises as `get_secret` does."""
    return summary(find(_vault(runtime), name_or_id))


def list_secrets(*, runtime: Runtime | Core | None = None) -> list[SecretSummary]:
    """The secrets that this user may see, by name.

    Args:
        runtime: As for `get_secret`.
    """
    return [summary(row) for row in visible(_vault(runtime))]


def create_secret(
    name: str, values: Mapping[str, str], *, private: bool = True, runtime: Runtime | Core | None = None
) -> SecretSummary:
    """Store a new secret.

    Args:
        name: Its name: letters, digits and `_ . @ -`.
        values: Its values by key; keys are named like environment variables.
        private: Whether only this user gets to see it; else all users of the store do.
        runtime: As for `get_secret`.

    Raises:
        UsageError: There is one of that name already, or a name or value cannot be right.
        SecretKeyError: No key can be had to seal it under.
    """
    return put(_vault(runtime), name, values, private=private, new=True)


def set_secret(
    name_or_id: str, values: Mapping[str, str], *, private: bool | None = None, runtime: Runtime | Core | None = None
) -> SecretSummary:
    """Store a secret, or set the named values of one that is there.

    Args:
        name_or_id: Its name, or the id of one that is there.
        values: The values to set; others stay.
        private: Whether only this user gets to see it; None leaves it, and makes a new one private.
        runtime: As for `get_secret`.

    Raises:
        UsageError, SecretKeyError: As `create_secret`.
    """
    return put(_vault(runtime), name_or_id, values, private=private)


def delete_secret(name_or_id: str, *, runtime: Runtime | Core | None = None) -> SecretSummary:
    """Delete a secret for good. Gives what it was, without values.

    Raises:
        NotFoundError: There is none that this user may see.
        UsageError: It is another user's.
    """
    vault = _vault(runtime)
    row = find(vault, name_or_id)
    if row.owner != me():
        raise UsageError(f"secret {row.name!r} belongs to {row.owner}", hint="Only its owner deletes it.")
    vault.store.secrets.delete(row.id)
    return summary(row)


def rekey(*, runtime: Runtime | Core | None = None) -> tuple[int, int, str]:
    """Seal everything anew under another key: `KITARU_SECRET_KEY` where it is set, else a fresh one.

    Returns:
        How many values were sealed anew, how many were left because their key is not at hand, and the new key's
        source.
    """
    return _vault(runtime).rekey()


# -- below the public functions ----------------------------------------------------------------------------------------


def _vault(runtime: Runtime | Core | None) -> Vault:
    from kitaru.runtime.core import core_of

    if runtime is None:
        place = here.get()
        if place is not None:
            return place.execution.secrets.vault
        from kitaru.runtime.default import default_core

        runtime = default_core()
    core = core_of(runtime)
    core.open_now()
    return core.vault


def summary(row: SecretRow) -> SecretSummary:
    """What may be shown of a secret to anybody who may see it."""
    return SecretSummary(
        name=row.name, id=row.id, private=row.private, keys=row.keys, owner=row.owner, updated=row.updated
    )


def visible(vault: Vault) -> list[SecretRow]:
    """The secrets that this user may see."""
    user = me()
    return [row for row in vault.store.secrets.secrets() if row.owner == user or not row.private]


def find(vault: Vault, name_or_id: str) -> SecretRow:
    """The one secret that a user's name for it means; the user's own wins over those of others.

    Raises:
        NotFoundError, AmbiguousError
    """
    text_of(name_or_id, "a secret's name")
    rows = visible(vault)
    user = me()
    named = [row for row in rows if row.name == name_or_id]
    own = [row for row in named if row.owner == user]
    found = own or named or [row for row in rows if row.id == name_or_id]
    if not found and len(name_or_id) >= _SHORTEST_PREFIX:
        found = [row for row in rows if row.id.startswith(name_or_id)]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(f"{row.name} of {row.owner} ({row.id})" for row in found)
        raise AmbiguousError(f"{name_or_id!r} means several secrets: {listed}", hint="Name one by its id.")
    raise NotFoundError(
        f"there is no secret {name_or_id!r} in {getattr(vault.store, 'url', 'this store')}",
        hint=f"Store it: `kitaru secrets set {name_or_id} KEY`; `kitaru secrets list` shows those there are.",
    )


def read(vault: Vault, row: SecretRow) -> dict[str, SecretStr]:
    """A secret's values, which count as read by this process from now on.

    Raises:
        SecretKeyError, CorruptStoreError: They cannot be opened.
    """
    from kitaru.adapters.secret import SecretStr

    found = {
        at.key: SecretStr(vault.open(at, sealed, f"{at.key} of secret {row.name!r}"))
        for at, sealed in vault.store.secrets.values(row.id)
    }
    for value in found.values():
        vault.known.add(value)
    return found


def values_of(vault: Vault, names: Iterable[str]) -> dict[str, dict[str, SecretStr]]:
    """The values of several secrets, by the names they were asked for by; raises as `find` and `read` do."""
    return {name: read(vault, find(vault, name)) for name in names}


def put(
    vault: Vault, name: str, values: Mapping[str, str], *, private: bool | None = None, new: bool = False
) -> SecretSummary:
    """Store a secret of this user's; raises as `create_secret` does."""
    if not new:
        # By its id, too, where it is there.
        name = next((row.name for row in visible(vault) if row.id == name and row.owner == me()), name)
    if private is not None:
        flag_of(private, "private")
    if _NAME.fullmatch(text_of(name, "name")) is None:
        raise UsageError(
            f"{name!r} cannot name a secret", hint="Use up to 128 letters, digits and _ . @ -, such as openai-creds."
        )
    if not values:
        raise UsageError(f"secret {name!r} is given no value", hint="Give it at least one KEY=value.")
    if not isinstance(values, Mapping):
        # It is not shown: it may be the value, by mistake.
        raise UsageError(f"the values of secret {name!r} are no mapping", hint='Write {"OPENAI_API_KEY": key}.')
    given: Mapping[Any, Any] = values
    for key, value in given.items():
        if not isinstance(key, str) or KEY.fullmatch(key) is None:
            # It is not shown: it may be the value, by mistake.
            raise UsageError(
                f"a value of secret {name!r} has a key that cannot name it",
                hint="Name it like a variable: OPENAI_API_KEY.",
            )
        if not isinstance(value, str) or not value or "\0" in value or len(value) > _LONGEST_VALUE:
            raise UsageError(f"the value of {key} is empty, too long, or no text")

    def seal(secret: str, version: int) -> dict[str, Sealed]:
        return {key: vault.seal(SealedAt("secret", secret, key, version), value) for key, value in values.items()}

    return summary(vault.store.secrets.put(name, me(), private, seal, new=new))
