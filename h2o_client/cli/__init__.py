"""The command `h2o-client`; needs the extra `cli`.

It uses only the public names of `h2o_client`. `app.py` has the command itself, `outcome.py` the
part that all subcommands share. Each subcommand has a module of its own.

Exit status: 0 done, 1 the service failed, 2 wrong use, 130 interrupted, and 128 plus the number for
other signals, as in a shell.
"""

from h2o_client.cli.app import app, run

__all__ = ["app", "run"]
