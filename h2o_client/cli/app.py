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


class _Main(App):
    """The command. An argument that is not a subcommand is a prompt for `chat`, or its option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments."""
        own = {name for param in self.get_params(ctx) for name in param.opts}
        place = next((place for place, text in enumerate(args) if text not in own), len(args))
        if place < len(args) and args[place] not in self.commands:
            if not (ctx.resilient_parsing or args[place].startswith("--")):
                self._check_name(ctx, args[place])
            args = [*args[:place], "chat", *args[place:]]
        return super().parse_args(ctx, args)

    def _check_name(self, ctx: click.Context, word: str) -> None:
        """Raise an error if a word looks like a misspelt subcommand."""
        import difflib  # rarely needed

        known = {**dict.fromkeys(self.commands), "help": "--help"}
        for name in difflib.get_close_matches(word, known, n=1, cutoff=0.75):
            raise click.UsageError(
                f"did you mean {PROGRAM} {known[name] or name}? "
                f"To send the word to the model: {PROGRAM} chat {word}",
                ctx,
            )


@click.group(
    cls=_Main,
    context_settings={"help_option_names": ["-h", "--help"]},
    # No URL: the manual is not published yet.
    epilog=f'{PROGRAM} "Hello" is short for {PROGRAM} chat "Hello"; --local needs no server. '
    "The manual is in the project's source: docs/manual/index.md.",
)
@click.version_option(__version__, prog_name=PROGRAM)
@debug_option
def app() -> None:
    """Chat with H2O's chat service, or a self-hosted chat-ui server.

    $H2O_CHAT_URL sets the server (default: the hosted service) and $H2O_CHAT_MODEL the model.
    $H2O_CHAT_TOKEN is sent as a bearer token; $H2O_CHAT_SESSION is a browser's session cookie, for
    a server that requires a login.
    """


for _command in (batch, chat, completion, conversations, doctor, models, serve):
    app.add_command(_command)


def run() -> None:
    """Run the command with the arguments of this process; exits with its status."""
    open_what_is_closed()
    # A character that the terminal cannot encode must not lose the answer.
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
    app.main(prog_name=PROGRAM)
