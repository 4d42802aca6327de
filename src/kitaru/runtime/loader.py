"""Finding a flow again: from what a user names, or from what a run remembers."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from kitaru.errors import NotFoundError, UnguardedError, UsageError
from kitaru.runtime.call import Call
from kitaru.runtime.flow import Flow
from kitaru.runtime.loading import GUARD, execute_rest, loading, refuse_while_loading
from kitaru.store import codec
from kitaru.store.events import FlowRef

if TYPE_CHECKING:
    from kitaru.runtime.core import Core

_LOADING: Final = "__kitaru_loading__"


def load_spec(spec: str) -> Flow[..., Any]:
    """The flow that `file.py:flow`, `package.module:flow`, or either without `:flow` where there is only one, names.

    Raises:
        UsageError: It names no flow, or the file cannot be loaded as it stands.
        NotFoundError: No such file or module.
    """
    target, _, name = spec.partition(":")
    is_file = target.endswith(".py") or "/" in target
    module = load_file(Path(target)) if is_file else _import(target)
    if name:
        return _flow_in(module, name, spec)
    flows = {n: v for n, v in vars(module).items() if isinstance(v, Flow) and v.work.module == module.__name__}
    if len(flows) == 1:
        return next(iter(flows.values()))
    listed = ", ".join(f"{target}:{n}" for n in flows)
    raise UsageError(f"{target} holds {len(flows) or 'no'} flows", hint=f"Name one: {listed}" if listed else None)


async def flow_of(runtime: Core, run: str) -> Flow[..., Any]:
    """The flow that a run remembers, loaded; of a model call of its own, made from its log.

    Raises:
        NotFoundError: No such run, or its flow is not to be found.
        UsageError: Its module no longer holds it.
    """
    from kitaru.runtime.calls.alone import is_one_call, recorded_call

    ref = (await runtime.first_event(run)).flow
    if is_one_call(ref):
        return await recorded_call(runtime, run)
    try:
        return load_flow(ref)
    except UnguardedError:
        raise
    except (NotFoundError, UsageError) as error:
        error.hint = f"{error.hint or ''} Where it moved, name it: `--flow FILE:FLOW`, or flow= in Python.".strip()
        raise


def load_flow(ref: FlowRef) -> Flow[..., Any]:
    """The flow that a run remembers, imported or loaded from its file.

    Raises:
        NotFoundError: Neither its module nor its file is there.
        UsageError: The module no longer holds it.
    """
    flow = loaded_flow(ref)
    if flow is not None:
        return flow
    if ref.module != "__main__":
        try:
            return _flow_in(_import(ref.module), ref.qualname, f"{ref.module}:{ref.qualname}")
        except NotFoundError:
            if not Path(ref.file).exists():
                raise
    elif not Path(ref.file).exists():
        typed = _attribute(sys.modules["__main__"], ref.qualname)
        if isinstance(typed, Flow) and not Path(typed.work.ref.file).exists():
            return typed
        if _is_typed_in(ref.file):
            raise NotFoundError(
                f"the flow {ref.qualname} was defined in a notebook or at a prompt, and this process does not have it",
                hint="Run its cells, then there: `async with kitaru.Runtime() as rt: await (await rt.replay(RUN))"
                ".handle.result()`. Or put the flow into a file.",
            )
    return _flow_in(load_file(Path(ref.file)), ref.qualname, f"{ref.file}:{ref.qualname}")


def loaded_flow(ref: FlowRef) -> Flow[..., Any] | None:
    """The flow that a run remembers, if its module is loaded already."""
    for module in list(sys.modules.values()):
        if codec.portable_module(getattr(module, "__name__", "")) != ref.module:
            continue
        if ref.module == "__main__" and not _same_file(getattr(module, "__file__", None), ref.file):
            continue
        found = _attribute(module, ref.qualname)
        if isinstance(found, Flow):
            return found
    return None


def load_file(path: Path) -> ModuleType:
    """A script or module by its path. A module of a package that can be imported is imported under its own name; any
    other file is loaded once, and stands for the script that it is when run as `__main__`; a statement of it that
    starts a run is left out.

    Raises:
        NotFoundError: No such file.
        UsageError: It cannot be loaded.
    """
    path = path.resolve()
    if not path.is_file():
        raise NotFoundError(f"no file {path}", hint="Name a Python file, or a module with dots.")
    for module in list(sys.modules.values()):
        if _same_file(getattr(module, "__file__", None), str(path)):
            return module
    name = _importable_name(path)
    if name:
        return _import(name)
    name = f"kitaru_script_{path.stem}_{codec.content_digest(str(path).encode()).hex()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    codec.register_main_alias(name)
    setattr(module, _LOADING, True)
    try:
        with loading(str(path)):
            try:
                spec.loader.exec_module(module)
            except Exception as error:
                execute_rest(module, path, error)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        setattr(module, _LOADING, False)
    return module


def startable(flow: object) -> None:
    """Refuse what is no flow, and a flow whose script is being loaded for another run: it would be started twice.

    Raises:
        UsageError: It is one of these.
    """
    if not isinstance(flow, Flow):
        raise _no_flow(flow)
    loaded = sys.modules.get(flow.work.module)
    if loaded is not None and getattr(loaded, _LOADING, False):
        raise UnguardedError(f"{loaded.__file__} starts a run while it is being loaded", hint=GUARD)
    refuse_while_loading()


async def opened(runtime: Core, run: object, flow: object = None) -> None:
    """Open a runtime for what somebody asks of a run, if that can be meant.

    Raises:
        UsageError: The run is no id, or the flow no flow.
    """
    if not isinstance(run, str):
        shown = f"{type(run).__name__} {run!r}" if isinstance(run, int) else f"{type(run).__name__}"
        raise UsageError(f"a run is named by its id, not by a {shown}", hint="Pass a handle's `handle.id`.")
    if flow is not None and not isinstance(flow, Flow):
        raise _no_flow(flow)
    await runtime.open()


def _no_flow(given: object) -> UsageError:
    hint = "Pass the flow itself, then its arguments: `rt.start(writer, 'tides')`."
    if isinstance(given, Call):
        given.close()
        return UsageError(f"{given.work.name}(...) at {given.where} is a call of a flow, not a flow", hint=hint)
    if callable(given):
        hint = "Decorate the function with @flow, above its other decorators."
    return UsageError(f"{type(given).__name__} {getattr(given, '__name__', '')} is not a flow", hint=hint)


def _import(name: str) -> ModuleType:
    if not all(name.split(".")):
        raise NotFoundError(f"{name!r} names no file or module", hint="Name a Python file, or a module with dots.")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        with loading(name):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise NotFoundError(
                f"no module {name}", hint="Run it from the project's folder, or name the file."
            ) from None
        raise


def _importable_name(path: Path) -> str:
    """The dotted name of a module inside a package, where importing that name would find this very file."""
    parts = [path.stem]
    folder = path.parent
    if not (folder / "__init__.py").exists():
        return ""
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return ".".join(parts)


def _flow_in(module: ModuleType, qualname: str, spec: str) -> Flow[..., Any]:
    found = _attribute(module, qualname)
    if isinstance(found, Flow):
        return found
    flows = [n for n, v in vars(module).items() if isinstance(v, Flow)]
    what = "is not a flow" if found is not None else "does not exist"
    raise UsageError(f"{spec} {what}", hint=f"Flows there: {', '.join(flows) or 'none'}.")


def _attribute(module: ModuleType, qualname: str) -> object:
    found: object = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    below = found
    while below is not None and not isinstance(below, Flow):
        below = getattr(below, "__wrapped__", None)
    if below is None:
        # A flow made of a partial, or under another name than its function.
        flows = (value for value in vars(module).values() if isinstance(value, Flow))
        below = next((flow for flow in flows if flow.work.function.__qualname__ == qualname), None)
    return below or found


def _is_typed_in(file: str) -> bool:
    """Whether a file's name is what IPython and Python's prompt give to code that is in no file."""
    return Path(file).name.startswith("<") or Path(file).parent.name.startswith("ipykernel_")


def _same_file(one: str | None, other: str) -> bool:
    """Asked of every loaded module: one look at the file is a hundred times quicker than resolving its path."""
    try:
        return one is not None and Path(one).samefile(other)
    except OSError:
        return False
