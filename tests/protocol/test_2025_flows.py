"""Chats and conversations with a simulated 2025 server."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from recorded import Exchange, lines, named
from tree import (
    FAILED,
    FINISHED,
    HELLO,
    KEEP_ALIVE,
    MODELS,
    STARTED,
    TreeWorld,
    line,
    said,
    streamed,
)
from world import Answer, Part, Player, chat_of, cut, lost, message_of, says, talk_of, uuid

from h2o_client.errors import (
    ConversationBusyError,
    GenerationError,
    H2oError,
    IncompleteStreamError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    PromptTooLargeError,
    TransportTimeoutError,
    UnsupportedError,
)
from h2o_client.protocol.conversation import ConversationCore
from h2o_client.protocol.effects import Flow, Request
from h2o_client.protocol.message import MessageOperation
from h2o_client.protocol.queries import conversations, delete_conversations
from h2o_client.protocol.turns import Turns
from h2o_client.types import Event, File, Reply, Revision, Timeouts

MAIN = "chat-ui-main-2026-08"


def send(world: TreeWorld, talk: ConversationCore, prompt: str | None, **options: Any) -> Reply:
    return world.play(message_of(talk, prompt, **options).run())


def fail(world: TreeWorld, flow: Any) -> H2oError:
    with pytest.raises(H2oError) as caught:
        world.play(flow)
    return caught.value


# The session


def create_renamed(world: TreeWorld) -> Callable[[Request], Answer]:
    """Create a conversation as a server whose cookie has another name."""

    def create(request: Request) -> Answer:
        name, _, value = dict(request.headers)["Cookie"].partition("=")
        number = value if name == "renamed" else uuid(100 + len(world.trees))
        answer = world._act(request)
        cookie = ("set-cookie", f"renamed={number}; HttpOnly")
        return replace(answer, headers=(*answer.headers, cookie))

    return create


def cookies(world: TreeWorld, operation: str) -> list[str]:
    return [dict(r.headers)["Cookie"] for r in world.requests if r.operation == operation]


def test_default_model_is_renewed_only_once() -> None:
    names = itertools.cycle(["one", "two", "three"])
    lists = (says({"json": [{**MODELS[0], "id": each, "name": each}]}) for each in names)
    rejection = says({"message": "Invalid request"}, 400)
    world = TreeWorld({"create": rejection, "models": lists}, model=None)
    assert isinstance(fail(world, chat_of(world).run()), ModelUnavailableError)
    assert world.operations.count("create") == 2


def test_a_second_creation_waits_until_the_first_has_shown_the_session() -> None:
    world = TreeWorld(session=None)
    world.script["create"] = itertools.repeat(create_renamed(world))
    first, second = (Player(world).drive(chat_of(world).run()) for _ in range(2))
    words = [next(first) for _ in range(4)]
    assert words == ["exclusive", "exclusive", "finish", "fetch create"]
    assert [next(second) for _ in range(2)] == ["exclusive", "wait"]
    assert [*first, *second].count("fetch create") == 1
    assert [name.partition("=")[0] for name in cookies(world, "create")] == ["hf-chat", "renamed"]
    assert len(set(cookies(world, "message"))) == 1
    assert world.trees == {}


def test_creations_wait_no_longer_once_the_session_is_known() -> None:
    world = TreeWorld(session=None)
    for _ in range(2):
        world.play(chat_of(world).run())
    assert world.log.count("exclusive") == 2  # to open the session, and to create the first
    world = TreeWorld(session=None, cookie_name="renamed")
    world.play(chat_of(world).run())
    assert world.log.count("exclusive") == 1


@pytest.mark.parametrize("renamed", [True, False])
def test_a_conversation_whose_session_was_lost_is_reported(renamed: bool) -> None:
    world = TreeWorld(session=None)
    world.script["create"] = iter([lost(), *[create_renamed(world)] * renamed])
    world.script["list"] = iter([says({"json": {"conversations": [], "hasMore": False}})])
    world.play(chat_of(world).run())
    assert len(world.warnings) == renamed
    assert world.exchange.session.has_orphans is not renamed


# Requests


def test_message_is_a_form_with_an_unambiguous_boundary() -> None:
    world = TreeWorld()
    world.play(chat_of(world, "Hi\r\n--h2o 👋").run())
    request = world.requests[1]
    headers = dict(request.headers)
    boundary = headers["Content-Type"].removeprefix("multipart/form-data; boundary=").encode()
    content = request.content or b""
    assert len(boundary) > 60
    assert content.startswith(b"--" + boundary + b'\r\nContent-Disposition: form-data; name="data"')
    assert content.endswith(b"\r\n--" + boundary + b"--\r\n")
    assert content.count(boundary) == 2
    assert b"filename" not in content
    assert headers["Origin"] == "https://host"
    assert world.sent[0]["inputs"] == "Hi\r\n--h2o 👋"
    assert world.sent[0]["id"] == "root-f1"
    assert world.sent[0]["is_retry"] is False
    assert "parameters" not in world.sent[0]


def test_files_are_part_of_the_message() -> None:
    world = TreeWorld(model="vision")
    files = (File('a;"b".txt', b"hello", "text/plain"), File("dot.png", b"\x89PNG", "image/png"))
    chat = chat_of(world, files=files)
    world.play(chat.run())
    content = next(r.content for r in world.requests if r.operation == "message") or b""
    assert (
        b'name="files"; filename="base64;a;%22b%22.txt"\r\nContent-Type: text/plain\r\n\r\naGVsbG8='
        in content
    )
    assert b'filename="base64;dot.png"\r\nContent-Type: image/png\r\n\r\niVBORw==\r\n--' in content


@pytest.mark.parametrize(
    ("kind", "model"), [("image/png", "first"), ("application/pdf", "vision"), ("", "vision")]
)
def test_file_unsupported_by_the_model_is_not_sent(kind: str, model: str) -> None:
    world = TreeWorld(model=model)
    with pytest.raises(ValueError, match="does not accept the file 'x'"):
        world.play(chat_of(world, files=(File("x", b"x", kind),)).run())
    assert world.operations == ["models"]


def test_system_message_becomes_the_preprompt() -> None:
    world = TreeWorld()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    world.play(chat_of(world, messages).run())
    assert world.bodies("create") == [{"model": "m", "preprompt": "Be brief."}]
    assert world.sent[0]["inputs"] == "Hi"
    world.play(chat_of(world, [*messages, {"role": "assistant", "content": "Yes"}]).run())
    assert world.sent[1]["inputs"] == "User: Hi\nAssistant: Yes\nAssistant:"


def test_messages_form_a_chain() -> None:
    world = TreeWorld()
    talk = talk_of(world)
    for prompt in ("One", "Two", "Three"):
        assert send(world, talk, prompt).text == " Hello"
    assert [each["id"] for each in world.sent] == ["root-f1", "a2", "a4"]
    assert world.operations == ["create", *["message", "data"] * 2, "message"]
    assert [message.content for message in talk.messages] == [
        "One", " Hello", "Two", " Hello", "Three", " Hello",
    ]  # fmt: skip
    assert talk.messages[0].id == "q1"


def test_root_message_is_fetched_on_010() -> None:
    world = TreeWorld(main=False)
    talk = talk_of(world)
    send(world, talk, "One")
    assert world.operations == ["create", "data", "message"]
    assert world.sent[0]["id"] == "root-f1"


def test_retry_creates_a_sibling() -> None:
    world = TreeWorld()
    talk = talk_of(world)
    send(world, talk, "One")
    send(world, talk, None)
    assert (world.sent[1]["id"], world.sent[1]["is_retry"]) == ("a2", True)
    assert world.sent[0]["generationId"] != world.sent[1]["generationId"]
    history = world.play(talk.refresh())
    assert [message.id for message in history] == ["q1", "a3"]
    assert history[0].children == ("a2", "a3")
    assert [message.content for message in talk.messages] == ["One", " Hello"]


@pytest.mark.parametrize("main", [True, False], ids=["main", "0.10"])
def test_parent_starts_another_branch(main: bool) -> None:
    world = TreeWorld(main=main)
    talk = talk_of(world)
    first = send(world, talk, "One")
    send(world, talk, "Two")
    send(world, talk, "Other", parent="a2")
    send(world, talk, "Third", parent=first.response_id)
    assert [each["id"] for each in world.sent] == ["root-f1", "a2", "a2", "a2"]
    history = world.play(talk.refresh())
    assert [message.content for message in history] == ["One", " Hello", "Third", " Hello"]
    with pytest.raises(ValueError, match="does not contain the parent"):
        send(world, talk, "x", parent="nope")


@pytest.mark.parametrize("main", [True, False], ids=["main", "0.10"])
def test_each_reply_can_be_a_parent(main: bool) -> None:
    world = TreeWorld(main=main)
    talk = talk_of(world)
    prompts = ("One", None, "One", None)  # None: a sibling
    replies = [send(world, talk, prompt) for prompt in prompts]
    for reply in replies:
        send(world, talk, "Next", parent=reply.response_id)
    assert [each["id"] for each in world.sent[4:]] == ["a2", "a3", "a5", "a6"]


def test_message_with_an_unknown_parent_is_not_retried() -> None:
    world = TreeWorld()
    talk = talk_of(world)
    send(world, talk, "One")
    with pytest.raises(ValueError, match="does not contain the parent"):
        send(world, talk, "Two", parent="nope")
    assert send(world, talk, None).text == " Hello"
    assert (world.sent[1]["id"], world.sent[1]["is_retry"]) == ("a2", True)


@pytest.mark.parametrize("main", [True, False], ids=["main", "0.10"])
def test_prompt_of_a_reply_can_be_fetched(main: bool) -> None:
    shown = says({"prompt": "[USER]", "model": "m", "parameters": {}})
    world = TreeWorld({"prompt": shown}, main=main)
    talk = talk_of(world)
    reply = send(world, talk, "One")
    world.play(talk.prompt(reply.response_id))
    assert world.requests[-1].url.endswith("/message/a2/prompt")


# Complete answers

RECORDED = [
    "01_happy_path", "03_retry", "07_upstream_cut", "07_upstream_cut_clean",
    "07_upstream_cut_once_1", "07_upstream_empty", "07_upstream_midstream_error",
    "07_upstream_newlines", "07_upstream_no_finish", "07_upstream_unicode", "07_upstream_think",
    "07_upstream_error_429",
]  # fmt: skip


def recording(name: str) -> Exchange:
    found = {
        "01_happy_path": "POST /conversation/{id}",
        "03_retry": "retry of the answer, without inputs",
    }
    return named(name, found.get(name, "message"), MAIN)


def outcome(world: TreeWorld) -> tuple[Reply | None, str]:
    """Play a chat; return the reply, or the text received before the error."""
    chat = chat_of(world)
    try:
        return world.play(chat.run()), ""
    except H2oError as error:
        player = Player(world)
        player.play(chat.abandon(world.exchange.cleanup()))
        return None, error.partial


def plain(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return events as stored, without padding and keep-alives."""
    kept = [event for event in events if event.get("status") != "keepAlive"]
    return [
        event | {"token": event["token"].rstrip("\0")} if event["type"] == "stream" else event
        for event in kept
    ]


@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("main", [True, False], ids=["main", "0.10"])
@pytest.mark.parametrize("name", RECORDED)
def test_stream_cut_anywhere_is_correct_or_an_error(name: str, main: bool, step: int) -> None:
    exchange = recording(name)
    events = plain(lines(exchange))
    finals = [event["text"] for event in events if event["type"] == "finalAnswer"]
    failed = any(event.get("status") == "error" for event in events)
    text = (
        finals[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if finals and not failed
        else None
    )
    body = exchange.body
    for place in range(0, len(body) + 1, step):
        if body[place - 50 : place + 50] == b" " * 100 and place % 1000:
            continue  # within the 4,096 spaces
        world = TreeWorld(main=main, answers=[events], takes=0.2)
        head = Answer(200, (body[:place], cut()), exchange.headers)
        world.script["message"] = iter([head])
        reply, partial = outcome(world)
        assert len(world.sent) == 1, place
        assert world.trees == {}
        if text is None:
            assert reply is None, place
        else:
            assert reply is not None, (place, partial)
            assert reply.text == text
        revisions = [token.text for token in world.tokens if isinstance(token, Revision)]
        if reply is not None and not revisions:
            assert world.text.rstrip() == reply.text.rstrip()
        assert all(revision == text for revision in revisions)


def test_lost_stream_is_reattached_in_the_middle_of_a_word() -> None:
    words = said(*(f" w{n}" for n in range(20)))
    world = TreeWorld(answers=[words], takes=9.0)
    world.script["message"] = iter([streamed(words[:4], b'{"type":"stream","token":" w', cut())])
    reply = world.play(chat_of(world).run())
    assert reply.recovered
    assert reply.text == world.text == "".join(f" w{n}" for n in range(20))
    assert world.operations == ["create", "message", "reattach", "delete"]
    assert not reply.revised


def test_reattached_stream_has_the_same_idle_timeout() -> None:
    world = TreeWorld(answers=[HELLO], takes=1000.0, timeouts=Timeouts(idle=5.0, recovery=30.0))
    world.script["message"] = iter([streamed(HELLO[:2], cut())])
    error = fail(world, chat_of(world).run())
    assert isinstance(error, TransportTimeoutError)
    assert (error.limit, error.partial) == ("idle", " Hel")
    assert world.elapsed == pytest.approx(5.0, abs=0.5)
    assert world.operations.count("reattach") == 1


@pytest.mark.parametrize("main", [True, False], ids=["main", "0.10"])
def test_first_token_timeout_applies_after_an_early_disconnect(main: bool) -> None:
    limits = Timeouts(first_token=20.0, idle=1.0, recovery=1.0)
    world = TreeWorld(main=main, takes=15.0, timeouts=limits)
    world.script["message"] = iter([streamed(HELLO[:1], cut())])
    assert world.play(chat_of(world).run()).text == " Hello"
    assert world.elapsed == pytest.approx(15.0, abs=2.0)
    assert len(world.sent) == 1


@pytest.mark.parametrize(
    ("main", "reattach", "error"),
    [
        (True, [], TransportTimeoutError),
        (True, itertools.repeat(lost()), TransportTimeoutError),
        (False, [], IncompleteStreamError),
    ],
    ids=["reattached", "polled", "0.10"],
)
def test_first_token_timeout_ends_the_wait_after_an_early_disconnect(
    main: bool, reattach: Iterable[Answer], error: type[H2oError]
) -> None:
    limits = Timeouts(first_token=20.0, idle=1.0, recovery=1.0)
    world = TreeWorld(main=main, takes=1000.0, timeouts=limits)
    world.script["message"] = iter([streamed(HELLO[:1], cut())])
    world.script["reattach"] = iter(reattach)
    assert isinstance(fail(world, chat_of(world).run()), error)
    assert world.elapsed == pytest.approx(20.0, abs=0.5)


def test_answer_is_recovered_from_the_history_without_reattaching() -> None:
    world = TreeWorld(main=False, answers=[said(" one", " two")], takes=3.0)
    world.script["message"] = iter([streamed(HELLO[:1], cut())])
    reply = world.play(chat_of(world).run())
    assert reply.text == world.text == " one two"
    assert world.operations.count("reattach") == 1
    assert world.operations.count("data") > 2
    assert len(world.sent) == 1


@pytest.mark.parametrize("main", [True, False])
def test_message_that_never_arrived_is_sent_again(main: bool) -> None:
    world = TreeWorld(main=main)
    world.script["message"] = iter([lambda _: lost()])
    assert world.play(chat_of(world).run()).text == " Hello"
    first, second = world.sent
    assert first["generationId"] != second["generationId"]
    assert sum(world.slept) >= 1.0


def test_answer_is_searched_for_before_each_resend() -> None:
    world = TreeWorld(retries=3)
    world.script["message"] = iter([lambda _: lost(), lambda _: lost()])
    assert world.play(chat_of(world).run()).text == " Hello"
    asked = "".join("M" if each == "message" else "d" for each in world.operations[1:-1])
    polls = [len(part) for part in asked.split("M")[1:-1]]
    assert len(polls) == 2
    assert min(polls) >= 2
    assert sum(world.slept) >= 2.0


def test_answer_may_exceed_the_line_limit_of_2023() -> None:
    token = "x" * 1000
    world = TreeWorld(answers=[said(*[token] * 1100)])
    assert world.play(chat_of(world).run()).text == token * 1100


def test_overwritten_message_is_not_sent_again() -> None:
    """The response had started, so the server has the message."""
    world = TreeWorld()
    world.script["message"] = iter([lambda _: streamed(HELLO[:2], cut())])
    assert isinstance(fail(world, chat_of(world).run()), IncompleteStreamError)
    assert len(world.sent) == 1


def test_failed_answer_is_not_requested_again() -> None:
    error = {**FAILED, "message": "503 x", "statusCode": 503}
    world = TreeWorld(answers=[[STARTED, error]])
    assert "the model server" in str(fail(world, chat_of(world).run()))
    assert len(world.sent) == 1


def test_revision_is_reported_and_the_reply_is_correct() -> None:
    exchange = recording("07_upstream_cut_once_1")
    world = TreeWorld(answers=[plain(lines(exchange))])
    reply = world.play(chat_of(world).run())
    assert reply.revised
    assert world.tokens[-1] == Revision(reply.text)
    assert reply.text.startswith("Hello! I am a stub of an")


def test_unknown_events_are_returned_and_the_title_is_stored() -> None:
    tool = {"type": "tool", "subtype": "eta", "eta": 1}
    title = {"type": "title", "title": "A title"}
    world = TreeWorld(answers=[[*HELLO[:-1], tool, title, FINISHED]])
    talk = talk_of(world)
    send(world, talk, "Hi")
    assert talk.title == "A title"
    world = TreeWorld(answers=[[STARTED, tool, *HELLO[1:]]])
    world.play(chat_of(world).run())
    assert [token.data for token in world.tokens if isinstance(token, Event)] == [tool]


# Time limits


@pytest.mark.parametrize(
    ("seen", "limits", "limit", "partial"),
    [
        (1, Timeouts(first_token=3.0, idle=60.0), "first_token", ""),
        (2, Timeouts(first_token=60.0, idle=3.0), "idle", " Hel"),
    ],
    ids=["after the headers", "after a token"],
)
def test_keep_alives_do_not_extend_a_limit(
    seen: int, limits: Timeouts, limit: str, partial: str
) -> None:
    beats: list[Part] = [part for _ in range(100) for part in (0.1, KEEP_ALIVE)]
    world = TreeWorld(timeouts=limits, takes=1000.0)
    world.script["message"] = iter([streamed(HELLO[:seen], *beats)])
    error = fail(world, chat_of(world).run())
    assert isinstance(error, TransportTimeoutError)
    assert (error.limit, error.partial) == (limit, partial)
    assert world.elapsed == pytest.approx(3.0, abs=0.2)


# Stopping and leaving


def stopped_after(world: TreeWorld, op: MessageOperation, count: int = 1) -> Reply:
    """Play an operation that is stopped after this many texts."""
    seen = itertools.count(1)

    def stop() -> None:
        if next(seen) == count:
            Player(world).play(op.stop())

    world.on_emit = stop
    try:
        return world.play(op.run())
    finally:
        world.on_emit = lambda: None


def test_stop_truncates_the_answer_to_the_returned_text() -> None:
    world = TreeWorld(answers=[said(" a👋", " b", " c")], takes=9.0)
    talk = talk_of(world)
    reply = stopped_after(world, message_of(talk, "Hi"))
    assert (reply.text, reply.finish_reason) == (" a👋", "stopped")
    assert world.bodies("stop") == [
        {"generationId": world.sent[0]["generationId"], "seenContentLength": 4}
    ]
    assert [message.content for message in world.play(talk.refresh())] == ["Hi", " a👋"]
    assert send(world, talk, "Next").text == " Hello"
    assert world.killed == 0
    assert world.slept == []


def test_late_stop_does_not_end_the_next_answer() -> None:
    world = TreeWorld(answers=[said(" a", " b")])  # the generation ends before the stop arrives
    talk = talk_of(world)
    stopped_after(world, message_of(talk, "Hi"))
    assert send(world, talk, "Next").text == " Hello"
    assert world.killed == 0
    assert sum(world.slept) == pytest.approx(5.5, abs=0.1)
    assert [message.content for message in talk.messages][:2] == ["Hi", " a b"]


def test_stop_that_overtakes_its_message_does_not_end_the_next_answer() -> None:
    world = TreeWorld()
    talk = talk_of(world)
    op = message_of(talk, "Hi")
    reading = Player(world).drive_to(op.run(), "send message")
    Player(world).play(op.stop())
    list(reading)
    assert world.killed == 1  # the message itself
    assert send(world, talk, "Next").text == " Hello"
    assert world.killed == 1
    assert sum(world.slept) == pytest.approx(5.5, abs=0.1)


def test_concurrent_stops_notify_the_server_once() -> None:
    world = TreeWorld(answers=[said(" a", " b")], takes=9.0)
    talk = talk_of(world)
    op = message_of(talk, "Hi")
    reading = Player(world).drive_to(op.run(), "emit")
    telling = Player(world).drive(op.stop())
    assert next(telling) == "fetch stop"
    words = [next(reading) for _ in range(3)]
    assert "fetch stop" not in words
    assert not list(telling)
    assert not [word for word in reading if "stop" in word]
    assert world.operations.count("stop") == 1


def test_conversation_of_another_session_is_not_found() -> None:
    world = TreeWorld()
    talk = talk_of(world, id="6b019257c8e3ae6700d024d8")
    rejected = named("11_history", "another session", MAIN)
    world.script["data"] = iter([Answer(403, (rejected.body,), rejected.headers)])
    error = fail(world, talk.refresh())
    assert isinstance(error, NotFoundError)
    assert "another session" in str(error)


def test_leaving_stops_the_answer_and_deletes_the_conversation() -> None:
    world = TreeWorld(takes=9.0)
    chat = chat_of(world)
    player = Player(world)
    player.drive_to(chat.run(), "emit").close()
    player.release()
    world.play(chat.abandon(world.exchange.cleanup()))
    assert world.operations == ["create", "message", "stop", "delete"]
    assert world.trees == {}


# One message at a time


NEXT: dict[str, Callable[[ConversationCore], Flow[Any]]] = {
    "message": lambda talk: message_of(talk, "Two").run(),
    "rename": lambda talk: talk.rename("Mine"),
}
"""What may follow an answer, by the name of its request."""


@pytest.mark.parametrize("following", NEXT)
def test_message_and_rename_wait_until_the_last_answer_has_its_title(following: str) -> None:
    """The reply is returned while the response is still open."""
    world = TreeWorld(takes=6.0)
    talk = talk_of(world)
    world.script["message"] = iter([streamed(HELLO[:-1], 6.0, line(FINISHED))])
    reply = send(world, talk, "One")
    assert (reply.text, reply.finish_reason) == (" Hello", None)
    assert world.elapsed < 2
    world.play(NEXT[following](talk))
    assert world.elapsed >= 6
    assert world.operations[-1] == following
    assert (talk.title == "Mine") == (following == "rename")
    assert world.play(talk.refresh())[0].content == "One"


def test_message_is_not_sent_while_the_answer_above_is_generated() -> None:
    world = TreeWorld(takes=500.0, timeouts=Timeouts(first_token=20.0, recovery=1.0))
    talk = talk_of(world)
    world.script["message"] = iter([streamed(HELLO[:2], cut())])
    world.script["reattach"] = itertools.repeat(lost())
    world.script["stop"] = itertools.repeat(lost())
    op = message_of(talk, "One")
    assert isinstance(fail(world, op.run()), IncompleteStreamError)
    with pytest.raises(ConversationBusyError):
        send(world, talk, "Two")
    assert len(world.sent) == 1
    world.now += 500
    world.script.clear()
    send(world, talk, "Two")
    assert world.sent[1]["id"] == "a2"


def test_answer_marked_as_interrupted_does_not_block_the_conversation() -> None:
    """The server was restarted, and marks the answer about 90 seconds later."""
    world = TreeWorld(takes=10**6, timeouts=Timeouts(first_token=20.0, recovery=1.0))
    talk = talk_of(world)
    world.script["message"] = iter([streamed(HELLO[:2], cut())])
    world.script["reattach"] = itertools.repeat(lost())
    assert isinstance(fail(world, message_of(talk, "One").run()), IncompleteStreamError)
    world.trees[talk.id or ""].messages[-1]["interrupted"] = True
    world.takes, now = 0.0, world.now
    assert send(world, talk, "Two").text == " Hello"
    assert world.sent[1]["id"] == "a2"
    assert world.now == now


def beside_another_client(takes: float, **options: Any) -> tuple[TreeWorld, ConversationCore]:
    """Return a conversation in which an unrelated client's answer takes this long."""
    world = TreeWorld(**options)
    talk = talk_of(world, keep=True)
    send(world, talk, "One")
    world.takes = takes
    other = ConversationCore(world.exchange, conversation=talk.id)
    other._turns = Turns()
    world.script["message"] = iter([streamed(HELLO[:2], cut())])
    world.script["stop"] = world.script["reattach"] = itertools.repeat(lost())
    fail(world, message_of(other, "Other", recover=False).run())
    world.script.clear()
    world.takes = 0.0
    return world, talk


@pytest.mark.parametrize(
    ("following", "learned"),
    [("message", ["Other", " Hello", "Two", " Hello"]), ("rename", [])],
    ids=["message", "rename"],
)
def test_message_and_rename_wait_for_the_answer_of_another_client(
    following: str, learned: list[str]
) -> None:
    world, talk = beside_another_client(takes=30.0)
    world.play(NEXT[following](talk))
    assert world.elapsed >= 30
    assert world.operations[-1] == following
    assert [message.content for message in talk.messages][2:] == learned


@pytest.mark.parametrize("following", NEXT)
def test_message_and_rename_are_not_sent_while_another_client_is_answered(following: str) -> None:
    world, talk = beside_another_client(takes=30.0, timeouts=Timeouts(total=10.0))
    before = world.operations.count(following)
    with pytest.raises(ConversationBusyError, match="another client"):
        world.play(NEXT[following](talk))
    assert world.operations.count(following) == before
    assert talk.title != "Mine"


def test_waiting_for_an_answer_of_a_dead_server_ends() -> None:
    world, talk = beside_another_client(takes=10**6)
    send(world, talk, "Two")
    assert 100 <= world.elapsed < 110
    assert world.sent[-1]["id"] == "a4"  # below the answer that never ended


def test_objects_of_one_conversation_share_its_last_message() -> None:
    world = TreeWorld()
    talk = talk_of(world, keep=True)
    world.play(talk.rename("Mine"))  # creates the conversation, without a message
    other = talk_of(world, id=talk.id)
    send(world, other, "One")
    send(world, talk, "Two")
    assert [each["id"] for each in world.sent] == ["root-f1", "a2"]


def test_resumed_session_detects_capabilities_before_they_matter() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    world = TreeWorld(dialect=None, session="resumed")
    world.play(chat_of(world, messages).run())
    assert world.operations[:2] == ["models", "create"]
    assert world.bodies("create")[0]["preprompt"] == "Be brief."
    world = TreeWorld(dialect=None, session="resumed")
    with pytest.raises(UnsupportedError, match="parameters"):
        world.play(chat_of(world, temperature=0.5).run())
    assert world.operations == ["models"]
    world = TreeWorld(dialect=None, session="resumed")
    with pytest.raises(UnsupportedError, match="parameters"):
        send(world, talk_of(world), "Hi", keywords={"temperature": 0.5})
    assert world.operations == ["models"]


def test_failing_server_is_not_mistaken_for_2023() -> None:
    files = (File("notes.txt", b"Noon.", "text/plain"),)
    world = TreeWorld(dialect=None, session="resumed", retries=0)
    world.script["models"] = iter([says({"message": "busy"}, 503)])
    assert isinstance(fail(world, chat_of(world, files=files).run()), OverloadedError)
    assert world.play(chat_of(world, files=files).run()).text == " Hello"


def test_another_clients_answer_is_stopped_before_its_conversation_is_deleted() -> None:
    world, talk = beside_another_client(takes=30.0)
    run = world.trees[talk.id or ""].runs[-1]
    world.exchange.session.deleted(talk.id or "")  # as a second client, which did not run it
    assert world.asked_by(talk_of(world, id=talk.id).delete()) == ["stop", "delete"]
    assert run.kept is not None
    assert world.trees == {}


def test_a_deletion_in_a_resumed_session_finds_out_whether_to_stop() -> None:
    world = TreeWorld(dialect=None, session="resumed")
    talk = talk_of(world, id="0" * 24)
    world.script["delete"] = iter([says({"message": "Conversation not found"}, 404)])
    world.play(talk.delete())
    assert world.operations == ["models", "stop", "delete"]


def test_nothing_is_deleted_under_an_answer_of_the_client() -> None:
    world = TreeWorld({"delete_all": says({"json": 0})}, takes=9.0)
    chat = chat_of(world)
    player = Player(world)
    steps = player.drive_to(chat.run(), "emit")
    before = world.operations
    with pytest.raises(ConversationBusyError, match="stop"):
        world.play(delete_conversations(world.exchange))
    assert world.operations == before
    steps.close()
    player.release()
    world.exchange.session.drop(chat)  # its clean-up is still to come
    world.play(delete_conversations(world.exchange))
    assert world.operations == [*before, "stop", "delete", "delete_all"]


@pytest.mark.parametrize("prompt", ["Two", None], ids=["message", "retry"])
def test_failed_answer_can_be_followed_and_retried(prompt: str | None) -> None:
    world = TreeWorld(answers=[[STARTED, {"type": "stream", "token": "half"}, FAILED]])
    talk = talk_of(world)
    failure = fail(world, message_of(talk, "One").run())
    assert isinstance(failure, GenerationError)
    assert failure.partial == "half"
    assert send(world, talk, prompt).text == " Hello"
    assert (world.sent[1]["id"], world.sent[1]["is_retry"]) == ("a2", prompt is None)


def test_retry_of_a_rejected_message_sends_a_new_one() -> None:
    world = TreeWorld()
    talk = talk_of(world)
    world.script["message"] = iter([says({"message": "Message too long."}, 400)])
    fail(world, message_of(talk, "One").run())
    assert send(world, talk, None).text == " Hello"
    assert (world.sent[1]["id"], world.sent[1]["is_retry"]) == ("root-f1", False)


BUSY = says({"message": "You are sending too many messages."}, 429)


@pytest.mark.parametrize("main", [True, False], ids=["main", "0.10"])
@pytest.mark.parametrize("failure", [BUSY, lost()], ids=["rejected", "lost"])
def test_a_retry_of_what_did_not_arrive_does_not_replace_the_same_words(
    failure: Answer, main: bool
) -> None:
    world = TreeWorld(main=main, retries=0)
    talk = talk_of(world)
    send(world, talk, "Continue.")
    world.script["message"] = iter([lambda _: failure])
    fail(world, message_of(talk, "Continue.").run())
    send(world, talk, None)
    assert (world.sent[2]["id"], world.sent[2]["is_retry"]) == ("a2", False)
    assert [message.content for message in talk.messages] == ["Continue.", " Hello"] * 2
    assert len(world.play(talk.refresh())) == 4


@pytest.mark.parametrize("main", [True, False], ids=["main", "0.10"])
def test_a_retry_of_a_rejected_branch_begins_it(main: bool) -> None:
    world = TreeWorld(main=main)
    talk = talk_of(world)
    send(world, talk, "One")
    world.script["message"] = iter([BUSY])
    fail(world, message_of(talk, "One", parent="root-f1").run())
    send(world, talk, None)
    assert (world.sent[2]["id"], world.sent[2]["is_retry"]) == ("root-f1", False)


@pytest.mark.parametrize("main", [True, False], ids=["main", "0.10"])
def test_a_retry_of_a_rejected_retry_is_a_sibling_too(main: bool) -> None:
    world = TreeWorld(main=main)
    talk = talk_of(world)
    send(world, talk, "One")
    world.script["message"] = iter([BUSY])
    fail(world, message_of(talk, None).run())
    world.script["data"] = iter([lost()] * 9)
    fail(world, message_of(talk, None).run())  # its place is not known
    world.script.clear()
    send(world, talk, None)
    assert [(each["id"], each["is_retry"]) for each in world.sent[1:]] == [("a2", True)] * 2
    assert [message.content for message in talk.messages] == ["One", " Hello"]


def ask_elsewhere(world: TreeWorld, talk: ConversationCore, prompt: str) -> None:
    """Let another client, of which ours does not know, ask something."""
    other = ConversationCore(world.exchange, conversation=talk.id)
    other._turns = Turns()
    send(world, other, prompt)


def test_a_retry_is_of_the_last_message_that_is_stored() -> None:
    world = TreeWorld()
    talk = talk_of(world)
    send(world, talk, "One")
    ask_elsewhere(world, talk, "Two")
    before = world.operations.count("data")
    send(world, talk, None)
    assert (world.sent[2]["id"], world.sent[2]["is_retry"]) == ("a4", True)
    assert [message.content for message in talk.messages][::2] == ["One", "Two"]
    assert world.operations.count("data") == before + 1


def test_a_retry_of_a_failed_answer_is_its_sibling_wherever_others_went_on() -> None:
    world = TreeWorld(answers=[[STARTED, FAILED]])
    talk = talk_of(world)
    fail(world, message_of(talk, "One").run())
    ask_elsewhere(world, talk, "Two")
    send(world, talk, None)
    assert (world.sent[2]["id"], world.sent[2]["is_retry"]) == ("a2", True)
    assert [message.content for message in talk.messages] == ["One", " Hello"]


def test_message_that_is_too_long_is_an_error() -> None:
    world = TreeWorld({"message": says({"message": "Message too long."}, 400)})
    assert isinstance(fail(world, chat_of(world).run()), PromptTooLargeError)


def test_deleted_conversation_is_not_found() -> None:
    world = TreeWorld()
    talk = talk_of(world)
    send(world, talk, "One")
    world.trees.clear()
    assert isinstance(fail(world, message_of(talk, "Two").run()), NotFoundError)


def test_shared_conversation_has_a_url() -> None:
    world = TreeWorld({"share": says({"shareId": "VvyodcT"})}, well={})
    world.script["config"] = iter([says({"json": {"PUBLIC_SHARE_PREFIX": ""}})])
    assert world.play(talk_of(world).share()) == "https://host/chat/r/VvyodcT"
    world.script["share"] = iter([says({"shareId": "VvyodcT"})])
    world.script["config"] = iter([says({"json": {"PUBLIC_SHARE_PREFIX": "https://hf.co/chat/"}})])
    assert world.play(talk_of(world).share()) == "https://hf.co/chat/r/VvyodcT"


def test_every_page_of_the_list_is_read() -> None:
    def page(numbers: range, *, more: bool) -> Answer:
        infos = [{"id": f"{n:024x}", "title": "t", "model": "m"} for n in numbers]
        return says({"json": {"conversations": infos, "hasMore": more}})

    pages = [page(range(30), more=True), page(range(30, 60), more=True), page(range(0), more=False)]
    world = TreeWorld({"list": pages})
    assert len(world.play(conversations(world.exchange))) == 60
    assert [request.url[-4:] for request in world.requests] == ["?p=0", "?p=1", "?p=2"]
