"""`--param NAME=VALUE`, for the commands that ask."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from h2o_client.options import as_arguments

# Arguments of calls that are no parameters.
_NO_PARAMETERS = frozenset(
    {"concurrency", "limit_wait", "message", "messages", "model", "on_web_search", "parameters"}
    | {"prompts", "recover", "retries", "self", "web_search"}
)

F = TypeVar("F", bound=Callable[..., Any])


def param_option(command: F) -> F:
    """Add `--param`, which gives `params`: a mapping of names to values."""
    return click.option(
        "--param",
        "params",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_read,
        help="A generation parameter, such as temperature=0.2. May be repeated.",
    )(command)


def _read(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that `NAME=VALUE` says; a value is JSON, or else text."""
    parameters: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name or name in _NO_PARAMETERS:
            raise click.BadParameter(f"{value!r} is no NAME=VALUE of a parameter", ctx, param)
        try:
            parameters[name] = json.loads(text)
        except ValueError:
            parameters[name] = text
    return as_arguments(parameters)
