"""A runtime's vault: it seals and opens what the store keeps, and remembers which secrets this process has read."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from kitaru.errors import CorruptStoreError, SecretKeyError
from kitaru.runtime.secrets.known import Known
from kitaru.runtime.secrets.secret_key import FORMER, VARIABLE, Keys, keys_at_hand, make_key, renewed
from kitaru.store.protocol import Held, Sealed, SealedAt
from kitaru.store.sealing import UnsealError, keyed_digest, new_key

if TYPE_CHECKING:
    from kitaru.adapters.secret import SecretStr
    from kitaru.store.protocol import Store

CREDENTIAL: Final = "credential:"
INPUT: Final = "input:"


class Vault:
    """Seals and opens values of one store. Its calls may wait for the disk or the OS keyring; any thread may make them.

    Args:
        store: The store, open before the first call.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: Keys | None = None
        self._digest_key = b""
        self._gate = threading.Lock()
        self.known = Known()
        """The secrets that this process has read."""
        self.warned: set[tuple[str, str]] = set()
        """What was warned of once already: a variable, and the secret that it shadows."""

    @property
    def store(self) -> Store:
        """The store whose values these are."""
        return self._store

    # -- sealing ------------------------------------------------------------------------------------------------------

    def seal(self, at: SealedAt, value: str) -> Sealed:
        """Seal a value for its place, under the newest key; one is made where there is none.

        Raises:
            SecretKeyError: No key can be had.
        """
        return self._sealing().sealers[0].seal(self._store.secrets.identity(), at, _bytes(value))

    def open(self, at: SealedAt, sealed: Sealed, what: str) -> str:
        """The value that was sealed.

        Args:
            at: Its place.
            sealed: The sealed value.
            what: What an error calls it.

        Raises:
            SecretKeyError: The key it was sealed under is not at hand.
            CorruptStoreError: It was altered.
        """
        return self._opened(at, sealed, what).decode("utf-8", "surrogatepass")

    def _opened(self, at: SealedAt, sealed: Sealed, what: str) -> bytes:
        keys = self._keys_with(sealed.sealer)
        sealer = next((one for one in keys.sealers if one.id == sealed.sealer), None)
        if sealer is None:
            raise SecretKeyError(
                f"{what} was sealed under key {sealed.sealer.hex()}, which is not at hand; looked in "
                + ", ".join(keys.looked),
                hint=f"Nothing is lost: set {VARIABLE} (or {FORMER}) to the key that it was stored with.",
            )
        try:
            return sealer.open(self._store.secrets.identity(), at, sealed)
        except UnsealError as error:
            raise CorruptStoreError(
                f"{what} cannot be opened with {sealer.source}: {error}", hint="Store it again."
            ) from None

    def _keys_with(self, sealer: bytes) -> Keys:
        with self._gate:
            if self._keys is None or all(one.id != sealer for one in self._keys.sealers):
                # Another process may have made a key meanwhile.
                self._keys = keys_at_hand(self._store.secrets.identity())
            return self._keys

    def _sealing(self) -> Keys:
        with self._gate:
            if self._keys is None or not self._keys.sealers:
                self._keys = make_key(self._store.secrets.identity())
            return self._keys

    def rekey(self) -> tuple[int, int, str]:
        """Seal everything anew, under `KITARU_SECRET_KEY` where it is set, else under a fresh key; all or nothing.

        Returns:
            How many values were sealed anew, how many were left because their key is not at hand, and the new key's
            source.

        Raises:
            SecretKeyError: No key can be had.
            CorruptStoreError: A value was altered; nothing was changed.
        """
        identity = self._store.secrets.identity()
        with renewed(identity) as keys:
            with self._gate:
                self._keys = keys
            newest = keys.sealers[0]
            at_hand = {sealer.id for sealer in keys.sealers}

            def again(at: SealedAt, sealed: Sealed) -> Sealed | None:
                if sealed.sealer not in at_hand:
                    return None
                return newest.seal(identity, at, self._opened(at, sealed, f"{at.kind} {at.holder} {at.key}".strip()))

            replaced, left = self._store.secrets.reseal(again)
        return replaced, left, newest.source

    # -- digests ------------------------------------------------------------------------------------------------------

    @property
    def digests(self) -> bool:
        """Whether `digest` can be asked at once."""
        return bool(self._digest_key)

    def prepare(self) -> None:
        """Have the key of digests ready. It stays the same for a store, whatever keys come and go.

        Raises:
            SecretKeyError: No key can be had.
        """
        secrets = self._store.secrets
        while not self._digest_key:
            self._sealing()
            for at, sealed in secrets.digest_keys():
                keys = self._keys_with(sealed.sealer)
                if any(one.id == sealed.sealer for one in keys.sealers):
                    self._digest_key = self._opened(at, sealed, "the key of digests")
                    return
            sealer = self._sealing().sealers[0]
            made = new_key()
            secrets.add_digest_key(lambda at: sealer.seal(secrets.identity(), at, made), sealer.id)  # noqa: B023  # called at once

    def digest(self, value: str) -> bytes:
        """What an event holds in the place of a secret; `prepare` comes first."""
        return keyed_digest(self._digest_key, _bytes(value))

    # -- what runs keep -----------------------------------------------------------------------------------------------

    def held(self, run: str, values: Mapping[str, SecretStr | None]) -> list[Held]:
        """What a run keeps beside its log, sealed; a value of None says that it is needed, but not kept."""
        return [
            Held(key, None if value is None else self.seal(_at_run(run, key), value.reveal()))
            for key, value in values.items()
        ]

    def of_run(self, run: str) -> dict[str, SecretStr | None]:
        """What a run keeps beside its log, by `credential:PROVIDER` and `input:DIGEST`.

        Raises:
            SecretKeyError, CorruptStoreError: As `open`.
        """
        from kitaru.adapters.secret import SecretStr

        return {
            key: None
            if sealed is None
            else SecretStr(self.open(_at_run(run, key), sealed, f"the {key.partition(':')[0]} of run {run}"))
            for key, sealed in self._store.secrets.held(run)
        }


def _at_run(run: str, key: str) -> SealedAt:
    return SealedAt("run", run, key, 0)


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogatepass")


@functools.cache
def me() -> str:
    """The user of this process, as the owner of secrets."""
    if hasattr(os, "getuid"):
        import pwd

        try:
            return pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            return f"uid {os.getuid()}"
    import getpass

    return getpass.getuser()
