"""Generation parameters: their defaults, their names, and what is wrong with those given."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from h2o_client.options import OPTION_TYPES, similar_option
from h2o_client.protocol.requests import encode

DEFAULT_PARAMETERS: Mapping[str, Any] = {
    "temperature": 0.4,
    "truncate": 2048,
    "max_new_tokens": 1024,
    "do_sample": True,
    "repetition_penalty": 1.2,
    "return_full_text": False,
}

_HINTS = {
    "timeout": "time limits are the client's: H2oClient(timeouts=30.0)",
    "timeouts": "time limits are the client's: H2oClient(timeouts=30.0)",
    "stream": "use client.stream(messages) instead of client.chat(messages)",
    "api_key": "set the environment's H2O_CHAT_TOKEN, or H2oClient(headers={'Authorization': …})",
    "base_url": "the base URL is the client's: H2oClient(base_url)",
    "proxy": "the proxy is the client's: H2oClient(proxy=…)",
    "transport": "the transport is the client's: H2oClient(transport=…)",
    "headers": "headers are the client's: H2oClient(headers={…})",
    "session": "the session is the client's: H2oClient(session=…)",
    "verify": "TLS is the http_client's: H2oClient(http_client=httpx.Client(verify=…))",
    "token": "set the environment's H2O_CHAT_TOKEN, or H2oClient(headers={'Authorization': …})",
    "http_client": "the HTTP client is the client's: H2oClient(http_client=…)",
    "share_conversations": "sharing is the client's: H2oClient(share_conversations=…)",
    "keep": "a conversation is kept, not a message: client.conversation(keep=…)",
    "id": "a conversation is resumed with client.conversation(id=…)",
    "from_share": "a shared conversation is copied with client.conversation(from_share=…)",
    "model": "a conversation has its model: client.conversation(model=…)",
    "messages": "a conversation remembers: send() takes the new message as text",
    "message": "chat() and stream() take `messages`, send() of a conversation its message, first",
    "web_search": "send() and stream() of a conversation search the web",
    "on_web_search": "send() and stream() of a conversation search the web",
    "prompts": "client.batch(prompts) asks many",
    "concurrency": "client.batch(prompts, concurrency=…) asks many at a time",
    "limit_wait": "client.batch(prompts, limit_wait=…) waits for the service's limit",
    "saved": "client.conversation_from(saved) resumes a saved conversation",
    "share": "client.shared(share) reads a shared conversation",
    "title": "a conversation has a title: conversation.rename(title)",
    "message_id": "vote(message_id, score) and prompt(message_id) of a conversation take it",
    "score": "vote(message_id, score) of a conversation takes it",
    "logprobs": "stream.events() gives each token with its logprob",
    "stop_sequence": "it is called stop here",
    "max_tokens": "it is called max_new_tokens here",
    "max_completion_tokens": "it is called max_new_tokens here",
    "max_length": "it is called max_new_tokens here",
    "stop_sequences": "it is called stop here",
    "n": "the service gives one answer a call",
    "prompt": "the prompt is the first argument: client.chat('…')",
    "system": "give a message with the role 'system'",
    "frequency_penalty": "the service knows repetition_penalty",
    "presence_penalty": "the service knows repetition_penalty",
}


def merge_parameters(
    client: Mapping[str, Any], call: Mapping[str, Any] | None, keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """Join the parameters of the client, the call's mapping and the call's keywords.

    A keyword that is None does not count. What stands in a mapping is passed on as given.

    Raises:
        TypeError: a keyword is not one of `GenerationOptions`, or of the wrong type.
        ValueError: a parameter is not finite.
    """
    merged = dict(client)
    if call is not None:
        merged.update(check_parameters(call))
    for name, value in keywords.items():
        _check_keyword(name, value)
        if value is not None:
            merged[name] = value
    return merged


def check_flag(name: str, value: object) -> bool:
    """Return a flag if it is one.

    Raises:
        TypeError: it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is True or False, not {value!r}")
    return value


def check_model(model: object) -> str:
    """Return the name of a model if it can be one.

    Raises:
        TypeError: it is not text.
        ValueError: it is blank.
    """
    if not isinstance(model, str):
        raise TypeError(f"model is text, not {type(model).__name__}")
    if not model.strip():
        raise ValueError("model is blank")
    return model


def check_parameters(parameters: object) -> dict[str, Any]:
    """Return a mapping of parameters if it can be sent.

    Raises:
        TypeError: it is not a mapping of names to what JSON can say.
        ValueError: a value is not finite.
    """
    if not isinstance(parameters, Mapping) or not all(isinstance(key, str) for key in parameters):
        raise TypeError("parameters is a mapping of names to values")
    plain = dict(parameters)
    encode(plain)
    return plain


def _check_keyword(name: str, value: object) -> None:
    if name in _HINTS:
        raise TypeError(f"there is no argument {name!r}: {_HINTS[name]}")
    if name not in OPTION_TYPES:
        similar = similar_option(name)
        hint = "" if similar is None else f"did you mean {similar!r}? "
        raise TypeError(
            f"there is no argument {name!r}: {hint}anything else goes in parameters={{…}}"
        )
    if value is None:
        return
    kind = OPTION_TYPES[name]
    expected, words = _KINDS[kind]
    if (
        not isinstance(value, expected)
        or (isinstance(value, bool) and kind is not bool)
        or (isinstance(value, Sequence) and not _are_texts(value))
    ):
        raise TypeError(f"{name} is {words}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")


def _are_texts(values: Sequence[object]) -> bool:
    return not isinstance(values, str) and all(isinstance(value, str) for value in values)


_KINDS: Mapping[object, tuple[Any, str]] = {
    float: (int | float, "a number"),
    int: (int, "a whole number"),
    bool: (bool, "True or False"),
    Sequence[str]: (Sequence, "a list of texts"),
}
