"""The small operations of a client, which read or change one thing."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from h2o_client.errors import ConversationBusyError
from h2o_client.protocol.address import is_id
from h2o_client.protocol.conversations import listed, sweep
from h2o_client.protocol.effects import Flow
from h2o_client.protocol.exchange import Exchange
from h2o_client.types import Table

if TYPE_CHECKING:
    from h2o_client.stored import ConversationInfo, Model, Settings, SharedConversation


def models(exchange: Exchange) -> "Flow[list[Model]]":
    """Read the models that the server offers."""
    found = yield from exchange.read_models(exchange.call())
    return Table(found, ("id", "display_name", "description", "file_types"))


def settings(exchange: Exchange) -> "Flow[Settings]":
    """Read the session's settings."""
    return (yield from exchange.query(lambda: exchange.dialect.settings(), exchange.call()))


def conversations(exchange: Exchange) -> "Flow[list[ConversationInfo]]":
    """Read the list of the session's conversations."""
    return Table((yield from listed(exchange, exchange.call())), ("id", "title", "model"))


def delete_conversations(exchange: Exchange) -> Flow[None]:
    """Delete all conversations of the session.

    Raises:
        ConversationBusyError: an answer is still running: stop it first.
    """
    # 15_delete: once deleted, a conversation cannot be stopped, and goes on generating.
    if exchange.session.is_answering:
        raise ConversationBusyError(
            "an answer of this client is still running, and would be generated to its end: read "
            "it to its end, stop() it, or close the stream"
        )
    if exchange.session.dropped():
        yield from sweep(exchange, exchange.cleanup())
    call = exchange.call()
    yield from exchange.open_session(call)
    yield from exchange.post_form(lambda: exchange.dialect.delete_all(), call)


def shared(exchange: Exchange, share: str) -> "Flow[SharedConversation]":
    """Read a shared conversation."""
    from h2o_client.stored import SharedConversation

    share_id = parse_share(share)
    data = yield from exchange.query(lambda: exchange.dialect.shared(share_id), exchange.call())
    return SharedConversation(title=data.title, model=data.model, messages=data.messages)


def parse_share(share: object) -> str:
    """Return the id of a shared conversation, given as its URL or as the id itself.

    Raises:
        TypeError: `share` is not a string.
        ValueError: `share` is neither a share link nor an id.
    """
    if not isinstance(share, str):
        raise TypeError(
            f"share must be the URL of a shared conversation, not {type(share).__name__}"
        )
    number = share.strip()
    if "/" in number:
        root, _, number = urlsplit(number).path.rstrip("/").rpartition("/")
        if not root.endswith("/r"):
            number = ""
    if not is_id(number):
        raise ValueError("not a share link: expected a URL that ends in /r/ and an id")
    return number
