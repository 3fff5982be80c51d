"""Which variables of the environment keep a client from being made, and what is wrong with them.

httpx reads proxies and certificates from the environment when a client is made, and says of
nonsense neither where it stands nor, always, what it is. So each variable is tried by itself.
"""

import os
import ssl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import click

import h2o_client

# The certificates first: once some could be read, no client of this process reads others.
NAMES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a variable. Its value can hold a password, and is not repeated.

    Attributes:
        name: the variable's name.
        text: what is wrong.
        advice: what to do.
    """

    name: str
    text: str
    advice: str


class EnvironmentFaultError(click.ClickException):
    """No client can be made in this environment. Its exit status is that of wrong use.

    Attributes:
        faults: what is wrong with it.
    """

    exit_code = 2

    def __init__(self, faults: list[Fault]) -> None:
        told = "; ".join(f"{fault.name}: {fault.text} ({fault.advice})" for fault in faults)
        super().__init__(f"the environment's {told}")
        self.faults = faults


@contextmanager
def blamed() -> Generator[None]:
    """Report a client that cannot be made by the variables that keep it from being made.

    Raises:
        EnvironmentFaultError: there are such variables.
    """
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        found = _faults()
        if not found:
            raise
        raise EnvironmentFaultError(found) from error


def _faults() -> list[Fault]:
    found = {name: value for name, value in os.environ.items() if name.upper() in NAMES and value}
    attempts = {
        name: _attempt({name: found[name]})
        for name in sorted(found, key=lambda name: NAMES.index(name.upper()))
    }
    if _attempt({}) is not None:
        return []  # it is something else
    return [_explain(name, error) for name, error in attempts.items() if error is not None]


def _attempt(variables: Mapping[str, str]) -> Exception | None:
    """Return why no client can be made, with these variables alone."""
    with _only(variables):
        try:
            h2o_client.H2oClient("http://localhost").close()
        except (OSError, ValueError, ImportError) as error:
            return error
    return None


@contextmanager
def _only(variables: Mapping[str, str]) -> Generator[None]:
    """Let the environment have these of the variables, and not the others."""
    taken = {name: value for name, value in os.environ.items() if name.upper() in NAMES}
    for name in taken:
        del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(taken)


def _explain(name: str, error: Exception) -> Fault:
    if isinstance(error, ImportError):
        return Fault(
            name, "a SOCKS proxy needs another package", "pip install 'httpx[socks]', or unset it"
        )
    if isinstance(error, OSError):
        reason = error.strerror or "it cannot be read"
        if isinstance(error, ssl.SSLError):
            reason = "there is no certificate in it"
        return Fault(name, reason, "name a file of certificates (PEM), or unset it")
    if name.upper() == "NO_PROXY":
        return Fault(name, "one of these is no host", "name hosts, with commas, or unset it")
    return Fault(name, "this is no proxy's URL", "write http://host:port, or unset it")
