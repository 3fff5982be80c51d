"""A conversation's messages: a tree, kept as a list in the order of creation.

The root is the system message. A question can be added under any message, and an answer under the
question; a retry is a sibling of the answer that it replaces. The model gets the path from the
root.
"""
# 03_retry

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any
from uuid import uuid4

from h2o_client.emulator.prompt import JS_SPACE
from h2o_client.emulator.store import Message, Model, Store

Messages = tuple[Message, ...]
_TEXT = ("text/*", "application/json", "application/xml", "application/csv")
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def find(messages: Messages, name: str | None) -> Message | None:
    """The message with an id."""
    return next((message for message in messages if message.id == name), None)


def root(text: str, now: float) -> Message:
    """The first message of a conversation."""
    return Message(str(uuid4()), "system", text, now, now)


def question(text: str, files: Sequence[dict[str, str]], now: float) -> Message:
    """A question that is not in a tree yet."""
    return Message(str(uuid4()), "user", text, now, now, files=tuple(files))


def answer(generation_id: str | None, now: float) -> Message:
    """An answer that is still empty."""
    return Message(str(uuid4()), "assistant", "", now, now, generation_id=generation_id)


def add(messages: Messages, parent: Message, new: Message) -> tuple[Messages, Message]:
    """Add a message under another; return all messages and the added one."""
    new = replace(new, ancestors=(*parent.ancestors, parent.id))
    above = tuple(
        replace(item, children=(*item.children, new.id)) if item.id == parent.id else item
        for item in messages
    )
    return (*above, new), new


def path(messages: Messages, last: Message) -> list[Message]:
    """The messages from the root down to one."""
    return [item for item in messages if item.id in last.ancestors or item.id == last.id]


def without(messages: Messages, name: str) -> Messages:
    """The messages, except one and everything under it."""
    return tuple(
        replace(item, children=tuple(child for child in item.children if child != name))
        for item in messages
        if item.id != name and name not in item.ancestors
    )


def chat(
    way: Sequence[Message], model: Model, store: Store, conversation: str, *, apart: bool
) -> list[dict[str, Any]]:
    """A path as it is sent to the model server.

    Args:
        way: The path.
        model: The model, which may accept images.
        store: The store with the files.
        conversation: The id of the files' conversation.
        apart: Whether the reasoning of earlier answers is sent separately from their text.
    """
    # 04_stop: answers are trimmed, and empty ones omitted. 23_preprompt: it is sent twice.
    first, *rest = way
    system = first.content or model.preprompt
    made: list[dict[str, Any]] = []
    if system:
        made.append({"role": "system", "content": f"{system}\n\n{system}"})
    for message in rest:
        if message.sender == "user":
            made.append(
                {"role": "user", "content": _with_files(message, model, store, conversation)}
            )
            continue
        text, thoughts = message.content, _THOUGHT.findall(message.content)
        if apart:  # 07_upstream_reasoning
            text = _THOUGHT.sub("", text)
        text = text.strip(JS_SPACE)
        if text:
            thought = {"reasoning_content": "".join(thoughts)} if thoughts and apart else {}
            made.append({"role": "assistant", "content": text, **thought})
    return made


def _with_files(message: Message, model: Model, store: Store, conversation: str) -> Any:
    """A question with its files: texts inside it, images as parts; others are dropped."""
    # 17_files
    text = message.content
    images: list[dict[str, Any]] = []
    for file in message.files:
        found = store.file(conversation, file["value"])
        if found is None:
            continue
        data, mime = found
        if any(fnmatchcase(mime, kind) for kind in _TEXT):
            name = f"{conversation}-{file['value']}"
            body = data.decode(errors="replace")
            text = f'<document name="{name}" type="{mime}">\n{body}\n</document>\n\n{text}'
        elif mime.startswith("image/") and model.multimodal:
            url = f"data:{mime};base64,{base64.b64encode(data).decode()}"
            images.append({"type": "image_url", "image_url": {"url": url, "detail": "auto"}})
    return [{"type": "text", "text": text}, *images] if images else text
