"""The emulator, for the commands that run one."""

import contextlib
import os
from collections.abc import Generator
from typing import TYPE_CHECKING

from h2o_client.cli.outcome import MissingExtraError

if TYPE_CHECKING:
    from h2o_client.emulator import Emulator


def emulator_class() -> "type[Emulator]":
    """Return the emulator's class.

    Raises:
        MissingExtraError: what it needs is not installed.
    """
    try:
        from h2o_client.emulator import Emulator
    except ModuleNotFoundError as error:
        name = (error.name or "a package").partition(".")[0]
        if name == "h2o_client":
            raise
        raise MissingExtraError(
            f"{name} is not installed: pip install 'h2o-chat-client[cli]'"
        ) from None
    return Emulator


@contextlib.contextmanager
def local_server(pace: float) -> Generator[str]:
    """Run the emulator for as long as the block lasts.

    Args:
        pace: seconds between tokens.

    Yields:
        Its URL, which no proxy of the environment stands before.
    """
    with emulator_class()(pace=pace) as server, _without_proxy("127.0.0.1"):
        yield server.url


@contextlib.contextmanager
def _without_proxy(host: str) -> Generator[None]:
    """Take a host out of what the environment's proxies are for."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    hosts = before["no_proxy"] or before["NO_PROXY"]
    value = f"{hosts},{host}" if hosts else host
    os.environ.update(dict.fromkeys(before, value))
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old
