# Generated, do not edit: run `python scripts/unasync.py`.
"""httpcore's network, which keeps the bodies of responses separate: see the package's docstring."""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

from h2o_client._fast._sync._runtime import Network
from h2o_client._fast.framing import HeadWatch


class BodyStream(httpcore.NetworkStream):
    """A network stream that never gives httpcore a byte of the body together with the head.

    Args:
        stream: the underlying network stream.

    Attributes:
        stream: the underlying network stream; bodies are read from it.
        heads: finds the end of heads, and keeps the bytes read beyond it.
    """

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self.stream = stream
        self.heads = HeadWatch()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the bytes that were held back, or read new ones."""
        if self.heads.held:
            return self.heads.take()
        return self.heads.received(self.stream.read(max_bytes, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write."""
        self.heads.sent()
        self.stream.write(buffer, timeout)

    def close(self) -> None:
        """Close."""
        self.stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Start TLS; heads are then found in the decrypted bytes."""
        return BodyStream(self.stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """Return information about the connection."""
        if info == "is_readable" and self.heads.held:
            return True
        return self.stream.get_extra_info(info)


class Backend(httpcore.NetworkBackend):
    """A network that wraps each stream in an `BodyStream`."""

    def __init__(self) -> None:
        self._network = Network()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect."""
        return BodyStream(
            self._network.connect_tcp(host, port, timeout, local_address, socket_options)
        )

    def sleep(self, seconds: float) -> None:
        """Wait before the next attempt to connect."""
        self._network.sleep(seconds)
