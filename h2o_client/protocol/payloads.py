"""Arguments -> requests.

Every request carries the referer of the service's own page (form posts are refused without it
[02_settings_variants]), the session's cookie, and `Accept` with JSON first: of that header only
the first entry counts, and with `text/html` there an answer becomes a page [22_accept_matrix].
Compression is declined: the service uses none, and a small body could unpack to a huge one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from h2o_client.options import OPTION_TYPES, similar_option
from h2o_client.protocol.address import Address
from h2o_client.protocol.effects import Request
from h2o_client.protocol.session import Session

ACCEPT = "application/json, text/event-stream"
_FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"

DEFAULT_PARAMETERS: Mapping[str, Any] = {
    "temperature": 0.4,
    "truncate": 2048,
    "max_new_tokens": 1024,
    "do_sample": True,
    "repetition_penalty": 1.2,
    "return_full_text": False,
}

_HABITS = {
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
    "title": "a conversation has a title: talk.rename(title)",
    "message_id": "talk.vote(message_id, score) and talk.prompt(message_id) take it",
    "score": "talk.vote(message_id, score) takes it",
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


class Endpoints:
    """Builds the requests of one client.

    Args:
        address: where the service is.
        session: the session; its cookie is read anew for each request.
        headers: more headers, or other values, for each request.
        token: a bearer token, or None. User and password of the base URL go before it, an
            `Authorization` in `headers` before both.
        user_agent: what the client calls itself.
    """

    def __init__(
        self,
        address: Address,
        session: Session,
        *,
        headers: Mapping[str, str],
        token: str | None,
        user_agent: str,
    ) -> None:
        self.address = address
        self._session = session
        common = {
            "Accept": ACCEPT,
            "Accept-Encoding": "identity",
            "User-Agent": user_agent,
            "Referer": address.referer,
        }
        if address.authorization is not None:
            common["Authorization"] = address.authorization
        elif token is not None:
            common["Authorization"] = f"Bearer {token}"
        given = {name.lower() for name in headers}
        kept = [(name, value) for name, value in common.items() if name.lower() not in given]
        self._cookies = [value for name, value in headers.items() if name.lower() == "cookie"]
        self._headers = (
            *kept,
            *((name, value) for name, value in headers.items() if name.lower() != "cookie"),
        )

    def settings(self, *, model: str, share: bool) -> Request:
        """`POST /settings`: accept the terms, choose the model [01_happy_path].

        The server reads any value of the sharing field but an empty one as "yes", the text
        `false` too; to opt out on every version, the field is left out [02b_settings_stored].
        """
        fields = {
            "ethicsModalAccepted": "true",
            "shareConversationsWithModelAuthors": "true",
            "ethicsModalAcceptedAt": "",
            "activeModel": model,
            "searchEnabled": "true",
        }
        if not share:
            del fields["shareConversationsWithModelAuthors"]
        return self._request("settings", "POST", "/settings", urlencode(fields).encode(), _FORM)

    def create(self, *, model: str) -> Request:
        """`POST /conversation` [03_create_conversation]."""
        return self._request("create", "POST", "/conversation", encode({"model": model}), _JSON)

    def message(self, conversation: str, body: bytes) -> Request:
        """`POST /conversation/{id}` with a body of `message_body()`."""
        return self._request("message", "POST", f"/conversation/{conversation}", body, _JSON)

    def stop(self, conversation: str) -> Request:
        """`POST /conversation/{id}/stop-generating`, without a body [11_stop_generating]."""
        return self._request("stop", "POST", f"/conversation/{conversation}/stop-generating")

    def delete(self, conversation: str) -> Request:
        """`DELETE /conversation/{id}` [15_delete]."""
        return self._request("delete", "DELETE", f"/conversation/{conversation}")

    def copy_share(self, share: str, *, model: str) -> Request:
        """`POST /conversation` with `fromShare`: a copy of a shared conversation [10_share]."""
        content = encode({"fromShare": share, "model": model})
        return self._request("create", "POST", "/conversation", content, _JSON)

    def data(self, conversation: str) -> Request:
        """`GET /conversation/{id}/__data.json` [13_data_json]."""
        return self._request("data", "GET", f"/conversation/{conversation}/__data.json")

    def root(self) -> Request:
        """`GET /__data.json`: models, settings, conversations [13_data_json]."""
        return self._request("root", "GET", "/__data.json")

    def shared(self, share: str) -> Request:
        """`GET /r/{id}/__data.json`: a shared conversation [10_share]."""
        return self._request("shared", "GET", f"/r/{share}/__data.json")

    def summarize(self, conversation: str) -> Request:
        """`POST /conversation/{id}/summarize`, without a body [09_summarize_and_title]."""
        return self._request("summarize", "POST", f"/conversation/{conversation}/summarize")

    def rename(self, conversation: str, title: str) -> Request:
        """`PATCH /conversation/{id}` [09_summarize_and_title]."""
        content = encode({"title": title})
        return self._request("rename", "PATCH", f"/conversation/{conversation}", content, _JSON)

    def share(self, conversation: str) -> Request:
        """`POST /conversation/{id}/share`, without a body [10_share]."""
        return self._request("share", "POST", f"/conversation/{conversation}/share")

    def vote(self, conversation: str, message: str, score: int) -> Request:
        """`POST /conversation/{id}/message/{id}/vote` [12_vote_and_prompt]."""
        path = f"/conversation/{conversation}/message/{quote(message, safe='')}/vote"
        return self._request("vote", "POST", path, encode({"score": score}), _JSON)

    def prompt(self, conversation: str, message: str) -> Request:
        """`GET /conversation/{id}/message/{id}/prompt` [12_vote_and_prompt]."""
        path = f"/conversation/{conversation}/message/{quote(message, safe='')}/prompt"
        return self._request("prompt", "GET", path)

    def web_search(self, conversation: str, prompt: str) -> Request:
        """`GET /conversation/{id}/web-search?prompt=…` [16_web_search]."""
        path = f"/conversation/{conversation}/web-search?{urlencode({'prompt': prompt})}"
        return self._request("search", "GET", path)

    def delete_all(self) -> Request:
        """`POST /conversations?/delete`, an empty form [14_delete_all]."""
        return self._request("delete_all", "POST", "/conversations?/delete", b"", _FORM)

    def _request(
        self,
        operation: str,
        method: str,
        path: str,
        content: bytes | None = None,
        content_type: str | None = None,
    ) -> Request:
        headers = list(self._headers)
        headers.append(("Cookie", "; ".join([self._session.cookie, *self._cookies])))
        if content_type is not None:
            headers.append(("Content-Type", content_type))
        return Request(method, self.address.url + path, tuple(headers), content, operation)


def message_body(
    prompt: str,
    parameters: Mapping[str, Any],
    *,
    message_id: str,
    response_id: str,
    is_retry: bool = False,
    web_search_id: str = "",
) -> bytes:
    """Build the body of a message request [01_happy_path].

    Args:
        prompt: the prompt.
        parameters: all generation parameters, defaults included.
        message_id: a UUID4, the user's message.
        response_id: a UUID4, the answer.
        is_retry: True replaces the message of this id, and all that followed it
            [07_two_turns_and_retry].
        web_search_id: the web search that the answer shall rest on, or "".

    Raises:
        TypeError: a parameter is nothing that JSON can say.
        ValueError: a parameter is not finite, or holds text that is not UTF-8.
    """
    return encode(
        {
            "inputs": prompt,
            "parameters": parameters,
            "stream": True,
            "options": {
                "id": message_id,
                "response_id": response_id,
                "is_retry": is_retry,
                "use_cache": False,
                "web_search_id": web_search_id,
            },
        }
    )


def merge_parameters(
    client: Mapping[str, Any], call: Mapping[str, Any] | None, keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """Join the service's defaults, the client's, the call's mapping and the call's keywords.

    A keyword that is None does not count. What stands in a mapping is passed on as given.

    Raises:
        TypeError: a keyword is not one of `GenerationOptions`, or of the wrong type.
        ValueError: a parameter is not finite.
    """
    merged = {**DEFAULT_PARAMETERS, **client}
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
        TypeError: it is no text.
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
        TypeError: it is no mapping of names to what JSON can say.
        ValueError: a value is not finite.
    """
    if not isinstance(parameters, Mapping) or not all(isinstance(key, str) for key in parameters):
        raise TypeError("parameters is a mapping of names to values")
    plain = dict(parameters)
    encode(plain)
    return plain


def encode(value: object) -> bytes:
    """Write JSON as the requests carry it.

    Raises:
        TypeError: the value, or something in it, is nothing that JSON can say.
        ValueError: a number in it is not finite, it holds itself, or text in it is not UTF-8.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise type(error)(f"a parameter cannot be sent as JSON: {error}") from None
    except RecursionError:
        raise ValueError("a parameter is nested too deeply to be sent as JSON") from None
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("a parameter holds half of a surrogate pair, no character") from None


def _check_keyword(name: str, value: object) -> None:
    if name in _HABITS:
        raise TypeError(f"there is no argument {name!r}: {_HABITS[name]}")
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
