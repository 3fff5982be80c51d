"""`h2o-client doctor`: diagnoses the connection to a server; see `examination.py`."""

from typing import TYPE_CHECKING

import click

from h2o_client.cli.outcome import debug_option
from h2o_client.cli.render import show_hanging
from h2o_client.cli.server import connected
from h2o_client.safe_text import one_line

if TYPE_CHECKING:
    from h2o_client.cli.examination import Finding

_MARKS = {"ok": ("ok", "green"), "note": ("note", "yellow"), "failed": ("FAILED", "red")}


@click.command(short_help="Diagnose the connection to a server.")
@click.argument("url", required=False, metavar="[URL]")
@click.option("--local", is_flag=True, help="Start the emulator and check it.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds for each step; the first token may take six times as long.",
)
@click.option("--model", metavar="NAME", help="The model.  [default: $H2O_CHAT_MODEL]")
@click.pass_context
@debug_option
def doctor(
    ctx: click.Context, url: str | None, local: bool, timeout: float, model: str | None
) -> None:
    """Check the server at URL step by step, and say how to fix what fails.

    The default is the server that `chat` would use. The last step sends a short prompt.
    """
    from h2o_client import Timeouts
    from h2o_client.cli.environment import EnvironmentFaultError
    from h2o_client.cli.examination import Finding, examine

    limits = Timeouts(connect=timeout, first_token=6 * timeout, idle=timeout)
    failed = False
    try:
        with connected(url, local=local, model=model, retries=0, timeouts=limits) as client:
            for finding in examine(client, client.base_url if local else url, timeout):
                failed = failed or finding.outcome == "failed"
                _show(finding)
    except EnvironmentFaultError as error:
        failed = True
        for fault in error.faults:
            text = f"{fault.name}: {fault.text}"
            _show(Finding("failed", "environment", text, fault.advice))
    if failed:
        ctx.exit(1)


def _show(finding: "Finding") -> None:
    mark, colour = _MARKS[finding.outcome]
    show_hanging(f"{mark:7} {finding.step:12} ", one_line(finding.text), colour=colour)
    if finding.advice:
        show_hanging(f"{'':21}→ ", one_line(finding.advice))
