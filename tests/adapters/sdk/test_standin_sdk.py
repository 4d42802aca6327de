"""The providers' own clients talk to the stand-in server, and understand it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from kitaru.adapters.standin import Options, StandInServer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.PydanticDeprecatedSince20")

KEY = "key-of-the-test"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather", "parameters": SCHEMA}}]
PROMPT = "Explain how tides follow the moon"
ASKING = "What does get_weather say of Oslo?"
RESULT = "sun and 21 degrees"


class Said(NamedTuple):
    """An answer, by whatever client."""

    text: str
    input: int | None
    output: int | None


@pytest.fixture(scope="module")
def server() -> Iterator[StandInServer]:
    with StandInServer(Options(api_key=KEY, strict=True)) as running:
        yield running


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


# A client's plain answer, its streamed one, and a call of a tool answered with its result.


class Client(NamedTuple):
    plain: Callable[[str], Said]
    stream: Callable[[str], Said]
    tool: Callable[[], tuple[str, dict[str, object], str]] | None


def chat_like(create: Callable[..., Any], model: str, *, usage: bool = False) -> Client:
    """Clients made in the image of OpenAI's."""

    def plain(prompt: str) -> Said:
        answer = create(model=model, messages=user(prompt))
        return Said(answer.choices[0].message.content, answer.usage.prompt_tokens, answer.usage.completion_tokens)

    def stream(prompt: str) -> Said:
        asked = {"stream_options": {"include_usage": True}} if usage else {}
        chunks = list(create(model=model, messages=user(prompt), stream=True, **asked))
        told = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
        told += [chunk.x_groq.usage for chunk in chunks if getattr(chunk, "x_groq", None) and chunk.x_groq.usage]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        return Said(text, told[-1].prompt_tokens, told[-1].completion_tokens)

    def tool() -> tuple[str, dict[str, object], str]:
        chunks = list(create(model=model, messages=user(ASKING), tools=TOOLS, stream=True))
        deltas = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or ()]
        name = "".join(delta.function.name or "" for delta in deltas)
        arguments = "".join(delta.function.arguments or "" for delta in deltas)
        called = {"name": name, "arguments": arguments}
        turns = [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": deltas[0].id, "type": "function", "function": called}],
            },
            {"role": "tool", "tool_call_id": deltas[0].id, "content": RESULT},
        ]
        answer = create(model=model, messages=user(ASKING) + turns, tools=TOOLS)
        return name, json.loads(arguments), answer.choices[0].message.content

    return Client(plain, stream, tool)


@pytest.fixture
def openai_chat(server: StandInServer) -> Iterator[Client]:
    import openai

    with openai.OpenAI(base_url=server.address("openai"), api_key=KEY, max_retries=0) as client:
        yield chat_like(client.chat.completions.create, "gpt-4o", usage=True)


@pytest.fixture
def azure(server: StandInServer) -> Iterator[Client]:
    import openai

    with openai.AzureOpenAI(
        azure_endpoint=server.address("azure"), api_key=KEY, api_version="2024-10-21", max_retries=0
    ) as client:
        yield chat_like(client.chat.completions.create, "my deployment/é", usage=True)


@pytest.fixture
def azure_v1(server: StandInServer) -> Iterator[Client]:
    import openai

    with openai.OpenAI(base_url=f"{server.address('azure')}/openai/v1", api_key=KEY, max_retries=0) as client:
        yield chat_like(client.chat.completions.create, "deployment", usage=True)


@pytest.fixture
def groq(server: StandInServer) -> Iterator[Client]:
    import groq as sdk

    with sdk.Groq(base_url=server.address("groq"), api_key=KEY, max_retries=0) as client:
        yield chat_like(client.chat.completions.create, "llama-3.3-70b")


@pytest.fixture
def together(server: StandInServer) -> Iterator[Client]:
    import together as sdk

    with sdk.Together(base_url=server.address("together"), api_key=KEY, max_retries=0) as client:
        yield chat_like(client.chat.completions.create, "org/model")


@pytest.fixture
def perplexity(server: StandInServer) -> Iterator[Client]:
    import perplexity as sdk

    with sdk.Perplexity(base_url=server.address("perplexity"), api_key=KEY, max_retries=0) as client:
        yield chat_like(client.chat.completions.create, "sonar")._replace(tool=None)


@pytest.fixture
def openrouter(server: StandInServer) -> Iterator[Client]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from openrouter import OpenRouter

    with OpenRouter(server_url=server.address("openrouter"), api_key=KEY) as client:
        yield chat_like(client.chat.send, "org/model")


@pytest.fixture
def responses(server: StandInServer) -> Iterator[Client]:
    import openai

    with openai.OpenAI(base_url=server.address("openai-responses"), api_key=KEY, max_retries=0) as client:
        tools: Any = [{"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": True}]
        thinking: Any = {"reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]}

        def said(answer: Any) -> Said:
            return Said(answer.output_text, answer.usage.input_tokens, answer.usage.output_tokens)

        def stream(prompt: str) -> Said:
            with client.responses.stream(model="gpt-4o", input=prompt) as events:
                pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
                answer = said(events.get_final_response())
            assert "".join(pieces) == answer.text
            return answer

        def tool() -> tuple[str, dict[str, object], str]:
            with client.responses.stream(model="o4-mini", input=ASKING, tools=tools, store=False, **thinking) as events:
                first = events.get_final_response()
            call: Any = first.output[-1]
            result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}
            turns: Any = [*user(ASKING), *(item.model_dump(exclude_none=True) for item in first.output), result]
            for item in turns:
                item.pop("parsed_arguments", None)
                item.pop("status", None)
            answer = client.responses.create(model="o4-mini", input=turns, tools=tools, store=False, **thinking)
            return call.name, json.loads(call.arguments), answer.output_text

        yield Client(lambda prompt: said(client.responses.create(model="gpt-4o", input=prompt)), stream, tool)


@pytest.fixture
def anthropic(server: StandInServer) -> Iterator[Client]:
    import anthropic as sdk

    with sdk.Anthropic(base_url=server.address("anthropic"), api_key=KEY, max_retries=0) as client:
        tools: Any = [{"name": "get_weather", "input_schema": SCHEMA}]
        thinking: Any = {"type": "enabled", "budget_tokens": 1024}

        def said(answer: Any) -> Said:
            return Said(answer.content[0].text, answer.usage.input_tokens, answer.usage.output_tokens)

        def stream(prompt: str) -> Said:
            with client.messages.stream(model="claude", max_tokens=500, messages=user(prompt)) as events:
                return said(events.get_final_message())

        def tool() -> tuple[str, dict[str, object], str]:
            common: Any = {"model": "claude", "max_tokens": 2000, "tools": tools, "thinking": thinking}
            with client.messages.stream(messages=user(ASKING), **common) as events:
                first = events.get_final_message()
            assert [block.type for block in first.content] == ["thinking", "tool_use"]
            call: Any = first.content[-1]
            result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": RESULT}
            turns: Any = [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
            answer: Any = client.messages.create(messages=user(ASKING) + turns, **common)
            return call.name, call.input, answer.content[-1].text

        yield Client(
            lambda prompt: said(client.messages.create(model="claude", max_tokens=500, messages=user(prompt))),
            stream,
            tool,
        )


@pytest.fixture
def google(server: StandInServer) -> Iterator[Client]:
    from google import genai

    client = genai.Client(api_key=KEY, http_options={"base_url": server.address("google")})

    def said(answer: Any) -> Said:
        usage = answer.usage_metadata
        return Said(answer.text, usage.prompt_token_count, usage.candidates_token_count)

    def stream(prompt: str) -> Said:
        chunks = list(client.models.generate_content_stream(model="gemini-x", contents=prompt))
        return said(chunks[-1])._replace(text="".join(chunk.text or "" for chunk in chunks))

    def tool() -> tuple[str, dict[str, object], str]:
        config: Any = {"tools": [{"functionDeclarations": [{"name": "get_weather", "parametersJsonSchema": SCHEMA}]}]}
        asked: Any = {"role": "user", "parts": [{"text": ASKING}]}
        first: Any = client.models.generate_content(model="gemini-3-pro", contents=[asked], config=config)
        call = first.function_calls[0]
        made = first.candidates[0].content
        assert made.parts[0].thought_signature
        answered: Any = {"id": call.id, "name": call.name, "response": {"output": RESULT}}
        result: Any = {"role": "user", "parts": [{"functionResponse": answered}]}
        answer = client.models.generate_content(model="gemini-3-pro", contents=[asked, made, result], config=config)
        return call.name, call.args, answer.text or ""

    yield Client(lambda prompt: said(client.models.generate_content(model="gemini-x", contents=prompt)), stream, tool)
    client.close()


@pytest.fixture
def mistral(server: StandInServer) -> Iterator[Client]:
    from mistralai.client import Mistral

    with Mistral(server_url=server.address("mistral"), api_key=KEY) as client:

        def create(*, stream: bool = False, **given: Any) -> Any:
            if stream:
                return [event.data for event in client.chat.stream(**given)]
            return client.chat.complete(**given)

        yield chat_like(create, "mistral-small")


@pytest.fixture
def cohere(server: StandInServer) -> Iterator[Client]:
    import cohere as sdk

    with httpx.Client(trust_env=False) as http:
        client = sdk.ClientV2(base_url=server.address("cohere"), api_key=KEY, httpx_client=http)

        def plain(prompt: str) -> Said:
            answer: Any = client.chat(model="command", messages=user(prompt))
            tokens = answer.usage.tokens
            return Said(answer.message.content[0].text, tokens.input_tokens, tokens.output_tokens)

        def stream(prompt: str) -> Said:
            events: Any = list(client.chat_stream(model="command", messages=user(prompt)))
            text = "".join(event.delta.message.content.text for event in events if event.type == "content-delta")
            tokens = events[-1].delta.usage.tokens
            return Said(text, tokens.input_tokens, tokens.output_tokens)

        def tool() -> tuple[str, dict[str, object], str]:
            tools: Any = TOOLS
            first: Any = client.chat(model="command", messages=user(ASKING), tools=tools)
            call = first.message.tool_calls[0]
            turns: Any = [first.message, {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
            answer: Any = client.chat(model="command", messages=user(ASKING) + turns, tools=tools)
            return call.function.name, json.loads(call.function.arguments), answer.message.content[0].text

        yield Client(plain, stream, tool)


@pytest.fixture
def ollama(server: StandInServer) -> Iterator[Client]:
    import ollama as sdk

    with sdk.Client(host=server.address("ollama"), headers={"authorization": f"Bearer {KEY}"}) as client:

        def said(answer: Any) -> Said:
            return Said(answer.message.content, answer.prompt_eval_count, answer.eval_count)

        def stream(prompt: str) -> Said:
            lines = list(client.chat(model="llama", messages=user(prompt), stream=True))
            return said(lines[-1])._replace(text="".join(line.message.content or "" for line in lines))

        def tool() -> tuple[str, dict[str, object], str]:
            first: Any = client.chat(model="llama", messages=user(ASKING), tools=TOOLS, think=True)
            call = first.message.tool_calls[0].function
            turns: Any = [first.message, {"role": "tool", "tool_name": call.name, "content": RESULT}]
            answer = client.chat(model="llama", messages=user(ASKING) + turns, tools=TOOLS)
            return call.name, dict(call.arguments), answer.message.content or ""

        yield Client(lambda prompt: said(client.chat(model="llama", messages=user(prompt))), stream, tool)


CLIENTS = (
    "openai_chat", "responses", "anthropic", "google", "mistral", "cohere", "groq", "together", "perplexity",
    "openrouter", "ollama", "azure", "azure_v1",
)  # fmt: skip


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Client)
    return found


def test_a_client_reads_an_answer_plain_and_in_pieces_alike(client: Client) -> None:
    plain, stream = client.plain(PROMPT), client.stream(PROMPT)
    assert plain == stream
    assert plain.text.count(".") == 3
    assert plain.input
    assert plain.output


# Perplexity's client has no types for the pieces of tool calls.
@pytest.mark.parametrize("client", [name for name in CLIENTS if name != "perplexity"], indirect=True)
def test_a_client_reads_a_tool_call_and_the_answer_to_its_result(client: Client) -> None:
    assert client.tool is not None
    name, arguments, answer = client.tool()
    assert name == "get_weather"
    assert arguments == {"city": "oslo"}
    assert RESULT in answer


def test_clients_name_the_trouble_that_the_server_plays(server: StandInServer) -> None:
    import anthropic as claude
    import cohere as command
    import openai
    from google import genai
    from google.genai import errors

    with openai.OpenAI(base_url=server.address("openai"), api_key="wrong", max_retries=0) as chat:
        with pytest.raises(openai.AuthenticationError):
            chat.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        busy = {"x-standin-fault": "429;retry-after=3"}
        with pytest.raises(openai.RateLimitError) as limited:
            chat.with_options(api_key=KEY).chat.completions.create(
                model="m", messages=[{"role": "user", "content": "x"}], extra_headers=busy
            )
        assert limited.value.code == "rate_limit_exceeded"
        assert limited.value.response.headers["retry-after"] == "3"
    overloaded = {"x-standin-fault": "529"}
    with claude.Anthropic(base_url=server.address("anthropic"), api_key=KEY, max_retries=0) as messages:
        with pytest.raises(claude.APIStatusError) as busy_now:
            messages.messages.create(model="m", max_tokens=5, messages=user("x"), extra_headers=overloaded)
        assert busy_now.value.status_code == 529
        broken = {"x-standin-fault": "error-in-stream"}
        with pytest.raises(claude.APIStatusError, match="Overloaded"):
            list(
                messages.messages.create(model="m", max_tokens=5, messages=user("x"), stream=True, extra_headers=broken)
            )
    client = genai.Client(
        api_key=KEY,
        http_options={"base_url": server.address("google"), "headers": {"x-standin-fault": "error-in-stream"}},
    )
    with pytest.raises(errors.ServerError, match="503 UNAVAILABLE"):
        list(client.models.generate_content_stream(model="m", contents="x"))
    client.close()
    with httpx.Client(trust_env=False) as http:
        cold = command.ClientV2(base_url=server.address("cohere"), api_key="wrong", httpx_client=http)
        with pytest.raises(command.errors.UnauthorizedError, match="invalid api token"):
            cold.chat(model="m", messages=user("x"))


def test_clients_list_the_models(server: StandInServer) -> None:
    import anthropic as claude
    import ollama as sdk
    import openai
    from google import genai

    with openai.OpenAI(base_url=server.address("openai"), api_key=KEY) as chat:
        assert [model.id for model in chat.models.list()] == ["stand-in"]
    with claude.Anthropic(base_url=server.url, api_key=KEY) as messages:
        assert [model.id for model in messages.models.list()] == ["stand-in"]
    client = genai.Client(api_key=KEY, http_options={"base_url": server.url})
    assert [model.name for model in client.models.list()] == ["models/stand-in"]
    client.close()
    with sdk.Client(host=server.url, headers={"authorization": f"Bearer {KEY}"}) as local:
        assert [model.model for model in local.list().models] == ["stand-in"]
        assert local.show("stand-in").capabilities == ["completion", "tools", "vision", "thinking"]


def test_ollama_s_client_pulls_a_model_that_was_not_there(server: StandInServer) -> None:
    import ollama as sdk

    with sdk.Client(host=server.url, headers={"authorization": f"Bearer {KEY}"}) as client:
        with pytest.raises(sdk.ResponseError, match="not found"):
            client.chat(model="no-such-model", messages=user("x"))
        steps = list(client.pull("no-such-model", stream=True))
        assert [step.completed for step in steps if step.completed][-1] == steps[1].total
        assert steps[-1].status == "success"
        assert client.chat(model="no-such-model", messages=user("x")).message.content
