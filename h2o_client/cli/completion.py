"""`h2o-client completion`: completion scripts for shells."""

import click
from click.shell_completion import ShellComplete, get_completion_class

from h2o_client.cli.outcome import PROGRAM, debug_option

_SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print the completion script for a shell.")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
@debug_option
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash: h2o-client completion bash > ~/.local/share/bash-completion/completions/h2o-client
    zsh:  h2o-client completion zsh > "${fpath[1]}/_h2o-client"
    fish: h2o-client completion fish > ~/.config/fish/completions/h2o-client.fish
    """  # noqa: D301 -- click does not rewrap a paragraph after \b
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 -- click has these three
    variable = f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"
    complete = made(ctx.find_root().command, {}, PROGRAM, variable)
    # Not BashComplete.source(): it checks the version of the bash on this machine.
    click.echo(ShellComplete.source(complete))
