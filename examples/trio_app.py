"""Answers with a time limit on trio: the text received in time is kept, generation is stopped.

A cancelled stream tells the server to stop, and deletes the conversation. `pip install trio`, then
run it against the emulator (`h2o-client serve`), with the limit in seconds:

    H2O_CHAT_URL=http://127.0.0.1:8000 python examples/trio_app.py 0.2
"""

import sys

import trio

from h2o_client import AsyncH2oClient

QUESTIONS = ["Hello!", "Tell me about whales, please."]


async def ask(client: AsyncH2oClient, question: str, seconds: float) -> None:
    """Print an answer, or as much of it as arrived in time."""
    stream = client.stream(question)
    with trio.move_on_after(seconds) as limit:
        async with stream:
            async for _ in stream:
                pass
    cut_off = " [cut off]" * limit.cancelled_caught
    print(f"Q: {question}\nA: {stream.text.removeprefix(' ')}{cut_off}\n")


async def main(seconds: float) -> None:
    """Ask all questions at once."""
    async with AsyncH2oClient() as client, trio.open_nursery() as nursery:
        for question in QUESTIONS:
            nursery.start_soon(ask, client, question, seconds)


if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
