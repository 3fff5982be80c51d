"""State shared by the calls of a client: opening the session, and conversations with lost ids."""

from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from world import CONVERSATION, MODAL, Answer, Player, World, lost, message_of, says, talk_of

from h2o_client.errors import (
    ConversationBusyError,
    H2oError,
    ModelUnavailableError,
    OverloadedError,
    TransportTimeoutError,
)
from h2o_client.protocol import conversations
from h2o_client.protocol.chat import ChatOperation
from h2o_client.protocol.effects import Exclusive, Finish, Flow, Request
from h2o_client.protocol.retries import Patience, Retries, Retry
from h2o_client.protocol.session import Failure
from h2o_client.types import DEFAULT_MODEL, Reply, Timeouts

BUSY = Answer(503, (b"busy",))
OPENED = says({"type": "redirect", "status": 303, "location": "/"})
# 02_settings_variants
INTERNAL = says({"type": "error", "error": {"message": "Internal Error"}}, 500)


def chat(world: World, **options: Any) -> Flow[Reply]:
    arguments: dict[str, Any] = dict.fromkeys(["model", "recover", "retries", "parameters"])
    return ChatOperation(world.exchange, "Hi", keywords={}, **{**arguments, **options}).run()


def at_once(world: World, *flows: Flow[Reply]) -> list[Reply | H2oError]:
    """Play flows concurrently, an effect of each in turn."""
    under_way = {index: Player(world).drive(flow) for index, flow in enumerate(flows)}
    ended: dict[int, Reply | H2oError] = {}
    while under_way:
        for index, steps in list(under_way.items()):
            try:
                next(steps)
            except StopIteration as stop:
                ended[index] = stop.value
            except H2oError as error:
                ended[index] = error
            if index in ended:
                del under_way[index]
    return [ended[index] for index in range(len(flows))]


# Opening the session


@pytest.mark.parametrize(
    "patient", [Retries(attempts=1, base=0.0), Retries(attempts=0, budget=60.0)], ids=repr
)
def test_call_with_more_retries_left_does_not_share_a_failure(patient: Retries) -> None:
    world = World({"settings": [BUSY]}, session=None)
    first, second = at_once(world, chat(world, retries=0), chat(world, retries=patient))
    assert isinstance(first, OverloadedError)
    assert isinstance(second, Reply)


@pytest.mark.parametrize("other", [Retries(attempts=0), Retries(attempts=1, budget=1.0)], ids=repr)
def test_call_without_more_retries_shares_the_failure(other: Retries) -> None:
    world = World({"settings": [BUSY]}, session=None)
    errors = at_once(world, chat(world, retries=0), chat(world, retries=other))
    assert [type(error) for error in errors] == [OverloadedError] * 2
    assert world.operations == ["settings"]


def test_timeout_of_one_call_is_not_shared() -> None:
    world = World({"settings": [Answer(delay=1000.0)]}, session=None, timeouts=Timeouts(total=5.0))
    first, second = at_once(world, chat(world), chat(world))
    assert isinstance(first, TransportTimeoutError)
    assert first.limit == "total"
    # It had started at the same time.
    assert isinstance(second, TransportTimeoutError)
    assert world.operations == ["settings"]
    assert isinstance(world.play(chat(world)), Reply)


@pytest.mark.parametrize(
    ("patience", "settled"),
    [((0, 30.0), True), ((0, 3.0), True), ((1, 3.0), True), ((1, 30.0), False), ((0, 31.0), False)],
)
def test_failure_applies_to_calls_with_no_more_retries_left(
    patience: Patience, settled: bool
) -> None:
    failure = Failure(OverloadedError("x", status=503), "m", (0, 30.0))
    assert failure.applies_to("m", patience) == settled


def test_used_retries_reduce_what_is_left() -> None:
    world = World({"create": [BUSY]})
    retries = world.exchange.call(Retries(attempts=2, base=4.0))
    world.play(conversations.create(world.exchange, "m", retries, lambda _: None))
    assert retries.patience == (1, 26.0)


def test_total_timeout_does_not_apply_to_other_calls() -> None:
    failure = Failure(TransportTimeoutError.exceeded("total", None), "m", (0, 30.0))
    assert not failure.applies_to("m", (0, 30.0))


def test_error_raised_by_on_retry_is_not_shared() -> None:
    def refuse(retry: Retry) -> None:
        raise retry.error

    world = World({"settings": [BUSY]}, session=None)
    first, second = at_once(world, chat(world, retries=Retries(on_retry=refuse)), chat(world))
    assert isinstance(first, OverloadedError)
    assert isinstance(second, Reply)


def test_wait_before_a_creation_retry_can_be_interrupted() -> None:
    """A request in progress is completed; a pending attempt is not awaited."""
    world = World({"create": [BUSY]})
    Player(world).drive_to(chat(world, retries=Retries(base=9.0)), "sleep").close()
    assert world.slept == []
    assert world.sweep() == []


def test_waiting_for_the_session_counts_towards_the_total() -> None:
    world = World(session=None, timeouts=Timeouts(total=5.0))
    effects = world.exchange.open_session(world.exchange.call())
    exclusive = next(effects)
    assert isinstance(exclusive, Exclusive)
    assert (exclusive.deadline.left(), exclusive.deadline.limit) == (5.0, "total")
    effects.close()


def refusing(*models: str) -> Callable[[Request], Answer]:
    """Settings that are rejected with these models."""

    def settings(request: Request) -> Answer:
        chosen = parse_qs((request.content or b"").decode())["activeModel"][0]
        return INTERNAL if chosen in models else OPENED

    return settings


def test_call_can_use_its_own_model_if_the_clients_is_unknown() -> None:
    world = World({"settings": refusing(DEFAULT_MODEL), "root": listing()}, session=None)
    assert world.play(chat(world, model="mine")).model == "mine"
    assert world.operations[:4] == ["settings", "root", "settings", "create"]
    world.play(chat(world, model="mine"))
    assert world.operations.count("settings") == 2


def test_unknown_model_of_one_call_does_not_fail_another() -> None:
    world = World({"settings": refusing(DEFAULT_MODEL, "nope"), "root": listing()}, session=None)
    none, other, mine = at_once(
        world, chat(world), chat(world, model="nope"), chat(world, model="mine")
    )
    assert isinstance(none, ModelUnavailableError)
    assert isinstance(other, ModelUnavailableError)
    assert "'nope'" in str(other)
    assert isinstance(mine, Reply)


# Several objects of one conversation


def test_resumed_objects_of_a_conversation_take_turns() -> None:
    world = World()
    one, other = talk_of(world, id=CONVERSATION), talk_of(world, id=CONVERSATION)
    steps = Player(world).drive(message_of(one).run())
    next(steps)
    with pytest.raises(ConversationBusyError):
        other.begin()
    for _ in steps:
        pass
    other.begin()


def test_created_and_resumed_objects_take_turns() -> None:
    world = World()
    made = talk_of(world, keep=True)
    world.play(made.open(world.exchange.call()))
    made.begin()
    with pytest.raises(ConversationBusyError):
        talk_of(world, id=CONVERSATION).begin()


# Conversations with lost ids

MADE, OTHER = (f"6b007c3d1090eb6ec94d78{number}" for number in ("01", "02"))


def listing(*numbers: str) -> Answer:
    flat: list[Any] = [
        {"models": 1, "settings": 2, "conversations": 3}, [], None, [], False, "m",
    ]  # fmt: skip
    flat[2] = {"shareConversationsWithModelAuthors": 4, "activeModel": 5}
    for number in numbers:
        flat[3].append(len(flat))
        flat += [{"id": len(flat) + 1, "title": 5, "model": 5}, number]
    return says({"type": "data", "nodes": [{"type": "data", "data": flat}]})


@pytest.mark.parametrize(
    "failure", [lost(), Answer(504, (b"",)), says({"conversationId": "../x"})], ids=repr
)
def test_conversation_with_a_lost_id_is_deleted_at_the_end(failure: Answer) -> None:
    world = World({"create": [failure], "root": listing(MADE, CONVERSATION, OTHER)}, session=None)
    talk = talk_of(world, keep=True)
    for _ in range(2):
        try:
            world.play(talk.open(world.exchange.call()))
        except H2oError:
            continue
    before = len(world.requests)
    world.sweep()
    told = [(r.operation, world.conversation_of(r)) for r in world.requests[before:]]
    assert told == [("root", ""), ("delete", MADE), ("delete", OTHER)]
    assert world.sweep() == []


def test_known_conversation_is_not_deleted_as_an_orphan() -> None:
    world = World({"create": [lost()], "root": listing(CONVERSATION)}, session=None)
    talk = talk_of(world, keep=True)
    world.play(talk.open(world.exchange.call()))
    assert talk.id == CONVERSATION
    assert world.sweep() == ["root"]


@pytest.mark.parametrize("how", ["resumed", "exported", "forked"])
def test_orphans_of_a_shared_session_are_not_searched_for(how: str) -> None:
    world = World({"create": [lost()]}, session="resumed" if how == "resumed" else None)
    world.play(chat(world))
    if how == "exported":
        world.exchange.session.export()
    if how == "forked":
        world.exchange.session.leave_to_parent()
    assert world.sweep() == []


@pytest.mark.parametrize(
    "answer", [BUSY, lost(sent=False), says({"message": MODAL}, 405)], ids=repr
)
def test_orphans_are_not_searched_for_after_a_rejected_creation(answer: Answer) -> None:
    world = World({"create": [answer]}, session=None)
    world.play(chat(world, retries=Retries(base=0.0)))
    assert world.sweep() == []


def test_orphan_of_an_interrupted_creation_is_searched_for() -> None:
    world = World({"root": listing()}, session=None)
    world.exchange.session.opened([])
    flow = conversations.create(world.exchange, "m", world.exchange.call(), lambda _: None)
    assert isinstance(next(flow), Finish)
    flow.close()
    assert world.sweep() == ["root"]


def test_orphan_search_waits_for_other_creations() -> None:
    world = World({"root": listing()}, session=None)
    world.exchange.session.opened([])
    broken_off = conversations.create(world.exchange, "m", world.exchange.call(), lambda _: None)
    next(broken_off)
    broken_off.close()
    made: list[str] = []
    creation = conversations.create(world.exchange, "m", world.exchange.call(), made.append)
    steps = Player(world).drive_to(creation, "fetch create")  # its id is not known yet
    world.on_sleep = lambda: None if made else deque(steps, maxlen=0).clear()
    world.sweep()
    assert made
    assert world.operations == ["root", "create", "root"]
    assert not world.exchange.session.has_orphans


def test_sweep_stops_an_answer_before_deleting_it() -> None:
    world = World(session=None)
    talk = talk_of(world)
    world.play(message_of(talk).run())
    # The second turn: the conversation is known.
    Player(world).drive_to(message_of(talk).run(), "emit").close()
    world.exchange.session.drop_all()
    assert world.sweep() == ["stop", "delete"]


def test_failed_orphan_search_is_a_warning() -> None:
    world = World({"create": [lost()], "root": BUSY}, session=None)
    world.play(chat(world))
    world.sweep()
    assert "may be left on the server" in world.warnings[-1]


def test_model_lookup_after_an_error_is_limited_in_time() -> None:
    world = World(
        {"settings": INTERNAL, "root": Answer(delay=1000.0)},
        session=None,
        timeouts=Timeouts(idle=None),
    )
    with pytest.raises(H2oError) as caught:
        world.play(chat(world))
    assert not isinstance(caught.value, ModelUnavailableError)
    assert world.elapsed == pytest.approx(5.0)
