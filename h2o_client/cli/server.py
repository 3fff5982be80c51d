"""The options that choose a command's server, and the client for it."""

import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import click

import h2o_client
from h2o_client.cli import environment, state
from h2o_client.cli.local import DIALECTS, ENGINES, local_server, log_shown
from h2o_client.cli.outcome import debug_option, suggest_doctor
from h2o_client.cli.render import show_retry, show_wait
from h2o_client.options import (
    HINTS,
    OPTION_TYPES,
    OTHER_NAMES,
    as_arguments,
    read_parameter,
    similar_option,
)

_PACE = 0.03  # seconds between tokens of `--local`, so that streaming is visible

_INSTEAD = {
    "api_key": "the environment's H2O_CHAT_TOKEN",
    "base_url": "--base-url URL",
    "dialect": "--dialect, with --local",
    "files": "-f FILE",
    "id": "-c ID",
    "model": "-m NAME",
    "proxy": "the environment's HTTPS_PROXY",
    "session": "the environment's H2O_CHAT_SESSION",
    "system": "-s TEXT",
    "token": "the environment's H2O_CHAT_TOKEN",
    "verify": "the environment's SSL_CERT_FILE",
}

F = TypeVar("F", bound=Callable[..., Any])


def url_option(command: F) -> F:
    """Add `--base-url` and `--debug`."""
    return click.option("--base-url", metavar="URL", help="The server.  [default: $H2O_CHAT_URL]")(
        debug_option(command)
    )


def server_options(command: F) -> F:
    """Add `--local`, `--engine`, `--dialect`, `--base-url` and `--debug`."""
    local = click.option(
        "--local", is_flag=True, help="Start the emulator and use it for this run."
    )
    engine = click.option(
        "--engine", metavar="ENGINE", help=f"The same, with a model behind it: {ENGINES}."
    )
    dialect = click.option(
        "--dialect",
        type=click.Choice(DIALECTS),
        help=f"The kind of server that --local starts.  [default: {DIALECTS[0]}]",
    )
    return local(engine(dialect(url_option(command))))


def model_option(command: F) -> F:
    """Add `--model`."""
    return click.option(
        "-m", "--model", metavar="NAME", help="The model.  [default: $H2O_CHAT_MODEL]"
    )(command)


def param_option(command: F) -> F:
    """Add `--param`, which gives `params`: the arguments of a call."""

    def read(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
        try:
            given = dict(map(read_parameter, values))
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None
        for name in given:
            wrong = _what_is_wrong(name)
            if wrong:
                raise click.UsageError(f"-p {name}=…: {wrong}", ctx)
        return as_arguments(given)

    return click.option(
        "-p",
        "--param",
        "params",
        metavar="NAME=VALUE",
        multiple=True,
        callback=read,
        help="A generation parameter, such as temperature=0.2. May be repeated.",
    )(command)


def _what_is_wrong(name: str) -> str:
    """Return what is wrong with a parameter's name, in terms of the command line, or ""."""
    if name in OPTION_TYPES:
        return ""
    meant = OTHER_NAMES.get(name) or similar_option(name)
    if meant:
        return f"did you mean -p {meant}?"
    if name in _INSTEAD:
        return f"this is not a generation parameter: use {_INSTEAD[name]}"
    return "this is not a generation parameter" if name in HINTS else ""


@contextlib.contextmanager
def connected(
    base_url: str | None,
    *,
    local: bool = False,
    engine: str | None = None,
    dialect: str | None = None,
    model: str | None = None,
    saved: bool = False,
    **options: Any,
) -> Generator["h2o_client.H2oClient"]:
    """Create a client from a command's options, for the duration of the block.

    Args:
        base_url: the value of `--base-url`.
        local: whether `--local` is given.
        engine: the value of `--engine`, which implies `--local`.
        dialect: the value of `--dialect`, which needs one of them.
        model: the value of `--model`.
        saved: whether to resume the saved session for this server.
        **options: more arguments of the client.

    Raises:
        click.UsageError: an option is not valid, or two cannot be combined.
        EnvironmentFaultError: the environment's proxies or certificates are not valid.
    """
    local = local or engine is not None
    if local and base_url is not None:
        other = "--local" if engine is None else "--engine"
        raise click.UsageError(f"{other} and --base-url cannot be combined")
    if dialect is not None and not local:
        raise click.UsageError("--dialect is the kind of server that --local starts: add --local")
    options.setdefault("retries", h2o_client.Retries(on_retry=show_retry))
    with contextlib.ExitStack() as stack:
        stack.enter_context(log_shown("h2o_client.waits", logging.INFO, show_wait))
        if local:
            emulator = local_server(_PACE, engine, dialect or DIALECTS[0])
            base_url = stack.enter_context(emulator)
            model = model or h2o_client.DEFAULT_MODEL  # $H2O_CHAT_MODEL is for another server
        with wrong_use(), environment.explained():
            client = h2o_client.H2oClient(base_url, model=model, **options)
            known = state.load(client.base_url) if saved and not local else state.Saved()
            if known.session is not None:
                client.close()
                # A 2023 server is detected without extra requests, and may have been upgraded.
                newer = known.dialect if known.dialect == "chat-ui-2025" else None
                options |= {"session": known.session, "dialect": newer}
                client = h2o_client.H2oClient(base_url, model=model, **options)
        stack.enter_context(client)
        if base_url is not None:
            suggest_doctor(client.base_url)
        try:
            yield client
        except h2o_client.H2oError:
            if not local:
                state.forget_dialect(client.base_url)
            raise


@contextlib.contextmanager
def wrong_use() -> Generator[None]:
    """Report arguments that the client rejects as wrong usage (exit status 2)."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error
