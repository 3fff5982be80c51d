"""The data behind the pages: the nodes of ``__data.json``.

A page's data is a list of nodes, the layout's first. A rejection is an error node in a 200
response: with its status if the service raised it, without a status after an unexpected failure.
"""
# 13_data_json

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from h2o_client.emulator.chat_ui_2023.devalue import stringify
from h2o_client.emulator.store import Conversation, Message, Model, Search, Settings, Share
from h2o_client.emulator.sveltekit import UNDEFINED, compact, framed, moment
from h2o_client.emulator.web import Response

EXAMPLES = (
    (
        "Write an email from bullet list",
        (
            "As a restaurant owner, write a professional email to the supplier to get these "
            "products every week: \n\n- Wine (x10)\n- Eggs (x24)\n- Bread (x12)"
        ),
    ),
    (
        "Code a snake game",
        "Code a basic snake game in python, give explanations for each step.",
    ),
    ("Assist in a task", "How do I make a delicious lemon cheesecake?"),
)


def layout_node(
    conversations: Sequence[Conversation],
    settings: Settings | None,
    models: Sequence[Model],
    version: str,
) -> str:
    """The layout's node: the data that all pages share."""
    accepted = settings.accepted_at if settings else None
    chosen: dict[str, Any] = {
        "shareConversationsWithModelAuthors": settings.share if settings else True,
        "ethicsModalAcceptedAt": None if accepted is None else moment(accepted),
        "activeModel": settings.active_model if settings else models[0].name,
        "searchEnabled": False,
    }
    if version >= "0.6":
        chosen["customPrompts"] = dict(settings.custom_prompts) if settings else {}
    data = {
        "conversations": [
            {"id": item.id, "title": item.title, "model": item.model} for item in conversations
        ],
        "settings": chosen,
        "models": [_model(model, version) for model in models],
        "oldModels": [],
        "user": UNDEFINED,
        "requiresLogin": False,
        "messagesBeforeLogin": 0,
    }
    return _node(data, {"dependencies": ["conversation:list"], "url": 1})


def _model(model: Model, version: str) -> dict[str, Any]:
    data: dict[str, Any] = {
        "id": model.name,
        "name": model.name,
        "websiteUrl": "https://h2o.ai",
        "modelUrl": UNDEFINED,
        "datasetName": "OpenAssistant/oasst1",
        "datasetUrl": UNDEFINED,
        "displayName": model.display_name or model.name,
        "description": model.description,
        "promptExamples": [{"title": title, "prompt": prompt} for title, prompt in EXAMPLES],
        "parameters": dict(model.parameters),
    }
    if version >= "0.6":
        data["preprompt"] = ""
    return data


def conversation_node(
    item: Conversation | Share, searches: Mapping[str, Search], uses: Mapping[str, Any]
) -> str:
    """The node of a conversation, or of a shared one."""
    wanted = {message.web_search_id for message in item.messages if message.web_search_id}
    data = {
        "messages": [_message(message) for message in item.messages],
        "title": item.title,
        "model": item.model,
        "searches": {
            name: [_entry(entry) for entry in searches[name].entries]
            for name in sorted(wanted)
            if name in searches
        },
    }
    return _node(data, uses)


def _message(item: Message) -> dict[str, Any]:
    """A message, with its keys in the real server's order."""
    data: dict[str, Any]
    if item.sender == "user":
        data = {"content": item.content, "from": "user", "id": item.id}
    else:
        data = {
            "from": item.sender,
            "content": item.content,
            "webSearchId": item.web_search_id,
            "id": item.id,
        }
    if item.created is not None:
        data["createdAt"] = moment(item.created)
    data["updatedAt"] = moment(item.updated)
    if item.score:
        data["score"] = item.score
    return data


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    data = dict(entry)
    if data.get("type") == "update":
        data.setdefault("args", None)  # as the database returns it [16_web_search]
    return data


def error_node(message: str, status: int | None = None) -> str:
    """The node of a rejection."""
    node: dict[str, Any] = {"type": "error", "error": {"message": message}}
    if status is not None:
        node["status"] = status
    return compact(node).decode()


def data_response(*nodes: str) -> Response:
    """The nodes as one response."""
    body = '{"type":"data","nodes":[' + ",".join(nodes) + "]}\n"
    return _data(body)


def data_redirect(location: str) -> Response:
    """A redirect instead of data, which is also a 200 response."""
    # 13
    return _data(compact({"type": "redirect", "location": location}).decode())


def _data(body: str) -> Response:
    return framed(
        200,
        body.encode(errors="backslashreplace"),
        "application/json",
        ("cache-control", "private, no-store"),
    )


def _node(data: object, uses: Mapping[str, Any]) -> str:
    return f'{{"type":"data","data":{stringify(data)},"uses":{compact(uses).decode()}}}'
