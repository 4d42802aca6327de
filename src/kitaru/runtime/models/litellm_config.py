"""A LiteLLM proxy's `config.yaml` as aliases of the registry. What has no counterpart is listed, never dropped."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from kitaru.adapters.providers import canonical
from kitaru.errors import UsageError
from kitaru.runtime.models.alias import Alias, bad_name
from kitaru.runtime.models.litellm_entry import Entry, Notebook, Remark, SecretNeeded, entry_of
from kitaru.runtime.models.safe_yaml import LARGEST, load
from kitaru.store import files

_SECTIONS: Final = ("model_list", "litellm_settings", "router_settings", "general_settings", "environment_variables")
_HANDLED: Final = frozenset({"fallbacks", "default_fallbacks", "num_retries", "model_group_alias"})
_REASONS: Final[Mapping[str, str]] = {
    "drop_params": "an advisory setting that a model lacks is dropped with a warning anyway",
    "request_timeout": "pass timeout= at the call",
    "timeout": "pass timeout= at the call",
    "context_window_fallbacks": "fallbacks are asked on context overflow too: add them with --fallback",
    "content_policy_fallbacks": "an answer that a filter stopped is not asked for elsewhere",
    "routing_strategy": "models are asked in order",
    "master_key": "is the proxy's: to call through it, set KITARU_GATEWAY_URL and KITARU_GATEWAY_KEY",
    "cache": "`kitaru model register --cache` keeps answers for an alias",
}


class Imported(msgspec.Struct, frozen=True):
    """What a configuration becomes.

    Args:
        aliases: By name, in the file's order.
        changed: What is other than the file has it.
        unmapped: What has no counterpart.
        secrets: Secrets that aliases name and that are still to be made.
    """

    aliases: dict[str, Alias]
    changed: tuple[Remark, ...]
    unmapped: tuple[Remark, ...]
    secrets: tuple[SecretNeeded, ...]


def read_config(path: Path, environ: Mapping[str, str] | None = None) -> Imported:
    """Read a LiteLLM configuration. Nothing is written.

    Args:
        path: The file.
        environ: Where `os.environ/NAME` addresses are looked up; this process's environment if None.

    Raises:
        UsageError: It cannot be read, or is no such configuration.
    """
    try:
        data = files.read_file(path, LARGEST, pipes=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    return from_config(load(data, str(path)), str(path), environ)


def from_config(document: object, where: str, environ: Mapping[str, str] | None = None) -> Imported:
    """A LiteLLM configuration, as plain data, as aliases.

    Args:
        document: What the YAML says.
        where: Its file, for messages.
        environ: Where `os.environ/NAME` addresses are looked up; this process's environment if None.

    Raises:
        UsageError: It is no such configuration.
    """
    if not isinstance(document, dict) or not isinstance(document.get("model_list"), list):
        raise UsageError(f"{where} is no LiteLLM configuration: it has no model_list")
    notes = Notebook(os.environ if environ is None else environ)
    entries = [entry_of(number, value, notes) for number, value in enumerate(document["model_list"])]
    groups = _Groups([entry for entry in entries if entry is not None], notes)
    library, router = _section(document, "litellm_settings"), _section(document, "router_settings")
    _retries(groups, router, library, notes)
    _group_aliases(groups, router, library, notes)
    _fallbacks(groups, router, library, notes)
    groups.untangle()
    _rest(document, notes)
    return Imported(groups.aliases, tuple(notes.changed), tuple(notes.unmapped), tuple(notes.secrets))


class _Groups:
    """Entries by their `model_name`: the first is its alias, the others are its first fallbacks."""

    def __init__(self, entries: Iterable[Entry], notes: Notebook) -> None:
        self._notes = notes
        self.aliases: dict[str, Alias] = {}
        self.called: dict[str, str] = {}
        """The alias, or `provider/model`, that stands for a name of the file."""
        named: dict[str, list[Entry]] = {}
        for entry in entries:
            named.setdefault(entry.name, []).append(entry)
        self._taken = {name for name in named if bad_name(name) is None}
        for name, group in named.items():
            self._add(name, group)

    def _add(self, name: str, group: list[Entry]) -> None:
        if any(entry.order is not None for entry in group):
            group = sorted(group, key=lambda entry: (entry.order is None, entry.order or 0))
        first, *others = group
        provider, slash, model = name.partition("/")
        full = f"{canonical(provider)}/{model}"
        if slash and not others and first.plain and first.alias.model == full:
            self._notes.change(first.where, "needs no alias: a full name is asked for as it is")
            self.called[name] = full
            return
        called = self.called[name] = self._fitting(name, first)
        ways: list[str] = []
        for number, entry in enumerate(others, start=2):
            way = entry.alias.model if entry.plain else self._free(f"{called}-{number}")
            if way in ways or (entry.plain and entry.alias == first.alias):
                continue
            if not entry.plain:
                self.aliases[way] = entry.alias
            ways.append(way)
        self.aliases[called] = msgspec.structs.replace(first.alias, fallbacks=tuple(ways))
        if others:
            asked = ", then ".join([first.alias.model, *(entry.alias.model for entry in others)])
            self._notes.change(
                name, f"{len(group)} entries have this name: load is not shared, they are asked in order: {asked}"
            )

    def _fitting(self, name: str, entry: Entry) -> str:
        if bad_name(name) is None:
            return name
        called = self._free(re.sub(r"[^\w.:@+]+", "-", name).strip("-") or "model")
        why = "a name with / is always provider/model" if "/" in name else "the name cannot be an alias's"
        self._notes.change(entry.where, f"is called {called}: {why}")
        return called

    def _free(self, name: str) -> str:
        free, number = name, 2
        while free in self._taken:
            free, number = f"{name}-{number}", number + 1
        self._taken.add(free)
        return free

    def copy(self, name: str, target: str) -> None:
        """Let another name stand for the same."""
        self.called[name] = called = name if bad_name(name) is None else self._free(re.sub(r"[^\w.:@+]+", "-", name))
        self._taken.add(called)
        self.aliases[called] = self.aliases.get(self.called[target]) or Alias(model=self.called[target])

    def fall_back(self, name: str, targets: Iterable[str]) -> None:
        """Add fallbacks to what stands for a name of the file."""
        alias = self.aliases[name]
        more = [one for one in targets if one != name and one not in alias.fallbacks]
        self.aliases[name] = msgspec.structs.replace(alias, fallbacks=(*alias.fallbacks, *dict.fromkeys(more)))

    def untangle(self) -> None:
        """Where aliases fall back to each other, let each fall back to the other's model alone."""
        tangled = {
            name: [one for one in alias.fallbacks if one in self.aliases and self._leads(one, name)]
            for name, alias in self.aliases.items()
        }
        for name, others in tangled.items():
            for other in others:
                alone = self._alone(other)
                alias = self.aliases[name]
                ways = tuple(dict.fromkeys(alone if one == other else one for one in alias.fallbacks))
                self.aliases[name] = msgspec.structs.replace(alias, fallbacks=ways)
                self._notes.change(
                    name, f"and {other} fall back to each other: it falls back to {alone}, and no further"
                )

    def _alone(self, name: str) -> str:
        alone = msgspec.structs.replace(self.aliases[name], fallbacks=())
        if alone == Alias(model=alone.model, retries=alone.retries):
            return alone.model
        called = f"{name}-alone"
        if self.aliases.get(called) != alone:
            called = self._free(called)
            self.aliases[called] = alone
        return called

    def _leads(self, start: str, goal: str) -> bool:
        seen, left = set[str](), [start]
        while left:
            one = left.pop()
            if one == goal:
                return True
            if one in self.aliases and one not in seen:
                seen.add(one)
                left.extend(self.aliases[one].fallbacks)
        return False


def _section(document: dict[Any, Any], name: str) -> dict[str, Any]:
    section = document.get(name)
    return section if isinstance(section, dict) else {}


def _retries(groups: _Groups, router: dict[str, Any], library: dict[str, Any], notes: Notebook) -> None:
    for section, where in ((router, "router_settings"), (library, "litellm_settings")):
        count = section.get("num_retries")
        if count is None:
            continue
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            notes.leave_out(f"{where}.num_retries", "is not a number of retries")
            continue
        for name, alias in groups.aliases.items():
            if alias.retries is None:
                groups.aliases[name] = msgspec.structs.replace(alias, retries=count)


def _group_aliases(groups: _Groups, router: dict[str, Any], library: dict[str, Any], notes: Notebook) -> None:
    for section, where in ((router, "router_settings"), (library, "litellm_settings")):
        listed = section.get("model_group_alias") or {}
        for name, value in listed.items() if isinstance(listed, dict) else ():
            target = value.get("model") if isinstance(value, dict) else value
            place = f"{where}.model_group_alias.{name}"
            if not isinstance(target, str) or target not in groups.called:
                notes.leave_out(place, "names no model of the list")
            elif name in groups.called:
                notes.leave_out(place, "the list has a model of this name")
            else:
                groups.copy(str(name), target)


def _fallbacks(groups: _Groups, router: dict[str, Any], library: dict[str, Any], notes: Notebook) -> None:
    """Add the fallbacks between names; those that all share go last."""
    shared: list[str] = []
    for section, where in ((router, "router_settings"), (library, "litellm_settings")):
        stated = section.get("fallbacks") or []
        for number, pair in enumerate(stated if isinstance(stated, list) else [stated]):
            place = f"{where}.fallbacks[{number}]"
            if not isinstance(pair, dict):
                notes.leave_out(place, "is not a name with its fallbacks")
                continue
            for name, targets in pair.items():
                ways = _ways(groups, targets, f"{place}.{name}", notes)
                if name == "*":
                    shared += ways
                elif groups.called.get(name) in groups.aliases:
                    groups.fall_back(groups.called[name], ways)
                elif ways:
                    notes.leave_out(f"{place}.{name}", "no alias has this name")
        shared += _ways(groups, section.get("default_fallbacks") or [], f"{where}.default_fallbacks", notes)
    if shared:
        for called in set(groups.called.values()) & groups.aliases.keys():
            # One of the shared ones has nowhere else to go.
            if called not in shared:
                groups.fall_back(called, shared)


def _ways(groups: _Groups, targets: object, where: str, notes: Notebook) -> list[str]:
    ways = []
    for target in targets if isinstance(targets, list) else [targets]:
        if isinstance(target, str) and target in groups.called:
            ways.append(groups.called[target])
        else:
            what = repr(target) if isinstance(target, str) and len(target) < 100 else "one of them"
            notes.leave_out(where, f"{what} is no model of the list")
    return ways


def _rest(document: dict[Any, Any], notes: Notebook) -> None:
    """List what has no counterpart, by name only."""
    for section, content in document.items():
        if section == "model_list":
            continue
        if section not in _SECTIONS or not isinstance(content, dict):
            notes.leave_out(str(section), "has no counterpart")
            continue
        for name in content:
            if name not in _HANDLED or section not in ("litellm_settings", "router_settings"):
                notes.leave_out(f"{section}.{name}", _REASONS.get(str(name), "has no counterpart"))
