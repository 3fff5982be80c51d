"""`--param NAME=VALUE`, for `chat` and `batch`."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from h2o_client.options import as_arguments, read_parameter

F = TypeVar("F", bound=Callable[..., Any])


def param_option(command: F) -> F:
    """Add `--param`, which gives `params`: the arguments of a call."""

    def read(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Any]:
        try:
            return as_arguments(dict(map(read_parameter, values)))
        except (TypeError, ValueError) as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return click.option(
        "--param",
        "params",
        metavar="NAME=VALUE",
        multiple=True,
        callback=read,
        help="A generation parameter, such as temperature=0.2. May be repeated.",
    )(command)
