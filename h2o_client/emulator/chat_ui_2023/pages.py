"""The pages: their form actions, their data, and placeholder HTML."""

from __future__ import annotations

from typing import cast

from h2o_client.emulator.chat_ui_2023 import data
from h2o_client.emulator.chat_ui_2023.call import Call
from h2o_client.emulator.store import Conversation, Settings
from h2o_client.emulator.sveltekit import (
    FORBIDDEN,
    HttpError,
    InternalError,
    framed_json,
    page,
    redirect,
    wants_action_json,
)
from h2o_client.emulator.web import Answered, Request, Response, parse_json

NOT_FOUND = "Conversation not found."


def _done(request: Request, location: str) -> Response:
    """An action's redirect, as JSON or as a 303."""
    # 02
    if wants_action_json(request):
        return framed_json(200, {"type": "redirect", "status": 303, "location": location})
    return redirect(303, location)


async def broken(call: Call) -> Answered:
    """An action that failed unexpectedly."""
    if wants_action_json(call.request):
        return framed_json(500, {"type": "error", "error": {"message": "Internal Error"}})
    return page(500, "Internal Error")


async def settings(call: Call) -> Answered:
    """Save the settings: the first request of every session."""
    # 02, 02b
    request, service = call.request, call.service
    if request.media_type not in {"application/x-www-form-urlencoded", "multipart/form-data"}:
        return await broken(call)
    try:
        form = request.form()
    except ValueError:
        return await broken(call)
    chosen = form.get("shareConversationsWithModelAuthors")
    share = bool(chosen)  # any text is true, even "false"
    prompts: dict[str, str] = {}
    if service.config.version >= "0.6":
        if chosen not in {"true", "on", "false", None}:
            return await broken(call)
        share = chosen in {"true", "on"}
        try:
            prompts = _custom_prompts(form.get("customPrompts", "{}"))
        except ValueError:
            return await broken(call)
    model = form.get("activeModel", service.models[0].name)
    if service.model(model) is None:
        return await broken(call)
    known = service.store.sessions.use(call.session)
    # Any text is true here, too; and accepted terms stay accepted.
    accepted = service.store.clock() if form.get("ethicsModalAccepted") else None
    if accepted is None and known is not None:
        accepted = known.accepted_at
    service.store.sessions.put(call.session, Settings(share, model, accepted, prompts))
    return _done(request, request.header("referer") or service.config.base_path or "/")


def _custom_prompts(text: str) -> dict[str, str]:
    """The custom prompts of a form, which replace all earlier ones."""
    prompts = parse_json(text)
    if not isinstance(prompts, dict) or not all(isinstance(item, str) for item in prompts.values()):
        raise ValueError("not an object of strings")
    return cast("dict[str, str]", prompts)


async def delete_all(call: Call) -> Answered:
    """Delete all of a session's conversations."""
    # 14
    if call.request.query != "/delete" or call.request.media_type not in {
        "application/x-www-form-urlencoded",
        "multipart/form-data",
    }:
        return await broken(call)
    store = call.service.store
    for item in store.of_session(call.session):
        del store.conversations[item.id]
    return _done(call.request, call.service.config.base_path or "/")


async def logout(call: Call) -> Answered:
    """Delete only the cookie."""
    # 21
    answer = _done(call.request, call.service.config.base_path or "/")
    name = call.service.config.cookie_name
    cookie = f"{name}=; Max-Age=0; Path=/; HttpOnly; Secure; SameSite=None"
    answer.headers.append(("set-cookie", cookie))
    return answer


async def show_plain(_: Call) -> Answered:
    """A page."""
    return page(200, "HuggingChat")


async def show_broken(_: Call) -> Answered:
    """A page that only has actions."""
    # 02
    return page(500, "Internal Error")


async def show_root(call: Call) -> Answered:
    """The first page, or a choice of model."""
    location = _choose_model(call)
    return page(200, "HuggingChat") if location is None else redirect(302, location)


async def show_conversation(call: Call) -> Answered:
    """A conversation's page."""
    try:
        _readable(call)
    except HttpError as error:
        return page(error.status, error.message)
    return page(200, "HuggingChat")


async def show_shared(call: Call) -> Answered:
    """A shared conversation's page."""
    if call.ids[0] not in call.service.store.shares:
        return page(404, "Conversation not found")
    return page(200, "HuggingChat")


async def root_data(call: Call) -> Answered:
    """The layout's data, without data of the page itself."""
    location = _choose_model(call)
    if location is not None:
        return data.data_redirect(location)
    wanted = call.request.parameter("x-sveltekit-invalidated") or "11"
    return data.data_response(_layout(call), "null" if wanted[1:2] != "0" else '{"type":"skip"}')


async def conversation_data(call: Call) -> Answered:
    """A conversation's data; a rejection is a node."""
    # 13
    try:
        found = _readable(call)
    except InternalError as error:
        return data.data_response(_layout(call), data.error_node(error.message))
    except HttpError as error:
        return data.data_response(_layout(call), data.error_node(error.message, error.status))
    service = call.service
    where = f"{service.origin}{service.config.base_path}/conversation/conversation"
    uses = {"dependencies": [where], "params": ["id"]}
    node = data.conversation_node(found, service.store.searches, uses)
    return data.data_response(_layout(call), node)


async def shared_data(call: Call) -> Answered:
    """A shared conversation's data, which everyone can read."""
    # 10
    store = call.service.store
    found = store.shares.use(call.ids[0])
    if found is None:
        node = data.error_node("Conversation not found", 404)
    else:
        node = data.conversation_node(found, store.searches, {"params": ["id"]})
    return data.data_response(_layout(call), node)


def _readable(call: Call) -> Conversation:
    found = call.service.store.conversations.use(call.object_id(call.ids[0]))
    if found is None:
        raise HttpError(404, NOT_FOUND)
    if found.session != call.session:
        raise HttpError(403, FORBIDDEN)
    return found


def _layout(call: Call) -> str:
    service = call.service
    return data.layout_node(
        service.store.of_session(call.session),
        service.store.sessions.get(call.session),
        service.models,
        service.config.version,
    )


def _choose_model(call: Call) -> str | None:
    name = call.request.parameter("model")
    if name is None:
        return None
    service = call.service
    if service.model(name) is not None:
        known = service.store.sessions.use(call.session) or Settings(True, name)
        known.active_model = name
        service.store.sessions.put(call.session, known)
    return call.path if not service.config.base_path else service.config.base_path + call.path
