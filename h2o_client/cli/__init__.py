"""The command `h2o-client`; needs the extra `cli`.

It uses only the public API of `h2o_client`. `app.py` defines the command, and `outcome.py` what all
subcommands share. Each subcommand has its own module.

Exit status: 0 success, 1 the service failed, 2 wrong usage, 130 interrupted, and 128 plus the
number for other signals, as in a shell.
"""

from h2o_client.cli.app import app, run

__all__ = ["app", "run"]
