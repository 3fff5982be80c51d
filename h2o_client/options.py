"""The generation options of a call, written down once: their names, types and meaning."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class GenerationOptions(TypedDict, total=False):
    """How the model generates an answer: keyword arguments of `chat()`, `send()` and the like.

    What is left out, or None, has the client's value (`H2oClient(parameters={…})`), or else the
    service's default. Parameters that are not listed here go in `parameters={…}`.

    Attributes:
        temperature: randomness of the choice of tokens; the service's default is 0.4.
        truncate: how many tokens of the prompt count, the last ones; 2048.
        max_new_tokens: the longest answer, in tokens; 1024.
        do_sample: whether tokens are sampled; False always takes the likeliest one. True.
        repetition_penalty: a value above 1 makes repetition less likely; 1.2.
        return_full_text: asks the model server to repeat the prompt; False.
        top_p: samples from the likeliest tokens whose probabilities add up to this, 0 to 1.
        top_k: samples from this many of the likeliest tokens.
        typical_p: samples from the most typical tokens up to this probability, 0 to 1.
        seed: makes sampling repeatable.
        stop: texts that end the answer where they are generated.
        watermark: asks the model server to watermark the answer.
        details: asks the model server for details of the generation.
    """

    temperature: float | None
    truncate: int | None
    max_new_tokens: int | None
    do_sample: bool | None
    repetition_penalty: float | None
    return_full_text: bool | None
    top_p: float | None
    top_k: int | None
    typical_p: float | None
    seed: int | None
    stop: Sequence[str] | None
    watermark: bool | None
    details: bool | None


OPTION_TYPES: Mapping[str, Any] = {
    name: annotation.__args__[0] for name, annotation in GenerationOptions.__annotations__.items()
}
"""The type of each option, None aside."""

# What is not a generation option by its name, and what to use instead. A file, a command line or
# `parameters={…}` may name a parameter that only the server knows, but no argument of a call.
_ARGUMENTS = {
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
    "dialect": "the kind of server is the client's: H2oClient(dialect=…)",
    "cookie_name": "the cookie's name is the client's: H2oClient(cookie_name=…)",
    "files": "chat(), stream() and send() take files",
    "parent": "send() and stream() of a conversation take the parent",
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
    "prompt": "the prompt is the first argument: client.chat('…')",
    "system": "give a message with the role 'system'",
    "parameters": "each parameter is given by its own name",
    "recover": "it is an argument of the call, and so of all prompts of a batch",
    "retries": "it is an argument of the call, and so of all prompts of a batch",
}
HINTS: Mapping[str, str] = {
    **_ARGUMENTS,
    "logprobs": "stream.events() gives each token with its logprob",
    "stop_sequence": "it is called stop here",
    "max_tokens": "it is called max_new_tokens here",
    "max_completion_tokens": "it is called max_new_tokens here",
    "max_length": "it is called max_new_tokens here",
    "stop_sequences": "it is called stop here",
    "n": "the service gives one answer a call",
    "frequency_penalty": "the service knows repetition_penalty",
    "presence_penalty": "the service knows repetition_penalty",
}
"""Names that are used by mistake, and what to use instead."""


def similar_option(name: str) -> str | None:
    """Return the option that a misspelt name is meant for, if one is similar."""
    import difflib  # needed once in a while, and all would wait for it

    return next(iter(difflib.get_close_matches(name.lower(), OPTION_TYPES, n=1, cutoff=0.75)), None)


def as_arguments(
    given: Mapping[str, Any], parameters: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the arguments of a call for parameters that were given by name, in a file perhaps.

    Options are given as such, and checked by the call; so are names that are similar to an option,
    which the call rejects with a hint. All others go in `parameters`.

    Args:
        given: names and values.
        parameters: what else goes in `parameters`.

    Raises:
        TypeError: a name is that of another argument.
    """
    for name in given:
        if name in _ARGUMENTS:
            raise TypeError(f"{name!r} is not a generation parameter: {_ARGUMENTS[name]}")
    others = {
        name: value
        for name, value in given.items()
        if name not in OPTION_TYPES and similar_option(str(name)) is None
    }
    options = {name: value for name, value in given.items() if name not in others}
    if others:
        options["parameters"] = {**(parameters or {}), **others}
    return options


def read_parameter(text: str) -> tuple[str, Any]:
    """Return name and value of a parameter written as NAME=VALUE; a value is JSON, or else text.

    Raises:
        ValueError: it is not written so.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
