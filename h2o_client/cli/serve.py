"""`h2o-client serve`: the emulator, as a server to try things with."""

import ipaddress
import time

import click

from h2o_client.cli.local import emulator_class
from h2o_client.cli.outcome import PROGRAM, debug_option


@click.command(short_help="Run the emulator, a local server, until Ctrl-C.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port; 0 takes a free one.",
)
@click.option(
    "--pace",
    type=click.FloatRange(min=0),
    default=0.02,
    show_default=True,
    help="Seconds between tokens.",
)
@click.option(
    "--token",
    envvar="H2O_CHAT_TOKEN",
    metavar="TEXT",
    help="Answer only who sends this bearer token.  [env: $H2O_CHAT_TOKEN]",
)
@debug_option
def serve(host: str, port: int, pace: float, token: str | None) -> None:
    """Run the emulator, a local server of the same protocol, until Ctrl-C."""
    if not token and not _is_loopback(host):
        raise click.UsageError(f"others can reach {host}: give a --token, too")
    emulator = emulator_class()(host=host, port=port, pace=pace, token=token or None)
    try:
        emulator.start()
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error}") from error
    with_token = "H2O_CHAT_TOKEN=… " if token else ""
    try:
        click.echo(f"The emulator is at {emulator.url} (Ctrl-C ends it). In another terminal:\n")
        click.echo(f'    {with_token}H2O_CHAT_URL={emulator.url} {PROGRAM} chat "Hello"')
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:  # SIGTERM too: it is how this command ends
        click.echo("\nstopped", err=True)
    finally:
        emulator.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
