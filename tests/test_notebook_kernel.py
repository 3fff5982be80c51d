"""Jupyter in a real kernel: the example notebook, the stop button, the magics.

Requires `pip install '.[notebook]' ipykernel nbclient`. The outputs stored in the example are
compared with those of a run; after changing the example, update them with

    python tests/test_notebook_kernel.py

The manual's picture of it, `notebook.png`, is a headless browser's rendering of what
`jupyter nbconvert --to html` makes of its first three code cells: update it, too.
"""

import copy
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from h2o_client.emulator import Answer, Emulator, Fault, GenerationRequest
from h2o_client.safe_text import to_html

# zmq and packages built on it emit warnings of their own.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("default")]

EXAMPLE = Path(__file__).parent.parent / "examples" / "notebook.ipynb"

ANSWERS = {
    "What is a falcon?": (
        " A **falcon** is a bird of prey with long, pointed wings. The *peregrine* is the fastest "
        "animal there is: it dives at more than 300 km/h."
    ),
    "Fibonacci": (
        " Here is a function:\n\n```python\ndef fibonacci(n: int) -> list[int]:\n"
        '    """Return the first n Fibonacci numbers."""\n    numbers = [0, 1]\n'
        "    while len(numbers) < n:\n        numbers.append(numbers[-1] + numbers[-2])\n"
        "    return numbers[:n]\n```\n\nAnd what it gives:\n\n"
        "| n | `fibonacci(n)` |\n|--:|:--|\n| 1 | 0 |\n| 3 | 0, 1, 1 |\n| 6 | 0, 1, 1, 2, 3, 5 |\n"
    ),
    "Name three planets": " 1. **Mercury**\n2. **Mars**\n3. **Jupiter**",
    "Which of them": " **Jupiter**, by far: all the other planets would fit into it.",
    "haiku": " *A falcon circles*\n*the whole valley holds its breath*\n*and then, only wind*",
    "My name is Ada": " Nice to meet you, **Ada**!",
    "What is my name": " Your name is **Ada**.",
    "prime": " A prime has no divisors but 1 and itself: 2, 3, 5, 7, 11, …",
    "sky": " It scatters blue light more than red.",
    "grass": " Chlorophyll takes the other colours.",
    "snow": " It reflects all colours alike.",
}


def answer(request: GenerationRequest) -> Answer | str:
    """Answer the questions of the example."""
    question = request.messages[-1][1] if request.messages else request.prompt
    return next((text for part, text in ANSWERS.items() if part in question), " I do not know.")


def execute(path: Path) -> Any:
    """Run a notebook from the top in a new kernel, against an emulator."""
    nbformat, nbclient = import_module("nbformat"), import_module("nbclient")
    notebook = nbformat.read(path, as_version=4)
    with Emulator(engine=answer, pace=0.003) as server:
        before = {name: value for name, value in os.environ.items() if "H2O_CHAT_" in name}
        os.environ["H2O_CHAT_URL"] = server.url
        try:
            client = nbclient.NotebookClient(
                notebook, timeout=60, kernel_name="python3", record_timing=False
            )
            client.execute()
        finally:
            del os.environ["H2O_CHAT_URL"]
            os.environ.update(before)
        server.wait_idle()
        assert server.conversations == []
    return notebook


def write(path: Path) -> None:
    """Store the outputs in a notebook, without any traces of this machine."""
    nbformat = import_module("nbformat")
    notebook = execute(path)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def outputs(notebook: Any) -> list[Any]:
    """Return the output of each cell, without ids that change between runs."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        shown: list[Any] = []
        for output in cell.outputs:
            assert output.output_type != "error", output
            if output.output_type == "stream":
                shown.append(output.text)
            else:
                plain = re.sub(r"'[0-9a-f-]{24,36}'", "'id'", output.data["text/plain"])
                shown.append((plain, output.data.get("text/html")))
        found.append(shown)
    return found


def test_example_notebook_has_current_outputs() -> None:
    pytest.importorskip("ipykernel")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    stored = nbformat.read(EXAMPLE, as_version=4)
    assert outputs(execute(EXAMPLE)) == outputs(copy.deepcopy(stored))
    text = EXAMPLE.read_text(encoding="utf-8")
    assert "/tmp" not in text
    assert "/home" not in text
    assert "127.0.0.1:" not in text.replace("127.0.0.1:8000", "")


class Kernel:
    """A kernel, driven like a notebook page drives it."""

    def __init__(self) -> None:
        manager: Any = import_module("jupyter_client.manager")
        self.manager, self.client = manager.start_new_kernel(kernel_name="python3")

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        self.manager.cleanup_resources()

    def run(
        self, code: str, on_display: Callable[[], None] = lambda: None
    ) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
        """Run a cell; return its published output and the reply.

        Args:
            code: the cell.
            on_display: called after the first output.
        """
        message = self.client.execute(code)
        published: list[Mapping[str, Any]] = []
        while True:
            got = self.client.get_iopub_msg(timeout=30)
            if got["parent_header"].get("msg_id") != message:
                continue
            kind, content = got["msg_type"], got["content"]
            if kind == "display_data":
                on_display()
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind not in ("status", "execute_input"):
                published.append({"kind": kind, **content})
        while True:  # skip replies to other cells
            got = self.client.get_shell_msg(timeout=60)
            if got["parent_header"].get("msg_id") == message:
                return published, got["content"]

    def value(self, code: str) -> str:
        """Evaluate an expression, and return its text representation."""
        published, reply = self.run(code)
        assert reply["status"] == "ok", published
        return str(published[-1]["data"]["text/plain"])


@pytest.fixture
def kernel(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    kernel = Kernel()
    kernel.run("from h2o_client import AsyncH2oClient, H2oClient; client = H2oClient()")
    yield kernel
    kernel.close()


def html(published: list[Mapping[str, Any]]) -> list[str]:
    return [item["data"]["text/html"] for item in published if "data" in item]


SYNC = "reply = client.stream('Count').display()\nafter = True"
ASYNC = (
    "async with AsyncH2oClient() as other:\n"
    "    reply = await other.stream('Count').display()\nafter = True"
)
CONVERSATION = "chat = client.conversation()\nreply = chat.stream('Count').display()\nafter = True"


@pytest.mark.parametrize("code", [SYNC, ASYNC, CONVERSATION], ids=["sync", "async", "conversation"])
def test_stop_button_stops_the_answer_in_a_kernel(
    kernel: Kernel, server: Emulator, code: str
) -> None:
    server.reply(Answer(tokens=(" One", " two", " late", " later"), hold_after=2))

    def press() -> None:
        server.wait_held()
        kernel.manager.interrupt_kernel()

    published, done = kernel.run(code, press)
    assert done["status"] == "ok"
    assert published[0]["kind"] == "display_data"
    assert {item["kind"] for item in published} <= {"display_data", "update_display_data"}
    assert html(published)[-1] == to_html("One two", "stopped")
    assert kernel.value("reply.finish_reason, reply.text, after") == "('stopped', ' One two', True)"
    server.wait_idle()
    assert server.stops == 1
    assert server.generating == 0
    if code == CONVERSATION:  # the conversation continues
        assert kernel.value("chat.send('Hello').finish_reason") == "'eos_token'"
        kernel.run("chat.close()")
    assert server.conversations == []


@pytest.mark.parametrize("code", [SYNC, ASYNC], ids=["sync", "async"])
def test_second_press_interrupts_a_kernel_immediately(
    kernel: Kernel, server: Emulator, code: str
) -> None:
    server.reply(Answer(tokens=(" One", " two", " late"), hold_after=2))
    server.fault("stop", Fault(delay=2.0))  # the server is slow to confirm the stop

    def press() -> None:
        server.wait_held()
        for _ in range(2):
            kernel.manager.interrupt_kernel()
            time.sleep(0.5)

    published, _ = kernel.run(code, press)
    # ipykernel cancels the task of an async cell, and since version 7 reports it.
    assert published[-1]["ename"] in ("KeyboardInterrupt", "CancelledError")
    shown = html([item for item in published if item["kind"] != "error"])
    assert shown[-1].endswith("<em>— stopped</em></p></div>")
    assert kernel.value("'after' in globals()") == "False"
    server.wait_idle()
    assert server.conversations == []


def test_reply_is_shown_once(kernel: Kernel, server: Emulator) -> None:
    server.reply(" One", " Two")
    published, _ = kernel.run("client.stream('Count').display()")
    assert {item["kind"] for item in published} <= {"display_data", "update_display_data"}
    published, _ = kernel.run("_")
    assert [item["kind"] for item in published] == ["execute_result"]
    assert html(published) == [to_html("One")]
    published, _ = kernel.run("reply = client.chat('Count'); client.stream('x').display(); reply")
    assert html(published)[-1] == to_html("Two")


def test_kernel_shows_lists_as_tables(kernel: Kernel) -> None:
    published, _ = kernel.run("client.models()")
    (shown,) = [item for item in published if item["kind"] == "execute_result"]
    assert "<table><thead><tr><th" in shown["data"]["text/html"]
    assert shown["data"]["text/plain"].startswith("[Model(id=")


def test_magics_work_in_a_kernel(kernel: Kernel, server: Emulator) -> None:
    _, done = kernel.run("%load_ext h2o_client")
    assert done["status"] == "ok"
    server.reply(" **Fine**.", " Yes.", " And you?")
    published, _ = kernel.run("%%chat --param temperature=0.2\nHow are\nyou?")
    assert html(published)[-1] == to_html("**Fine**.")
    assert kernel.value("reply.text") == "' **Fine**.'"
    kernel.run("%chat -c Isn't it?")
    kernel.run("name = 'Ada'")
    kernel.run("%chat -c I am {name}")
    (conversation,) = server.conversations
    asked = [message.content for message in conversation.messages][::2]
    assert asked == ["Isn't it?", "I am Ada"]

    published, _ = kernel.run("%chat --nonsense")
    assert published[-1]["text"] == "UsageError: unrecognized arguments: --nonsense\n"
    server.fail(status=403)
    published, _ = kernel.run("%chat Hello")
    assert published[-1]["ename"] == "ChatFailedError"
    assert len("\n".join(published[-1]["traceback"]).splitlines()) == 1

    published, _ = kernel.run("%chat?")
    assert published == []  # shown in the pager
    assert len(server.conversations) == 1

    kernel.run("%reload_ext h2o_client")
    assert server.conversations == []
    kernel.run("%chat -c Hello")
    assert len(server.conversations) == 1


def test_kernel_shutdown_deletes_the_conversation(
    server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    kernel = Kernel()
    try:
        kernel.run("%load_ext h2o_client")
        kernel.run("%chat -c Hello")
        assert len(server.conversations) == 1
    finally:
        kernel.close()
    assert server.conversations == []


if __name__ == "__main__":
    write(EXAMPLE)
