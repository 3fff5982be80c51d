"""The generation options of a call: their names, types and meaning, defined once."""

import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypedDict

P = ParamSpec("P")


class GenerationOptions(TypedDict, total=False):
    """How the model generates an answer: keyword arguments of `chat()`, `send()` and similar calls.

    An option that is omitted or None takes the client's value (`H2oClient(parameters={…})`), or
    else the service's default. Parameters that are not listed here go in `parameters={…}`.

    Attributes:
        temperature: how random the choice of tokens is (default 0.4).
        truncate: how many tokens of the prompt are kept, counted from its end (default 2048).
        max_new_tokens: the maximum length of the answer, in tokens (default 1024).
        do_sample: whether to sample tokens, or always choose the likeliest one (default True).
        repetition_penalty: a value above 1 makes repetition less likely (default 1.2).
        return_full_text: whether the model server repeats the prompt (default False).
        top_p: sample from the likeliest tokens whose probabilities add up to this, 0 to 1.
        top_k: sample from this many of the likeliest tokens.
        typical_p: sample from the most typical tokens up to this total probability, 0 to 1.
        seed: the seed of the random generator, which makes sampling repeatable.
        stop: texts that end the answer as soon as one is generated.
        watermark: whether the model server watermarks the answer.
        details: whether to request details of the generation from the model server.
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
"""The type of each option, apart from None."""

# Names that are not generation options, and what to use instead. A file, a command line or
# `parameters={…}` may use a parameter that only the server knows, but not one of these names.
_ARGUMENTS = {
    "timeout": "set time limits on the client: H2oClient(timeouts=30.0)",
    "timeouts": "set time limits on the client: H2oClient(timeouts=30.0)",
    "stream": "use client.stream(messages) instead of client.chat(messages)",
    "api_key": "set H2O_CHAT_TOKEN in the environment, or H2oClient(headers={'Authorization': …})",
    "base_url": "set the base URL on the client: H2oClient(base_url)",
    "proxy": "set the proxy on the client: H2oClient(proxy=…)",
    "transport": "choose the transport on the client: H2oClient(transport=…)",
    "headers": "set headers on the client: H2oClient(headers={…})",
    "session": "set the session on the client: H2oClient(session=…)",
    "max_retries": "set retries on the client: H2oClient(retries=3)",
    "cookies": "set the value of the session's cookie on the client: H2oClient(session=…)",
    "verify": "set SSL_CERT_FILE to a private CA, or pass an httpx client as http_client",
    "token": "set H2O_CHAT_TOKEN in the environment, or H2oClient(headers={'Authorization': …})",
    "http_client": "pass your own HTTP client to the client: H2oClient(http_client=…)",
    "dialect": "set the kind of server on the client: H2oClient(dialect=…)",
    "cookie_name": "set the cookie's name on the client: H2oClient(cookie_name=…)",
    "files": "only chat(), stream() and send() take files",
    "parent": "only send() and stream() of a conversation take a parent",
    "share_conversations": "choose sharing on the client: H2oClient(share_conversations=…)",
    "keep": "only conversations can be kept: client.conversation(keep=…)",
    "id": "resume a conversation with client.conversation(id=…)",
    "from_share": "copy a shared conversation with client.conversation(from_share=…)",
    "model": "choose the model when you start the conversation: client.conversation(model=…)",
    "messages": "the server keeps the history: pass only the new message to send(), as text",
    "message": "pass it as the first argument: chat(messages), stream(messages), send(message)",
    "web_search": "only send() and stream() of a conversation can search the web",
    "on_web_search": "only send() and stream() of a conversation can search the web",
    "prompts": "use client.batch(prompts) for several prompts",
    "concurrency": "use client.batch(prompts, concurrency=…) to send several prompts at a time",
    "limit_wait": "use client.batch(prompts, limit_wait=…) to wait for the service's rate limit",
    "saved": "use client.conversation_from(saved) to resume a saved conversation",
    "share": "use client.shared(share) to read a shared conversation",
    "title": "use conversation.rename(title)",
    "message_id": "pass it to vote(message_id, score) or prompt(message_id) of a conversation",
    "score": "pass it to vote(message_id, score) of a conversation",
    "prompt": "pass the prompt as the first argument: client.chat('…')",
    "system": "add a message with the role 'system'",
    "parameters": "pass each parameter by its own name",
    "recover": "pass it as an argument of the call, or of batch() for all its prompts",
    "retries": "pass it as an argument of the call, or of batch() for all its prompts",
}
OTHER_NAMES: Mapping[str, str] = {
    "max_completion_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "stop_sequence": "stop",
    "stop_sequences": "stop",
    "frequency_penalty": "repetition_penalty",
    "presence_penalty": "repetition_penalty",
}
"""The option to use instead of an option of other services."""

HINTS: Mapping[str, str] = {
    **_ARGUMENTS,
    **{name: f"use {option} instead" for name, option in OTHER_NAMES.items()},
    "logprobs": "stream.events() gives each token with its logprob",
    "n": "the service gives one answer per call",
}
"""Names that callers use by mistake, and what to use instead."""


def with_hints(init: Callable[P, None]) -> Callable[P, None]:
    """Make a client's constructor suggest a replacement for an unknown keyword argument."""
    known = [name for name in inspect.signature(init).parameters if name != "self"]

    @functools.wraps(init)
    def checked(*args: P.args, **keywords: P.kwargs) -> None:
        for name in keywords:
            if name not in known:
                raise TypeError(
                    f"unexpected keyword argument {name!r}{_constructor_hint(name, known)}"
                )
        init(*args, **keywords)

    return checked


def _constructor_hint(name: str, known: Sequence[str]) -> str:
    if name in HINTS:
        return f": {HINTS[name]}"
    if name in OPTION_TYPES:
        return f": set it for all calls with H2oClient(parameters={{{name!r}: …}}), or in a call"
    similar = _most_similar(name, known)
    return "" if similar is None else f": did you mean {similar!r}?"


def _most_similar(name: str, known: Iterable[str]) -> str | None:
    import difflib  # rarely needed, and slow to import

    return next(iter(difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.75)), None)


def similar_option(name: str) -> str | None:
    """Return the option most similar to a misspelt name, or None."""
    return _most_similar(name, OPTION_TYPES)


def as_arguments(
    given: Mapping[str, Any], parameters: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Turn parameters given by name, for example in a file, into the arguments of a call.

    Options become keyword arguments, which the call checks, and so do misspelt options, which the
    call rejects with a hint. All others go in `parameters`.

    Args:
        given: names and values.
        parameters: more entries for `parameters`.

    Raises:
        TypeError: a name is that of another argument of the call or client.
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
    """Split NAME=VALUE into name and value; the value is parsed as JSON, or else taken as text.

    Raises:
        ValueError: the text is not of that form.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"expected NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
