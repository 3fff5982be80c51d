"""A model's reasoning: show it dimmed as it arrives, and separate it from the answer.

Run it against a server whose model reasons, or against the emulator (`h2o-client serve`), whose
model does not:

    H2O_CHAT_URL=http://127.0.0.1:8000 python examples/reasoning.py "Is 2027 a prime number?"
"""

import sys

from h2o_client import H2oClient, H2oError

DIM, NORMAL = "\x1b[2m", "\x1b[0m"


def main(question: str) -> None:
    """Ask, and show the reasoning and the answer."""
    with H2oClient() as client, client.stream(question) as stream:
        try:
            for text in stream:
                shown = text.replace("<think>", DIM).replace("</think>", NORMAL)
                print(shown, end="", flush=True)
        except H2oError as error:
            sys.exit(f"{NORMAL}\n{error}")
    # The reply splits the text reliably; above, a tag that arrives in two pieces shows as text.
    print(f"\n\n{len(stream.reply.reasoning)} characters of reasoning, then the answer:")
    print(stream.reply.answer)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "Is 2027 a prime number?")
