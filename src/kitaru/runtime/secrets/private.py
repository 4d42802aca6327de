"""What a run knows and no event may hold: its credentials, its secret inputs, its variables."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import typing
from collections.abc import Generator, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from kitaru.errors import CredentialError, NotFoundError, UsageError
from kitaru.runtime.secrets import image as images
from kitaru.runtime.secrets.bound import Bound, bound
from kitaru.runtime.secrets.image import EXPORTS, NO_IMAGE, ImageSettings
from kitaru.runtime.secrets.known import SHORTEST, environment_secrets, found_in, refusal, unrecordable
from kitaru.runtime.secrets.vault import CREDENTIAL, INPUT, Vault
from kitaru.store import codec
from kitaru.store.events import HELD
from kitaru.store.protocol import Held

if TYPE_CHECKING:
    from kitaru.adapters.secret import SecretStr
    from kitaru.runtime.core import Core
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flow import FlowWork
    from kitaru.store.events import RunStarted


class RunSecrets:
    """One run's.

    Args:
        vault: That of its runtime.
        run: Its id.
        image: Its settings, its parent's among them.
        overlay: The variables that they give.
        credentials: Keys by provider.
        unkept: Providers whose keys are kept in memory only.
        inputs: Secret inputs, by the digests that stand for them.
    """

    __slots__ = ("_own", "credentials", "image", "inputs", "live", "overlay", "run", "unkept", "vault")

    def __init__(
        self,
        vault: Vault,
        run: str,
        *,
        image: ImageSettings = NO_IMAGE,
        overlay: Mapping[str, SecretStr] | None = None,
        credentials: Mapping[str, SecretStr] | None = None,
        unkept: frozenset[str] = frozenset(),
        inputs: Mapping[bytes, SecretStr] | None = None,
    ) -> None:
        self.vault = vault
        self.run = run
        self.image = image
        self.overlay = dict(overlay or {})
        self.credentials = dict(credentials or {})
        self.unkept = unkept
        self.inputs = dict(inputs or {})
        self.live = False
        self._own = [*self.credentials.values(), *self.inputs.values()]

    # -- while it lives -----------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """The run begins: its variables are exported.

        Raises:
            UsageError: A live run needs another value of one of them.
        """
        if self.overlay:
            EXPORTS.enter(self, self.run, self.overlay)
        self.live = True

    @contextlib.contextmanager
    def entering(self) -> Iterator[None]:
        """As `enter`; where the body fails, the run has not begun."""
        self.enter()
        try:
            yield
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """The run has left memory. Idempotent."""
        if self.live and self.overlay:
            EXPORTS.leave(self, self.overlay)
        self.live = False

    def add_input(self, digest: bytes, value: SecretStr) -> None:
        """A secret that code of the run hands to a boundary."""
        if digest not in self.inputs:
            self.inputs[digest] = value
            self._own.append(value)

    # -- what is kept -------------------------------------------------------------------------------------------------

    @property
    def kept(self) -> bool:
        """Whether the store keeps anything for it."""
        return bool(self.credentials or self.inputs)

    def held(self) -> list[Held]:
        """What the store keeps for it, sealed. May wait for the disk.

        Raises:
            SecretKeyError: No key can be had.
        """
        values: dict[str, SecretStr | None] = {
            CREDENTIAL + name: None if name in self.unkept else value for name, value in self.credentials.items()
        }
        values.update({INPUT + digest.hex(): value for digest, value in self.inputs.items()})
        return self.vault.held(self.run, values)

    def recorded_image(self, own: ImageSettings) -> bytes:
        """What is recorded of its settings: nothing where they are its flow's own, looked up as its code is."""
        data = b"" if self.image == own else images.encoded(self.image)
        self.check(data, "the image of a run: value", sent=True)
        return data

    @property
    def parked_as(self) -> str:
        """Why the run, once it has left memory, is not resumed unasked; empty where it may be."""
        return waits_for(sorted(self.unkept)) if self.unkept else ""

    # -- what must not be recorded ------------------------------------------------------------------------------------

    def check(self, data: bytes, what: str, *, sent: bool = False) -> None:
        """Refuse encoded data that holds a secret known here.

        Args:
            data: The data.
            what: What the error calls it, before the path.
            sent: Look for keys that code passed to model calls, too: an input may hold one, metadata has no need to.

        Raises:
            EncodeError: It does; names the path.
        """
        if not self._own and not self.vault.known.any:
            return
        secrets = self._all() if sent else [*self.vault.known.all(), *self._own]
        if found_in(data, secrets):
            raise refusal(data, secrets, what)

    def failure(self, error: BaseException) -> tuple[bytes, bool]:
        """The recorded form of an exception without any secret known here, and whether there was one in it."""
        return masked_failure(error, self._all())

    def check_call(self, prefix: str, name: str, data: bytes) -> None:
        """Refuse a boundary whose key or encoded inputs hold a secret known here; raises as `check` does."""
        if self._own or self.vault.known.any:
            self.check_text(name, "the name of a boundary")
            self.check_text(prefix, "the name of a task's function or of a scope")
            self.check(data, f"{name}(): inputs")

    def check_text(self, text: str, what: str) -> None:
        """Refuse a name, an id or a reason that holds a secret known here.

        Args:
            text: The text.
            what: What the error calls it; the text itself is not shown.

        Raises:
            EncodeError: It does.
        """
        if len(text) < SHORTEST or not (self._own or self.vault.known.any):
            return
        # Names are short, and no form of a secret is shorter than the secret.
        fitting = (secret for secret in self._all() if len(secret.reveal()) <= len(text))
        if found_in(text.encode("utf-8", "surrogatepass"), fitting):
            raise unrecordable(what)

    def source(self, source: bytes) -> bytes:
        """The source behind a code digest, with every secret in it masked that is known here."""
        from kitaru.runtime.code.masked import masked

        secrets = [*self._all(), *environment_secrets()]
        return masked(source, tuple(secret for secret in secrets if len(secret.reveal()) >= SHORTEST))

    def _all(self) -> list[SecretStr]:
        return [*self.vault.known.all(sent=True), *self._own]


def masked_failure(error: BaseException, secrets: list[SecretStr]) -> tuple[bytes, bool]:
    """The recorded form of an exception without these secrets and those of the environment; whether one was in it."""
    from kitaru.adapters.secret import mask_text

    data = codec.encode_exception(error)
    secrets = [*secrets, *environment_secrets()]
    if not found_in(data, secrets):
        return data, False
    return (
        codec.mask_exception(
            data, lambda text: mask_text(text, secrets, shortest=SHORTEST), lambda part: found_in(part, secrets)
        ),
        True,
    )


def waits_for(providers: list[str]) -> str:
    """The reason under which a run is parked that waits for credentials."""
    return f"{HELD}: waiting for a credential for {', '.join(providers)}"


# -- secrets among inputs ----------------------------------------------------------------------------------------------

hiding: Final[ContextVar[RunSecrets | None]] = ContextVar("kitaru_hiding", default=None)
"""Whose secrets the inputs encoded in this context may hold."""


class _Preparing:
    """Stands where a handle would: what has to be awaited before inputs with a secret can be encoded."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def __await__(self) -> Generator[Any, Any, None]:
        return asyncio.to_thread(self._vault.prepare).__await__()


def is_secret(value: object) -> TypeGuard[SecretStr]:
    """Whether a value is a `SecretStr`. Where nobody has imported that, nothing is."""
    module = sys.modules.get("kitaru.adapters.secret")
    return module is not None and isinstance(value, module.SecretStr)


def takes_secret(annotation: object) -> bool:
    """Whether a parameter takes a `SecretStr`, among others or alone."""
    module = sys.modules.get("kitaru.adapters.secret")
    return module is not None and module.SecretStr in (annotation, *typing.get_args(annotation))


def hidden(value: SecretStr) -> object:
    """What is recorded of a secret among inputs: a placeholder, the same for the same secret in one store.

    Raises:
        Unresolved: The store's key of digests has to be fetched first.
        UnrecordableError: Here is no run, and none is being started.
    """
    from kitaru.runtime.work import Unresolved

    secrets = hiding.get()
    if secrets is None:
        raise codec.UnrecordableError("is a secret", "Read it where it is used, or pass it to a flow or checkpoint.")
    if not secrets.vault.digests:
        raise Unresolved(_Preparing(secrets.vault))
    digest = secrets.vault.digest(value.reveal())
    secrets.add_input(digest, value)
    return codec.Hidden(digest)


async def encoded_inputs(
    runtime: Core, work: FlowWork, named: dict[str, Any], secrets: RunSecrets
) -> tuple[bytes, bytes]:
    """A run's inputs by name, encoded, and their fingerprint.

    Args:
        runtime: Where it will run.
        work: Its flow.
        named: The inputs.
        secrets: Gets the secrets among them.

    Raises:
        EncodeError: One of them cannot be recorded.
    """
    from kitaru.runtime.work import Unresolved

    token = hiding.set(secrets)
    try:
        while True:
            try:
                data, fingerprint = work.encode_named(named)
            except Unresolved as handle:
                # What it needs may be in the store: the key that secret inputs are digested with.
                await runtime.open()
                await handle.call
            else:
                secrets.check(data, f"{work.name}(): inputs")
                return data, fingerprint
    finally:
        hiding.reset(token)


# -- a run begins, or goes on ------------------------------------------------------------------------------------------


async def of_new_run(
    runtime: Core,
    run: str,
    data: bytes,
    *,
    image: ImageSettings,
    parent: Execution | None,
    inputs: Mapping[bytes, SecretStr],
) -> RunSecrets:
    """The secrets of a run that begins here and now.

    Args:
        runtime: Where.
        run: Its id.
        data: Its encoded inputs.
        image: Its own settings.
        parent: The live run that starts it, whose credentials and variables it inherits.
        inputs: The secrets that its inputs may hold, by digest.

    Raises:
        NotFoundError: A secret that its environment needs does not exist.
        UsageError: Its environment contradicts itself.
        SecretKeyError: A secret cannot be opened.
    """
    given = bound.get()
    outer = parent.secrets if parent is not None else None
    if outer is not None:
        image = images.merged(outer.image, image)
        given = Bound(outer.credentials, outer.unkept).within(given)
    if given is None and not inputs and not image:
        return RunSecrets(runtime.vault, run)
    return RunSecrets(
        runtime.vault,
        run,
        image=image,
        overlay=await overlay(runtime.vault, run, image),
        credentials=given.keys if given is not None else None,
        unkept=given.unkept if given is not None else frozenset(),
        inputs={digest: inputs[digest] for digest in codec.hidden_in(data) if digest in inputs} if inputs else None,
    )


async def of_fork(
    runtime: Core,
    source: RunStarted,
    source_run: str,
    work: FlowWork,
    given: RunSecrets,
    data: bytes,
    *,
    must_have_inputs: bool,
) -> RunSecrets:
    """The secrets of a replay: those that its inputs name are the source run's, or were given anew.

    Args:
        runtime: Where.
        source: The source run's first event.
        source_run: Its id.
        work: The flow.
        given: Those of the replay as far as its inputs were given anew.
        data: Its encoded inputs.
        must_have_inputs: Whether it may execute anything.

    Raises:
        NotFoundError: A secret input is not kept any more, or a secret does not exist.
        UsageError, SecretKeyError: As `of_new_run`.
    """
    inputs = dict(given.inputs)
    needed = codec.hidden_in(data)
    if any(digest not in inputs for digest in needed):
        for key, value in (await asyncio.to_thread(runtime.vault.of_run, source_run)).items():
            if key.startswith(INPUT) and value is not None:
                inputs.setdefault(bytes.fromhex(key.removeprefix(INPUT)), value)
    lost = [digest for digest in needed if digest not in inputs]
    if lost and must_have_inputs:
        named = work.decode_inputs(data)
        name = next(name for name, value in named.items() if lost[0] in codec.hidden_in(codec.encode(value)))
        raise lost_input(source_run, name)
    image = images.decoded(source.image) if source.image else work.image
    return await of_new_run(runtime, given.run, data, image=image, parent=None, inputs=inputs)


async def of_known_run(runtime: Core, run: str, started: RunStarted, image: ImageSettings) -> RunSecrets:
    """The secrets of a run that goes on.

    Args:
        runtime: Where.
        run: Its id.
        started: Its first event.
        image: Its flow's own settings, where the run has none recorded.

    Raises:
        CredentialError: It needs a credential that is not kept, and was not given.
        NotFoundError: It needs a secret input that is not kept any more, or a secret that does not exist.
        UsageError, SecretKeyError: As `of_new_run`.
    """
    kept = await asyncio.to_thread(runtime.vault.of_run, run)
    image = images.decoded(started.image) if started.image else image
    given = bound.get()
    live = runtime.live_run(started.parent.run) if started.parent is not None else None
    if live is not None:
        given = Bound(live.secrets.credentials, live.secrets.unkept).within(given)
    given = given or Bound({}, frozenset())
    credentials: dict[str, SecretStr] = {}
    inputs: dict[bytes, SecretStr] = {}
    unkept = set(given.unkept)
    missing = []
    for key, value in kept.items():
        kind, _, name = key.partition(":")
        if kind == CREDENTIAL[:-1]:
            if name not in given.keys:
                if value is None:
                    missing.append(name)
                else:
                    credentials[name] = value
        elif value is None:
            raise lost_input(run)
        else:
            inputs[bytes.fromhex(name)] = value
    if missing:
        raise CredentialError(
            f"run {run} waits for a credential for {', '.join(missing)}: it was kept in memory only, or the run had "
            "ended",
            hint=f"Resume it inside `async with kitaru.credentials({missing[0].replace('-', '_')}=...)`.",
        )
    return RunSecrets(
        runtime.vault,
        run,
        image=image,
        overlay=await overlay(runtime.vault, run, image),
        credentials={**credentials, **given.keys},
        unkept=frozenset(unkept),
        inputs=inputs,
    )


def lost_input(run: str, name: str = "") -> NotFoundError:
    """The error for a secret input that was deleted when its run ended."""
    return NotFoundError(
        f"input {name} of type SecretStr is not kept after run {run} ended"
        if name
        else f"an input of type SecretStr is not kept after run {run} ended",
        hint=f"Replay the run and give it anew: `kitaru replay {run} --input {name or 'NAME'}=...`.",
    )


async def overlay(vault: Vault, run: str, image: ImageSettings) -> dict[str, SecretStr]:
    """The variables that settings give to a run."""
    if not image:
        return {}
    from kitaru.runtime.secrets.named import values_of

    try:
        secrets = await asyncio.to_thread(values_of, vault, image.secret_environment_from)
    except NotFoundError as error:
        raise NotFoundError(f"run {run}: {error.message}", hint=error.hint) from None
    found, conflict = images.overlay_of(image, secrets)
    if conflict is not None:
        raise UsageError(f"run {run}: {conflict}", hint="Leave one of them out.")
    return found
