"""A base URL, parsed and checked once."""

import base64
import re
from typing import NamedTuple, TypeGuard
from urllib.parse import unquote, urlsplit

from h2o_client.diagnosis import without_secrets

_HOST = re.compile(r"[a-z0-9._~-]+|\[[0-9a-f:.]+(%25[a-z0-9._~-]+)?\]")
_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


def is_id(value: object) -> TypeGuard[str]:
    """Whether this is a valid id, which is safe to put into the path of a URL."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def with_other_scheme(url: str) -> str:
    """Return an `http://` URL with `https://`, and vice versa."""
    scheme, _, rest = url.partition(":")
    return f"{'http' if scheme == 'https' else 'https'}:{rest}"


class Address(NamedTuple):
    """The base URL of the service.

    Attributes:
        url: the base URL without user, password and trailing slash, with its host in ASCII.
        authorization: the value of the `Authorization` header for the user and password, or None.
    """

    url: str
    authorization: str | None = None

    def __repr__(self) -> str:
        # The authorization contains the password.
        return f"Address({self.url!r})"

    @property
    def referer(self) -> str:
        """The `Referer` of requests; the server rejects form posts without it."""
        return self.url + "/"

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    @classmethod
    def parse(cls, base_url: str, name: str = "base_url") -> "Address":
        """Parse a base URL.

        Args:
            base_url: `http://` or `https://`, a host, and optionally a user and password, a port
                and a path.
            name: the argument or variable that contains it, for errors.

        Raises:
            TypeError: the base URL is not a string.
            ValueError: the base URL is not valid. The error quotes it without user and password.
        """
        if not isinstance(base_url, str):
            raise TypeError(f"{name} must be a string, not {type(base_url).__name__}")
        shown = repr(without_secrets(base_url))
        try:
            parts = urlsplit(base_url.strip())
            port = parts.port
            host = (parts.hostname or "").encode("idna").decode("ascii")
        except ValueError:  # includes UnicodeError
            raise ValueError(f"{name} has an invalid host or port: {shown}") from None
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"{name} must begin with http:// or https://, but it is {shown}")
        if ":" in host:
            host = f"[{host}]"
        if not _HOST.fullmatch(host):
            raise ValueError(f"{name} has no valid host name: {shown}")
        if parts.query or parts.fragment:
            raise ValueError(f"{name} must not have a query or a fragment: {shown}")
        if not _PATH.fullmatch(parts.path):
            raise ValueError(
                f"{name} has characters in its path that must be percent-encoded: {shown}"
            )
        authorization = None
        if parts.username is not None or parts.password is not None:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            try:
                authorization = "Basic " + base64.b64encode(pair.encode()).decode("ascii")
            except UnicodeEncodeError:
                raise ValueError(
                    f"{name} has an unpaired surrogate in its user or password"
                ) from None
        default = {"http": 80, "https": 443}[parts.scheme]
        place = host if port in (None, default) else f"{host}:{port}"
        return cls(f"{parts.scheme}://{place}{parts.path.rstrip('/')}", authorization)
