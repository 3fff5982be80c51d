"""The face of OpenAI's API: its routes, access check and errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import unquote
from uuid import uuid4

from h2o_client.emulator.call import Call
from h2o_client.emulator.face import Face
from h2o_client.emulator.openai_api.completion import Completion, error_object
from h2o_client.emulator.openai_api.request import ApiError, read
from h2o_client.emulator.routing import Route, find
from h2o_client.emulator.web import Answered, Request, Response, Stream, reason_phrase

STREAMED = [("cache-control", "no-cache"), ("content-type", "text/event-stream; charset=utf-8")]
SENT_ONCE = frozenset({429, 502, 504})
"""Statuses after which a retry is pointless, or could produce a second answer."""
KEY = "This is not the key that the server was given"
logger = logging.getLogger(__name__)


async def _models(call: Call) -> Response:
    found = [_model(item.name) for item in call.service.models]
    return _json(200, {"object": "list", "data": found})


async def _one_model(call: Call) -> Response:
    name = unquote(call.ids[0])
    if call.service.model(name) is None:
        raise ApiError(404, f"The model {name!r} does not exist", "model", "model_not_found")
    return _json(200, _model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "h2o_client"}


async def _complete(call: Call) -> Answered:
    if call.request.media_type != "application/json":  # any web page can send a form
        raise ApiError(415, "the body must be JSON: send Content-Type: application/json")
    try:
        fields: object = call.request.json()
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body must be a JSON object")
    service = call.service
    asked = read(service, cast("dict[str, Any]", fields))
    id_ = f"chatcmpl-{uuid4().hex}"
    job = service.job(asked.request, "", id_)
    completion = Completion(id_, asked, job, service.store.clock())
    service.start(completion)
    try:
        await completion.ready()
    except BaseException:  # including cancellation, when the client has left
        completion.leave()
        raise
    if completion.refused:
        return None
    if asked.streamed:
        return Stream(200, [*STREAMED], completion.feed, completion.leave)
    return _json(200, completion.whole())


class OpenAIFace(Face):
    """Answers requests as a server with OpenAI's API does."""

    versions = ("v1",)
    max_body = 15 * 1024 * 1024
    stop_lifetime = 0.0
    sweeps = False
    routes = (
        Route("models", "/v1/models", {"GET": _models}),
        Route("models", "/v1/models/(.+)", {"GET": _one_model}),
        Route("message", "/v1/chat/completions", {"POST": _complete}),
    )

    async def handle(self, request: Request) -> Answered:
        """Answer one request."""
        refused = self.refuse_stranger(request)
        if refused is not None:
            return refused
        try:
            return await self._answer(request)
        except ApiError as error:
            answer = _json(error.status, error_object(error))
            answer.headers += error.headers
            if error.status in SENT_ONCE:  # otherwise OpenAI's clients retry within a second
                answer.headers.append(("x-should-retry", "false"))
            return answer
        except Exception:  # one request must not bring down the server
            logger.exception("emulator: %s %s failed", request.method, request.path)
            return self.usual(request, 500)

    async def _answer(self, request: Request) -> Answered:
        found = find(self.routes, request.path, self._config.base_path)
        if found.route is None:
            raise ApiError(404, f"Unknown request URL: {request.method} {request.path}")
        handler = found.route.endpoint.get(request.method)
        if handler is None:
            raise ApiError(405, f"Not allowed to {request.method} on {request.path}")
        return await handler(Call(self._service, request, "", found.path, found.ids))

    def usual(self, request: Request, status: int) -> Response:  # noqa: ARG002 -- the interface
        """The default response for a status."""
        text, code = (KEY, "invalid_api_key") if status == 401 else (reason_phrase(status), "")
        return _json(status, error_object(ApiError(status, text, code=code)))


def _json(status: int, value: Mapping[str, Any]) -> Response:
    body = json.dumps(value).encode()
    headers = [("content-length", str(len(body))), ("content-type", "application/json")]
    return Response(status, headers, body)
