"""Conversations in the core: turns, the remembered messages, and rejected calls."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from world import (
    CONVERSATION,
    GONE,
    JSON,
    MODAL,
    RESPONSE,
    Answer,
    Player,
    World,
    cut,
    data,
    lost,
    message_of,
    refused,
    says,
    streams,
    talk_of,
    token,
    whole,
)

from h2o_client.errors import (
    ConversationBusyError,
    GenerationError,
    H2oError,
    IncompleteStreamError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    ProtocolError,
    ServerError,
    TermsNotAcceptedError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.protocol import queries
from h2o_client.protocol.conversation import ConversationCore
from h2o_client.protocol.prompt import build_prompt
from h2o_client.protocol.saved import resume, save
from h2o_client.types import DEFAULT_MODEL, Message, Reply, Timeouts, WebSearchEntry

OTHER = "6b007c3d1090eb6ec94d77f2"
Play = Callable[[ConversationCore], Any]
ANSWER = streams(whole(" Hello"))
ERROR_EVENT = b'data:{"error":"CUDA out of memory","error_type":"generation"}\n\n'
INTERNAL = says({"message": "Internal Error"}, 500)
# 02_settings_variants: in the response to a form.
FORM_INTERNAL = says({"type": "error", "error": {"message": "Internal Error"}}, 500)
LOST_ID = says({"message": "Conversation not found"}, 404)


def new_world(answers: dict[str, Any] | None = None, **options: Any) -> World:
    return World({"message": ANSWER, **(answers or {})}, **options)


def send(world: World, talk: ConversationCore, prompt: str | None = "Hi", **options: Any) -> Reply:
    return world.play(message_of(talk, prompt, **options).run())


def fail(world: World, talk: ConversationCore, error: type[H2oError], **options: Any) -> H2oError:
    """Play a message that ends with an error, and its clean-up; return the error."""
    message = message_of(talk, **options)
    with pytest.raises(error) as caught:
        world.play(message.run())
    world.play(message.abandon(world.exchange.cleanup()))
    return caught.value


def said(talk: ConversationCore) -> list[tuple[str, str, bool]]:
    return [(message.role, message.content, message.partial) for message in talk.messages]


# Turns


def test_only_the_new_message_is_sent() -> None:
    world = new_world({"message": [ANSWER, streams(whole(" Ann."))]})
    talk = talk_of(world)
    assert (talk.id, talk.title, talk.model, talk.messages) == (None, None, DEFAULT_MODEL, [])
    first = send(world, talk, "My name is Ann.")
    world.pass_time(5.0)
    second = send(world, talk, "What is my name?")
    assert world.operations == ["create", "message", "message"]
    bodies = world.bodies("message")
    assert [sent["inputs"] for sent in bodies] == ["My name is Ann.", "What is my name?"]
    assert [sent["options"]["is_retry"] for sent in bodies] == [False, False]
    numbers = [sent["options"][key] for sent in bodies for key in ("id", "response_id")]
    assert len(set(numbers)) == 4
    assert talk.id == first.conversation_id == second.conversation_id == CONVERSATION
    assert [message.id for message in talk.messages] == numbers
    assert said(talk) == [
        ("user", "My name is Ann.", False),
        ("assistant", " Hello", False),
        ("user", "What is my name?", False),
        ("assistant", " Ann.", False),
    ]


def test_messages_can_be_passed_to_chat() -> None:
    world = new_world()
    talk = talk_of(world)
    send(world, talk)
    prompt = "User: Hi\nAssistant:  Hello\nAssistant:"
    assert build_prompt(talk.messages) == prompt
    assert build_prompt(save(talk)["messages"]) == prompt


def test_concurrent_message_is_rejected_before_sending() -> None:
    world = new_world()
    talk = talk_of(world)

    def second() -> None:
        before = len(world.requests)
        with pytest.raises(ConversationBusyError, match="still being answered"):
            send(world, talk, "Another")
        assert len(world.requests) == before

    world.on_emit = second
    assert send(world, talk).text == " Hello"
    world.on_emit = lambda: None
    assert send(world, talk, "Next").text == " Hello"
    assert [sent["inputs"] for sent in world.bodies("message")] == ["Hi", "Next"]


@pytest.mark.parametrize("operation", ["create", "message", "data"])
def test_conversation_is_busy_from_the_first_request(operation: str) -> None:
    answers = {
        "create": says({"conversationId": CONVERSATION}),
        "message": streams(token(" Hel"), cut()),
        "data": says(data(("assistant", " Hello", RESPONSE))),
    }
    right = answers[operation]
    refusals: list[H2oError] = []

    def answer(_: object) -> Answer:
        with pytest.raises(ConversationBusyError) as caught:
            send(world, talk, "Another")
        refusals.append(caught.value)
        return right

    world = new_world({**answers, operation: answer})
    talk = talk_of(world)
    assert send(world, talk).text == " Hello"
    assert len(refusals) == 1
    assert world.operations == ["create", "message", "data"]


@pytest.mark.parametrize(
    ("answer", "error", "partial"),
    [
        (streams(token(" One"), ERROR_EVENT), GenerationError, " One"),
        (streams(token(" One"), b"data:{nothing}\n\n"), ProtocolError, " One"),
        (streams(token(" One"), cut()), IncompleteStreamError, " One"),
    ],
)
def test_answer_interrupted_by_an_error_is_marked_partial(
    answer: Answer, error: type[H2oError], partial: str
) -> None:
    # The stored state of a turn that may be running is polled before the next message.
    stored = says(data(("assistant", " One two", RESPONSE)))
    world = new_world({"message": [answer, ANSWER], "data": stored})
    talk = talk_of(world)
    assert fail(world, talk, error, recover=False).partial == partial
    assert said(talk) == [("user", "Hi", False), ("assistant", partial, True)]
    assert send(world, talk, "Next").text == " Hello"
    assert said(talk)[2:] == [("user", "Next", False), ("assistant", " Hello", False)]


@pytest.mark.parametrize("answer", [INTERNAL, lost(sent=False), says({"error": "x"}, 422)])
def test_rejected_message_is_not_remembered(answer: Answer) -> None:
    world = new_world({"message": answer}, retries=0)
    talk = talk_of(world)
    with pytest.raises(H2oError):
        send(world, talk)
    assert talk.messages == []
    world = new_world({"message": [answer, ANSWER]}, retries=0)
    talk = talk_of(world, id=CONVERSATION)
    with pytest.raises(H2oError):
        send(world, talk)
    assert send(world, talk).text == " Hello"
    assert world.operations == ["message", "message"]  # no wait in between


def test_retry_repeats_a_rejected_message() -> None:
    # `retry()` repeats the last message that the caller sent.
    world = new_world({"message": [ANSWER, INTERNAL, streams(whole(" Second"))]}, retries=0)
    talk = talk_of(world)
    send(world, talk, "First")
    with pytest.raises(ServerError):
        send(world, talk, "Second")
    send(world, talk, None)
    assert world.bodies("message")[-1]["inputs"] == "Second"
    assert [content for _, content, _ in said(talk)] == ["First", " Hello", "Second", " Second"]


@pytest.mark.parametrize("answer", [INTERNAL, lost(sent=False), LOST_ID])
def test_failed_creation_can_be_tried_again(answer: Answer) -> None:
    world = new_world({"create": [answer, says({"conversationId": OTHER})]}, retries=0)
    world.exchange.session.accepted = True
    talk = talk_of(world)
    if answer is INTERNAL:  # the client checks whether the model is the cause
        world.script["root"] = iter([lost()])
    with pytest.raises(H2oError):
        send(world, talk)
    assert (talk.id, talk.to_be_deleted) == (None, False)
    assert send(world, talk).conversation_id == OTHER


# Retries


def test_retry_replaces_the_answer() -> None:
    world = new_world({"message": [ANSWER, ANSWER, streams(whole(" Better"))]})
    talk = talk_of(world)
    send(world, talk, "First")
    send(world, talk, "Second")
    reply = send(world, talk, None)
    first, second, again = world.bodies("message")
    assert (again["inputs"], again["options"]["is_retry"]) == ("Second", True)
    assert again["options"]["id"] == second["options"]["id"] == reply.message_id
    assert again["options"]["response_id"] == reply.response_id
    assert reply.response_id not in (first["options"]["response_id"], second["options"]["id"])
    assert [content for _, content, _ in said(talk)] == ["First", " Hello", "Second", " Better"]
    assert talk.messages[-1].id == reply.response_id
    send(world, talk, None)
    assert len(talk.messages) == 4


def test_retry_replaces_a_partial_answer() -> None:
    world = new_world({"message": [streams(token(" One"), ERROR_EVENT), ANSWER]})
    talk = talk_of(world)
    with pytest.raises(GenerationError):
        send(world, talk)
    send(world, talk, None)
    assert said(talk) == [("user", "Hi", False), ("assistant", " Hello", False)]


def test_retry_in_a_resumed_conversation_fetches_the_last_message() -> None:
    stored = data(
        ("user", "First", "a"),
        ("assistant", " One", "b"),
        ("user", "Second", "c"),
        ("assistant", " Two", "d"),
    )
    world = new_world({"data": says(stored)})
    talk = talk_of(world, id=CONVERSATION)
    reply = send(world, talk, None)
    assert world.operations == ["data", "message"]
    (again,) = world.bodies("message")
    assert again["inputs"] == "Second"
    assert (again["options"]["id"], again["options"]["is_retry"]) == ("c", True)
    assert said(talk) == [("user", "Second", False), ("assistant", " Hello", False)]
    assert reply.message_id == "c"


def test_retry_of_a_shared_conversation_copies_it_first() -> None:
    world = new_world({"data": says(data(("user", "First", "a"), ("assistant", " One", "b")))})
    send(world, talk_of(world, from_share="PMvsTaJ"), None)
    assert world.operations == ["create", "data", "message"]


@pytest.mark.parametrize("taken_up", [True, False])
def test_retry_without_a_message_is_an_error(taken_up: bool) -> None:
    world = new_world({"data": says(data())})
    talk = talk_of(world, id=CONVERSATION if taken_up else None)
    with pytest.raises(ValueError, match="does not have a message to retry"):
        send(world, talk, None)
    assert "message" not in world.operations
    assert send(world, talk).text == " Hello"  # it is not busy


def test_retry_in_a_deleted_conversation_is_an_error() -> None:
    world = new_world({"data": says(GONE)})
    with pytest.raises(NotFoundError, match="no longer has this conversation"):
        send(world, talk_of(world, id=CONVERSATION), None)


# Stopped and abandoned turns


def stopped(world: World, talk: ConversationCore) -> Reply:
    """Stop an answer after its first token; the server closes without a final event."""
    question = message_of(talk)
    world.on_emit = lambda: world.play(question.stop())
    try:
        return world.play(question.run())
    finally:
        world.on_emit = lambda: None


STOPPED = [streams(token(" One"), cut()), ANSWER]


def test_stop_keeps_the_partial_answer() -> None:
    world = new_world({"message": STOPPED})
    talk = talk_of(world)
    reply = stopped(world, talk)
    assert (reply.text, reply.finish_reason) == (" One", "stopped")
    assert said(talk) == [("user", "Hi", False), ("assistant", " One", True)]
    assert world.operations == ["create", "message", "stop"]


def test_next_message_waits_until_the_stopped_turn_is_stored() -> None:
    nothing, there = says(data()), says(data(("assistant", " One two", RESPONSE)))
    looks = [nothing, lost(), says(b"<html>"), nothing, there]
    world = new_world({"message": STOPPED, "data": looks})
    talk = talk_of(world)
    stopped(world, talk)
    send(world, talk, "Next")
    assert world.operations == ["create", "message", "stop", *["data"] * 5, "message"]
    assert world.slept == [0.05, 0.1, 0.2, 0.4]
    send(world, talk, "And so on")
    assert world.operations[-3:] == ["message", "data", "message"]
    assert world.notes == ["waiting until the last turn is stored, for at most 120 s"]


@pytest.mark.parametrize(
    ("timeouts", "seconds"),
    [
        (Timeouts(), 120.0),
        (Timeouts(first_token=3.0), 3.0),
        (Timeouts(total=10.0), 10.0),
        (Timeouts(total=200.0), 200.0),
    ],
)
@pytest.mark.parametrize("answer", [says(data()), lost(), Answer(delay=100.0)])
def test_message_is_not_sent_while_the_last_turn_may_be_running(
    timeouts: Timeouts, seconds: float, answer: Answer
) -> None:
    world = new_world({"message": STOPPED, "data": answer}, timeouts=timeouts)
    talk = talk_of(world)
    stopped(world, talk)
    begun = world.now
    with pytest.raises(ConversationBusyError, match=r"nothing was sent.*wait and call again"):
        send(world, talk, "Next")
    assert world.now - begun == pytest.approx(seconds, abs=0.1)
    assert max(world.slept, default=0.0) <= 1.0
    assert world.operations.count("message") == 1
    assert said(talk) == [("user", "Hi", False), ("assistant", " One", True)]
    # The advice to the caller.
    world.script["data"] = iter([says(data(("assistant", " One two", RESPONSE)))])
    assert send(world, talk, "Next").text == " Hello"


@pytest.mark.parametrize(
    "play",
    [
        lambda talk: talk.refresh(),
        lambda talk: talk.vote(RESPONSE, 1),
        lambda talk: talk.prompt(RESPONSE),
        lambda talk: talk.share(),
        lambda talk: talk.summarize(),
    ],
    ids=["refresh", "vote", "prompt", "share", "summarize"],
)
def test_other_operations_wait_for_the_stopped_turn(play: Play) -> None:
    # 60 s, `Timeouts.idle`: the limit of a small operation.
    world = new_world({"message": STOPPED, "data": says(data())})
    talk = talk_of(world)
    stopped(world, talk)
    begun = world.now
    with pytest.raises(ConversationBusyError):
        world.play(play(talk))
    assert world.now - begun == pytest.approx(60.0)
    assert set(world.operations[3:]) == {"data"}


def test_vote_waits_for_the_stopped_answer() -> None:
    there = says(data(("assistant", " One two", RESPONSE)))
    world = new_world({"message": STOPPED, "data": [says(data()), there], "vote": says(b"")})
    talk = talk_of(world)
    stopped(world, talk)
    world.play(talk.vote(RESPONSE, 1))
    assert world.operations == ["create", "message", "stop", "data", "data", "vote"]


def left_before_the_first_token(world: World, talk: ConversationCore) -> None:
    """Cancel a call before its answer starts; the server is told to stop."""
    question = message_of(talk)
    steps = Player(world).drive_to(question.run(), "send message")
    next(steps)
    steps.close()
    world.play(question.abandon(world.exchange.cleanup()))


def stopped_in_vain(world: World, talk: ConversationCore) -> None:
    """Stop twice within a minute: the second time, the server generates to the end [11b]."""
    world.script["message"] = iter([STOPPED[0], STOPPED[0]])
    stopped(world, talk)
    world.store(CONVERSATION, " One")
    stopped(world, talk)


def timed_out(world: World, talk: ConversationCore) -> None:
    """Hit a time limit while the model is silent."""
    world.script["message"] = iter([Answer(delay=45.0)])
    fail(world, talk, TransportTimeoutError)


def lost_unrecovered(world: World, talk: ConversationCore) -> None:
    """Lose the connection, without recovery."""
    world.script["message"] = iter([streams(token(" One"), cut())])
    fail(world, talk, IncompleteStreamError, recover=False)


def lost_with_a_server_that_cannot_be_told(world: World, talk: ConversationCore) -> None:
    """Lose the connection, fail to recover, and fail to tell the server to stop."""
    world.script["message"] = iter([streams(token(" One"), cut())])
    world.script["stop"] = iter([INTERNAL])
    question = message_of(talk)
    with pytest.raises(IncompleteStreamError):
        world.play(question.run())
    with pytest.raises(ServerError):
        world.play(question.abandon(world.exchange.cleanup()))


Leave = Callable[[World, ConversationCore], None]
LEAVE: list[Leave] = [
    left_before_the_first_token,
    stopped_in_vain,
    timed_out,
    lost_unrecovered,
    lost_with_a_server_that_cannot_be_told,
]


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("prompt", ["Next", None])
def test_abandoned_generation_overwrites_nothing(leave: Leave, prompt: str | None) -> None:
    world = World(timeouts=Timeouts(first_token=3.0))
    talk = talk_of(world)
    leave(world, talk)
    asked = world.operations.count("message")
    with pytest.raises(ConversationBusyError):
        send(world, talk, prompt)
    assert world.operations.count("message") == asked
    world.on_sleep = lambda: world.store(CONVERSATION, " One two")
    assert send(world, talk, prompt).text == " Hello"
    assert world.operations[-3:] == ["data", "data", "message"]


@pytest.mark.parametrize("leave", LEAVE)
def test_generation_that_is_never_stored_does_not_block_forever(leave: Leave) -> None:
    world = World(timeouts=Timeouts(first_token=3.0))
    talk = talk_of(world)
    leave(world, talk)
    world.pass_time(300.0)
    assert send(world, talk, "Next").text == " Hello"
    assert world.operations[-2] != "data"


@pytest.mark.parametrize(
    "answer", [streams(token(" One"), ERROR_EVENT), says({"error": "x"}, 424), INTERNAL, LOST_ID]
)
def test_failed_turn_is_not_waited_for(answer: Answer) -> None:
    world = new_world({"message": [answer, ANSWER]}, retries=0)
    talk = talk_of(world)
    with pytest.raises(H2oError):
        send(world, talk)
    send(world, talk, "Next")
    assert world.operations == ["create", "message", "message"]


def test_unrecovered_answer_is_not_waited_for_again() -> None:
    # The model server has died. A late stop costs its second, and no more.
    world = World({"message": [streams(token(" One"), cut()), ANSWER]}, retries=0)
    talk = talk_of(world)
    fail(world, talk, IncompleteStreamError)
    assert world.elapsed == pytest.approx(30.0)
    send(world, talk, "Next")
    assert world.elapsed <= 35.1
    assert world.notes == [
        "the connection was lost: looking for the stored answer, for at most 30 s",
        "waiting until the last turn is stored, for at most 5 s",
    ]


def test_another_object_of_the_conversation_waits_too() -> None:
    world = new_world({"message": STOPPED, "data": says(data())}, timeouts=Timeouts(total=10.0))
    talk = talk_of(world)
    stopped(world, talk)
    with pytest.raises(ConversationBusyError):
        send(world, talk_of(world, id=CONVERSATION), "Next")
    assert world.operations.count("message") == 1


# Answered turns


def test_next_message_checks_that_the_last_answer_is_stored() -> None:
    world = World()
    talk = talk_of(world)
    send(world, talk)
    (stored,) = world.stored.values()
    world.stored.clear()
    world.on_sleep = lambda: world.stored.update({CONVERSATION: stored})
    send(world, talk, "Next")
    assert world.operations == ["create", "message", "data", "data", "message"]
    assert world.slept == [0.05]


def test_refresh_waits_until_the_last_answer_is_stored() -> None:
    world = World()
    talk = talk_of(world)
    send(world, talk)
    (stored,) = world.stored.values()
    world.stored.clear()
    world.on_sleep = lambda: world.stored.update({CONVERSATION: stored})
    assert [m.content for m in world.play(talk.refresh())] == ["Hi", " Hello"]
    assert world.operations == ["create", "message", "data", "data"]
    world.play(talk.refresh())
    assert world.operations[4:] == ["data"]


def test_unstored_answer_is_logged_once() -> None:
    world = new_world({"data": says(data())})
    talk = talk_of(world)
    send(world, talk)
    begun = world.now
    with pytest.raises(ConversationBusyError, match="has not stored the last answer"):
        send(world, talk, "Next")
    assert world.now - begun == pytest.approx(30.0)
    assert world.operations.count("message") == 1
    assert send(world, talk, "Next").text == " Hello"


def test_unreadable_history_does_not_block_the_next_message() -> None:
    world = new_world({"data": says(b"<html>")})
    talk = talk_of(world)
    send(world, talk)
    begun = world.now
    send(world, talk, "Next")
    assert world.now - begun == pytest.approx(5.0)


def test_messages_equal_the_stored_history() -> None:
    # The server strips like JavaScript: a line separator is removed, a unit separator is kept.
    text = " One \x1f\n\u2028 "
    world = World({"message": streams(whole(text))})
    talk = talk_of(world)
    reply = send(world, talk, "\n Hi \x1f ")
    assert reply.text == text
    contents = [message.content for message in talk.messages]
    assert contents == ["Hi \x1f", " One \x1f"]


def test_messages_of_a_stopped_turn_are_updated_from_the_store() -> None:
    world = new_world({"message": STOPPED, "data": says(data(("assistant", " One two", RESPONSE)))})
    talk = talk_of(world)
    stopped(world, talk)
    assert said(talk)[1] == ("assistant", " One", True)
    world.play(talk.refresh())
    assert said(talk)[1] == ("assistant", " One two", True)


def test_abandoned_turn_is_waited_for() -> None:
    world = new_world({"message": STOPPED, "data": says(data(("assistant", " One", RESPONSE)))})
    talk = talk_of(world)
    question = message_of(talk)
    Player(world).drive_to(question.run(), "emit").close()
    world.play(question.abandon(world.exchange.cleanup()))
    assert said(talk) == [("user", "Hi", False), ("assistant", " One", True)]
    send(world, talk, "Next")
    assert world.operations == ["create", "message", "stop", "data", "message"]


def test_answer_aborted_by_the_model_server_is_not_waited_for() -> None:
    # Its response ended regularly: nothing is being generated or will be stored
    # [05_upstream_truncate_clean], and the search for it is over.
    world = new_world({"message": [streams(token(" One")), ANSWER], "data": says(data())})
    talk = talk_of(world)
    fail(world, talk, IncompleteStreamError)
    assert world.elapsed == pytest.approx(2.0)
    send(world, talk, "Next")
    assert world.elapsed == pytest.approx(2.0)


def test_unrecovered_cut_answer_is_waited_for_5_seconds() -> None:
    world = new_world({"message": [streams(token(" One")), ANSWER], "data": says(data())})
    talk = talk_of(world)
    with pytest.raises(IncompleteStreamError):
        send(world, talk, recover=False)
    send(world, talk, "Next")
    assert world.elapsed == pytest.approx(5.0)


def test_conversation_deleted_while_waiting_is_an_error() -> None:
    world = new_world({"message": STOPPED, "data": says(GONE)})
    talk = talk_of(world)
    stopped(world, talk)
    with pytest.raises(NotFoundError, match="no longer has this conversation"):
        send(world, talk, "Next")


def test_stop_while_waiting_for_the_stopped_turn_sends_no_message() -> None:
    world = new_world({"message": STOPPED, "data": says(data())})
    talk = talk_of(world)
    stopped(world, talk)
    question = message_of(talk, "Next")
    begun = world.now

    def sleep() -> None:
        world.play(question.stop())

    world.on_sleep = sleep
    reply = world.play(question.run())
    assert (reply.text, reply.finish_reason) == ("", "stopped")
    assert world.now - begun <= 1.0
    assert world.operations.count("message") == 1
    # An unsent message is not remembered.
    assert said(talk) == [("user", "Hi", False), ("assistant", " One", True)]


def test_stop_before_sending_sends_nothing() -> None:
    world = new_world()
    talk = talk_of(world)
    question = message_of(talk)
    world.play(question.stop())
    reply = world.play(question.run())
    assert (reply.text, reply.finish_reason) == ("", "stopped")
    assert world.requests == []
    assert talk.messages == []


def test_stop_during_creation_sends_no_message() -> None:
    def made(_: object) -> Answer:
        world.play(question.stop())
        return says({"conversationId": CONVERSATION})

    world = new_world({"create": made})
    talk = talk_of(world)
    question = message_of(talk)
    assert world.play(question.run()).finish_reason == "stopped"
    assert world.operations == ["create"]
    assert (talk.messages, talk.id) == ([], CONVERSATION)


def test_stop_before_the_first_token_leaves_an_empty_answer() -> None:
    def asked(_: object) -> Answer:
        world.play(question.stop())
        return lost()  # [28_stop_variants]

    world = new_world({"message": asked})
    talk = talk_of(world)
    question = message_of(talk)
    assert world.play(question.run()).finish_reason == "stopped"
    assert world.operations == ["create", "message", "stop"]
    assert said(talk) == [("user", "Hi", False), ("assistant", "", True)]


def test_failed_stop_is_logged() -> None:
    world = new_world({"message": STOPPED, "stop": INTERNAL})
    talk = talk_of(world)
    assert stopped(world, talk).finish_reason == "stopped"
    assert any("could not be told to stop" in warning for warning in world.warnings)


# Deletion at the end


@pytest.mark.parametrize(
    ("taken", "keep", "deleted"),
    [
        ("made", None, True),
        ("made", True, False),
        ("made", False, True),
        ("id", None, False),
        ("id", True, False),
        ("id", False, True),
        ("share", None, True),
        ("share", True, False),
        ("share", False, True),
        ("saved", None, False),
        ("saved", True, False),
        ("saved", False, True),
        ("saved new", None, True),
        ("saved new", True, False),
    ],
)
@pytest.mark.parametrize("used", [True, False])
def test_only_own_conversations_are_deleted_at_the_end(
    taken: str, keep: bool | None, deleted: bool, used: bool
) -> None:
    world = new_world()
    if taken.startswith("saved"):
        number = CONVERSATION if taken == "saved" else None
        saved: dict[str, Any] = {
            "format": 1,
            "id": number,
            "title": None,
            "model": "m",
            "messages": [],
        }
        talk = resume(world.exchange, saved, keep=keep)
    else:
        talk = talk_of(
            world,
            keep=keep,
            id=CONVERSATION if taken == "id" else None,
            from_share="PMvsTaJ" if taken == "share" else None,
        )
    if used:
        send(world, talk)
    there = used or taken in ("id", "saved")
    assert talk.to_be_deleted == (deleted and there)
    world.play(talk.abandon(world.exchange.cleanup()))
    world.play(talk.abandon(world.exchange.cleanup()))
    assert world.operations.count("delete") == (deleted and there)
    assert not talk.to_be_deleted


def test_delete_works_once_even_with_keep() -> None:
    world = new_world(dialect="chat-ui-2023")
    talk = talk_of(world, id=CONVERSATION)
    world.play(talk.delete())
    world.play(talk.delete())
    assert world.operations == ["delete"]
    never = talk_of(world)
    world.play(never.delete())
    assert world.operations == ["delete"]


def test_missing_conversation_counts_as_deleted() -> None:
    world = new_world({"delete": LOST_ID})
    talk = talk_of(world, id=CONVERSATION, keep=False)
    world.play(talk.abandon(world.exchange.cleanup()))
    assert not talk.to_be_deleted


def test_failed_deletion_can_be_repeated() -> None:
    world = new_world({"delete": [INTERNAL, says(b"")]})
    talk = talk_of(world, id=CONVERSATION, keep=False)
    with pytest.raises(ServerError):
        world.play(talk.abandon(world.exchange.cleanup()))
    assert talk.to_be_deleted
    world.play(talk.abandon(world.exchange.cleanup()))
    assert not talk.to_be_deleted


# Arguments


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"id": CONVERSATION, "from_share": "PMvsTaJ"}, ValueError, "not both"),
        ({"id": CONVERSATION, "model": "m"}, ValueError, "omit `model`"),
        ({"from_share": "PMvsTaJ", "model": "m"}, ValueError, "omit `model`"),
        ({"model": " "}, ValueError, "blank"),
        ({"model": 7}, TypeError, "model must be a string"),
        ({"id": ""}, ValueError, "not a valid conversation id"),
        ({"id": "../settings"}, ValueError, "not a valid conversation id"),
        ({"id": "a" * 65}, ValueError, "not a valid conversation id"),
        ({"id": "a?b"}, ValueError, "not a valid conversation id"),
        ({"from_share": ""}, ValueError, "not a share link"),
        ({"from_share": "https://x/conversation/abc"}, ValueError, "not a share link"),
        ({"from_share": 7}, TypeError, "URL"),
    ],
)
def test_invalid_conversation_arguments_are_rejected(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        talk_of(new_world(), **options)


@pytest.mark.parametrize(
    "share",
    [
        "PMvsTaJ",
        " PMvsTaJ\n",
        "https://gpt-gm.h2o.ai/r/PMvsTaJ",
        "http://127.0.0.1:3004/r/PMvsTaJ/",
        "http://127.0.0.1/chat/r/PMvsTaJ?x=1#top",
        "/r/PMvsTaJ",
    ],
)
def test_share_is_accepted_as_url_or_id(share: str) -> None:
    assert queries.parse_share(share) == "PMvsTaJ"
    world = new_world()
    send(world, talk_of(world, from_share=share))
    assert world.bodies("create") == [{"fromShare": "PMvsTaJ", "model": DEFAULT_MODEL}]


@pytest.mark.parametrize("share", ["", "/", "a b", "https://h/r/", "https://h/r/a/b", "x" * 65])
def test_invalid_share_is_rejected(share: str) -> None:
    with pytest.raises(ValueError, match="not a share link"):
        queries.parse_share(share)


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ("", {}, ValueError),
        ("  \n", {}, ValueError),
        ("\u3000", {}, ValueError),
        (7, {}, TypeError),
        (["Hi"], {}, TypeError),
        ("Hi", {"keywords": {"temprature": 1}}, TypeError),
        ("Hi", {"keywords": {"temperature": "1"}}, TypeError),
        ("Hi", {"parameters": {"x": float("nan")}}, ValueError),
        ("Hi", {"parameters": 7}, TypeError),
        ("Hi", {"retries": -1}, ValueError),
    ],
)
def test_invalid_message_is_rejected_immediately(
    prompt: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        message_of(talk_of(new_world()), prompt, **options)


def test_message_with_a_lone_surrogate_is_rejected_before_sending() -> None:
    world = new_world()
    talk = talk_of(world)
    with pytest.raises(ValueError, match="surrogate"):
        send(world, talk, "Hi \ud800")
    assert world.requests == []


def test_parameters_of_client_and_call_are_merged() -> None:
    world = new_world(parameters={"top_p": 0.5, "seed": 1})
    send(world, talk_of(world), parameters={"seed": 2}, keywords={"temperature": 0.1})
    (sent,) = world.bodies("message")
    assert sent["parameters"]["top_p"] == 0.5
    assert (sent["parameters"]["seed"], sent["parameters"]["temperature"]) == (2, 0.1)
    assert sent["parameters"]["max_new_tokens"] == 1024


# Other operations


@pytest.mark.parametrize(
    ("play", "error"),
    [
        (lambda talk: talk.rename(""), ValueError),
        (lambda talk: talk.rename("  "), ValueError),
        (lambda talk: talk.rename("x" * 101), ValueError),
        (lambda talk: talk.rename("👋" * 51), ValueError),
        (lambda talk: talk.rename(7), TypeError),
        (lambda talk: talk.rename(None), TypeError),
        (lambda talk: talk.vote("m", 2), ValueError),
        (lambda talk: talk.vote("m", True), ValueError),
        (lambda talk: talk.vote("m", "1"), ValueError),
        (lambda talk: talk.vote("m", None), ValueError),
        (lambda talk: talk.vote("", 1), ValueError),
        (lambda talk: talk.vote(7, 1), TypeError),
        (lambda talk: talk.prompt(" "), ValueError),
        (lambda talk: talk.prompt(None), TypeError),
    ],
)
def test_invalid_arguments_of_operations_send_nothing(play: Play, error: type[Exception]) -> None:
    world = new_world()
    with pytest.raises(error):
        world.play(play(talk_of(world)))
    assert world.requests == []


@pytest.mark.parametrize("title", ["x", "x" * 100, "👋" * 50, "  Names \n"])
def test_rename_strips_the_title(title: str) -> None:
    world = new_world({"rename": says(b"")})
    talk = talk_of(world, id=CONVERSATION)
    world.play(talk.rename(title))
    assert world.bodies("rename") == [{"title": title.strip()}]
    assert talk.title == title.strip()


def test_summarize_strips_the_title() -> None:
    world = new_world({"summarize": says({"title": " Stub chat title"})})
    talk = talk_of(world, id=CONVERSATION)
    assert world.play(talk.summarize()) == talk.title == "Stub chat title"


def test_vote_prompt_and_share_name_their_target() -> None:
    preview = {"note": "", "prompt": "<|prompt|>Hi", "model": "m", "parameters": {"truncate": 1}}
    world = new_world(
        {"vote": says(b""), "prompt": says(preview), "share": says({"url": "http://x/r/abc1234"})}
    )
    talk = talk_of(world, id=CONVERSATION)
    for score in (1, -1, 0):
        world.play(talk.vote("a-b_c", score))
    assert [sent["score"] for sent in world.bodies("vote")] == [1, -1, 0]
    assert world.requests[0].url.endswith(f"/conversation/{CONVERSATION}/message/a-b_c/vote")
    found = world.play(talk.prompt("abc"))
    assert (str(found), found.model, found.parameters) == ("<|prompt|>Hi", "m", {"truncate": 1})
    assert world.requests[-1].url.endswith(f"/conversation/{CONVERSATION}/message/abc/prompt")
    assert world.play(talk.share()) == "http://x/r/abc1234"


def test_refresh_updates_title_model_and_messages() -> None:
    stored = data(("user", "Hi", "a"), ("assistant", " Hello", "b"), title=" Names", model="m7")
    world = new_world({"data": says(stored)})
    talk = talk_of(world, id=CONVERSATION)
    assert talk.model == ""
    messages = world.play(talk.refresh())
    assert [(m.role, m.content, m.id) for m in messages] == [
        ("user", "Hi", "a"),
        ("assistant", " Hello", "b"),
    ]
    assert (talk.title, talk.model) == ("Names", "m7")
    assert talk.messages == []


def test_history_of_an_uncreated_conversation_sends_nothing() -> None:
    world = new_world()
    assert world.play(talk_of(world).refresh()) == []
    assert world.requests == []


@pytest.mark.parametrize(
    ("operation", "play"),
    [
        ("message", lambda talk: message_of(talk).run()),
        ("data", lambda talk: talk.refresh()),
        ("rename", lambda talk: talk.rename("x")),
        ("summarize", lambda talk: talk.summarize()),
        ("share", lambda talk: talk.share()),
        ("vote", lambda talk: talk.vote("m", 1)),
        ("prompt", lambda talk: talk.prompt("m")),
        ("search", lambda talk: message_of(talk, web_search=True).run()),
    ],
)
def test_missing_conversation_is_an_error(operation: str, play: Play) -> None:
    gone = says(GONE) if operation == "data" else LOST_ID
    world = new_world({operation: gone})
    talk = talk_of(world, id=CONVERSATION)
    with pytest.raises(NotFoundError) as caught:
        world.play(play(talk))
    assert "the server no longer has this conversation" in str(caught.value)
    assert caught.value.status == 404
    assert caught.value.message.startswith("Conversation not found")


def test_missing_message_is_not_a_missing_conversation() -> None:
    world = new_world({"vote": says({"message": "Message not found"}, 404)})
    with pytest.raises(NotFoundError, match="Message not found"):
        world.play(talk_of(world, id=CONVERSATION).vote("m", 1))


# Saving and resuming


def test_saved_conversation_is_restored() -> None:
    world = new_world({"message": [ANSWER, streams(token(" One"), ERROR_EVENT)]})
    talk = talk_of(world)
    send(world, talk)
    with pytest.raises(GenerationError):
        send(world, talk, "Again")
    talk.title = "Names"
    saved = json.loads(json.dumps(save(talk)))
    assert world.exchange.session.value not in json.dumps(saved)
    again = resume(world.exchange, saved, keep=None)
    assert (again.id, again.title, again.model) == (CONVERSATION, "Names", DEFAULT_MODEL)
    assert again.messages == talk.messages
    assert [message.partial for message in again.messages] == [False, False, False, True]
    assert save(again) == saved


def test_conversation_saved_before_use_is_created_later() -> None:
    world = new_world()
    saved = save(talk_of(world, model="m7"))
    talk = resume(world.exchange, saved, keep=None)
    send(world, talk)
    assert world.bodies("create") == [{"model": "m7"}]


def test_conversation_saved_before_use_keeps_its_share() -> None:
    world = new_world()
    saved = json.loads(json.dumps(save(talk_of(world, from_share="PMvsTaJ"))))
    send(world, resume(world.exchange, saved, keep=None))
    assert world.bodies("create")[0].get("fromShare") == "PMvsTaJ"


SAVED: dict[str, Any] = {
    "format": 1,
    "id": CONVERSATION,
    "title": "Names",
    "model": "m",
    "messages": [{"role": "user", "content": "Hi", "id": "a"}],
}


def test_retry_in_a_saved_conversation_knows_the_last_message() -> None:
    world = new_world()
    send(world, resume(world.exchange, SAVED, keep=None), None)
    assert world.operations == ["message"]
    assert world.bodies("message")[0]["options"]["id"] == "a"


@pytest.mark.parametrize(
    ("saved", "error"),
    [
        ([], TypeError),
        ("{}", TypeError),
        (None, TypeError),
        ({}, ValueError),
        ({**SAVED, "format": 2}, ValueError),
        ({**SAVED, "format": None}, ValueError),
        ({**SAVED, "id": 7}, ValueError),
        ({**SAVED, "id": "../x"}, ValueError),
        ({**SAVED, "id": ""}, ValueError),
        ({**SAVED, "title": 7}, ValueError),
        ({**SAVED, "model": []}, ValueError),
        ({**SAVED, "share": 7}, ValueError),
        ({**SAVED, "share": "../x"}, ValueError),
        ({**SAVED, "messages": None}, ValueError),
        ({**SAVED, "messages": "Hi"}, ValueError),
        ({**SAVED, "messages": {"role": "user"}}, ValueError),
        ({**SAVED, "messages": [7]}, ValueError),
        ({**SAVED, "messages": [{}]}, ValueError),
        ({**SAVED, "messages": [{"role": "user"}]}, ValueError),
        ({**SAVED, "messages": [{"role": 7, "content": "Hi"}]}, ValueError),
        ({**SAVED, "messages": [{"role": "user", "content": None}]}, ValueError),
        ({**SAVED, "messages": [{"role": "user", "content": "Hi", "id": 7}]}, ValueError),
    ],
)
def test_invalid_saved_conversation_is_rejected(saved: Any, error: type[Exception]) -> None:
    with pytest.raises(
        error, match=r"saved conversation|not a valid conversation id|not a share link"
    ):
        resume(new_world().exchange, saved, keep=None)


# Web search


def searched(*lists: list[dict[str, Any]], tail: tuple[Any, ...] = ()) -> Answer:
    """Send the list so far again and again, without an end [16_web_search]."""
    pieces = [json.dumps({"messages": each}).encode() for each in lists]
    return Answer(200, (*pieces, *tail), JSON)


UPDATE = {"type": "update", "message": "Searching Google", "args": ["cup"]}
FAILED = {"type": "error", "message": "An error occurred with the web search", "args": ["no key"]}
RESULT = {"type": "result", "id": "6b007ca61090eb6ec94d784e"}
NEVER = 1e9


def test_web_search_runs_before_the_message() -> None:
    search = searched([UPDATE], [UPDATE, RESULT], tail=(NEVER,))
    world = new_world({"search": search})
    talk = talk_of(world)
    entries: list[WebSearchEntry] = []
    reply = send(world, talk, "Who won?", web_search=True, on_web_search=entries.append)
    assert world.operations == ["create", "search", "message"]
    url = world.requests[1].url
    assert url.endswith(f"/conversation/{CONVERSATION}/web-search?prompt=Who+won%3F")
    assert world.bodies("message")[0]["options"]["web_search_id"] == RESULT["id"]
    assert [entry.type for entry in entries] == ["update", "result"]
    assert reply.web_search == tuple(entries)
    assert talk.messages[-1].web_search_id == RESULT["id"]


@pytest.mark.parametrize(
    ("options", "searches"),
    [
        ({}, 0),
        ({"web_search": False}, 0),
        ({"web_search": True}, 1),
        ({"on_web_search": lambda entry: entry}, 1),
    ],
)
def test_web_search_option_decides_about_searching(options: dict[str, Any], searches: int) -> None:
    world = new_world({"search": searched([RESULT], tail=(NEVER,))})
    reply = send(world, talk_of(world), **options)
    assert world.operations.count("search") == searches
    assert len(reply.web_search) == searches
    assert world.bodies("message")[0]["options"]["web_search_id"] == (
        RESULT["id"] if searches else ""
    )


def test_search_error_entry_does_not_fail_the_call() -> None:
    world = new_world({"search": searched([UPDATE], [UPDATE, FAILED, RESULT], tail=(NEVER,))})
    reply = send(world, talk_of(world), web_search=True)
    assert reply.text == " Hello"
    assert [(entry.type, entry.args) for entry in reply.web_search] == [
        ("update", ("cup",)),
        ("error", ("no key",)),
        ("result", ()),
    ]


@pytest.mark.parametrize(
    ("search", "error"),
    [
        (searched([UPDATE]), IncompleteStreamError),
        (searched([UPDATE], tail=(cut(),)), TransportError),
        (searched([UPDATE], tail=(NEVER,)), TransportError),
        (Answer(delay=NEVER), TransportError),
        (says(b"<html>"), ProtocolError),
        (INTERNAL, ServerError),
        (says(b"", 204), ProtocolError),
    ],
)
def test_failed_search_leaves_the_conversation_unchanged(
    search: Answer, error: type[H2oError]
) -> None:
    world = new_world({"search": [search, searched([RESULT], tail=(NEVER,))]})
    talk = talk_of(world, id=CONVERSATION)
    with pytest.raises(error):
        send(world, talk, web_search=True)
    assert "message" not in world.operations
    assert talk.messages == []
    assert send(world, talk, web_search=True).text == " Hello"


@pytest.mark.parametrize(
    "failure",
    [
        lost(),
        lost(sent=False),
        Answer(502),
        Answer(503),
        Answer(504),
        Answer(429),
        Answer(200, (cut(),), JSON),
        says({"message": MODAL}, 405),
    ],
    ids=repr,
)
def test_search_without_entries_is_retried(failure: Answer) -> None:
    world = new_world({"search": [failure, searched([RESULT], tail=(NEVER,))]})
    entries: list[WebSearchEntry] = []
    reply = send(world, talk_of(world), on_web_search=entries.append)
    assert reply.text == " Hello"
    assert [entry.type for entry in entries] == ["result"]
    assert world.operations.count("search") == 2
    assert world.operations.count("settings") == (failure.status == 405)


def test_search_is_retried_as_often_as_the_call_allows() -> None:
    world = new_world({"search": Answer(503)})
    with pytest.raises(OverloadedError):
        send(world, talk_of(world), web_search=True, retries=2)
    assert world.operations.count("search") == 3


def test_session_forgotten_twice_ends_the_search() -> None:
    world = new_world({"search": says({"message": MODAL}, 405)})
    with pytest.raises(TermsNotAcceptedError):
        send(world, talk_of(world), web_search=True)
    assert world.operations == ["create", "search", "settings", "search"]


def test_search_ended_by_a_stop_is_not_an_error() -> None:
    def stop() -> bytes:
        world.play(question.stop())
        return b""

    world = new_world({"search": searched([UPDATE], tail=(stop,))})
    question = message_of(talk_of(world), web_search=True)
    assert world.play(question.run()).finish_reason == "stopped"


def test_stop_of_an_unsent_message_does_not_affect_another() -> None:
    world = new_world()
    talk = talk_of(world)
    running = Player(world).drive(message_of(talk).run())
    next(running)
    question = message_of(talk, "And you?")
    world.play(question.stop())
    assert world.play(question.run()).finish_reason == "stopped"
    for _ in running:
        pass
    assert said(talk) == [("user", "Hi", False), ("assistant", " Hello", False)]


@pytest.mark.parametrize("woken", ["continues", "is interrupted"])
def test_stop_during_a_web_search_sends_no_message(woken: str) -> None:
    def stop() -> bytes | H2oError:
        world.play(question.stop())
        return cut() if woken == "is interrupted" else json.dumps({"messages": []}).encode()

    world = new_world({"search": searched([UPDATE], tail=(stop, NEVER))})
    talk = talk_of(world)
    question = message_of(talk, web_search=True)
    reply = world.play(question.run())
    assert (reply.text, reply.finish_reason) == ("", "stopped")
    assert [entry.type for entry in reply.web_search] == ["update"]
    assert world.operations == ["create", "search"]
    assert talk.messages == []


def test_error_in_a_callback_ends_the_call() -> None:
    world = new_world({"search": searched([UPDATE, RESULT], tail=(NEVER,))})
    talk = talk_of(world)

    def show(_: WebSearchEntry) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        send(world, talk, on_web_search=show)
    assert "message" not in world.operations
    assert send(world, talk).text == " Hello"


# Unknown models


def models(*names: str) -> Answer:
    flat: list[Any] = [{"models": 1, "settings": 2, "conversations": 3}, [], None, [], False]
    flat[2] = {"shareConversationsWithModelAuthors": 4, "activeModel": 5}
    flat.append("m")
    for name in names:
        flat[1].append(len(flat))
        flat += [{"id": len(flat) + 1, "name": len(flat) + 1}, name]
    return says({"type": "data", "nodes": [{"type": "data", "data": flat}]})


def test_unknown_model_error_lists_the_models() -> None:
    world = new_world({"create": INTERNAL, "root": models("one/a", "two/b")})
    with pytest.raises(ModelUnavailableError) as caught:
        send(world, talk_of(world, model="nope/nope"))
    assert "no model 'nope/nope'; it has: one/a, two/b" in str(caught.value)
    assert (caught.value.status, caught.value.message) == (500, "Internal Error")
    assert world.operations == ["create", "root"]


def test_unknown_model_of_the_client_is_an_error_at_the_settings() -> None:
    world = new_world(
        {"settings": FORM_INTERNAL, "root": models("one/a")}, session=None, model="nope/nope"
    )
    with pytest.raises(ModelUnavailableError, match="it has: one/a"):
        send(world, talk_of(world))
    assert world.operations == ["settings", "root"]


@pytest.mark.parametrize("root", [models(DEFAULT_MODEL), lost(), says(b"<html>"), INTERNAL])
def test_server_error_is_kept_if_the_model_is_not_the_cause(root: Answer) -> None:
    world = new_world({"create": INTERNAL, "root": root})
    with pytest.raises(ServerError, match="Internal Error"):
        send(world, talk_of(world))


@pytest.mark.parametrize(
    "answer", [says({"message": "Bad"}, 500), says(b"<html>", 500), says({"error": "x"}, 422)]
)
def test_models_are_not_fetched_after_other_failures(answer: Answer) -> None:
    world = new_world({"create": answer})
    with pytest.raises(H2oError):
        send(world, talk_of(world))
    assert world.operations == ["create"]


def test_removed_model_is_an_error() -> None:
    # [25_removed_model]
    world = new_world({"message": says({"message": "Model not available anymore"}, 410)})
    with pytest.raises(ModelUnavailableError, match="choose another model"):
        send(world, talk_of(world))


# Operations of a client


def test_models_settings_and_conversations_come_from_the_root() -> None:
    world = new_world({"root": models("one/a")})
    assert [model.id for model in world.play(queries.models(world.exchange))] == ["one/a"]
    assert world.play(queries.settings(world.exchange)).active_model == "m"
    assert world.play(queries.conversations(world.exchange)) == []
    assert world.operations == ["root"] * 3


def test_delete_all_opens_the_session_first() -> None:
    done = says({"type": "redirect", "status": 303, "location": "/"})
    world = new_world({"delete_all": done}, session=None)
    world.play(queries.delete_conversations(world.exchange))
    assert world.operations == ["settings", "delete_all"]


def test_shared_conversation_is_read_without_a_session() -> None:
    stored = data(("user", "Hi", "a"), ("assistant", " Hello", "b"), title="Names", model="m7")
    world = new_world({"shared": says(stored)}, session=None)
    found = world.play(queries.shared(world.exchange, "https://x/r/PMvsTaJ"))
    assert (found.title, found.model) == ("Names", "m7")
    assert found.messages[1] == Message(role="assistant", content=" Hello", id="b")
    assert world.operations == ["shared"]
    assert world.requests[0].url.endswith("/r/PMvsTaJ/__data.json")


def test_missing_share_is_an_error() -> None:
    world = new_world({"shared": says(refused(404, "Conversation not found"))})
    with pytest.raises(NotFoundError):
        world.play(queries.shared(world.exchange, "zzzzzzz"))


def test_invalid_share_sends_nothing() -> None:
    world = new_world()
    with pytest.raises(ValueError, match="not a share link"):
        world.play(queries.shared(world.exchange, "https://x/conversation/1"))
    assert world.requests == []
