"""What models have refused, each setting with the others that it was sent with: alone it may be taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from kitaru.adapters.call import ModelCall
from kitaru.adapters.provider import ADVISORY

_THINKS: Final = "thinks"
"""Thinking is not switched off: whether it is on, is the model's to say. Never named: it is no setting."""

# How a provider's message calls what a call is made of.
_WORDS: Final[Mapping[str, re.Pattern[str]]] = {
    "temperature": re.compile(r"\btemperature\b", re.IGNORECASE),
    "top_p": re.compile(r"\btop_?p\b", re.IGNORECASE),
    "seed": re.compile(r"\bseed\b", re.IGNORECASE),
    "reasoning": re.compile(r"\b(?:thinking|reasoning)", re.IGNORECASE),
    "tool_choice": re.compile(r"tool_?choice|forces? tool", re.IGNORECASE),
    "tools": re.compile(r"\b(?:tools|function)", re.IGNORECASE),
    "response_type": re.compile(r"response_?format|output_(?:config|format)|json", re.IGNORECASE),
}

_OF_MODEL: Final = re.compile(
    r"\b(?:with|for|by) (?:this|the) (?:selected )?model|model does(?: not|n't)", re.IGNORECASE
)


FORM: Final = "response_type"
"""What `ProviderError.refuses` says of the form of the answer: its schema, or JSON mode."""

_FORMS: Final[Mapping[str, str]] = {"schema": "json_schema", "json": "json_mode"}


class Refusals:
    """What models have refused, by provider, host and model."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, str, str], _OfModel] = {}

    def of(self, call: ModelCall, base_url: str) -> dict[str, str]:
        """Return the features of a call that are known to be refused as it stands, and why."""
        known = self._models.get(_place(call, base_url))
        return known.of(call) if known is not None else {}

    def learn(self, call: ModelCall, base_url: str, setting: str, message: str) -> str:
        """Remember a refusal, and return why the setting is left out; empty where the call has no such thing.

        Args:
            call: What was asked.
            base_url: The address called.
            setting: What was refused of it; `FORM` is the form of the answer as the call puts it.
            message: The provider's own words. Where they name other settings of the call, it is these that matter;
                where they blame the model, none does.
        """
        setting = _FORMS.get(call.output.kind, "") if setting == FORM else setting
        return (
            self._models.setdefault(_place(call, base_url), _OfModel()).learn(call, setting, message) if setting else ""
        )


def _place(call: ModelCall, base_url: str) -> tuple[str, str, str]:
    try:
        host = urlsplit(base_url.strip()).netloc.rpartition("@")[2].lower()
    except ValueError:
        host = ""
    return call.provider, host, call.model


class _OfModel:
    """What one model has refused, in which company."""

    def __init__(self) -> None:
        self._known: dict[str, list[frozenset[str]]] = {}

    def learn(self, call: ModelCall, setting: str, message: str) -> str:
        company = _company(call, setting)
        blamed = frozenset(name for name in company if name in _WORDS and _WORDS[name].search(message))
        # A form is asked for another way at no loss: nothing but what the message names is taken to be part of it.
        alone = _OF_MODEL.search(message) or setting in _FORMS.values()
        company = blamed or (company & {_THINKS} if alone else company)
        known = self._known.setdefault(setting, [])
        if not any(one <= company for one in known):
            known.append(company)
        named = _named(company)
        return f"the provider refused it together with {named}" if named else "the provider refused it for this model"

    def of(self, call: ModelCall) -> dict[str, str]:
        found = {}
        for setting, companies in self._known.items():
            company = _company(call, setting)
            refused = next((one for one in companies if one <= company), None)
            if refused is not None:
                named = _named(refused)
                name = f"{call.provider}/{call.model}"
                found[setting] = f"{name} refused it together with {named}" if named else f"{name} does not take it"
        return found


def _company(call: ModelCall, setting: str) -> frozenset[str]:
    """What else a call is made of, as far as providers make one setting depend on another."""
    settings = call.settings
    found: set[str] = {
        name for name in ADVISORY if name not in (setting, "reasoning") and getattr(settings, name) is not None
    }
    if setting != "reasoning" and settings.reasoning not in ("none", 0):
        found |= {_THINKS} if settings.reasoning is None else {_THINKS, "reasoning"}
    if call.tools:
        found.add("tools")
    if call.tool_choice is not None and call.tool_choice.mode in ("required", "tool"):
        found.add("tool_choice")
    if call.output.kind != "text" and setting not in _FORMS.values():
        found.add("response_type")
    return frozenset(found)


def _named(company: frozenset[str]) -> str:
    return ", ".join(sorted(company - {_THINKS}))
