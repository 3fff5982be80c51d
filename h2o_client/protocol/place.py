"""Where a message goes in a conversation that the server keeps as a tree."""

from h2o_client.protocol import conversations
from h2o_client.protocol.dialect import StoredConversation
from h2o_client.protocol.effects import Flow
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.prompt import JS_SPACE
from h2o_client.protocol.retries import Call
from h2o_client.types import Message


class Place:
    """Where a message goes.

    Args:
        parent: the id of the message that it follows, or of that one's generation; None: the
            newest.
        chosen: whether the caller has chosen that message.
        again: whether a message is asked again, which the server may have.

    Attributes:
        parent: the id of the message that it follows, once it is known.
        chosen: whether the caller has chosen it, and it was not looked up yet.
        again: whether a message is asked again.
        beside: whether `parent` is the answer beside which another one is to be generated.
        known: the ids of the messages that were there before.
        branch: what was said before, if it was read.
    """

    def __init__(self, parent: str | None, *, chosen: bool, again: bool) -> None:
        self.parent = parent
        self.chosen = chosen
        self.again = again
        self.beside = False
        self.known: frozenset[str] = frozenset()
        self.branch: tuple[Message, ...] | None = None

    def find(self, exchange: Exchange, conversation: str, prompt: str, call: Call) -> Flow[None]:
        """Read what the server has stored, unless the place is known."""
        if self.parent is None or self.chosen:
            stored = yield from conversations.stored(exchange, conversation, call)
            self.follow(stored, prompt)

    def follow(self, stored: StoredConversation, prompt: str) -> None:
        """Note what the server has stored before the message is sent.

        Args:
            stored: all of it.
            prompt: the message, if it is asked again.

        Raises:
            ValueError: it has no message of the id that this one is to follow.
        """
        self.branch = stored.messages
        self.known = frozenset(message.id for message in stored.tree if message.id is not None)
        given = self.parent
        if self.again:
            as_stored = prompt.replace("\r\n", "\n")
            question, answer = stored.messages[-2:] if len(stored.messages) > 1 else (None, None)
            self.beside = (
                question is not None
                and answer is not None
                and answer.role == "assistant"
                and question.content.strip(JS_SPACE) == as_stored.strip(JS_SPACE)
            )
        if given is None or self.beside:
            self.parent = stored.tip
            self.chosen = False
            return
        self.parent = stored.message_id(given)
        if self.parent not in self.known and self.parent != stored.root:
            raise ValueError(f"this conversation has no message {given!r} to follow")
        self.branch = stored.branch(self.parent)
        self.chosen = False
