"""Whether a model answers: one small real request, and where it fails, why and what to do."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from kitaru.errors import AnswerError, CredentialError, ModelConnectionError, ModelError, ProviderError, UsageError
from kitaru.runtime.models.gateway import KEY, PROVIDER, URL, gateway, gateway_route, key_trouble
from kitaru.runtime.models.reach import Reach, reach
from kitaru.runtime.models.registry import effective
from kitaru.runtime.models.routes import Route, placed, route_in

if TYPE_CHECKING:
    from kitaru.adapters import SecretStr, Sent
    from kitaru.runtime.secrets.credentials import Credential

Kind: TypeAlias = Literal[
    "ok", "address", "refused", "timeout", "tls", "proxy", "base_url", "no_key", "key", "gateway_key", "upstream_key",
    "forbidden", "model", "quota", "busy", "redirect", "other",
]  # fmt: skip

KEY_KINDS: Final[frozenset[Kind]] = frozenset({"no_key", "key", "gateway_key"})
"""What a credential cures."""

MADE_UP: Final = "kitaru-check"
"""Asked of a gateway where no model is named: that it is unknown there shows that address and key are right."""

_PROMPT: Final = "Reply with OK."
_TOKENS: Final = 16  # the least that openai's responses API takes
_SECONDS: Final = 60.0

# Statuses and words of APIs that do not answer 404 to a model that they lack: mistral, deepseek, openrouter, litellm.
_NO_MODEL: Final = re.compile(
    r"model.{0,100}(?:not found|does ?n[o']t exist|not exist|is not (?:available|supported))"
    r"|(?:invalid|unknown|no such) model|not a valid model|model_not_found|deployment.{0,60}not exist"
    r"|no healthy deployments? for this model",
    re.IGNORECASE,
)
_NOT_THE_API: Final = re.compile(r"not in the API's form|with a web page|invalid url|\bnot found\b", re.IGNORECASE)
_PLAIN_HTTP: Final = re.compile(r"http request (?:was sent )?to (?:an )?https (?:server|port)", re.IGNORECASE)


class Verdict(msgspec.Struct, frozen=True):
    """What a check found.

    Args:
        kind: `ok`, or what is wrong.
        message: What happened and where.
        hint: What to do; empty where there is nothing to do.
        seconds: How long the answer took.
        answered_by: The model that answered, by its own account.
        warnings: What to know although it answered.
    """

    kind: Kind
    message: str
    hint: str = ""
    seconds: float = 0.0
    answered_by: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether calls will work."""
        return self.kind == "ok"


def key_for(route: Route) -> Credential:
    """The credential that a call by a route would be sent with. May wait for the disk.

    Args:
        route: As `route_to_check` gave it.

    Raises:
        CredentialError: The linked secret does not exist, or holds no key for the provider.
    """
    from kitaru.adapters import provider
    from kitaru.runtime.secrets.credentials import NONE, Credential, find

    if route.base_url_source == "gateway":
        through = gateway()
        return Credential(through.key, "environment") if through is not None and through.key else NONE
    return find(provider(route.provider), argument=None, linked=route.secret or None, trusted_host=True)


async def check(route: Route, key: SecretStr | None, *, bearer: bool = False) -> Verdict:
    """Ask a model for a word. It costs a few tokens, and is not recorded.

    Args:
        route: Where to, as `placed` gave it.
        key: The credential to send.
        bearer: Send it as a bearer token, where the provider has another form too.

    Raises:
        UsageError: The address cannot be right.
    """
    begun = time.monotonic()
    try:
        sent = await _ask(route, key, bearer)
    except AnswerError:
        return Verdict("ok", f"{_who(route)} answered", seconds=time.monotonic() - begun)
    except ModelError as error:
        return await _why(route, key, bearer, error)
    return Verdict(
        "ok",
        f"{_who(route)} answered",
        seconds=sent.latency,
        answered_by=sent.reply.model,
        # An answer of a few words is cut short on purpose.
        warnings=tuple(warning for warning in sent.warnings if sent.reply.finish != "length"),
    )


def route_to_check(name: str | None, *, through_gateway: bool) -> Route:
    """The route that a check of a name tries today.

    Args:
        name: An alias or `provider/model`; None for the default, and for a made-up model where a gateway is to be
            checked and there is no default.
        through_gateway: Whether to go through the gateway; else the call goes direct.

    Raises:
        UsageError: The name leads nowhere, or there is no gateway.
    """
    now = effective().registry
    if not through_gateway:
        return placed(route_in(now, name, {}))
    through = gateway()
    if through is None:
        raise UsageError("no gateway is set up", hint=f"Set {URL}, such as http://localhost:4000/v1.")
    if name is None and not (now.default_model or now.default):
        return Route(MADE_UP, "", PROVIDER, MADE_UP, base_url=through.url, base_url_source="gateway")
    found = gateway_route(route_in(now, name, {}))
    assert found is not None
    return found


async def _ask(route: Route, key: SecretStr | None, bearer: bool) -> Sent:
    from kitaru.adapters import Endpoint, Message, ModelCall, Retry, Settings, Timeouts, Transport, adapter

    spoken = adapter(route.provider)
    settings = Settings(max_tokens=_TOKENS) if "max_tokens" in spoken.row.capabilities.of(route.model) else Settings()
    call = ModelCall(route.provider, route.model, (Message("user", _PROMPT),), settings)
    async with Transport() as transport:
        return await transport.send(
            call,
            Endpoint(base_url=route.base_url, api_key=key, bearer=bearer),
            spoken,
            retry=Retry(attempts=1),
            timeout=Timeouts(connect=10.0, first_byte=_SECONDS, total=_SECONDS),
        )


async def _why(route: Route, key: SecretStr | None, bearer: bool, error: ModelError) -> Verdict:
    match error:
        case CredentialError():
            return _credential(route, key, error)
        case ModelConnectionError():
            return await _unreached(route, error)
        case ProviderError():
            return await _refused(route, key, bearer, error)
        case _:
            return Verdict("other", error.message, error.hint or "")


# -- it could not be reached ------------------------------------------------------------------------------------------


async def _unreached(route: Route, error: ModelConnectionError) -> Verdict:
    if error.sent:
        kind: Kind = "timeout" if "nothing arrived for" in error.message or "used up" in error.message else "other"
        hint = "It took the request and gave no answer: it is overloaded, or a proxy before it gave up."
        return Verdict(kind, error.message, error.hint or hint)
    found = await reach(route.base_url)
    if found.proxy and found.step != "reached":
        return Verdict(
            "proxy",
            f"the proxy of the environment, {found.place}, cannot be reached{_detail(found)}",
            "Look at HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or name the host in NO_PROXY.",
        )
    where = f"{_who(route)} cannot be reached"
    match found.step:
        case "name":
            said = f"{where}: the name in {_place(route)} has no address{_detail(found)}"
            return Verdict("address", said, f"Check {_named_by(route)} for a typing mistake, and the network.")
        case "refused":
            return Verdict("refused", f"{where}: no server listens at {found.place}", _start(route))
        case "timeout":
            said = f"{where}: nothing comes back from {found.place}"
            return Verdict("timeout", said, f"A firewall or VPN may be in the way; check {_named_by(route)}.")
        case "unreachable":
            return Verdict(
                "address", f"{where}: there is no way to {found.place}{_detail(found)}", "Check the network."
            )
        case "tls":
            return Verdict(
                "tls",
                f"{where}: the certificate of {found.place} is not trusted{_detail(found)}",
                "For a certificate authority of your own, set SSL_CERT_FILE to its certificate.",
            )
        case "no-tls":
            said = f"{where}: {found.place} does not speak TLS{_detail(found)}"
            return Verdict("tls", said, f"Write http:// instead of https:// in {_named_by(route)}.")
        case _:
            return Verdict("other", error.message, error.hint or "Try again; now the address can be reached.")


def _start(route: Route) -> str:
    """How to start what does not run."""
    if route.base_url_source == "gateway":
        return f"Start the proxy (`litellm --config litellm_config.yaml`), correct {URL}, or unset it to go direct."
    match route.provider:
        case "ollama":
            return "Start it: `ollama serve`, or the ollama app. If it runs elsewhere, set OLLAMA_HOST."
        case "lmstudio":
            return "Start its server: `lms server start`, or the Developer tab of LM Studio."
        case "vllm":
            return f"Start it: `vllm serve {route.model}`."
        case _:
            return f"Start the server there, or correct {_named_by(route)}."


# -- it refused the credential ----------------------------------------------------------------------------------------


def _credential(route: Route, key: SecretStr | None, error: CredentialError) -> Verdict:
    if route.base_url_source == "gateway":
        if key_trouble(error, keyed=bool(key)) == "upstream_key":
            return _upstream(error)
        what = "wrong master key" if key else "it asks for a key"
        return Verdict("gateway_key", f"{error.message}: {what}", f"Set {KEY} to the proxy's master key.")
    if not error.status or not key:
        return Verdict("no_key", error.message, error.hint or "")
    return Verdict("key", error.message, error.hint or "")


def _upstream(error: ModelError) -> Verdict:
    return Verdict(
        "upstream_key",
        f"the proxy was reached and takes its key, but the provider behind it refused the proxy's own: {error.message}",
        "Correct the key in the proxy's configuration.",
    )


# -- it answered with an error ----------------------------------------------------------------------------------------


async def _refused(route: Route, key: SecretStr | None, bearer: bool, error: ProviderError) -> Verdict:
    said, hint = error.message, error.hint or ""
    through = route.base_url_source == "gateway"
    match key_trouble(error, keyed=bool(key)) if through else "":
        case "gateway_key":
            what = ": wrong master key" if key else ", to a request without a key"
            return Verdict("gateway_key", f"{said}{what}", f"Set {KEY} to the proxy's master key.")
        case "upstream_key":
            return _upstream(error)
    if _PLAIN_HTTP.search(said):
        return Verdict("tls", said, f"Write https:// instead of http:// in {_named_by(route)}.")
    if error.reason == "quota":
        return Verdict("quota", said, hint)
    named = bool(_NO_MODEL.search(said)) or (error.provider_code or "") in ("model_not_found", "DeploymentNotFound")
    if named and error.status in (400, 404, 422):
        return _unknown_model(route, error)
    if error.status in (404, 405) or (200 <= error.status < 300 and error.reason == "invalid"):
        return await _elsewhere(route, key, bearer, error)
    if 300 <= error.status < 400:
        return Verdict("redirect", said, hint)
    if error.reason == "forbidden":
        return Verdict("forbidden", said, hint)
    if error.reason in ("rate_limit", "overloaded"):
        if error.status not in (429, 503, 529):
            return Verdict("other", said, "The server itself failed: try again later, or look at its log.")
        wait = f" It asks to wait {error.retry_after:g} s." if error.retry_after else ""
        return Verdict("busy", said, f"It was reached, and has too much to do now.{wait}")
    return Verdict("other", said, hint)


async def _elsewhere(route: Route, key: SecretStr | None, bearer: bool, error: ProviderError) -> Verdict:
    """Tell a model that is not there from an address that is not the API's: does it answer below `/v1`?"""
    parts = urlsplit(route.base_url)
    if route.provider != "ollama" and not re.search(r"/v\d\w*$", parts.path.rstrip("/")):
        better = parts._replace(path=parts.path.rstrip("/") + "/v1").geturl()
        try:
            await _ask(msgspec.structs.replace(route, base_url=better), key, bearer)
            found = True
        except AnswerError:
            found = True
        except CredentialError as refusal:
            found = refusal.status > 0
        except ProviderError as refusal:
            found = refusal.status not in (404, 405) and refusal.reason != "invalid"
            found = found or bool(_NO_MODEL.search(refusal.message))
        except ModelError:
            found = False
        if found:
            return Verdict(
                "base_url",
                f"{_who(route)} is not the API: {error.message}",
                f"The base URL lacks /v1: write {better.partition('?')[0]} in {_named_by(route)}.",
            )
    if route.provider == "ollama" or not _NOT_THE_API.search(error.message):
        return _unknown_model(route, error)
    return Verdict(
        "base_url",
        f"{_who(route)} does not answer as the API does: {error.message}",
        f"Check {_named_by(route)}: most base URLs end in /v1.",
    )


def _unknown_model(route: Route, error: ProviderError) -> Verdict:
    if route.model == MADE_UP and route.base_url_source == "gateway":
        return Verdict("ok", f"{_who(route)} answers and takes the key")
    match route:
        case Route(provider="ollama"):
            hint = f"Fetch it: `kitaru model pull {route.model}`. What is there: `kitaru model list --provider ollama`."
        case Route(provider="azure"):
            hint = "On azure the model is the deployment's name: look at the resource's deployments."
        case Route(base_url_source="gateway"):
            hint = f"Add {route.model!r} to the model_list of the proxy's configuration."
        case _:
            hint = "Check the model's name, and that the account may use it."
    return Verdict("model", error.message, hint)


# -- words ------------------------------------------------------------------------------------------------------------


def _who(route: Route) -> str:
    if route.base_url_source == "gateway":
        asked = "" if route.model == MADE_UP else f"{route.model} through "
        return f"{asked}the gateway at {_place(route)}"
    return f"{route.name} at {_place(route)}"


def _place(route: Route) -> str:
    """An address without what may be a credential."""
    return route.base_url.partition("?")[0].rpartition("@")[2]


def _named_by(route: Route) -> str:
    """What named the address."""
    match route.base_url_source:
        case "gateway":
            return URL
        case "alias":
            return f"the alias's base URL (`kitaru model show {route.alias}`)"
        case "environment":
            from kitaru.adapters import provider

            return next(iter(provider(route.provider).base_url_env), "the provider's variable")
        case _:
            return "the base URL"


def _detail(found: Reach) -> str:
    return f" ({found.detail})" if found.detail else ""
