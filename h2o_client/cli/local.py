"""The emulator, for the commands that run one."""

import contextlib
import logging
import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import click

from h2o_client.cli.outcome import MissingExtraError
from h2o_client.safe_text import printable

if TYPE_CHECKING:
    from h2o_client.emulator import Emulator

ENGINES = "rote, tgi:URL, openai:URL[#model] or transformers:NAME_OR_PATH"
DIALECTS = ("chat-ui-2023", "chat-ui-2025")

dialect_option = click.option(
    "--dialect",
    type=click.Choice(DIALECTS),
    default=DIALECTS[0],
    show_default=True,
    help="The kind of server that the emulator behaves as.",
)


def make_emulator(**options: Any) -> "Emulator":
    """Create an emulator that shows its engines' progress on stderr while they start.

    Args:
        **options: the emulator's arguments.

    Raises:
        MissingExtraError: a package that it needs is not installed.
        click.UsageError: the name of an engine is not valid, or a folder lacks recordings.
    """
    try:
        from h2o_client.emulator import Emulator, EngineError
    except ModuleNotFoundError as error:
        name = (error.name or "a package").partition(".")[0]
        if name == "h2o_client":
            raise
        raise MissingExtraError(name) from None
    try:
        return Emulator(progress=lambda line: click.echo(printable(line), err=True), **options)
    except (EngineError, ValueError) as error:
        raise click.UsageError(str(error)) from error


@contextlib.contextmanager
def running(
    emulator: "Emulator", host: str, port: int, *, wait_for_engine: bool = True
) -> Generator[None]:
    """Run an emulator during the block, and show its warnings.

    Args:
        emulator: the emulator.
        host: the address that it listens on.
        port: the port.
        wait_for_engine: whether to only warn if a model server does not answer yet.

    Raises:
        OSError: it cannot listen there, an engine does not start, or a model server is down.
    """
    from h2o_client.emulator import EngineError

    failures: list[str] = []
    started = False

    def show(line: str) -> None:
        if wait_for_engine or started:
            click.echo(printable(line), err=True)
        else:
            failures.append(line)

    warnings = log_shown("h2o_client.emulator", logging.WARNING, show, propagate=False)
    with contextlib.closing(emulator), warnings:
        try:
            emulator.start()
        except EngineError as error:
            raise OSError(str(error)) from error
        except OSError as error:
            raise OSError(f"cannot listen on {host}, port {port}: {error}") from error
        if failures:
            raise OSError(failures[0])
        started = True
        yield


@contextlib.contextmanager
def local_server(
    pace: float, engine: str | None = None, dialect: str = DIALECTS[0]
) -> Generator[str]:
    """Run the emulator during the block.

    Args:
        pace: seconds between tokens, unless a real model sets the pace.
        engine: the name of the engine.
        dialect: the kind of server that it behaves as.

    Yields:
        Its URL, for which proxies are bypassed.
    """
    host = "127.0.0.1"
    server = make_emulator(host=host, pace=pace, engine=engine, dialect=dialect)
    with running(server, host, 0, wait_for_engine=False), _without_proxy(host):
        yield server.url


@contextlib.contextmanager
def log_shown(
    name: str, level: int, show: Callable[[str], object], *, propagate: bool = True
) -> Generator[None]:
    """Show log messages during the block.

    Args:
        name: the logger.
        level: the lowest level to show.
        show: shows one message.
        propagate: whether the parent loggers get the records, too.
    """

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show(record.getMessage())

    logger, handler = logging.getLogger(name), Handler(level)
    before, logger.propagate = logger.propagate, propagate
    logger.addHandler(handler)
    if not logger.isEnabledFor(level):
        logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextlib.contextmanager
def _without_proxy(host: str) -> Generator[None]:
    """Set the environment so that proxies are bypassed for a host."""
    before = {name: os.environ.get(name) for name in ("NO_PROXY", "no_proxy")}
    hosts = before["no_proxy"] or before["NO_PROXY"]
    os.environ.update(dict.fromkeys(before, f"{hosts},{host}" if hosts else host))
    try:
        yield
    finally:
        for name in before:
            del os.environ[name]
        os.environ.update({name: old for name, old in before.items() if old is not None})
