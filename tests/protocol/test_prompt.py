from collections import UserDict
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2o_client.protocol.prompt import build_prompt, check_prompt
from h2o_client.types import Message, Messages


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ("Hello!", "Hello!"),
        ("  Hello!\n", "  Hello!\n"),
        ([user("Hello!")], "Hello!"),
        ([{"role": "assistant", "content": " Hi"}], " Hi"),
        ((user("Hello!"),), "Hello!"),
        ([Message(role="user", content="Hello!")], "Hello!"),
        ([user("a"), user("b")], "User: a\nUser: b\nAssistant:"),
        (
            [
                {"role": "system", "content": "Be brief."},
                user("Hi"),
                {"role": "assistant", "content": " Hello!"},
                Message(role="user", content="Bye"),
            ],
            "System: Be brief.\nUser: Hi\nAssistant:  Hello!\nUser: Bye\nAssistant:",
        ),
        ([user(""), user("b")], "User: \nUser: b\nAssistant:"),
        ([{**user("a"), "name": "x"}], "a"),
        ([UserDict(user("a"))], "a"),
    ],
)
def test_messages_are_flattened_to_a_prompt(messages: Messages, prompt: str) -> None:
    assert build_prompt(messages) == prompt


def a_generator() -> Iterator[dict[str, str]]:
    yield user("a")


@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        ([], ValueError, "messages must not be empty"),
        ((), ValueError, "messages must not be empty"),
        ("", ValueError, "blank"),
        (" \n\t", ValueError, "blank"),
        ([user("")], ValueError, "blank"),
        ([user(" ")], ValueError, "blank"),
        ("half \ud83d", ValueError, "surrogate"),
        ([user("a"), user("\udc00")], ValueError, "surrogate"),
        ([{"role": "user"}], ValueError, r"messages\[0\] lacks the key 'content'"),
        ([user("a"), {"content": "b"}], ValueError, r"messages\[1\] lacks the key 'role'"),
        ([{"role": " ", "content": "b"}], ValueError, r"messages\[0\]\['role'\] must be 'user'"),
        ([{"role": "boss", "content": "b"}], ValueError, "'assistant' or 'system', not 'boss'"),
        ([user("a"), {"role": "User", "content": "b"}], ValueError, r"messages\[1\]\['role'\]"),
        ([Message(role="tool", content="b")], ValueError, "not 'tool'"),
        ([{"role": None, "content": "b"}], TypeError, r"messages\[0\]\['role'\] must be a string"),
        ([user(None)], TypeError, r"messages\[0\]\['content'\] must be a string, not NoneType"),
        ([user(b"a")], TypeError, "not bytes"),
        ([user(["parts"])], TypeError, "not list"),
        (["Hello!"], TypeError, "not str"),
        ([None], TypeError, "not NoneType"),
        ([["user", "a"]], TypeError, "not list"),
        (user("a"), TypeError, "put it in a list"),
        (Message(role="user", content="a"), TypeError, "put it in a list"),
        (b"Hello!", TypeError, "not bytes"),
        (bytearray(b"Hello!"), TypeError, "not bytearray"),
        (None, TypeError, "not NoneType"),
        (7, TypeError, "not int"),
        ({"a"}, TypeError, "not set"),
        (a_generator(), TypeError, "not generator"),
    ],
)
def test_invalid_messages_raise_an_error(
    messages: object, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        build_prompt(cast("Messages", messages))


@pytest.mark.parametrize("secret", ["hunter2 \ud800"])
def test_error_does_not_show_the_prompt(secret: str) -> None:
    with pytest.raises(ValueError, match="surrogate") as caught:
        check_prompt(secret)
    assert "hunter2" not in repr(caught.value)


@given(st.lists(st.fixed_dictionaries({"role": st.text(), "content": st.text()}), max_size=4))
def test_any_messages_give_a_prompt_or_a_value_error(messages: list[dict[str, str]]) -> None:
    try:
        prompt = build_prompt(messages)
    except ValueError:
        return
    assert prompt.encode()
    assert all(message["content"] in prompt for message in messages)
