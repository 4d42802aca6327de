"""What a boundary does when it runs: one `Work` per checkpoint, model call, timer or child flow.

The engine (`execution`) knows only this interface; it asks for inputs, a code digest and an outcome, and records them.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kitaru.errors import UsageError
from kitaru.runtime.call import Call
from kitaru.runtime.keys import Place
from kitaru.runtime.secrets.private import hidden, is_secret
from kitaru.store import codec
from kitaru.store.entity import Entity
from kitaru.store.events import Blob, BoundaryEvent, Kind, StepCompleted, StepStarted

if TYPE_CHECKING:
    from kitaru.runtime.code.digest import Code
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flight import Flight

_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
SCALARS: Final = frozenset({str, int, float, bool, type(None), bytes})
"""Immutable types that stand for themselves: what is recorded is what the function gets."""


class Unresolved(Exception):
    """Inputs hold a handle whose value is not there yet. `call` is what to await."""

    def __init__(self, call: Awaitable[object]) -> None:
        super().__init__(call)
        self.call = call


def stand_in(value: object) -> object:
    """The value that a handle in an outcome stands for; what is no handle stands for itself.

    Raises:
        Unresolved: It has none yet.
        UnrecordableError: It is a secret.
    """
    if not isinstance(value, Call):
        if is_secret(value):
            raise codec.UnrecordableError("is a secret", "Give what was made with it, or the secret's name.")
        return value
    if not value.done:
        raise Unresolved(value)
    return value.load()


def input_stand_in(value: object) -> object:
    """As `stand_in`, for inputs: a secret among them is recorded as a placeholder.

    Raises:
        Unresolved: As `stand_in`, or the key that placeholders are made with has to be fetched first.
        UnrecordableError: It is a secret, and no run is near that could keep it.
    """
    return hidden(value) if is_secret(value) else stand_in(value)


class Inputs(Entity):
    """What a boundary was called with: as given, and, once every handle is resolved, as recorded.

    `data` is the encoded form, None until then. `args` and `kwargs` are what the function gets.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    data: bytes | None = None
    fingerprint: bytes = b""


class Work:
    """One boundary's behaviour. Subclasses say how to perform it."""

    kind: ClassVar[Kind] = "step"
    announced: bool = False
    """Whether its start is committed before it runs: it may be billed, or change the world."""
    prepares: bool = False
    """Whether it has something to do before that matters, and waits for `flight.announcement` by itself."""
    effects: bool = False
    anew: bool = False
    """Whether a replay does it again whatever the source holds: it costs nothing, and its inputs do not tell all."""

    def __init__(self, name: str) -> None:
        self.name = name

    # -- what it is called with and gives -----------------------------------------------------------------------------

    def encode_inputs(self, inputs: Inputs) -> None:
        """Fill in `inputs.data` and `.fingerprint`, and put what the function gets into `.args` and `.kwargs`.

        Raises:
            Unresolved: A handle among them has no value yet.
            EncodeError: One of them cannot be recorded.
        """
        data = codec.encode(
            [inputs.args, inputs.kwargs] if inputs.kwargs else list(inputs.args), unknown=input_stand_in
        )
        inputs.data = data
        inputs.fingerprint = codec.fingerprint(data)

    def encode_outcome(self, value: object) -> bytes:
        """The recorded form of what it gave.

        Raises:
            Unresolved, EncodeError
        """
        return codec.encode(value, unknown=stand_in)

    def decode_outcome(self, data: bytes) -> object:
        """The value that the flow sees, on the first run as on every other."""
        return codec.decoder()(data)

    def value_of(self, data: bytes, event: BoundaryEvent) -> object:
        """As `decode_outcome`, for an outcome of which the event that holds or names it says a part."""
        del event
        return self.decode_outcome(data)

    def overridden(self, data: bytes) -> object:
        """The value that a replay was told, in place of an outcome."""
        return codec.decoder()(data)

    @property
    def module(self) -> str:
        """The module whose classes outcomes and failures may be made of."""
        return ""

    def code(self) -> Code | None:
        """What its outcome depends on in the project's source; None where that is nothing."""
        return None

    def version(self, execution: Execution) -> bytes:
        """The digest that a replay compares beside the inputs."""
        return execution.code_digest(self)

    def artifacts(self, flight: Flight) -> dict[bytes, bytes]:
        """The artifacts, beside its inputs, that its start names."""
        del flight
        return {}

    def outcome_artifacts(self, flight: Flight) -> dict[bytes, bytes]:
        """The artifacts, beside its outcome, that its end names."""
        del flight
        return {}

    # -- how it runs --------------------------------------------------------------------------------------------------

    async def run(self, call: Call[Any]) -> object:
        """Run a call made outside any flow."""
        raise UsageError(
            f"{self.name} at {call.where} is outside any flow", hint="Call it in the body of a @flow function."
        )

    async def perform(self, flight: Flight) -> object:
        """Do the work itself, once."""
        raise NotImplementedError

    def retry_after(self, error: BaseException, attempt: int) -> float | None:
        """Seconds to wait before the next attempt, or None when this failure is the outcome."""
        del error, attempt
        return None

    def abandoned(self, flight: Flight) -> None:
        """The flow gave the call up while it ran."""

    def wait_in_thread(self, call: Call[Any]) -> None:
        """Wait in sync code until the call has finished."""
        from kitaru.runtime.threads import wait_for

        wait_for(call)

    # -- what is recorded of it ---------------------------------------------------------------------------------------

    def started_event(self, flight: Flight, at: float) -> BoundaryEvent:
        """The event that says it is running."""
        return StepStarted(
            v=1, at=at, key=flight.key, kind=self.kind, fingerprint=flight.fingerprint, code=flight.code,
            inputs=flight.inputs, order=flight.order, attempt=flight.attempt, effects=self.effects,
        )  # fmt: skip

    def completed_event(self, flight: Flight, at: float, outcome: Blob) -> BoundaryEvent:
        """The event that holds its outcome."""
        return StepCompleted(
            1, at, flight.key, self.kind, flight.fingerprint, flight.code, flight.inputs, flight.order, flight.attempt,
            flight.started, outcome,
        )  # fmt: skip


def missing_parameter(signature: inspect.Signature, given: Container[str]) -> str:
    """The first parameter that a call by name leaves out although it has no default; empty if there is none."""
    for name, parameter in signature.parameters.items():
        if name not in given and parameter.default is parameter.empty and parameter.kind not in _VARIADIC:
            return name
    return ""


class DeclaredWork(Work):
    """The work of a decorated function, which can be found by its name."""

    function: Callable[..., Any]


def declare(work: DeclaredWork) -> None:
    """Let a decorated function be found."""
    _DECLARED.setdefault(work.name, weakref.WeakSet()).add(work)


def declared(name: str) -> list[DeclaredWork]:
    """The decorated functions of a name that are loaded."""
    return list(_DECLARED.get(name, ()))


_DECLARED: Final[dict[str, weakref.WeakSet[DeclaredWork]]] = {}


class Parameters:
    """A function's parameters, as far as recording a call of it needs them."""

    __slots__ = ("_ignored", "_leading", "_names", "_own", "_plain", "_signature", "names")

    def __init__(self, function: Callable[..., object], ignore: Sequence[str]) -> None:
        signature = inspect.signature(function)
        parameters = signature.parameters
        if unknown := [name for name in ignore if name not in parameters]:
            raise UsageError(
                f"{function.__qualname__} has no parameter {', '.join(map(repr, unknown))} to ignore",
                hint=f"Its parameters: {', '.join(parameters) or 'none'}.",
            )
        kinds = {p.kind for p in parameters.values()}
        self.names = tuple(parameters)
        self._signature = signature
        own = inspect.signature(function, follow_wrapped=False)
        self._own = own if own.parameters.keys() != parameters.keys() else None
        self._ignored = frozenset(ignore)
        self._plain = not ignore and kinds <= {
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        }
        self._leading = len(parameters)
        self._names = tuple(parameters)

    def recorded(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any] | dict[str, Any]:
        """The inputs as they are recorded: a list where the leading parameters are given in order, else a map by name.

        Raises:
            TypeError: The call does not fit the signature.
        """
        if self._plain and not kwargs and len(args) <= self._leading:
            return list(args)
        given = self._bound(args, kwargs).arguments
        if not self._ignored and list(given) == list(self._names[: len(given)]) and self._plain:
            return list(given.values())
        return {name: value for name, value in given.items() if name not in self._ignored}

    def received(
        self, recorded: list[Any] | dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the function gets: the recorded copies, and what was excluded from recording as it was given."""
        if isinstance(recorded, list):
            return tuple(recorded), {}
        bound = self._bound(args, kwargs)
        bound.arguments.update(recorded)
        return bound.args, bound.kwargs

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        try:
            return self._signature.bind(*args, **kwargs)
        except TypeError:
            if self._own is None:
                raise
            # A wrapper that takes more than the function whose name it bears.
            return self._own.bind(*args, **kwargs)


def make_call(work: Work, place: Place | None, args: tuple[Any, ...], kwargs: dict[str, Any], frame: Any) -> Call[Any]:
    """A handle for one call of `work`, its inputs encoded if they can be already."""
    inputs = Inputs(args, kwargs)
    if place is not None:
        try:
            work.encode_inputs(inputs)
        except Unresolved:
            pass
        else:
            place.execution.secrets.check_call(place.prefix, work.name, inputs.data or b"")
    return Call(work, place, inputs, frame)
