"""`__data.json`: the data that the service's pages load.

A SvelteKit page consists of nodes, first the layout and last the page itself, and `__data.json`
holds the data that each of them loaded:

    {"type": "data", "nodes": [
        {"type": "data", "data": [<flattened, see devalue.py>], "uses": …},
        null, or {"type": "skip"}, or
        {"type": "error", "error": {"message": "Conversation not found."}, "status": 404}]}

All of that is sent with status 200, even errors; for a bad id the error lacks a status. And the
whole body can be `{"type": "redirect", "location": "/"}`.

`read_nodes()` unwraps the data of the nodes, and raises an error in any of them. The other
functions find their node by its fields, not by its number, and check each field: see `Fields`.
"""

# 13_data_json

import json
from collections.abc import Iterable
from typing import NamedTuple, NoReturn

from h2o_client.errors import ProtocolError
from h2o_client.protocol.chat_ui_2023.devalue import unflatten
from h2o_client.protocol.dialect import StoredConversation
from h2o_client.protocol.fields import Fields, is_dict
from h2o_client.protocol.lines import excerpt
from h2o_client.protocol.replies import redirect_error, status_error
from h2o_client.protocol.text import load_json
from h2o_client.stored import ConversationInfo, Model, PromptExample, Settings
from h2o_client.types import Message

_MAX_ERROR = 1000  # characters of an error node that its error keeps


class Overview(NamedTuple):
    """What the server says about itself and this session.

    Attributes:
        models: the models that the server offers, in its order.
        settings: the settings of this session.
        conversations: this session's conversations, the newest first.
    """

    models: tuple[Model, ...]
    settings: Settings
    conversations: tuple[ConversationInfo, ...]


def read_root(body: bytes) -> Overview:
    """Read the answer to `GET /__data.json`.

    Raises:
        StatusError: a node reports an error.
        RedirectError: the body redirects elsewhere.
        ProtocolError: the answer does not follow the protocol.
    """
    fields = _find(read_nodes(body), "models", "the models")
    return Overview(
        models=tuple(_model(item) for item in fields.each("models")),
        settings=_settings(Fields(fields.get("settings"), "settings")),
        conversations=tuple(_info(item) for item in fields.each("conversations")),
    )


def read_conversation(body: bytes) -> StoredConversation:
    """Read the answer to `GET /conversation/{id}/__data.json`.

    Raises:
        StatusError: a node reports an error, such as a deleted conversation.
        RedirectError: the body redirects elsewhere.
        ProtocolError: the answer does not follow the protocol.
    """
    # From the end: the page itself is the last node.
    fields = _find(reversed(read_nodes(body)), "messages", "a conversation")
    return StoredConversation(
        # 09_summarize_and_title: the titles that a model gives begin with a space.
        title=fields.text("title").strip(),
        model=fields.text("model"),
        messages=tuple(_message(item) for item in fields.each("messages")),
    )


def read_nodes(body: bytes) -> list[object]:
    """Return the data of each node of a page; None for a node without data.

    Raises:
        StatusError: a node reports an error; without a status, it counts as 500.
        RedirectError: the body redirects elsewhere.
        ProtocolError: the body is not a valid `__data.json`.
    """
    try:
        value = load_json(body.decode())
    except (ValueError, RecursionError):
        # Only what is not JSON is shown: an HTML page, not somebody's messages.
        raise ProtocolError(f"__data.json is not JSON: {excerpt(body)}") from None
    if not is_dict(value):
        raise _error("expected an object")
    kind = value.get("type")
    if kind == "redirect":
        _raise_redirect(value)
    if kind == "error":
        _raise_error(value)
    nodes = value.get("nodes")
    if kind != "data" or not isinstance(nodes, list):
        raise _error("expected an array of nodes")
    # Errors first: one stands behind the layout's data, and is what the caller must know.
    for node in nodes:
        if is_dict(node) and node.get("type") == "error":
            _raise_error(node)
    return [_read_node(node) for node in nodes]


def _read_node(node: object) -> object:
    if node is None:
        return None
    if is_dict(node):
        if node.get("type") == "skip":
            return None
        if node.get("type") == "data":
            data = node.get("data")
            return None if data is None else unflatten(data)
    raise _error("a node has an unknown type")


def _raise_error(node: dict[str, object]) -> NoReturn:
    status = node.get("status", 500)
    # The range is SvelteKit's own; a bool is an int, and not in it.
    if not isinstance(status, int) or not 400 <= status <= 599:
        raise _error("an error has an invalid status")
    error = node.get("error")
    message = error.get("message") if is_dict(error) else error
    try:
        body = json.dumps(node, ensure_ascii=False)[:_MAX_ERROR]
    except RecursionError:
        body = ""
    message = message[:_MAX_ERROR] if isinstance(message, str) else ""
    raise status_error(status, message, body=body)


def _raise_redirect(value: dict[str, object]) -> NoReturn:
    location = value.get("location")
    if not isinstance(location, str):
        raise _error("a redirect has no location")
    # There is a status in the answer to a form [02_settings_variants], but none here. 302, then,
    # which says the least.
    status = value.get("status")
    if not isinstance(status, int) or not 300 <= status <= 399:
        status = 302
    raise redirect_error(status, location)


def _find(nodes: Iterable[object], name: str, what: str) -> Fields:
    """Return the fields of the first node that has a field of this name."""
    for node in nodes:
        if is_dict(node) and name in node:
            return Fields(node, "data")
    raise _error(f"no node of it has {what}")


def _model(fields: Fields) -> Model:
    parameters = fields.get("parameters")
    examples = [] if fields.get("promptExamples") is None else fields.each("promptExamples")
    if parameters is not None and not is_dict(parameters):
        raise fields.wrong("parameters", "an object")
    name = fields.text("name")
    display_name = fields.optional_text("displayName")
    return Model(
        id=fields.text("id"),
        name=name,
        display_name=name if display_name is None else display_name,
        description=fields.optional_text("description"),
        website_url=fields.optional_text("websiteUrl"),
        # A copy: models can refer to one and the same object.
        parameters=dict(parameters or {}),
        prompt_examples=tuple(
            PromptExample(title=example.text("title"), prompt=example.text("prompt"))
            for example in examples
        ),
    )


def _settings(fields: Fields) -> Settings:
    prompts = fields.get("customPrompts")
    custom = Fields({} if prompts is None else prompts, "settings.customPrompts")
    return Settings(
        share_conversations=fields.flag("shareConversationsWithModelAuthors"),
        terms_accepted_at=fields.optional_date("ethicsModalAcceptedAt"),
        active_model=fields.text("activeModel"),
        search_enabled=fields.get("searchEnabled") is not None and fields.flag("searchEnabled"),
        custom_prompts={name: custom.text(name) for name in custom.names},
    )


def _info(fields: Fields) -> ConversationInfo:
    return ConversationInfo(
        id=fields.id("id"), title=fields.text("title").strip(), model=fields.text("model")
    )


def _message(fields: Fields) -> Message:
    return Message(
        role=fields.text("from"),
        content=fields.text("content"),
        id=fields.optional_id("id"),
        score=fields.optional_number("score"),
        created_at=fields.optional_date("createdAt"),
        updated_at=fields.optional_date("updatedAt"),
        # "" where there was no search [13_data_json], nothing in a user's message.
        web_search_id=fields.id("webSearchId") if fields.get("webSearchId") else None,
    )


def _error(what: str) -> ProtocolError:
    return ProtocolError(f"__data.json does not follow this protocol: {what}")
