"""The prompts of `h2o-client batch`, each asked in a conversation that the journal knows.

A conversation is made and written down before its message is sent, so that an answer which nobody
waited for is found again. It is deleted when its answer is written down.

An answer that was stopped looks whole where the server stores it. So what is left on purpose is
written down before the server is told to stop. One moment remains: where a time limit strikes or
a connection is lost for good, the client tells the server by itself, and `left` is written when
that is done, some milliseconds later (`Timeouts.cleanup` at the most). A process that is killed
within them finds, when it goes on, the beginning of an answer, and takes it for all of it.
"""

import contextlib
import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from h2o_client import (
    Batch,
    Conversation,
    ForbiddenError,
    H2oClient,
    H2oError,
    IncompleteStreamError,
    Message,
    NotFoundError,
    RateLimitError,
    Reply,
    StatusError,
    TransportError,
)
from h2o_client.cli.journal import Journal

SOUGHT = 120.0
"""Seconds from its asking on that an answer may still come, though who asked is gone."""

_FIRST_LOOK = 0.25
_LONGEST_LOOK = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One line of the input.

    Attributes:
        number: which line it is, from 1.
        key: its name in the journal.
        id: its id, or None.
        prompt: the prompt, as a batch takes it.
        digest: of the prompt.
        wrong: what is wrong with it, or "".
    """

    number: int
    key: str
    id: str | int | None
    prompt: Any
    digest: str
    wrong: str = ""

    @classmethod
    def read(cls, number: int, line: str) -> "Item":
        """Make an item of a line: a JSON object, or else the text of a prompt."""
        digest = hashlib.sha256(line.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        name: str | int | None = None
        wrong = ""
        prompt: Any = line
        if line.lstrip().startswith("{"):
            try:
                prompt = json.loads(line)
            except (ValueError, RecursionError) as error:
                wrong = f"the line begins as JSON and is none: {error}"
            else:
                name = prompt.get("id")
                if isinstance(name, bool) or not isinstance(name, str | int | None):
                    name, wrong = None, "an id is text or a whole number"
        key = f"line:{number}" if name is None else f"id:{json.dumps(name)}"
        return cls(number, key, name, prompt, digest, wrong)


class Items(Iterable[Item]):
    """The lines of a file that are not blank, read anew each time.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[Item]:
        """Iterate the items.

        Raises:
            click.UsageError: it is no text in UTF-8.
        """
        with self._path.open(encoding="utf-8-sig", newline="\n") as file:
            try:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield Item.read(number, line.rstrip("\r\n"))
            except UnicodeDecodeError as error:
                raise click.UsageError(f"{self._path} is not UTF-8: {error.reason}") from None


class JournalledBatch(Batch):
    """A batch of items whose conversations are in a journal.

    Args:
        client: asks.
        items: the items.
        journal: knows.
        on_pause: is told, in any thread, for how many seconds all pause.
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
        self._asked_by = client
        self._journal = journal
        self._on_pause = on_pause
        self._met_limit: dict[str, Conversation] = {}

    def stream(self, prompt: Any) -> "Asking":
        """Make what answers an item."""
        item: Item = prompt
        if item.wrong:
            raise ValueError(item.wrong)
        messages, keywords = self.call(item.prompt)
        # Refuses what cannot be sent; begun it is not.
        self._asked_by.stream(messages, **keywords)
        return Asking(
            self._asked_by, self._journal, item, flatten(messages), keywords, self._met_limit
        )

    def pausing(self, seconds: float) -> None:
        """See `Batch`."""
        super().pausing(seconds)
        self._on_pause(seconds)


class Asking:
    """The answer to one item, in a conversation of its own.

    Args:
        client: asks.
        journal: knows.
        item: the item.
        text: its prompt.
        keywords: arguments of the call.
        refused: the conversations whose message met the rate limit, by the items' keys.
    """

    def __init__(
        self,
        client: H2oClient,
        journal: Journal,
        item: Item,
        text: str,
        keywords: dict[str, Any],
        refused: dict[str, Conversation],
    ) -> None:
        self._client = client
        self._journal = journal
        self._item = item
        self._text = text
        self._model = keywords.pop("model", None)
        self._keywords = keywords
        self._refused = refused
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._conversation: Conversation | None = None
        self._stream: Any = None

    def read(self) -> Reply:
        """Find the answer that there is, or ask; write it down before anything else.

        Raises:
            H2oError: there is none.
        """
        reply = self._seek()
        if reply is None:
            reply = self._ask()
        self._journal.answered(self._item.key, self._item.digest, describe_reply(reply))
        self._delete()
        return reply

    def close(self) -> None:
        """Leave it, from another thread; `read()` then raises."""
        with self._lock:
            self._left.set()
            stream = self._stream
        if stream is not None:
            self._note_left()
            stream.close()

    def _note_left(self) -> None:
        """Write down that the conversation counts no more."""
        # On a disk that is full it must be left, too: the conversation is deleted then, and what
        # is not there is not taken for an answer either.
        with contextlib.suppress(OSError):
            self._journal.left(self._item.key, self._item.digest)

    def _seek(self) -> Reply | None:
        """Look for the answer where an earlier run asked for it."""
        entry = self._journal.entries.get(self._item.key)
        if entry is None or entry.conversation is None or self._item.key in self._refused:
            return None
        if entry.prompt != self._item.digest:
            return None
        conversation = self._conversation = self._client.conversation(id=entry.conversation)
        delay = _FIRST_LOOK
        while True:
            try:
                reply = found_reply(conversation)
            except (NotFoundError, ForbiddenError):
                return None
            if reply is not None:
                return reply
            left = entry.at + SOUGHT - time.time()
            if not 0 < left <= SOUGHT:  # nor where the clock was turned back
                break
            if self._left.wait(min(delay, left)):
                raise IncompleteStreamError("the batch was left")
            delay = min(2 * delay, _LONGEST_LOOK)
        self._delete()
        self._conversation = None
        return None

    def _ask(self) -> Reply:
        item = self._item
        try:
            return self._asked()
        except RateLimitError:  # it waits for the next attempt
            if self._conversation is not None:
                self._refused[item.key] = self._conversation
            raise
        except Exception as error:
            self._note_left()
            if not isinstance(error, TransportError):  # the server would not hear it either
                self._delete()
            raise

    def _asked(self) -> Reply:
        item = self._item
        conversation = self._refused.pop(item.key, None)
        if conversation is None:
            conversation = self._client.conversation(model=self._model, keep=True)
        self._conversation = conversation
        if conversation.id is None:
            conversation.rename(f"prompt {item.number}")  # makes it, so that it has an id
        stream = conversation.stream(self._text, **self._keywords)
        self._journal.asking(item.key, item.digest, str(conversation.id), self._client.session)
        with self._lock:
            if self._left.is_set():
                raise IncompleteStreamError("the batch was left")
            self._stream = stream
        reply: Reply = stream.read()
        return reply

    def _delete(self) -> None:
        """Delete the conversation; what fails, the end of the whole batch makes up for."""
        if self._conversation is not None:
            with contextlib.suppress(H2oError):
                self._conversation.delete()


def flatten(messages: str | Sequence[Mapping[str, Any] | Message]) -> str:
    """Flatten messages as `chat()` does, which has found nothing wrong with them."""
    if isinstance(messages, str):
        return messages
    pairs = [
        (message.role, message.content)
        if isinstance(message, Message)
        else (message["role"], message["content"])
        for message in messages
    ]
    if len(pairs) == 1:
        return str(pairs[0][1])
    return "\n".join([*(f"{role.capitalize()}: {text}" for role, text in pairs), "Assistant:"])


def found_reply(conversation: Conversation) -> Reply | None:
    """Return the answer that a conversation of one message has, if it has it."""
    messages = conversation.history()
    if len(messages) < 2 or messages[-1].role != "assistant":
        return None
    return Reply(
        text=messages[-1].content,
        model=conversation.model,
        finish_reason=None,
        generated_tokens=0,  # nobody knows
        conversation_id=str(conversation.id),
        message_id=messages[-2].id or "",
        response_id=messages[-1].id or "",
        recovered=True,
    )


def describe_reply(reply: Reply) -> dict[str, Any]:
    """Return an answer as the output has it."""
    return {
        "text": reply.text,
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        "generated_tokens": reply.generated_tokens or None,
        "recovered": reply.recovered,
    }


def describe_error(error: Exception) -> dict[str, Any]:
    """Return an error as the output has it."""
    found: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, StatusError):
        found["status"] = error.status
    if isinstance(error, H2oError) and error.partial:
        found["partial"] = error.partial
    return found
