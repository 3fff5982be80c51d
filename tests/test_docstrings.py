"""The docstrings of the clients are complete, and their examples run as the reference shows them.

Those of the async classes have the same content; the sync ones are generated from them.
"""

import doctest
import inspect
import re
from collections.abc import Callable

import pytest

from h2o_client import ChatStream, Conversation, H2oClient
from h2o_client.emulator import Emulator

KINDS = (H2oClient, Conversation, ChatStream)
METHODS = [
    getattr(kind, name)
    for kind in KINDS
    for name in vars(kind)
    if callable(getattr(kind, name)) and ">>> " in (getattr(kind, name).__doc__ or "")
]
PUBLIC = [
    value
    for kind in KINDS
    for name, value in vars(kind).items()
    if inspect.isfunction(value) and not name.startswith("_")
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method.__qualname__))
def test_docstring_example_runs(method: Callable[..., object], server: Emulator) -> None:
    with (
        H2oClient(server.url) as client,
        client.conversation() as talk,
        client.stream("Why is the sky blue?") as stream,
    ):
        names = {"client": client, "talk": talk, "stream": stream}
        test = doctest.DocTestParser().get_doctest(
            method.__doc__ or "", names, method.__qualname__, None, None
        )
        written: list[str] = []
        doctest.DocTestRunner(verbose=False).run(test, out=written.append)
    assert "".join(written) == ""


def test_every_method_that_sends_a_request_has_an_example() -> None:
    without = {"close", "display"}  # covered by the guides
    for kind in (H2oClient, Conversation, ChatStream):
        public = {name for name, value in vars(kind).items() if callable(value) and name[0] != "_"}
        assert public - without <= {method.__name__ for method in METHODS}, kind


@pytest.mark.parametrize("method", PUBLIC, ids=lambda method: str(method.__qualname__))
def test_docstring_describes_arguments_and_result(method: Callable[..., object]) -> None:
    text = inspect.getdoc(method) or ""
    section = re.search(r"^Args:\n((?: {4}.*\n)+)", text, re.MULTILINE)
    described = re.findall(r"^ {4}\**(\w+): ", section[1] if section else "", re.MULTILINE)
    signature = inspect.signature(method)
    assert described == [name for name in signature.parameters if name != "self"]
    returns = signature.return_annotation not in (None, "None")
    assert bool(re.search(r"^Returns:\n {4}\S", text, re.MULTILINE)) == returns
