"""What is known of a provider beside its wire format: where it lives, what it can do, how it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from kitaru.adapters.call import ModelCall

Advisory: TypeAlias = Literal["temperature", "top_p", "seed", "reasoning", "context_length"]
"""Settings that are dropped with a warning where they are lacked."""

Binding: TypeAlias = Literal[
    "tools", "tool_choice", "json_schema", "json_mode", "images", "image_urls", "documents", "document_urls", "audio",
    "audio_urls", "videos", "video_urls", "stop", "max_tokens",
]  # fmt: skip
"""What a caller relies on: where it is lacked, the call is refused before it is sent.

`json_schema` and `json_mode` are what a provider has natively; `fit` finds another way where it can.
"""

Feature: TypeAlias = Advisory | Binding

ADVISORY: Final[tuple[Advisory, ...]] = ("temperature", "top_p", "seed", "reasoning", "context_length")


class Lacks(msgspec.Struct, frozen=True):
    """What some of a provider's models lack.

    Args:
        models: Patterns as of `fnmatch`, for the model's name in lower case.
        features: What they lack.
    """

    models: tuple[str, ...]
    features: frozenset[Feature]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider's API has; a model may have less.

    Args:
        features: What it has.
        tool_choices: Which choices beyond `auto` it knows; part of `tool_choice`.
        tool_sets: Whether a choice may name several tools; elsewhere only these are offered.
        most_stops: How many stop texts it takes; None for no known limit.
        schema_dialect: How a JSON schema has to be written to be followed to the letter: `closed` wants every property
            required and objects closed (openai's strict mode), `open` takes a plain schema, `google` a subset, and
            `anthropic` closed objects without recursion, never a schema that is not strict.
        schema_keywords: Limits on values that its `closed` dialect takes beside the structure, such as `minimum`; the
            others are said in the description.
        models: What some models lack.
        part_fields: Further fields that parts of a message may have, such as `cache_control`; `*` is any.
        tool_fields: Further fields that tools may have; `*` is any.
        turn_fields: Further fields that an assistant's turn may have, such as `reasoning_content`.
        speakers: Whether a message may name its speaker.
    """

    features: frozenset[Feature]
    tool_choices: frozenset[Literal["none", "required", "tool"]] = frozenset({"none", "required", "tool"})
    tool_sets: bool = False
    most_stops: int | None = None
    schema_dialect: Literal["closed", "open", "google", "anthropic"] = "open"
    schema_keywords: frozenset[str] = frozenset()
    models: tuple[Lacks, ...] = ()
    part_fields: frozenset[str] = frozenset()
    tool_fields: frozenset[str] = frozenset()
    turn_fields: frozenset[str] = frozenset()
    speakers: bool = False

    def of(self, model: str) -> frozenset[Feature]:
        """Return what a model has, as far as is known without asking."""
        lacked = [row.features for row in self.models if any(fnmatchcase(model.lower(), one) for one in row.models)]
        return self.features.difference(*lacked)


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """One provider: a row of the table.

    Args:
        name: What stands before the first `/` of a model's full name.
        aliases: Other names for the same row.
        title: Its name as people write it.
        capabilities: What its API has.
        base_url: Its own address; None where the caller has to name one.
        key_env: Environment variables that may hold its key, first wins.
        bearer_env: Those of `key_env` that hold a token for `Authorization: Bearer` (`Endpoint.bearer`), where keys go
            into another header.
        base_url_env: Environment variables that may hold its address, first wins.
        base_path: What to add to an address from `base_url_env`, where its variable names only the host; an address
            that ends like it is whole already.
        find_base_url: Reads its address from the environment, where `base_url_env` is not all there is to it.
        rules_out: Tells which settings the conversation of a call rules out, and why, whatever its model has.
        header_env: Environment variable and the header that carries its value, first wins.
        key_required: Whether a call without key is refused before it is sent (never for a loopback address).
        request_id_headers: Response headers that may hold the request's id, first wins.
        retryable: Statuses after which the same request may succeed; every 5xx is one too.
        retryable_codes: The provider's own codes of errors after which the same request may succeed, whatever the
            status.
        quota_codes: The provider's own codes of errors that waiting does not cure.
        quota_phrases: Words of such errors' messages, in lower case, where no code tells.
        model_prefixes: How its models' names start, to suggest a full name for a bare one.
        stream_over: A plain call that may produce more tokens than this streams underneath, so that no connection
            idles for minutes; None never does.
        thinks_in_text: Whether models that it serves write their thinking into the text (`<think>`, channels).
        free: Its calls cost nothing.
        price_id: Its name in the price table; empty where it is `name`.
        docs: Where its API is described.
    """

    name: str
    capabilities: Capabilities
    aliases: tuple[str, ...] = ()
    title: str = ""
    base_url: str | None = None
    key_env: tuple[str, ...] = ()
    bearer_env: tuple[str, ...] = ()
    base_url_env: tuple[str, ...] = ()
    base_path: str = ""
    find_base_url: Callable[[Mapping[str, str]], str | None] | None = None
    rules_out: Callable[[ModelCall], Mapping[Advisory, str]] | None = None
    header_env: tuple[tuple[str, str], ...] = ()
    key_required: bool = True
    request_id_headers: tuple[str, ...] = ("x-request-id", "request-id")
    retryable: frozenset[int] = frozenset({408, 409, 429})
    retryable_codes: frozenset[str] = frozenset()
    quota_codes: frozenset[str] = frozenset()
    quota_phrases: tuple[str, ...] = ()
    model_prefixes: tuple[str, ...] = ()
    stream_over: int | None = None
    thinks_in_text: bool = False
    free: bool = False
    price_id: str = ""
    docs: str = ""

    def base_url_named(self, environ: Mapping[str, str]) -> str | None:
        """Return the address that the environment names, if it does."""
        if self.find_base_url is not None:
            return self.find_base_url(environ)
        found = _first(environ, self.base_url_env)
        if found is None:
            return None
        found = found.rstrip("/")
        end = self.base_path[self.base_path.rfind("/") :] if self.base_path else ""
        return found if end and found.endswith(end) else found + self.base_path

    def base_url_from(self, environ: Mapping[str, str]) -> str | None:
        """Return the address that the environment names, else the provider's own, else None."""
        return self.base_url_named(environ) or self.base_url

    def headers_from(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that the environment asks for."""
        found: dict[str, str] = {}
        for name, header in self.header_env:
            value = environ.get(name, "").strip()
            if value:
                found.setdefault(header, value)
        return found


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := environ.get(name, "").strip())), None)
