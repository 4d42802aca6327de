"""Both ways of speaking HTTP keep the same promises about connections, TLS, proxies, cookies and odd servers."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kitaru.adapters import Adapter, Endpoint, Message, Retry, SecretStr, Timeouts, Transport, adapter, attempts_of
from kitaru.adapters.http.proxies import excepted, proxy_named
from kitaru.errors import ModelConnectionError, UsageError
from tests.adapters.scripted import (
    CALL,
    GOOD,
    HELLO,
    OPENAI,
    Clock,
    Scripted,
    Seen,
    answer,
    at,
    chunk,
    fails,
    scripted,
    stream,
)

pytestmark = pytest.mark.usefixtures("engine")


# Choosing


@pytest.mark.parametrize("http", ["plain", "fast"])
async def test_the_engine_can_be_named_in_code(http: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_HTTP", "no such engine")
    async with scripted(answer()) as server:
        async with Transport(http="plain" if http == "plain" else "fast") as transport:
            await transport.send(CALL, at(server), OPENAI)
        # aiohttp writes header names as they are given; only h11 keeps httpx's capitals of `Host`.
        assert server.seen[0].headers["user-agent"] == "kitaru"


async def test_an_unknown_engine_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, transport: Transport) -> None:
    monkeypatch.setenv("KITARU_HTTP", "quick")
    async with scripted(answer()) as server:
        with pytest.raises(UsageError, match="KITARU_HTTP=quick"):
            await transport.send(CALL, at(server), OPENAI)


@pytest.mark.parametrize(("asked", "loaded"), [("plain", False), ("fast", True), ("", True)])
def test_the_fast_engine_is_loaded_where_it_is_installed_and_not_declined(asked: str, loaded: bool) -> None:
    assert find_spec("aiohttp") is not None
    code = (
        "import asyncio, sys\n"
        "from kitaru.adapters import *\n"
        "call = ModelCall('openai', 'm', (Message('user', 'hi'),))\n"
        "here = Endpoint(base_url='http://127.0.0.1:9')\n"
        "async def main():\n"
        "    try: await Transport().send(call, here, adapter('openai'), retry=Retry(1))\n"
        "    except Exception as error: print(type(error).__name__)\n"
        "asyncio.run(main())\n"
        "print('aiohttp' in sys.modules, 'rich' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"KITARU_HTTP": asked, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    assert (done.stdout.split(), done.stderr) == (["ModelConnectionError", str(loaded), "False"], "")


# Connections


async def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used_again(transport: Transport) -> None:
    async def answer_and_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen) -> None:
        await answer()(reader, writer, seen)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with scripted(answer_and_go) as server:
        for _ in range(3):
            sent = await transport.send(CALL, at(server), OPENAI)
            assert len(sent.attempts) == 1
            await asyncio.sleep(0.01)  # for the news of the end to come through loopback
        assert server.connections == 3


async def test_a_connection_is_not_used_again_when_the_server_says_so(transport: Transport) -> None:
    async with scripted(answer(connection="close")) as server:
        for _ in range(2):
            await transport.send(CALL, at(server), OPENAI)
        assert server.connections == 2


async def test_an_answer_that_lasts_until_the_connection_closes_is_read(transport: Transport) -> None:
    async def old(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + GOOD)
        await writer.drain()
        writer.close()

    async with scripted(old) as server:
        assert (await transport.send(CALL, at(server), OPENAI)).reply.text == "hello"


async def test_a_large_answer_arrives_whole(transport: Transport) -> None:
    body = GOOD.replace(b"hello", b"h" * 3_000_000)
    async with scripted(answer(body)) as server:
        sent = await transport.send(CALL, at(server), OPENAI)
    assert len(sent.reply.text) == 3_000_000


async def test_a_large_request_is_sent_whole(transport: Transport) -> None:
    call = msgspec.structs.replace(CALL, messages=(Message("user", "x" * 3_000_000),))
    async with scripted(answer()) as server:
        await transport.send(call, at(server), OPENAI)
        assert len(server.seen[0].body) > 3_000_000


async def test_a_request_that_is_not_taken_ends_at_its_deadline(transport: Transport) -> None:
    over = asyncio.Event()

    async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    call = msgspec.structs.replace(CALL, messages=(Message("user", "x" * 30_000_000),))
    listening = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1024)
    base_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    error = await fails(
        transport.send(
            call, Endpoint(base_url=base_url), OPENAI, retry=Retry(attempts=1), timeout=Timeouts(between=0.1)
        )
    )
    assert "the request was not taken within 0.1 s, after the request was sent" in error.message
    over.set()
    listening.close()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


async def test_news_before_the_answer_is_passed_over(transport: Transport) -> None:
    async def with_hints(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(GOOD) + GOOD)

    async with scripted(with_hints) as server:
        assert (await transport.send(CALL, at(server), OPENAI)).reply.text == "hello"


@pytest.mark.parametrize(
    "garbage",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 two hundred\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x" * 200_000],
)
async def test_a_server_that_speaks_no_http_is_a_connection_error(garbage: bytes, transport: Transport) -> None:
    async def other(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
        writer.write(garbage)
        await writer.drain()
        writer.close()

    async with scripted(other) as server:
        endpoint = Endpoint(base_url=f"{server.base_url}?key=query-of-the-test", api_key=SecretStr("key-of-the-test"))
        error = await fails(transport.send(CALL, endpoint, OPENAI, retry=Retry(attempts=1)))
    assert isinstance(error, ModelConnectionError)
    assert attempts_of(error)[0].possibly_billed
    assert "query-of-the-test" not in str(error)


async def test_a_long_header_is_read(transport: Transport) -> None:
    async with scripted(answer(x_policy="p" * 30_000)) as server:
        assert (await transport.send(CALL, at(server), OPENAI)).reply.text == "hello"


async def test_a_broken_chunk_is_a_connection_error(transport: Transport) -> None:
    async def broken(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: Seen) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(GOOD[:20]) + b"zz\r\n")

    async with scripted(broken) as server:
        error = await fails(transport.send(CALL, at(server), OPENAI, retry=Retry(attempts=1)))
    assert isinstance(error, ModelConnectionError)
    assert error.sent


async def test_no_cookie_is_sent_back(transport: Transport) -> None:
    async with scripted(answer(set_cookie="track=1; Path=/")) as server:
        for _ in range(2):
            await transport.send(CALL, at(server), OPENAI)
        assert "cookie" not in server.seen[1].headers


async def test_an_escaped_address_is_sent_as_it_is(transport: Transport) -> None:
    async with scripted(answer()) as server:
        base_url = f"{server.base_url}/deployments/my%2Fmodel%20x?api-version=2024-10-21"
        await transport.send(CALL, Endpoint(base_url=base_url, api_key=SecretStr("key-of-the-test")), OPENAI)
        assert server.seen[0].line == (
            "POST /v1/deployments/my%2Fmodel%20x/chat/completions?api-version=2024-10-21 HTTP/1.1"
        )


async def test_each_header_arrives_once(transport: Transport) -> None:
    async with scripted(answer()) as server:
        await transport.send(CALL, at(server), OPENAI)
        names = [name for name in server.seen[0].names if name != "connection"]
    assert sorted(names) == [
        "accept", "accept-encoding", "authorization", "content-length", "content-type", "host", "user-agent",
    ]  # fmt: skip


async def test_a_host_without_a_name_is_not_reached(transport: Transport) -> None:
    endpoint = Endpoint(base_url="http://nobody.invalid/v1", api_key=SecretStr("key-of-the-test"))
    error = await fails(transport.send(CALL, endpoint, OPENAI, retry=Retry(attempts=1)))
    assert isinstance(error, ModelConnectionError)
    assert not error.sent


# Proxies


@pytest.fixture
def no_bypass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_bypass")
async def test_other_hosts_are_called_through_the_environment_s_proxy(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scripted(answer()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url.removesuffix("/v1").replace("//", "//user:word@"))
        await transport.send(CALL, Endpoint(base_url="http://models.example/v1"), _keyless())
        assert proxy.seen[0].line == "POST http://models.example/v1/chat/completions HTTP/1.1"
        assert proxy.seen[0].headers["proxy-authorization"] == "Basic dXNlcjp3b3Jk"


@pytest.mark.usefixtures("no_bypass")
async def test_hosts_that_are_exempt_are_called_direct(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(answer()) as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("NO_PROXY", "elsewhere.example,.invalid")
        await fails(
            transport.send(CALL, Endpoint(base_url="http://nobody.invalid/v1"), _keyless(), retry=Retry(attempts=1))
        )
        assert proxy.seen == []


@pytest.mark.usefixtures("no_bypass")
def test_the_proxy_is_that_of_the_scheme_or_of_all_unless_the_address_is_excepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://p.example:1")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,[fd00::]/8,h.example:8443")
    urls = [
        "http://10.1.2.3/v1",
        "http://11.1.2.3/v1",
        "https://[fd00::1]/v1",
        "https://h.example:8443",
        "https://h.example",
    ]
    assert [proxy_named(url) is None for url in urls] == [True, False, True, True, False]


@pytest.mark.parametrize(
    ("host", "entry"),
    [
        ("10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/8"),
        ("10.1.2.3", "10.0.0.0/8:8000"),
        ("10.1.2.3", "x, 10.1.2.3:8000"),
        ("10.1.2.3", "http://10.1.2.3/"),
        ("10.1.2.3", "10.1.*"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("fd00::1", "fd00::/8"),
        ("fd00::1", "[fd00::]/8"),
        ("fd00::1", "[fd00::/8]:8000"),
        ("fd00::1", "fd00:0::1"),
        ("fe80::1%eth0", "fe80::/10"),
        ("a.corp", "corp"),
        ("a.corp", ".corp"),
        ("a.corp", "*.CORP:8000"),
        ("corp", ".corp"),
        ("a.corp.", "corp."),
        ("xn--bcher-kva.example", "b\u00fccher.example"),
        ("anything", "x *"),
    ],
)
def test_the_exceptions_from_the_proxy_may_be_written_in_every_usual_way(host: str, entry: str) -> None:
    assert excepted(host, 8000, entry)


@pytest.mark.parametrize(
    ("host", "entry"),
    [
        ("10.1.2.3", "11.0.0.0/8"),
        ("10.1.2.3", "10.0.0.0/8:80"),
        ("10.1.2.3", "2.3"),
        ("10.1.2.3", "10.0.0.0/99"),
        ("fd00::1", "[fd00::1]:80"),
        ("fd00::1", "10.0.0.0/8"),
        ("acorp", ".corp"),
        ("a.corp", "corp:80"),
        ("a.corp", "10.0.0.0/8"),
        ("a.corp", " , ."),
    ],
)
def test_other_hosts_are_not_excepted_from_the_proxy(host: str, entry: str) -> None:
    assert not excepted(host, 8000, entry)


@pytest.mark.usefixtures("no_bypass")
async def test_the_environment_is_not_asked_where_it_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(answer()) as proxy, Transport(trust_env=False) as transport:
        monkeypatch.setenv("HTTP_PROXY", proxy.base_url)
        await fails(
            transport.send(CALL, Endpoint(base_url="http://nobody.invalid/v1"), _keyless(), retry=Retry(attempts=1))
        )
        assert proxy.seen == []


def _keyless() -> Adapter:
    return adapter("openai-compatible")


# TLS


class Authority:
    """A certificate authority for loopback, as files."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.file = folder / "ca.pem"
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        secret = folder / "key.pem"
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.file, secret)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def secured(authority: Authority, server: Scripted) -> AsyncIterator[Endpoint]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=authority.context)
    base_url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield Endpoint(base_url=base_url, api_key=SecretStr("key-of-the-test"))
    finally:
        listening.close()


async def test_https_is_spoken_with_an_authority_that_the_environment_names(
    authority: Authority, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    async with (
        scripted(answer(), stream(*HELLO)) as server,
        secured(authority, server) as endpoint,
        clock.transport() as transport,
    ):
        assert (await transport.send(CALL, endpoint, OPENAI)).reply.text == "hello"
        assert (await transport.send(CALL, endpoint, OPENAI, stream=True)).reply.text == "hello"
        assert server.connections == 1


async def test_a_certificate_of_an_unknown_authority_ends_the_call_before_anything_is_sent(
    authority: Authority, transport: Transport
) -> None:
    async with scripted(answer()) as server, secured(authority, server) as endpoint:
        error = await fails(transport.send(CALL, endpoint, OPENAI))
        assert server.seen == []
    assert isinstance(error, ModelConnectionError)
    assert error.hint is not None
    assert "SSL_CERT_FILE" in error.hint
    (attempt,) = attempts_of(error)
    assert not attempt.possibly_billed


async def test_a_certificate_file_that_is_none_is_a_usage_error(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(UsageError, match="certificate"):
        await transport.send(CALL, Endpoint(base_url="https://127.0.0.1:9/v1"), OPENAI)


async def test_a_server_without_tls_is_a_connection_error(transport: Transport) -> None:
    async def no_tls(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    listening = await asyncio.start_server(no_tls, "127.0.0.1", 0)
    endpoint = Endpoint(base_url=f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1")
    error = await fails(transport.send(CALL, endpoint, OPENAI, retry=Retry(attempts=1)))
    listening.close()
    assert isinstance(error, ModelConnectionError)
    assert not error.sent


async def test_a_server_that_does_not_shake_hands_ends_at_the_deadline_of_connecting(transport: Transport) -> None:
    async with scripted(answer()) as server:
        endpoint = Endpoint(base_url=server.base_url.replace("http:", "https:"))
        limits = Timeouts(connect=0.1)
        error = await fails(transport.send(CALL, endpoint, OPENAI, retry=Retry(attempts=1), timeout=limits))
    assert "no connection within 0.1 s, before the request was sent" in error.message
