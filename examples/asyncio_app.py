"""Several chats at once on asyncio: one client, one session, one task per question.

Run it against the hosted service, or against the emulator (`h2o-client serve`):

    H2O_CHAT_URL=http://127.0.0.1:8000 python examples/asyncio_app.py
"""

import asyncio

from h2o_client import AsyncH2oClient, H2oError

QUESTIONS = ["Hello!", "What is a gluon?", "Name three rivers.", "How do bees find their way?"]
AT_ONCE = 3


async def ask(client: AsyncH2oClient, room: asyncio.Semaphore, question: str) -> str:
    """Return the answer, or the reason for a failure; the other questions continue."""
    async with room:
        try:
            reply = await client.chat(question, max_new_tokens=200)
        except H2oError as error:
            return f"no answer: {error}"
    return str(reply)


async def main() -> None:
    """Ask all questions, a few at a time."""
    room = asyncio.Semaphore(AT_ONCE)
    async with AsyncH2oClient() as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(client, room, question)) for question in QUESTIONS]
    for question, task in zip(QUESTIONS, tasks, strict=True):
        print(f"Q: {question}\nA: {task.result()}\n")


if __name__ == "__main__":
    asyncio.run(main())
