"""How a command ends: its exit status, and the line that says why.

`App` handles this for all subcommands. For wrong usage (status 2) a subcommand raises
`click.UsageError`, as click itself does.
"""

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any, NoReturn, TypeVar

import click

from h2o_client import (
    H2oError,
    RedirectError,
    TermsNotAcceptedError,
    TransportError,
    UnsupportedServerError,
)
from h2o_client.cli.render import in_a_line
from h2o_client.extras import install_hint
from h2o_client.safe_text import SafeFormatter, one_line, printable

PROGRAM = "h2o-client"
_DEBUG = "h2o_client.debug"
_DOCTOR = "h2o_client.doctor"
_BROKEN_PIPE = 128 + 13  # the reader is gone: the status that a shell shows for SIGPIPE
_OF_THE_WAY = (RedirectError, TermsNotAcceptedError, UnsupportedServerError)
_EXTRA = ("rich", "markdown_it", "prompt_toolkit")  # imported when first needed
_SIGNALS = [  # Windows has only the first
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
]
# Raised if arguments are missing, with the help as its message. click 8.1 does not have it.
_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())

F = TypeVar("F", bound=Callable[..., Any])


class Terminated(KeyboardInterrupt):
    """The process received a signal that ends it; it cleans up first.

    Attributes:
        signum: the signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class MissingExtraError(Exception):
    """A package that the command needs is not installed.

    Args:
        name: the package.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not installed ({install_hint('cli')})")


class App(click.Group):
    """A group of commands that handles errors as described at the top of this module."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the arguments before the subcommand's name."""
        try:
            ctx = super().make_context(*args, **extra)
        except click.ClickException as error:
            _misused(error)
        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            ctx.color = False
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand, and turn its error into a line and an exit status."""
        try:
            if logging.lastResort is not None:  # prints warnings if no handler is set
                logging.lastResort.setFormatter(SafeFormatter())
            with terminations():
                return super().invoke(ctx)
        except click.ClickException as error:
            _misused(error)
        except BrokenPipeError:
            _hush()
            ctx.exit(_BROKEN_PIPE)
        except KeyboardInterrupt as error:
            ctx.exit(128 + (error.signum if isinstance(error, Terminated) else signal.SIGINT))
        except click.Abort:  # Ctrl-C at a confirmation, or the answer "no"
            ctx.exit(128 + signal.SIGINT)
        except ModuleNotFoundError as error:
            name = (error.name or "").partition(".")[0]
            _fail(ctx, MissingExtraError(name) if name in _EXTRA else error)
        except (H2oError, MissingExtraError, ImportError, OSError) as error:
            _fail(ctx, error)


def describe_error(error: Exception) -> dict[str, Any]:
    """Return an error as a JSON object."""
    return {
        "type": type(error).__name__,
        "message": str(error),
        "status": getattr(error, "status", None),
        "partial": getattr(error, "partial", "").removeprefix(" "),
    }


def debug_option(command: F) -> F:
    """Add `--debug`, which is allowed before and after the subcommand's name."""

    def note(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[_DEBUG] = True

    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=note,
        help="Show where an error came from.",
    )(command)


def suggest_doctor(url: str) -> None:
    """Make connection errors suggest the `doctor` command for this server."""
    ctx = click.get_current_context(silent=True)
    if ctx is not None:
        ctx.meta[_DOCTOR] = f"{PROGRAM} doctor {url}"


def describe_failure(error: Exception) -> str:
    """Return an error as a line, which suggests `doctor` for connection problems."""
    line = in_a_line(error)
    if isinstance(error, _OF_THE_WAY) or (isinstance(error, TransportError) and not error.sent):
        doctor = click.get_current_context().meta.get(_DOCTOR, f"{PROGRAM} doctor")
        line += f"; run `{doctor}`"
    return line


@contextlib.contextmanager
def terminations() -> Generator[None]:
    """Make SIGTERM and SIGHUP act like Ctrl-C, so that the server is notified."""

    def leave(signum: int, _frame: FrameType | None) -> NoReturn:
        raise Terminated(signum)

    # Keep handlers that ignore the signal (nohup) or that other code has set.
    ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def terminating() -> dict[int, Callable[[int, FrameType | None], Any]]:
    """Return the current handlers of the signals that end the process, by number."""
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    return {number: handler for number, handler in found.items() if callable(handler)}


def _fail(ctx: click.Context, error: Exception) -> NoReturn:
    if ctx.meta.get(_DEBUG):
        click.echo(printable("".join(traceback.format_exception(error))), err=True, nl=False)
    click.echo(f"{PROGRAM}: {describe_failure(error)}", err=True)
    try:
        sys.stdout.flush()
    except OSError:  # the interpreter would try to flush again at exit
        _hush()
    ctx.exit(1)


def _misused(error: click.ClickException) -> NoReturn:
    if isinstance(error, _HELP):
        raise error
    line = one_line(error.format_message())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        line += f" (see {error.ctx.command_path} --help)"
    click.echo(f"{PROGRAM}: {line}", err=True)
    raise click.exceptions.Exit(error.exit_code)


def open_what_is_closed() -> None:
    """Open stdin, stdout and stderr on the null device if the process lacks them.

    They are opened in the order of their numbers, so that a socket or file does not get one of
    these numbers.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 -- kept


def _hush() -> None:
    """Stop writing to a pipe whose reader is gone, even at exit."""
    with contextlib.suppress(OSError, ValueError):  # it is closed, or not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
