"""Recovery of an answer after a lost connection: the core finds and returns the missing text."""

import json
from itertools import chain, repeat
from typing import Any

import pytest
from recorded import HELLO, scenario
from world import (
    CONVERSATION,
    GONE,
    JSON,
    MESSAGE,
    RESPONSE,
    Answer,
    Part,
    World,
    chat_of,
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
    ForbiddenError,
    H2oError,
    IncompleteStreamError,
    OverloadedError,
    ServerError,
    StatusError,
    TransportError,
    TransportTimeoutError,
)
from h2o_client.protocol.chat_ui_2023.stored import read_conversation
from h2o_client.protocol.effects import Flow
from h2o_client.protocol.payloads import DEFAULT_PARAMETERS
from h2o_client.protocol.state import Life, State
from h2o_client.protocol.turn import Turn
from h2o_client.types import Reply, Timeouts

STORED = says(data(("user", "Hi", MESSAGE), ("assistant", " One two three", RESPONSE)))
NOTHING = says(data())


def new_turn(world: World, **options: Any) -> Turn:
    keywords: dict[str, Any] = {"model": "m", "parameters": DEFAULT_PARAMETERS, "recover": True}
    life = Life()
    life.move(State.OPEN)
    return Turn(world.exchange, "Hi", life=life, **{**keywords, **options})


def play_turn(world: World, turn: Turn) -> Reply:
    return world.play(turn.run(CONVERSATION, world.exchange.call()))


def play(world: World, **options: Any) -> Reply:
    return play_turn(world, new_turn(world, **options))


# Recorded answers, cut at every byte.


class Recording:
    """A recorded answer, and the data that the server stored for it."""

    def __init__(self, name: str, stored: int | None = 3) -> None:
        self.name = name
        exchanges = scenario(name)
        self.body = exchanges[2].body
        if stored is None:  # not fetched; the answer is that of 07
            exchanges, stored = scenario("07_two_turns_and_retry"), 4
        self.data = exchanges[stored].body
        options = json.loads(exchanges[2].request_body or "")["options"]
        self.message: str = options["id"]
        self.response: str = options["response_id"]
        (found,) = (
            message
            for message in read_conversation(self.data).messages
            if message.id == self.response
        )
        self.stored = found.content
        text, final = received(self.lines(len(self.body)))
        self.full = text if final else self.stored

    def lines(self, size: int) -> list[bytes]:
        """Return the complete events within the first bytes."""
        return [line for line in self.body[:size].split(b"\n")[:-1] if line.startswith(b"data:")]

    def __str__(self) -> str:
        return self.name


def received(lines: list[bytes]) -> tuple[str, bool]:
    """Return the text of these events, and whether the final one is among them."""
    events = [json.loads(line[5:]) for line in lines]
    text = "".join(e["token"]["text"] for e in events if not e["token"]["special"])
    return text, any(e["generated_text"] is not None for e in events)


RECORDINGS = [
    Recording("01_happy_path", None),
    Recording("17_disconnect", 4),
    Recording("05_upstream_unicode"),
    Recording("05_upstream_newlines"),
    Recording("05_upstream_length"),
    Recording("05_upstream_eos_in_text"),
    Recording("05_upstream_empty"),
    Recording("05_upstream_keepalive"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "recording",
    [
        RECORDINGS[0],
        *[pytest.param(recording, marks=pytest.mark.long) for recording in RECORDINGS[1:]],
    ],
    ids=str,
)
def test_answer_cut_at_any_byte_is_recovered_exactly_once(recording: Recording) -> None:
    for size in range(len(recording.body) + 1):
        world = World(
            {"message": streams(recording.body[:size], cut()), "data": says(recording.data)},
            ids=[recording.message, recording.response],
        )
        reply = play(world)
        text, final = received(recording.lines(size))
        if final:
            assert (reply.text, reply.recovered) == (recording.full, False)
            assert world.operations == ["message"]
        else:
            whole_text = recording.stored if recording.stored.startswith(text) else text
            assert (reply.text, reply.recovered) == (whole_text, True), size
            assert reply.text.rstrip() == recording.full.rstrip()
            assert reply.finish_reason is None
            assert world.operations == ["message", "data"]
            ids = [token.id for token in world.tokens]
            assert (None in ids) == (len(reply.text) > len(text))
            assert None not in ids[:-1]
        assert world.text == reply.text
        assert reply.response_id == recording.response
        assert world.slept == []


@pytest.mark.parametrize("recording", RECORDINGS, ids=str)
def test_answer_ended_early_at_any_byte_is_recovered(recording: Recording) -> None:
    for size in range(0, len(recording.body) + 1, 29):
        world = World(
            {"message": streams(recording.body[:size]), "data": says(recording.data)},
            ids=[recording.message, recording.response],
        )
        reply = play(world)
        # The last line may then lack its end, and is read if it is JSON.
        assert reply.text.rstrip() == recording.full.rstrip()
        assert world.text == reply.text
        assert world.operations.count("message") == 1
        assert reply.recovered == ("data" in world.operations)


def test_recovered_token_has_no_id_and_is_shown() -> None:
    world = World({"message": streams(token(" One"), cut()), "data": STORED})
    reply = play(world)
    assert [(t.id, t.text, t.logprob, t.special) for t in world.tokens[1:]] == [
        (None, " two three", None, False)
    ]
    assert (reply.text, reply.recovered, reply.finish_reason) == (" One two three", True, None)
    assert (reply.conversation_id, reply.message_id, reply.response_id) == (
        CONVERSATION,
        MESSAGE,
        RESPONSE,
    )


def test_recovery_returns_nothing_if_nothing_is_missing() -> None:
    world = World(
        {"message": streams(token(" One two three"), cut()), "data": STORED},
    )
    assert play(world).recovered
    assert len(world.tokens) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lost(), id="lost before the head"),
        pytest.param(streams(cut()), id="lost after the head"),
        pytest.param(says({"message": "Bad Gateway"}, 502), id="502"),
        pytest.param(says(b"<html>Gateway Time-out</html>", 504), id="504"),
        pytest.param(Answer(502, (b"<html>", cut())), id="lost in a 502"),
        pytest.param(streams(token(" One")), id="a clean end"),
        pytest.param(streams(token(" One")[:-30]), id="an end within a line"),
    ],
)
@pytest.mark.parametrize("looks", [0, 1, 3])
def test_lost_answer_is_recovered(answer: Answer, looks: int) -> None:
    world = World({"message": answer, "data": [*[NOTHING] * looks, STORED]})
    reply = play(world)
    assert (reply.text, reply.recovered) == (" One two three", True)
    assert world.text == " One two three"
    assert world.operations == ["message", *["data"] * (looks + 1)]
    assert world.slept == [0.1, 0.2, 0.4][:looks]


@pytest.mark.parametrize(
    ("answer", "partial", "limit"),
    [
        (streams(token(" One"), 61.0), " One", "idle"),
        (streams(token(" One"), 40.0, b": wait\n", 40.0), " One", "idle"),
        (Answer(delay=121.0), "", "first_token"),
    ],
)
def test_store_is_polled_once_after_a_timeout(answer: Answer, partial: str, limit: str) -> None:
    world = World({"message": answer, "data": STORED})
    assert play(world).text == world.text == " One two three"
    assert world.operations == ["message", "data"]

    world = World({"message": answer, "data": NOTHING})
    with pytest.raises(TransportTimeoutError) as caught:
        play(world)
    assert (caught.value.partial, caught.value.limit) == (partial, limit)
    assert world.operations == ["message", "data"]
    assert world.slept == []


@pytest.mark.parametrize(
    ("answer", "error", "times"),
    [
        pytest.param(lost(sent=False), TransportError, 5, id="no connection"),
        pytest.param(says({"error": "Model is overloaded"}, 503), OverloadedError, 5, id="503"),
        pytest.param(says({"message": "Internal Error"}, 500), ServerError, 1, id="500"),
        pytest.param(
            streams(token(" One"), b'data:{"error":"x","error_type":"generation"}\n\n'),
            H2oError,
            1,
            id="an error event",
        ),
        pytest.param(streams(token(" One"), b"data:{no JSON}\n\n"), H2oError, 1, id="garbage"),
    ],
)
def test_answer_that_is_not_stored_is_not_searched_for(
    answer: Answer, error: type[H2oError], times: int
) -> None:
    world = World({"message": answer})
    with pytest.raises(error):
        play(world)
    assert world.operations == ["message"] * times


@pytest.mark.parametrize(
    ("answer", "error", "partial"),
    [
        (lost(), IncompleteStreamError, ""),
        (streams(token(" One"), cut()), IncompleteStreamError, " One"),
        (streams(token(" One")), IncompleteStreamError, " One"),
        (streams(token(" One"), 61.0), TransportTimeoutError, " One"),
        (says({"message": "Bad Gateway"}, 502), StatusError, ""),
    ],
)
def test_nothing_is_searched_for_without_recovery(
    answer: Answer, error: type[H2oError], partial: str
) -> None:
    world = World({"message": answer})
    with pytest.raises(error) as caught:
        play(world, recover=False)
    assert type(caught.value) is error or error is StatusError
    assert caught.value.partial == partial
    assert world.operations == ["message"]


# Duration of the search.

LOOKS = [0.1, 0.2, 0.4, 0.8, 1.6]  # and 2 s each after that


def looks(seconds: float) -> list[float]:
    """Return the sleeps between the polls during this many seconds."""
    sleeps: list[float] = []
    while (left := seconds - sum(sleeps)) > 1e-9:
        sleeps.append(min(LOOKS[len(sleeps)] if len(sleeps) < len(LOOKS) else 2.0, left))
    return sleeps


@pytest.mark.parametrize(
    ("answer", "recovery", "seconds"),
    [
        (streams(cut()), 30.0, 30.0),
        (streams(cut(), delay=20.0), 1.0, 21.0),
        (streams(token(" One"), cut()), 3.5, 3.5),
        (streams(5.0, token(" One"), 7.0, cut()), 30.0, 42.0),
        (streams(5.0, token(" One"), 7.0, cut()), 1.0, 13.0),
        (streams(5.0, token(" One"), 7.0), 30.0, 2.0),
        (streams(token(" One")), 0.5, 0.5),
    ],
)
def test_search_lasts_as_long_as_the_answer_plus_the_limit(
    answer: Answer, recovery: float, seconds: float
) -> None:
    world = World(
        {"message": answer, "data": NOTHING},
        timeouts=Timeouts(recovery=recovery),
        retries=0,
    )
    with pytest.raises(H2oError) as caught:
        play(world)
    assert caught.value.partial == world.text
    assert world.slept == pytest.approx(looks(seconds))
    assert world.operations == ["message", *["data"] * (len(world.slept) + 1)]


def test_new_stored_text_restarts_the_search_time() -> None:
    first = says(data(("user", "Hi", "x")))
    second = says(data(("user", "Hi", "x"), ("assistant", " Hello", "y")))
    world = World(
        {"message": streams(cut()), "data": chain([NOTHING] * 3, [first] * 3, repeat(second))},
        timeouts=Timeouts(recovery=5.0),
        retries=0,
    )
    with pytest.raises(IncompleteStreamError):
        play(world)
    # The 4th poll, after 0.7 s, has more text, and so has the 7th, after 5.1 s.
    assert sum(world.slept[:3]) == pytest.approx(0.7)
    assert sum(world.slept[:6]) == pytest.approx(5.1)
    assert sum(world.slept) == pytest.approx(5.1 + 5.0)


def test_stored_text_of_another_turn_does_not_extend_the_search() -> None:
    other = says(data(("user", "Hi", "x"), ("assistant", " Hello", "y")))
    world = World(
        {"message": streams(cut()), "data": chain([says(b"nonsense")], repeat(other))},
        timeouts=Timeouts(recovery=2.0),
        retries=0,
    )
    with pytest.raises(IncompleteStreamError):
        play(world)
    assert sum(world.slept) == pytest.approx(2.0)


def test_answer_stored_at_the_last_poll_is_found() -> None:
    world = World(
        {"message": streams(token(" One"), cut()), "data": [*[NOTHING] * 2, STORED]},
        timeouts=Timeouts(recovery=0.15),
    )
    assert play(world).text == " One two three"
    assert world.slept == pytest.approx([0.1, 0.05])


@pytest.mark.parametrize(
    "failure",
    [
        lost(),
        lost(sent=False),
        says({"message": "x"}, 503),
        says({"message": "Internal Error"}, 500),
        says(b"<html>"),
        says(refused(403, "x")),
        Answer(delay=61.0),
        Answer(200, (b"{", cut()), JSON),
    ],
)
def test_failed_poll_is_repeated(failure: Answer) -> None:
    world = World(
        {"message": streams(token(" One"), cut()), "data": [failure, failure, STORED]},
        timeouts=Timeouts(recovery=300.0),
    )
    assert play(world).text == " One two three"
    assert world.slept == [0.1, 0.2]


@pytest.mark.parametrize("gone", [says(GONE), says({"message": "Conversation not found"}, 404)])
def test_missing_conversation_is_not_polled_again(gone: Answer) -> None:
    world = World({"message": streams(token(" One"), cut()), "data": [NOTHING, gone]})
    with pytest.raises(IncompleteStreamError) as caught:
        play(world)
    assert caught.value.partial == " One"
    assert world.operations == ["message", "data", "data"]


def test_forbidden_poll_raises_the_error_of_the_stream() -> None:
    world = World(
        {"message": streams(cut()), "data": says(refused(403, "no"))},
        timeouts=Timeouts(recovery=1.0),
        retries=0,
    )
    with pytest.raises(IncompleteStreamError) as caught:
        play(world)
    assert not isinstance(caught.value, ForbiddenError)


@pytest.mark.parametrize("data", [NOTHING, Answer(delay=1000.0)], ids=["nothing", "hanging"])
def test_total_timeout_limits_the_search(data: Answer) -> None:
    world = World(
        {"message": streams(4.0, token(" One"), cut()), "data": data},
        timeouts=Timeouts(total=10.0),
    )
    with pytest.raises(TransportTimeoutError) as caught:
        world.play(chat_of(world).run())
    assert world.elapsed == pytest.approx(10.0)
    assert (caught.value.limit, caught.value.partial) == ("total", " One")
    assert isinstance(caught.value.__cause__, IncompleteStreamError)


def test_hanging_poll_is_replaced() -> None:
    """It counts as a separate request, to which `idle` does not apply."""
    world = World(
        {"message": streams(token(" One"), cut()), "data": [Answer(delay=1000.0), STORED]},
        timeouts=Timeouts(idle=500.0),
    )
    reply = play(world)
    assert reply.recovered
    assert world.elapsed == pytest.approx(5.1)


def test_poll_after_a_timeout_is_limited() -> None:
    world = World(
        {"message": Answer(delay=1000.0), "data": Answer(delay=1000.0)},
        timeouts=Timeouts(first_token=200.0, idle=500.0),
    )
    with pytest.raises(TransportTimeoutError) as caught:
        play(world)
    assert caught.value.limit == "first_token"
    assert world.elapsed == pytest.approx(205.0)
    assert world.operations.count("message") == 1


def test_message_is_not_resent_without_time_left() -> None:
    world = World({"message": lost(), "data": NOTHING}, timeouts=Timeouts(recovery=1.0, total=2.5))
    with pytest.raises(IncompleteStreamError):
        world.play(chat_of(world).run())
    assert world.operations.count("message") == 1
    assert world.elapsed < 2.5


def test_total_timeout_is_not_recovered() -> None:
    world = World({"message": streams(token(" One"), 11.0)}, timeouts=Timeouts(total=10.0))
    with pytest.raises(TransportTimeoutError) as caught:
        world.play(chat_of(world).run())
    assert (caught.value.limit, caught.value.partial) == ("total", " One")
    assert world.operations == ["create", "message"]


# Sending again, if nothing had arrived and the server has nothing.


@pytest.mark.parametrize(
    "answer", [lost(), streams(cut()), says({"message": "Bad Gateway"}, 502)], ids=repr
)
def test_message_without_any_answer_is_resent_in_its_place(answer: Answer) -> None:
    world = World(
        {"message": [answer, streams(whole(" New"))], "data": NOTHING},
        timeouts=Timeouts(recovery=0.05),
    )
    assert play(world).text == world.text == " New"
    assert world.operations == ["message", "data", "data", "stop", "message"]
    # The stop may take its time before a second generation starts.
    assert world.slept[-2] >= 2.0
    first, second = world.bodies("message")
    assert (first["options"]["is_retry"], second["options"]["is_retry"]) == (False, True)
    assert first["options"]["id"] == second["options"]["id"] == MESSAGE


@pytest.mark.parametrize("pieces", [(token(" One"), cut()), (token(" One"),), ()])
def test_message_with_a_partial_or_ended_answer_is_not_resent(
    pieces: tuple[Part, ...],
) -> None:
    world = World({"message": streams(*pieces), "data": NOTHING}, timeouts=Timeouts(recovery=0.05))
    with pytest.raises(IncompleteStreamError):
        play(world)
    assert world.operations.count("message") == 1


def test_message_is_not_resent_after_a_failed_stop() -> None:
    world = World(
        {"message": lost(), "data": NOTHING, "stop": lost()}, timeouts=Timeouts(recovery=0.05)
    )
    with pytest.raises(IncompleteStreamError):
        play(world)
    assert world.operations.count("message") == 1


# Stored text.


@pytest.mark.parametrize(
    ("got", "stored", "text"),
    [
        (" One", " One two", " One two"),
        (" One ", " One two", " One two"),
        (" One \n", " One", " One \n"),
        (" One\ufeff", " One", " One\ufeff"),
        (" One\xa0\u2028\u2029\u3000", " One", " One\xa0\u2028\u2029\u3000"),
        (" One\u2003\t\v\f\r ", " One", " One\u2003\t\v\f\r "),
        (" One\x1c", " One\x1c", " One\x1c"),
        (" \n", "", " \n"),
        ("", "", ""),
        ("", " One", " One"),
        (" One\u2028", " One\u2028two", " One\u2028two"),
        (" e\u0301", " e\u0301t", " e\u0301t"),
    ],
)
def test_stored_text_continues_the_received_text(got: str, stored: str, text: str) -> None:
    pieces: list[Part] = [token(got)] if got else []
    world = World(
        {
            "message": streams(*pieces, cut()),
            "data": says(data(("user", "Hi", MESSAGE), ("assistant", stored, RESPONSE))),
        }
    )
    reply = play(world)
    assert (reply.text, world.text, reply.recovered) == (text, text, True)


@pytest.mark.parametrize(
    ("got", "stored"),
    [
        (" One two", " One"),
        (" One two", " Another"),
        (" One\x1c", " One"),
        (" One\x85", " One"),
        (" One\u200b", " One"),
        (" One \x1c", " One"),
        (" One", "One"),
        (" \u00e9t", " e\u0301tait"),
    ],
)
def test_different_stored_text_is_an_error(got: str, stored: str) -> None:
    world = World(
        {
            "message": streams(token(got), cut()),
            "data": says(data(("user", "Hi", MESSAGE), ("assistant", stored, RESPONSE))),
        }
    )
    with pytest.raises(IncompleteStreamError) as caught:
        play(world)
    assert caught.value.partial == world.text == got
    assert world.operations == ["message", "data"]


def test_answer_is_found_by_its_id_not_by_its_position() -> None:
    stored = data(
        ("user", "Hi", MESSAGE),
        ("assistant", " One two", RESPONSE),
        ("user", "Later", "a"),
        ("assistant", " One more", "b"),
    )
    world = World({"message": streams(token(" One"), cut()), "data": says(stored)})
    assert play(world).text == " One two"


# Concurrent stops, and the final clean-up.


@pytest.mark.parametrize(
    "found", [NOTHING, lost(), None], ids=["during a poll", "interrupting a poll", "between polls"]
)
def test_stop_ends_the_search(found: Answer | None) -> None:
    def look(_: object) -> Answer:
        if found is not None:
            world.play(turn.stop())
        return found or NOTHING

    world = World({"message": streams(token(" One"), cut()), "data": look})
    turn = new_turn(world)
    if found is None:
        world.on_sleep = lambda: world.play(turn.stop())
    reply = play_turn(world, turn)
    assert (reply.text, reply.finish_reason, reply.recovered) == (" One", "stopped", False)
    assert world.operations == ["message", "data", "stop"]


def test_reader_notifies_the_server_before_deleting() -> None:
    # Another thread's stop is in progress, but has not arrived, when the next token comes.
    world = World({"message": streams(token(" One"), token(" two"))})
    operation = chat_of(world)
    stopping: list[Flow[None]] = []

    def stop() -> None:
        stopping.append(operation.stop())
        next(stopping[0])  # it is about to send

    world.on_emit = stop
    assert world.play(operation.run()).finish_reason == "stopped"
    assert world.operations == ["create", "message", "stop", "delete"]
    stopping[0].close()


def test_recovered_chat_is_deleted_without_a_stop() -> None:
    world = World({"message": streams(token(" One"), cut()), "data": STORED})
    operation = chat_of(world)
    assert world.play(operation.run()).text == " One two three"
    world.play(operation.abandon(world.exchange.cleanup()))
    assert world.operations == ["create", "message", "data", "delete"]


def test_unrecovered_chat_is_stopped_and_deleted() -> None:
    world = World(
        {"message": streams(token(" One"), cut()), "data": NOTHING},
        timeouts=Timeouts(recovery=0.05),
    )
    operation = chat_of(world)
    with pytest.raises(IncompleteStreamError):
        world.play(operation.run())
    world.play(operation.abandon(world.exchange.cleanup()))
    assert world.operations == ["create", "message", "data", "data", "stop", "delete"]


@pytest.mark.parametrize(
    ("client", "call", "recovered"),
    [(None, None, True), (True, False, False), (False, None, False), (False, True, True)],
)
def test_recover_of_the_call_overrides_the_client(
    client: bool | None, call: bool | None, recovered: bool
) -> None:
    world = World({"message": streams(token(" One"), cut()), "data": STORED}, recover=client)
    if recovered:
        assert world.play(chat_of(world, recover=call).run()).recovered
    else:
        with pytest.raises(IncompleteStreamError):
            world.play(chat_of(world, recover=call).run())
    assert world.operations.count("message") == 1


def test_forgotten_session_does_not_prevent_recovery() -> None:
    # For an unknown session, the response is a 200 with an error in a node [13_data_json].
    world = World(
        {
            "message": streams(token(" One"), cut()),
            "data": [says(refused(403, "You don't have access")), STORED],
        }
    )
    assert play(world).recovered
    assert world.operations == ["message", "data", "data"]


def test_complete_answer_is_not_recovered() -> None:
    world = World({"message": streams(whole(" One", " two"), cut())})
    reply = play(world)
    assert (reply.text, reply.recovered, reply.finish_reason) == (" One two", False, "eos_token")


def test_hello_matches_the_recordings() -> None:
    assert RECORDINGS[0].full == RECORDINGS[0].stored == HELLO
