"""Checks a server step by step: what works, what does not, and how to fix it.

The check ends at a failure that makes all later steps impossible. `probe.py` contains the steps
below the level of the client.
"""

import os
import socket
import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from h2o_client import (
    DEFAULT_BASE_URL,
    Conversation,
    H2oClient,
    H2oError,
    LoginRequiredError,
    Model,
    ModelUnavailableError,
    OverloadedError,
    RateLimitError,
    TransportTimeoutError,
    UnsupportedServerError,
)
from h2o_client.cli import probe
from h2o_client.diagnosis import (
    NO_WEB_SERVER,
    Place,
    Proxy,
    connection_advice,
    name_advice,
    proxy_advice,
    proxy_for,
    reason,
    refused_tunnel,
    site_advice,
    tls_advice,
    tunnel_advice,
    without_password,
)

_PROMPT = "Say hello in one short sentence."
_LONGEST_ANSWER = 32  # tokens
_EXPIRES_SOON = 14 * 86400
_LOGGED_OUT = "You have to be logged in"
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@dataclass(frozen=True)
class Finding:
    """The finding of a step.

    Attributes:
        outcome: "ok", "note" (it works, with a remark) or "failed".
        step: what was checked.
        text: the finding.
        advice: what to do, or "".
    """

    outcome: str
    step: str
    text: str
    advice: str = ""


class StepFailedError(Exception):
    """A step failed in a way that makes all later steps impossible.

    Args:
        step: what was checked.
        text: the finding.
        advice: what to do, or "".
    """

    def __init__(self, step: str, text: str, advice: str) -> None:
        super().__init__(text)
        self.finding = Finding("failed", step, text, advice)


def examine(client: H2oClient, url: str | None, timeout: float) -> Generator[Finding]:
    """Yield the findings, step by step.

    Args:
        client: the client of the server, without retries.
        url: the URL that the user gave, or None.
        timeout: seconds for each step.
    """
    yield Finding("ok", "server", f"{client.base_url}{_source(client, url)}")
    place = Place.of(client.base_url)
    proxy = proxy_for(place)
    yield _show_proxies(place, proxy)
    try:
        yield from _reach(place, proxy, timeout)
        given = (url or os.environ.get("H2O_CHAT_URL") or client.base_url).strip()
        requests = probe.Requests(given, timeout)
        if place.scheme == "https":
            yield _check_tls(place, requests)
        yield _identify(client, requests)
        yield from _use(client)
    except StepFailedError as failure:
        yield failure.finding


def _source(client: H2oClient, url: str | None) -> str:
    if url is None and os.environ.get("H2O_CHAT_URL"):
        return " (from $H2O_CHAT_URL)"
    return " (the hosted service)" if client.base_url == DEFAULT_BASE_URL else ""


def _show_proxies(place: Place, proxy: Proxy | None) -> Finding:
    shown = ", ".join(
        f"{name}={without_password(value)}"
        for name, value in sorted(os.environ.items())
        if name.lower() in _PROXY_VARIABLES and value
    )
    if proxy is not None:
        text = f"requests go through {without_password(proxy.url)} ({shown or 'set by the system'})"
        return Finding("note", "proxy", text, f"to bypass it, set NO_PROXY={place.host}")
    return Finding(
        "ok",
        "proxy",
        f"not used for this server ({shown})" if shown else "no proxy is set in the environment",
    )


def _reach(server: Place, proxy: Proxy | None, timeout: float) -> Generator[Finding]:
    """Look up the server or its proxy, and connect to it."""
    correct = proxy_advice(proxy, server.host) if proxy else ""
    try:
        place = Place.of(proxy.url) if proxy else server
    except ValueError:
        raise StepFailedError("proxy", "the proxy's URL is not valid", correct) from None
    begun = time.monotonic()
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        advice = correct or name_advice(place.host, error)
        raise StepFailedError("name", f"{place.host}: {reason(error)}", advice) from None
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    yield Finding(
        "ok", "name", f"{place.host} resolves to {', '.join(addresses[:4])}{_took(begun)}"
    )
    begun = time.monotonic()
    try:
        socket.create_connection((place.host, place.port), timeout).close()
    except OSError as error:
        advice = correct or connection_advice(error)
        raise StepFailedError("connection", f"{place}: {reason(error)}", advice) from None
    yield Finding("ok", "connection", f"{place}{_took(begun)}")


def _check_tls(place: Place, requests: probe.Requests) -> Finding:
    begun = time.monotonic()
    try:
        version, certificate = requests.handshake()
    except httpx.HTTPError as error:
        status = refused_tunnel(error) if isinstance(error, httpx.ProxyError) else None
        if status is not None:
            text = f"the proxy answered {status} to the request for a connection to {place}"
            raise StepFailedError("tunnel", text, tunnel_advice(place, status)) from None
        raise StepFailedError("TLS", reason(error), tls_advice(place.host, error)) from None
    until = certificate.get("notAfter")
    text = f"{version}{_took(begun)}"
    if until is not None and ssl.cert_time_to_seconds(until) - time.time() < _EXPIRES_SOON:
        return Finding("note", "TLS", f"{text}; the certificate expires {until}")
    return Finding("ok", "TLS", text)


def _identify(client: H2oClient, requests: probe.Requests) -> Finding:
    """Recognise the kind of server by the request that opens a session."""
    form = {
        "ethicsModalAccepted": "true",
        "ethicsModalAcceptedAt": "",
        "activeModel": client.model,
        "searchEnabled": "true",
    }
    own = note = ""
    try:
        answer = requests.send("POST", "/settings", data=form)
        if answer.status_code == 403 and "Invalid referer" in answer.text:
            own = requests.use_other_referer().rstrip("/")
            answer = requests.send("POST", "/settings", data=form)
        if answer.status_code >= 500:
            del form["activeModel"]
            if is_ours(requests.send("POST", "/settings", data=form)):
                note = f", but it rejects the model {client.model}"
        if not (note or is_ours(answer)):
            unclear = answer.status_code in (200, 302, 403, 500) or _LOGGED_OUT in answer.text
            if unclear and _works(client, answer):
                versions = "0.9.6 or later" if client.dialect == "chat-ui-2025" else "0.3 to 0.6"
                return Finding("ok", "protocol", f"a chat-ui server ({versions})")
            raise StepFailedError("protocol", *_kind(client.base_url, requests, answer))
    except httpx.HTTPError as error:
        raise StepFailedError(
            "protocol",
            f"no answer to POST /settings: {reason(error)}",
            f"{NO_WEB_SERVER} Try --timeout 60 for a slow one",
        ) from None
    kind = "a chat-ui server"
    if own:
        advice = "it works; the server's operator can set its ORIGIN"
        return Finding("note", "protocol", f"{kind} that expects the address {own}{note}", advice)
    return Finding("note" if note else "ok", "protocol", f"{kind}{note or ' (0.3 to 0.6)'}")


def _works(client: H2oClient, answer: httpx.Response) -> bool:
    """Return whether the client, which may have a session, recognises the server.

    Args:
        client: the client.
        answer: the answer to a request without the client's session.

    Raises:
        StepFailedError: the server has an unsupported version, or requires a login.
    """
    try:
        with client.conversation() as conversation:
            conversation.rename("h2o-client doctor")
    except UnsupportedServerError as error:
        if not error.version:
            return False
        advice = "upgrade the server to 0.9.6 or later"
        raise StepFailedError("protocol", str(error), advice) from None
    except LoginRequiredError as error:
        if answer.is_redirect:
            return False  # its target says more
        raise StepFailedError("protocol", str(error), "") from None
    except H2oError:
        return False
    return True


def is_ours(answer: httpx.Response) -> bool:
    """Return whether this is how a server of this protocol answers `POST /settings`."""
    if answer.status_code == 303:
        return True
    found = probe.json_of(answer)
    redirect = found.get("type") == "redirect" and found.get("status") != 302  # 302 is a login
    return answer.status_code == 200 and redirect


def _kind(url: str, requests: probe.Requests, answer: httpx.Response) -> tuple[str, str]:
    """Return the kind of server that rejects the settings, and what to do about it."""
    status, said = answer.status_code, f"POST /settings returned {answer.status_code}"
    if 300 <= status < 400:
        location = answer.headers.get("location", "")
        target = urlsplit(location)
        place = f"{target.scheme}://{target.netloc}" if target.netloc else location
        return f"{said}, a redirect to {place}", (
            "if that is the server's address, use it as the URL; if it is a login page, log in "
            "with a browser and set H2O_CHAT_SESSION to the value of the server's session cookie"
        )
    if status not in (401, 407) and is_openai(requests):
        return "an OpenAI-compatible server: it has /v1/models", (
            "use a client for OpenAI's API instead"
        )
    html = answer.headers.get("content-type", "").startswith("text/html")
    advice = site_advice(url, status, answer.text, html=html)
    if status in (404, 405):
        said = f"not a chat-ui server: {said}"
    elif html:
        said = f"{said} with an HTML page"
    return said, advice or "not a chat-ui server; check the URL"


def is_openai(requests: probe.Requests) -> bool:
    """Return whether the server lists models as OpenAI's API does."""
    answer = requests.send("GET", "/v1/models")
    models = probe.json_of(answer).get("data")
    return answer.status_code in (200, 401) and isinstance(models, list)


def _use(client: H2oClient) -> Generator[Finding]:
    """Use the client as a program would."""
    step = "models"
    try:
        yield _judge_models(client, client.models())
        step = "terms"
        with client.conversation() as conversation:
            conversation.rename("h2o-client doctor")  # accepts the terms and creates it
            if client.dialect == "chat-ui-2025":
                yield Finding("ok", step, "no terms to accept; a conversation was created")
            elif client.settings().terms_accepted_at is None:
                yield Finding("note", step, "the server does not confirm that they are accepted")
            else:
                yield Finding("ok", step, "accepted in this session; a conversation was created")
            step = "answer"
            yield _measure_answer(conversation, client.capabilities)
    except H2oError as error:
        raise StepFailedError(step, str(error), _advice(error)) from None


def _judge_models(client: H2oClient, models: list[Model]) -> Finding:
    names = [model.id for model in models]
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    if client.model in names:
        return Finding("ok", "models", shown)
    return Finding(
        "failed",
        "models",
        f"{client.model} is not available; the server has {shown or 'no models'}",
        f"H2O_CHAT_MODEL={names[0]}" if names else "",
    )


def _measure_answer(conversation: Conversation, capabilities: frozenset[str]) -> Finding:
    """Ask for a short answer, and measure how long it takes."""
    begun = time.monotonic()
    first: float | None = None
    limit = _LONGEST_ANSWER if "parameters" in capabilities else None
    with conversation.stream(_PROMPT, max_new_tokens=limit) as stream:
        for _ in stream:
            if first is None:
                first = time.monotonic() - begun
        reply = stream.reply
    spent = time.monotonic() - begun
    text = " ".join(reply.text.split())
    if first is None:
        return Finding("note", "answer", f"an empty answer, after {_seconds(spent)}")
    return Finding(
        "ok",
        "answer",
        f"“{text}”: the first token after {_seconds(first)}, all {reply.generated_tokens} after "
        f"{_seconds(spent)}",
    )


def _advice(error: H2oError) -> str:
    """Return what to do about an error of the client, or "" if its text already says so."""
    match error:
        case RateLimitError():
            return "the service limits messages by address: wait two minutes without any"
        case OverloadedError():
            return "the model server is overloaded: try again later, or another model"
        case ModelUnavailableError():
            return "choose another: h2o-client models shows them"
        case TransportTimeoutError():
            return "the model server is slow or hangs: try --timeout 60, or another model"
        case _:
            return ""


def _seconds(time_: float) -> str:
    return f"{time_ * 1000:.0f} ms" if time_ < 1 else f"{time_:.1f} s"


def _took(begun: float) -> str:
    return f", {_seconds(time.monotonic() - begun)}"
