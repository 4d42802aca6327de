"""The stand-in server speaks each API on its own paths, in its own framing, and refuses in its own words."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from kitaru.adapters.standin import Fault, FaultKind, Options, Rule, StandInServer

KEY = "key+of/the=test"
PROMPT = "Explain how tides follow the moon"

PATHS = {
    "openai": "/chat/completions",
    "openai-responses": "/responses",
    "anthropic": "/v1/messages",
    "google": "/v1beta/models/gemini-x:generateContent",
    "mistral": "/v1/chat/completions",
    "cohere": "/v2/chat",
    "groq": "/openai/v1/chat/completions",
    "together": "/v1/chat/completions",
    "perplexity": "/chat/completions",
    "deepseek": "/chat/completions",
    "openrouter": "/chat/completions",
    "ollama": "/api/chat",
    "azure": "/openai/deployments/d/chat/completions?api-version=2024-10-21",
}
STREAMS = {"google": "/v1beta/models/gemini-x:streamGenerateContent?alt=sse"}
HEADERS = {"anthropic": "x-api-key", "google": "x-goog-api-key", "azure": "api-key"}
EVERY = pytest.mark.parametrize("provider", PATHS)


def body_of(provider: str, prompt: str = PROMPT, *, stream: bool = False, **more: Any) -> dict[str, Any]:
    match provider:
        case "google":
            found: dict[str, Any] = {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}
        case "openai-responses":
            found = {"model": "m", "input": prompt, "stream": stream}
        case "anthropic":
            found = {
                "model": "m",
                "max_tokens": 500,
                "messages": [{"role": "user", "content": prompt}],
                "stream": stream,
            }
        case _:
            found = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": stream}
    return found | more


def headers_of(provider: str, key: str = KEY) -> dict[str, str]:
    name = HEADERS.get(provider)
    version = {"anthropic-version": "2023-06-01"} if provider == "anthropic" else {}
    return version | ({name: key} if name else {"authorization": f"Bearer {key}"})


def ask(
    server: StandInServer,
    provider: str,
    body: dict[str, Any] | None = None,
    *,
    stream: bool = False,
    fault: str = "",
    key: str = KEY,
) -> httpx.Response:
    path = STREAMS.get(provider, PATHS[provider]) if stream else PATHS[provider]
    headers = headers_of(provider, key) | ({"x-standin-fault": fault} if fault else {})
    sent = body if body is not None else body_of(provider, stream=stream)
    return httpx.post(f"{server.address(provider)}{path}", json=sent, headers=headers, trust_env=False, verify=False)


@pytest.fixture(scope="module")
def shared() -> Iterator[StandInServer]:
    with StandInServer(Options(api_key=KEY)) as server:
        yield server


@pytest.fixture
def server(shared: StandInServer) -> StandInServer:
    shared.reset()
    return shared


# Paths


@pytest.mark.parametrize(
    ("path", "provider", "header"),
    [
        ("/v1/chat/completions", "openai", "authorization"),
        ("/chat/completions", "openai", "authorization"),
        ("/openai/v1/chat/completions", "groq", "authorization"),
        ("/openai/v1/chat/completions", "azure", "api-key"),
        ("/api/v1/chat/completions", "openrouter", "authorization"),
        ("/openai/deployments/a%20b/chat/completions?api-version=1", "azure", "api-key"),
        ("/v1/responses", "openai-responses", "authorization"),
        ("/openai/v1/responses", "azure", "api-key"),
        ("/v1/messages", "anthropic", "x-api-key"),
        ("/v1/models/m:generateContent", "google", "x-goog-api-key"),
        ("/v2/chat", "cohere", "authorization"),
        ("/api/chat", "ollama", "authorization"),
        ("/at/xai/v1/chat/completions", "xai", "authorization"),
    ],
)
def test_one_port_serves_every_api_on_its_own_path(
    path: str, provider: str, header: str, server: StandInServer
) -> None:
    api = "openai-responses" if path.endswith("responses") else provider
    key = f"Bearer {KEY}" if header == "authorization" else KEY
    headers = {header: key, "anthropic-version": "2023-06-01"}
    body = body_of(api) | ({"stream": False} if api != "google" else {})
    response = httpx.post(server.url + path, json=body, headers=headers, trust_env=False, verify=False)
    assert response.status_code == 200, response.text
    assert server.counts.providers == {provider: 1}


def test_a_model_s_name_tells_whose_api_is_meant_where_the_path_does_not(server: StandInServer) -> None:
    for model in ("mistral-small", "deepseek-chat", "sonar", "gpt-x"):
        body = body_of("openai", model=model)
        httpx.post(
            f"{server.base_url}/chat/completions", json=body, headers=headers_of(""), trust_env=False, verify=False
        )
    assert server.counts.providers == {"mistral": 1, "deepseek": 1, "perplexity": 1, "openai": 1}


@EVERY
def test_a_path_that_is_none_gets_the_providers_own_404(provider: str, server: StandInServer) -> None:
    response = httpx.post(
        f"{server.url}/at/{provider}/nowhere", json={}, headers=headers_of(provider), trust_env=False, verify=False
    )
    assert response.status_code == 404
    assert message_of(provider, response.json())
    assert server.counts.total == 0


def test_a_base_url_that_lacks_v1_is_not_found(server: StandInServer) -> None:
    url = f"{server.url}/at/openai/chat/completions"
    assert (
        httpx.post(url, json=body_of("openai"), headers=headers_of(""), trust_env=False, verify=False).status_code
        == 404
    )


def message_of(provider: str, body: Any) -> str:
    """The message of an error, each provider's where it belongs, or an assertion that fails."""
    match provider:
        case "mistral":
            assert body["object"] == "error"
            return str(body["message"])
        case "cohere":
            return str(body["message"])
        case "ollama":
            assert body.keys() == {"error"}
            return str(body["error"])
        case "anthropic":
            assert body["type"] == "error"
            assert body["error"]["type"]
            return str(body["error"]["message"])
        case "google":
            assert body["error"]["status"]
            return str(body["error"]["message"])
        case "openrouter":
            assert isinstance(body["error"]["code"], int)
            return str(body["error"]["message"])
        case _:
            assert body["error"]["type"]
            return str(body["error"]["message"])


# Keys


@EVERY
def test_a_wrong_key_is_refused_as_the_provider_does(provider: str, server: StandInServer) -> None:
    response = ask(server, provider, key="another")
    # Google calls a wrong key an invalid argument.
    assert response.status_code == (400 if provider == "google" else 401)
    assert KEY not in response.text
    assert ask(server, provider).status_code == 200
    assert server.counts.total == 2


def test_requests_are_kept_without_their_key_but_with_its_digest(server: StandInServer) -> None:
    ask(server, "anthropic")
    httpx.post(
        f"{server.url}/v1/models/m:generateContent",
        params={"key": KEY},
        json=body_of("google"),
        trust_env=False,
        verify=False,
    )
    first, second = server.requests
    assert KEY not in repr(server.requests)
    assert first.credential == second.credential == hashlib.sha256(KEY.encode()).hexdigest()
    assert (first.provider, first.path, first.headers["anthropic-version"]) == (
        "anthropic",
        "/v1/messages",
        "2023-06-01",
    )
    assert first.body == json.loads(first.raw) == body_of("anthropic")
    assert second.query == {"key": "**********"}


# Streams


def lines(response: httpx.Response) -> list[str]:
    return [line for line in response.text.split("\n") if line]


@pytest.mark.parametrize(
    "provider", ["openai", "mistral", "groq", "together", "perplexity", "deepseek", "openrouter", "azure"]
)
def test_the_chat_family_streams_data_and_then_done(provider: str, server: StandInServer) -> None:
    response = ask(server, provider, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    found = lines(response)
    assert all(line.startswith("data: ") for line in found)
    assert found[-1] == "data: [DONE]"


@pytest.mark.parametrize(
    ("provider", "end"),
    [("openai-responses", "response.completed"), ("anthropic", "message_stop"), ("cohere", "message-end")],
)
def test_events_with_names_have_the_name_as_their_type_and_end_with_the_last(
    provider: str, end: str, server: StandInServer
) -> None:
    found = lines(ask(server, provider, stream=True))
    names = [line.removeprefix("event: ") for line in found[::2]]
    assert names == [json.loads(line.removeprefix("data: "))["type"] for line in found[1::2]]
    assert names[-1] == end
    assert "[DONE]" not in "".join(found)


def test_google_ends_its_lines_with_two_characters_and_its_stream_with_a_finish(server: StandInServer) -> None:
    text = ask(server, "google", stream=True).text
    events = text.split("\r\n\r\n")
    assert events[-1] == ""
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert [chunk["candidates"][0].get("finishReason") for chunk in chunks] == [None] * (len(chunks) - 1) + ["STOP"]
    url = f"{server.address('google')}/v1beta/models/m:streamGenerateContent"
    array = httpx.post(url, json=body_of("google"), headers=headers_of("google"), trust_env=False, verify=False).json()
    assert len(array) == len(chunks)


def test_ollama_streams_lines_of_json_unless_told_not_to(server: StandInServer) -> None:
    body = body_of("ollama")
    del body["stream"]
    found = [json.loads(line) for line in lines(ask(server, "ollama", body))]
    assert [line["done"] for line in found] == [False] * (len(found) - 1) + [True]


@pytest.mark.parametrize(
    ("provider", "comment"), [("openrouter", ": OPENROUTER PROCESSING"), ("deepseek", ": keep-alive")]
)
def test_streams_hold_the_providers_comments_where_that_is_wanted(provider: str, comment: str) -> None:
    with StandInServer(Options(comments=True)) as server:
        assert ask(server, provider, stream=True).text.startswith(comment)
        assert ask(server, provider).json()["choices"]


@pytest.mark.parametrize(
    ("provider", "place"),
    [
        ("mistral", lambda chunks: chunks[-1]["usage"]),
        ("together", lambda chunks: chunks[-1]["usage"]),
        ("deepseek", lambda chunks: chunks[-1]["usage"]),
        ("openrouter", lambda chunks: chunks[-1]["usage"]),
        ("perplexity", lambda chunks: chunks[-1]["usage"]),
        ("groq", lambda chunks: chunks[-1]["x_groq"]["usage"]),
    ],
)
def test_usage_comes_unasked_where_the_provider_puts_it(provider: str, place: Any, server: StandInServer) -> None:
    found = lines(ask(server, provider, stream=True))
    chunks = [json.loads(line.removeprefix("data: ")) for line in found[:-1]]
    plain = ask(server, provider).json()["usage"]
    assert place(chunks)["completion_tokens"] == plain["completion_tokens"] > 0
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert sum(finish is not None for finish in finishes) == (2 if provider == "openrouter" else 1)


def test_parallel_calls_come_piece_by_piece_in_turn() -> None:
    rules = (Rule("", tool="look", arguments={"a": "one two three four five six"}, times=2),)
    with StandInServer(Options(rules=rules)) as server:
        tools = [{"type": "function", "function": {"name": "look"}}]
        found = lines(ask(server, "openai", body_of("openai", stream=True, tools=tools), stream=True))
    deltas = [json.loads(line[6:])["choices"][0]["delta"].get("tool_calls", [{}])[0] for line in found[:-1]]
    order = [delta["index"] for delta in deltas if delta]
    assert order[:6] == [0, 1, 0, 1, 0, 1]


def test_tokens_from_a_cache_are_counted_as_each_provider_does() -> None:
    with StandInServer(Options(cached_tokens=900)) as server:
        words = ask(server, "openai").json()["usage"]["prompt_tokens"] - 900
        claude = ask(server, "anthropic").json()["usage"]
        assert (claude["input_tokens"], claude["cache_read_input_tokens"]) == (words, 900)
        gemini = ask(server, "google").json()["usageMetadata"]
        assert (gemini["promptTokenCount"], gemini["cachedContentTokenCount"]) == (words + 900, 900)
        assert ask(server, "deepseek").json()["usage"]["prompt_cache_miss_tokens"] == words
        assert "prompt_eval_count" not in ask(server, "ollama").json()


# Faults


@EVERY
@pytest.mark.parametrize(
    ("kind", "statuses"),
    [
        ("429", {429}),
        ("500", {500}),
        ("503", {503}),
        ("529", {498, 503, 529}),
        ("quota", {400, 402, 429}),
        ("context", {400}),
    ],
)
def test_a_refusal_has_the_providers_shape_and_its_way_to_say_when_to_come_again(
    provider: str, kind: FaultKind, statuses: set[int], server: StandInServer
) -> None:
    response = ask(server, provider, fault=f"{kind};retry-after=7")
    assert response.status_code in statuses
    assert message_of(provider, response.json())
    if kind == "429" and provider == "google":
        assert response.json()["error"]["details"][0]["retryDelay"] == "7s"
    elif kind == "429" and provider not in {"deepseek", "ollama"}:
        assert response.headers["retry-after"] == "7"


def test_the_spent_quota_of_a_day_is_told_by_its_name(server: StandInServer) -> None:
    details = ask(server, "google", fault="quota").json()["error"]["details"]
    assert "PerDay" in details[0]["violations"][0]["quotaId"]


@EVERY
def test_a_truncated_stream_lacks_nothing_but_its_end(provider: str, server: StandInServer) -> None:
    whole = ask(server, provider, stream=True).text
    torn = ask(server, provider, stream=True, fault="truncated").text
    marks = {"google": '"finishReason"', "ollama": '"done":true', "anthropic": "message_stop", "cohere": "message-end",
             "openai-responses": "response.completed"}  # fmt: skip
    mark = marks.get(provider, "[DONE]")
    assert mark in whole
    assert mark not in torn


@EVERY
def test_an_error_in_a_stream_comes_after_some_of_the_answer(provider: str, server: StandInServer) -> None:
    text = ask(server, provider, stream=True, fault="error-in-stream").text
    assert "error" in text.lower()
    assert text.startswith(ask(server, provider, stream=True).text[:5])
    assert ("[DONE]" in text) == (provider in {"openrouter", "mistral"})
    if provider == "google":
        assert "\n{\n" in text
    if provider == "groq":
        assert "event: error" in text


@EVERY
def test_an_error_can_come_with_status_200(provider: str, server: StandInServer) -> None:
    response = ask(server, provider, fault="error-in-200")
    assert response.status_code == 200
    assert "error" in response.text.lower()


@EVERY
@pytest.mark.parametrize("kind", ["refusal", "filter", "empty"])
def test_what_is_no_answer_is_told_plain_and_in_a_stream(provider: str, kind: str, server: StandInServer) -> None:
    plain = ask(server, provider, fault=kind)
    streamed = ask(server, provider, stream=True, fault=kind)
    if provider == "azure" and kind == "filter":
        assert plain.json()["error"]["innererror"]["code"] == "ResponsibleAIPolicyViolation"
        return
    said = {
        "anthropic": {"refusal": '"refusal"', "filter": '"refusal"', "empty": '"max_tokens"'},
        "google": {"refusal": "SAFETY", "filter": "blockReason", "empty": "MAX_TOKENS"},
        "openai-responses": {"refusal": '"refusal"', "filter": '"content_filter"', "empty": '"max_output_tokens"'},
        "cohere": {"refusal": "sorry", "filter": "ERROR", "empty": "MAX_TOKENS"},
    }.get(provider, {"refusal": "sorry", "filter": "", "empty": '"length"'})
    assert said[kind] in plain.text
    assert said[kind] in streamed.text


def test_a_slow_answer_comes_in_pieces_with_pauses() -> None:
    with StandInServer(Options(faults=(Fault("slow", retry_after=0.01),))) as server:
        with httpx.stream(
            "POST", f"{server.base_url}/chat/completions", json=body_of("openai"), trust_env=False, verify=False
        ) as plain:
            assert len(list(plain.iter_raw())) == 4
        assert ask(server, "anthropic", stream=True).text.endswith("\n\n")


# Echoes


def forms(key: str) -> tuple[str, str, str]:
    import base64

    return key, "".join(f"\\u{ord(each):04x}" for each in key), base64.b64encode(key.encode()).decode()


@EVERY
@pytest.mark.parametrize("kind", ["echo-error", "echo-error-400", "echo-body"])
def test_a_credential_comes_back_in_three_forms(provider: str, kind: str, server: StandInServer) -> None:
    response = ask(server, provider, fault=kind)
    assert response.status_code == {"echo-body": 200, "echo-error-400": 400}.get(
        kind, 400 if provider == "google" else 401
    )
    assert all(form in response.text for form in forms(KEY))
    assert response.json()


@EVERY
def test_a_credential_comes_back_in_a_stream_split_over_events_and_whole(provider: str, server: StandInServer) -> None:
    text = ask(server, provider, stream=True, fault="echo-stream").text
    assert all(form in text for form in forms(KEY))
    if provider != "ollama":
        text = text.replace("\r", "")
    halves = (KEY[: len(KEY) // 2], KEY[len(KEY) // 2 :])
    assert re.search(
        re.escape(f'"{halves[0]}"') + "[^]*?".replace("[^]", r"[\s\S]") + re.escape(f'"{halves[1]}"'), text
    )


@EVERY
def test_a_credential_comes_back_in_headers(provider: str, server: StandInServer) -> None:
    headers = ask(server, provider, fault="echo-header").headers
    assert KEY in headers["set-cookie"]
    assert sum(KEY in value for value in headers.values()) >= 3


# Holding


def test_held_requests_wait_until_they_are_released(server: StandInServer) -> None:
    answers: list[int] = []
    with server.hold("slowly"):
        threads = [
            threading.Thread(
                target=lambda: answers.append(ask(server, "openai", body_of("openai", "slowly")).status_code)
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        server.wait_for(3)
        assert ask(server, "openai", body_of("openai", "quickly")).status_code == 200
        assert server.counts.in_flight == 3
        assert answers == []
    for thread in threads:
        thread.join()
    assert answers == [200] * 3


def test_waiting_for_requests_that_do_not_come_ends(server: StandInServer) -> None:
    with pytest.raises(TimeoutError, match="0 of 1"):
        server.wait_for(1, timeout=0.01)


def test_a_client_that_leaves_while_it_is_held_is_counted_as_abandoned() -> None:
    with StandInServer(Options(hold=True)) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.base_url}/chat/completions", json=body_of("openai"), timeout=0.1, verify=False)
        until = time.monotonic() + 10
        while server.counts.in_flight and time.monotonic() < until:
            pass
        server.release()
        ask(server, "openai")
        assert (server.counts.abandoned, server.counts.finished) == (1, 1)
