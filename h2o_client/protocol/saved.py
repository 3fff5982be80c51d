"""Converts conversations to plain values, to save them as JSON and resume them later."""

from collections.abc import Mapping, Sequence
from typing import Any

from h2o_client.protocol.address import is_id
from h2o_client.protocol.conversation import ConversationCore
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.queries import parse_share
from h2o_client.protocol.replies import read_id
from h2o_client.types import Message

_FORMAT = 1


def save(conversation: ConversationCore) -> dict[str, Any]:
    """Return a conversation as plain values for JSON, without the session."""
    saved: dict[str, Any] = {
        "format": _FORMAT,
        "id": conversation.id,
        "title": conversation.title,
        "model": conversation.model,
        "messages": [_message_to_dict(message) for message in conversation.messages],
    }
    if conversation.id is None and conversation.copy_of is not None:
        saved["share"] = conversation.copy_of
    return saved


def resume(exchange: Exchange, saved: object, *, keep: bool | None) -> ConversationCore:
    """Resume a conversation that was saved with `save()`.

    Raises:
        TypeError: the value is not a mapping.
        ValueError: the value was not made by `save()`.
    """
    if not isinstance(saved, Mapping):
        raise TypeError(f"a saved conversation must be a mapping, not {type(saved).__name__}")
    if saved.get("format") != _FORMAT:
        raise ValueError("not a saved conversation, or saved by another version")
    conversation, title, model = saved.get("id"), saved.get("title"), saved.get("model")
    if conversation is not None:
        read_id(conversation)
    for name, value in (("title", title), ("model", model)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"the {name} of the saved conversation is not a string")
    share = saved.get("share")
    if share is not None:
        try:
            parse_share(share)
        except TypeError as error:
            raise ValueError(f"the share of the saved conversation is not valid: {error}") from None
    messages = saved.get("messages")
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ValueError("the saved conversation lacks its messages")
    return ConversationCore(
        exchange,
        model=model,
        conversation=conversation,
        share=share,
        keep=keep,
        title=title,
        messages=[_message_from_dict(message) for message in messages],
    )


def _message_to_dict(message: Message) -> dict[str, Any]:
    saved: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.id is not None:
        saved["id"] = message.id
    if message.partial:
        saved["partial"] = True
    return saved


def _message_from_dict(saved: object) -> Message:
    if not isinstance(saved, Mapping):
        raise ValueError("the saved conversation has a message that is not a mapping")
    role, content, number = saved.get("role"), saved.get("content"), saved.get("id")
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError("the saved conversation has a message without role or content")
    if number is not None and not is_id(number):
        raise ValueError("the saved conversation has a message whose id is not valid")
    return Message(role=role, content=content, id=number, partial=saved.get("partial") is True)
