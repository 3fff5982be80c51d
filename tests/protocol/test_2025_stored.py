"""Data stored by 2025 servers, read from recorded responses."""

import json
from typing import Any

import pytest
from recorded import Exchange, named, newer, scenario

from h2o_client.errors import ForbiddenError, LoginRequiredError, NotFoundError, ProtocolError
from h2o_client.protocol.chat_ui_2025 import stored
from h2o_client.protocol.chat_ui_2025.dialect import Dialect2025
from h2o_client.protocol.dialect import Outgoing, Stage, StoredConversation
from h2o_client.protocol.effects import Head

MAIN, OLDER = "chat-ui-main-2026-08", "chat-ui-0.10"


def read(reader: Any, exchange: Exchange) -> Any:
    return reader(exchange.head, exchange.body, exchange.request)


read_conversation = stored.reading_json(stored.read_conversation)
CONVERSATIONS = [
    exchange
    for exchange in newer()
    if exchange.path.startswith("/api/v2/conversations/")
    and exchange.method == "GET"
    and exchange.status == 200
]


@pytest.mark.parametrize("exchange", CONVERSATIONS, ids=str)
def test_every_recorded_conversation_can_be_read(exchange: Exchange) -> None:
    raw = json.loads(exchange.body)["json"]
    found: StoredConversation = read(read_conversation, exchange)
    assert [message.id for message in found.tree] == [each["id"] for each in raw["messages"]]
    assert [message.content for message in found.tree] == [
        each["content"] for each in raw["messages"]
    ]
    assert found.title == raw["title"]
    assert found.tip == raw["messages"][-1]["id"]
    for message in found.messages:
        assert message.role != "system" or message.content
    for before, after in zip(found.messages, found.messages[1:], strict=False):
        assert after.parent == before.id
        assert after.id in before.children


def test_history_is_the_newest_branch() -> None:
    found: StoredConversation = read(
        read_conversation, named("03_retry", "history at the end", MAIN)
    )
    assert found.messages[0].content == "First question, edited"
    assert len(found.messages) == 2
    assert len(found.answers) == 4
    assert {answer.stage for answer in found.answers} == {Stage.WHOLE}


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("07_upstream_cut", Stage.FAILED),
        ("07_upstream_empty", Stage.FAILED),
        ("07_upstream_error_429", Stage.FAILED),
        ("07_upstream_cut_clean", Stage.FAILED),
        ("07_upstream_no_finish", Stage.FAILED),
        ("07_upstream_filter", Stage.FAILED),
        ("07_upstream_length", Stage.WHOLE),
        ("07_upstream_cut_once_1", Stage.WHOLE),
    ],
)
def test_updates_give_the_stage_of_an_answer(name: str, stage: Stage) -> None:
    found: StoredConversation = read(read_conversation, named(name, "stored after", MAIN))
    answer = found.answers[0]
    assert (answer.stage, answer.over) == (stage, True)
    assert answer.message.partial == (stage is not Stage.WHOLE)


def test_stopped_and_running_answers_are_recognised() -> None:
    found = read(read_conversation, named("04_stop", "stored after the stop", MAIN))
    assert (found.answers[0].stage, found.answers[0].over) == (Stage.STOPPED, True)
    found = read(read_conversation, named("06_disconnect", "0.4 s after", MAIN))
    assert (found.answers[0].stage, found.answers[0].over) == (Stage.RUNNING, False)


def test_new_conversation_has_its_root_if_the_server_sends_it() -> None:
    made = read(stored.read_created, scenario("01_happy_path", MAIN)[0])
    assert made.id == "6b019214c8e3ae6700d022de"
    assert made.tip == "c064560c-8711-497d-8471-e78596ed4a78"
    assert made.set_cookies[0].startswith("hf-chat=958cff99-3ab1-44b1-8141-63e448e3166a;")
    made = read(stored.read_created, scenario("01_happy_path", OLDER)[0])
    assert (made.id, made.tip) == ("6b0198521ca7b74a68c4d05c", None)


def test_models_settings_and_lists_can_be_read() -> None:
    models = read(
        stored.reading_json(stored.read_models), named("15_detect", "GET /api/v2/models", MAIN)
    )
    assert [model.id for model in models] == ["stub/alpha", "stub/beta", "stub/vision"]
    assert [bool(model.file_types) for model in models] == [False, False, True]
    settings = read(
        stored.reading_json(stored.read_settings),
        named("01b_settings_first", "GET /api/v2/user/settings", MAIN),
    )
    assert (settings.share_conversations, settings.active_model) == (False, "stub/alpha")
    page = named("11_history", "GET /api/v2/conversations", MAIN)
    infos, more = read(stored.reading_json(stored.read_list), page)
    assert [(info.id, info.title) for info in infos] == [
        ("6b019257c8e3ae6700d024d8", "Stub chat title")
    ]
    assert not more
    assert read(stored.read_share, named("13_share", "POST share", MAIN)) == "/r/VvyodcT"


def test_rejections_raise_their_classes() -> None:
    with pytest.raises(ForbiddenError, match="access"):
        read(read_conversation, named("11_history", "another session", MAIN))
    with pytest.raises(NotFoundError):
        read(read_conversation, scenario("11_history", MAIN)[11])
    for name in ("POST /conversation, accept */*", "message"):
        with pytest.raises(LoginRequiredError, match="session"):
            read(stored.read_created, named("31_login", name, MAIN))


@pytest.mark.parametrize(
    "value",
    [None, [], {"messages": 1}, {"messages": [1], "title": "x", "model": "m"}, {"messages": []}],
)
def test_invalid_conversation_is_an_error(value: object) -> None:
    body = json.dumps({"json": value}).encode()
    with pytest.raises(ProtocolError, match="does not follow this protocol"):
        read_conversation(Head(200, ()), body, CONVERSATIONS[0].request)


def outgoing(**fields: Any) -> Outgoing:
    return Outgoing("First question", {}, "m", fields.pop("generation", "g"), **fields)


def test_answer_is_found_by_its_generation_id() -> None:
    found = read(read_conversation, named("06_disconnect", "0.4 s after", MAIN))
    dialect = Dialect2025.__new__(Dialect2025)
    generation = "84cd9ca1-d881-4dd3-9100-87597facfa63"
    answer = dialect.find(found, outgoing(generation=generation))
    assert answer is not None
    assert answer.message.content == " w0 w1 w2"
    assert dialect.find(found, outgoing()) is None


def test_answer_is_found_by_its_question_on_010() -> None:
    found = read(read_conversation, named("02_two_turns", "history after turn 1", OLDER))
    dialect = Dialect2025.__new__(Dialect2025)
    answer = dialect.find(found, outgoing(parent=found.root))
    assert answer == found.answers[0]
    assert dialect.find(found, outgoing(parent=found.tip)) is None
    assert dialect.find(found, outgoing(parent=found.root, known=frozenset({found.tip}))) is None
    retried = outgoing(parent=found.tip, is_retry=True, known=frozenset({found.tip}))
    assert dialect.find(found, retried) is None
