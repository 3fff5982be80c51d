"""What `doctor` does below the client: names, connections, TLS, single requests.

The client hides what it does to get an answer; here each step is taken by itself, with the
standard library, and says how it failed.
"""

import base64
import http.client
import json
import os
import re
import secrets
import socket
import ssl
import time
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

_MOST = 1 << 20  # bytes of a response that are read
_REFUSED = re.compile(r"Tunnel connection failed: (\d+)")  # `http.client` says it in words
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Place:
    """Where something listens.

    Attributes:
        scheme: http or https, or that of a proxy.
        host: the host name or address.
        port: the port.
        authorization: what user and password of its URL make, or None.
    """

    scheme: str
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str) -> "Place":
        """Take a URL apart.

        Raises:
            ValueError: it is none.
        """
        parts: SplitResult = urlsplit(url if "://" in url else f"http://{url}")
        host = parts.hostname
        if not host:
            raise ValueError("a URL without a host")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
        return cls(parts.scheme, host, parts.port or PORTS.get(parts.scheme, 1080), authorization)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class Answered:
    """A response.

    Attributes:
        status: its status.
        headers: its headers, by their names in lower case.
        body: the beginning of its body.
    """

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def content_type(self) -> str:
        """The type of the body, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self) -> Any:
        """Return the body as JSON, or None."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


def proxy_settings() -> dict[str, str]:
    """Return the proxy settings of the environment; those that are empty set nothing."""
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    return {
        name: value for name, value in sorted(os.environ.items()) if name.lower() in names and value
    }


def proxy_for(place: Place) -> str | None:
    """Return the URL of the proxy that the environment puts before a place, as httpx reads it."""
    if urllib.request.proxy_bypass(str(place)):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(place.scheme) or proxies.get("all")


def resolve(place: Place) -> list[str]:
    """Return the addresses of a host.

    Raises:
        OSError: it has none.
        UnicodeError: it can be no host name.
    """
    found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def connect(place: Place, timeout: float) -> float:
    """Make a connection and close it; return the seconds that it took.

    Raises:
        OSError: it could not be made.
    """
    begun = time.monotonic()
    with socket.create_connection((place.host, place.port), timeout):
        return time.monotonic() - begun


def tls_context() -> ssl.SSLContext:
    """Return a context that trusts whom httpx trusts."""
    file, path = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file or path:
        return ssl.create_default_context(cafile=file or None, capath=path or None)
    try:
        import certifi
    except ModuleNotFoundError:
        return ssl.create_default_context()
    return ssl.create_default_context(cafile=certifi.where())


class TunnelRefusedError(Exception):
    """A proxy does not make the connection that it was asked for.

    Attributes:
        status: the status that it answered.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Requests:
    """Sends single requests to a server, each in a session that nobody uses afterwards.

    Args:
        base_url: where it is, without user and password.
        proxy: the proxy's URL, or None.
        authorization: the `Authorization` header, or None.
        timeout: seconds for each step of a request.
    """

    def __init__(
        self, base_url: str, proxy: str | None, authorization: str | None, timeout: float
    ) -> None:
        self._base_url = base_url
        self._place = Place.of(base_url)
        self._proxy = None if proxy is None else Place.of(proxy)
        self._timeout = timeout
        self._headers = {
            "Accept": "application/json, text/event-stream",
            "Cookie": f"hf-chat={uuid.UUID(bytes=secrets.token_bytes(16), version=4)}",
            "Referer": f"{base_url}/",
            "Origin": "{0.scheme}://{0.netloc}".format(urlsplit(base_url)),
        }
        if authorization is not None:
            self._headers["Authorization"] = authorization

    def handshake(self) -> tuple[str, Mapping[str, Any]]:
        """Make a TLS connection, through the proxy if there is one, and close it.

        Returns:
            Its version, and the server's certificate.

        Raises:
            TunnelRefusedError: the proxy does not let it through.
            OSError: it could not be made; `ssl.SSLError` is one.
        """
        connection = self._connection()
        try:
            connection.connect()
            assert isinstance(connection.sock, ssl.SSLSocket)  # noqa: S101 -- for https:// alone
            return connection.sock.version() or "TLS", connection.sock.getpeercert() or {}
        except OSError as error:
            found = _REFUSED.match(str(error))
            if found is None:
                raise
            raise TunnelRefusedError(int(found[1])) from None
        finally:
            connection.close()

    def get(self, path: str) -> Answered:
        """Get a path below the base URL.

        Raises:
            OSError: there was no answer.
            http.client.HTTPException: it was no HTTP.
        """
        return self._send("GET", path, None, {})

    def use_other_referer(self) -> str:
        """Say that requests come from the other scheme's page from now on, and return its URL."""
        scheme, _, rest = self._headers["Referer"].partition(":")
        self._headers["Referer"] = f"{'http' if scheme == 'https' else 'https'}:{rest}"
        return self._headers["Referer"]

    def post_form(self, path: str, values: Mapping[str, str]) -> Answered:
        """Post a form; raises what `get()` raises."""
        kind = "application/x-www-form-urlencoded"
        return self._send("POST", path, urlencode(values).encode(), {"Content-Type": kind})

    def post_json(self, path: str, value: object) -> Answered:
        """Post JSON; raises what `get()` raises."""
        return self._send(
            "POST", path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Answered:
        url = self._base_url + path
        more = {**self._headers, **headers}
        connection = self._connection()
        try:
            target = urlsplit(url).path
            if self._proxy is not None and self._place.scheme == "http":
                target = url
                if self._proxy.authorization is not None:
                    more["Proxy-Authorization"] = self._proxy.authorization
            connection.request(method, target, body, more)
            response = connection.getresponse()
            found = response.read(_MOST).decode("utf-8", "replace")
            return Answered(
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                found,
            )
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        place = self._proxy or self._place
        if self._place.scheme == "http":
            return http.client.HTTPConnection(place.host, place.port, timeout=self._timeout)
        connection = http.client.HTTPSConnection(
            place.host, place.port, timeout=self._timeout, context=tls_context()
        )
        if self._proxy is not None:
            given = self._proxy.authorization
            connection.set_tunnel(
                self._place.host,
                self._place.port,
                {} if given is None else {"Proxy-Authorization": given},
            )
        return connection
