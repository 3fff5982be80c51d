"""Generation options: one list for every call, for files and for the command line."""

import inspect
import re
import typing
from collections.abc import Callable
from typing import Any

import pytest

from h2o_client import (
    AsyncConversation,
    AsyncH2oClient,
    Conversation,
    GenerationOptions,
    H2oClient,
)
from h2o_client.options import as_arguments, read_parameter
from h2o_client.protocol.payloads import DEFAULT_PARAMETERS, merge_parameters

NAMES = list(typing.get_type_hints(GenerationOptions))
METHODS: list[Callable[..., Any]] = [
    getattr(kind, name)
    for client, conversation in [(H2oClient, Conversation), (AsyncH2oClient, AsyncConversation)]
    for kind, names in [
        (client, ("chat", "stream", "batch")),
        (conversation, ("send", "stream", "retry", "stream_retry")),
    ]
    for name in names
]
GOOD: dict[str, Any] = {
    "temperature": 1,
    "truncate": 10,
    "max_new_tokens": 10,
    "do_sample": False,
    "repetition_penalty": 1.1,
    "return_full_text": True,
    "top_p": 0.9,
    "top_k": 5,
    "typical_p": 0.9,
    "seed": 7,
    "stop": ["###"],
    "watermark": True,
    "details": True,
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__qualname__)
def test_every_call_takes_the_options(method: Callable[..., Any]) -> None:
    options = inspect.signature(method).parameters["options"]
    assert options.kind is inspect.Parameter.VAR_KEYWORD
    assert options.annotation == typing.Unpack[GenerationOptions]
    assert not set(NAMES) & inspect.signature(method).parameters.keys()


def test_every_option_is_documented() -> None:
    text = inspect.cleandoc(GenerationOptions.__doc__ or "")  # Python 3.13 does this by itself
    documented = re.findall(r"^    (\w+): .", text, re.MULTILINE)
    assert documented == NAMES


def test_default_parameters_are_options() -> None:
    assert set(DEFAULT_PARAMETERS) <= set(NAMES)


def test_all_options_are_sent() -> None:
    assert set(GOOD) == set(NAMES)
    assert merge_parameters({}, None, GOOD) == GOOD


@pytest.mark.parametrize("name", NAMES)
def test_type_of_every_option_is_checked(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be (a|True)"):
        merge_parameters({}, None, {name: "x"})
    with pytest.raises(TypeError, match=f"^{name} must be (a|True)"):
        merge_parameters({}, None, {name: [1]})
    assert merge_parameters({}, None, {name: None}) == {}


@pytest.mark.parametrize("name", ["top_k", "seed", "top_p"])
def test_bool_is_not_accepted_as_a_number(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a"):
        merge_parameters({}, None, {name: True})


def test_options_from_a_file_become_arguments() -> None:
    given = {"temperature": 0.2, "best_of": 2, "temprature": 1}
    assert as_arguments(given) == {
        "temperature": 0.2,
        "temprature": 1,  # the call rejects it with a hint
        "parameters": {"best_of": 2},
    }
    assert as_arguments({"seed": 7}) == {"seed": 7}


@pytest.mark.parametrize("name", ["model", "messages", "retries", "timeout", "parameters"])
def test_call_argument_is_rejected_as_a_parameter(name: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}' is not a generation parameter: "):
        as_arguments({"seed": 1, name: 1})


@pytest.mark.parametrize(
    ("text", "expected"), [("seed=7", 7), ('stop=["a"]', ["a"]), ("x=a=b", "a=b"), ("x=", "")]
)
def test_parameter_is_parsed(text: str, expected: object) -> None:
    assert read_parameter(text) == (text.partition("=")[0], expected)


@pytest.mark.parametrize("text", ["seed", "=7", ""])
def test_invalid_parameter_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="expected NAME=VALUE"):
        read_parameter(text)


def test_batch_prompt_accepts_any_parameter() -> None:
    with H2oClient("http://127.0.0.1:9") as client:
        batch = client.batch([], parameters={"best_of": 2, "top_n_tokens": 3}, seed=7)
        prompt = {"prompt": "Hi", "parameters": {"best_of": 4, "seed": 8}}
        _, arguments = batch.call(prompt)
    assert arguments["parameters"] == {"best_of": 4, "top_n_tokens": 3}
    assert arguments["seed"] == 8
