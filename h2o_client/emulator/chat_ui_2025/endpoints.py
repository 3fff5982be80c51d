"""The endpoints: the effect of each request of the protocol, except messages and settings."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import anyio

from h2o_client.emulator.call import OBJECT_ID, Handler
from h2o_client.emulator.chat_ui_2025 import tree
from h2o_client.emulator.chat_ui_2025.call import Call, valid
from h2o_client.emulator.chat_ui_2025.message import NEW_CHAT, stop_soon
from h2o_client.emulator.chat_ui_2025.run import Run
from h2o_client.emulator.chat_ui_2025.superjson import ObjectId, superjson
from h2o_client.emulator.prompt import JS_SPACE, units
from h2o_client.emulator.store import Conversation, Journal, Message, Share
from h2o_client.emulator.sveltekit import (
    FORBIDDEN,
    NO_CONVERSATION,
    NO_MESSAGE,
    UNDEFINED,
    HttpError,
    InternalError,
    compact,
    empty,
    endpoint_json,
    framed,
    moment,
    page,
)
from h2o_client.emulator.web import Answered, Feed, Response, produced

PAGE = 30
"""Conversations per page of the list."""

TOO_MANY = "You have reached the maximum number of conversations. Delete some to continue."
SHARE_ID = 7
"""Characters of a share's id."""


def _shown(call: Call, item: Conversation | Share) -> dict[str, Any]:
    """A conversation or a shared one, in the endpoints' form."""
    # 11_history, 13_share
    shared = isinstance(item, Share)
    shown = {
        "messages": [_message(message, call) for message in item.messages],
        "title": item.title,
        "model": item.model,
        "preprompt": item.messages[0].content if item.messages else "",
        "rootMessageId": item.messages[0].id if item.messages else UNDEFINED,
        "id": item.id,
        "updatedAt": moment(item.updated),
        "modelId": item.model,
        "shared": shared,
    }
    return shown | ({"deployedSpaces": UNDEFINED} if call.main else {})


def _message(item: Message, call: Call) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": item.id,
        "from": item.sender,
        "content": item.content,
        "createdAt": moment(item.created or 0.0),
        "updatedAt": moment(item.updated),
        "children": list(item.children),
        "ancestors": list(item.ancestors),
    }
    if item.sender == "user":
        shown["files"] = list(item.files)
    more = {
        "generationId": item.generation_id,
        "updates": None if item.updates is None else list(item.updates),
        "interrupted": item.interrupted,
        "materializedSeq": item.materialized if call.main else None,
    }
    return shown | {name: value for name, value in more.items() if value is not None}


async def create(call: Call) -> Answered:
    """``POST /conversation``."""
    # 08_wrong_model
    fields = call.body()
    service, store = call.service, call.service.store
    strings = [("model", str), ("preprompt", str), ("fromShare", str)]
    if not isinstance(fields, dict) or not valid(fields, strings):
        raise HttpError(400, "Invalid request")
    model = service.model(str(fields.get("model")))
    if model is None:
        raise HttpError(400, "Invalid request")
    limit = service.config.conversation_limit
    if limit is not None and len(store.of_session(call.session)) > limit:
        raise HttpError(429, TOO_MANY)
    if "fromShare" in fields:
        made = _copy(call, str(fields["fromShare"]))
    else:
        first = tree.root(str(fields.get("preprompt", model.preprompt)), store.clock())
        made = store.create(call.session, model.name, NEW_CHAT, (first,))
    answer = {"conversationId": made.id}
    if call.main:
        body = superjson(_shown(call, made), numbered=True)
        answer["conversation"] = compact(body).decode()
    return endpoint_json(answer)


def _copy(call: Call, share_id: str) -> Conversation:
    made = call.copied(share_id)
    made.from_share = share_id
    return made


async def import_share(call: Call) -> Answered:
    """``POST /api/v2/conversations/import-share``: an earlier copy is returned again."""
    share_id = str(call.json().get("shareId"))
    mine = call.service.store.of_session(call.session)
    known = next((item for item in mine if item.from_share == share_id), None)
    return call.superjson({"conversationId": (known or _copy(call, share_id)).id})


def newer(handler: Handler) -> Handler:
    """An endpoint in its newer form, which reports malformed ids and success."""

    async def done(call: Call) -> Answered:
        if not OBJECT_ID.fullmatch(call.ids[0]):
            raise HttpError(400, "Invalid conversation ID")
        await handler(call)
        return call.superjson({"success": True})

    return done


async def delete_all(call: Call) -> Answered:
    """``DELETE /api/conversations``, and its v2 form, which returns their number."""
    mine = call.service.store.of_session(call.session)
    for item in mine:
        del call.service.store.conversations[item.id]
    return call.superjson(len(mine)) if call.path.startswith("/api/v2/") else empty()


async def delete_message(call: Call) -> Answered:
    """``DELETE /api/conversation/{id}/message/{id}``: the messages under it are deleted as well."""
    # 21_vote_prompt
    found = call.conversation()
    call.service.store.save(found.id, tree.without(found.messages, call.ids[1]))
    return empty()


async def rename(call: Call) -> Answered:
    """``PATCH /conversation/{id}``; changing the model was not recorded."""
    # 12_title
    found, title = call.conversation(), call.json().get("title")
    if not isinstance(title, str) or not 1 <= units(title.strip(JS_SPACE)) <= 100:
        raise InternalError
    found.title = title.strip(JS_SPACE)
    return empty()


async def rename_v2(call: Call) -> Answered:
    """The v2 form, which accepts a blank title."""
    found, title = call.conversation(), call.json().get("title")
    if not isinstance(title, str) or not 1 <= units(title) <= 100:
        raise HttpError(400, "Invalid title")
    found.title = title.strip(JS_SPACE)
    return empty()


async def stop(call: Call) -> Answered:
    """``POST /conversation/{id}/stop-generating``: stops all runs, or otherwise the next one."""
    # 04_stop
    found, service = call.conversation(), call.service
    runs = [item for item in service.generations if isinstance(item, Run) and item.generating]
    runs = [item for item in runs if item.job.conversation == found.id]
    seen: int | None = None
    try:
        point: Any = call.request.json() if call.main else None
        told = point["seenContentLength"]
        named = {item.generation_id for item in runs} == {point["generationId"]}
        seen = told if type(told) is int and told >= 0 and named else None
    except (ValueError, LookupError, TypeError):
        pass  # without a valid point: keep all of the text
    if runs:
        service.spawn(stop_soon, call, runs, seen)
    elif call.main:
        service.store.record_stop(found.id)
    return empty()


async def share(call: Call) -> Answered:
    """``POST /conversation/{id}/share``."""
    # 13_share
    return endpoint_json({"shareId": call.service.store.share(call.conversation()).id})


async def show(call: Call) -> Answered:
    """``GET /api/v2/conversations/{id}``, for a conversation or a shared one."""
    # 11_history, 13_share
    store, name = call.service.store, call.ids[0]
    if len(name) == SHARE_ID:
        shared = store.shares.use(name)
        if shared is None:
            raise HttpError(404, NO_CONVERSATION)
        return call.superjson(_shown(call, shared))
    if not OBJECT_ID.fullmatch(name):
        raise HttpError(400, "Invalid conversation ID format")
    found = store.conversations.use(name.lower())
    if found is None:
        raise HttpError(404, f"{NO_CONVERSATION}.")
    if found.session != call.session:
        raise HttpError(403, FORBIDDEN)
    return call.superjson(_shown(call, found))


async def show_v1(call: Call) -> Answered:
    """``GET /api/conversation/{id}``: the older form, without the tree."""
    store = call.service.store
    found = store.conversations.get(call.object_id(call.ids[0]))
    if found is None or found.session != call.session:
        told = [("content-type", "application/json")]
        return Response(404, told, compact({"message": NO_CONVERSATION}))
    shown = {name: _shown(call, found)[name] for name in ("id", "title", "updatedAt", "modelId")}
    kept = ("id", "from", "content", "createdAt", "updatedAt", "files", "updates")
    messages = [_message(item, call) for item in found.messages]
    shown["messages"] = [{n: item[n] for n in kept if n in item} for item in messages]
    return endpoint_json(superjson(shown, numbered=False)["json"])


async def show_list(call: Call) -> Answered:
    """``GET /api/v2/conversations``: one page of the list; also its older form."""
    # 11_history
    page_number = call.request.parameter("p") or "0"
    start = PAGE * int(page_number) if page_number.isdecimal() else 0
    mine = call.service.store.of_session(call.session)
    shown: list[dict[str, Any]] = []
    for item in mine[start : start + PAGE]:
        name, updated = ObjectId(item.id), moment(item.updated)
        same = {"_id": name, "id": name, "model": item.model, "modelId": item.model}
        shown.append({**same, "title": item.title, "updatedAt": updated})
    if call.path.startswith("/api/v2/"):
        return call.superjson({"conversations": shown, "hasMore": len(mine) > start + PAGE})
    return endpoint_json(superjson(shown, numbered=False)["json"])


async def prompt(call: Call) -> Answered:
    """``GET /conversation/{id}/message/{id}/prompt``: a preview of the prompt."""
    # 21_vote_prompt
    found = call.conversation()
    last = tree.find(found.messages, call.ids[1])
    if last is None:
        raise HttpError(404, NO_MESSAGE)
    way = tree.path(found.messages, last)
    text = "".join(f"[{item.sender.upper()}]\n{item.content}\n\n" for item in way)
    told = {"stream", "status", "finalAnswer"}
    messages: list[dict[str, Any]] = []
    for item in way:
        kept = [event for event in item.updates or () if event["type"] not in told]
        shown = _message(replace(item, updates=tuple(kept)), call)
        names = ["content", "createdAt", "updatedAt", "updates", "files"]
        messages.append({"role": item.sender, **{n: shown[n] for n in names if n in shown}})
    preview = {
        "prompt": f"{text}[ASSISTANT]",
        "model": found.model,
        "parameters": {"return_full_text": False},
        "messages": messages,
    }
    return endpoint_json(superjson(preview, numbered=False)["json"])


async def output(call: Call) -> Answered:
    """``GET /conversation/{id}/output/{value}``: a file."""
    # 17_files
    kept = call.service.store.file(call.conversation().id, call.ids[1])
    if kept is None:
        raise HttpError(404, "File not found")
    data, mime = kept
    name = f"{call.ids[1][:8]}.{mime.rpartition('/')[2]}"
    policy = "default-src 'none'; script-src 'none'; style-src 'none'; sandbox;"
    extra = ("accept-range", "bytes"), ("content-security-policy", policy)
    named = "content-disposition", f'attachment; filename="{name}"'
    return framed(200, data, mime, *extra, named)


async def reattach(call: Call) -> Answered:
    """``GET /conversation/{id}/stream``: a run's events from a number on, as they arrive."""
    # 06_disconnect; 0.10/15_detect
    if not call.main:
        return page(404, "Not found")
    found, service = call.conversation(), call.service
    name = call.request.parameter("generationId")
    if name is not None:
        journal = call.service.store.journals.use(f"{found.id} {name}")
    else:
        known = (
            item
            for item in reversed(call.service.store.journals.values())
            if item.conversation == found.id
        )
        journal = next(known, None)
    start = call.request.header("last-event-id") or call.request.parameter("fromSeq") or ""
    first = int(start) if start.isdecimal() else 0
    cut, pause = service.script.take_cut("reattach"), service.config.intervals.journal
    headers = [
        ("cache-control", "no-cache, no-transform"),
        ("connection", "keep-alive"),
        ("content-type", "text/event-stream"),
        ("x-accel-buffering", "no"),
    ]
    events = partial(_follow, journal, first, pause, cut)
    return produced(events, service.spawn, 200, headers)


async def _follow(
    journal: Journal | None, number: int, pause: float, cut: int | None, feed: Feed
) -> None:
    last = None if cut is None else number + cut
    while journal is not None:
        ended = journal.status  # read before the events, so that none can be missed
        news = journal.events[number:]
        for event in news:
            if number == last:
                feed.end(lost=True)
                return
            number += 1
            feed.put(f"id: {number}\nevent: update\ndata: ".encode() + compact(event) + b"\n\n")
        if ended:
            break
        if not news:
            feed.put(b": heartbeat\n\n")
        await anyio.sleep(pause)
    end = "gone" if journal is None else journal.status
    feed.put(f"event: end\ndata: {json.dumps({'status': end}, separators=(',', ':'))}\n\n".encode())
    feed.end()
