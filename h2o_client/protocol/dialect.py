"""What differs between kinds of server: one object, the dialect.

A dialect says how each request is built and how its answer is read, has the parser of the
answer's stream, knows how a stored answer is found, and lists what its servers can do at all. The
flows ask it and do not know which one they talk to. What all dialects share stands outside: lines
and their limits, statuses and errors, retries, the life of a turn.

A small request is a `Query`: the request, and the function that makes a value of its answer.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from h2o_client.errors import H2oError, UnsupportedError
from h2o_client.protocol.effects import Head, Request, TextParser
from h2o_client.types import File, Message, PromptPreview, Token, WebSearchEntry

if TYPE_CHECKING:
    # Few calls read what the server has stored: what that takes is imported then.
    from h2o_client.stored import ConversationInfo, Model, Settings

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Reader = Callable[[Head, bytes, Request], T]
MAX_ANSWER = 1024 * 1024  # bytes of a successful answer
MAX_STORED = 64 * 1024 * 1024  # bytes of what the server has stored: long conversations have MBs


_INSTEAD = {
    "branches": "follow any message but the last: begin a new conversation",
    "files": "take files: put what is in them into the prompt",
    "parameters": "take generation parameters: leave them out, its models have their own",
    "summarize": "make a title on request: it does so with the first answer, or use rename()",
    "vote": "take votes: keep them yourself, by the ids of the messages",
    "web_search": "search the web: put what the model needs to know into the prompt, or send files",
}


def unsupported(capability: str) -> UnsupportedError:
    """Make the error of something that a kind of server cannot do, which says what to do instead.

    Args:
        capability: its name.
    """
    return UnsupportedError(f"this kind of server cannot {_INSTEAD[capability]}")


class Query(NamedTuple, Generic[T]):
    """A request that does no harm when it is sent twice, and how its answer is read.

    Attributes:
        request: the request.
        read: makes a value of the answer, or raises.
        largest: bytes that a successful answer may have.
        proves: whether no other kind of server answers it successfully.
    """

    request: Request
    read: Reader[T]
    largest: int = MAX_ANSWER
    proves: bool = False


class Final(Protocol):
    """The final event: the answer is whole."""

    @property
    def generated_tokens(self) -> int | None:
        """How many tokens the model generated, where the server tells."""
        ...

    def finish_reason(self, *, has_stop: bool) -> str | None:
        """Why the answer ended, as far as that can be told.

        Args:
            has_stop: whether stop sequences were given, at which it may have ended.
        """
        ...


class AnswerParser(TextParser, Protocol):
    """Reads the stream of one answer; it is fed bytes and never asks for any.

    Attributes:
        count: how many tokens have come.
        ended: whether nothing that comes now can change the answer.
        error: what is wrong with the stream, once something is: nothing follows it.
    """

    count: int
    ended: bool
    error: H2oError | None

    @property
    def revised(self) -> bool:
        """Whether texts that were given before are not in the answer."""
        ...

    @property
    def title(self) -> str | None:
        """The title of the conversation, once it has come; None where it does not come."""
        ...

    @property
    def final(self) -> Final | None:
        """The final event, once it has come: the answer is whole."""
        ...

    def feed(self, data: bytes, /) -> list[Token]:
        """Return the tokens whose events end within `data`, special ones too."""
        ...

    def finish(self) -> list[Token]:
        """Note that nothing more comes; return the tokens of a last line without its end."""
        ...

    def mute(self) -> None:
        """Take nothing more, where the server cuts a stopped answer back to what was taken."""
        ...


class WebSearchParser(Protocol):
    """Reads the stream of one web search.

    Attributes:
        result: the id of the search, once it has come.
    """

    result: str | None

    def feed(self, data: bytes, /) -> list[WebSearchEntry]:
        """Return the entries that are new with `data`."""
        ...

    def finish(self) -> None:
        """Note that the stream has ended; raises if the result had not come."""
        ...


class Stage(Enum):
    """What has become of a stored answer."""

    RUNNING = "it is being generated"
    WHOLE = "it is whole"
    STOPPED = "it was stopped"
    FAILED = "the model server failed, or broke it off"


class StoredAnswer(NamedTuple):
    """An answer as the server has stored it.

    Attributes:
        message: the answer.
        generation: the id of the generation that it is of, where the server stores that.
        stage: what has become of it.
        over: whether the server has done all that it does for its message: the next may be sent.
    """

    message: Message
    generation: str | None
    stage: Stage
    over: bool


class StoredConversation(NamedTuple):
    """What the server has stored of one conversation.

    Attributes:
        title: its title.
        model: the name of its model, which the server may no longer have.
        messages: what was said, in order; empty when nothing was yet. Of a tree, its newest branch.
        root: the id of the first message of a tree; None: the server keeps a list.
        tree: all messages of a tree, in the order in which they were made.
        answers: all answers in the tree, in that order.
    """

    title: str
    model: str
    messages: tuple[Message, ...]
    root: str | None = None
    tree: tuple[Message, ...] = ()
    answers: tuple[StoredAnswer, ...] = ()

    @property
    def tip(self) -> str | None:
        """The id of the message that the next one follows."""
        return self.tree[-1].id if self.tree else self.root

    @property
    def busy(self) -> bool:
        """Whether its newest answer is being generated, or its server died meanwhile."""
        if not self.answers:
            return False
        newest = self.answers[-1]
        return not newest.over and newest.stage is not Stage.STOPPED

    def branch(self, last: str | None) -> tuple[Message, ...]:
        """Return what was said in a tree, from its root to the message of this id."""
        messages = {message.id: message for message in self.tree}
        found: list[Message] = []
        while (message := messages.get(last)) is not None:
            found.append(message)
            last = message.parent
        return tuple(message for message in reversed(found) if message.role != "system")

    def message_id(self, given: str) -> str:
        """Return the id of the message that is given by it, or by that of its generation."""
        ids = {answer.generation: answer.message.id for answer in self.answers}
        return ids.get(given) or given


class Created(NamedTuple):
    """A conversation that was made.

    Attributes:
        id: its id.
        tip: the id of the message that the first one follows, where the server tells it.
        set_cookies: the `Set-Cookie` headers that came with it.
        is_newer: whether only a server of 2025 answers like this.
    """

    id: str
    tip: str | None = None
    set_cookies: tuple[str, ...] = ()
    is_newer: bool = False


class Outgoing(NamedTuple):
    """A message to send.

    Attributes:
        prompt: the text.
        parameters: the generation parameters that the caller gave.
        message_id: a UUID4, the user's message.
        response_id: a UUID4, the answer, or its generation.
        is_retry: whether it replaces the message of this id, and all that followed it; in a tree,
            whether `parent` is the answer beside which another one is to be generated.
        web_search_id: the web search that the answer shall rest on, or "".
        parent: in a tree, the id of the message that it follows.
        known: in a tree, the ids of the messages that were there before.
        files: the files that go with it.
    """

    prompt: str
    parameters: Mapping[str, Any]
    message_id: str
    response_id: str
    is_retry: bool = False
    web_search_id: str = ""
    parent: str | None = None
    known: frozenset[str] = frozenset()
    files: tuple[File, ...] = ()


class Dialect(Protocol):
    """One kind of server.

    Attributes:
        name: its name.
        capabilities: what its servers can do beyond what all can.
        stream_type: the content type of an answer's stream.
        default_model: the model of calls and clients that name none; None: the first that the
            server lists.
        has_tree: whether the server keeps all messages in a tree, from the moment that they
            arrive, failed answers too. A message then names the one that it follows; two runs at
            once overwrite each other's messages and titles; the headers of an answer come at once.
        retries_limit: whether a message may be sent again when the service's own limit is free.
    """

    name: str
    capabilities: frozenset[str]
    stream_type: str
    default_model: str | None
    has_tree: bool
    retries_limit: bool

    def accept_terms(
        self, *, model: str | None, share: bool, kept: Mapping[str, Any] | None = None
    ) -> Query[list[str]] | None:
        """Open a session; the answer is the `Set-Cookie` headers. None: that takes no request.

        Args:
            model: the model to choose.
            share: whether conversations may be shared with the authors of the models.
            kept: what `kept_settings()` read, to be sent back.
        """
        ...

    def kept_settings(self) -> Query[dict[str, Any]]:
        """Read the settings of a resumed session that `accept_terms()` would overwrite."""
        ...

    def create(
        self, *, model: str, from_share: str | None = None, preprompt: str | None = None
    ) -> Query[Created]:
        """Open a conversation, or a copy of a shared one."""
        ...

    def message(self, conversation: str, message: Outgoing) -> Request:
        """Send a message; it is answered with a stream."""
        ...

    def check(self, head: Head, body: bytes, request: Request) -> None:
        """Raise the error that the response to a message is, if it is one."""
        ...

    def answer_parser(self, text: bytearray) -> AnswerParser:
        """Make the parser of an answer, which adds to `text`."""
        ...

    def reattach(self, conversation: str, response_id: str) -> Request | None:
        """Read the stream of an answer once more, from its beginning; None: that cannot be done."""
        ...

    def cannot_reattach(self) -> None:
        """Note that the server does not know such requests."""
        ...

    def reattached_parser(self, text: bytearray) -> AnswerParser:
        """Make the parser of such a stream; what is in `text` has come already."""
        ...

    def find(self, stored: StoredConversation, message: Outgoing) -> StoredAnswer | None:
        """Find the answer of a message; None: it is not stored."""
        ...

    def stop(self, conversation: str, response_id: str, seen: str) -> Query[None]:
        """Stop what is generated in a conversation.

        Args:
            conversation: its id.
            response_id: the answer, or its generation.
            seen: what was given to the caller of it.
        """
        ...

    def delete(self, conversation: str) -> Query[None]:
        """Delete a conversation."""
        ...

    def delete_all(self) -> Query[None]:
        """Delete all conversations of the session."""
        ...

    def models(self) -> "Query[tuple[Model, ...]]":
        """Read which models the server offers, in its order."""
        ...

    def settings(self) -> "Query[Settings]":
        """Read what this session has chosen."""
        ...

    def conversations(self, page: int) -> "Query[tuple[tuple[ConversationInfo, ...], bool]]":
        """Read a page of this session's conversations, and whether there are more pages."""
        ...

    def is_unknown_model(self, error: H2oError) -> bool:
        """Whether an error may mean that the server does not know the model."""
        ...

    def stored(self, conversation: str) -> Query[StoredConversation]:
        """Read what is stored of a conversation."""
        ...

    def shared(self, share: str) -> Query[StoredConversation]:
        """Read a shared conversation."""
        ...

    def summarize(self, conversation: str) -> Query[str]:
        """Let the model name a conversation; the answer is the title."""
        ...

    def rename(self, conversation: str, title: str) -> Query[None]:
        """Give a conversation a title."""
        ...

    def share(self, conversation: str) -> Query[str]:
        """Share a conversation as it is now; the answer is the URL, or its path."""
        ...

    def share_prefix(self) -> Query[str]:
        """Read what stands before such a path."""
        ...

    def vote(self, conversation: str, message: str, score: int) -> Query[None]:
        """Vote on a message."""
        ...

    def prompt(self, conversation: str, message: str) -> Query[PromptPreview]:
        """Read the prompt as the model would get it."""
        ...

    def web_search(self, conversation: str, prompt: str) -> Request:
        """Search the web; it is answered with a stream."""
        ...

    def web_search_parser(self) -> WebSearchParser:
        """Make the parser of a web search."""
        ...
