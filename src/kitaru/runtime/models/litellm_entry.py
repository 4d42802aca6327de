"""One entry of a LiteLLM configuration's `model_list`, as an alias. Names of fields: LiteLLM's docs, "Config.yaml"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from kitaru.runtime.models.alias import Alias, alias_of

if TYPE_CHECKING:
    from kitaru.adapters import Provider

# Ours of the same name are taken as they are; these are LiteLLM's alone, or mean something else there.
_NOT_OURS: Final = frozenset({"openai-compatible", "openai-responses", "test", "vllm"})

_REASONS: Final[Mapping[str, str]] = {
    "rpm": "load is not shared between deployments",
    "tpm": "load is not shared between deployments",
    "weight": "load is not shared between deployments",
    "max_parallel_requests": "load is not shared between deployments",
    "timeout": "pass timeout= at the call",
    "request_timeout": "pass timeout= at the call",
    "stream_timeout": "pass timeout= at the call",
    "drop_params": "an advisory setting that a model lacks is dropped with a warning anyway",
    "headers": "pass headers= at the call",
    "extra_headers": "pass headers= at the call",
    "extra_body": "pass extra= at the call",
    "organization": "set OPENAI_ORG_ID",
}

_SETTINGS: Final[Mapping[str, str]] = {
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "top_p": "top_p",
    "stop": "stop",
    "seed": "seed",
    "reasoning_effort": "reasoning",
    "num_ctx": "context_length",
    "num_retries": "retries",
    "max_retries": "retries",
}

_COSTS: Final[Mapping[str, str]] = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
}

# What people write where a local server asks for no key.
_PLACEHOLDERS: Final = frozenset(
    {"", "none", "empty", "dummy", "fake", "anything", "not-needed", "no-key", "x", "null"}
)

# LiteLLM's own form, and what templates leave in a file.
_VARIABLE: Final = re.compile(r"os\.environ/(\w+)|\$\{(\w+)(?::-[^}]*)?\}|\$(\w+)", re.ASCII)

# Which of an API's routes LiteLLM takes; no part of a deployment's name.
_ROUTES: Final[Mapping[str, tuple[str, ...]]] = {"azure": ("o_series/", "gpt5_series/", "responses/", "chat/")}

_NO_CHAT: Final = re.compile(r"embed|whisper|\btts\b|dall-e|moderation|rerank|gpt-image|imagen", re.IGNORECASE)


class Remark(msgspec.Struct, frozen=True):
    """Something to tell of an import.

    Args:
        where: The part of the file, such as `model_list[0].litellm_params.rpm`.
        message: What about it. Values never stand in it: they may be keys.
    """

    where: str
    message: str


class SecretNeeded(msgspec.Struct, frozen=True):
    """A secret that an alias names and that is still to be made.

    Args:
        secret: Its name.
        key: The key in it.
        variable: The variable that holds the value now; empty where the file holds it itself.
    """

    secret: str
    key: str
    variable: str

    @property
    def command(self) -> str:
        """The command that makes it. It holds no value: it asks for it, or gets it by a pipe."""
        source = f"printenv {self.variable} | " if self.variable else ""
        return f"{source}kitaru secrets set {self.secret} {self.key}"


class Entry(msgspec.Struct, frozen=True):
    """What one entry became.

    Args:
        name: Its `model_name`.
        order: Its place among those of its name, where it states one.
        alias: Without fallbacks.
        where: Where it stands.
    """

    name: str
    order: int | None
    alias: Alias
    where: str

    @property
    def plain(self) -> bool:
        """Whether the model's name says it all."""
        return self.alias == Alias(model=self.alias.model)


class Notebook:
    """Collects what is to be told while a file is read."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.changed: list[Remark] = []
        self.unmapped: list[Remark] = []
        self.secrets: list[SecretNeeded] = []
        self._literal: dict[str, str] = {}

    def change(self, where: str, message: str) -> None:
        """Something is other than the file has it."""
        self.changed.append(Remark(where, message))

    def leave_out(self, where: str, message: str) -> None:
        """Something has no counterpart."""
        self.unmapped.append(Remark(where, message))

    def reason(self, where: str, name: str) -> None:
        """A field has no counterpart, for the reason that is known of it."""
        self.leave_out(where, _REASONS.get(name, "has no counterpart"))

    def need_secret(self, key: str, *, variable: str = "", literal: str = "", alias: str = "") -> str:
        """Note a secret that has to be made, and return its name; one value is asked for once."""
        if variable:
            name = re.sub(r"[^a-z0-9]+", "-", variable.lower()).strip("-")
        else:
            name = self._literal.setdefault(literal, f"{re.sub(r'[^A-Za-z0-9.-]+', '-', alias).strip('-')}-key")
        needed = SecretNeeded(name, key, variable)
        if needed not in self.secrets:
            self.secrets.append(needed)
        return name


def entry_of(number: int, value: object, notes: Notebook) -> Entry | None:
    """Read one entry; what cannot be mapped goes into `notes`, and None where nothing is left."""
    where = f"model_list[{number}]"
    if not isinstance(value, dict):
        notes.leave_out(where, "is not an entry")
        return None
    entry: dict[str, Any] = dict(value)
    name, params = entry.pop("model_name", None), entry.pop("litellm_params", None)
    info = entry.pop("model_info", None) or {}
    if not isinstance(name, str) or not name.strip() or not isinstance(params, dict) or not isinstance(info, dict):
        notes.leave_out(where, "needs a model_name and litellm_params")
        return None
    params, info = dict(params), dict(info)
    full = params.pop("model", None)
    where = f"{where} ({name})"
    if not isinstance(full, str) or not full.strip():
        notes.leave_out(where, "litellm_params name no model")
        return None
    if "*" in name or "*" in full:
        notes.leave_out(where, "a wildcard is no alias: ask for PROVIDER/MODEL by its full name, which needs none")
        return None
    full = _named_model(full.strip(), where, notes)
    if full is None:
        return None
    mode = info.pop("mode", None)
    if mode not in (None, "chat", "completion", "responses") or (mode is None and _NO_CHAT.search(full)):
        notes.leave_out(where, "is no chat model")
        return None
    info.pop("id", None)
    found = _provider(full, params, where, notes)
    if found is None:
        return None
    row, model = found
    fields: dict[str, Any] = {}
    row = _address(row, params, fields, where, notes) or row
    if fields.pop("lost", False):
        return None
    fields["model"] = f"{row.name}/{model}"
    _key(row, name, params, fields, where, notes)
    order = params.pop("order", None)
    _settings(params, fields, where, notes)
    _prices(params, info, fields, where, notes)
    for place, rest in ((f"{where}.litellm_params", params), (f"{where}.model_info", info), (where, entry)):
        for left in rest:
            notes.reason(f"{place}.{left}", left)
    alias = alias_of(fields)
    if not isinstance(alias, Alias):
        notes.leave_out(where, alias.message)
        return None
    return Entry(name.strip(), order if isinstance(order, int) else None, alias, where)


def _provider(full: str, params: dict[str, Any], where: str, notes: Notebook) -> tuple[Provider, str] | None:
    from kitaru.adapters import names, provider, providers
    from kitaru.adapters.providers import canonical

    before, slash, model = full.partition("/")
    stated = params.pop("custom_llm_provider", None)
    if isinstance(stated, str) and stated:
        model = model if before == stated and slash else full
        before, slash = stated, "/"
    if not slash:
        owner = next((row for row in providers() if full.lower().startswith(row.model_prefixes or ("\0",))), None)
        if owner is None:
            notes.leave_out(where, "its model names no provider")
            return None
        return owner, full
    if before == "openai" and model.startswith("responses/"):
        before, model = "openai-responses", model.removeprefix("responses/")
    elif before in _NOT_OURS:
        before = ""
    ours = canonical(before)
    if ours not in names():
        notes.leave_out(where, f"there is no provider for {full.partition('/')[0]}/")
        return None
    return provider(ours), _model(ours, model)


def _model(ours: str, model: str) -> str:
    """Return a model's own name without what LiteLLM routes by."""
    for prefix in _ROUTES.get(ours, ()):
        model = model.removeprefix(prefix)
    if ours == "fireworks" and "/" not in model:
        return f"accounts/fireworks/models/{model}"  # `fireworks_ai/chat/transformation.py`
    if ours == "huggingface" and model.count("/") == 2:
        via, _, rest = model.partition("/")
        return f"{rest}:{via}"
    return model


def _named_model(full: str, where: str, notes: Notebook) -> str | None:
    """Return the model that an entry names, also by a variable; None where that is not set."""
    variable = _variable(full)
    if variable:
        found = notes.environ.get(variable, "").strip()
        if not found:
            notes.leave_out(where, f"its model is in {variable}, which is not set now")
            return None
        notes.change(f"{where}.litellm_params.model", f"the model in {variable} is kept as it is now")
        return found
    if "os.environ/" in full or "${" in full:
        notes.leave_out(where, "a part of its model's name is in a variable")
        return None
    return full


def _variable(text: str) -> str:
    """Return the variable that a value refers to; empty where it states the value itself."""
    found = _VARIABLE.fullmatch(text.strip())
    return next(filter(None, found.groups()), "") if found else ""


def _address(
    row: Provider, params: dict[str, Any], fields: dict[str, Any], where: str, notes: Notebook
) -> Provider | None:
    """Map `api_base` and `api_version`; return another provider where the address says that it is one."""
    from kitaru.adapters import provider

    base = params.pop("api_base", None) or params.pop("base_url", None)
    params.pop("base_url", None)
    version = params.pop("api_version", None)
    address = ""
    if isinstance(base, str) and (variable := _variable(base)):
        if not _reads(row, variable):
            address = notes.environ.get(variable, "").strip()
            if not address:
                notes.leave_out(where, f"its address is in {variable}, which is not set now")
                fields["lost"] = True
                return None
            notes.change(f"{where}.litellm_params.api_base", f"the address in {variable} is kept as it is now")
    elif base is not None:
        address = str(base).strip()
    if version is not None:
        address = _with_version(row, str(version), address, fields, where, notes)
    if not address or address.rstrip("/") == (row.base_url or "").rstrip("/"):
        return None
    fields["base_url"] = address
    problem = alias_of({"model": "provider/model", "base_url": address})
    if not isinstance(problem, Alias):
        notes.leave_out(where, problem.message)
        fields["lost"] = True
    elif row.name == "openai" and not _host(address).endswith("openai.com") and not _azure(address):
        notes.change(where, "is at another server with openai's API: its provider is openai-compatible")
        return provider("openai-compatible")
    return None


def _with_version(
    row: Provider, version: str, address: str, fields: dict[str, Any], where: str, notes: Notebook
) -> str:
    """Return azure's address with the API's version in it."""
    if row.name != "azure" and not _azure(address):
        notes.leave_out(f"{where}.litellm_params.api_version", "only azure has API versions")
        return address
    if variable := _variable(version):
        if variable not in ("OPENAI_API_VERSION", "AZURE_API_VERSION"):
            notes.leave_out(f"{where}.litellm_params.api_version", f"azure does not look at {variable}")
        return address
    address = address or row.base_url_from(notes.environ) or ""
    if not address:
        notes.leave_out(where, "states an API version, and its address is not set now")
        fields["lost"] = True
        return ""
    return f"{address.partition('?')[0].rstrip('/')}?api-version={version}"


def _key(row: Provider, name: str, params: dict[str, Any], fields: dict[str, Any], where: str, notes: Notebook) -> None:
    key = params.pop("api_key", None)
    if key is None:
        return
    text, wanted = str(key).strip(), next(iter(row.key_env), "API_KEY")
    place = f"{where}.litellm_params.api_key"
    if variable := _variable(text):
        if variable in (*row.key_env, *row.bearer_env):
            return
        fields["secret"] = notes.need_secret(wanted, variable=variable)
        notes.change(place, f"{row.name} does not look at {variable}: the key belongs into a secret")
    elif text.lower() in _PLACEHOLDERS:
        notes.change(place, "a placeholder is not kept")
    else:
        fields["secret"] = notes.need_secret(wanted, literal=text, alias=name)
        notes.change(place, "the file contains the key, which is not imported: store it as a secret")


def _settings(params: dict[str, Any], fields: dict[str, Any], where: str, notes: Notebook) -> None:
    thinking = params.pop("thinking", None)
    if isinstance(thinking, dict):
        budget = thinking.get("budget_tokens")
        match thinking.get("type"):
            case "enabled" if isinstance(budget, int):
                params.setdefault("reasoning_effort", budget)
            case "disabled":
                params.setdefault("reasoning_effort", "none")
            case _:
                notes.leave_out(f"{where}.litellm_params.thinking", "has no counterpart")
    for theirs, ours in _SETTINGS.items():
        value = params.pop(theirs, None)
        if value is None or ours in fields:
            continue
        problem = alias_of({"model": "provider/model", ours: value})
        if isinstance(problem, Alias):
            fields[ours] = value
        else:
            notes.leave_out(f"{where}.litellm_params.{theirs}", problem.message)


def _prices(params: dict[str, Any], info: dict[str, Any], fields: dict[str, Any], where: str, notes: Notebook) -> None:
    stated = {ours: params.pop(theirs, info.pop(theirs, None)) for theirs, ours in _COSTS.items()}
    prices: dict[str, str] = {}
    try:
        for name, value in stated.items():
            if value is not None:
                prices[name] = format((Decimal(str(value)) * 1_000_000).normalize(), "f")
    except InvalidOperation:
        prices = {}
    if {"input", "output"} <= prices.keys():
        fields["prices"] = prices
    elif any(value is not None for value in stated.values()):
        notes.leave_out(f"{where}.litellm_params", "a price is kept only where input and output both have one")


def _reads(row: Provider, variable: str) -> bool:
    """Whether a provider takes its address from a variable."""
    try:
        return "probe.invalid" in (row.base_url_named({variable: "https://probe.invalid"}) or "")
    except Exception:
        return False


def _host(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""


def _azure(address: str) -> bool:
    from kitaru.adapters.azure import is_azure

    return is_azure(address)
