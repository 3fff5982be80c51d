"""Detecting a server's dialect, and the requests that this takes."""

import json
from typing import Any

import pytest
from recorded import named, scenario
from tree import TreeWorld
from world import Answer, Player, World, chat_of, lost, message_of, says, talk_of

from h2o_client.errors import (
    H2oError,
    LoginRequiredError,
    RateLimitError,
    ServerError,
    StatusError,
    TransportError,
    UnsupportedError,
    UnsupportedServerError,
)
from h2o_client.protocol import queries
from h2o_client.protocol.effects import CallerStoppedError
from h2o_client.types import DEFAULT_MODEL

MAIN = "chat-ui-main-2026-08"


def unknown(**options: Any) -> TreeWorld:
    """Return the world of a 2025 server that its client has not detected yet."""
    return TreeWorld(**{"dialect": None, "model": None, "session": None, **options})


def ask(world: World, prompt: str = "Hi") -> list[str]:
    """Play a chat; return the operations."""
    return world.asked_by(chat_of(world, prompt).run())


def test_detecting_2023_needs_no_extra_request() -> None:
    world = World(session=None)
    assert ask(world) == ["settings", "create", "message", "delete"]
    assert ask(world) == ["create", "message", "delete"]
    assert (world.exchange.dialect.name, world.exchange.recognised) == ("chat-ui-2023", True)


def test_resumed_2023_session_needs_no_extra_request() -> None:
    world = World()
    assert ask(world) == ["create", "message", "delete"]
    assert world.exchange.recognised


def test_detecting_2025_needs_two_extra_requests_once() -> None:
    world = unknown()
    assert ask(world) == ["settings", "models", "create", "message", "delete"]
    assert ask(world) == ["create", "message", "delete"]
    assert (world.exchange.dialect.name, world.exchange.recognised) == ("chat-ui-2025", True)
    assert world.exchange.model == "first"
    assert world.bodies("create")[0] == {"model": "first"}


def test_explicit_dialect_needs_no_extra_request() -> None:
    world = TreeWorld(session=None)
    assert ask(world) == ["create", "message", "delete"]


def test_default_model_is_the_first_of_the_list() -> None:
    world = TreeWorld(session=None, model=None)
    assert ask(world) == ["models", "create", "message", "delete"]
    assert ask(world) == ["create", "message", "delete"]
    assert world.exchange.model == "first"


def test_removed_default_model_is_replaced() -> None:
    world = TreeWorld(session=None, model=None)
    ask(world)
    world.script["create"] = iter([says({"message": "Invalid request"}, 400)])
    world.script["models"] = iter([says({"json": [{"id": "second", "name": "second"}]})])
    before = len(world.requests)
    assert world.play(chat_of(world).run()).model == "second"
    assert world.operations[before:] == ["create", "models", "create", "message", "delete"]
    assert [body["model"] for body in world.bodies("create")] == ["first", "first", "second"]


@pytest.mark.parametrize("named", ["m", None])
def test_unknown_model_is_not_replaced(named: str | None) -> None:
    """Not for a model that the caller named, and not if the default has stayed."""
    world = TreeWorld(session=None, model=named)
    ask(world)
    rejected = says({"message": "Invalid request"}, 400)
    world.script["create"] = iter([rejected, rejected])
    if named is not None:
        world.script["models"] = iter([says({"json": [{"id": "second", "name": "second"}]})])
    with pytest.raises(StatusError):
        ask(world)
    assert world.operations[-2:] == ["create", "models"]


def test_resumed_session_is_detected_by_its_creation() -> None:
    """The main branch returns more than any server of 2023."""
    world = unknown(session="abc", model="m")
    assert ask(world) == ["create", "message", "delete"]
    assert world.exchange.dialect.name == "chat-ui-2025"


def test_resumed_session_on_010_is_detected_by_a_rejected_message() -> None:
    world = unknown(session="abc", model="m", main=False)
    rejected = named("16_old_client", "POST /conversation/{id}", MAIN)
    assert rejected.status == 500
    world.script["message"] = iter([Answer(500, (rejected.body,), rejected.headers)])
    assert ask(world) == ["create", "message", "models", "data", "message", "delete"]
    assert not world.trees


def test_resumed_session_is_detected_by_an_unknown_model() -> None:
    world = unknown(session="abc")
    world.script["create"] = iter([says({"message": "Invalid request"}, 400)])
    assert ask(world) == ["create", "models", "create", "message", "delete"]
    assert [body["model"] for body in world.bodies("create")] == [DEFAULT_MODEL, "first"]


@pytest.mark.parametrize("session", [None, "abc"])
def test_other_operations_detect_the_dialect(session: str | None) -> None:
    page = named("11_history", "GET /__data.json", MAIN)
    world = unknown(session=session)
    world.script["root"] = iter([Answer(200, (page.body,), page.headers)])
    assert [model.id for model in world.play(queries.models(world.exchange))] == ["first", "vision"]
    assert world.exchange.dialect.name == "chat-ui-2025"


def test_parameters_are_rejected_once_2025_is_detected() -> None:
    world = unknown()
    with pytest.raises(UnsupportedError, match="generation parameters"):
        world.play(chat_of(world, temperature=0.5).run())
    assert world.operations == ["settings", "models"]


@pytest.mark.parametrize(
    "options", [{"web_search": True}, {"keywords": {"seed": 1}}, {"parameters": {"x": 1}}]
)
def test_options_unsupported_by_2025_are_not_sent(options: dict[str, Any]) -> None:
    world = TreeWorld(session=None)
    with pytest.raises(UnsupportedError, match="this kind of server cannot"):
        world.play(message_of(talk_of(world), **options).run())
    assert world.operations == []


@pytest.mark.parametrize("name", ["vote", "summarize"])
def test_operations_unsupported_by_2025_are_not_sent(name: str) -> None:
    world = TreeWorld(session=None)
    core = talk_of(world)
    flow = core.summarize() if name == "summarize" else core.vote("x", 1)
    with pytest.raises(UnsupportedError):
        world.play(flow)
    assert world.operations == []


@pytest.mark.parametrize("options", [{"parent": "x"}])
def test_options_unsupported_by_2023_are_not_sent(options: dict[str, Any]) -> None:
    world = World()
    with pytest.raises(UnsupportedError, match="follow any message but the last"):
        world.play(message_of(talk_of(world), **options).run())
    assert world.operations == ["models"]  # requested, as the answer depends on the kind of server


def recorded(version: str, name: str, operation: str) -> tuple[str, Answer]:
    exchange = next(each for each in scenario(name, version) if operation in each.name)
    assert exchange.status is not None
    return exchange.path, Answer(exchange.status, (exchange.body,), exchange.headers)


@pytest.mark.parametrize("version", ["chat-ui-0.9.5", "chat-ui-0.8.4"])
def test_intermediate_version_is_unsupported(version: str) -> None:
    _, form = recorded(version, "16_old_client", "POST /settings")
    _, page = recorded(version, "15_detect", "GET /api/v2/user")
    world = World({"settings": form, "models": page}, session=None)
    with pytest.raises(UnsupportedServerError, match=r"0\.8 to 0\.9\.5.*0\.9\.6 and later"):
        ask(world)
    assert world.operations == ["settings", "models"]


@pytest.mark.parametrize("version", ["chat-ui-0.9.5", "chat-ui-0.8.4"])
def test_intermediate_version_is_unsupported_in_a_resumed_session(version: str) -> None:
    _, message = recorded(version, "16_old_client", "POST /conversation/{id}")
    _, page = recorded(version, "15_detect", "GET /api/v2/user")
    assert message.status == 500
    world = World({"message": message, "models": page})
    with pytest.raises(UnsupportedServerError):
        ask(world)


def test_version_07_is_unsupported() -> None:
    world = World({"settings": says({"message": "Internal Error"}, 500)}, session=None)
    with pytest.raises(UnsupportedServerError, match=r"0\.7"):
        ask(world)


PROVIDER = (("location", "https://login.example.com/authorize?x=1"),)
LOGIN = {"type": "redirect", "status": 302, **dict(PROVIDER)}


@pytest.mark.parametrize("form", [says(LOGIN), Answer(302, (), PROVIDER)], ids=["200", "302"])
@pytest.mark.parametrize("everything", [False, True])
def test_required_login_is_an_error_with_advice(form: Answer, everything: bool) -> None:
    world = unknown(script={"settings": form})
    if everything:  # the list of models requires a login, too
        world.script["models"] = iter([Answer(302, (), PROVIDER)])
    with pytest.raises(LoginRequiredError, match="session"):
        ask(world)
    assert world.operations == ["settings", "models"]


@pytest.mark.parametrize("everything", [False, True])
def test_expired_session_is_a_login_error(everything: bool) -> None:
    world = unknown(session="expired", script={"create": Answer(302, (), PROVIDER)})
    if everything:
        world.script["models"] = iter([Answer(302, (), PROVIDER)])
    with pytest.raises(LoginRequiredError, match="H2O_CHAT_SESSION"):
        ask(world)
    assert world.operations == ["create", "models"]


@pytest.mark.parametrize("dialect", [None, "chat-ui-2025"])
def test_rejected_action_is_a_login_error(dialect: str | None) -> None:
    rejected = named("31_login", "message", MAIN)
    assert rejected.status == 401
    world = TreeWorld(
        {"share": Answer(401, (rejected.body,), rejected.headers)}, dialect=dialect, session="old"
    )
    core = talk_of(world, id="a" * 24)
    with pytest.raises(LoginRequiredError, match="as `session`") as caught:
        world.play(core.share())
    assert "H2O_CHAT_TOKEN" not in str(caught.value)
    assert caught.value.message == "You have to be logged in."
    assert world.operations == ["share"]


def test_gate_that_requires_a_token_is_a_token_error() -> None:
    world = TreeWorld({"create": says({"error": "no token"}, 401)}, session=None)
    with pytest.raises(LoginRequiredError, match="H2O_CHAT_TOKEN") as caught:
        ask(world)
    assert caught.value.message == "no token"


def test_required_login_is_an_error_with_an_explicit_dialect() -> None:
    redirect = named("31_login", "POST /conversation, accept */*", MAIN)
    world = TreeWorld({"create": Answer(302, (), redirect.headers)}, session=None)
    with pytest.raises(LoginRequiredError, match="cookie_name"):
        ask(world)
    assert world.operations == ["create"]


@pytest.mark.parametrize(
    "form",
    [
        Answer(200, (b"<html>",), (("content-type", "text/html"),)),
        Answer(404, (b"<html>",), (("content-type", "text/html"),)),
        Answer(405, (b"GET, HEAD",), (("content-type", "text/plain"),)),
        Answer(501, (), ()),
    ],
    ids=["page", "404", "405", "501"],
)
def test_other_site_is_an_unsupported_server(form: Answer) -> None:
    world = World({"settings": form}, session=None)
    with pytest.raises(H2oError, match="not a chat-ui") as caught:
        ask(world)
    assert isinstance(caught.value, UnsupportedServerError)
    assert world.operations == ["settings", "models"]


@pytest.mark.parametrize("status", [502, 503, 504, 429])
def test_failing_server_is_not_probed(status: int) -> None:
    world = World({"settings": says({"message": "x"}, status)}, session=None, retries=0)
    with pytest.raises(StatusError):
        ask(world)
    assert world.operations == ["settings"]


@pytest.mark.parametrize("broken", [lost(), says({"message": "x"}, 502)])
def test_failed_detection_is_retried(broken: Answer) -> None:
    world = unknown()
    world.script["models"] = iter([broken])
    assert ask(world)[:3] == ["settings", "models", "models"]
    assert world.exchange.dialect.name == "chat-ui-2025"


def test_failed_detection_raises_without_retries() -> None:
    world = unknown(script={"models": lost()}, retries=0)
    with pytest.raises(TransportError):
        ask(world)


def test_stop_during_detection_is_not_an_error() -> None:
    world = unknown()
    chat = chat_of(world)

    def stopped(_: object) -> Answer:
        Player(world).play(chat.stop())
        return Answer(fault=CallerStoppedError("the stream was stopped"))

    world.script["models"] = iter([stopped])
    assert world.play(chat.run()).finish_reason == "stopped"
    assert world.operations == ["settings", "models"]


def test_unknown_model_on_2023_is_not_detected_as_2025() -> None:
    error = says({"type": "error", "error": {"message": "Internal Error"}}, 500)
    world = World({"settings": error, "root": says(b"", 500)}, session=None)
    with pytest.raises(ServerError):
        ask(world)
    assert world.operations == ["settings", "root"]


def test_sharing_is_turned_off_before_the_first_message() -> None:
    world = unknown(share_conversations=False)
    assert ask(world)[:4] == ["settings", "models", "settings", "create"]
    body = json.loads(world.requests[2].content or b"")
    assert body == {"shareConversationsWithModelAuthors": False, "activeModel": "first"}
    assert "settings" not in ask(world)


def test_turning_sharing_off_keeps_other_settings() -> None:
    world = TreeWorld(session="abc", share_conversations=False)
    assert ask(world)[:3] == ["settings", "settings", "create"]
    body = json.loads(world.requests[1].content or b"")
    assert body == {
        "shareConversationsWithModelAuthors": False, "activeModel": "kept", "x": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "words", "wait"),
    [
        ("create", "You have reached the maximum number of conversations. Delete some…", None),
        ("message", "You are sending too many messages. Try again later.", 61),
        ("message", "This conversation has more than 4 messages. Start a new one to…", None),
    ],
)
def test_exceeded_limit_is_not_retried(limit: str, words: str, wait: int | None) -> None:
    world = TreeWorld({limit: says({"message": words}, 429)}, session=None, retries=9)
    with pytest.raises(StatusError) as caught:
        ask(world)
    assert world.operations.count(limit) == 1
    assert isinstance(caught.value, RateLimitError) == (wait is not None)
    assert caught.value.retry_after == wait
    assert words in str(caught.value)
    assert world.slept == []
