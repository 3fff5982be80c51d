"""The command and its subcommands."""

import sys

import click

from h2o_client import __version__
from h2o_client.cli.batch import batch
from h2o_client.cli.chat import chat
from h2o_client.cli.completion import completion
from h2o_client.cli.conversations import conversations
from h2o_client.cli.doctor import doctor
from h2o_client.cli.models import models
from h2o_client.cli.outcome import PROGRAM, App, debug_option, open_what_is_closed
from h2o_client.cli.serve import serve


@click.group(
    cls=App,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f'Without any server: {PROGRAM} chat --local "Hello"',
)
@click.version_option(__version__, prog_name=PROGRAM)
@debug_option
def app() -> None:
    """Chat with H2O's chat service, or a self-hosted server of its kind.

    The server is $H2O_CHAT_URL, or else the hosted service; $H2O_CHAT_MODEL names the
    model, and $H2O_CHAT_TOKEN is sent as a bearer token.
    """


app.add_command(batch)
app.add_command(chat)
app.add_command(completion)
app.add_command(conversations)
app.add_command(doctor)
app.add_command(models)
app.add_command(serve)


def run() -> None:
    """Run the command with the arguments of this process; exits with its status."""
    open_what_is_closed()
    # A character that the terminal does not know must not lose the answer.
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
    app.main(prog_name=PROGRAM)
