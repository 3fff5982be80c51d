"""The endpoints: the effect of each request of the protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

from h2o_client.emulator.call import UUID
from h2o_client.emulator.chat_ui_2023.call import Call
from h2o_client.emulator.chat_ui_2023.generation import PassedOn
from h2o_client.emulator.engine import GenerationRequest
from h2o_client.emulator.prompt import JS_SPACE, SUMMARIZE, build_prompt, stored_text, units
from h2o_client.emulator.script import WebSearch
from h2o_client.emulator.store import Message, Search
from h2o_client.emulator.sveltekit import (
    NO_CONVERSATION,
    NO_MESSAGE,
    HttpError,
    InternalError,
    empty,
    endpoint_json,
)
from h2o_client.emulator.web import Answered, Feed, Response, Stream

PREVIEW = (
    "This is a preview of the prompt that will be sent to the model when retrying the message. "
    "It may differ from what was sent in the past if the parameters have been updated since"
)


def _text(fields: Mapping[str, Any], name: str, *, least: int = 0, most: int = 10**9) -> str:
    """A field that must be a string, with surrounding white space removed."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise InternalError
    value = value.strip(JS_SPACE)
    if not least <= units(value) <= most:
        raise InternalError
    return value


async def create(call: Call) -> Answered:
    """``POST /conversation``."""
    # 03
    fields, service = call.json(), call.service
    model = fields.get("model")
    if not isinstance(model, str) or service.model(model) is None:
        raise InternalError
    shared = fields.get("fromShare")
    if shared is None and "fromShare" not in fields:
        made = service.store.create(call.session, model)
    elif not isinstance(shared, str):
        raise InternalError
    else:
        made = call.copied(shared)
    return endpoint_json({"conversationId": made.id})


async def rename(call: Call) -> Answered:
    """``PATCH /conversation/{id}``."""
    # 09
    title = _text(call.json(), "title", least=1, most=100)
    call.conversation().title = title
    return empty()


async def stop(call: Call) -> Answered:
    """``POST /conversation/{id}/stop-generating``."""
    # 11
    call.service.stop(call.conversation().id)
    return empty()


async def share(call: Call) -> Answered:
    """``POST /conversation/{id}/share``."""
    # 10
    service = call.service
    made = service.store.share(call.conversation())
    return endpoint_json({"url": f"{service.origin}{service.config.base_path}/r/{made.id}"})


async def vote(call: Call) -> Answered:
    """``POST /conversation/{id}/message/{id}/vote``."""
    # 12
    score = call.json().get("score")
    if isinstance(score, bool) or score not in {-1, 0, 1}:
        raise InternalError
    found = call.service.store.conversations.use(call.object_id(call.ids[0]))
    mine = found is not None and found.session == call.session
    if found is None or not mine or not call.service.store.vote(found, call.ids[1], int(score)):
        raise HttpError(404, NO_MESSAGE)
    return empty()


async def prompt(call: Call) -> Answered:
    """``GET /conversation/{id}/message/{id}/prompt``."""
    # 12
    found = call.conversation()
    return _preview(call, found.messages, found.model)


async def shared_prompt(call: Call) -> Answered:
    """``GET /r/{id}/message/{id}/prompt``."""
    # 10
    found = call.service.store.shares.use(call.ids[0])
    if found is None:
        raise HttpError(404, NO_CONVERSATION)
    return _preview(call, found.messages, found.model)


def _preview(call: Call, messages: tuple[Message, ...], name: str) -> Response:
    place = next((i for i, item in enumerate(messages) if item.id == call.ids[1]), None)
    if place is None:
        raise HttpError(404, NO_MESSAGE)
    model = call.service.model(name)
    if model is None:
        raise HttpError(404, "Conversation model not found")
    text = build_prompt(messages[: place + 1], model, version=call.service.config.version)
    parameters = {**model.parameters, "return_full_text": False}
    shown = {"note": PREVIEW, "prompt": text, "model": name, "parameters": parameters}
    return endpoint_json(shown, indent=2)


async def message(call: Call) -> Answered:
    """``POST /conversation/{id}``: the turn itself."""
    service, store = call.service, call.service.store
    found = call.conversation()
    call.limit()
    model = service.model(found.model)
    if model is None:
        raise HttpError(410, "Model not available anymore")
    body = call.json()
    inputs = _text(body, "inputs", least=1)
    options = _options(body)
    search_id = cast("str | None", options.get("web_search_id"))
    now, order = store.clock(), store.next_order()
    history = _history(found.messages, inputs, options, now)
    context = ""
    if search_id:
        search = store.searches.use(call.object_id(search_id))
        if search is None:
            raise InternalError
        if search.summary:
            context = (
                f"The following context was found while searching the internet: {search.summary}"
            )
    text = build_prompt(history, model, version=service.config.version, context=context)
    parameters: object = body.get("parameters")
    request = GenerationRequest(
        model=model.name,
        prompt=text,
        parameters=cast("dict[str, Any]", parameters) if isinstance(parameters, dict) else {},
        messages=tuple((item.sender, item.content) for item in history),
        stream=body.get("stream") is True,
        content_type=call.request.header("content-type") or "application/json",
        body={**body, "inputs": text},
        context=context,
    )
    stops = [item for item in model.parameters.get("stop", ()) if isinstance(item, str)]

    def save(generated: str) -> None:
        done = store.clock()
        answer = Message(
            id=cast("str | None", options.get("response_id")) or str(uuid4()),
            sender="assistant",
            content=stored_text(generated, text, stops),
            created=done,
            updated=done,
            web_search_id=search_id,
        )
        store.save(found.id, store.bounded((*history, answer)))

    generation = PassedOn(
        service.job(request, call.session, found.id),
        stopped=lambda: service.was_stopped(found.id, order),
        save=save,
    )
    service.start(generation)
    try:
        head = await generation.opened()
    except BaseException:  # including cancellation, when the client has left
        generation.leave()
        raise
    if generation.down:
        raise InternalError
    if head is None:
        return None
    return Stream(head.status, list(head.headers), generation.feed, generation.leave)


def _options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options, after a check of their types; null is not allowed."""
    # 04
    value: object = body.get("options")
    if not isinstance(value, dict):
        raise InternalError
    options = cast("dict[str, Any]", value)
    for name in ("id", "response_id"):
        uuid: object = options.get(name, "")
        if name in options and not (isinstance(uuid, str) and UUID.fullmatch(uuid)):
            raise InternalError
    if not isinstance(options.get("is_retry", False), bool):
        raise InternalError
    if not isinstance(options.get("web_search_id", ""), str):
        raise InternalError
    return options


def _history(
    messages: tuple[Message, ...], inputs: str, options: Mapping[str, Any], now: float
) -> tuple[Message, ...]:
    """The history with the new message at its end, or in place of its first attempt."""
    # 07
    name = cast("str | None", options.get("id"))
    new = Message(name or str(uuid4()), "user", inputs, now, now)
    if not (options.get("is_retry") and name):
        return (*messages, new)
    place = next((i for i, item in enumerate(messages) if item.id == name), len(messages))
    return (*messages[:place], replace(new, created=None))


async def summarize(call: Call) -> Answered:
    """``POST /conversation/{id}/summarize``: the model chooses a title."""
    # 09
    found = call.conversation()
    if call.service.config.version >= "0.6":
        call.limit()
    first = found.messages[0].content if found.messages else "undefined"
    title = await _generate(call, SUMMARIZE + first)
    found.title = title
    return endpoint_json({"title": title})


async def _generate(call: Call, question: str) -> str:
    """Ask the first model a question, without streaming."""
    service = call.service
    model = service.models[0]
    asked = Message("", "user", question, None, 0.0)
    text = build_prompt([asked], model, version=service.config.version)
    parameters = {**model.parameters, "return_full_text": False}
    request = GenerationRequest(
        model=model.name,
        prompt=text,
        parameters=parameters,
        messages=(("user", question),),
        stream=False,
        body={"inputs": text, "parameters": parameters, "options": {}},
    )
    try:
        return stored_text(await service.ask_aside(request, call.session), text)
    except (ConnectionError, ValueError):
        raise InternalError from None


async def web_search(call: Call) -> Answered:
    """``GET /conversation/{id}/web-search``: a response of JSON objects that does not end.

    No successful search was recorded: its entries follow the server's source.
    """
    # 16
    service, found = call.service, call.conversation()
    question = (call.request.parameter("prompt") or "").strip(JS_SPACE)
    if not question:
        raise InternalError
    scripted = service.script.take_search()
    feed, entries = Feed(), list[dict[str, Any]]()
    name = service.store.new_id()

    def say(*more: dict[str, Any]) -> None:
        entries.extend(more)
        text = json.dumps({"messages": entries}, ensure_ascii=False, separators=(",", ":"))
        feed.put(text.encode())

    async def run() -> None:
        say({"type": "update", "message": "Generating search query"})
        summary = ""
        try:
            query = scripted.query if scripted else None
            query = query or await _generate(call, question)
        except InternalError:
            error: str | None = "fetch failed"
        else:
            say({"type": "update", "message": "Searching Google", "args": [query]})
            error = "No Serper.dev or SerpAPI key found" if scripted is None else None
        end: list[dict[str, Any]] = [{"type": "result", "id": name}]
        if error is not None:
            failed = "An error occurred with the web search"
            end.insert(0, {"type": "error", "message": failed, "args": [json.dumps(error)]})
        elif scripted is not None:
            summary = scripted.summary
            _succeed(say, scripted, sources=service.config.version >= "0.6")
        search = Search(name, found.id, (*entries, *end), summary)
        service.store.searches.put(name, search)
        say(*end)

    service.spawn(run)
    return Stream(200, [("content-type", "application/json")], feed, feed.abandon, endless=True)


def _succeed(say: Callable[..., None], search: WebSearch, *, sources: bool) -> None:
    for link in search.links[:1]:
        say({"type": "update", "message": "Browsing result", "args": [json.dumps(link)]})
    say({"type": "update", "message": "Creating summary"})
    summary = json.dumps(search.summary, ensure_ascii=False)
    say({"type": "update", "message": "Injecting summary", "args": [summary]})
    if sources:
        found = [
            {"title": link, "link": link, "hostname": urlsplit(link).hostname or ""}
            for link in search.links
        ]
        say({"type": "sources", "sources": found})


async def show_search(call: Call) -> Answered:
    """``GET /search/{id}``: only searches of shared conversations, even for their owner."""
    # 16
    store = call.service.store
    found = store.searches.use(call.object_id(call.ids[0]))
    if found is None:
        raise HttpError(404, "Search query not found")
    shared = any(
        item.web_search_id == found.id for each in store.shares.values() for item in each.messages
    )
    if not shared:
        raise HttpError(403, "You don't have access to the conversation here.")
    return endpoint_json({"messages": list(found.entries)})
