"""What an ollama server holds, and fetching more: ollama `docs/api.md`, "List Local Models" and "Pull a Model"."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from kitaru.errors import CredentialError, ModelConnectionError, ModelError, NotFoundError, ProviderError, UsageError
from kitaru.runtime.models.registry import effective
from kitaru.runtime.models.routes import route_in

if TYPE_CHECKING:
    import httpx

    from kitaru.adapters import SecretStr

_CONNECT_SECONDS: Final = 10.0
# The server says nothing while it checks the digest of what it has fetched, which takes minutes for large models.
_SILENT_SECONDS: Final = 900.0
_LONGEST_LINE: Final = 1024 * 1024
_ONLY: Final = "Only ollama fetches models."
_LARGEST_LIST: Final = 16 * 1024 * 1024


class Details(msgspec.Struct, frozen=True):
    """What ollama says of a model's make."""

    parameter_size: str = ""
    quantization_level: str = ""
    family: str = ""


class Installed(msgspec.Struct, frozen=True):
    """A model that an ollama server holds.

    Args:
        name: With its tag.
        size: Bytes on its disk.
        modified_at: ISO 8601, as the server writes it.
        details: Parameters, quantisation, family.
    """

    name: str
    size: int = 0
    modified_at: str = ""
    details: Details = Details()


class Progress(msgspec.Struct, frozen=True):
    """How far a pull has come.

    Args:
        status: What the server does now, in its own words.
        done: Bytes fetched of all layers named so far; 0 where none is.
        total: Bytes of these layers.
    """

    status: str
    done: int = 0
    total: int = 0


class _Line(msgspec.Struct):
    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0
    error: str = ""


class _Tags(msgspec.Struct):
    models: list[Installed] = msgspec.field(default_factory=list)


def ollama_server(environ: Mapping[str, str] | None = None) -> tuple[str, SecretStr | None]:
    """The address of the ollama server that the environment names, else its usual one; and a key, where one is set."""
    from kitaru.adapters import SecretStr, provider

    environ = os.environ if environ is None else environ
    row = provider("ollama")
    found = next((value for name in row.key_env if (value := environ.get(name, "").strip())), "")
    return row.base_url_from(environ) or "", SecretStr(found) if found else None


def to_pull(name: str) -> tuple[str, str, SecretStr | None]:
    """What a name asks to be fetched, from which server, with which key.

    Args:
        name: As ollama calls it, `ollama/NAME`, or an alias for one.

    Raises:
        UsageError: It is another provider's model.
    """
    from kitaru.adapters import names

    now = effective().registry
    usual, key = ollama_server()
    if name in now.aliases:
        found = route_in(now, name, {})
        if found.provider != "ollama":
            raise UsageError(
                f"{name!r} is {found.name}, which is not a model of Ollama", hint="Only ollama fetches models."
            )
        return found.model, found.base_url or usual, key
    before, _, model = name.strip().partition("/")
    if before == "ollama" and model:
        return model, usual, key
    # ollama's own names may hold a slash: `library/name`, `hf.co/owner/name`.
    if model and before in names():
        raise UsageError(f"{name!r} is not ollama's", hint=_ONLY)
    if not name.strip():
        raise UsageError("the model's name is empty")
    return name.strip(), usual, key


def installed(base_url: str, key: SecretStr | None = None) -> list[Installed]:
    """What an ollama server holds, newest first, as `ollama list` shows it.

    Args:
        base_url: The server's address.
        key: For a server that asks for one.

    Raises:
        ModelError: It cannot be reached, or answers something else.
    """
    with _client(base_url, key) as client, _answer(client, "GET", base_url, "/api/tags", None) as response:
        body = b""
        for piece in _pieces(response, base_url):
            body += piece
            if len(body) > _LARGEST_LIST:
                break
    try:
        models = msgspec.json.decode(body, type=_Tags).models
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ProviderError(
            f"{_place(base_url)} answered {response.status_code}, but not as ollama does",
            status=response.status_code,
            reason="invalid",
            hint="Check OLLAMA_HOST: is it ollama that listens there?",
        ) from None
    return sorted(models, key=lambda model: model.modified_at, reverse=True)


def pull(name: str, base_url: str, key: SecretStr | None = None) -> Iterator[Progress]:
    """Fetch a model into an ollama server, telling how far it has come.

    A pull that is given up keeps what it has fetched: the next one goes on from there.

    Args:
        name: The model's name, with or without a tag.
        base_url: The server's address.
        key: For a server that asks for one.

    Raises:
        NotFoundError: There is no such model.
        ModelError: The server cannot be reached, or reports an error, or stopped before it was done.
    """
    from kitaru.adapters.sse import Lines, LineTooLongError

    sizes: dict[str, tuple[int, int]] = {}
    lines, finished = Lines(_LONGEST_LINE), False
    body = {"model": name, "stream": True}
    with _client(base_url, key) as client, _answer(client, "POST", base_url, "/api/pull", body, name) as response:
        for piece in _pieces(response, base_url):
            try:
                found = lines.feed(piece)
            except LineTooLongError:
                raise _odd(base_url) from None
            for line in found:
                told = _told(line, name, base_url)
                if told is None:
                    continue
                finished = finished or told.status == "success"
                if told.digest and told.total > 0:
                    sizes[told.digest] = (max(0, min(told.completed, told.total)), told.total)
                done, total = (sum(part) for part in zip(*sizes.values(), strict=True)) if sizes else (0, 0)
                yield Progress(told.status, done, total)
        rest = _told(lines.finish(), name, base_url)
    if rest is not None:
        finished = finished or rest.status == "success"
        yield Progress(rest.status)
    if not finished:
        raise ModelConnectionError(
            f"{_place(base_url)} stopped before {name} was fetched whole",
            sent=True,
            hint=f"`kitaru model pull {name}` resumes where it stopped.",
        )


def _told(line: bytes, name: str, base_url: str) -> _Line | None:
    from kitaru.adapters.secret import clean

    if not line.strip():
        return None
    try:
        told = msgspec.json.decode(line, type=_Line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _odd(base_url) from None
    if told.error:
        raise _refused(name, base_url, 200, clean(told.error, 300))
    told.status = clean(told.status, 100)
    return told


def _refused(name: str, base_url: str, status: int, said: str) -> ModelError | NotFoundError:
    # "pull model manifest: file does not exist" is how ollama says that its library lacks a model.
    if name and (status == 404 or "file does not exist" in said or "not found" in said):
        return NotFoundError(
            f"ollama knows no model {name!r}" + (f": {said}" if said else ""),
            hint="Its library is at ollama.com/library.",
        )
    if status == 401:
        error = CredentialError(
            f"{_place(base_url)} answered 401" + (f": {said}" if said else ""), hint="Set OLLAMA_API_KEY."
        )
        error.status = status
        return error
    hint = "Update ollama: this model needs a newer one." if "newer version" in said else None
    return ProviderError(
        f"{_place(base_url)} answered {status}" + (f": {said}" if said else ""), status=status, hint=hint
    )


def _client(base_url: str, key: SecretStr | None) -> httpx.Client:
    import httpx

    from kitaru.adapters.http.proxies import proxy_for, unusable

    try:
        transport = httpx.HTTPTransport(verify=httpx.create_ssl_context(), proxy=proxy_for(base_url))
    except (ValueError, ImportError, OSError):
        raise unusable() from None
    return httpx.Client(
        headers={"user-agent": "kitaru"} | ({"authorization": f"Bearer {key.reveal()}"} if key else {}),
        timeout=httpx.Timeout(_CONNECT_SECONDS, read=_SILENT_SECONDS),
        transport=transport,
    )


class _answer:  # noqa: N801 - used like a function
    """The response to one request, open while inside; an error status is raised."""

    def __init__(
        self, client: httpx.Client, method: str, base_url: str, path: str, body: object, name: str = ""
    ) -> None:
        self._client = client
        self._method = method
        self._base_url = base_url
        self._path = path
        self._body = body
        self._name = name
        self._response: httpx.Response | None = None

    def __enter__(self) -> httpx.Response:
        import httpx

        from kitaru.adapters import provider
        from kitaru.adapters.ollama import ENDPOINT
        from kitaru.adapters.request import address, without_endpoint
        from kitaru.adapters.secret import clean

        url = address(provider("ollama"), without_endpoint(self._base_url, ENDPOINT), self._path)
        problem: Exception
        try:
            request = self._client.build_request(self._method, url, json=self._body)
            response = self._response = self._client.send(request, stream=True, follow_redirects=False)
        except httpx.InvalidURL:
            problem = UsageError(f"{self._base_url!r} is not the address of an ollama server")
        except httpx.TransportError as error:
            problem = _unreached(self._base_url, clean(str(error), 200) or type(error).__name__)
        else:
            if response.is_success:
                return response
            text = b"".join(_pieces(response, self._base_url))[:4096]
            self.__exit__()
            problem = _refused(self._name, self._base_url, response.status_code, _said(text))
        raise problem

    def __exit__(self, *_: object) -> None:
        if self._response is not None:
            self._response.close()


def _pieces(response: httpx.Response, base_url: str) -> Iterator[bytes]:
    import httpx

    from kitaru.adapters.secret import clean

    problem = ""
    try:
        yield from response.iter_bytes()
    except (httpx.TransportError, httpx.DecodingError) as error:
        problem = clean(str(error), 200) or type(error).__name__
    if problem:
        raise ModelConnectionError(
            f"{_place(base_url)} broke off: {problem}", sent=True, hint="Pull again: it resumes where it stopped."
        )


def _said(body: bytes) -> str:
    from kitaru.adapters.secret import clean

    try:
        return clean(msgspec.json.decode(body, type=_Line).error, 300)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _unreached(base_url: str, why: str) -> ModelConnectionError:
    return ModelConnectionError(
        f"no ollama server answers at {_place(base_url)}: {why}",
        hint="Start it: `ollama serve`, or the ollama app. If it runs elsewhere, set OLLAMA_HOST.",
    )


def _odd(base_url: str) -> ProviderError:
    return ProviderError(
        f"{_place(base_url)} does not answer as ollama does",
        status=200,
        reason="invalid",
        hint="Check OLLAMA_HOST: is it ollama that listens there?",
    )


def _place(base_url: str) -> str:
    """An address without what may be a credential."""
    return base_url.partition("?")[0].rpartition("@")[2]
