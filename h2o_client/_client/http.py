"""The parts of httpx that both shells use: its options, requests and errors.

The core builds the session's cookie header for each request, so httpx must not store cookies: it
would send the server's cookies back next to the session's. Redirects are never followed, so neither
cookie nor prompt can leave the origin of the base URL.
"""

import contextlib
import ipaddress
import logging
import os
import random
import re
import socket
import ssl
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import httpx

from h2o_client import diagnosis
from h2o_client._version import __version__
from h2o_client.errors import (
    H2oError,
    PromptTooLargeError,
    ProtocolError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.extras import install_hint
from h2o_client.protocol.ambient import Ambient
from h2o_client.protocol.configuration import configure
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import Effect, Fetch, Head, Pump, Read, Request, Send
from h2o_client.protocol.exchange import Exchange, new_exchange
from h2o_client.protocol.replies import status_error
from h2o_client.safe_text import SafeFormatter
from h2o_client.types import File, FileLike

T = TypeVar("T")
Connector = Callable[[], contextlib.AbstractContextManager[httpx.Client]]
"""Makes connections for code that outlives its client."""

logger = logging.getLogger("h2o_client")
logger.addHandler(logging.NullHandler())

AMBIENT = Ambient(
    clock=time.monotonic,
    random=random.random,
    uuid4=lambda: str(uuid.uuid4()),
    warn=logger.warning,
    note=logger.info,
    wait=logging.getLogger("h2o_client.waits").info,  # which the commands show
)


class _Process:
    """Identifies this process: `os.getpid()` is a system call, too slow for each token.

    Attributes:
        id: its process id.
        forks: how often it was forked.
    """

    def __init__(self) -> None:
        self.id = os.getpid()
        self.forks = 0
        if sys.platform != "win32":
            os.register_at_fork(after_in_child=self._is_a_fork, after_in_parent=self._was_forked)

    def _is_a_fork(self) -> None:
        self.id = os.getpid()

    def _was_forked(self) -> None:
        self.forks += 1


PROCESS = _Process()

KEPT_AFTER_FORK: list[object] = []
"""The connections and players that a forked child has inherited from its parent.

They are never released, because the garbage collector would close the sockets, which belong to the
parent: for example, it would end the parent's TLS connections.
"""

TRANSPORT_ERRORS = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)

# The server closes an idle connection after 5 s [18_keepalive]. With httpx's default, also 5 s, a
# request can hit a connection that is just being closed; a second less is safe.
_KEEPALIVE = 4.0

POLL_INTERVAL = 0.05  # seconds between two polls where nothing can wake the waiter

_HANDLER = "h2o_client.script"
_QUOTED = re.compile(r"[\s:]*(?:bytearray\()?\bb['\"].*", re.DOTALL)

_LARGEST = 524_288  # bytes of a body that the 2023 servers measured accept
_LARGEST_FORM = 15 * 1024 * 1024  # bytes of a form that the 2025 servers measured accept

# Writing a request takes little time, so this limit cannot be configured.
WRITE_LIMIT = 60.0

_OWN: WeakKeyDictionary[object, str | None] = WeakKeyDictionary()
"""The `proxy` argument of each httpx client that was made here."""


def exchange_of(base_url: str | None, arguments: Mapping[str, Any]) -> Exchange:
    """Make the object that sends a client's requests, from its arguments and the environment.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is not valid.
    """
    configure_logging(os.environ.get("H2O_CHAT_LOG"))
    configuration = configure(base_url, environ=os.environ, **arguments)
    return new_exchange(configuration, AMBIENT, user_agent=f"h2o-chat-client/{__version__}")


def files_of(files: Sequence[FileLike] | None) -> tuple[File, ...]:
    """Read the files to send with a message; few messages have any.

    Raises:
        TypeError: an item is neither a path nor a `File`.
        ValueError: a file is empty or too large, or all files together are.
        OSError: a file cannot be read.
    """
    if files is None:
        return ()
    from h2o_client._client.files import read_files

    return read_files(files)


def configure_logging(level: str | None) -> None:
    """Print the log to stderr, for scripts: `H2O_CHAT_LOG` is "info" or "debug".

    Raises:
        ValueError: the value is neither of these.
    """
    if not level:
        return
    if level.lower() not in ("info", "debug"):
        raise ValueError(f"H2O_CHAT_LOG must be info or debug, not {level!r}")
    logger.setLevel(level.upper())
    if all(handler.name != _HANDLER for handler in logger.handlers):
        handler = logging.StreamHandler()
        handler.name = _HANDLER
        handler.setFormatter(SafeFormatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
        logger.addHandler(handler)


def log_response(request: Request, status: int, begun: float) -> None:
    """Log a request and its outcome, without headers and body, which contain secrets."""
    seconds = AMBIENT.clock() - begun
    logger.info("%s: %s answered %d in %.3f s", request.operation, request.method, status, seconds)


@cache
def tls_context() -> ssl.SSLContext:
    """Return httpx's default TLS context. Clients share it because creating it is slow."""
    return httpx.create_ssl_context()


def client_options(proxy: str | None) -> dict[str, Any]:
    """Return the arguments for the httpx client that one of our clients creates.

    The number of connections is not limited: a stream holds its connection until its end, so with
    httpx's default of 100 the 101st stream would wait for another one to end.

    Raises:
        ValueError: the proxy is not a valid URL. The error does not quote it, as it may contain a
            password.
    """
    if proxy is not None and not is_proxy(proxy):
        raise ValueError(
            "proxy must be a URL with a scheme such as http:// or socks5:// and a valid port"
        )
    return {
        "verify": tls_context(),
        "proxy": proxy,
        "limits": httpx.Limits(
            max_connections=None, max_keepalive_connections=100, keepalive_expiry=_KEEPALIVE
        ),
        "cookies": CookieJar(policy=DefaultCookiePolicy(allowed_domains=())),
        "follow_redirects": False,
        "timeout": None,
    }


def is_proxy(url: object) -> bool:
    """Whether this is a valid URL of a proxy; httpx itself accepts invalid ports."""
    try:
        port = httpx.Proxy(url).url.port  # type: ignore[arg-type]  # it checks the type
    except (ValueError, TypeError, httpx.InvalidURL):
        return False
    return port is None or 0 < port < 2**16


def check_http_client(
    http_client: object, kind: type, proxy: str | None, transport: str | None
) -> None:
    """Check the caller's own httpx client.

    Raises:
        TypeError: it has the wrong type, or is combined with a proxy or transport.
    """
    if not isinstance(http_client, kind):
        raise TypeError(
            f"http_client must be an httpx.{kind.__name__}, not {type(http_client).__name__}"
        )
    if proxy is not None:
        raise TypeError(
            "proxy and http_client cannot be combined: set the proxy on your http_client"
        )
    if transport is not None:
        raise TypeError(
            "transport and http_client cannot be combined: set the transport on your http_client"
        )


def alive(items: WeakValueDictionary[int, T]) -> list[T]:
    """Return the values of a weak dictionary, even while other threads change it."""
    found = [reference() for reference in items.valuerefs()]  # valuerefs() copies atomically
    return [item for item in found if item is not None]


def rebuild(kind: Callable[..., T], arguments: dict[str, Any]) -> T:
    """Create a client from the arguments of another one; for pickle."""
    return kind(**arguments)


def is_earlier(deadline: Deadline, steady: float | None) -> bool:
    """Whether a deadline is so much earlier than httpx's limit that it needs a watchdog.

    A tenth more or less does not matter for the idle limit, but it does for the total.
    """
    left = deadline.left()
    if left is None:
        return False
    return steady is None or left < (steady if deadline.limit == "total" else 0.9 * steady)


def build_request(
    http: httpx.Client | httpx.AsyncClient, request: Request, limits: dict[str, float | None]
) -> httpx.Request:
    """Turn our request into httpx's, with the cookies of the caller's own client added."""
    built = http.build_request(
        request.method,
        request.url,
        headers=request.headers,
        content=request.content,
        extensions={"timeout": limits},
    )
    built.stream = Body(request.content or b"")
    if http.cookies:
        probe = httpx.Request(request.method, request.url)
        http.cookies.set_cookie_header(probe)
        ours = built.headers["Cookie"]
        name = ours.partition("=")[0]
        theirs = [
            pair
            for pair in probe.headers.get("Cookie", "").split("; ")
            if pair and pair.partition("=")[0] != name
        ]
        built.headers["Cookie"] = "; ".join([ours, *theirs])
    return built


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The body of a request, iterated once, without a generator.

    httpx's own body is an async generator. A cancellation while it is sent leaves the generator to
    the garbage collector, and trio warns about it.

    Attributes:
        size: its length in bytes.
        sent: whether all of it was written.
    """

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self.sent = False
        # In one piece: while asyncio waits for room to write, it also reads an early answer.
        self._pieces = [content] if content else []

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        self.sent = True
        raise StopIteration

    async def __anext__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        self.sent = True
        raise StopAsyncIteration


def new_http(kind: Callable[..., T], proxy: str | None, transport: str | None) -> T:
    """Create an httpx client that we own.

    Raises:
        ValueError: the proxy, or a proxy in the environment, is not a valid URL.
    """
    options = client_options(proxy)
    if proxy is None and not all(
        url is None or is_proxy(url) for url in environment_proxies().values()
    ):
        raise ValueError("a proxy in the environment (HTTP_PROXY, …) is not a valid URL")
    if transport is not None:
        options |= fast_transports(kind, options)
    try:
        made = kind(**options)
    except httpx.InvalidURL:  # a name in `NO_PROXY`
        raise ValueError("a proxy in the environment (NO_PROXY, …) is not a valid URL") from None
    _OWN[made] = proxy
    return made


def check_transport(transport: object) -> None:
    """Check the name of the transport.

    Raises:
        TypeError: it is not a string.
        ValueError: it is not the name of a transport.
    """
    if transport is not None and not isinstance(transport, str):
        raise TypeError(
            f'transport must be "fast" or None, not {type(transport).__name__} (pass your '
            "own transport in an http_client)"
        )
    if transport not in (None, "fast"):
        raise ValueError(f'transport must be "fast" or None, not {transport!r}')


def fast_transports(kind: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that give an httpx client the fast transport.

    httpx ignores the environment's proxies if it is given a transport, so they are mounted here.
    """
    try:
        from h2o_client import _fast
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'transport="fast" needs {error.name} ({install_hint("fast")})',
            name=error.name,
        ) from None
    make = _fast.FastTransport if kind is httpx.Client else _fast.AsyncFastTransport
    verify, limits = options["verify"], options["limits"]
    proxies = {"all://": options["proxy"]} if options["proxy"] else environment_proxies()
    mounts = {
        pattern: None if url is None else make(verify, limits, httpx.Proxy(url))
        for pattern, url in proxies.items()
    }
    return {"transport": make(verify, limits), "mounts": mounts, "proxy": None}


def environment_proxies() -> dict[str, str | None]:
    """Return the environment's proxies as httpx mounts them, with None for direct connections.

    They come from `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY`; `NO_PROXY` lists hosts, domains,
    addresses or URLs, or is "*" for all.
    """
    found = urllib.request.getproxies()
    mounts: dict[str, str | None] = {}
    for scheme in ("http", "https", "all"):
        if url := found.get(scheme):
            mounts[f"{scheme}://"] = url if "://" in url else f"http://{url}"
    for name in found.get("no", "").split(","):
        host = name.strip()
        if host == "*":
            return {}
        if "://" in host:
            mounts[host] = None
        elif host:
            mounts[f"all://{_host_pattern(host)}"] = None
    return mounts


def _host_pattern(host: str) -> str:
    """Return httpx's pattern for a host in `NO_PROXY`; a domain includes its subdomains."""
    try:
        address = ipaddress.ip_address(host.partition("/")[0])
    except ValueError:
        return host if host.lower() == "localhost" else f"*{host}"
    return host if address.version == 4 else f"[{host}]"


def read_head(response: httpx.Response) -> Head:
    """Convert the head of a response for the core."""
    headers = [
        (name.decode("latin-1").lower(), value.decode("latin-1"))
        for name, value in response.headers.raw
    ]
    return Head(response.status_code, tuple(headers))


def unread_body(response: httpx.Response) -> Any:
    """Return the body of a response as provided by its transport, to iterate once.

    `Response.iter_raw()` does the same, but adds a tenth to the cost of a small chunk, and yields
    nothing if an event hook or `MockTransport` of the caller's own client has read the body.
    """
    return httpx.ByteStream(response.content) if response.is_stream_consumed else response.stream


def socket_of(response: httpx.Response | None) -> Any:
    """Return the socket of a response; None if its transport does not expose it."""
    stream = None if response is None else response.extensions.get("network_stream")
    return None if stream is None else stream.get_extra_info("socket")


def shut_down(response: httpx.Response | None) -> bool:
    """Shut down a response's connection, which wakes its reader; False if it is unknown."""
    shown = socket_of(response)
    if shown is None:
        return False
    with contextlib.suppress(OSError):  # it is already closed
        if isinstance(shown, socket.socket):
            # Not on a duplicate made from its descriptor, which another thread may have closed and
            # reused; and not with the TLS socket's own method, which would remove the TLS layer, so
            # that the reader could read on without it.
            socket.socket.shutdown(shown, socket.SHUT_RDWR)
        else:  # an event loop's socket object may lack shutdown()
            with socket.fromfd(shown.fileno(), shown.family, shown.type) as twin:
                twin.shutdown(socket.SHUT_RDWR)
    return True


def failure_of(error: Exception, effect: Effect | None, http: object) -> H2oError:
    """Return the error to throw into a flow for a failed effect, with its method and URL.

    Args:
        error: ours or httpx's. The new error does not refer to httpx's, which holds the request
            with the session.
        effect: the effect.
        http: the httpx client.
    """
    found = error if isinstance(error, H2oError) else _translate(error, effect, http)
    if isinstance(found, TransportError) and isinstance(effect, Fetch | Send):
        found.args = (f"{effect.request.line}: {found}",)
    return found


def _translate(error: Exception, effect: Effect | None, http: object) -> H2oError:
    if isinstance(error, httpx.HTTPStatusError):  # from an event hook of the caller's own client
        return status_error(error.response.status_code, error.response.reason_phrase)
    if isinstance(error, httpx.TimeoutException):
        connecting = isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout)
        if connecting and isinstance(effect, Fetch | Send):
            proxy = _proxy_for(effect.request.url, http)
            where = "" if proxy is None else f": the proxy is {proxy}"
            limit = effect.connect.exceeded()
            return TransportTimeoutError(f"{limit}{where}", sent=False, limit=limit.limit)
        if isinstance(effect, Fetch | Send | Read):
            return effect.deadline.exceeded(begun=isinstance(effect, Read))
        if isinstance(effect, Pump):
            return TransportTimeoutError.exceeded("idle", effect.within, begun=True)
    # The text of a LocalProtocolError can quote a header, which may contain secrets.
    is_ours = isinstance(error, httpx.LocalProtocolError)
    reason = type(error).__name__ if is_ours else _words(error)
    if isinstance(
        error,
        httpx.ConnectError
        | httpx.ProxyError
        | httpx.UnsupportedProtocol
        | httpx.LocalProtocolError
        | httpx.InvalidURL,
    ):
        text = f"could not connect: {reason}"
        if isinstance(error, httpx.ConnectError | httpx.ProxyError) and isinstance(
            effect, Fetch | Send
        ):
            url = effect.request.url
            text = diagnosis.connection_failure(error, url, _proxy_for(url, http))
        return TransportError(text, sent=False, transient=not _is_lasting(error))
    if isinstance(error, httpx.RemoteProtocolError) and reason.startswith(
        "Invalid URL in location"
    ):
        return ProtocolError("the server sent a redirect to an invalid URL")
    if isinstance(effect, Send):
        is_form = ("Content-Type", "multipart/form-data") in [
            (name, value.partition(";")[0]) for name, value in effect.request.headers
        ]
        largest = _LARGEST_FORM if is_form else _LARGEST
        if _was_cut_short(error, largest):
            # Any answer is lost: asyncio drops received bytes when a write fails.
            return PromptTooLargeError(
                "the server closed the connection while the request was being sent: it is larger "
                f"than the {largest} bytes that servers of this kind accept (make it shorter)",
                status=413,
            )
    first = isinstance(effect, Fetch) and effect.request.operation == "settings"
    advice = f" ({diagnosis.NO_WEB_SERVER})" if first else ""
    return TransportError(f"the connection was lost: {reason}{advice}")


def _proxy_for(url: str, http: object) -> diagnosis.Proxy | None:
    """Return the proxy for a URL; None without a proxy, and for the caller's own client."""
    if http not in _OWN:
        return None
    proxy = _OWN[http]
    if proxy is not None:
        return diagnosis.Proxy(proxy, "the argument `proxy`")
    return diagnosis.proxy_for(diagnosis.Place.of(url))


def _was_cut_short(error: Exception, largest: int) -> bool:
    """Whether the connection was closed while sending a body that is too large for the server."""
    if not isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError):
        return False
    body = error.request.stream
    return isinstance(body, Body) and body.size > largest and not body.sent


def _words(error: BaseException) -> str:
    """Return the text of an error or of its cause: on trio the outer errors have no text.

    Quotes from a response, which could contain a `Set-Cookie`, are removed.
    """
    texts = filter(None, map(str, diagnosis.causes(error)))
    return _QUOTED.sub("", next(texts, type(error).__name__))


def _is_lasting(error: BaseException) -> bool:
    """Whether connecting fails for a permanent reason."""
    if not isinstance(error, httpx.ConnectError | httpx.ProxyError):
        return True
    for cause in diagnosis.causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        if isinstance(cause, socket.gaierror):
            return cause.errno != socket.EAI_AGAIN
    return False
