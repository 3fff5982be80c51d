r"""Your own server: under a path, behind a proxy, with a token and a private CA.

The client reads H2O_CHAT_URL and H2O_CHAT_TOKEN, and httpx the proxy; this program reads
H2O_CHAT_CA.

    H2O_CHAT_URL=https://chat.example.com/assistant H2O_CHAT_TOKEN=… \
    HTTPS_PROXY=http://proxy.example.com:3128 H2O_CHAT_CA=/etc/ssl/example-ca.pem \
    python examples/self_hosted.py "Hello!"
"""

import os
import ssl
import sys

import httpx

from h2o_client import H2oClient, Timeouts


def make_http_client() -> httpx.Client:
    """Create the HTTP client; this is also the place for `mounts=`, `event_hooks=` and `proxy=`."""
    context = ssl.create_default_context(cafile=os.environ.get("H2O_CHAT_CA"))
    return httpx.Client(verify=context)


def main() -> None:
    """Send the prompt from the command line."""
    patience = Timeouts(connect=5, first_token=300, idle=60)  # this model is slow to start
    with (
        make_http_client() as http_client,  # H2oClient does not close a client that it is given
        H2oClient(http_client=http_client, timeouts=patience, share_conversations=False) as client,
    ):
        print(f"{client.base_url}, {client.model}")
        print(client.chat(" ".join(sys.argv[1:]) or "Hello!"))


if __name__ == "__main__":
    main()
