"""Checking a model: what a failure is told apart as, and what is said to do."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from kitaru.adapters import SecretStr
from kitaru.adapters.standin import Options, StandInServer
from kitaru.errors import UsageError
from kitaru.runtime.models.check import MADE_UP, Verdict, check, key_for, route_to_check
from kitaru.runtime.models.reach import reach
from kitaru.runtime.models.routes import Route
from tests.runtime.canned import Canned, CannedServer

CHAT = "/v1/chat/completions"
ANSWER = json.dumps(
    {"id": "1", "model": "m", "choices": [{"message": {"role": "assistant", "content": "OK"}, "finish_reason": "stop"}]}
).encode()


def at(base_url: str, *, model: str = "m", gateway: bool = False, provider: str = "openai-compatible") -> Route:
    source = "gateway" if gateway else "alias"
    return Route("it", "it", provider, model, base_url=base_url, base_url_source=source)  # type: ignore[arg-type]  # one of them


def error(status: int, message: str, code: str | None = None) -> Canned:
    return Canned(status, json.dumps({"error": {"message": message, "code": code}}).encode())


def named(monkeypatch: pytest.MonkeyPatch, default: str | None = None, **aliases: object) -> None:
    monkeypatch.setenv("KITARU_MODEL_REGISTRY", json.dumps({"aliases": aliases, "default": default}))


async def told(answer: Canned, *, gateway: bool = False, key: str | None = None, path: str = CHAT) -> Verdict:
    with CannedServer({path: answer}) as server:
        return await check(at(f"{server.url}/v1", gateway=gateway), SecretStr(key) if key else None)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# -- it answers -------------------------------------------------------------------------------------------------------


async def test_a_model_that_answers_is_well(standin: StandInServer) -> None:
    verdict = await check(at(standin.base_url), None)
    assert verdict.ok
    assert verdict.answered_by == "m"
    assert standin.counts.total == 1


async def test_an_alias_is_asked_at_its_address_with_the_environments_key(
    standin: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-test")
    named(monkeypatch, fast={"model": "openai/m", "base_url": standin.base_url})
    route = route_to_check("fast", through_gateway=False)
    credential = key_for(route)
    assert credential.source == "environment"
    assert (await check(route, credential.key)).ok


# -- it cannot be reached ---------------------------------------------------------------------------------------------


async def test_an_address_that_does_not_exist() -> None:
    verdict = await check(at("http://nosuch.invalid:8000/v1"), None)
    assert verdict.kind == "address"
    assert "nosuch.invalid" in verdict.message


@pytest.mark.parametrize(
    ("provider", "gateway", "words"),
    [
        ("openai-compatible", True, "litellm --config"),
        ("ollama", False, "ollama serve"),
        ("lmstudio", False, "lms server start"),
        ("vllm", False, "vllm serve m"),
        ("openai-compatible", False, "kitaru model show it"),
    ],
)
async def test_a_server_that_does_not_run_and_how_to_start_it(
    closed_port: int, provider: str, gateway: bool, words: str
) -> None:
    verdict = await check(at(f"http://127.0.0.1:{closed_port}", provider=provider, gateway=gateway), None)
    assert verdict.kind == "refused"
    assert f"127.0.0.1:{closed_port}" in verdict.message
    assert words in verdict.hint


@pytest.fixture
def certified(tmp_path: Path) -> ssl.SSLContext:
    """A certificate that nobody signed but itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + made.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


async def test_a_certificate_that_is_not_trusted(certified: ssl.SSLContext) -> None:
    with CannedServer({CHAT: Canned(body=ANSWER)}, certified) as server:
        verdict = await check(at(f"https://127.0.0.1:{server.port}/v1"), None)
    assert verdict.kind == "tls"
    assert "SSL_CERT_FILE" in verdict.hint


async def test_a_server_without_tls() -> None:
    with CannedServer({CHAT: Canned(body=ANSWER)}) as server:
        verdict = await check(at(f"https://127.0.0.1:{server.port}/v1"), None)
    assert verdict.kind == "tls"
    assert "http://" in verdict.hint


async def test_a_proxy_of_the_environment_that_does_not_run(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:of-the-test@127.0.0.1:{closed_port}")
    verdict = await check(at("https://api.example/v1"), None)
    assert verdict.kind == "proxy"
    assert f"127.0.0.1:{closed_port}" in verdict.message
    assert "of-the-test" not in str(verdict)


async def test_a_server_that_takes_connections_and_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        found = await reach(f"https://127.0.0.1:{silent.getsockname()[1]}", seconds=0.05)
    assert found.step == "timeout"


# -- it refuses the key -----------------------------------------------------------------------------------------------


@pytest.fixture
def locked() -> Iterator[StandInServer]:
    with StandInServer(Options(api_key="key-of-the-test")) as server:
        yield server


async def test_a_wrong_key(locked: StandInServer) -> None:
    assert (await check(at(locked.base_url), SecretStr("key-of-another"))).kind == "key"


async def test_no_key_where_one_is_asked_for(locked: StandInServer) -> None:
    assert (await check(at(locked.base_url), None)).kind == "no_key"


async def test_no_key_where_the_provider_always_needs_one() -> None:
    verdict = await check(Route("openai/m", "", "openai", "m", base_url="https://api.openai.com/v1"), None)
    assert verdict.kind == "no_key"
    assert "OPENAI_API_KEY" in verdict.hint


async def test_a_wrong_master_key(locked: StandInServer) -> None:
    verdict = await check(at(locked.base_url, gateway=True), SecretStr("key-of-another"))
    assert verdict.kind == "gateway_key"
    assert "KITARU_GATEWAY_KEY" in verdict.hint
    assert "key-of-another" not in str(verdict)


async def test_a_wrong_master_key_as_litellm_without_a_database_says_it() -> None:
    verdict = await told(error(400, "No connected db.", "400"), gateway=True, key="key-of-the-test")
    assert verdict.kind == "gateway_key"


async def test_a_missing_master_key_as_litellm_fails_on_it() -> None:
    assert (await told(Canned(500, b"Internal Server Error", "text/plain"), gateway=True)).kind == "gateway_key"


async def test_a_key_of_the_proxy_itself_that_the_provider_refuses() -> None:
    said = "litellm.AuthenticationError: AuthenticationError: OpenAIException - Incorrect API key provided"
    assert (await told(error(401, said), gateway=True, key="key-of-the-test")).kind == "upstream_key"


async def test_a_key_that_may_not() -> None:
    assert (await told(error(403, "not in your region"))).kind == "forbidden"


# -- it refuses the rest ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (404, "The model `m` does not exist or you do not have access to it.", "model_not_found"),
        (400, "Invalid model: m", None),
        (400, "Model Not Exist", None),
        (400, "m is not a valid model ID", None),
        (400, "Invalid model name passed in model=gpt-4.1. Call `/v1/models` to view available models", None),
        (404, "The API deployment for this resource does not exist", "DeploymentNotFound"),
    ],
)
async def test_a_model_that_is_not_there(status: int, message: str, code: str | None) -> None:
    assert (await told(error(status, message, code))).kind == "model"


async def test_a_model_that_is_not_in_the_proxys_list() -> None:
    verdict = await told(error(400, "Invalid model name passed in model=m", None), gateway=True)
    assert verdict.kind == "model"
    assert "model_list" in verdict.hint


async def test_a_model_that_ollama_has_not_pulled() -> None:
    answer = Canned(404, b'{"error":"model \\"m\\" not found, try pulling it first"}')
    with CannedServer({"/api/chat": answer}) as server:
        verdict = await check(at(server.url, provider="ollama"), None)
    assert verdict.kind == "model"
    assert "kitaru model pull m" in verdict.hint


async def test_a_base_url_that_lacks_v1() -> None:
    with CannedServer({CHAT: Canned(body=ANSWER)}) as server:
        verdict = await check(at(server.url), None)
    assert verdict.kind == "base_url"
    assert f"{server.url}/v1" in verdict.hint


@pytest.mark.parametrize("there", [error(401, "no"), error(404, "The model `m` does not exist")])
async def test_a_base_url_that_lacks_v1_is_told_also_where_the_call_would_fail_there(there: Canned) -> None:
    with CannedServer({CHAT: there}) as server:
        verdict = await check(at(server.url), None)
    assert verdict.kind == "base_url"
    assert "/v1" in verdict.hint


async def test_a_web_page_instead_of_the_api() -> None:
    page = Canned(200, b"<!doctype html><html><body>Welcome</body></html>", "text/html")
    assert (await told(page)).kind == "base_url"


async def test_an_address_that_is_something_else() -> None:
    with CannedServer({}) as server:
        assert (await check(at(f"{server.url}/v1"), None)).kind == "base_url"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(429, "You exceeded your current quota", "insufficient_quota"), "quota"),
        (error(402, "Insufficient Balance"), "quota"),
        (error(429, "slow down", "slow_down"), "busy"),
        (error(503, "overloaded"), "busy"),
        (Canned(308, b""), "redirect"),
        (error(400, "The plain HTTP request was sent to HTTPS port"), "tls"),
        (error(400, "what is this"), "other"),
        (error(500, "oops"), "other"),
    ],
)
async def test_what_else_goes_wrong_has_a_name(answer: Canned, kind: str) -> None:
    assert (await told(answer)).kind == kind


# -- the gateway ------------------------------------------------------------------------------------------------------


def test_a_gateway_that_is_not_set_up_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no gateway"):
        route_to_check(None, through_gateway=True)


async def test_a_gateway_is_checked_by_a_made_up_model_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with CannedServer({CHAT: error(400, f"Invalid model name passed in model={MADE_UP}")}) as server:
        monkeypatch.setenv("KITARU_GATEWAY_URL", f"{server.url}/v1")
        monkeypatch.setenv("KITARU_GATEWAY_KEY", "key-of-the-test")
        route = route_to_check(None, through_gateway=True)
        verdict = await check(route, key_for(route).key)
    assert verdict.ok
    assert server.asked[0][3]["authorization"] == "Bearer key-of-the-test"


async def test_an_alias_is_asked_of_the_gateway_by_its_name_and_only_with_its_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named(monkeypatch, fast={"model": "openai/m", "secret": "creds"}, default="fast")
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-openai")
    with CannedServer({CHAT: Canned(body=ANSWER)}) as server:
        monkeypatch.setenv("KITARU_GATEWAY_URL", f"{server.url}/v1")
        route = route_to_check(None, through_gateway=True)
        assert (await check(route, key_for(route).key)).ok
    assert json.loads(server.asked[0][2])["model"] == "fast"
    assert "authorization" not in server.asked[0][3]
