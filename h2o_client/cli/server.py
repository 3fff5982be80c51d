"""Which server a command talks to, and in which session."""

import contextlib
import logging
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import click

import h2o_client
from h2o_client.cli import environment, state
from h2o_client.cli.local import DIALECTS, ENGINES, local_server
from h2o_client.cli.outcome import debug_option
from h2o_client.cli.render import Waits, show_retry

_ENGINE = "h2o_client.engine"
_DIALECT = "h2o_client.dialect"
_PACE = 0.03  # seconds between tokens of `--local`, so that the streaming is seen

F = TypeVar("F", bound=Callable[..., Any])


def url_option(command: F) -> F:
    """Add `--base-url` and `--debug`."""
    return click.option("--base-url", metavar="URL", help="The server.  [default: $H2O_CHAT_URL]")(
        debug_option(command)
    )


def server_options(command: F) -> F:
    """Add `--local`, `--engine`, `--dialect`, `--base-url` and `--debug`."""

    def note(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value is not None:
            ctx.meta[_ENGINE] = value

    def note_dialect(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        ctx.meta[_DIALECT] = value

    def local(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
        return value or _ENGINE in ctx.meta

    local_option = click.option(
        "--local",
        is_flag=True,
        callback=local,
        help="Start the emulator and ask it, for this one run.",
    )
    engine_option = click.option(
        "--engine",
        metavar="ENGINE",
        is_eager=True,  # before --local, which it implies
        expose_value=False,
        callback=note,
        help=f"The same, with a model behind it: {ENGINES}.",
    )
    dialect_option = click.option(
        "--dialect",
        type=click.Choice(DIALECTS),
        expose_value=False,
        callback=note_dialect,
        help=f"What --local behaves as.  [default: {DIALECTS[0]}]",
    )
    return local_option(engine_option(dialect_option(url_option(command))))


@contextlib.contextmanager
def connected(
    base_url: str | None,
    *,
    local: bool = False,
    model: str | None = None,
    saved: bool = False,
    **options: Any,
) -> Generator["h2o_client.H2oClient"]:
    """Make a client of a command's options, for as long as the block lasts.

    Args:
        base_url: the value of `--base-url`.
        local: whether `--local` is given.
        model: the value of `--model`.
        saved: whether to resume the session that is kept of this server.
        **options: more arguments of the client.

    Raises:
        click.UsageError: an option is not valid, or two exclude each other.
        EnvironmentFaultError: the environment's proxies or certificates are not valid.
    """
    if local and base_url is not None:
        other = "--engine" if _engine() else "--local"
        raise click.UsageError(f"{other} and --base-url exclude each other")
    dialect: str | None = click.get_current_context().meta.get(_DIALECT)
    if dialect is not None and not local:
        raise click.UsageError("--dialect says what --local behaves as: give --local, too")
    options.setdefault("retries", h2o_client.Retries(on_retry=show_retry))
    waits, shown = logging.getLogger("h2o_client.waits"), Waits()
    waits.addHandler(shown)
    waits.setLevel(logging.INFO)
    with contextlib.ExitStack() as stack:
        stack.callback(waits.removeHandler, shown)
        if local:
            base_url = stack.enter_context(local_server(_PACE, _engine(), dialect or DIALECTS[0]))
            model = model or h2o_client.DEFAULT_MODEL  # $H2O_CHAT_MODEL is another server's
        with wrong_use(), environment.explained():
            client = h2o_client.H2oClient(base_url, model=model, **options)
            known = state.load(client.base_url) if saved and not local else state.Saved()
            if known.session is not None:
                client.close()
                options |= {"session": known.session, "dialect": known.dialect}
                client = h2o_client.H2oClient(base_url, model=model, **options)
        stack.enter_context(client)
        yield client


def _engine() -> str | None:
    """Return the value of `--engine`."""
    found: str | None = click.get_current_context().meta.get(_ENGINE)
    return found


@contextlib.contextmanager
def wrong_use() -> Generator[None]:
    """Report arguments that the client rejects as wrong use (exit status 2)."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
