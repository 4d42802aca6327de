"""What a call asks, of which models: each route that it may take, resolved and checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kitaru.adapters.call import ModelCall, Output, Tool, ToolChoice
from kitaru.adapters.call import Settings as AdapterSettings
from kitaru.adapters.fit import Fitted, fit
from kitaru.adapters.message import Message
from kitaru.adapters.providers import canonical, provider
from kitaru.errors import UsageError
from kitaru.runtime.calls.answers import Form
from kitaru.runtime.calls.conversation import neutral
from kitaru.runtime.calls.question import Settings
from kitaru.runtime.models.gateway import gateway
from kitaru.runtime.models.routes import Route, filled, placed, route
from kitaru.runtime.secrets.image import run_environment


class Asked(msgspec.Struct, frozen=True):
    """A call as resolved for one route, before any adapter.

    Args:
        route: What the model's name led to, with its address.
        call: The model call.
        fitted: The same as the provider takes it, as far as is known without asking.
    """

    route: Route
    call: ModelCall
    fitted: Fitted


def asked_of(
    settings: Settings,
    messages: Sequence[Mapping[str, Any]],
    form: Form | None,
    registry: bytes,
    instead: Mapping[str, str],
) -> tuple[Asked, ...]:
    """Return the call for each route that it may take, in the order in which they are tried.

    Args:
        settings: As written.
        messages: As recorded.
        form: What the answer is to be read as; None for text.
        registry: The model registry that the run keeps.
        instead: Models to ask instead of those named.

    Raises:
        UsageError: The call cannot be right, or a provider lacks what it relies on; nothing was sent.
    """
    said = neutral(messages)
    output = form.output() if form is not None else Output()
    return tuple(_asked(way, settings, said, output) for way in _routes(settings, registry, instead))


def named_address(found: Route) -> str | None:
    """The address, where the call or its alias names one: what the environment says does not change what is asked."""
    return found.base_url if found.base_url_source in ("argument", "alias") else None


def _asked(way: Route, written: Settings, messages: tuple[Message, ...], output: Output) -> Asked:
    settings = AdapterSettings(
        temperature=written.temperature,
        max_tokens=written.max_tokens,
        top_p=written.top_p,
        stop=written.stop,
        seed=written.seed,
        reasoning=written.reasoning,
        context_length=written.context_length,
        extra={
            key: value
            for name, fields in written.extra.items()
            if canonical(name) == way.provider
            for key, value in fields.items()
        },
    )
    call = ModelCall(
        provider=way.provider,
        model=way.model,
        messages=messages,
        settings=filled(settings, way.settings) if way.alias else settings,
        tools=msgspec.convert(written.tools, tuple[Tool, ...]) if written.tools else (),
        tool_choice=msgspec.convert(written.tool_choice, ToolChoice) if written.tool_choice is not None else None,
        output=output,
        strict=written.strict,
    )
    return Asked(way, call, fit(call, provider(call.provider)))


def _routes(settings: Settings, registry: bytes, instead: Mapping[str, str]) -> list[Route]:
    """The routes in the order in which they are tried, each name once."""
    first = _placed(route(settings.model, registry, instead), settings.base_url)
    found = [first]
    todo = [*(route(name, registry, instead) for name in settings.fallbacks), *first.fallbacks]
    while todo:
        one = todo.pop(0)
        todo[:0] = one.fallbacks
        one = _placed(one)
        # Two aliases of one model may have a key each, or be two models to a gateway.
        if all((one.alias, one.name, one.base_url) != (each.alias, each.name, each.base_url) for each in found):
            found.append(one)
    return found


def _placed(found: Route, base_url: str | None = None) -> Route:
    environ = run_environment()
    try:
        return placed(found, base_url, environ)
    except UsageError:
        # Through a gateway, a provider needs no address of its own.
        if gateway(environ) is None:
            raise
        return found
