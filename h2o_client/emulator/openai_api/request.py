"""Converts the request for a chat completion to a request for an engine.

An unsupported field is rejected with an error that names it. Fields that do not change the answer,
such as `user` or `metadata`, are ignored; so is `stream_options`, because chat-ui servers do not
count the prompt's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from h2o_client.emulator.engine import GenerationRequest
from h2o_client.emulator.prompt import build_prompt
from h2o_client.emulator.service import Service
from h2o_client.emulator.store import Message

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
PARAMETERS = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "stop": "stop",
    "top_k": "top_k",
    "typical_p": "typical_p",
    "repetition_penalty": "repetition_penalty",
}
"""The parameters of OpenAI and of compatible servers, and their names in this package."""

UNSUPPORTED: Mapping[str, Sequence[Any]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
"""Unsupported fields that would change the answer, with the values that do not change it."""


class ApiError(Exception):
    """The request cannot be answered.

    Args:
        status: The status.
        message: The error message.
        param: The invalid field of the request.
        code: OpenAI's error code.
        headers: More headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str = "",
        code: str = "",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Asked:
    """One chat completion.

    Attributes:
        request: The request to the engine.
        stops: Texts that end the answer, and are not part of it.
        streamed: Whether to stream the answer.
    """

    request: GenerationRequest
    stops: Sequence[str]
    streamed: bool


def read(service: Service, fields: Mapping[str, Any]) -> Asked:
    """Read the body of a request.

    Raises:
        ApiError: The request is invalid, or needs something unsupported.
    """
    name = fields.get("model")
    model = service.model(name) if isinstance(name, str) else None
    if model is None:
        known = ", ".join(item.name for item in service.models)
        if name is None:
            text = f"model is missing; the models are: {known}"
            raise ApiError(400, text, "model", "missing_required_parameter")
        text = f"The model {name!r} does not exist; the models are: {known}"
        raise ApiError(404, text, "model", "model_not_found")
    for field, harmless in UNSUPPORTED.items():
        if fields.get(field) is not None and fields[field] not in harmless:
            raise ApiError(400, f"{field} is not supported", field, "unsupported_parameter")
    parameters = _parameters(fields)
    chat = _messages(fields.get("messages"))
    context = "".join(f"{item['content']}\n\n" for item in chat if item["role"] == "system")
    turns = [
        Message("", item["role"], item["content"], None, 0.0)
        for item in chat
        if item["role"] != "system"
    ]
    prompt = build_prompt(turns, model, version="0.6", context=context)
    request = GenerationRequest(
        model=model.name,
        prompt=prompt,
        parameters=parameters,
        messages=tuple((turn.sender, turn.content) for turn in turns),
        body={"inputs": prompt, "parameters": parameters, "stream": True},
        chat=chat,
    )
    stops = [text for text in parameters.get("stop", ()) if text]
    return Asked(request, stops, bool(fields.get("stream")))


def _parameters(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The generation parameters, and `details`, which request the finish reason."""
    given = {
        ours: fields[theirs]
        for theirs, ours in PARAMETERS.items()
        if fields.get(theirs) is not None
    }
    stop = given.get("stop")
    if isinstance(stop, str):
        given["stop"] = [stop]
    elif stop is not None and not (
        isinstance(stop, list) and all(isinstance(text, str) for text in stop)
    ):
        raise ApiError(400, "stop must be a string or a list of strings", "stop")
    # Model servers reject these values, which mean the same as omitting the parameter.
    given["do_sample"] = given.get("temperature") != 0
    if not given["do_sample"]:
        del given["temperature"]
    if given.get("top_p") == 1:
        del given["top_p"]
    return {**given, "details": True}


def _messages(value: object) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise ApiError(400, "messages must be a list of at least one message", "messages")
    return [
        _message(item, f"messages[{number}]")
        for number, item in enumerate(cast("list[object]", value))
    ]


def _message(value: object, where: str) -> dict[str, str]:
    fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    role = fields.get("role")
    if not isinstance(role, str) or role not in ROLES:
        text = f"{where}.role must be one of {', '.join(ROLES)}"
        if role is not None:
            text += f", not {role!r}"
        raise ApiError(400, text, f"{where}.role", "unsupported_value")
    content: Any = fields.get("content")
    if content is None and role == "assistant":
        content = ""
    if isinstance(content, list) and all(_is_text(part) for part in content):
        content = "\n".join(part["text"] for part in content)
    if not isinstance(content, str):
        text = f"{where}.content must be a string or a list of parts of type 'text'"
        raise ApiError(400, text, f"{where}.content", "unsupported_value")
    return {"role": ROLES[role], "content": content}


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)
