"""The steps of `doctor` below the client: names, connections, TLS, single requests.

The client hides the steps of a request. Here each is performed separately, with httpx for HTTP and
TLS, and reports how it failed.
"""

import os
import secrets
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

_MOST = 1 << 20  # maximum number of bytes to read of a response


class Requests:
    """Sends single requests to a server, in a session that is not used afterwards.

    Args:
        url: the server's URL, which may contain user and password.
        timeout: seconds for each step of a request.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        headers = {
            "Accept": "application/json, text/event-stream",
            "Accept-Encoding": "identity",  # so that a truncated body is readable, too
            "Cookie": f"hf-chat={uuid.UUID(bytes=secrets.token_bytes(16), version=4)}",
            "Referer": f"{place}{parts.path.rstrip('/')}/",
            "Origin": place,
        }
        token = os.environ.get("H2O_CHAT_TOKEN")
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._options: dict[str, Any] = {
            "base_url": url,
            "headers": headers,
            "timeout": timeout,
            "verify": httpx.create_ssl_context(),  # shared: creating it is slower than a request
        }

    def use_other_referer(self) -> str:
        """Use the other scheme in `Referer` from now on, and return that URL."""
        headers = self._options["headers"]
        scheme, _, rest = headers["Referer"].partition(":")
        headers["Referer"] = f"{'http' if scheme == 'https' else 'https'}:{rest}"
        return str(headers["Referer"])

    def handshake(self) -> tuple[str, Mapping[str, Any]]:
        """Open a TLS connection, through the proxy if one is set.

        Returns:
            The TLS version, and the server's certificate.

        Raises:
            httpx.HTTPError: the connection failed, or the proxy rejected it.
        """
        found: list[tuple[str, Mapping[str, Any]]] = []

        def trace(event: str, info: Mapping[str, Any]) -> None:
            if event.endswith(".start_tls.complete"):
                connection = info["return_value"].get_extra_info("ssl_object")
                found.append((connection.version() or "TLS", connection.getpeercert() or {}))

        try:
            with httpx.Client(**self._options) as client:
                client.head("/", extensions={"trace": trace})
        except httpx.HTTPError:
            if not found:
                raise
        return found[-1]

    def send(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Send a request to a path below the base URL.

        Args:
            method: the method.
            path: the path.
            **content: `data` for a form, or `json`.

        Raises:
            httpx.HTTPError: the response was missing or invalid.
        """
        body = b""
        with (
            httpx.Client(**self._options) as client,
            client.stream(method, path, **content) as response,
        ):
            for chunk in response.iter_raw():
                body += chunk
                if len(body) >= _MOST:
                    break
            return httpx.Response(response.status_code, headers=response.headers, content=body)


def json_of(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object in a response; empty if it contains anything else."""
    try:
        found = response.json()
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
