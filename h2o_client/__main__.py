"""The command `h2o-client`, also `python -m h2o_client`.

Its dependencies are in the extra `cli`, which may not be installed, so `main()` imports them.
"""

import sys

from h2o_client.extras import install_hint

MISSING = f"h2o-client: {{}} is not installed ({install_hint('cli')})\n"


def main() -> None:
    """Run the command with this process's arguments, and exit with its status."""
    try:
        from h2o_client.cli import run
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write(MISSING.format("click"))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
