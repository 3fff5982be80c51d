"""The small operations of a client: one request, one value."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from h2o_client.protocol.address import is_id
from h2o_client.protocol.effects import Flow
from h2o_client.protocol.replies import read_settings
from h2o_client.protocol.service import MAX_DATA, Service, reading

if TYPE_CHECKING:
    from h2o_client.stored import ConversationInfo, Model, Settings, SharedConversation


def models(service: Service) -> "Flow[list[Model]]":
    """Read which models there are."""
    root = yield from service.root(service.new_call())
    return list(root.models)


def settings(service: Service) -> "Flow[Settings]":
    """Read what the session has chosen."""
    root = yield from service.root(service.new_call())
    return root.settings


def conversations(service: Service) -> "Flow[list[ConversationInfo]]":
    """Read which conversations the session has."""
    root = yield from service.root(service.new_call())
    return list(root.conversations)


def delete_conversations(service: Service) -> Flow[None]:
    """Delete all conversations of the session."""
    retries = service.new_call()
    yield from service.open_session(retries)
    yield from service.post_form(service.endpoints.delete_all, read_settings, retries)


def shared(service: Service, share: str) -> "Flow[SharedConversation]":
    """Read a shared conversation."""
    from h2o_client.protocol.data import read_shared
    from h2o_client.stored import SharedConversation

    number = parse_share(share)
    data = yield from service.call(
        lambda: service.endpoints.shared(number),
        reading(read_shared),
        service.new_call(),
        largest=MAX_DATA,
    )
    return SharedConversation(title=data.title, model=data.model, messages=data.messages)


def parse_share(share: object) -> str:
    """Return the id of a shared conversation, given as its URL or as the id itself [10_share].

    Raises:
        TypeError: it is no text.
        ValueError: it is neither.
    """
    if not isinstance(share, str):
        raise TypeError(f"a shared conversation is given as its URL, not {type(share).__name__}")
    number = share.strip()
    if "/" in number:
        root, _, number = urlsplit(number).path.rstrip("/").rpartition("/")
        if not root.endswith("/r"):
            number = ""
    if not is_id(number):
        raise ValueError("this is not a shared conversation: its URL ends in /r/ and an id")
    return number
