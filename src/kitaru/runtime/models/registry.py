"""The registry of models: a JSON file beside the store, overlaid by `KITARU_MODEL_REGISTRY`.

Both have one form: `{"aliases": {"fast": {"model": "provider/model", ...}}, "default": "fast"}`. They hold references
to secrets, never keys. A run keeps the registry in effect when it begins as its snapshot.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from kitaru.errors import NotFoundError, StoreBusyError, UsageError
from kitaru.runtime.models.alias import Alias, alias_of, bad_name, circle
from kitaru.runtime.models.located import MalformedError, located
from kitaru.runtime.stores import home
from kitaru.store import codec, files
from kitaru.store.filelock import FileLock

T = TypeVar("T")

Source: TypeAlias = Literal["file", "environment"]

VARIABLE: Final = "KITARU_MODEL_REGISTRY"
_FORM: Final = 'It is {"aliases": {"fast": {"model": "provider/model"}}, "default": "fast"}.'
_LARGEST: Final = 1024 * 1024
_PATIENCE: Final = 10.0


class Registry(msgspec.Struct, frozen=True, omit_defaults=True):
    """Aliases by name, the one for calls that name no model, and what else decides which model a call means.

    Args:
        aliases: By name, in the order in which they were registered.
        default: The alias for calls that name no model.
        default_model: What `KITARU_DEFAULT_MODEL` said: an alias or `provider/model`; wins over `default`.
        default_provider: What `KITARU_DEFAULT_PROVIDER` said: the provider of names without one.
    """

    aliases: dict[str, Alias] = msgspec.field(default_factory=dict)
    default: str | None = None
    default_model: str = ""
    default_provider: str = ""


class Effective(NamedTuple):
    """The registry in effect, where each of its aliases comes from, and the registry as a run keeps it."""

    registry: Registry
    sources: Mapping[str, Source]
    snapshot: bytes


class Registered(NamedTuple):
    """What became of registering an alias.

    `before` is the alias of that name until now; `default` whether it is the file's default now; `hidden` whether
    `KITARU_MODEL_REGISTRY` holds another one of that name, which wins.
    """

    before: Alias | None
    default: bool
    hidden: bool


# -- reading ----------------------------------------------------------------------------------------------------------


def registry_path() -> Path:
    """The registry's file."""
    return home() / "models.json"


def effective(environ: Mapping[str, str] | None = None) -> Effective:
    """The registry in effect now: the file, overlaid by the environment.

    Args:
        environ: The environment; this process's if None.

    Raises:
        UsageError: The file or `KITARU_MODEL_REGISTRY` is not a registry; the message says where in it.
    """
    environ = os.environ if environ is None else environ
    path = registry_path()
    texts = (
        _read(path),
        environ.get(VARIABLE, "").strip(),
        environ.get("KITARU_DEFAULT_MODEL", "").strip(),
        environ.get("KITARU_DEFAULT_PROVIDER", "").strip(),
    )
    return _effective(str(path), *texts)


def snapshot(registry: Registry) -> bytes:
    """A registry as a run keeps it."""
    return codec.encode(msgspec.to_builtins(registry))


@functools.lru_cache(64)
def from_snapshot(data: bytes) -> Registry:
    """The registry that a run keeps. What a newer version added is passed over."""
    kept: Any = codec.decoder()(data) if data else {}
    return msgspec.convert(kept, Registry)


@functools.lru_cache(16)
def _effective(path: str, file: str, variable: str, default_model: str, default_provider: str) -> Effective:
    below = parsed(file, path)[1] if file.strip() else Registry()
    above = parsed(variable, VARIABLE)[1] if variable else Registry()
    aliases = below.aliases | above.aliases
    merged = Registry(aliases, above.default or below.default, default_model, default_provider)
    _check_whole(merged, VARIABLE if variable else path)
    sources: dict[str, Source] = {name: "environment" if name in above.aliases else "file" for name in aliases}
    return Effective(merged, sources, snapshot(merged))


def parsed(text: str, where: str) -> tuple[dict[str, Any], Registry]:
    """A registry's text, as plain data and as what it means.

    Args:
        text: JSON.
        where: Its file, or its variable.

    Raises:
        UsageError: It is not a registry; the message names the place and, of a file, the line.
    """

    def at(line: int) -> str:
        return where if where == VARIABLE and "\n" not in text else f"{where}, line {line}"

    try:
        document, lines = located(text)
    except MalformedError as error:
        raise UsageError(f"{at(error.line)}: not a model registry: {error.what}", hint=_FORM) from None
    if not isinstance(document, dict):
        raise UsageError(f"{at(1)}: not a model registry: no object", hint=_FORM)
    for name in document:
        if name not in ("aliases", "default"):
            close = difflib.get_close_matches(name, ("aliases", "default"), n=1)
            hint = f"Did you mean {close[0]!r}?" if close else _FORM
            raise UsageError(f"{at(lines[name,])}: a registry has no field {name!r}", hint=hint)
    listed, default = document.get("aliases", {}), document.get("default")
    if not isinstance(listed, dict):
        raise UsageError(f"{at(lines['aliases',])}: the aliases are not an object", hint=_FORM)
    if default is not None and not isinstance(default, str):
        raise UsageError(f"{at(lines['default',])}: the default is not the name of an alias", hint=_FORM)
    aliases: dict[str, Alias] = {}
    for name, value in listed.items():
        problem = bad_name(name) or alias_of(value)
        if isinstance(problem, Alias):
            aliases[name] = problem
            continue
        line = lines["aliases", name]
        if problem.field:
            line = lines.get(("aliases", name, *problem.field.split(".")), line)
        raise UsageError(f"{at(line)}: the alias {name!r} {problem.message}", hint=problem.hint)
    if where != VARIABLE and default is not None and default not in aliases:
        raise UsageError(
            f"{at(lines['default',])}: the default {default!r} is no alias of the file",
            hint=_close(default, aliases) or "Name one of its aliases, or leave the field out.",
        )
    return document, Registry(aliases, default or None)


def _check_whole(registry: Registry, where: str) -> None:
    """Check what only all aliases together can show.

    Raises:
        UsageError: The default or a fallback names nothing, or aliases fall back to each other.
    """
    aliases = registry.aliases
    if registry.default is not None and registry.default not in aliases:
        raise UsageError(
            f"{where} names {registry.default!r} as its default, which is no alias",
            hint=_close(registry.default, aliases),
        )
    for name, alias in aliases.items():
        for one in alias.fallbacks:
            if one not in aliases and not registry.default_provider and not _full(one):
                raise UsageError(
                    f"the alias {name!r} falls back to {one!r}, which is neither an alias nor provider/model",
                    hint=_close(one, aliases),
                )
    way = circle(aliases)
    if way:
        raise UsageError(
            f"aliases fall back to each other: {' -> '.join(way)}", hint="Take one of these fallbacks away."
        )


def _full(name: str) -> bool:
    """Whether a name that is no alias names a provider and a model."""
    if "/" in name:
        return True
    from kitaru.adapters import split_model

    try:
        return bool(split_model(name))
    except UsageError:
        return False


def _close(name: str, aliases: Mapping[str, Alias]) -> str | None:
    close = difflib.get_close_matches(name, aliases, n=1)
    return f"Did you mean {close[0]!r}?" if close else None


def _read(path: Path) -> str:
    try:
        return files.read_file(path, _LARGEST).decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except files.FileTooLargeError:
        raise UsageError(f"{path} is too large for a model registry", hint="Move it away.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a model registry: not UTF-8", hint=_FORM) from None


# -- writing ----------------------------------------------------------------------------------------------------------


def register(aliases: Mapping[str, Alias], *, default: str | None = None) -> dict[str, Registered]:
    """Write aliases to the registry's file, over those of the same names. The first one ever becomes the default.

    Args:
        aliases: By name.
        default: The one that becomes the default.

    Raises:
        UsageError: One cannot be right, or the file cannot be read or written; nothing was written.
    """
    for name, alias in aliases.items():
        problem = bad_name(name) or alias_of(msgspec.to_builtins(alias))
        if not isinstance(problem, Alias):
            raise UsageError(f"the alias {name!r} {problem.message}", hint=problem.hint)

    def edit(document: dict[str, Any], before: Registry) -> Registry:
        document.setdefault("aliases", {}).update({name: _plain(alias) for name, alias in aliases.items()})
        first = next(iter(aliases), None)
        chosen = default or document.get("default") or first
        if chosen is not None:
            document["default"] = chosen
        return before

    before, written = _change(edit)
    sources = effective().sources
    return {
        name: Registered(before.aliases.get(name), written.default == name, sources.get(name) == "environment")
        for name in aliases
    }


def set_default(name: str) -> None:
    """Make an alias of the file the default.

    Raises:
        NotFoundError: The file holds no such alias.
    """

    def edit(document: dict[str, Any], before: Registry) -> None:
        _known(before, name)
        document["default"] = name

    _change(edit)


def remove(name: str) -> bool:
    """Take an alias out of the file.

    Returns:
        Whether it was the default; then there is none until one is named.

    Raises:
        NotFoundError: The file holds no such alias.
        UsageError: Another alias falls back to it.
    """

    def edit(document: dict[str, Any], before: Registry) -> bool:
        _known(before, name)
        users = [other for other, alias in before.aliases.items() if name in alias.fallbacks]
        if users:
            raise UsageError(
                f"{name!r} is a fallback of {', '.join(map(repr, users))}",
                hint=f"Register {users[0]!r} without it first, or remove that one.",
            )
        del document["aliases"][name]
        if before.default == name:
            del document["default"]
        return before.default == name

    return _change(edit)[0]


def _known(file: Registry, name: str) -> None:
    if name in file.aliases:
        return
    if effective().sources.get(name) == "environment":
        raise UsageError(f"the alias {name!r} comes from {VARIABLE}, not from the file", hint="Change that variable.")
    raise NotFoundError(
        f"there is no alias {name!r}", hint=_close(name, file.aliases) or "`kitaru model list` lists them."
    )


def _change(edit: Callable[[dict[str, Any], Registry], T]) -> tuple[T, Registry]:
    """Read, edit and write the file while no other process does; what was in it beside stays as it was."""
    # The real file, so that two homes that share it by a link share its lock.
    path = registry_path().resolve()
    try:
        files.make_folder(path.parent)
        lock = FileLock(f"{path}.lock", _PATIENCE)
    except OSError as error:
        raise UsageError(f"{path.parent} cannot be written: {error.strerror}") from None
    try:
        with contextlib.closing(lock), lock:
            text = _read(path)
            document, before = parsed(text, str(path)) if text.strip() else ({}, Registry())
            done = edit(document, before)
            after = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
            written = parsed(after, str(path))[1]
            variable = os.environ.get(VARIABLE, "").strip()
            default_provider = os.environ.get("KITARU_DEFAULT_PROVIDER", "").strip()
            _effective(str(path), after, variable, "", default_provider)
            _write(path, after)
    except StoreBusyError:
        raise UsageError(
            f"another process holds {path}.lock for more than {_PATIENCE:g} s", hint="Try again."
        ) from None
    return done, written


def _write(path: Path, text: str) -> None:
    """Write the file whole or not at all."""
    try:
        files.write_file(path, text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _plain(alias: Alias) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(alias)
    if alias.prices is not None:
        made["prices"] = {name: json.loads(amount) for name, amount in made["prices"].items()}
    return made
