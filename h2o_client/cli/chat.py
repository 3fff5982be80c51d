"""`h2o-client chat`: a prompt, and the answer as it arrives."""

import contextlib
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

import h2o_client
from h2o_client.cli.local import local_server
from h2o_client.cli.outcome import debug_option

_PACE = 0.03  # seconds between tokens of `--local`, so that the streaming is seen
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NO_PARAMETERS = frozenset({"messages", "model", "parameters", "self"})


class Screen:
    """Shows an answer on stdout, each token when it comes."""

    def __init__(self) -> None:
        self._begun = False
        # Only a terminal obeys control characters, and an answer has no business with it.
        self._terminal = sys.stdout.isatty()

    def show(self, text: str) -> None:
        """Show some more. The space that the first token begins with is left out."""
        if not self._begun:
            self._begun = True
            text = text.removeprefix(" ")
        if self._terminal:
            text = _CONTROL.sub("", text)
        # color=True: passed on as it is, escape sequences in a file too.
        click.echo(text, nl=False, color=True)

    def end(self) -> None:
        """End the line, if there was an answer at all."""
        if self._begun:
            click.echo()


def _read_parameters(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> dict[str, Any]:
    """Return what `NAME=VALUE` says; a value is JSON, or else text."""
    parameters: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name or name in _NO_PARAMETERS:
            raise click.BadParameter(f"{value!r} is no NAME=VALUE of a parameter", ctx, param)
        try:
            parameters[name] = json.loads(text)
        except ValueError:
            parameters[name] = text
    return parameters


@click.command(short_help="Show the answer to a prompt, as it arrives.")
@click.argument("prompt", required=False)
@click.option("--local", is_flag=True, help="Start the emulator and ask it, for this one run.")
@click.option("--base-url", metavar="URL", help="The server.  [default: $H2O_CHAT_URL]")
@click.option("--model", metavar="NAME", help="The model.  [default: $H2O_CHAT_MODEL]")
@click.option("--system", metavar="TEXT", help="A message of the system before the prompt.")
@click.option(
    "--param",
    "params",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_read_parameters,
    help="A generation parameter, such as temperature=0.2. May be repeated.",
)
@debug_option
def chat(
    prompt: str | None,
    local: bool,
    base_url: str | None,
    model: str | None,
    system: str | None,
    params: dict[str, Any],
) -> None:
    """Send PROMPT, or the text on stdin, and show the answer as it arrives."""
    if local and base_url is not None:
        raise click.UsageError("--local and --base-url exclude each other")
    messages = [{"role": "user", "content": _read_prompt(prompt)}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    screen = Screen()
    with contextlib.ExitStack() as stack:
        if local:
            base_url = stack.enter_context(local_server(_PACE))
            model = model or h2o_client.DEFAULT_MODEL  # $H2O_CHAT_MODEL is another server's
        try:
            client = stack.enter_context(h2o_client.H2oClient(base_url, model=model))
            stream = stack.enter_context(client.stream(messages, **params))
        except (TypeError, ValueError) as error:
            raise click.UsageError(str(error)) from error
        stack.callback(screen.end)
        for text in stream:
            screen.show(text)


def _read_prompt(prompt: str | None) -> str:
    """Return the prompt of the command line, else of stdin."""
    if prompt not in (None, "-"):
        return str(prompt)
    if prompt is None and sys.stdin.isatty():
        raise click.UsageError('give a prompt: h2o-client chat "Hello"')
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the text on stdin is not {error.encoding}") from None
