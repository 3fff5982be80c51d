import copy
import dataclasses
import inspect
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from h2o_client import stored, types
from h2o_client.types import Message, Reply, Timeouts, Token, WebSearchEntry

WHEN = datetime(2026, 11, 20, 16, 58, tzinfo=UTC)
REPLY = Reply(
    text=" Hello",
    model="m",
    finish_reason="eos_token",
    generated_tokens=2,
    conversation_id="c",
    message_id="q",
    response_id="a",
)
VALUES: list[Any] = [
    Message(role="user", content="Hello", id="i", score=1, created_at=WHEN, partial=True),
    Token(1, " Hello", -0.5, False),
    WebSearchEntry("update", "Searching", ("a",)),
    REPLY,
    Timeouts(idle=None),
    stored.PromptExample(title="t", prompt="p"),
    stored.Model(id="m", name="m", display_name="M", parameters={"temperature": 1}),
    stored.Settings(share_conversations=True, terms_accepted_at=WHEN, active_model="m"),
    stored.ConversationInfo(id="i", title="t", model="m"),
    stored.SharedConversation(title="t", model="m", messages=(Message(role="user", content="x"),)),
]
CLASSES = [
    value
    for value in {**vars(types), **vars(stored)}.values()
    if inspect.isclass(value) and dataclasses.is_dataclass(value)
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_value_compares_by_content_and_can_be_copied(value: Any) -> None:
    for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert again == value
        assert type(again) is type(value)
        assert hash(again) == hash(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_value_is_frozen(value: Any) -> None:
    name = next(iter(inspect.signature(type(value)).parameters))
    with pytest.raises(AttributeError):
        setattr(value, name, "other")


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_is_documented(cls: type[Any]) -> None:
    assert cls.__doc__ is not None
    for field in dataclasses.fields(cls):
        assert f"    {field.name}: " in cls.__doc__


def test_str_of_a_reply_or_message_is_its_text() -> None:
    assert str(REPLY) == "Hello"
    assert REPLY.text == " Hello"
    assert str(Message(role="user", content="Hi")) == "Hi"


def test_reply_defaults() -> None:
    assert REPLY.recovered is False
    assert REPLY.web_search == ()


LIMITS = ["connect", "first_token", "idle", "total", "cleanup"]


def test_default_timeouts() -> None:
    defaults = {name: getattr(Timeouts(), name) for name in LIMITS}
    assert defaults == {
        "connect": 10.0,
        "first_token": 120.0,
        "idle": 60.0,
        "total": None,
        "cleanup": 5.0,
    }


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [1, 0.001, 3600.0])
def test_timeout_is_a_number_of_seconds(name: str, value: float) -> None:
    assert getattr(Timeouts(**{name: value}), name) == value


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (float("nan"), ValueError),
        # Sockets raise OverflowError for an infinite timeout.
        (float("inf"), ValueError),
        (True, TypeError),
        ("5", TypeError),
    ],
)
def test_invalid_timeout_is_rejected(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"Timeouts.{name}"):
        Timeouts(**{name: value})


@pytest.mark.parametrize("name", [name for name in LIMITS if name != "cleanup"])
def test_timeout_can_be_disabled(name: str) -> None:
    off: dict[str, Any] = {name: None}
    assert getattr(Timeouts(**off), name) is None


def test_cleanup_timeout_cannot_be_disabled() -> None:
    never: Any = None
    with pytest.raises(TypeError, match=r"Timeouts\.cleanup"):
        Timeouts(cleanup=never)
