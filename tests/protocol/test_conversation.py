"""A conversation in the core: turns, what is remembered of them, and what is refused."""

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
    refused,
    says,
    streams,
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
from h2o_client.protocol.conversation import ConversationCore, new_conversation
from h2o_client.protocol.message import MessageOperation
from h2o_client.protocol.prompt import build_prompt
from h2o_client.protocol.saved import resume, save
from h2o_client.types import DEFAULT_MODEL, Message, Reply, Timeouts, WebSearchEntry

OTHER = "6b007c3d1090eb6ec94d77f2"
Play = Callable[[ConversationCore], Any]
ANSWER = streams(whole(" Hello"))
ERROR_EVENT = b'data:{"error":"CUDA out of memory","error_type":"generation"}\n\n'
INTERNAL = says({"message": "Internal Error"}, 500)
# 02_settings_variants: in the answer to a form.
FORM_INTERNAL = says({"type": "error", "error": {"message": "Internal Error"}}, 500)
LOST_ID = says({"message": "Conversation not found"}, 404)


def new_world(answers: dict[str, Any] | None = None, **options: Any) -> World:
    return World({"message": ANSWER, **(answers or {})}, **options)


def open_talk(world: World, **options: Any) -> ConversationCore:
    arguments: dict[str, Any] = {"model": None, "keep": None, "id": None, "from_share": None}
    return new_conversation(world.exchange, **{**arguments, **options})


def ask(talk: ConversationCore, prompt: str | None = "Hi", **options: Any) -> MessageOperation:
    arguments: dict[str, Any] = {
        "recover": None,
        "retries": None,
        "parameters": None,
        "keywords": {},
    }
    return MessageOperation(talk._exchange, talk, prompt, **{**arguments, **options})


def send(world: World, talk: ConversationCore, prompt: str | None = "Hi", **options: Any) -> Reply:
    return world.play(ask(talk, prompt, **options).run())


def said(talk: ConversationCore) -> list[tuple[str, str, bool]]:
    return [(message.role, message.content, message.partial) for message in talk.messages]


# Turns


def test_only_the_new_message_is_sent() -> None:
    world = new_world({"message": [ANSWER, streams(whole(" Ann."))]})
    talk = open_talk(world)
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


def test_what_was_said_is_in_the_form_that_chat_takes() -> None:
    world = new_world()
    talk = open_talk(world)
    send(world, talk)
    prompt = "User: Hi\nAssistant:  Hello\nAssistant:"
    assert build_prompt(talk.messages) == prompt
    assert build_prompt(save(talk)["messages"]) == prompt


def test_a_second_message_is_refused_before_anything_is_sent() -> None:
    world = new_world()
    talk = open_talk(world)

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
def test_it_is_busy_from_the_first_request_on(operation: str) -> None:
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
    talk = open_talk(world)
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
def test_an_answer_interrupted_by_an_error_stays_marked_as_partial(
    answer: Answer, error: type[H2oError], partial: str
) -> None:
    # What the server had of a turn that may run is looked at before the next message.
    stored = says(data(("assistant", " One two", RESPONSE)))
    world = new_world({"message": [answer, ANSWER], "data": stored})
    talk = open_talk(world)
    question = ask(talk, recover=False)
    with pytest.raises(error) as caught:
        world.play(question.run())
    world.play(question.abandon(world.exchange.cleanup()))
    assert caught.value.partial == partial
    assert said(talk) == [("user", "Hi", False), ("assistant", partial, True)]
    assert send(world, talk, "Next").text == " Hello"
    assert said(talk)[2:] == [("user", "Next", False), ("assistant", " Hello", False)]


@pytest.mark.parametrize("answer", [INTERNAL, lost(sent=False), says({"error": "x"}, 422)])
def test_a_message_that_was_rejected_leaves_nothing(answer: Answer) -> None:
    world = new_world({"message": answer}, retries=0)
    talk = open_talk(world)
    with pytest.raises(H2oError):
        send(world, talk)
    assert talk.messages == []
    world = new_world({"message": [answer, ANSWER]}, retries=0)
    talk = open_talk(world, id=CONVERSATION)
    with pytest.raises(H2oError):
        send(world, talk)
    assert send(world, talk).text == " Hello"
    assert world.operations == ["message", "message"]  # nothing is waited for between them


def test_a_message_refused_after_another_is_what_retry_asks() -> None:
    # The last message is the one that the caller sent last.
    world = new_world({"message": [ANSWER, INTERNAL, streams(whole(" Second"))]}, retries=0)
    talk = open_talk(world)
    send(world, talk, "First")
    with pytest.raises(ServerError):
        send(world, talk, "Second")
    send(world, talk, None)
    assert world.bodies("message")[-1]["inputs"] == "Second"
    assert [content for _, content, _ in said(talk)] == ["First", " Hello", "Second", " Second"]


@pytest.mark.parametrize("answer", [INTERNAL, lost(sent=False), LOST_ID])
def test_a_conversation_that_could_not_be_made_can_be_tried_again(answer: Answer) -> None:
    world = new_world({"create": [answer, says({"conversationId": OTHER})]}, retries=0)
    world.exchange.session.accepted = True
    talk = open_talk(world)
    if answer is INTERNAL:  # the client looks whether it is the model
        world.script["root"] = iter([lost()])
    with pytest.raises(H2oError):
        send(world, talk)
    assert (talk.id, talk.to_be_deleted) == (None, False)
    assert send(world, talk).conversation_id == OTHER


# Again


def test_retry_replaces_the_answer_in_its_place() -> None:
    world = new_world({"message": [ANSWER, ANSWER, streams(whole(" Better"))]})
    talk = open_talk(world)
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


def test_retry_after_an_error_takes_the_partial_answers_place() -> None:
    world = new_world({"message": [streams(token(" One"), ERROR_EVENT), ANSWER]})
    talk = open_talk(world)
    with pytest.raises(GenerationError):
        send(world, talk)
    send(world, talk, None)
    assert said(talk) == [("user", "Hi", False), ("assistant", " Hello", False)]


def test_retry_of_a_conversation_taken_up_asks_the_server_what_was_last() -> None:
    stored = data(
        ("user", "First", "a"),
        ("assistant", " One", "b"),
        ("user", "Second", "c"),
        ("assistant", " Two", "d"),
    )
    world = new_world({"data": says(stored)})
    talk = open_talk(world, id=CONVERSATION)
    reply = send(world, talk, None)
    assert world.operations == ["data", "message"]
    (again,) = world.bodies("message")
    assert again["inputs"] == "Second"
    assert (again["options"]["id"], again["options"]["is_retry"]) == ("c", True)
    assert said(talk) == [("user", "Second", False), ("assistant", " Hello", False)]
    assert reply.message_id == "c"


def test_retry_of_a_shared_conversation_copies_it_first() -> None:
    world = new_world({"data": says(data(("user", "First", "a"), ("assistant", " One", "b")))})
    send(world, open_talk(world, from_share="PMvsTaJ"), None)
    assert world.operations == ["create", "data", "message"]


@pytest.mark.parametrize("taken_up", [True, False])
def test_retry_where_nothing_was_sent_yet(taken_up: bool) -> None:
    world = new_world({"data": says(data())})
    talk = open_talk(world, id=CONVERSATION if taken_up else None)
    with pytest.raises(ValueError, match="does not have a message to retry"):
        send(world, talk, None)
    assert "message" not in world.operations
    assert send(world, talk).text == " Hello"  # it is not busy


def test_retry_of_a_conversation_that_is_gone() -> None:
    world = new_world({"data": says(GONE)})
    with pytest.raises(NotFoundError, match="no longer has this conversation"):
        send(world, open_talk(world, id=CONVERSATION), None)


# A turn that was stopped or left


def stopped(world: World, talk: ConversationCore) -> Reply:
    """Stop an answer after its first token; the server closes without a final event."""
    question = ask(talk)
    world.on_emit = lambda: world.play(question.stop())
    try:
        return world.play(question.run())
    finally:
        world.on_emit = lambda: None


STOPPED = [streams(token(" One"), cut()), ANSWER]


def test_a_stop_keeps_the_partial_answer() -> None:
    world = new_world({"message": STOPPED})
    talk = open_talk(world)
    reply = stopped(world, talk)
    assert (reply.text, reply.finish_reason) == (" One", "stopped")
    assert said(talk) == [("user", "Hi", False), ("assistant", " One", True)]
    assert world.operations == ["create", "message", "stop"]


def test_the_next_message_waits_until_the_stopped_turn_is_stored() -> None:
    nothing, there = says(data()), says(data(("assistant", " One two", RESPONSE)))
    looks = [nothing, lost(), says(b"<html>"), nothing, there]
    world = new_world({"message": STOPPED, "data": looks})
    talk = open_talk(world)
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
def test_a_message_is_not_sent_while_the_previous_turn_may_be_generated(
    timeouts: Timeouts, seconds: float, answer: Answer
) -> None:
    world = new_world({"message": STOPPED, "data": answer}, timeouts=timeouts)
    talk = open_talk(world)
    stopped(world, talk)
    begun = world.now
    with pytest.raises(ConversationBusyError, match=r"nothing was sent.*wait and call again"):
        send(world, talk, "Next")
    assert world.now - begun == pytest.approx(seconds, abs=0.1)
    assert max(world.slept, default=0.0) <= 1.0
    assert world.operations.count("message") == 1
    assert said(talk) == [("user", "Hi", False), ("assistant", " One", True)]
    # What the caller is told to do.
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
def test_what_reads_or_changes_the_messages_waits_as_well(play: Play) -> None:
    # 60 s, `Timeouts.idle`: as long as a small operation may take.
    world = new_world({"message": STOPPED, "data": says(data())})
    talk = open_talk(world)
    stopped(world, talk)
    begun = world.now
    with pytest.raises(ConversationBusyError):
        world.play(play(talk))
    assert world.now - begun == pytest.approx(60.0)
    assert set(world.operations[3:]) == {"data"}


def test_a_vote_waits_for_the_answer_that_was_stopped() -> None:
    there = says(data(("assistant", " One two", RESPONSE)))
    world = new_world({"message": STOPPED, "data": [says(data()), there], "vote": says(b"")})
    talk = open_talk(world)
    stopped(world, talk)
    world.play(talk.vote(RESPONSE, 1))
    assert world.operations == ["create", "message", "stop", "data", "data", "vote"]


def left_before_the_first_token(world: World, talk: ConversationCore) -> None:
    """Cancel a call whose answer has not begun; the server is told to stop."""
    question = ask(talk)
    steps = Player(world).drive(question.run())
    while next(steps) != "read" or "message" not in world.operations:
        pass
    steps.close()
    world.play(question.abandon(world.exchange.cleanup()))


def stopped_in_vain(world: World, talk: ConversationCore) -> None:
    """Stop twice within a minute: the second time the server generates to the end [11b]."""
    world.script["message"] = iter([STOPPED[0], STOPPED[0]])
    stopped(world, talk)
    world.store(CONVERSATION, " One")
    stopped(world, talk)


def timed_out(world: World, talk: ConversationCore) -> None:
    """Lose patience with a model that is silent."""
    world.script["message"] = iter([Answer(delay=45.0)])
    question = ask(talk)
    with pytest.raises(TransportTimeoutError):
        world.play(question.run())
    world.play(question.abandon(world.exchange.cleanup()))


def lost_unrecovered(world: World, talk: ConversationCore) -> None:
    """Lose the connection, and look for nothing."""
    world.script["message"] = iter([streams(token(" One"), cut())])
    question = ask(talk, recover=False)
    with pytest.raises(IncompleteStreamError):
        world.play(question.run())
    world.play(question.abandon(world.exchange.cleanup()))


def lost_with_a_server_that_cannot_be_told(world: World, talk: ConversationCore) -> None:
    """Lose the connection, look for the answer in vain, and fail to tell the server to stop."""
    world.script["message"] = iter([streams(token(" One"), cut())])
    world.script["stop"] = iter([INTERNAL])
    question = ask(talk)
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
def test_the_generation_that_was_left_overwrites_nothing(leave: Leave, prompt: str | None) -> None:
    world = World(timeouts=Timeouts(first_token=3.0))
    talk = open_talk(world)
    leave(world, talk)
    asked = world.operations.count("message")
    with pytest.raises(ConversationBusyError):
        send(world, talk, prompt)
    assert world.operations.count("message") == asked
    world.on_sleep = lambda: world.store(CONVERSATION, " One two")
    assert send(world, talk, prompt).text == " Hello"
    assert world.operations[-3:] == ["data", "data", "message"]


@pytest.mark.parametrize("leave", LEAVE)
def test_a_generation_that_never_stores_anything_blocks_nothing_for_ever(leave: Leave) -> None:
    world = World(timeouts=Timeouts(first_token=3.0))
    talk = open_talk(world)
    leave(world, talk)
    world.pass_time(300.0)
    assert send(world, talk, "Next").text == " Hello"
    assert world.operations[-2] != "data"


@pytest.mark.parametrize(
    "answer", [streams(token(" One"), ERROR_EVENT), says({"error": "x"}, 424), INTERNAL, LOST_ID]
)
def test_a_turn_that_failed_is_not_waited_for(answer: Answer) -> None:
    world = new_world({"message": [answer, ANSWER]}, retries=0)
    talk = open_talk(world)
    with pytest.raises(H2oError):
        send(world, talk)
    send(world, talk, "Next")
    assert world.operations == ["create", "message", "message"]


def test_what_was_looked_for_in_vain_is_not_waited_for_again() -> None:
    # The model server has died. A stop that comes too late takes its second, and no more.
    world = World({"message": [streams(token(" One"), cut()), ANSWER]}, retries=0)
    talk = open_talk(world)
    question = ask(talk)
    with pytest.raises(IncompleteStreamError):
        world.play(question.run())
    assert world.elapsed == pytest.approx(30.0)
    world.play(question.abandon(world.exchange.cleanup()))
    send(world, talk, "Next")
    assert world.elapsed <= 35.1
    assert world.notes == [
        "the connection was lost: looking for the stored answer, for at most 30 s",
        "waiting until the last turn is stored, for at most 5 s",
    ]


def test_another_object_of_the_conversation_waits_as_well() -> None:
    world = new_world({"message": STOPPED, "data": says(data())}, timeouts=Timeouts(total=10.0))
    talk = open_talk(world)
    stopped(world, talk)
    with pytest.raises(ConversationBusyError):
        send(world, open_talk(world, id=CONVERSATION), "Next")
    assert world.operations.count("message") == 1


# A turn that was answered


def test_the_next_message_looks_first_whether_the_last_answer_is_stored() -> None:
    world = World()
    talk = open_talk(world)
    send(world, talk)
    (stored,) = world.stored.values()
    world.stored.clear()
    world.on_sleep = lambda: world.stored.update({CONVERSATION: stored})
    send(world, talk, "Next")
    assert world.operations == ["create", "message", "data", "data", "message"]
    assert world.slept == [0.05]


def test_the_history_is_never_short() -> None:
    world = World()
    talk = open_talk(world)
    send(world, talk)
    (stored,) = world.stored.values()
    world.stored.clear()
    world.on_sleep = lambda: world.stored.update({CONVERSATION: stored})
    assert [m.content for m in world.play(talk.refresh())] == ["Hi", " Hello"]
    assert world.operations == ["create", "message", "data", "data"]
    world.play(talk.refresh())
    assert world.operations[4:] == ["data"]


def test_a_whole_answer_that_is_not_stored_is_told_once() -> None:
    world = new_world({"data": says(data())})
    talk = open_talk(world)
    send(world, talk)
    begun = world.now
    with pytest.raises(ConversationBusyError, match="has not stored the last answer"):
        send(world, talk, "Next")
    assert world.now - begun == pytest.approx(30.0)
    assert world.operations.count("message") == 1
    assert send(world, talk, "Next").text == " Hello"


def test_where_nothing_can_be_read_a_whole_answer_is_trusted() -> None:
    world = new_world({"data": says(b"<html>")})
    talk = open_talk(world)
    send(world, talk)
    begun = world.now
    send(world, talk, "Next")
    assert world.now - begun == pytest.approx(5.0)


def test_messages_are_what_the_history_will_say() -> None:
    # The server trims as JavaScript does: a line separator goes, a unit separator stays.
    text = " One \x1f\n\u2028 "
    world = World({"message": streams(whole(text))})
    talk = open_talk(world)
    reply = send(world, talk, "\n Hi \x1f ")
    assert reply.text == text
    contents = [message.content for message in talk.messages]
    assert contents == ["Hi \x1f", " One \x1f"]


def test_messages_of_a_stopped_turn_are_what_is_stored_once_that_was_seen() -> None:
    world = new_world({"message": STOPPED, "data": says(data(("assistant", " One two", RESPONSE)))})
    talk = open_talk(world)
    stopped(world, talk)
    assert said(talk)[1] == ("assistant", " One", True)
    world.play(talk.refresh())
    assert said(talk)[1] == ("assistant", " One two", True)


class LeftError(Exception):
    """What a caller raises."""


def test_a_turn_that_was_left_is_waited_for_too() -> None:
    world = new_world({"message": STOPPED, "data": says(data(("assistant", " One", RESPONSE)))})
    talk = open_talk(world)
    question = ask(talk)
    flow = question.run()

    def leave() -> None:
        raise LeftError

    world.on_emit = leave
    with pytest.raises(LeftError):
        world.play(flow)
    flow.close()
    world.on_emit = lambda: None
    world.play(question.abandon(world.exchange.cleanup()))
    assert said(talk) == [("user", "Hi", False), ("assistant", " One", True)]
    send(world, talk, "Next")
    assert world.operations == ["create", "message", "stop", "data", "message"]


def test_an_answer_that_the_model_server_broke_off_is_not_waited_for() -> None:
    # Its response came to a regular end: nothing is generated, nothing will be stored
    # [05_upstream_truncate_clean], and the looking for it is over.
    world = new_world({"message": [streams(token(" One")), ANSWER], "data": says(data())})
    talk = open_talk(world)
    question = ask(talk)
    with pytest.raises(IncompleteStreamError):
        world.play(question.run())
    world.play(question.abandon(world.exchange.cleanup()))
    assert world.elapsed == pytest.approx(2.0)
    send(world, talk, "Next")
    assert world.elapsed == pytest.approx(2.0)


def test_an_answer_that_was_broken_off_and_not_looked_for_is_given_5_seconds() -> None:
    world = new_world({"message": [streams(token(" One")), ANSWER], "data": says(data())})
    talk = open_talk(world)
    with pytest.raises(IncompleteStreamError):
        send(world, talk, recover=False)
    send(world, talk, "Next")
    assert world.elapsed == pytest.approx(5.0)


def test_a_conversation_gone_while_the_stopped_turn_is_waited_for() -> None:
    world = new_world({"message": STOPPED, "data": says(GONE)})
    talk = open_talk(world)
    stopped(world, talk)
    with pytest.raises(NotFoundError, match="no longer has this conversation"):
        send(world, talk, "Next")


def test_a_stop_while_the_stopped_turn_is_waited_for() -> None:
    world = new_world({"message": STOPPED, "data": says(data())})
    talk = open_talk(world)
    stopped(world, talk)
    question = ask(talk, "Next")
    begun = world.now

    def sleep() -> None:
        world.play(question.stop())

    world.on_sleep = sleep
    reply = world.play(question.run())
    assert (reply.text, reply.finish_reason) == ("", "stopped")
    assert world.now - begun <= 1.0
    assert world.operations.count("message") == 1
    # What was not asked is not remembered.
    assert said(talk) == [("user", "Hi", False), ("assistant", " One", True)]


def test_a_stop_before_anything_was_sent_sends_nothing() -> None:
    world = new_world()
    talk = open_talk(world)
    question = ask(talk)
    world.play(question.stop())
    reply = world.play(question.run())
    assert (reply.text, reply.finish_reason) == ("", "stopped")
    assert world.requests == []
    assert talk.messages == []


def test_a_stop_while_the_conversation_is_made_sends_no_message() -> None:
    def made(_: object) -> Answer:
        world.play(question.stop())
        return says({"conversationId": CONVERSATION})

    world = new_world({"create": made})
    talk = open_talk(world)
    question = ask(talk)
    assert world.play(question.run()).finish_reason == "stopped"
    assert world.operations == ["create"]
    assert (talk.messages, talk.id) == ([], CONVERSATION)


def test_a_stop_before_the_first_token_is_remembered_as_an_empty_answer() -> None:
    def asked(_: object) -> Answer:
        world.play(question.stop())
        return lost()  # [28_stop_variants]

    world = new_world({"message": asked})
    talk = open_talk(world)
    question = ask(talk)
    assert world.play(question.run()).finish_reason == "stopped"
    assert world.operations == ["create", "message", "stop"]
    assert said(talk) == [("user", "Hi", False), ("assistant", "", True)]


def test_a_stop_that_cannot_be_told_is_logged() -> None:
    world = new_world({"message": STOPPED, "stop": INTERNAL})
    talk = open_talk(world)
    assert stopped(world, talk).finish_reason == "stopped"
    assert any("could not be told to stop" in warning for warning in world.warnings)


# Whether it is deleted at the end


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
def test_what_is_deleted_at_the_end(
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
        talk = open_talk(
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


def test_delete_deletes_what_would_be_kept_and_only_once() -> None:
    world = new_world()
    talk = open_talk(world, id=CONVERSATION)
    world.play(talk.delete())
    world.play(talk.delete())
    assert world.operations == ["delete"]
    never = open_talk(world)
    world.play(never.delete())
    assert world.operations == ["delete"]


def test_one_that_is_gone_already_counts_as_deleted() -> None:
    world = new_world({"delete": LOST_ID})
    talk = open_talk(world, id=CONVERSATION, keep=False)
    world.play(talk.abandon(world.exchange.cleanup()))
    assert not talk.to_be_deleted


def test_a_deletion_that_failed_is_still_to_be_done() -> None:
    world = new_world({"delete": [INTERNAL, says(b"")]})
    talk = open_talk(world, id=CONVERSATION, keep=False)
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
def test_arguments_that_cannot_be_meant(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        open_talk(new_world(), **options)


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
def test_a_share_is_known_by_its_url_or_its_id(share: str) -> None:
    assert queries.parse_share(share) == "PMvsTaJ"
    world = new_world()
    send(world, open_talk(world, from_share=share))
    assert world.bodies("create") == [{"fromShare": "PMvsTaJ", "model": DEFAULT_MODEL}]


@pytest.mark.parametrize("share", ["", "/", "a b", "https://h/r/", "https://h/r/a/b", "x" * 65])
def test_what_is_no_share(share: str) -> None:
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
def test_a_message_that_cannot_be_sent_is_refused_at_once(
    prompt: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        ask(open_talk(new_world()), prompt, **options)


def test_a_message_with_half_a_surrogate_pair_is_refused_before_it_is_sent() -> None:
    world = new_world()
    talk = open_talk(world)
    with pytest.raises(ValueError, match="surrogate"):
        send(world, talk, "Hi \ud800")
    assert world.requests == []


def test_the_parameters_of_client_and_call_are_joined() -> None:
    world = new_world(parameters={"top_p": 0.5, "seed": 1})
    send(world, open_talk(world), parameters={"seed": 2}, keywords={"temperature": 0.1})
    (sent,) = world.bodies("message")
    assert sent["parameters"]["top_p"] == 0.5
    assert (sent["parameters"]["seed"], sent["parameters"]["temperature"]) == (2, 0.1)
    assert sent["parameters"]["max_new_tokens"] == 1024


# The rest of what a conversation can do


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
def test_wrong_arguments_send_nothing(play: Play, error: type[Exception]) -> None:
    world = new_world()
    with pytest.raises(error):
        world.play(play(open_talk(world)))
    assert world.requests == []


@pytest.mark.parametrize("title", ["x", "x" * 100, "👋" * 50, "  Names \n"])
def test_rename(title: str) -> None:
    world = new_world({"rename": says(b"")})
    talk = open_talk(world, id=CONVERSATION)
    world.play(talk.rename(title))
    assert world.bodies("rename") == [{"title": title.strip()}]
    assert talk.title == title.strip()


def test_summarize_takes_the_models_leading_space_off() -> None:
    world = new_world({"summarize": says({"title": " Stub chat title"})})
    talk = open_talk(world, id=CONVERSATION)
    assert world.play(talk.summarize()) == talk.title == "Stub chat title"


def test_vote_prompt_and_share_say_what_they_are_about() -> None:
    preview = {"note": "", "prompt": "<|prompt|>Hi", "model": "m", "parameters": {"truncate": 1}}
    world = new_world(
        {"vote": says(b""), "prompt": says(preview), "share": says({"url": "http://x/r/abc1234"})}
    )
    talk = open_talk(world, id=CONVERSATION)
    for score in (1, -1, 0):
        world.play(talk.vote("a-b_c", score))
    assert [sent["score"] for sent in world.bodies("vote")] == [1, -1, 0]
    assert world.requests[0].url.endswith(f"/conversation/{CONVERSATION}/message/a-b_c/vote")
    found = world.play(talk.prompt("abc"))
    assert (str(found), found.model, found.parameters) == ("<|prompt|>Hi", "m", {"truncate": 1})
    assert world.requests[-1].url.endswith(f"/conversation/{CONVERSATION}/message/abc/prompt")
    assert world.play(talk.share()) == "http://x/r/abc1234"


def test_refresh_reads_title_model_and_messages() -> None:
    stored = data(("user", "Hi", "a"), ("assistant", " Hello", "b"), title=" Names", model="m7")
    world = new_world({"data": says(stored)})
    talk = open_talk(world, id=CONVERSATION)
    assert talk.model == ""
    messages = world.play(talk.refresh())
    assert [(m.role, m.content, m.id) for m in messages] == [
        ("user", "Hi", "a"),
        ("assistant", " Hello", "b"),
    ]
    assert (talk.title, talk.model) == ("Names", "m7")
    assert talk.messages == []


def test_history_of_one_that_there_is_not_yet_sends_nothing() -> None:
    world = new_world()
    assert world.play(open_talk(world).refresh()) == []
    assert world.requests == []


@pytest.mark.parametrize(
    ("operation", "play"),
    [
        ("message", lambda talk: ask(talk).run()),
        ("data", lambda talk: talk.refresh()),
        ("rename", lambda talk: talk.rename("x")),
        ("summarize", lambda talk: talk.summarize()),
        ("share", lambda talk: talk.share()),
        ("vote", lambda talk: talk.vote("m", 1)),
        ("prompt", lambda talk: talk.prompt("m")),
        ("search", lambda talk: ask(talk, web_search=True).run()),
    ],
)
def test_a_conversation_that_the_server_no_longer_has(operation: str, play: Play) -> None:
    gone = says(GONE) if operation == "data" else LOST_ID
    world = new_world({operation: gone})
    talk = open_talk(world, id=CONVERSATION)
    with pytest.raises(NotFoundError) as caught:
        world.play(play(talk))
    assert "the server no longer has this conversation" in str(caught.value)
    assert caught.value.status == 404
    assert caught.value.message.startswith("Conversation not found")


def test_a_message_that_there_is_not_is_no_lost_conversation() -> None:
    world = new_world({"vote": says({"message": "Message not found"}, 404)})
    with pytest.raises(NotFoundError, match="Message not found"):
        world.play(open_talk(world, id=CONVERSATION).vote("m", 1))


# Saved and resumed


def test_a_conversation_comes_back_as_it_was_saved() -> None:
    world = new_world({"message": [ANSWER, streams(token(" One"), ERROR_EVENT)]})
    talk = open_talk(world)
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


def test_a_conversation_saved_before_its_first_use_is_made_then() -> None:
    world = new_world()
    saved = save(open_talk(world, model="m7"))
    talk = resume(world.exchange, saved, keep=None)
    send(world, talk)
    assert world.bodies("create") == [{"model": "m7"}]


def test_one_saved_before_its_first_use_of_a_share_is_still_of_that_share() -> None:
    world = new_world()
    saved = json.loads(json.dumps(save(open_talk(world, from_share="PMvsTaJ"))))
    send(world, resume(world.exchange, saved, keep=None))
    assert world.bodies("create")[0].get("fromShare") == "PMvsTaJ"


SAVED: dict[str, Any] = {
    "format": 1,
    "id": CONVERSATION,
    "title": "Names",
    "model": "m",
    "messages": [{"role": "user", "content": "Hi", "id": "a"}],
}


def test_retry_of_a_saved_conversation_knows_its_last_message() -> None:
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
def test_what_is_no_saved_conversation(saved: Any, error: type[Exception]) -> None:
    with pytest.raises(
        error, match=r"saved conversation|not a valid conversation id|not a share link"
    ):
        resume(new_world().exchange, saved, keep=None)


# Web search


def searched(*lists: list[dict[str, Any]], tail: tuple[Any, ...] = ()) -> Answer:
    """Answer with the list so far, again and again, and no end [16_web_search]."""
    pieces = [json.dumps({"messages": each}).encode() for each in lists]
    return Answer(200, (*pieces, *tail), JSON)


UPDATE = {"type": "update", "message": "Searching Google", "args": ["cup"]}
FAILED = {"type": "error", "message": "An error occurred with the web search", "args": ["no key"]}
RESULT = {"type": "result", "id": "6b007ca61090eb6ec94d784e"}
NEVER = 1e9


def test_a_web_search_goes_before_the_message() -> None:
    search = searched([UPDATE], [UPDATE, RESULT], tail=(NEVER,))
    world = new_world({"search": search})
    talk = open_talk(world)
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
def test_whether_the_web_is_searched(options: dict[str, Any], searches: int) -> None:
    world = new_world({"search": searched([RESULT], tail=(NEVER,))})
    reply = send(world, open_talk(world), **options)
    assert world.operations.count("search") == searches
    assert len(reply.web_search) == searches
    assert world.bodies("message")[0]["options"]["web_search_id"] == (
        RESULT["id"] if searches else ""
    )


def test_an_error_entry_fails_nothing() -> None:
    world = new_world({"search": searched([UPDATE], [UPDATE, FAILED, RESULT], tail=(NEVER,))})
    reply = send(world, open_talk(world), web_search=True)
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
def test_a_search_that_fails_leaves_the_conversation_as_it_was(
    search: Answer, error: type[H2oError]
) -> None:
    world = new_world({"search": [search, searched([RESULT], tail=(NEVER,))]})
    talk = open_talk(world, id=CONVERSATION)
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
def test_a_search_that_told_nothing_yet_is_repeated(failure: Answer) -> None:
    world = new_world({"search": [failure, searched([RESULT], tail=(NEVER,))]})
    entries: list[WebSearchEntry] = []
    reply = send(world, open_talk(world), on_web_search=entries.append)
    assert reply.text == " Hello"
    assert [entry.type for entry in entries] == ["result"]
    assert world.operations.count("search") == 2
    assert world.operations.count("settings") == (failure.status == 405)


def test_a_search_is_repeated_as_often_as_the_call_allows() -> None:
    world = new_world({"search": Answer(503)})
    with pytest.raises(OverloadedError):
        send(world, open_talk(world), web_search=True, retries=2)
    assert world.operations.count("search") == 3


def test_a_session_that_is_forgotten_again_ends_the_search() -> None:
    world = new_world({"search": says({"message": MODAL}, 405)})
    with pytest.raises(TermsNotAcceptedError):
        send(world, open_talk(world), web_search=True)
    assert world.operations == ["create", "search", "settings", "search"]


def test_a_search_whose_end_is_its_stop_is_no_error() -> None:
    def stop() -> bytes:
        world.play(question.stop())
        return b""

    world = new_world({"search": searched([UPDATE], tail=(stop,))})
    question = ask(open_talk(world), web_search=True)
    assert world.play(question.run()).finish_reason == "stopped"


def test_a_stop_of_what_never_began_does_not_mind_another_message() -> None:
    world = new_world()
    talk = open_talk(world)
    running = Player(world).drive(ask(talk).run())
    next(running)
    question = ask(talk, "And you?")
    world.play(question.stop())
    assert world.play(question.run()).finish_reason == "stopped"
    for _ in running:
        pass
    assert said(talk) == [("user", "Hi", False), ("assistant", " Hello", False)]


@pytest.mark.parametrize("woken", ["goes on", "is interrupted"])
def test_a_stop_in_a_web_search_sends_no_message(woken: str) -> None:
    def stop() -> bytes | H2oError:
        world.play(question.stop())
        return cut() if woken == "is interrupted" else json.dumps({"messages": []}).encode()

    world = new_world({"search": searched([UPDATE], tail=(stop, NEVER))})
    talk = open_talk(world)
    question = ask(talk, web_search=True)
    reply = world.play(question.run())
    assert (reply.text, reply.finish_reason) == ("", "stopped")
    assert [entry.type for entry in reply.web_search] == ["update"]
    assert world.operations == ["create", "search"]
    assert talk.messages == []


def test_what_the_callers_function_raises_ends_the_call() -> None:
    world = new_world({"search": searched([UPDATE, RESULT], tail=(NEVER,))})
    talk = open_talk(world)

    def show(_: WebSearchEntry) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        send(world, talk, on_web_search=show)
    assert "message" not in world.operations
    assert send(world, talk).text == " Hello"


# A model that there is not


def models(*names: str) -> Answer:
    flat: list[Any] = [{"models": 1, "settings": 2, "conversations": 3}, [], None, [], False]
    flat[2] = {"shareConversationsWithModelAuthors": 4, "activeModel": 5}
    flat.append("m")
    for name in names:
        flat[1].append(len(flat))
        flat += [{"id": len(flat) + 1, "name": len(flat) + 1}, name]
    return says({"type": "data", "nodes": [{"type": "data", "data": flat}]})


def test_an_unknown_model_names_the_models_that_there_are() -> None:
    world = new_world({"create": INTERNAL, "root": models("one/a", "two/b")})
    with pytest.raises(ModelUnavailableError) as caught:
        send(world, open_talk(world, model="nope/nope"))
    assert "no model 'nope/nope'; it has: one/a, two/b" in str(caught.value)
    assert (caught.value.status, caught.value.message) == (500, "Internal Error")
    assert world.operations == ["create", "root"]


def test_an_unknown_model_of_the_client_is_told_with_the_settings() -> None:
    world = new_world(
        {"settings": FORM_INTERNAL, "root": models("one/a")}, session=None, model="nope/nope"
    )
    with pytest.raises(ModelUnavailableError, match="it has: one/a"):
        send(world, open_talk(world))
    assert world.operations == ["settings", "root"]


@pytest.mark.parametrize("root", [models(DEFAULT_MODEL), lost(), says(b"<html>"), INTERNAL])
def test_where_it_is_not_the_model_the_servers_own_error_stands(root: Answer) -> None:
    world = new_world({"create": INTERNAL, "root": root})
    with pytest.raises(ServerError, match="Internal Error"):
        send(world, open_talk(world))


@pytest.mark.parametrize(
    "answer", [says({"message": "Bad"}, 500), says(b"<html>", 500), says({"error": "x"}, 422)]
)
def test_other_failures_are_not_looked_into(answer: Answer) -> None:
    world = new_world({"create": answer})
    with pytest.raises(H2oError):
        send(world, open_talk(world))
    assert world.operations == ["create"]


def test_a_model_no_longer_served() -> None:
    # [25_removed_model]
    world = new_world({"message": says({"message": "Model not available anymore"}, 410)})
    with pytest.raises(ModelUnavailableError, match="choose another model"):
        send(world, open_talk(world))


# The small operations of a client


def test_models_settings_and_conversations_are_read_from_the_root() -> None:
    world = new_world({"root": models("one/a")})
    assert [model.id for model in world.play(queries.models(world.exchange))] == ["one/a"]
    assert world.play(queries.settings(world.exchange)).active_model == "m"
    assert world.play(queries.conversations(world.exchange)) == []
    assert world.operations == ["root"] * 3


def test_deleting_all_opens_the_session_first() -> None:
    done = says({"type": "redirect", "status": 303, "location": "/"})
    world = new_world({"delete_all": done}, session=None)
    world.play(queries.delete_conversations(world.exchange))
    assert world.operations == ["settings", "delete_all"]


def test_a_shared_conversation_is_read_without_a_session() -> None:
    stored = data(("user", "Hi", "a"), ("assistant", " Hello", "b"), title="Names", model="m7")
    world = new_world({"shared": says(stored)}, session=None)
    found = world.play(queries.shared(world.exchange, "https://x/r/PMvsTaJ"))
    assert (found.title, found.model) == ("Names", "m7")
    assert found.messages[1] == Message(role="assistant", content=" Hello", id="b")
    assert world.operations == ["shared"]
    assert world.requests[0].url.endswith("/r/PMvsTaJ/__data.json")


def test_a_share_that_there_is_not() -> None:
    world = new_world({"shared": says(refused(404, "Conversation not found"))})
    with pytest.raises(NotFoundError):
        world.play(queries.shared(world.exchange, "zzzzzzz"))


def test_a_share_that_is_none_sends_nothing() -> None:
    world = new_world()
    with pytest.raises(ValueError, match="not a share link"):
        world.play(queries.shared(world.exchange, "https://x/conversation/1"))
    assert world.requests == []
