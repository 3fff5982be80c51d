"""asyncio's own sockets, for httpcore.

httpcore reads through anyio, which sets up a cancel scope for each read; that takes half of the
time of a token. Here a read awaits a future, and one timer enforces the time limits of all reads of
a connection. It is restarted only after it has fired: otherwise one token per millisecond would
start and cancel a thousand timers per second.
"""

import asyncio
import selectors
import socket
import ssl
from collections.abc import Iterable
from typing import Any, cast

import aiohappyeyeballs
import httpcore

_ENOUGH = 128 * 1024  # bytes to buffer before pausing the server
_STAGGER = 0.25  # seconds until the next address of a host is tried in parallel [RFC 8305]
_GOODBYE = 1.0  # seconds for asyncio to drop a connection; it takes one iteration of its loop


class _Protocol(asyncio.Protocol):
    """Buffers received bytes, and wakes the tasks that wait for them or for room to write."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.received: list[bytes] = []
        self.ended = False
        self.error: Exception | None = None
        self.reader: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = loop.create_future()
        self._size = 0
        self._paused = False
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        self._size += len(data)
        if self._size > _ENOUGH and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self.ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self.error = exc
        self._room.set()
        self._wake()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def room(self) -> None:
        """Wait until more can be written."""
        await self._room.wait()

    def take(self) -> bytes:
        """Take the received bytes."""
        received = self.received
        data = received[0] if len(received) == 1 else b"".join(received)
        received.clear()
        self._size = 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()
        return data

    def _wake(self) -> None:
        reader = self.reader
        if reader is not None and not reader.done():
            reader.set_result(None)


class AsyncioStream(httpcore.AsyncNetworkStream):
    """A connection with asyncio's own transports.

    Args:
        protocol: receives its bytes.
        transport: the connection.
    """

    def __init__(self, protocol: _Protocol, transport: asyncio.Transport) -> None:
        self._protocol = protocol
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held = b""
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None  # of the pending read
        self._late = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read bytes, waiting if necessary; b"" at the end.

        Raises:
            httpcore.ReadTimeout: nothing arrived in time.
            httpcore.ReadError: the connection was lost.
        """
        data = self._held
        if not data:
            protocol = self._protocol
            if not protocol.received:
                if not protocol.ended:
                    await self._wait(protocol, timeout)
                if not protocol.received:
                    if protocol.error is not None:
                        raise httpcore.ReadError(str(protocol.error)) from protocol.error
                    return b""
            data = protocol.take()
        self._held = data[max_bytes:]
        return data[:max_bytes]

    async def _wait(self, protocol: _Protocol, timeout: float | None) -> None:
        if protocol.reader is not None:
            raise httpcore.ReadError("the connection is already being read")
        if timeout is not None:
            self._watch(timeout)
        reader = protocol.reader = self._loop.create_future()
        try:
            await reader
        finally:
            protocol.reader = self._deadline = None
            late, self._late = self._late, False
        if late and not protocol.received:
            raise httpcore.ReadTimeout

    def _watch(self, timeout: float) -> None:
        """Make sure that the reader is woken when its time is up."""
        self._deadline = deadline = self._loop.time() + timeout
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return  # when it fires, it checks whether time is left
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        deadline, reader = self._deadline, self._protocol.reader
        if deadline is None or reader is None or reader.done():
            return
        if deadline > self._loop.time():
            self._timer = self._loop.call_at(deadline, self._on_timer)
            return
        self._late = True
        reader.set_result(None)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write; wait only if asyncio's write buffer is full.

        Raises:
            httpcore.WriteTimeout: the peer did not accept the bytes in time.
            httpcore.WriteError: the connection was lost.
        """
        protocol = self._protocol
        if buffer and not protocol.closed.done():
            self._transport.write(buffer)
            try:
                async with asyncio.timeout(timeout):
                    await protocol.room()
            except TimeoutError:
                raise httpcore.WriteTimeout from None
        if protocol.closed.done():
            raise httpcore.WriteError("the connection is closed")

    async def aclose(self) -> None:
        """Close at once, without sending buffered bytes."""
        self._forget_timer()
        self._transport.abort()
        if not self._protocol.closed.done():
            await asyncio.wait([self._protocol.closed], timeout=_GOODBYE)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Start TLS.

        Raises:
            httpcore.ConnectTimeout: the handshake took too long.
            httpcore.ConnectError: the handshake failed.
        """
        self._forget_timer()
        protocol = _Protocol()
        transport: asyncio.Transport | None = None
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                transport = await self._loop.start_tls(
                    self._transport, protocol, ssl_context, server_hostname=server_hostname
                )
        except OSError as error:  # includes TimeoutError and ssl.SSLError
            if limit.expired():
                raise httpcore.ConnectTimeout from None
            raise httpcore.ConnectError(str(error)) from error
        finally:
            if transport is None:
                # Not `aclose()`: TLS has replaced the protocol, which gets no more callbacks.
                self._transport.abort()
                await asyncio.sleep(0)
        if transport is None:
            raise httpcore.ConnectError("the connection was closed during the TLS handshake")
        protocol.transport = transport
        return AsyncioStream(protocol, transport)

    def get_extra_info(self, info: str) -> Any:
        """Return information about the connection."""
        if info == "is_readable":
            # The pool asks this of an idle connection: anything to read means that it has ended.
            # Check the socket too, as the event loop may not have read it yet.
            known = self._held or self._protocol.received or self._protocol.ended
            return bool(known) or _is_readable(self._transport.get_extra_info("socket"))
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self._transport.get_extra_info(names.get(info, info))


class AsyncioBackend(httpcore.AsyncNetworkBackend):
    """Connects with asyncio's own transports."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect.

        Raises:
            httpcore.ConnectTimeout: connecting took too long.
            httpcore.ConnectError: connecting failed.
        """
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await self._connect(host, port, local_address, socket_options or ())
        except OSError as error:  # includes TimeoutError, which the system can raise too
            if limit.expired():
                raise httpcore.ConnectTimeout from None
            raise httpcore.ConnectError(str(error)) from error

    async def _connect(
        self,
        host: str,
        port: int,
        local_address: str | None,
        socket_options: Iterable[httpcore.SOCKET_OPTION],
    ) -> AsyncioStream:
        # Not `create_connection(host, port, happy_eyeballs_delay=…)`: if it is cancelled just as it
        # connects, it leaves the socket open.
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        mine = None
        if local_address is not None:
            mine = await loop.getaddrinfo(local_address, 0, type=socket.SOCK_STREAM)
        connected = await aiohappyeyeballs.start_connection(
            addresses, local_addr_infos=mine, happy_eyeballs_delay=_STAGGER, interleave=1
        )
        try:
            for option in socket_options:
                connected.setsockopt(*cast("tuple[int, int, int]", option))
            transport, protocol = await loop.create_connection(_Protocol, sock=connected)
        except BaseException:  # cancellation too: nothing else owns the socket yet
            connected.close()
            raise
        return AsyncioStream(protocol, transport)

    async def sleep(self, seconds: float) -> None:
        """Wait before the next attempt to connect."""
        await asyncio.sleep(seconds)


def _is_readable(connection: Any) -> bool:
    """Whether a socket has data to read, or has ended."""
    if connection is None or connection.fileno() < 0:
        return True
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(0))
