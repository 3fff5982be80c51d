import inspect
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest
from recorded import everything, scenario

from h2o_client import Conversation, H2oClient
from h2o_client.protocol.address import Address
from h2o_client.protocol.chat_ui_2023.dialect import Dialect2023
from h2o_client.protocol.dialect import Outgoing, Query
from h2o_client.protocol.effects import Request
from h2o_client.protocol.payloads import (
    DEFAULT_PARAMETERS,
    check_parameters,
    merge_parameters,
)
from h2o_client.protocol.requests import Site, encode
from h2o_client.protocol.session import Session

BASE = "http://127.0.0.1:3004"
SESSION = "8f865e55-c1d9-405d-860b-4b2de8fb56a0"
MODEL = "h2oai/h2ogpt-gm-oasst1-en-2048-falcon-40b-v1"
CONVERSATION = "6b007c261090eb6ec94d77d0"


def dialect(
    base_url: str = BASE,
    *,
    headers: dict[str, str] | None = None,
    token: str | None = None,
    session: Session | None = None,
) -> Dialect2023:
    site = Site(
        Address.parse(base_url),
        session or Session(SESSION, new="unused"),
        headers=headers or {},
        token=token,
        user_agent="tests/1",
    )
    return Dialect2023(site)


def outgoing(prompt: str = "x", parameters: Any = None, **options: Any) -> Outgoing:
    given = {"message_id": "m", "response_id": "r", **options}
    return Outgoing(prompt, {} if parameters is None else parameters, **given)


def all_requests(spoken: Dialect2023) -> list[Request]:
    """Return one request of every kind."""
    queries: list[Query[Any]] = [
        spoken.accept_terms(model=MODEL, share=True),
        spoken.create(model=MODEL),
        spoken.create(model=MODEL, from_share="jGfKSwU"),
        spoken.stop(CONVERSATION),
        spoken.delete(CONVERSATION),
        spoken.stored(CONVERSATION),
        spoken.models(),
        spoken.settings(),
        spoken.conversations(0),
        spoken.shared("jGfKSwU"),
        spoken.summarize(CONVERSATION),
        spoken.rename(CONVERSATION, "A title"),
        spoken.share(CONVERSATION),
        spoken.vote(CONVERSATION, "5479bc70-a5ea-4a65-893c-72554bd0cca6", 1),
        spoken.prompt(CONVERSATION, "5479bc70-a5ea-4a65-893c-72554bd0cca6"),
        spoken.delete_all(),
    ]
    return [
        *(query.request for query in queries),
        spoken.message(CONVERSATION, outgoing()),
        spoken.web_search(CONVERSATION, "a&b=ü#?"),
    ]


def headers_of(request: Request) -> dict[str, str]:
    names = [name.lower() for name, _ in request.headers]
    assert len(set(names)) == len(names), "duplicate header"
    return {name.lower(): value for name, value in request.headers}


# The captured chat, request by request.


def captured_message() -> Request:
    message = outgoing(
        "Hello, who are you?",
        merge_parameters({}, None, {}),
        message_id="5479bc70-a5ea-4a65-893c-72554bd0cca6",
        response_id="bb920629-28bc-41ef-b640-3d1d6df8f569",
    )
    return dialect().message(CONVERSATION, message)


def plain(body: bytes | str | None) -> str:
    """Return a body without the white space of JSON, which is not compared; its order is."""
    text = body.decode() if isinstance(body, bytes) else body or ""
    return json.dumps(json.loads(text)) if text.startswith("{") else text


@pytest.mark.parametrize(
    ("index", "request_"),
    [
        (0, dialect().accept_terms(model=MODEL, share=True).request),
        (1, dialect().create(model=MODEL).request),
        (2, captured_message()),
        (3, dialect().delete(CONVERSATION).request),
    ],
    ids=["settings", "create", "message", "delete"],
)
def test_request_matches_the_capture(index: int, request_: Request) -> None:
    exchange = scenario("01_happy_path")[index]
    assert request_.method == exchange.method
    assert request_.url == BASE + exchange.path

    ours = headers_of(request_)
    theirs = {name.lower(): value for name, value in exchange.request_headers}
    for name in ("referer", "content-type", "accept-encoding"):
        assert ours.get(name) == theirs.get(name), name
    assert ours["cookie"] == theirs.get("cookie", f"hf-chat={SESSION}")
    assert ours["accept"].split(",")[0] == "application/json"
    assert ours["user-agent"] == "tests/1"
    assert (request_.content is None) == (exchange.request_body is None)
    assert plain(request_.content) == plain(exchange.request_body)


def test_stop_matches_the_capture() -> None:
    (exchange, *_) = (e for e in everything() if e.path.endswith("/stop-generating"))
    request = dialect().stop(CONVERSATION).request
    assert request.method == exchange.method == "POST"
    assert request.url.endswith(f"/{CONVERSATION}/stop-generating")
    assert request.content is None
    assert not exchange.request_body


def test_message_can_be_a_retry_or_name_a_search() -> None:
    message = outgoing(is_retry=True, web_search_id="s")
    body = dialect().message(CONVERSATION, message).content
    assert json.loads(body or b"")["options"] == {
        "id": "m",
        "response_id": "r",
        "is_retry": True,
        "use_cache": False,
        "web_search_id": "s",
    }


def test_opting_out_of_sharing_omits_the_field() -> None:
    # The text "false" counts as true, and an empty value is a 500 on 0.6 [02b_settings_stored].
    content = dialect().accept_terms(model="a b/ü", share=False).request.content
    assert content is not None
    assert parse_qsl(content.decode(), keep_blank_values=True) == [
        ("ethicsModalAccepted", "true"),
        ("ethicsModalAcceptedAt", ""),
        ("activeModel", "a b/ü"),
        ("searchEnabled", "true"),
    ]


# Parts of every request.


@pytest.mark.parametrize(
    ("base_url", "root", "referer"),
    [
        ("https://host", "https://host", "https://host/"),
        ("https://host/chat/", "https://host/chat", "https://host/chat/"),
        ("https://user:hunter2@host:8443/a/b", "https://host:8443/a/b", "https://host:8443/a/b/"),
    ],
)
def test_requests_are_under_the_base_url_and_have_a_referer(
    base_url: str, root: str, referer: str
) -> None:
    for request in all_requests(dialect(base_url)):
        headers = headers_of(request)
        assert request.url.startswith(root + "/")
        assert headers["referer"] == referer
        assert headers["cookie"] == f"hf-chat={SESSION}"
        assert headers["accept-encoding"] == "identity"
        assert headers["accept"].startswith("application/json")
        assert "hunter2" not in request.url
        assert "hunter2" not in headers["referer"]
        assert (headers.get("authorization") is not None) == ("hunter2" in base_url)


def test_path_segments_are_quoted() -> None:
    spoken = dialect()
    url = spoken.web_search("c", "a&b=ü#?").url
    assert url.removeprefix(BASE) == ("/conversation/c/web-search?prompt=a%26b%3D%C3%BC%23%3F")
    assert (
        spoken.vote("c", "../x?y", 1).request.url
        == f"{BASE}/conversation/c/message/..%2Fx%3Fy/vote"
    )


def test_each_request_uses_the_current_cookie() -> None:
    session = Session(None, SESSION)
    spoken = dialect(session=session)
    assert headers_of(spoken.create(model=MODEL).request)["cookie"] == f"hf-chat={SESSION}"
    session.adopt([f"renamed={SESSION}; HttpOnly"])
    assert headers_of(spoken.create(model=MODEL).request)["cookie"] == f"renamed={SESSION}"


@pytest.mark.parametrize(
    ("base_url", "token", "headers", "authorization"),
    [
        (BASE, None, {}, None),
        (BASE, "t", {}, "Bearer t"),
        ("http://u:p@h", None, {}, "Basic dTpw"),
        ("http://u:p@h", "t", {}, "Basic dTpw"),
        (BASE, "t", {"Authorization": "Own x"}, "Own x"),
        (BASE, None, {"authorization": "Own x"}, "Own x"),
        ("http://u:p@h", "t", {"AUTHORIZATION": "Own x"}, "Own x"),
    ],
)
def test_authorization_precedence_is_header_base_url_token(
    base_url: str, token: str | None, headers: dict[str, str], authorization: str | None
) -> None:
    for request in all_requests(dialect(base_url, token=token, headers=headers)):
        assert headers_of(request).get("authorization") == authorization


def test_custom_headers_are_added_or_replace_ours() -> None:
    given = {"X-Proxy": "1", "user-agent": "mine", "REFERER": "https://elsewhere/"}
    for request in all_requests(dialect(headers=given)):
        headers = headers_of(request)
        assert headers["x-proxy"] == "1"
        assert headers["user-agent"] == "mine"
        assert headers["referer"] == "https://elsewhere/"


def test_custom_cookie_is_added_to_the_session() -> None:
    request = dialect(headers={"cookie": "proxy=1"}).create(model=MODEL).request
    assert headers_of(request)["cookie"] == f"hf-chat={SESSION}; proxy=1"


def test_requests_show_no_session_token_password_or_prompt() -> None:
    spoken = dialect("http://u:hunter2@h", headers={"X-Key": "hunter3", "Cookie": "a=hunter4"})
    requests = [*all_requests(spoken), spoken.message(CONVERSATION, outgoing("hunter5"))]
    shown = repr((spoken, requests, [str(request) for request in requests]))
    assert "hunter" not in shown
    assert SESSION not in shown


# Parameters.


def test_defaults_are_in_the_captured_order() -> None:
    assert list(DEFAULT_PARAMETERS.items()) == [
        ("temperature", 0.4),
        ("truncate", 2048),
        ("max_new_tokens", 1024),
        ("do_sample", True),
        ("repetition_penalty", 1.2),
        ("return_full_text", False),
    ]


def test_parameters_of_the_call_win_and_keep_the_order() -> None:
    merged = merge_parameters(
        {"temperature": 0.1, "truncate": 1, "seed": 1},
        {"truncate": 2, "seed": 2, "top_p": 0.5},
        {"seed": 3, "temperature": None, "stop": ["x"]},
    )
    assert list(merged.items()) == [
        ("temperature", 0.1),
        ("truncate", 2),
        ("seed", 3),
        ("top_p", 0.5),
        ("stop", ["x"]),
    ]
    sent = json.loads(dialect().message("c", outgoing(parameters=merged)).content or b"")[
        "parameters"
    ]
    assert list(sent.items()) == [
        ("temperature", 0.1),
        ("truncate", 2),
        ("max_new_tokens", 1024),
        ("do_sample", True),
        ("repetition_penalty", 1.2),
        ("return_full_text", False),
        ("seed", 3),
        ("top_p", 0.5),
        ("stop", ["x"]),
    ]


def test_none_means_default_as_keyword_and_null_in_a_mapping() -> None:
    keywords: dict[str, Any] = dict.fromkeys([*DEFAULT_PARAMETERS, "details", "seed"])
    assert merge_parameters({}, None, keywords) == {}
    sent = json.loads(dialect().message("c", outgoing()).content or b"")["parameters"]
    assert sent == DEFAULT_PARAMETERS
    assert merge_parameters({}, {"temperature": None}, {})["temperature"] is None


def test_defaults_are_not_changed_by_a_call() -> None:
    before = dict(DEFAULT_PARAMETERS)
    merge_parameters({}, {"temperature": 9}, {"seed": 1})["truncate"] = 0
    assert before == DEFAULT_PARAMETERS


@pytest.mark.parametrize("name", ["foo", "tfs", "guidance_scale", "x" * 100])
def test_unknown_parameter_needs_the_mapping(name: str) -> None:
    with pytest.raises(TypeError, match=re.escape("pass anything else in parameters={…}")):
        merge_parameters({}, None, {name: {"a": [1]}})
    assert merge_parameters({}, {name: {"a": [1]}}, {})[name] == {"a": [1]}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("timeout", "timeouts=30.0"),
        ("timeouts", "timeouts=30.0"),
        ("stream", r"client\.stream"),
        ("api_key", "H2O_CHAT_TOKEN"),
        ("base_url", r"H2oClient\(base_url"),
        ("proxy", "proxy="),
        ("headers", "headers="),
        ("session", "session="),
        ("max_tokens", "max_new_tokens"),
        ("max_completion_tokens", "max_new_tokens"),
        ("max_length", "max_new_tokens"),
        ("stop_sequences", "stop"),
        ("n", "one answer"),
        ("prompt", "first argument"),
        ("system", "role 'system'"),
        ("frequency_penalty", "repetition_penalty"),
        ("presence_penalty", "repetition_penalty"),
        ("stop_sequence", "stop"),
        ("logprobs", r"stream\.events"),
        ("token", "H2O_CHAT_TOKEN"),
        ("verify", "http_client"),
        ("http_client", "http_client="),
        ("share_conversations", "share_conversations="),
        ("keep", r"conversation\(keep="),
        ("id", r"conversation\(id="),
        ("from_share", r"conversation\(from_share="),
        ("model", r"conversation\(model="),
        ("messages", "send"),
        ("message", "messages"),
        ("web_search", "conversation"),
        ("on_web_search", "conversation"),
        ("temprature", "did you mean 'temperature'"),
        ("Temperature", "did you mean 'temperature'"),
        ("max_new_token", "did you mean 'max_new_tokens'"),
        ("maxnewtokens", "did you mean 'max_new_tokens'"),
        ("repetition_penality", "did you mean 'repetition_penalty'"),
        ("do_samples", "did you mean 'do_sample'"),
        ("topk", "did you mean 'top_k'"),
        ("detail", "did you mean 'details'"),
    ],
)
@pytest.mark.parametrize("value", [None, 1])
def test_common_or_misspelt_name_is_a_type_error_with_a_hint(
    name: str, hint: str, value: int | None
) -> None:
    with pytest.raises(TypeError, match=hint) as caught:
        merge_parameters({}, None, {name: value})
    assert repr(name) in str(caught.value)


METHODS: dict[str, Callable[..., object]] = {
    "chat": H2oClient.chat,
    "stream": H2oClient.stream,
    "send": Conversation.send,
    "talk.stream": Conversation.stream,
    "retry": Conversation.retry,
}


def names_of(call: Callable[..., object]) -> set[str]:
    """Return the names in a signature, without those it forwards."""
    parameters = inspect.signature(call).parameters.values()
    return {item.name for item in parameters if item.kind is not item.VAR_KEYWORD} - {"self"}


def our_names() -> set[str]:
    """Return the names of all arguments in this package."""
    calls: list[Callable[..., object]] = [H2oClient, H2oClient.conversation, *METHODS.values()]
    return {name for call in calls for name in names_of(call)}


def elsewhere() -> list[tuple[str, str]]:
    """Yield each method with each argument name of another; `retry()` lists only some."""
    return [
        (method, name)
        for method, call in METHODS.items()
        for name in sorted(our_names() - names_of(call) - set(DEFAULT_PARAMETERS))
    ]


@pytest.mark.parametrize("value", [None, "x"])
@pytest.mark.parametrize(("method", "name"), elsewhere())
def test_argument_of_another_method_is_a_type_error_with_a_hint(
    method: str, name: str, value: str | None
) -> None:
    with H2oClient("http://127.0.0.1:9") as client, client.conversation() as talk:
        first = () if method == "retry" else ("Hi",)
        owner = client if METHODS[method].__qualname__.startswith("H2oClient.") else talk
        call = getattr(owner, method.rpartition(".")[2])
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}': .") as caught:
            call(*first, **{name: value})
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("method", ["chat", "stream"])
@pytest.mark.parametrize("name", sorted(names_of(H2oClient.batch) - names_of(H2oClient.chat)))
def test_batch_argument_is_rejected_by_other_calls(method: str, name: str) -> None:
    with (
        H2oClient("http://127.0.0.1:9", retries=0) as client,
        pytest.raises(TypeError, match=f"unexpected keyword argument '{name}': ."),
    ):
        getattr(client, method)("Hi", **{name: 1})


def test_arguments_of_other_methods_are_collected() -> None:
    found = set(elsewhere())
    assert {("chat", "web_search"), ("send", "model"), ("retry", "message")} <= found
    assert {("stream", "http_client"), ("talk.stream", "from_share")} <= found
    assert not any(name in names_of(METHODS[method]) for method, name in found)


def test_mapping_accepts_any_name() -> None:
    merged = merge_parameters({}, {"temprature": 1, "stream": True}, {})
    assert merged["temprature"] == 1
    assert merged["stream"] is True


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("temperature", "0.4", TypeError),
        ("temperature", True, TypeError),
        ("temperature", float("nan"), ValueError),
        ("temperature", float("inf"), ValueError),
        ("repetition_penalty", [1.2], TypeError),
        ("repetition_penalty", float("-inf"), ValueError),
        ("truncate", 1.5, TypeError),
        ("truncate", False, TypeError),
        ("max_new_tokens", "1024", TypeError),
        ("max_new_tokens", 10.0, TypeError),
        ("do_sample", 1, TypeError),
        ("do_sample", "yes", TypeError),
        ("return_full_text", 0, TypeError),
    ],
)
def test_keyword_of_the_wrong_type_is_rejected(
    name: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=name):
        merge_parameters({}, None, {name: value})


def test_integer_is_accepted_as_a_number() -> None:
    assert merge_parameters({}, None, {"temperature": 1})["temperature"] == 1


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (float("nan"), ValueError),
        ([1, {"a": float("inf")}], ValueError),
        ("\ud800", ValueError),
        ({"\udfff": 1}, ValueError),
        (endless(), ValueError),
        pytest.param(deep(), ValueError, id="deep"),
        pytest.param(10**5000, ValueError, id="huge"),
        (object(), TypeError),
        (b"bytes", TypeError),
        ({1, 2}, TypeError),
        ({(1, 2): 3}, TypeError),
    ],
)
def test_value_outside_json_is_rejected_before_sending(
    value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match="a parameter "):
        check_parameters({"x": value})
    with pytest.raises(error, match="a parameter "):
        merge_parameters({}, {"x": value}, {})
    with pytest.raises(error, match="a parameter "):
        dialect().message(CONVERSATION, outgoing(parameters={"x": value}))


@pytest.mark.parametrize("parameters", [[], "temperature", 7, {1: 2}, {None: 1}, [("a", 1)]])
def test_parameters_must_be_a_mapping_of_names(parameters: object) -> None:
    with pytest.raises(TypeError, match="parameters must be a mapping"):
        check_parameters(parameters)


def test_json_is_compact_utf_8() -> None:
    assert encode({"a": [1, "ü\u2028"], "b": None}) == '{"a":[1,"ü\u2028"],"b":null}'.encode()


def test_prompt_is_sent_verbatim() -> None:
    prompt = ' "quoted"\n\\ \u2028 👋 \x00 '
    body = dialect().message(CONVERSATION, outgoing(prompt)).content
    assert json.loads(body or b"")["inputs"] == prompt
