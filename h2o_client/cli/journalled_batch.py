"""Sends the prompts of `h2o-client batch`, each in a conversation that the journal records.

A conversation is created and recorded before its message is sent, so that a run that is killed and
resumed finds the answer there. The conversation is deleted when the answer is recorded.

The server stores a stopped answer as if it were complete. So a prompt is marked as `left` before
the server is told to stop. One gap remains: after an exceeded time limit or a lost connection the
client itself notifies the server, and `left` is written afterwards, a few milliseconds later (at
most `Timeouts.cleanup`). If the process is killed in between, the next run finds the beginning of
an answer and treats it as complete.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from h2o_client import (
    Batch,
    Conversation,
    ForbiddenError,
    H2oClient,
    H2oError,
    IncompleteStreamError,
    NotFoundError,
    RateLimitError,
    Reply,
    TransportError,
    build_prompt,
)
from h2o_client.cli.items import Item
from h2o_client.cli.journal import Journal

ANSWER_WAIT = 120.0
"""Seconds, counted from sending a message, for which the next run waits for its answer."""

_FIRST_POLL = 0.25
_LONGEST_POLL = 5.0


class JournalledBatch(Batch):
    """A batch of items whose conversations are in a journal.

    Args:
        client: sends the prompts.
        items: the items.
        journal: records their conversations and answers.
        on_pause: called, in any thread, with the seconds for which all prompts pause.
        **options: see `Batch`.
    """

    def __init__(
        self,
        client: H2oClient,
        items: Iterable[Item],
        journal: Journal,
        *,
        on_pause: Callable[[float], object],
        **options: Any,
    ) -> None:
        prompts: Iterable[Any] = items
        super().__init__(client, prompts, **options)
        self._sender = client
        self._journal = journal
        self._on_pause = on_pause
        self._limited: dict[str, Conversation] = {}  # those that hit the rate limit, by key

    def stream(self, prompt: Any) -> "_PromptStream":
        """Make the stream that answers an item."""
        item: Item = prompt
        if item.wrong:
            raise ValueError(item.wrong)
        messages, keywords = self.call(item.prompt)
        self._sender.stream(messages, **keywords)  # sends nothing, and checks the arguments
        text, model = build_prompt(messages), keywords.pop("model", None)
        return _PromptStream(
            self._sender, self._journal, item, text, model, keywords, self._limited
        )

    def pausing(self, seconds: float) -> None:
        """See `Batch`."""
        super().pausing(seconds)
        self._on_pause(seconds)


@dataclass(eq=False)
class _PromptStream:
    """The answer to one item, in its own conversation. A batch uses it as a stream."""

    client: H2oClient
    journal: Journal
    item: Item
    text: str
    model: str | None
    keywords: dict[str, Any]
    limited: dict[str, Conversation]
    conversation: Conversation | None = None
    stream: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    left: threading.Event = field(default_factory=threading.Event)

    def read(self) -> Reply:
        """Find the answer of an earlier run, or send the prompt; record the answer at once.

        Raises:
            H2oError: the prompt could not be answered.
        """
        reply = self._find()
        if reply is None:
            reply = self._send()
        self.journal.answered(self.item.key, self.item.digest, describe_reply(reply))
        self._delete()
        return reply

    def close(self) -> None:
        """End it, from another thread; `read()` then raises."""
        with self.lock:
            self.left.set()
            stream = self.stream
        if stream is not None:
            self._note_left()
            stream.close()

    def _note_left(self) -> None:
        # Continue if the disk is full: the conversation is deleted next, so the next run does not
        # find a partial answer in it.
        with contextlib.suppress(OSError):
            self.journal.left(self.item.key)

    def _find(self) -> Reply | None:
        """Look for the answer where an earlier run sent the prompt."""
        entry = self.journal.find(self.item.key)
        if entry is None or entry.conversation is None or self.item.key in self.limited:
            return None
        if entry.digest != self.item.digest:
            return None
        self.conversation = self.client.conversation(id=entry.conversation)
        delay = _FIRST_POLL
        while True:
            try:
                reply = find_reply(self.conversation)
            except (NotFoundError, ForbiddenError):
                return None
            left = (entry.at or 0.0) + ANSWER_WAIT - time.time()
            if reply is not None:
                return reply
            if not 0 < left <= ANSWER_WAIT:  # time is up, or the clock was set back
                break
            if self.left.wait(min(delay, left)):
                raise IncompleteStreamError("the batch was closed")
            delay = min(2 * delay, _LONGEST_POLL)
        self._delete()
        return None

    def _send(self) -> Reply:
        try:
            return self._send_once()
        except RateLimitError:  # keep the conversation for the next attempt
            if self.conversation is not None:
                self.limited[self.item.key] = self.conversation
            raise
        except Exception as error:
            self._note_left()
            if not isinstance(error, TransportError):  # deleting would fail in the same way
                self._delete()
            raise

    def _send_once(self) -> Reply:
        item = self.item
        conversation = self.limited.pop(item.key, None)
        if conversation is None:
            conversation = self.client.conversation(model=self.model, keep=True)
        self.conversation = conversation
        if conversation.id is None:
            conversation.rename(f"prompt {item.number}")  # creates it
        stream = conversation.stream(self.text, **self.keywords)
        self.journal.note_session(self.client.session)
        self.journal.asked(item.key, item.digest, str(conversation.id))
        with self.lock:
            if self.left.is_set():
                raise IncompleteStreamError("the batch was closed")
            self.stream = stream
        reply: Reply = stream.read()
        return reply

    def _delete(self) -> None:
        """Delete the conversation. If this fails, `delete_leftovers()` does it at the end."""
        conversation, self.conversation = self.conversation, None
        if conversation is not None:
            with contextlib.suppress(H2oError):
                conversation.delete()


def delete_leftovers(client: H2oClient, journal: Journal) -> None:
    """Delete the conversations of the batch's session, unless an answer may still be in them.

    Only the batch uses the session, unless the environment sets it: then nothing is deleted here. A
    killed run can leave conversations that are not in the journal: they were created, but nothing
    was sent in them yet. In a new run, this opens the session, so that it can be recorded before it
    is used.
    """
    if not journal.owns_session:
        return
    kept = journal.conversations()
    with contextlib.suppress(H2oError):  # the next run tries again
        if not kept:
            client.delete_conversations()
            journal.note_session(None)
            return
        for found in client.conversations():
            if found.id not in kept:
                client.conversation(id=found.id).delete()


def find_reply(conversation: Conversation) -> Reply | None:
    """Return the answer in a conversation of one message, or None if it is missing."""
    messages = conversation.history()
    if len(messages) < 2 or messages[-1].role != "assistant":
        return None
    return Reply(
        text=messages[-1].content,
        model=conversation.model,
        finish_reason=None,
        generated_tokens=0,  # the server does not store it
        conversation_id=str(conversation.id),
        message_id=messages[-2].id or "",
        response_id=messages[-1].id or "",
        recovered=True,
    )


def describe_reply(reply: Reply) -> dict[str, Any]:
    """Return an answer in the form of the output."""
    return {
        "text": str(reply),
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        "generated_tokens": reply.generated_tokens or None,
        "recovered": reply.recovered,
    }
