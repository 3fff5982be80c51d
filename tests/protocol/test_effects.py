import gc
import weakref
from functools import partial

import pytest
from interrupted import CtrlC, Permit

from h2o_client.errors import H2oError, IncompleteStreamError
from h2o_client.protocol.deadline import Deadline
from h2o_client.protocol.effects import (
    Close,
    Emit,
    Flow,
    Head,
    Lock,
    Read,
    Request,
    Send,
    Sleep,
    Stepper,
)
from h2o_client.types import Token

REQUEST = Request(
    "POST",
    "https://host/conversation/6b007c261090eb6ec94d77d0",
    (("Cookie", "hf-chat=hunter2"), ("Authorization", "Bearer hunter3")),
    b'{"inputs":"hunter4"}',
    "message",
)


SOON = Deadline(lambda: 0.0, 1.0, "idle")


def flow() -> Flow[str]:
    answers = []
    for effect in (Read(SOON), Sleep(2.0)):
        try:
            answers.append((yield effect))
        except IncompleteStreamError as error:
            answers.append(error)
    yield Close()
    return repr(answers)


def test_stepper_runs_a_flow_to_its_result() -> None:
    steps = Stepper(flow())
    assert steps.step() == Read(SOON)
    assert not steps.returned
    assert steps.step(b"bytes") == Sleep(2.0)
    assert steps.step(None) == Close()
    assert steps.step() is None
    assert steps.finished
    assert steps.returned
    assert steps.result == "[b'bytes', None]"
    assert steps.step() is None


def test_typed_error_is_thrown_into_the_flow() -> None:
    steps = Stepper(flow())
    steps.step()
    assert steps.step(IncompleteStreamError("cut")) == Sleep(2.0)
    steps.step()
    steps.step()
    assert steps.result == "[IncompleteStreamError('cut'), None]"


def test_unhandled_error_ends_the_flow() -> None:
    steps = Stepper(flow())
    steps.step()
    with pytest.raises(H2oError, match="other"):
        steps.step(H2oError("other"))
    assert steps.finished
    assert not steps.returned
    assert steps.step() is None


def test_unfinished_flow_has_no_result() -> None:
    steps = Stepper(flow())
    with pytest.raises(RuntimeError, match="not returned a result"):
        _ = steps.result


@pytest.mark.parametrize("begun", [0, 1, 2, 3, 4])
def test_flow_can_be_closed_anywhere_and_twice(begun: int) -> None:
    steps = Stepper(flow())
    for _ in range(begun):
        steps.step()
    steps.close()
    steps.close()
    assert steps.finished
    assert steps.step() is None


def test_second_reader_is_rejected() -> None:
    steps = Stepper(flow())
    with steps:
        assert not steps.acquire()
        with pytest.raises(RuntimeError, match="another thread or task"), steps:
            pass
        assert not steps.acquire()  # the rejected reader has released nothing
    assert steps.acquire()
    steps.release()
    with steps:
        pass


def test_ctrl_c_while_acquiring_a_lock_leaves_it_free() -> None:
    lock = Lock()
    permit = lock.permit = Permit([True])
    lock.release = partial(permit.append, True)
    permit.interrupted = True
    with pytest.raises(CtrlC):
        lock.acquire()
    assert permit == [True]


def test_stepper_does_not_keep_an_error_alive() -> None:
    class KeptError(H2oError):
        pass

    def fail() -> weakref.ref[KeptError]:
        steps = Stepper(flow())
        steps.step()
        try:
            steps.step(KeptError("x"))
        except KeptError as error:
            return weakref.ref(error)
        raise AssertionError

    gc.collect()
    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def test_head_returns_the_first_header_of_a_name() -> None:
    head = Head(200, (("set-cookie", "a=1"), ("set-cookie", "b=2")))
    assert head.get("set-cookie") == "a=1"
    assert head.get("date") == ""
    assert head.get("date", "never") == "never"


@pytest.mark.parametrize(
    "shown",
    [
        REQUEST,
        Send(REQUEST, SOON, SOON),
        Head(200, (("set-cookie", "hf-chat=hunter2"),)),
        [REQUEST],
    ],
)
def test_effects_show_no_session_token_or_prompt(shown: object) -> None:
    for text in (repr(shown), str(shown)):
        assert "hunter" not in text
        assert "6b007c" not in text


def test_effects_compare_by_content() -> None:
    assert Sleep(1.0) == Sleep(1.0)
    assert Sleep(1.0) != Sleep(2.0)
    assert Emit([Token(1, "a")]) == Emit([Token(1, "a")])
