"""`h2o-client models`: lists the server's models."""

import dataclasses
import sys

import click

from h2o_client.cli.render import print_table
from h2o_client.cli.server import connected, server_options
from h2o_client.safe_text import one_line, to_json


@click.command(short_help="Show the server's models.")
@server_options
@click.option("--json", "as_json", is_flag=True, help="Write a JSON list, for scripts.")
def models(
    local: bool,
    engine: str | None,
    dialect: str | None,
    base_url: str | None,
    as_json: bool,
) -> None:
    """Show the server's models; when piped, one name per line."""
    with connected(base_url, local=local, engine=engine, dialect=dialect) as client:
        found = client.models()
        chosen = client.model
    if as_json:
        click.echo(to_json([dataclasses.asdict(model) for model in found]))
    elif sys.stdout.isatty():
        rows = [
            ("*" if model.id == chosen else "", model.id, model.description or model.display_name)
            for model in found
        ]
        print_table(("", "model", "description"), rows)
    else:
        for model in found:
            click.echo(one_line(model.id))
