"""The stand-in server refuses what each real API refuses, and wants back unchanged what they want back."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kitaru.adapters.standin import Options, StandInServer
from tests.cases import cases

PATHS = {
    "openai": "/chat/completions",
    "openai-responses": "/responses",
    "anthropic": "/v1/messages",
    "google": "/v1beta/models/{}:generateContent",
    "mistral": "/v1/chat/completions",
    "cohere": "/v2/chat",
    "groq": "/openai/v1/chat/completions",
    "deepseek": "/chat/completions",
    "openrouter": "/chat/completions",
    "ollama": "/api/chat",
}
CLOSED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
LOOK = {"type": "function", "function": {"name": "look", "parameters": CLOSED}}
USER = {"role": "user", "content": "use look now"}


@pytest.fixture(scope="module")
def server() -> Iterator[StandInServer]:
    with StandInServer() as running:
        yield running


@pytest.fixture(scope="module")
def strict() -> Iterator[StandInServer]:
    with StandInServer(Options(strict=True)) as running:
        yield running


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, headers={"anthropic-version": "2023-06-01"}) as client:
        yield client


def post(http: httpx.Client, server: StandInServer, provider: str, body: Any, **headers: str) -> httpx.Response:
    path = PATHS[provider].format(body.get("model", "m") if isinstance(body, dict) else "m")
    sent = {key: value for key, value in body.items() if key != "model"} if provider == "google" else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post(server.address(provider) + path, json=sent, headers=named)


def chat(*messages: dict[str, Any], model: str = "m", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": list(messages) or [{"role": "user", "content": "hi"}], **more}


def claude(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"max_tokens": 2000, **chat(*messages, **more)}


def contents(*turns: tuple[str, dict[str, Any]], model: str = "m", **more: Any) -> dict[str, Any]:
    found = [{"role": role, "parts": [part]} for role, part in turns] or [{"role": "user", "parts": [{"text": "hi"}]}]
    return {"model": model, "contents": found, **more}


def called(identity: str = "call_1", **more: Any) -> dict[str, Any]:
    function = {"name": "look", "arguments": "{}"}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": identity, "type": "function", "function": function}],
        **more,
    }


def result(identity: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": "seen"}


def used(identity: str = "toolu_1") -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "tool_use", "id": identity, "name": "look", "input": {}}]}


def brought(identity: str = "toolu_1", *before: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*before, {"type": "tool_result", "tool_use_id": identity, "content": "seen"}]}


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


def item(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, **more}


HI = {"role": "user", "content": "hi"}
CALL = ("model", {"functionCall": {"name": "look", "args": {}}})
SEEN = ("user", {"functionResponse": {"name": "look", "response": {"output": "seen"}}})
ASKED = ("user", {"text": "hi"})
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}

REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("openai", chat(model="gpt-5-nano", temperature=0.2), 400, "unsupported_value"),
    ("openai", chat(model="o4-mini", max_tokens=9), 400, "max_completion_tokens"),
    ("openai", chat(model="o3", stop=["x"]), 400, "unsupported_parameter"),
    ("openai", chat(temperature=3), 400, "decimal_above_max_value"),
    ("openai", chat(stop=list("abcde")), 400, "array_above_max_length"),
    ("openai", chat(model="no-such-x"), 404, "model_not_found"),
    ("openai", chat(HI, called()), 400, "must be followed by tool messages"),
    ("openai", chat(HI, result()), 400, "preceeding message with"),
    ("openai", chat(HI, called("x" * 64), result("x" * 64)), 400, "string_above_max_length"),
    ("openai", chat(response_format={"type": "json_object"}), 400, "must contain the word 'json'"),
    ("openai", chat(response_format=form(OPEN)), 400, "additionalProperties"),
    ("openai", chat(response_format=form({**OPEN, "additionalProperties": False})), 400, "Missing 'a'"),
    ("openai", chat(response_format=form({"type": "array"})), 400, "object"),
    ("openai", chat(tool_choice="required"), 400, "only allowed when"),
    (
        "openai",
        chat({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:x"}}]}),
        400,
        "invalid_value",
    ),
    ("openai-responses", {"model": "m", "input": "x", "stop": "y"}, 400, "unknown_parameter"),
    ("openai-responses", {"model": "m", "input": "x", "seed": 1}, 400, "unknown_parameter"),
    ("openai-responses", {"model": "gpt-5-nano", "input": "x", "temperature": 0.2}, 400, "unsupported_parameter"),
    ("openai-responses", {"model": "m", "input": "x", "text": {"format": {"type": "json_object"}}}, 400, "word 'json'"),
    (
        "openai-responses",
        {"model": "m", "input": [HI, item("function_call_output", call_id="c", output="x")]},
        400,
        "No tool call found",
    ),
    (
        "openai-responses",
        {"model": "m", "input": [HI, item("function_call", call_id="c", name="look", arguments="{}")]},
        400,
        "No tool output found",
    ),
    (
        "openai-responses",
        {"model": "m", "input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        400,
        "input_text",
    ),
    ("anthropic", {"model": "m", "messages": [HI]}, 400, "max_tokens: Field required"),
    ("anthropic", claude(frequency_penalty=1), 400, "Extra inputs are not permitted"),
    ("anthropic", claude(temperature=1.5), 400, "temperature: range"),
    ("anthropic", claude(HI, HI), 400, "roles must alternate"),
    ("anthropic", claude({"role": "assistant", "content": "x"}, HI), 400, "first message"),
    ("anthropic", claude(HI, used(), brought()), 400, "must define tools"),
    ("anthropic", claude(HI, used(), HI), 400, "without `tool_result` blocks immediately after"),
    ("anthropic", claude(HI, used(), brought("toolu_1", {"type": "text", "text": "x"})), 400, "immediately after"),
    ("anthropic", claude(HI, used("a"), brought("b")), 400, "unexpected `tool_use_id`"),
    ("anthropic", claude(HI, used("a.b"), brought("a.b")), 400, "should match pattern"),
    ("anthropic", claude({"role": "user", "content": [{"type": "text", "text": ""}]}), 400, "must be non-empty"),
    ("anthropic", claude(HI, {"role": "assistant", "content": "x "}), 400, "trailing whitespace"),
    ("anthropic", claude(thinking={"type": "enabled", "budget_tokens": 2000}), 400, "must be greater than"),
    (
        "anthropic",
        claude(output_config={"format": {"type": "json_schema", "schema": OPEN}}),
        400,
        "must be explicitly set to false",
    ),
    (
        "anthropic",
        claude(HI, used(), brought(), thinking={"type": "enabled", "budget_tokens": 1024}),
        400,
        "Expected `thinking`",
    ),
    ("google", contents(stop=["x"]), 400, "Cannot find field"),
    ("google", contents(generationConfig={"maxTokens": 5}), 400, "generation_config"),
    ("google", contents(("assistant", {"text": "x"})), 400, "valid role"),
    ("google", contents(ASKED, CALL), 400, "single turn"),
    ("google", contents(ASKED, SEEN), 400, "immediately after a function call turn"),
    ("google", contents(ASKED, CALL, ASKED), 400, "equal to the number"),
    ("google", contents(ASKED, CALL, SEEN, model="gemini-3-pro"), 400, "missing a thought_signature"),
    ("google", contents(generationConfig={"responseJsonSchema": CLOSED}), 400, "response_mime_type"),
    ("google", contents(model="no-such-x"), 404, "is not found for API version"),
    ("mistral", chat(seed=1), 422, "extra_forbidden"),
    ("mistral", chat(stream_options={}), 422, "extra_forbidden"),
    ("mistral", chat(HI, called("aaaaaaaaa", reasoning_content="x"), result("aaaaaaaaa")), 422, "reasoning_content"),
    ("mistral", chat(HI, called("call_1"), result("call_1")), 400, "3280"),
    ("mistral", chat(HI, called("aaaaaaaaa")), 400, "3230"),
    ("mistral", chat(HI, {"role": "assistant", "content": "x"}), 400, "Expected last role"),
    ("cohere", chat(tool_choice="required", tools=[LOOK]), 400, "tool_choice"),
    ("cohere", chat(HI, result()), 400, "was not made by the model"),
    ("deepseek", chat(response_format=form(CLOSED)), 400, "unavailable now"),
    ("deepseek", chat(HI, called(), result(), thinking={"type": "enabled"}), 400, "must be passed back"),
    ("ollama", chat(HI, called(), result()), 400, "cannot unmarshal"),
    ("ollama", chat(model="no-such-x"), 404, "not found"),
]


@pytest.mark.parametrize(
    ("provider", "body", "status", "says"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_an_api_does_not_take_is_refused_in_its_words(
    provider: str, body: dict[str, Any], status: int, says: str, server: StandInServer, http: httpx.Client
) -> None:
    response = post(http, server, provider, body)
    assert response.status_code == status
    assert says in response.json().__repr__() or says in response.text


TAKEN: list[tuple[str, dict[str, Any]]] = [
    ("openai", chat(model="gpt-5-nano", temperature=1, max_completion_tokens=500)),
    ("openai", chat(HI, called(), result())),
    ("openai", chat(response_format=form(CLOSED))),
    ("openai", chat(a_new_field=True)),
    ("openai-responses", {"model": "m", "input": [HI, item("function_call", call_id="c", name="look", arguments="{}"),
                                                  item("function_call_output", call_id="c", output="x")]}),
    ("anthropic", claude(HI, used(), brought(), tools=[{"name": "look", "input_schema": OPEN}])),
    ("anthropic", claude(HI, used(), brought(), tools=[{"name": "look", "input_schema": OPEN}],
                         thinking={"type": "adaptive"})),
    ("google", contents(ASKED, CALL, SEEN)),
    ("google", contents(generation_config={"max_output_tokens": 50}, system_instruction={"parts": [{"text": "x"}]})),
    ("google", contents(ASKED, ("model", {**CALL[1], "thoughtSignature": "skip_thought_signature_validator"}), SEEN,
                        model="gemini-3-pro")),
    ("mistral", chat(HI, called("aaaaaaaaa"), result("aaaaaaaaa"), random_seed=1)),
    ("cohere", chat(HI, called(), result())),
    ("deepseek", chat(HI, called(reasoning_content="of another model"), result(), thinking={"type": "enabled"})),
    ("openrouter", chat(HI, called(), result(), reasoning={"effort": "low"})),
    ("ollama", chat(an_unknown_field=1, options={"unknown": 2})),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "body"), TAKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_what_an_api_takes_is_answered(
    provider: str, body: dict[str, Any], server: StandInServer, http: httpx.Client
) -> None:
    response = post(http, server, provider, body)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("provider", "body", "status", "says"),
    [
        ("openai", chat(foo=1), 400, "Unrecognized request argument supplied: foo"),
        ("groq", chat(stream_options={}), 400, "property 'stream_options' is unsupported"),
        ("cohere", chat(top_p=1), 422, "unknown field: parameter 'top_p'"),
    ],
)
def test_unknown_fields_are_refused_where_the_server_is_strict(
    provider: str, body: dict[str, Any], status: int, says: str, strict: StandInServer, http: httpx.Client
) -> None:
    response = post(http, strict, provider, body)
    assert response.status_code == status
    assert says in response.text


def test_anthropic_s_version_decides_what_is_taken(server: StandInServer, http: httpx.Client) -> None:
    assert post(http, server, "anthropic", claude(temperature=1)).status_code == 200
    newer = post(http, server, "anthropic", claude(temperature=1), anthropic_version="2026-10-21")
    assert "temperature: Extra inputs are not permitted" in newer.text
    assert "not a valid version" in post(http, server, "anthropic", claude(), anthropic_version="1").text
    url = f"{server.address('anthropic')}/v1/messages"
    bare = httpx.post(url, json=claude(), trust_env=False, verify=False)
    assert "header is required" in bare.text


def test_a_reasoning_model_thinks_before_it_says_anything(server: StandInServer, http: httpx.Client) -> None:
    cut = post(http, server, "openai", chat(model="gpt-5-nano", max_completion_tokens=64)).json()
    assert (cut["choices"][0]["message"]["content"], cut["choices"][0]["finish_reason"]) == ("", "length")
    assert cut["usage"]["completion_tokens_details"]["reasoning_tokens"] == 64
    told = post(http, server, "openai", chat(model="gpt-5-nano", max_completion_tokens=200)).json()
    assert told["choices"][0]["message"]["content"]
    quick = chat(model="gpt-5-nano", max_completion_tokens=64, reasoning_effort="minimal")
    assert post(http, server, "openai", quick).json()["choices"][0]["message"]["content"]
    gone = post(http, server, "openai-responses", {"model": "o4-mini", "input": "hi", "max_output_tokens": 64}).json()
    assert (gone["status"], gone["incomplete_details"]["reason"]) == ("incomplete", "max_output_tokens")


# What has to come back unchanged: a first turn, and how its message is sent again.


def _openai_like(first: dict[str, Any]) -> list[dict[str, Any]]:
    message = first["choices"][0]["message"]
    return [USER, message, result(message["tool_calls"][0]["id"])]


def deepseek() -> tuple[str, dict[str, Any], Callable[[Any], dict[str, Any]]]:
    common: dict[str, Any] = {"model": "deepseek-reasoner", "tools": [LOOK]}
    return "deepseek", chat(USER, **common), lambda first: chat(*_openai_like(first), **common)


def openrouter() -> tuple[str, dict[str, Any], Callable[[Any], dict[str, Any]]]:
    common: dict[str, Any] = {"tools": [LOOK], "reasoning": {"effort": "low"}}
    return "openrouter", chat(USER, **common), lambda first: chat(*_openai_like(first), **common)


def anthropic() -> tuple[str, dict[str, Any], Callable[[Any], dict[str, Any]]]:
    asked = {"role": "user", "content": "use look now, redacted"}
    common: dict[str, Any] = {
        "tools": [{"name": "look", "input_schema": OPEN}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }

    def again(first: Any) -> dict[str, Any]:
        return claude(
            asked, {"role": "assistant", "content": first["content"]}, brought(first["content"][-1]["id"]), **common
        )

    return "anthropic", claude(asked, **common), again


def google() -> tuple[str, dict[str, Any], Callable[[Any], dict[str, Any]]]:
    common: dict[str, Any] = {"model": "gemini-3-pro", "tools": [{"functionDeclarations": [{"name": "look"}]}]}
    asked = {"role": "user", "parts": [{"text": "use look now"}]}

    def again(first: Any) -> dict[str, Any]:
        seen = {"role": "user", "parts": [SEEN[1]]}
        return contents(**common) | {"contents": [asked, first["candidates"][0]["content"], seen]}

    return "google", contents(**common) | {"contents": [asked]}, again


def responses() -> tuple[str, dict[str, Any], Callable[[Any], dict[str, Any]]]:
    common: dict[str, Any] = {
        "model": "o4-mini", "store": False, "include": ["reasoning.encrypted_content"],
        "tools": [{"type": "function", "name": "look", "parameters": OPEN, "strict": False}],
    }  # fmt: skip

    def again(first: Any) -> dict[str, Any]:
        seen = item("function_call_output", call_id=first["output"][-1]["call_id"], output="seen")
        return common | {"input": [USER, *first["output"], seen]}

    return "openai-responses", common | {"input": [USER]}, again


@pytest.mark.parametrize(
    ("turns", "path", "says"),
    [
        (deepseek, ("messages", 1, "reasoning_content"), "must be passed back"),
        (openrouter, ("messages", 1, "reasoning_details", 0, "text"), "cannot be modified"),
        (anthropic, ("messages", 1, "content", 0, "thinking"), "cannot be modified"),
        (anthropic, ("messages", 1, "content", 0, "signature"), "cannot be modified"),
        (anthropic, ("messages", 1, "content", 1, "data"), "cannot be modified"),
        (google, ("contents", 1, "parts", 0, "thoughtSignature"), "signature"),
        (responses, ("input", 1, "encrypted_content"), "could not be verified"),
    ],
)
def test_what_a_model_thought_has_to_come_back_unchanged(
    turns: Callable[[], tuple[str, dict[str, Any], Callable[[Any], dict[str, Any]]]],
    path: tuple[str | int, ...],
    says: str,
    server: StandInServer,
    http: httpx.Client,
) -> None:
    provider, first, again = turns()
    opened = post(http, server, provider, first)
    assert opened.status_code == 200, opened.text
    second = again(opened.json())
    told = post(http, server, provider, second)
    assert told.status_code == 200, told.text
    assert "seen" in told.text
    changed = copy.deepcopy(second)
    place: Any = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = "A" + place[path[-1]]
    refused = post(http, server, provider, changed)
    assert refused.status_code == 400
    assert says in refused.text


@pytest.mark.parametrize(
    ("turns", "lose", "says"),
    [
        (deepseek, lambda body: body["messages"][1].pop("reasoning_content"), "must be passed back"),
        (anthropic, lambda body: body["messages"][1]["content"].pop(0), "cannot be modified"),
        (google, lambda body: body["contents"][1]["parts"][0].pop("thoughtSignature"), "missing a thought_signature"),
        (responses, lambda body: body["input"].pop(1), "without its required 'reasoning' item"),
        (responses, lambda body: body["input"][1].pop("encrypted_content"), "Items are not persisted"),
    ],
)
def test_what_a_model_thought_may_not_get_lost(
    turns: Callable[[], tuple[str, dict[str, Any], Callable[[Any], dict[str, Any]]]],
    lose: Callable[[Any], object],
    says: str,
    server: StandInServer,
    http: httpx.Client,
) -> None:
    provider, first, again = turns()
    second = again(post(http, server, provider, first).json())
    lose(second)
    refused = post(http, server, provider, second)
    assert refused.status_code in {400, 404}
    assert says in refused.text


# Whatever comes in, the server stays a server.

BODIES: list[tuple[str, dict[str, Any]]] = TAKEN + [(provider, body) for provider, body, _, _ in REFUSED]
ODD: st.SearchStrategy[object] = st.sampled_from(
    [None, True, -1, 10**30, 0.5, "", "x", [], {}, [None], [[]], {"a": None}, [{}]]
)


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, each in value.items():
            yield from places(each, (*path, key))
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from places(each, (*path, at))


@given(data=st.data(), chosen=st.sampled_from(range(len(BODIES))), odd=ODD)
@settings(max_examples=cases(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_body_of_any_shape_is_answered_or_refused(
    data: st.DataObject, chosen: int, odd: object, server: StandInServer, http: httpx.Client
) -> None:
    provider, body = BODIES[chosen]
    sent = copy.deepcopy(body)
    *way, last = data.draw(st.sampled_from(list(places(sent))))
    place: Any = sent
    for step in way:
        place = place[step]
    place[last] = odd
    if provider == "google":
        sent["model"] = "m"
    response = post(http, server, provider, sent)
    assert response.status_code in {200, 400, 404, 422}, (provider, json.dumps(sent))
