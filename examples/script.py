"""A script: ask once, then show an answer as it arrives, and report errors.

Run it against the hosted service, or against the emulator (`h2o-client serve`):

    H2O_CHAT_URL=http://127.0.0.1:8000 python examples/script.py
"""

import sys

from h2o_client import H2oClient, H2oError, RateLimitError

MESSAGES = [
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "content": "Why is the sky blue?"},
]


def main() -> None:
    """Ask, stream, and exit with a message if it fails."""
    with H2oClient() as client:
        try:
            reply = client.chat("Hello!")
            print("Reply: ", reply)

            print("Stream:", end="", flush=True)
            with client.stream(MESSAGES, temperature=0.7, max_new_tokens=200) as stream:
                for text in stream:
                    print(text, end="", flush=True)
            print(f"\n({stream.reply.generated_tokens} tokens, {stream.reply.finish_reason})")
        except RateLimitError as error:
            sys.exit(f"Too many messages; try again in {error.retry_after or 60:.0f} seconds.")
        except H2oError as error:
            sys.exit(f"{error}\nReceived so far: {error.partial!r}")


if __name__ == "__main__":
    main()
