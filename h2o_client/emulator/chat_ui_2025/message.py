"""``POST /conversation/{id}``: a message, and the run that answers it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import uuid4

import anyio

from h2o_client.emulator.call import UUID
from h2o_client.emulator.chat_ui_2025 import tree
from h2o_client.emulator.chat_ui_2025.call import Call, valid
from h2o_client.emulator.chat_ui_2025.run import Run
from h2o_client.emulator.engine import GenerationRequest
from h2o_client.emulator.forms import Part
from h2o_client.emulator.parameters import DEFAULT_NEW_TOKENS
from h2o_client.emulator.prompt import ENTITLE, build_prompt, units, well_formed
from h2o_client.emulator.store import Conversation, Message, Model
from h2o_client.emulator.sveltekit import NO_MESSAGE, HttpError, InternalError
from h2o_client.emulator.web import Answered, Stream, parse_json

NEW_CHAT = "New Chat"
MAX_FILE = 10 * 1024 * 1024
TITLING = """You are a chat thread titling assistant.
Goal: Produce a very short, descriptive title that names the topic of the user's first message.
Return only the title text."""
"""A shortened prompt: the real server adds rules and examples."""

_FIELDS = (("id", str), ("inputs", str), ("is_retry", bool), ("generationId", str))


@dataclass(frozen=True, slots=True)
class _Asked:
    """The contents of a message request."""

    text: str | None
    parent: str | None
    retry: bool
    generation_id: str | None
    files: Sequence[Part]


async def message(call: Call) -> Answered:
    """Receive a message, and start the run."""
    service, store = call.service, call.service.store
    found = call.conversation()
    call.limit()
    if len(found.messages) > store.max_messages:
        text = (
            f"This conversation has more than {store.max_messages} messages."
            " Start a new one to continue"
        )
        raise HttpError(429, text)
    model = service.model(found.model)
    if model is None:
        raise HttpError(410, "Model not available anymore")
    asked = _read(call)
    files = [_file(call, found, part) for part in asked.files]
    now = store.clock()
    messages, question = _with_question(found.messages, asked, files, now)
    generation_id = (asked.generation_id or str(uuid4())) if call.main else None
    messages, answer = tree.add(messages, question, tree.answer(generation_id, now))
    way = tree.path(messages, question)
    request = _request(model, way, tree.chat(way, model, store, found.id, apart=call.main))
    first = next((item.content for item in messages if item.sender == "user"), "")

    async def entitle() -> str:
        return await _title(call, first)

    store.save(found.id, messages)
    run = Run(
        service,
        service.job(request, call.session, found.id),
        found,
        messages,
        answer,
        entitle=entitle if found.title == NEW_CHAT else None,
        lost_file=any(store.file(found.id, file["value"]) is None for file in files),
    )
    if call.main:
        store.journals.put(f"{found.id} {generation_id}", run.journal)
    kept = call.main and store.stop_record(found.id) is not None
    service.start(run)
    if kept:
        service.spawn(stop_soon, call, [run])
    if run.refused:
        return None
    return Stream(200, [("content-type", "application/jsonl")], run.feed, run.leave)


def _read(call: Call) -> _Asked:
    """Read the form, in the order in which the real server checks it."""
    # 09_wrong_id, 17_files
    try:
        parts = call.request.parts()
    except ValueError:
        raise InternalError from None
    data = next((part for part in parts if part.name == "data"), None)
    if data is None or data.filename is not None or not data.value:
        raise HttpError(400, "Invalid request")
    try:
        fields: Any = parse_json(data.value.decode(errors="replace"))
    except ValueError:
        raise InternalError from None
    if not isinstance(fields, dict) or not valid(cast("dict[str, Any]", fields), _FIELDS):
        raise InternalError
    names = ["id", "generationId"] if call.main else ["id"]
    if any(name in fields and not UUID.fullmatch(fields[name]) for name in names):
        raise InternalError
    text: str | None = fields.get("inputs")
    if text == "":
        raise InternalError
    files = [part for part in parts if part.name == "files" and part.filename is not None]
    files = [part for part in files if part.value]  # empty ones are dropped
    if any((part.filename or "").partition(";")[0] not in {"base64", "hash"} for part in files):
        raise InternalError
    limit = call.service.config.message_length
    if text is not None and limit is not None and units(text) > limit:
        raise HttpError(400, "Message too long.")
    if text is not None:
        text = well_formed(text.replace("\r\n", "\n"))
    retry = bool(fields.get("is_retry"))
    return _Asked(text, fields.get("id"), retry, fields.get("generationId"), files)


def _file(call: Call, found: Conversation, part: Part) -> dict[str, str]:
    """Store a file, and return its description in the message."""
    how, _, name = (part.filename or "").partition(";")
    value = part.value.decode(errors="replace")
    if how == "base64":
        try:
            data = base64.b64decode(part.value + b"==")
        except binascii.Error:
            data = b""
        if len(data) > MAX_FILE:
            raise HttpError(413, "File too large, should be <10MB")
        value = hashlib.sha256(data).hexdigest()
        call.service.store.add_file(found.id, value, data, part.content_type)
    return {"type": "hash", "value": value, "mime": part.content_type, "name": name}


def _with_question(
    messages: tree.Messages, asked: _Asked, files: Sequence[dict[str, str]], now: float
) -> tuple[tree.Messages, Message]:
    """The messages including the question to answer, and the question."""
    # 02_two_turns, 03_retry, 19_continue
    named = tree.find(messages, asked.parent)
    if asked.retry and asked.parent is not None:
        if named is None:
            raise HttpError(404, NO_MESSAGE)
        above = tree.find(messages, named.ancestors[-1] if named.ancestors else None)
        if above is not None and named.sender == "assistant":
            return messages, above
        if above is None or not asked.text:
            raise HttpError(500, "Failed to create message")
        return tree.add(messages, above, tree.question(asked.text, files, now))
    if named is None:
        raise InternalError
    return tree.add(messages, named, tree.question(asked.text or "", files, now))


def _request(
    model: Model, way: Sequence[Message], chat: Sequence[dict[str, Any]]
) -> GenerationRequest:
    """The request to the model, in all the forms that engines need."""
    turns = [item for item in way if item.sender != "system"]
    system = "".join(f"{item['content']}\n\n" for item in chat if item["role"] == "system")
    text = build_prompt(turns, model, version="0.6", context=system)
    # Without this limit, a text-generation-inference server would stop after a few words.
    limit = {"max_new_tokens": DEFAULT_NEW_TOKENS}
    return GenerationRequest(
        model=model.name,
        prompt=text,
        messages=tuple((item.sender, item.content) for item in turns),
        body={"inputs": text, "parameters": limit, "stream": True},
        chat=chat,
    )


async def _title(call: Call, first: str) -> str:
    """Ask the first model for a title, or use the first words of the message."""
    model = call.service.models[0]
    asked = f"{ENTITLE}{json.dumps(first, ensure_ascii=False)}"
    chat = [{"role": "system", "content": TITLING}, {"role": "user", "content": asked}]
    request = _request(model, [tree.question(asked, (), 0.0)], chat)
    limit = {"max_new_tokens": 24}
    aside = {"inputs": request.prompt, "parameters": limit}
    request = replace(request, parameters=limit, stream=False, body=aside)
    body = {"model": model.name, "messages": chat, "stream": True}
    body |= {"max_tokens": 24, "temperature": 0}
    try:
        text = await call.service.ask_aside(request, call.session, body)
    except (ConnectionError, ValueError):
        text = ""
    return text.strip() or " ".join(first.split()[:5]) or NEW_CHAT


async def stop_soon(call: Call, runs: Sequence[Run], seen: int | None = None) -> None:
    """Stop runs after `Config.stop_poll` seconds, when the service notices the stop."""
    await anyio.sleep(call.service.config.stop_poll)
    for run in runs:
        if run.generating:
            run.stop(seen)
