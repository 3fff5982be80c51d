"""Files: send some and ask for a summary. Without arguments, it sends its own source.

It needs a 2025 server, such as the emulator (`h2o-client serve --dialect chat-ui-2025`):

    H2O_CHAT_URL=http://127.0.0.1:8000 python examples/files.py [FILE...]
"""

import sys
from pathlib import Path

from h2o_client import File, H2oClient, H2oError


def main(paths: list[Path]) -> None:
    """Ask for a summary of the files."""
    # A path is enough. `File` also sets the type, or sends content that is not on disk.
    files = [File(path.name, path.read_bytes(), "text/plain") for path in paths]
    with H2oClient() as client:
        try:
            reply = client.chat("Sum this up in one sentence.", files=files)
        except H2oError as error:
            sys.exit(str(error))
    print(reply.answer)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or [Path(__file__)])
