"""`kitaru.llm`: a model call that is a boundary."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, TypeVar, get_args, overload

import msgspec

from kitaru.errors import UsageError
from kitaru.runtime.arguments import Duration, count_of, flag_of, names_of, number_of, seconds_of, text_of, tuple_of
from kitaru.runtime.call import Call, current_place
from kitaru.runtime.calls.question import Sending, Settings
from kitaru.runtime.calls.reply import Reply
from kitaru.runtime.calls.work import LlmWork, Prompt
from kitaru.runtime.foreign import live_runs
from kitaru.runtime.keys import valid_name
from kitaru.runtime.loading import refuse_while_loading
from kitaru.runtime.models.alias import Effort
from kitaru.runtime.threads import wait_for
from kitaru.runtime.work import make_call

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Unpack

    from typing_extensions import TypeForm

    from kitaru.adapters import Retry, SecretStr, Timeouts, Tool
    from kitaru.runtime.calls.answers import Form

T = TypeVar("T")

Retries: TypeAlias = "int | Mapping[str, int | float | str | timedelta] | Retry"
"""How often and how patiently to try: a number of attempts, a mapping, or a `kitaru.Retry`."""

Attachment: TypeAlias = "str | Path | bytes | Mapping[str, object]"
"""An image or a document: a path, an address, bytes, or a mapping with `data`, `media_type` and `name`."""

ToolSource: TypeAlias = "Callable[..., object] | Mapping[str, object] | Tool"
"""A tool: a function, a checkpoint, or its JSON schema."""


class Options(TypedDict, total=False):
    """What may be said of any call; `kitaru.llm` says what each means."""

    model: str | None
    system: str | None
    temperature: float | None
    max_tokens: int | None
    top_p: float | None
    stop: str | Sequence[str] | None
    seed: int | None
    name: str
    attachments: Sequence[Attachment]
    images: Sequence[Attachment]
    reasoning: Effort | int | None
    context_length: int | None
    strict: bool
    retry: Retries | None
    fallbacks: Sequence[str]
    base_url: str | None
    api_key: str | SecretStr | None
    timeout: Duration | Timeouts | None
    headers: Mapping[str, str] | None
    extra: Mapping[str, Mapping[str, Any]] | None


class Llm:
    """`kitaru.llm(...)` gives the text, or a typed value; `kitaru.llm.reply(...)` the whole `Reply`."""

    @overload
    def __call__(self, prompt: Prompt, *, response_type: TypeForm[T], **options: Unpack[Options]) -> Call[T]: ...

    @overload
    def __call__(
        self, prompt: Prompt, *, json: Literal[True], json_keys: Sequence[str] | None = None, **options: Unpack[Options]
    ) -> Call[dict[str, Any]]: ...

    @overload
    def __call__(
        self, prompt: Prompt, *, json_keys: Sequence[str], **options: Unpack[Options]
    ) -> Call[dict[str, Any]]: ...

    @overload
    def __call__(self, prompt: Prompt, **options: Unpack[Options]) -> Call[str]: ...

    def __call__(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        system: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        top_p: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        name: str = "llm",
        response_type: object = None,
        json: bool = False,
        json_keys: Sequence[str] | None = None,
        attachments: Sequence[Attachment] = (),
        images: Sequence[Attachment] = (),
        reasoning: Effort | int | None = None,
        context_length: int | None = None,
        strict: bool = False,
        retry: Retries | None = None,
        fallbacks: Sequence[str] = (),
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        timeout: Duration | Timeouts | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Call[Any]:
        """Ask a model. In a flow, or inside a checkpoint, the answer is recorded and never asked for twice.

        Args:
            prompt: The text, or messages with `role` and `content`, oldest first.
            model: An alias, or `provider/model`; by default what `KITARU_DEFAULT_MODEL` names, else the default alias.
            system: A system message to go before the prompt.
            temperature: Sampling temperature. Dropped with a recorded warning where the model takes none.
            max_tokens: The most tokens to produce, thinking included.
            top_p: Nucleus sampling. Dropped with a recorded warning where the model takes none.
            stop: A text, or texts, that end the answer.
            seed: For repeatable sampling, as far as the provider keeps it.
            name: The boundary's name.
            response_type: The type of the answer: the model is told its schema, and the value comes back checked.
            json: The answer is to be a JSON object; it comes back as a dict.
            json_keys: Keys that the JSON object must have.
            attachments: Images and documents, put before the text of the last user message.
            images: The same as `attachments`.
            reasoning: How hard to think: `none`, `minimal`, `low`, `medium`, `high`, `max`, or a budget in tokens.
            context_length: Tokens of context to reserve (Ollama).
            strict: Raise where a setting would be dropped with a warning.
            retry: The most attempts, a `kitaru.Retry`, or a mapping of its names.
            fallbacks: Models to ask instead, in order, on connection errors, overload, spent quota, a prompt that is
                too long, or an answer that cannot be used.
            base_url: The API's address, where it is not the provider's own.
            api_key: The credential; by default the environment's, or the alias's secret. Never recorded.
            timeout: Seconds (or a `timedelta`, or a text such as "5m") for the whole call, its retries included; or a
                `kitaru.Timeouts`.
            headers: Further HTTP headers; none that carry a credential. Never recorded.
            extra: Further fields of request bodies, by provider: `{"anthropic": {"top_k": 5}}`.

        Returns:
            A handle of the text; of a value of `response_type`; of a dict for `json` and `json_keys`.

        Raises:
            UsageError: The prompt or a setting cannot be right.
            UnsupportedError: The provider or model lacks what the call relies on; nothing was sent.
            ModelError: When awaited: there was no finished answer.
        """
        form = _form(response_type, json, json_keys)
        settings = _settings(
            model, temperature, max_tokens, top_p, stop, seed, base_url, extra, reasoning, context_length, strict,
            fallbacks, form,
        )  # fmt: skip
        sending = _sending(api_key, headers, timeout, retry)
        files = _files(attachments, images)
        return _call(LlmWork(valid_name(name), prompt, system, files, settings, sending, form), sys._getframe(1))

    def reply(
        self,
        prompt: Prompt,
        *,
        tools: Sequence[ToolSource] = (),
        tool_choice: str
        | Mapping[str, object]
        | Callable[..., object]
        | Sequence[str | Callable[..., object]]
        | None = None,
        model: str | None = None,
        system: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        top_p: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        name: str = "llm",
        attachments: Sequence[Attachment] = (),
        images: Sequence[Attachment] = (),
        reasoning: Effort | int | None = None,
        context_length: int | None = None,
        strict: bool = False,
        retry: Retries | None = None,
        fallbacks: Sequence[str] = (),
        base_url: str | None = None,
        api_key: str | SecretStr | None = None,
        timeout: Duration | Timeouts | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Mapping[str, Any]] | None = None,
        raw: bool = False,
    ) -> Call[Reply]:
        """As `kitaru.llm`, but give the whole `Reply`, whatever the model's reason to stop.

        Args:
            prompt: The text, or messages; `reply.message` and `tool_call.result(...)` are messages to append.
            tools: What the model may ask to have called: functions, checkpoints, or JSON schemas.
            tool_choice: `auto`, `none`, `required`, the one tool to call (its name, or the function itself), or a
                list of tools, one of which has to be called.
            raw: Keep the provider's whole answer in the reply, as `reply.raw`.

        The other arguments are those of `kitaru.llm`.
        """
        settings = _settings(
            model, temperature, max_tokens, top_p, stop, seed, base_url, extra, reasoning, context_length, strict,
            fallbacks, None,
        )  # fmt: skip
        settings = msgspec.structs.replace(settings, whole=True, raw=flag_of(raw, "raw"))
        sources: dict[str, ToolSource] = {}
        if tools or tool_choice is not None:
            from kitaru.runtime.calls.tools import choice_of, tools_of

            offered = tools_of(tools)
            sources = dict(zip((tool.name for tool in offered), tools or (), strict=True))
            choice = choice_of(tool_choice, offered)
            settings = msgspec.structs.replace(
                settings,
                tools=tuple(msgspec.to_builtins(tool) for tool in offered),
                tool_choice=msgspec.to_builtins(choice) if choice is not None else None,
            )
        sending = _sending(api_key, headers, timeout, retry)
        files = _files(attachments, images)
        return _call(
            LlmWork(valid_name(name), prompt, system, files, settings, sending, None, sources), sys._getframe(1)
        )


llm: Final = Llm()


def _form(response_type: object, json: bool, json_keys: Sequence[str] | None) -> Form | None:
    if response_type is None and not flag_of(json, "json") and json_keys is None:
        return None
    from kitaru.runtime.calls.answers import form_of

    return form_of(response_type, json=json, json_keys=json_keys)


def _settings(
    model: str | None,
    temperature: float | None,
    max_tokens: int | None,
    top_p: float | None,
    stop: str | Sequence[str] | None,
    seed: int | None,
    base_url: str | None,
    extra: Mapping[str, Mapping[str, Any]] | None,
    reasoning: Effort | int | None,
    context_length: int | None,
    strict: bool,
    fallbacks: Sequence[str],
    form: Form | None,
) -> Settings:
    return Settings(
        model=None if model is None else text_of(model, "model"),
        temperature=None if temperature is None else number_of(temperature, "temperature", least=0),
        max_tokens=None if max_tokens is None else count_of(max_tokens, "max_tokens", least=1),
        top_p=None if top_p is None else number_of(top_p, "top_p", least=0, most=1),
        stop=_stops(stop),
        seed=None if seed is None else count_of(seed, "seed", least=-(2**63)),
        base_url=None if base_url is None else text_of(base_url, "base_url"),
        extra=_extra(extra) if extra else {},
        reasoning=_reasoning(reasoning),
        context_length=None if context_length is None else count_of(context_length, "context_length", least=1),
        strict=flag_of(strict, "strict"),
        fallbacks=names_of(fallbacks or (), "fallbacks"),
        form=form.describe() if form is not None else None,
    )


def _stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    stops = () if stop is None else names_of([stop] if isinstance(stop, str) else stop, "stop")
    if "" in stops:
        raise UsageError(f"stop={stop!r}: an empty text ends no answer", hint="Leave stop= out.")
    return stops


def _reasoning(reasoning: Effort | int | None) -> Effort | int | None:
    efforts: tuple[str, ...] = get_args(Effort)
    if reasoning is None:
        return None
    if isinstance(reasoning, str):
        if reasoning in efforts:
            return reasoning
        hint = f"It is {', '.join(efforts)}, or a number of tokens."
        raise UsageError(f"reasoning={reasoning!r}: no such effort", hint=hint)
    return count_of(reasoning, "reasoning")


def _extra(extra: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    from kitaru.adapters import provider

    if not isinstance(extra, Mapping):
        raise UsageError(f"extra is a {type(extra).__name__}, not a mapping", hint='Write extra={"openai": {...}}.')
    for name, fields in extra.items():
        if not isinstance(fields, Mapping):
            raise UsageError(
                f"extra is keyed by provider; {name!r} is given a {type(fields).__name__}",
                hint='Write extra={"openai": {...}}: a fallback gets only its own part.',
            )
        provider(name)
    return {name: dict(fields) for name, fields in extra.items()}


def _sending(
    api_key: str | SecretStr | None,
    headers: Mapping[str, str] | None,
    timeout: Duration | Timeouts | None,
    retry: Retries | None,
) -> Sending:
    policy = None
    if retry is not None:
        from kitaru.adapters import retry_of

        policy = retry_of(retry)
    limits: float | Timeouts | None = None
    if timeout is not None:
        from kitaru.adapters import Timeouts as AllTimeouts

        limits = timeout if isinstance(timeout, AllTimeouts) else seconds_of(timeout, "timeout", zero=False)
    if api_key is not None and not isinstance(api_key, str):
        from kitaru.adapters import SecretStr as Secret

        if not isinstance(api_key, Secret):
            raise UsageError(f"api_key is a {type(api_key).__name__}", hint="Pass the key as text, or a SecretStr.")
    return Sending(api_key, _headers(headers), limits, policy)


def _headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    if headers is not None and not isinstance(headers, Mapping):
        raise UsageError(
            f"headers are a {type(headers).__name__}, not a mapping", hint='Write headers={"name": "value"}.'
        )
    found: dict[Any, Any] = dict(headers or {})
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(f"headers: the value of {str(name)[:40]!r} is a {type(value).__name__}, not a text")
    return found


def _files(attachments: Sequence[Attachment], images: Sequence[Attachment]) -> tuple[Attachment, ...]:
    for name, given in (("attachments", attachments), ("images", images)):
        one: object = given
        if isinstance(one, str | bytes | os.PathLike | Mapping):
            raise UsageError(f"{name} is a list, and is given a {type(one).__name__}", hint=f"Write {name}=[...].")
    return (*tuple_of(attachments or (), "attachments"), *tuple_of(images or (), "images"))


def _call(work: LlmWork, frame: FrameType) -> Call[Any]:
    place = current_place()
    if place is None:
        refuse_while_loading("calls a model")
    call = make_call(work, place, (), {}, frame)
    if work.base_url:
        _refuse_private(work.base_url, call)
    if place is None:
        if _in_sync_code():
            _warn_of_stray(call)
            work.wait_in_thread(call)
    elif place.thread is not None:
        wait_for(call)
    if call.failed:
        call.load()
    return call


def _refuse_private(base_url: str, call: Call[Any]) -> None:
    """Refuse an address that may hold a credential before anything is recorded of the call.

    Raises:
        UsageError: It does. A call that an older version recorded goes on from its record.
    """
    from kitaru.adapters.request import private_part

    private = private_part(base_url)
    if private and (call.place is None or call.key not in call.place.execution.records):
        call.close()
        raise UsageError(
            f"the base URL of {call.work.name} at {call.where} holds {private}, and base URLs are recorded",
            hint="Pass a credential as api_key=; a further header as headers=.",
        )


def _in_sync_code() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _warn_of_stray(call: Call[Any]) -> None:
    if live_runs and threading.current_thread() is not threading.main_thread():
        warnings.warn(
            f"the model call at {call.where} is in a thread of no flow: it is recorded as a run of its own",
            RuntimeWarning,
            stacklevel=4,
        )
