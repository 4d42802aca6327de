"""Replaying a run: a new run, forked from it, that executes only what its options and the present code ask for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kitaru.errors import NotFoundError, ReplayError, RunExistsError, UsageError
from kitaru.runtime import history as histories
from kitaru.runtime import loader
from kitaru.runtime.arguments import flag_of, names_of
from kitaru.runtime.blobs import blob_of
from kitaru.runtime.history import PYTHON, History, kitaru_version
from kitaru.runtime.keys import OWN_NAMES
from kitaru.runtime.models import current_registry, resolve
from kitaru.runtime.overriding import told
from kitaru.runtime.replay import Record, Rules
from kitaru.runtime.retrying import dropped_by_retry
from kitaru.runtime.secrets import private as privates
from kitaru.runtime.secrets.private import RunSecrets
from kitaru.runtime.selecting import checkpoint_around, selected
from kitaru.runtime.work import missing_parameter
from kitaru.store.events import (
    AnyEvent,
    Blob,
    CodeSeen,
    Copied,
    FlowRef,
    Origin,
    Parent,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunRetried,
    RunStarted,
)
from kitaru.store.names import new_run_id, valid_run_id
from kitaru.store.protocol import Recorded

if TYPE_CHECKING:
    from kitaru.runtime.core import Core
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.flight import Flight
    from kitaru.runtime.flow import Flow, FlowWork
    from kitaru.runtime.handle import RunHandle

_STILL: Final = 0.3
"""Seconds without progress after which a dry run has come as far as it can."""


class ReplayOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay is told.

    Args:
        run_id: The new run's id.
        from_: Selectors of boundaries that run again, with all whose start was recorded after theirs.
        overrides: Outcomes, as JSON text, by selector.
        inputs: Flow inputs that change, as parsed from JSON, by parameter name.
        keep_code: Reuse outcomes whatever became of the code that made them.
        verify: Allow nothing live.
        dry_run: Record nothing and execute nothing; see what would.
        allow_effects: Names of `effects=True` checkpoints that may run again.
        model: Models to ask instead of those that calls name.
        registry: `current`, or `source` for the registry that the source run had.

    A selector is a key, a name, or an event's number in the source run. What a source that is itself a replay was told
    (`inputs`, `overrides`, `model`) is part of what it was, and holds for its replays too, until told otherwise.
    """

    run_id: str | None = None
    from_: tuple[str, ...] = ()
    overrides: dict[str, str] = msgspec.field(default_factory=dict)
    inputs: dict[str, object] = msgspec.field(default_factory=dict)
    keep_code: bool = False
    verify: bool = False
    dry_run: bool = False
    allow_effects: tuple[str, ...] = ()
    model: dict[str, str] = msgspec.field(default_factory=dict)
    registry: str = "current"

    def __post_init__(self) -> None:
        if self.run_id is not None:
            valid_run_id(self.run_id)
        for name in ("from_", "allow_effects"):
            msgspec.structs.force_setattr(self, name, names_of(getattr(self, name), name))
        for name in ("keep_code", "verify", "dry_run"):
            flag_of(getattr(self, name), name)
        for name in ("overrides", "inputs", "model"):
            given = getattr(self, name)
            texts = isinstance(given, Mapping) and [*given, *(given.values() if name != "inputs" else ())]
            if texts is False or not all(isinstance(one, str) for one in texts):
                raise UsageError(f"{name}={given!r}: a mapping of texts is needed", hint=_MAPPINGS[name])
        if self.registry not in ("current", "source"):
            raise UsageError(f"registry={self.registry!r}: it is 'current' or 'source'")


_MAPPINGS: Final = {
    "overrides": "An outcome is JSON text: overrides={'draft': '\"text\"'}.",
    "inputs": "Write inputs={'topic': 'tides'}.",
    "model": "Write model={'fast': 'anthropic/...'}.",
}


class Fork(msgspec.Struct):
    """A replay under way, or, for `--dry-run` and `--verify`, one that leaves no run behind.

    `would_run` are the keys that a dry run would execute, and why; `not_reached` those of the source that it did not
    come to.
    """

    source: str
    run: str
    handle: Any
    would_run: dict[str, str] = msgspec.field(default_factory=dict)
    not_reached: tuple[str, ...] = ()
    execution: Any = None


async def replay(
    runtime: Core, run: str, options: ReplayOptions | None = None, flow: Flow[..., Any] | None = None
) -> Fork:
    """Replay a run on this loop.

    Args:
        runtime: Where the run is, and where the new one will be.
        run: The source run's whole id. Its log is not touched.
        options: What to do otherwise than it did.
        flow: Its flow as it is now; found by what the run remembers if not given.

    Returns:
        The fork. Its handle's result raises what the flow raises; with `verify` a `LiveCallError` at the first boundary
        that would have to run, or a `ReplayError` naming what is no longer reached; with `dry_run` there is no handle.

    Raises:
        NotFoundError, AmbiguousError: A selector fits nothing, or several boundaries.
        UsageError: An input does not exist or does not fit; a model of `model` does not exist.
    """
    options = ReplayOptions() if options is None else options
    if not isinstance(options, ReplayOptions):
        raise UsageError(
            f"replay's options are a {type(options).__name__}", hint="Pass kitaru.ReplayOptions(from_=('draft',))."
        )
    await loader.opened(runtime, run, flow)
    events = await runtime.store.events(run)
    source = histories.read(run, events)
    if source.started is None:
        raise histories.not_there(run, events)
    if flow is None:
        flow = await loader.flow_of(runtime, run)
    rules = await _rules(runtime, source, events, options)
    fork_id = valid_run_id(options.run_id) if options.run_id is not None else new_run_id()
    given = RunSecrets(runtime.vault, fork_id)
    given.check_text(fork_id, "the id of a run")
    data = await _inputs(runtime, source, flow, options, given)
    unrecorded = options.verify or options.dry_run
    for key, outcome in rules.overrides.items():
        if key not in source.rules.overrides and isinstance(outcome, bytes):
            given.check(outcome, f"the override of {key}: value")
    secrets = await privates.of_fork(
        runtime, source.started, run, flow.work, given, data, must_have_inputs=not unrecorded
    )
    registry = current_registry() if options.registry == "current" else await runtime.value(source.started.registry)
    for model in options.model.values():
        resolve(model, registry, {})
    first, artifacts = opening(
        source,
        events,
        flow.work.ref,
        data,
        flow.work.encode_named(flow.work.decode_inputs(data))[1] if options.inputs else source.started.fingerprint,
        rules,
        registry,
        None,
        source.started.image,
    )
    if not unrecorded:
        return Fork(run, fork_id, await runtime.begin_fork(fork_id, flow.work, first, artifacts, secrets))
    return await _unrecorded(runtime, run, fork_id, flow, first, secrets, dry=options.dry_run)


def opening(
    source: History,
    events: list[Recorded],
    flow: FlowRef,
    data: bytes,
    fingerprint: bytes,
    rules: Rules,
    registry: bytes,
    parent: Parent | None,
    image: bytes = b"",
) -> tuple[list[AnyEvent], dict[bytes, bytes]]:
    """The first transaction of a fork: what it is told, and copies of all that it may reuse."""
    now = time.time()
    inputs, artifacts = blob_of(data)
    snapshot, more = blob_of(registry)
    rules = msgspec.structs.replace(rules, pythons=frozenset(source.pythons))
    started = RunStarted(
        v=1, at=now, flow=flow, inputs=inputs, fingerprint=fingerprint, kitaru=kitaru_version(), python=PYTHON,
        parent=parent,
        origin=Origin(source.run, events[-1].seq if events else 0, msgspec.msgpack.encode(rules), source.root),
        registry=snapshot, image=image, keys=source.started.keys if source.started is not None else OWN_NAMES,
    )  # fmt: skip
    first: list[AnyEvent] = [started]
    first += [CodeSeen(1, now, digest, blob) for digest, blob in source.codes.items()]
    ended_by = _ended_by(events)
    last_own = max((r.turn for r in source.records.values() if r.own), default=0)
    for record in [*source.records.values(), *source.effects.values()]:
        if record.state == "started" or record.key in rules.forced or record.key in rules.overrides:
            continue
        if record.key in ended_by and record.state != "completed":
            continue
        event = record.event
        if event.key != record.key:
            event = msgspec.structs.replace(event, key=record.key)
        turn = record.turn if record.own or not record.turn else record.turn + last_own
        first.append(Copied(1, now, source.run, record.seq, turn, msgspec.Raw(msgspec.msgpack.encode(event))))
    return first, {**artifacts, **more}


def _ended_by(events: list[Recorded]) -> frozenset[str]:
    """The failures that ended a run, and what they made it give up: a replay does those again."""
    ends = (RunCompleted, RunFailed, RunCancelled, RunRetried)
    end = next((r.event for r in reversed(events) if isinstance(r.event, ends)), None)
    return frozenset(dropped_by_retry(events)) if isinstance(end, RunFailed | RunCancelled) else frozenset()


async def fork_child(
    parent: Execution, work: FlowWork, flight: Flight, source: str, run: str, made_by: Parent
) -> RunHandle[Any] | None:
    """A child run of a replayed parent, forked from the child that the parent's source had; None if it exists already.

    Where the source had none, it is a replay of nothing: what it may not do without being told, it still may not.
    """
    runtime = parent.host.runtime
    try:
        events = await runtime.store.events(source)
    except NotFoundError:
        events = []
    history = histories.read(source, events)
    if history.started is None:
        history, events = histories.read("", []), []
    rules = Rules(
        replaying=True,
        keep_code=parent.rules.keep_code,
        verify=parent.rules.verify,
        # Asked to run again, it does so as a whole.
        forced=frozenset(history.records) if flight.key in parent.rules.forced else frozenset(),
        allow_effects=parent.rules.allow_effects,
        models=parent.rules.models,
    )
    secrets = await privates.of_new_run(
        runtime, run, flight.data, image=work.image, parent=parent, inputs=parent.secrets.inputs
    )
    first, artifacts = opening(
        history,
        events,
        work.ref,
        flight.data,
        flight.fingerprint,
        rules,
        parent.registry,
        made_by,
        secrets.recorded_image(work.image),
    )
    try:
        return await runtime.begin_fork(run, work, first, artifacts, secrets)
    except RunExistsError:
        return None


# -- what the options mean ---------------------------------------------------------------------------------------------


async def _rules(runtime: Core, source: History, events: list[Recorded], options: ReplayOptions) -> Rules:
    forced: set[str] = set()
    for selector in options.from_:
        start = _selected(source, events, selector).order
        forced |= {r.key for r in source.records.values() if r.order >= start}
    overrides: dict[str, Blob] = {
        key: outcome
        for key, outcome in source.rules.overrides.items()
        if key in source.overridden and key not in forced
    }
    for selector, text in options.overrides.items():
        record = _selected(source, events, selector)
        overrides[record.key] = await told(runtime, record, text)
    return Rules(
        replaying=True,
        keep_code=options.keep_code,
        verify=options.verify or options.dry_run,
        forced=frozenset(forced),
        overrides=overrides,
        allow_effects=frozenset(options.allow_effects),
        models={**source.rules.models, **options.model},
    )


def _selected(source: History, events: list[Recorded], selector: str) -> Record:
    key = selected(source.run, events, selector)
    if key in source.records:
        return source.records[key]
    around = checkpoint_around(key)
    while checkpoint_around(around):
        around = checkpoint_around(around)
    raise UsageError(
        f"{key} was called in the checkpoint {around}, which a replay reuses or runs as a whole",
        hint=f"Name the checkpoint: {around}.",
    )


async def _inputs(
    runtime: Core, source: History, flow: Flow[..., Any], options: ReplayOptions, secrets: RunSecrets
) -> bytes:
    assert source.started is not None
    data = await runtime.value(source.started.inputs)
    work = flow.work
    named = work.decode_inputs(data)
    for name, value in options.inputs.items():
        named[name] = work.input_from_json(name, value)
    if missing := missing_parameter(work.signature, named):
        raise UsageError(
            f"{work.name}{work.signature} needs {missing!r}, which run {source.run} did not have",
            hint=f"Give it: `--input {missing}=...`.",
        )
    return (await privates.encoded_inputs(runtime, work, named, secrets))[0] if options.inputs else data


# -- replays that leave nothing behind ---------------------------------------------------------------------------------


async def _unrecorded(
    runtime: Core,
    source: str,
    run: str,
    flow: Flow[..., Any],
    first: list[AnyEvent],
    secrets: RunSecrets,
    *,
    dry: bool,
) -> Fork:
    from kitaru.runtime.execution import Execution
    from kitaru.runtime.handle import RunHandle
    from kitaru.runtime.host import Host
    from kitaru.runtime.unrecorded import UnrecordedStore

    host = Host(runtime, UnrecordedStore(runtime.store), asyncio.get_running_loop())
    history = histories.read(run, [Recorded(seq, 0, event) for seq, event in enumerate(first, 1)])
    if history.other_python:
        history.codes = {digest: await runtime.value(code) for digest, code in history.codes.items()}
    started = history.started
    assert started is not None
    data, registry = await runtime.value(started.inputs), await runtime.value(started.registry)
    execution = Execution(host, run, 1, flow.work, data, history, registry, secrets)
    if dry:
        execution.would_run = {}
    host.begin(execution)
    fork = Fork(source, run, RunHandle(runtime, run, flow.work, execution), execution=execution)
    if not dry:
        return fork
    done = asyncio.wrap_future(execution.finished)
    seen = -1
    while not done.done() and seen != (seen := execution.progress()):
        await asyncio.wait([done], timeout=_STILL)
    fork.would_run = dict(execution.would_run or {})
    fork.not_reached = tuple(r.key for r in history.records.values() if not r.claimed and r.key not in fork.would_run)
    if not done.done():
        execution.leave("a dry run")
        if execution.root is not None:
            await asyncio.wait([execution.root])
    if done.done() and not done.cancelled():
        done.exception()
    if execution.stopped_by is not None:
        raise execution.stopped_by
    fork.handle = None
    return fork


async def verified(runtime: Core, fork: Fork) -> object:  # noqa: ARG001  callers name where, as they do elsewhere
    """The result of a `--verify` replay whose every boundary was reused.

    Raises:
        LiveCallError: A boundary would have to run.
        ReplayError: The flow no longer comes to a recorded boundary.
    """
    result: object = await fork.handle.result()
    left = [r.key for r in fork.execution.records.values() if not r.claimed and r.state != "cancelled"]
    if left:
        raise ReplayError(
            f"a replay of run {fork.source} does not come to {', '.join(left[:5])}"
            + (" and more" if len(left) > 5 else ""),
            hint="The code around its boundaries changed; `kitaru replay` without --verify lists them as dropped.",
        )
    return result
