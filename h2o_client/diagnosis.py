"""Explain what is wrong between a client and its server, and what to do about it.

The client's errors and `h2o-client doctor` use these texts. Nothing here sends a request: the
functions only examine an error, a status or a URL. URLs are shown without user, password and query.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
_SECRET = re.compile(r"^(\w+://)?.*@", re.DOTALL)  # user and password
_QUERY = re.compile(r"[?#].*", re.DOTALL)
_REFUSED = re.compile(r"(\d{3}) ")  # httpx's message about a proxy's answer begins with its status
_HTTP_TO_HTTPS = re.compile(r"(?i)plain http request|http request to an https|plain http to an ssl")
WITH_PASSWORD = "the proxy requires a login: http://user:password@proxy:port"  # noqa: S105
NO_WEB_SERVER = "is this a web server, and does the URL need http:// or https://?"
STATUS_ADVICE = {
    401: "the server requires a login: set H2O_CHAT_TOKEN, or put user:password in the URL. If you "
    "did, they are wrong",
    403: "a proxy or firewall in front of the server rejects the request, or the server expects a "
    "different address (its PUBLIC_ORIGIN): use that one",
    407: WITH_PASSWORD,
    429: "too many requests from this address: wait a few minutes",
}


class Place(NamedTuple):
    """The address of a server or proxy.

    Attributes:
        scheme: http or https, or the proxy's scheme.
        host: the host name or address.
        port: the port.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Place":
        """Parse a URL.

        Raises:
            ValueError: it is not a valid URL.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if not parts.hostname:
            raise ValueError("a URL without a host")
        port = parts.port or _PORTS.get(parts.scheme, 1080)
        return cls(parts.scheme, parts.hostname, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Proxy(NamedTuple):
    """A proxy that requests go through.

    Attributes:
        url: its URL, perhaps with user and password.
        source: the variable or argument that names it.
    """

    url: str
    source: str

    def __str__(self) -> str:
        return f"{without_password(self.url)} (from {self.source})"


def without_password(url: str) -> str:
    """Return a URL without user and password; it need not be valid."""
    return _SECRET.sub(r"\1…@", url)


def without_secrets(url: str) -> str:
    """Return a URL without user, password, query and fragment; it need not be valid."""
    return _QUERY.sub("?…", without_password(url))


def proxy_for(place: Place) -> Proxy | None:
    """Return the environment's proxy for an address, as httpx reads it."""
    import os
    import urllib.request

    if urllib.request.proxy_bypass(str(place)):
        return None
    proxies = urllib.request.getproxies()
    for scheme in (place.scheme, "all"):
        if url := proxies.get(scheme):
            names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
            return Proxy(url, next(filter(os.environ.get, names), "the system's settings"))
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes; of several attempts, only those of the first."""
    while error is not None:
        yield error
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = inner or error.__cause__ or error.__context__


def reason(error: BaseException) -> str:
    """Return why an attempt failed, without the names of Python exceptions."""
    import os
    import socket
    import ssl

    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return str(cause.verify_message)
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return cause.reason.replace("_", " ").lower()
        if isinstance(cause, TimeoutError) or "Timeout" in type(cause).__name__:
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            if cause.errno is None or isinstance(cause, socket.gaierror):
                return cause.strerror
            return os.strerror(cause.errno)  # asyncio words it differently
    return str(error) or type(error).__name__


def refused_tunnel(error: Exception) -> int | None:
    """Return the status with which a proxy rejected a connection to the server, or None."""
    found = _REFUSED.match(str(error))
    return None if found is None else int(found[1])


def proxy_advice(proxy: Proxy, host: str) -> str:
    """Return what to do about a proxy that cannot be reached."""
    return (
        f"this is the proxy's address: correct {proxy.source} or remove it; to reach {host} "
        f"without a proxy, set NO_PROXY={host}"
    )


def name_advice(host: str, error: BaseException) -> str:
    """Return what to do about an unknown host name."""
    import socket

    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return "the name server does not answer: is this machine online?"
    return f"is {host} spelt right? Do you need a VPN or a proxy (HTTPS_PROXY) to reach it?"


def connection_advice(error: BaseException) -> str:
    """Return what to do about a connection that failed."""
    if isinstance(error, TimeoutError):
        return (
            "a firewall drops the packets, or the server is down; behind a company's proxy set "
            "HTTPS_PROXY"
        )
    return "is the server running, is the port right, is a firewall in between?"


def tunnel_advice(place: Place, status: int) -> str:
    """Return what to do about a proxy that rejects connections to a server."""
    if status == 407:
        return WITH_PASSWORD
    if status in (502, 503, 504):
        return f"the proxy cannot reach {place.host}: is the name right, and known to the proxy?"
    return (
        f"the proxy refuses connections to {place}: ask its operator, or set NO_PROXY={place.host} "
        "to connect without it"
    )


def tls_advice(host: str, error: BaseException) -> str:
    """Return what to do about a failed TLS connection."""
    import ssl

    words = " ".join(str(cause) for cause in causes(error)).lower().replace("_", " ")
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(error)):
        if "expired" in words or "not yet valid" in words:
            return "the certificate is out of date, or the clock of this machine is wrong"
        if "mismatch" in words or "doesn't match" in words:
            return f"the certificate is for another host: is {host} the right name?"
        return (
            "the certificate's issuer is not trusted here: for a private issuer, set "
            "SSL_CERT_FILE=issuer.pem"
        )
    if "wrong version number" in words or "record layer failure" in words:
        return "this port does not speak TLS: try http:// instead of https://"
    return "does a proxy or firewall intercept TLS connections?"


def connection_failure(error: Exception, url: str, proxy: Proxy | None) -> str:
    """Return what went wrong while connecting, and what to do.

    Args:
        error: the failure of the attempt.
        url: the URL of the request.
        proxy: the proxy that it goes through, if any.
    """
    import socket
    import ssl

    place = Place.of(url)
    status = refused_tunnel(error) if proxy is not None else None
    if proxy is not None and status is not None:
        return f"the proxy {proxy} answered {status} ({tunnel_advice(place, status)})"
    found = list(causes(error))
    if any(isinstance(cause, ssl.SSLError) for cause in found):
        return f"no TLS connection to {place}: {reason(error)} ({tls_advice(place.host, error)})"
    if proxy is not None:
        advice = proxy_advice(proxy, place.host)
        return f"could not connect to the proxy {proxy}: {reason(error)} ({advice})"
    unknown = next((cause for cause in found if isinstance(cause, socket.gaierror)), None)
    advice = connection_advice(error) if unknown is None else name_advice(place.host, unknown)
    return f"could not connect to {place}: {reason(error)} ({advice})"


def is_openai_url(url: str) -> bool:
    """Whether a base URL looks like that of an OpenAI-compatible API."""
    return urlsplit(url).path.rstrip("/").endswith("/v1")


def site_advice(url: str, status: int, body: str, *, html: bool) -> str:
    """Return what to do about a server that does not answer like chat-ui, or "" if unknown.

    Args:
        url: the base URL.
        status: the status of its answer to the first request.
        body: the beginning of the answer.
        html: whether the answer is an HTML page.
    """
    if is_openai_url(url):
        return (
            "a base URL that ends in /v1 is for OpenAI's API, which this client does not support: "
            "use an OpenAI client, or the URL of a chat-ui server, without /v1"
        )
    if status == 400 and _HTTP_TO_HTTPS.search(body):
        return "this port speaks TLS: use https:// instead of http://"
    if status in STATUS_ADVICE:
        return STATUS_ADVICE[status]
    if status in (404, 405):
        return "this is another web application, or the URL's path is wrong; is /chat missing?"
    if html:
        return "this is a proxy's page, a login page, or another web site"
    if status >= 500:
        return "the server is running but failing: see its log"
    return ""
