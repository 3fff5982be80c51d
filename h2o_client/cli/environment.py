"""Finds environment variables that prevent a client from being created.

httpx reads proxies and certificates from the environment when a client is created. Its errors do
not name the variable, and not always the cause. So each variable is tried separately.
"""

import os
import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import click

import h2o_client

# Certificates first: once a client has read them, later clients of this process reuse them.
NAMES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


class Fault(NamedTuple):
    """A problem with a variable. Its value can contain a password and is not repeated."""

    name: str
    text: str
    advice: str


class EnvironmentFaultError(click.ClickException):
    """The environment prevents a client from being created. The exit status is 2 (wrong usage).

    Attributes:
        faults: the problems with its variables.
    """

    exit_code = 2

    def __init__(self, faults: list[Fault]) -> None:
        told = "; ".join(f"{fault.name}: {fault.text} ({fault.advice})" for fault in faults)
        super().__init__(f"the environment's {told}")
        self.faults = faults


@contextmanager
def explained() -> Generator[None]:
    """Report which environment variables prevent a client from being created.

    Raises:
        EnvironmentFaultError: a variable prevents it.
    """
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        found = _faults()
        if not found:
            raise
        raise EnvironmentFaultError(found) from error


def _faults() -> list[Fault]:
    found = {name: value for name, value in os.environ.items() if name.upper() in NAMES}
    names = sorted(found, key=lambda name: NAMES.index(name.upper()))
    for name in names:
        del os.environ[name]
    try:
        errors = {name: _attempt({name: found[name]}) for name in names if found[name]}
        if _attempt({}) is not None:
            return []  # the variables are not the cause
    finally:
        os.environ.update(found)
    return [_explain(name, error) for name, error in errors.items() if error is not None]


def _attempt(variables: Mapping[str, str]) -> Exception | None:
    """Return why a client cannot be created with these variables, or None if it can."""
    os.environ.update(variables)
    try:
        h2o_client.H2oClient("http://localhost").close()
    except (OSError, ValueError, ImportError) as error:
        return error
    finally:
        for name in variables:
            del os.environ[name]
    return None


def _explain(name: str, error: Exception) -> Fault:
    if isinstance(error, ImportError):
        return Fault(
            name, "a SOCKS proxy needs another package", "pip install 'httpx[socks]', or unset it"
        )
    if isinstance(error, OSError):
        reason = error.strerror or "it cannot be read"
        if isinstance(error, ssl.SSLError):
            reason = "it does not contain a certificate"
        return Fault(name, reason, "set it to a file of certificates (PEM), or unset it")
    if name.upper() == "NO_PROXY":
        return Fault(
            name, "one of its entries is not a host", "separate hosts by commas, or unset it"
        )
    return Fault(name, "not a valid proxy URL", "write http://host:port, or unset it")
