from collections.abc import Generator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import HELLO as CAPTURED_HELLO
from recorded import scenario
from world import (
    BASE_URL,
    CONVERSATION,
    END,
    HELLO,
    MESSAGE,
    MODAL,
    OWN_LIMIT,
    RESPONSE,
    STREAM,
    Answer,
    Player,
    Scene,
    World,
    chat_of,
    cut,
    lost,
    says,
    streams,
    token,
    whole,
)

from h2o_client.errors import (
    GenerationError,
    H2oError,
    IncompleteStreamError,
    InvalidRequestError,
    LoginRequiredError,
    ModelUnavailableError,
    NotFoundError,
    OverloadedError,
    PromptTooLargeError,
    ProtocolError,
    RateLimitError,
    RedirectError,
    ServerError,
    StatusError,
    TermsNotAcceptedError,
    TransportError,
    TransportTimeoutError,
    UnsupportedServerError,
)
from h2o_client.protocol import conversations
from h2o_client.protocol.effects import Pump
from h2o_client.protocol.state import Fate
from h2o_client.types import DEFAULT_MODEL, Reply, Timeouts

WHOLE_CHAT = ["settings", "create", "message", "delete"]
ERROR_EVENT = b'data:{"error":"boom","error_type":"generation"}\n\n'
OVERLOADED_EVENT = b'data:{"error":"Model is overloaded","error_type":"overloaded"}\n\n'
HTML = Answer(200, (b"<html>a page",), (("content-type", "text/html"),))
MODAL_405 = says({"error": MODAL}, 405)
BUSY_503 = says({"error": "unhealthy"}, 503)


# One chat.


def test_chat_yields_the_expected_effects() -> None:
    scene = Scene()
    reply = scene.run()

    assert scene.log == [
        "exclusive",
        "fetch settings",
        "finish",
        "fetch create",
        "send message",
        "read",
        "emit  Hel",
        "pump",
        "emit <|endoftext|>",
        "read",
        "fetch delete",
    ]
    assert reply == Reply(
        text=" Hello",
        model=DEFAULT_MODEL,
        finish_reason="eos_token",
        generated_tokens=3,
        conversation_id=CONVERSATION,
        message_id=MESSAGE,
        response_id=RESPONSE,
    )
    assert scene.abandon() == []


def test_requests_match_the_captured_chat() -> None:
    exchanges = scenario("01_happy_path")
    answers = {
        operation: [
            Answer(exchange.head.status, exchange.chunks or (exchange.body,), exchange.headers)
        ]
        for operation, exchange in zip(WHOLE_CHAT, exchanges, strict=True)
    }
    scene = Scene(answers)
    reply = scene.run()

    assert [(r.method, r.url) for r in scene.requests] == [
        (exchange.method, BASE_URL + exchange.path) for exchange in exchanges
    ]
    assert reply.text == scene.text == CAPTURED_HELLO
    assert reply.generated_tokens == 22


def test_chunk_of_many_events_is_one_emit() -> None:
    scene = Scene({"message": [streams(b"".join(HELLO))]})
    assert scene.run().text == " Hello"
    assert [word for word in scene.log if word.startswith("emit")] == ["emit  Hello<|endoftext|>"]


def test_settings_are_posted_once_per_session() -> None:
    scene = Scene()
    for _ in range(3):
        scene.play(chat_of(scene).run())
    assert scene.operations == [*WHOLE_CHAT, *WHOLE_CHAT[1:], *WHOLE_CHAT[1:]]


def test_resumed_session_is_not_opened() -> None:
    scene = Scene(session="taken-up")
    scene.run()
    assert scene.operations == WHOLE_CHAT[1:]


def test_every_chat_has_its_own_ids() -> None:
    scene = Scene()
    first = scene.run()
    second = scene.play(chat_of(scene).run())
    ids = {first.message_id, first.response_id, second.message_id, second.response_id}
    assert len(ids) == 4


@pytest.mark.parametrize(
    ("parts", "keywords", "reason", "count"),
    [
        (HELLO, {}, "eos_token", 3),
        ((token("a"), token("b", final="ab")), {}, "length", 2),
        ((token("a"), token("b", final="ab")), {"stop": ["b"]}, None, 2),
        ((END,), {}, "eos_token", 1),
        (
            (token("a", final="a", finish_reason="stop_sequence", generated_tokens=7),),
            {"stop": ["a"], "details": True},
            "stop_sequence",
            7,
        ),
        ((token("a", final="a", finish_reason=7, generated_tokens="x"),), {}, "length", 1),
    ],
)
def test_finish_reason_is_read_or_inferred(
    parts: Sequence[bytes], keywords: dict[str, Any], reason: str | None, count: int
) -> None:
    world = World({"message": [streams(*parts)]})
    reply = world.play(chat_of(world, **keywords).run())
    assert (reply.finish_reason, reply.generated_tokens) == (reason, count)


@pytest.mark.parametrize(
    "arguments",
    [
        {"messages": ""},
        {"messages": []},
        {"temperature": "hot"},
        {"max_tokens": 7},
        {"seed": float("nan")},
    ],
)
def test_invalid_argument_is_rejected_before_sending(arguments: dict[str, Any]) -> None:
    world = World()
    with pytest.raises((TypeError, ValueError)):
        chat_of(world, **arguments)
    assert world.requests == []


# One session for all.


def interleave(scene: Scene, count: int, turns: Sequence[int] = ()) -> list[Reply | H2oError]:
    """Play several chats of one service concurrently, a step of each in turn."""
    flows = [Player(scene).drive(chat_of(scene).run()) for _ in range(count)]
    ended: dict[int, Reply | H2oError] = {}
    order = [*turns, *(index for _ in range(500) for index in range(count))]
    for turn in order:
        index = turn % count
        if index not in ended:
            try:
                next(flows[index])
            except StopIteration as stop:
                ended[index] = stop.value
            except H2oError as error:
                ended[index] = error
    return [ended[index] for index in range(count)]


@pytest.mark.slow
@given(turns=st.lists(st.integers(0, 4), max_size=60))
def test_concurrent_chats_open_one_session(turns: list[int]) -> None:
    scene = Scene()
    replies = interleave(scene, 5, turns)

    assert all(isinstance(reply, Reply) for reply in replies)
    assert sorted(scene.operations) == sorted(["settings", *WHOLE_CHAT[1:] * 5])
    assert scene.conversations == set()
    assert len({request.headers for request in scene.requests if not request.content}) == 1


def test_concurrent_chats_share_a_failure_to_open_the_session() -> None:
    scene = Scene({"settings": [says({"message": "no"}, 401)]})
    errors = interleave(scene, 4)

    assert [type(error) for error in errors] == [LoginRequiredError] * 4
    assert len({id(error) for error in errors}) == 4
    assert scene.operations == ["settings"]

    later = scene.play(chat_of(scene).run())
    assert later.text == " Hello"


def test_concurrent_chats_accept_forgotten_terms_once() -> None:
    scene = Scene({"create": [MODAL_405] * 3}, session="taken-up")
    replies = interleave(scene, 3)

    assert all(isinstance(reply, Reply) for reply in replies)
    assert scene.operations.count("settings") == 1


# Terms.


@pytest.mark.parametrize("operation", ["create", "message", "delete"])
def test_forgotten_terms_are_accepted_again(operation: str) -> None:
    scene = Scene({operation: [MODAL_405]}, session="taken-up")
    assert scene.run().text == " Hello"

    expected = WHOLE_CHAT[1:]
    place = expected.index(operation)
    assert scene.operations == [*expected[: place + 1], "settings", *expected[place:]]
    assert scene.conversations == set()
    assert scene.warnings == []


@pytest.mark.parametrize("operation", ["create", "message"])
def test_terms_forgotten_twice_are_an_error(operation: str) -> None:
    scene = Scene({operation: [MODAL_405] * 5})
    assert type(scene.fail()) is TermsNotAcceptedError
    assert scene.operations.count("settings") == 2
    assert scene.operations.count(operation) == 2


def test_settings_that_require_accepted_terms_are_an_error() -> None:
    scene = Scene({"settings": [MODAL_405] * 5})
    assert type(scene.fail()) is TermsNotAcceptedError
    assert scene.operations == ["settings"]


def test_session_renamed_by_the_server_keeps_the_new_name() -> None:
    scene = Scene(session=None)
    ours = scene.exchange.session.value
    scene.script["settings"] = iter(
        [says({"type": "redirect"}, set_cookie=f"renamed={ours}; HttpOnly")]
    )
    scene.run()
    cookies = [dict(request.headers)["Cookie"] for request in scene.requests]
    assert cookies == [f"hf-chat={ours}"] + [f"renamed={ours}"] * 3


# Retries.

REPEATED = {
    "never sent": lost(sent=False),
    "503": BUSY_503,
    "429 overloaded": says({"error": "x", "error_type": "overloaded"}, 429),
}
REPEATED_WHERE_HARMLESS = {
    "lost": lost(),
    "502": says({}, 502),
    "504": says({}, 504),
    "429": says({"message": "slow down"}, 429),
}
NEVER_REPEATED = {
    "the service's own limit": says({"message": OWN_LIMIT}, 429),
    "500": says({"message": "x"}, 500),
    "422": says({"error": "x"}, 422),
    "redirect": Answer(308, (), (("location", "https://other/"),)),
    "HTML": HTML,
    "compressed": Answer(200, (), (*STREAM, ("content-encoding", "gzip"))),
}


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        *((operation, name) for operation in WHOLE_CHAT for name in REPEATED),
        *((operation, name) for operation in WHOLE_CHAT for name in REPEATED_WHERE_HARMLESS),
    ],
)
def test_transient_failure_is_retried(operation: str, answer: str) -> None:
    refusal = (REPEATED | REPEATED_WHERE_HARMLESS)[answer]
    scene = Scene({operation: [refusal] * 2})
    slept = [0.5, 1.0]

    if operation == "message" and answer not in REPEATED:
        scene.fail()
        slept = []
    else:
        assert scene.run().text == " Hello"
        assert scene.operations.count(operation) == 3
    assert scene.slept == slept


@pytest.mark.parametrize("operation", ["settings", "create", "message"])
@pytest.mark.parametrize("answer", NEVER_REPEATED)
def test_other_failure_is_not_retried(operation: str, answer: str) -> None:
    scene = Scene({operation: [NEVER_REPEATED[answer]] * 2})
    scene.fail()
    assert scene.operations.count(operation) == 1
    assert scene.slept == []


def test_overload_reported_in_the_stream_is_retried() -> None:
    scene = Scene({"message": [streams(OVERLOADED_EVENT)]})
    assert scene.run().text == " Hello"
    bodies = [r.content for r in scene.requests if r.operation == "message"]
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]


def test_nothing_is_retried_after_the_first_token() -> None:
    scene = Scene({"message": [streams(token("a"), OVERLOADED_EVENT)]})
    assert type(scene.fail()) is OverloadedError
    assert scene.operations.count("message") == 1


def test_requests_of_a_call_share_the_retry_count() -> None:
    scene = Scene({"settings": [lost()], "create": [lost()], "message": [BUSY_503] * 9})
    assert type(scene.fail()) is OverloadedError
    assert scene.operations == ["settings"] * 2 + ["create"] * 2 + ["message"] * 3
    assert scene.slept == [0.5, 1.0, 2.0, 4.0]


def test_retries_can_be_disabled() -> None:
    scene = Scene({"settings": [lost(sent=False)]}, retries=0)
    assert type(scene.fail()) is TransportError
    assert scene.log == ["exclusive", "fetch settings"]


def test_retry_after_is_limited_by_the_budget() -> None:
    scene = Scene({"create": [says({}, 503, retry_after="20"), says({}, 503, retry_after="20")]})
    error = scene.fail()
    assert isinstance(error, OverloadedError)
    assert error.retry_after == 20.0
    assert scene.slept == [20.0]


# Errors, at each place: their class, the partial text, and the clean-up requests.

INTERNAL = says({"message": "Internal Error"}, 500)
TOLD_ALL = ["stop", "delete"]

# An answer lost in transit. The server keeps generating; with `recover`, it is searched for.
LOST_ANSWERS: dict[str, tuple[Answer, type[H2oError], str]] = {
    "no response": (lost(), IncompleteStreamError, ""),
    "cut before a token": (streams(cut()), IncompleteStreamError, ""),
    "cut": (streams(token("Hal"), token("f"), cut()), IncompleteStreamError, "Half"),
    "cut in a line": (streams(token("Half"), b"data:{", cut()), IncompleteStreamError, "Half"),
    "clean early end": (streams(token("Half")), IncompleteStreamError, "Half"),
    "end in a line": (streams(token("Half"), b"data:{"), IncompleteStreamError, "Half"),
    "nothing": (streams(), IncompleteStreamError, ""),
    "silence": (streams(token("Half"), 61.0), TransportTimeoutError, "Half"),
    "silent start": (streams(delay=121.0), TransportTimeoutError, ""),
    "502": (says({}, 502), ServerError, ""),
    "504": (says({}, 504), ServerError, ""),
}

PLACES: dict[str, tuple[str, Answer, type[H2oError], str, list[str]]] = {
    "settings rejected": ("settings", says({}, 401), LoginRequiredError, "", []),
    "settings not understood": ("settings", HTML, UnsupportedServerError, "", []),
    "settings redirected": (
        "settings",
        Answer(301, (), (("location", "https://other/settings"),)),
        RedirectError,
        "",
        [],
    ),
    "settings silent": ("settings", Answer(delay=61.0), TransportTimeoutError, "", []),
    "create rejected": ("create", says({}, 410), ModelUnavailableError, "", []),
    "create failed": ("create", INTERNAL, ServerError, "", []),
    "create hostile": ("create", says({"conversationId": "../x"}), ProtocolError, "", []),
    "create silent": ("create", streams(61.0), TransportTimeoutError, "", []),
    "message too large": ("message", Answer(413), PromptTooLargeError, "", ["delete"]),
    "message rejected": ("message", says({}, 422), InvalidRequestError, "", ["delete"]),
    "message limited": (
        "message",
        says({"message": OWN_LIMIT}, 429),
        RateLimitError,
        "",
        ["delete"],
    ),
    "message failed": ("message", INTERNAL, ServerError, "", ["delete"]),
    "message gone": ("message", says({}, 404), NotFoundError, "", ["delete"]),
    "message 424": ("message", says({}, 424), GenerationError, "", ["delete"]),
    "page": ("message", HTML, ProtocolError, "", TOLD_ALL),
    "JSON": ("message", says({"error": "x"}), ProtocolError, "", TOLD_ALL),
    "201": ("message", Answer(201, HELLO, STREAM), ProtocolError, "", TOLD_ALL),
    "error event": ("message", streams(ERROR_EVENT), GenerationError, "", ["delete"]),
    "error event after tokens": (
        "message",
        streams(token("Ha"), token("lf") + ERROR_EVENT),
        GenerationError,
        "Half",
        ["delete"],
    ),
    "rubbish": (
        "message",
        streams(token("Half") + b"data:rubbish\n\n"),
        ProtocolError,
        "Half",
        TOLD_ALL,
    ),
    **{
        name: ("message", answer, error, partial, TOLD_ALL)
        for name, (answer, error, partial) in LOST_ANSWERS.items()
    },
}


@pytest.mark.parametrize("place", PLACES)
def test_error_has_its_class_and_partial_text_and_no_secrets_and_cleans_up(place: str) -> None:
    operation, answer, cls, partial, told = PLACES[place]
    scene = Scene({operation: [answer]}, retries=0)

    error = scene.fail()

    assert type(error) is cls
    assert error.partial == scene.text == scene.chat.text == partial
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    assert scene.exchange.session.value not in f"{error!r} {error}"
    assert scene.abandon() == told
    assert scene.abandon() == []
    assert scene.conversations == set()


def test_page_instead_of_a_stream_is_described() -> None:
    error = Scene({"message": [HTML]}).fail()
    assert "text/html" in str(error)
    assert "<html>a page" in str(error)


def test_only_the_start_of_a_page_is_read() -> None:
    page = Answer(200, (b"x" * 600,) * 100, HTML.headers)
    scene = Scene({"message": [page]})
    assert type(scene.fail()) is ProtocolError
    assert scene.log[-4:] == ["send message", "read", "read", "close"]


@pytest.mark.parametrize("status", [500, 200])
def test_endless_body_is_cut(status: int) -> None:
    body = (b"x" * 2**20,) * 100
    scene = Scene({"create": [Answer(status, body, HTML.headers)]})
    error = scene.fail()
    assert not scene.player.is_open
    assert len(str(error)) < 1000
    assert scene.log.count("read") < 100


@pytest.mark.parametrize("operation", ["settings", "create", "message", "delete"])
def test_compressed_response_is_rejected_and_released(operation: str) -> None:
    compressed = Answer(200, (b"\x1f\x8b",), (*STREAM, ("content-encoding", "gzip")))
    scene = Scene({operation: [compressed]})
    if operation == "delete":
        assert scene.run().text == " Hello"  # the answer is complete; see leave_behind()
    else:
        assert "compressed" in str(scene.fail())
    assert not scene.player.is_open


@pytest.mark.parametrize(
    "end",
    [
        (),
        (cut(),),
        (b"\n\n", cut()),
        (b"data:rubbish\n\n",),
        (ERROR_EVENT,),
        (token("more"), END),
        (5.0,),
        (b"x" * 2**20,) * 10,
    ],
    ids=["end", "cut", "newline, cut", "rubbish", "error", "more", "silence", "flood"],
)
def test_failure_after_the_final_event_is_ignored(
    end: tuple[bytes | H2oError | float, ...],
) -> None:
    scene = Scene({"message": [streams(*HELLO, *end)]})
    assert scene.run().text == " Hello"
    assert scene.operations == WHOLE_CHAT
    assert scene.elapsed <= 1.0
    assert scene.log.count("read") < 12


def test_slow_data_after_the_final_event_is_not_awaited() -> None:
    drops = (0.9, b"\n") * 100
    scene = Scene({"message": [streams(*HELLO, *drops)]})
    assert scene.run().text == " Hello"
    assert scene.elapsed < 5.0


# Interruptions.


def positions() -> int:
    scene = Scene()
    scene.run()
    return len(scene.log)


@pytest.mark.parametrize("position", range(positions() + 1))
def test_chat_interrupted_at_any_effect_cleans_up(position: int) -> None:
    scene = Scene()
    steps = scene.player.drive(scene.chat.run())
    for _ in range(position):
        next(steps)
    steps.close()
    scene.player.release()

    # If interrupted while it is sent, the message may have arrived.
    message_sent = "send message" in scene.log
    final_seen = "emit <|endoftext|>" in scene.log
    told = scene.abandon()

    assert ("stop" in told) == (message_sent and not final_seen)
    assert scene.conversations == set()
    assert scene.generating == set()
    assert told in (["stop", "delete"], ["delete"], [])
    assert scene.abandon() == []
    assert scene.warnings == []


def test_interrupted_creation_is_completed_and_deleted() -> None:
    scene = Scene()
    steps = scene.player.drive_to(scene.chat.run(), "fetch create")
    steps.close()
    assert scene.conversations == {CONVERSATION}
    assert scene.abandon() == ["delete"]


def test_chat_that_never_started_sends_no_clean_up() -> None:
    assert Scene().abandon() == []


def test_failed_clean_up_can_be_resumed() -> None:
    scene = Scene({"message": [streams(token("a"), cut())], "stop": [lost()], "delete": [lost()]})
    scene.fail()
    with pytest.raises(TransportError):
        scene.abandon()
    scene.recover()
    assert scene.abandon()[-1] == "delete"
    assert scene.conversations == set()
    assert scene.abandon() == []


def test_repeated_clean_up_does_not_notify_twice() -> None:
    scene = Scene({"message": [streams(token("a"), cut())], "delete": [lost()]})
    scene.fail()
    with pytest.raises(TransportError):
        scene.abandon()
    assert scene.abandon() == ["delete"]


def test_rejected_stop_does_not_prevent_a_later_deletion() -> None:
    # A deleted conversation cannot be stopped.
    scene = Scene({"message": [streams(token("a"), cut())], "stop": [says({}, 500)] * 9})
    scene.fail()
    with pytest.raises(ServerError):
        scene.abandon()
    assert len(scene.conversations) == 1
    with pytest.raises(ServerError):
        scene.abandon()
    assert scene.conversations == set()


@pytest.mark.parametrize("operation", ["stop", "delete"])
def test_clean_up_ignores_a_missing_conversation(operation: str) -> None:
    scene = Scene({operation: [says({}, 404)], "message": [streams(token("a"), cut())]})
    scene.fail()
    assert scene.abandon() == ["stop", "delete"]
    assert scene.abandon() == []


def test_clean_up_is_tried_once_and_opens_no_session() -> None:
    scene = Scene({"message": [streams(token("a"), cut())], "stop": [MODAL_405]})
    scene.fail()
    with pytest.raises(TermsNotAcceptedError):
        scene.abandon()
    assert scene.operations.count("settings") == 1
    assert scene.operations.count("stop") == 1


# Conversations left on the server.


def test_failed_deletion_is_retried_by_the_sweep() -> None:
    scene = Scene({"delete": [says({}, 500)]})
    assert scene.run().text == " Hello"
    assert scene.conversations == {CONVERSATION}
    assert len(scene.warnings) == 1
    assert "retries when it closes" in scene.warnings[0]

    scene.sweep()
    assert scene.conversations == set()
    assert scene.sweep() == []


def test_sweep_warns_of_a_failure_and_deletes_the_rest() -> None:
    scene = Scene({"delete": [says({}, 403)] * 3}, retries=0)
    for _ in range(2):
        scene.play(chat_of(scene).run())
    scene.sweep()

    assert len(scene.conversations) == 1
    assert len(scene.warnings) == 3
    assert scene.operations.count("delete") == 4


@pytest.mark.parametrize("failure", [says({}, 500), says({}, 503), lost(), lost(sent=False)])
def test_sweep_retries_within_the_cleanup_timeout(failure: Answer) -> None:
    scene = Scene({"delete": [failure] * 4}, retries=0)
    scene.play(chat_of(scene).run())
    scene.sweep()
    assert scene.conversations == set()
    assert scene.operations.count("delete") == 5
    assert 0 < scene.elapsed < 1


def test_sweep_ends_after_the_cleanup_timeout() -> None:
    scene = Scene({"delete": says({}, 500)}, retries=0, timeouts=Timeouts(cleanup=3))
    scene.play(chat_of(scene).run())
    begun = scene.elapsed
    scene.sweep()
    assert scene.elapsed - begun == pytest.approx(3)
    assert "may be left on the server" in scene.warnings[-1]


def test_sweep_waits_for_a_conversation_being_created() -> None:
    scene = Scene()
    steps = scene.player.drive_to(scene.chat.run(), "fetch create")

    def go_on() -> None:
        while scene.chat.creating:
            next(steps)

    scene.exchange.session.drop_all()
    scene.on_sleep = go_on
    scene.sweep()
    steps.close()
    assert "message" not in scene.operations
    assert scene.conversations == set()


def test_warnings_show_no_session_and_no_prompt() -> None:
    world = World(
        {"delete": [says({}, 403)], "stop": [lost()], "message": [streams(token("a"), 99.0)]},
        session="hunter2",
    )
    chat = chat_of(world, "hunter3", recover=False)
    with pytest.raises(H2oError):
        world.play(chat.run())
    world.play(chat.stop())
    conversations.leave_behind(world.exchange, chat, None)
    world.sweep()
    assert len(world.warnings) == 3
    assert "hunter" not in repr((world.warnings, world.exchange, chat))


# Stops.


def rest_of(steps: Generator[str, None, Reply]) -> Reply:
    """Play the rest of a chat."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            reply: Reply = stop.value
            return reply


def test_chat_stopped_before_it_starts_sends_nothing() -> None:
    scene = Scene()
    assert scene.stop() == []
    reply = scene.run()
    assert (reply.text, reply.finish_reason) == ("", "stopped")
    assert scene.requests == []


@pytest.mark.parametrize("position", range(positions() + 1))
def test_chat_can_be_stopped_at_any_effect(position: int) -> None:
    scene = Scene()
    steps = scene.player.drive(scene.chat.run())
    for _ in range(position):
        next(steps)
    told = scene.stop()
    assert scene.stop() == []
    reply = rest_of(steps)

    whole = reply.text == " Hello" and "stop" not in scene.operations
    assert reply.finish_reason in ("stopped", "eos_token")
    assert reply.finish_reason == "eos_token" or not whole or reply.text == " Hello"
    assert reply.text == scene.text
    assert len(told) <= 1
    assert scene.operations.count("stop") <= 1
    assert scene.conversations == set()
    assert scene.abandon() == []


def test_stop_between_tokens_ends_with_the_partial_text() -> None:
    scene = Scene()
    steps = scene.player.drive_to(scene.chat.run(), "emit  Hel")
    assert scene.stop() == ["stop"]
    reply = rest_of(steps)
    assert (reply.text, reply.finish_reason) == (" Hel", "stopped")
    assert scene.operations == [*WHOLE_CHAT[:3], "stop", "delete"]
    assert scene.log.count("emit lo") == 0


@pytest.mark.parametrize("answer", [lost(), streams(cut()), streams()], ids=["no", "cut", "end"])
def test_connection_closed_by_a_stop_is_not_an_error(answer: Answer) -> None:
    # Stopped before its first token, the response never starts [28_stop_variants].
    scene = Scene({"message": [answer]})
    steps = scene.player.drive_to(scene.chat.run(), "send message")
    # Another thread stops while this one waits, after the server has received the request.
    scene.chat._turn.fate = Fate.RUNNING
    assert scene.stop() == ["stop"]
    reply = rest_of(steps)
    assert reply.finish_reason == "stopped"
    assert scene.operations.count("stop") == 1


def test_stop_after_the_end_has_no_effect() -> None:
    scene = Scene()
    reply = scene.run()
    assert scene.stop() == []
    assert reply.finish_reason == "eos_token"


def test_failed_stop_is_a_warning() -> None:
    scene = Scene({"stop": [says({}, 500)] * 2})
    steps = scene.player.drive_to(scene.chat.run(), "emit  Hel")
    scene.stop()
    reply = rest_of(steps)
    assert reply.finish_reason == "stopped"
    assert any("could not be told to stop" in warning for warning in scene.warnings)


# Time limits.


def limit_of(scene: Scene) -> str:
    error = scene.fail()
    assert isinstance(error, TransportTimeoutError)
    assert f"Timeouts.{error.limit}" in str(error)
    return error.limit


@pytest.mark.parametrize(
    ("timeouts", "answer", "limit", "now"),
    [
        (Timeouts(first_token=5), streams(*HELLO, delay=6.0), "first_token", 5.0),
        (Timeouts(idle=5), streams(token("a"), 6.0, END), "idle", 5.0),
        (Timeouts(idle=5), streams(6.0, *HELLO), "idle", 5.0),
        (Timeouts(idle=5), streams(token("a"), *((2.0, b":\n") * 9)), "idle", 5.0),
        (Timeouts(idle=5), streams(token("a"), 1.0, token("b"), 3.0, b":\n", 9.0), "idle", 6.0),
        (Timeouts(idle=5), streams(token("a"), *((2.0, b"\n") * 9)), "idle", 5.0),
        (Timeouts(total=5), streams(*((2.0, token("a")) * 9)), "total", 5.0),
        (Timeouts(total=5), streams(*((2.0, b":\n") * 9)), "total", 5.0),
        (Timeouts(total=5), streams(*HELLO, delay=6.0), "total", 5.0),
        (Timeouts(total=5, idle=None), streams(token("a"), 9.0), "total", 5.0),
        (Timeouts(total=5, first_token=None), streams(delay=9.0), "total", 5.0),
        (Timeouts(total=90, idle=5), streams(token("a"), 6.0), "idle", 5.0),
        (Timeouts(total=90, idle=5), streams(*((2.0, b":\n") * 9)), "idle", 5.0),
    ],
)
def test_timeout_is_raised(timeouts: Timeouts, answer: Answer, limit: str, now: float) -> None:
    scene = Scene({"message": [answer]}, timeouts=timeouts)
    assert limit_of(scene) == limit
    assert now <= scene.elapsed <= now + 1.0
    assert not scene.player.is_open


@pytest.mark.parametrize(
    ("timeouts", "answer"),
    [
        (Timeouts(idle=5), streams(*((4.0, token("a")) * 20), END)),
        (Timeouts(idle=5), streams(token("a"), 2.0, b":\n", 2.0, token("b"), 4.0, END)),
        (Timeouts(idle=5, first_token=60), streams(*HELLO, delay=50.0)),
        (Timeouts(idle=None), streams(token("a"), 9999.0, b":\n", 9999.0, END)),
        (Timeouts(first_token=None), streams(*HELLO, delay=9999.0)),
        (Timeouts(total=5), streams(1.0, token("a"), 1.0, END)),
    ],
)
def test_timeout_is_not_raised_early(timeouts: Timeouts, answer: Answer) -> None:
    scene = Scene({"message": [answer]}, timeouts=timeouts)
    assert scene.run().finish_reason == "eos_token"


@pytest.mark.parametrize("total", [None, 10_000.0])
@pytest.mark.parametrize("between", [(), (b": comment\n\n",)], ids=["tokens", "comments"])
def test_slow_caller_does_not_cause_a_timeout(
    total: float | None, between: tuple[bytes, ...]
) -> None:
    answer = streams(token("a"), *between, token("b"), *between, END)
    scene = Scene({"message": [answer]}, timeouts=Timeouts(idle=60, total=total))
    scene.on_emit = lambda: scene.pass_time(100.0)
    assert scene.run().text == "ab"


def test_answer_is_complete_if_the_shell_missed_the_final_tokens() -> None:
    scene = Scene({"message": [streams(token("a"), whole("b"))]})
    pump = scene.player._pump

    def interrupted(effect: Pump) -> float:
        since = pump(effect)
        effect.parser.tokens()
        return since

    scene.player._pump = interrupted  # type: ignore[method-assign]
    reply = scene.run()
    assert (reply.text, reply.finish_reason) == ("ab", "eos_token")


@pytest.mark.parametrize("status", [504, 422])
def test_late_error_response_is_not_a_timeout(status: int) -> None:
    answer = says({"error": "late"}, status, delay=100.0)
    error = Scene({"message": [answer]}, timeouts=Timeouts(first_token=120, idle=60)).fail()
    assert isinstance(error, StatusError)
    assert error.status == status


def test_slow_body_ends_after_the_idle_timeout() -> None:
    scene = Scene({"create": [Answer(200, (2.0, b" ") * 50)]}, timeouts=Timeouts(idle=5))
    assert limit_of(scene) == "idle"
    assert scene.elapsed < 10.0


def test_total_timeout_starts_with_the_call() -> None:
    settings_ = says({"type": "redirect"}, delay=3.0)
    answer = streams(*((1.0, token("a")) * 9), END)
    scene = Scene({"settings": [settings_], "message": [answer]}, timeouts=Timeouts(total=5))
    assert limit_of(scene) == "total"
    assert scene.elapsed <= 6.0


def test_retry_wait_beyond_the_total_timeout_is_not_started() -> None:
    refusal = says({}, 503, retry_after="6")
    scene = Scene({"message": [refusal] * 2}, timeouts=Timeouts(total=5))
    error = scene.fail()
    assert type(error) is OverloadedError
    assert error.retry_after == 6.0
    assert (scene.slept, scene.operations.count("message")) == ([], 1)


def test_total_timeout_applies_as_the_head_arrives() -> None:
    scene = Scene({"message": [streams(*HELLO, delay=5.0)]}, timeouts=Timeouts(total=5))
    assert limit_of(scene) == "total"


# Arbitrary input.

FAULTS = st.sampled_from(
    [
        TransportError("x"),
        TransportError("x", sent=False),
        TransportTimeoutError.exceeded("idle", 1.0),
        TransportTimeoutError.exceeded("connect", 1.0),
        TransportTimeoutError.exceeded("first_token", 1.0),
    ]
)
PARTS = st.one_of(
    st.sampled_from(
        [
            *HELLO,
            token("é\u2028"),
            ERROR_EVENT,
            OVERLOADED_EVENT,
            b": comment\n\n",
            b"data:",
            b'{"conversationId":"abc"}',
            b'{"type":"redirect"}',
            b'{"type":"error","error":{"message":"Internal Error"}}',
            MODAL.encode(),
            b'{"type":"data","nodes":[null]}',
        ]
    ),
    st.binary(max_size=8).filter(bool),
    st.floats(0, 40),
    FAULTS,
)
HEADS = st.sampled_from(
    [
        STREAM,
        (("content-type", "application/json"),),
        (("content-type", "text/html"), ("content-encoding", "gzip")),
        (("location", "https://other/settings"), ("set-cookie", "a=b; HttpOnly")),
        (("location", "//["), ("retry-after", "1"), ("set-cookie", ";;=")),
        (),
    ]
)
ANSWERS = st.builds(
    Answer,
    status=st.sampled_from([200, 200, 200, 204, 303, 308, 404, 405, 422, 429, 500, 502, 503]),
    body=st.lists(PARTS, max_size=6).map(tuple),
    headers=HEADS,
    fault=st.none() | st.none() | FAULTS,
    delay=st.floats(0, 40),
)
SCRIPTS = st.fixed_dictionaries(
    {},
    optional={
        operation: st.lists(ANSWERS, max_size=4)
        for operation in ("settings", "create", "message", "delete", "stop", "data", "root")
    },
)


@pytest.mark.slow
@given(
    script=SCRIPTS,
    breaks=st.none() | st.integers(0, 30),
    stops=st.none() | st.integers(0, 30),
    recover=st.booleans(),
)
def test_any_responses_give_a_reply_or_typed_error_and_clean_up(
    script: dict[str, list[Answer]], breaks: int | None, stops: int | None, recover: bool
) -> None:
    scene = Scene(script, recover=recover)
    steps = scene.player.drive(scene.chat.run())
    result: object = None
    try:
        for position in range(1000):
            if position == breaks:
                break
            if position == stops:
                scene.stop()
            next(steps)
    except StopIteration as stop:
        result = stop.value
    except H2oError as error:
        result = error
    if isinstance(result, Reply):
        assert result.text == scene.text
        assert not scene.player.is_open
    elif isinstance(result, H2oError):
        assert result.partial in ("", scene.text)
    else:
        assert breaks is not None, "the flow does not end"
    steps.close()
    scene.player.release()

    scene.recover()
    scene.abandon()
    assert scene.conversations == set()
    assert scene.abandon() == []
