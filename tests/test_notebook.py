"""Jupyter: live display, the stop button, and the magics.

The tests here use a fake IPython display; the `long` ones in `test_notebook_kernel` a real kernel.
"""

import pickle
import re
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import attacks
import pytest
from asked import bodies
from backends import ASYNC, Api, endless, only
from IPython.core.error import UsageError
from IPython.core.formatters import DisplayFormatter

import h2o_client
from h2o_client import (
    AsyncH2oClient,
    ForbiddenError,
    GenerationError,
    H2oClient,
    H2oError,
    Message,
    Reply,
    magics,
    notebook,
)
from h2o_client.emulator import DEFAULT_MODELS, Answer, Emulator, Model
from h2o_client.safe_text import to_html
from h2o_client.types import Table

FENCE = "```"


class Page:
    """A notebook output, as filled by IPython.

    Attributes:
        states: each HTML shown, in order, over all displays.
        displays: the number of displays.
    """

    def __init__(self) -> None:
        self.states: list[str] = []
        self.displays = 0
        self._changed = threading.Condition()

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool = False) -> "Page":
        assert raw
        assert display_id
        self.displays += 1
        self.update(data, raw=raw)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        assert set(data) == {"text/plain", "text/html"}
        with self._changed:
            self.states.append(data["text/html"])
            self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: to_html(text) in self.states, 5), self.states


class Events:
    def __init__(self) -> None:
        self.hooks: list[Callable[..., None]] = []

    def register(self, name: str, hook: Callable[..., None]) -> None:
        assert name == "post_run_cell"
        self.hooks.append(hook)

    def unregister(self, name: str, hook: Callable[..., None]) -> None:
        assert name == "post_run_cell"
        self.hooks.remove(hook)


class Formatter(dict[type, Callable[[Any], None]]):
    for_type = dict.__setitem__


class Shell:
    """The parts of an `InteractiveShell` that are used."""

    def __init__(self) -> None:
        self.user_ns: dict[str, Any] = {}
        self.events = Events()
        self.formatter = Formatter()
        self.display_formatter = types.SimpleNamespace(ipython_display_formatter=self.formatter)
        self.input_transformers_cleanup: list[Any] = []
        self.magics_manager = types.SimpleNamespace(magics={"line": {}, "cell": {}})

    def register_magic_function(self, function: Any, kind: str, name: str) -> None:
        assert kind == "line_cell"
        for each in ("line", "cell"):
            self.magics_manager.magics[each][name] = function


class TerminalInteractiveShell(Shell):
    pass


def install(monkeypatch: pytest.MonkeyPatch, shell: Shell | None, page: Page) -> None:
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type,unused-ignore]
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=page.display))  # type: ignore[arg-type,unused-ignore]


@pytest.fixture
def shell() -> Shell:
    return Shell()


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, shell: Shell) -> Page:
    page = Page()
    install(monkeypatch, shell, page)
    return page


def new_reply(text: str, finish_reason: str = "eos_token") -> Reply:
    return Reply(
        text=text,
        model="m",
        finish_reason=finish_reason,
        generated_tokens=1,
        conversation_id="c",
        message_id="m",
        response_id="r",
    )


# Display


def test_replies_and_messages_are_rendered() -> None:
    reply = new_reply(" **Hi**")
    assert "<p><strong>Hi</strong></p>" in reply._repr_html_()
    message = Message(role="user", content="# <b>\n\n    code")
    assert "<h1>&lt;b&gt;</h1>\n<pre><code>code" in message._repr_html_()
    for value in (reply, message):  # JupyterLab would run scripts in it
        assert not hasattr(value, "_repr_markdown_")


def test_only_safe_html_and_text_are_published() -> None:
    formatter: Any = DisplayFormatter()  # untyped
    for attack in attacks.ALL:
        message = Message(role="assistant", content=attack)
        published, metadata = formatter.format(message)
        assert set(published) == {"text/html", "text/plain"}
        assert published["text/html"] == to_html(attack.removeprefix(" "))
        assert published["text/plain"].isprintable()
        assert metadata == {}
        assert set(formatter.format((message,))[0]) == {"text/plain"}  # as in `history()`


def cells(table: Any) -> list[list[str]]:
    """Return the texts of a table's rows, starting with the column names."""
    formatter: Any = DisplayFormatter()
    published = formatter.format(table)[0]
    assert set(published) == {"text/html", "text/plain"}
    assert published["text/plain"].startswith("[")
    rows = re.findall("<tr>(.*?)</tr>", published["text/html"], re.DOTALL)
    return [re.findall("<t[hd] [^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]


async def test_lists_are_shown_as_tables(api: Api) -> None:
    models = [Model("one/<b>", description="Small & fast"), Model("two")]
    with Emulator(models=models) as server:
        server.reply(" <script>alert(1)</script>\n$x$")
        async with api.client(server.url, model="two") as client:
            assert cells(await client.conversations()) == [["id", "title", "model"]]
            async with client.conversation() as talk:
                await talk.send("Hello")
                await talk.rename("<i>")
                history, found = await talk.history(), await client.models()
                assert cells(await client.conversations())[1:] == [[talk.id, "&lt;i&gt;", "two"]]
    assert isinstance(history, list)
    assert history == list(history) == pickle.loads(pickle.dumps(history))
    names, question, answer = cells(history)
    assert names[:2] == ["role", "content"]
    assert question[:2] == ["user", "Hello"]
    assert answer[:2] == ["assistant", "&lt;script&gt;alert(1)&lt;/script&gt;\n$x$"]
    assert cells(found) == [
        ["id", "display_name", "description"],
        ["one/&lt;b&gt;", "one/&lt;b&gt;", "Small &amp; fast"],
        ["two", "two", ""],
    ]


def test_table_cells_are_truncated() -> None:
    long = Table([Message(role="user", content="x" * 5000)], ("content",))
    assert cells(long)[1] == ["x" * 1000 + "…"]


async def test_display_updates_as_the_answer_grows(api: Api, server: Emulator, page: Page) -> None:
    server.reply(endless(" One", " *two*"))
    async with api.client() as client:
        stream = client.stream("Count")
        async with api.in_background(stream.display) as shown:
            await api.wait(lambda: page.wait_for("One *two*"))
            server.release()
        reply = shown.result()
    assert reply.text == " One *two* too late"
    assert page.displays == 1
    assert page.states[-1] == to_html("One *two* too late")
    await api.settled()


async def test_display_marks_an_interrupted_answer(api: Api, server: Emulator, page: Page) -> None:
    server.reply(Answer(f" Because:\n{FENCE}python\nx = 1", ending="error"))
    async with api.client() as client:
        with pytest.raises(GenerationError) as caught:
            await client.stream("Why?").display()
    assert caught.value.partial.startswith(" Because")
    assert page.states[-1] == to_html(f"Because:\n{FENCE}python\nx = 1", "incomplete")
    assert page.states[-1].endswith("x = 1</code></pre>\n<p><em>— incomplete</em></p></div>")
    await api.settled()


async def test_failed_request_displays_nothing(api: Api, server: Emulator, page: Page) -> None:
    server.fail(status=403)
    async with api.client() as client:
        with pytest.raises(ForbiddenError):
            await client.stream("Why?").display()
    assert page.states == []


async def test_display_requires_ipython(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    async with api.client() as client:
        with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[notebook\]'"):
            await client.stream("Hi").display()
    assert server.requests == []


@pytest.mark.parametrize("kind", [None, TerminalInteractiveShell])
async def test_terminal_shows_plain_text(
    api: Api,
    server: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: type[Shell] | None,
) -> None:
    page = Page()
    install(monkeypatch, kind() if kind else None, page)
    server.reply(Answer(" One two three", pace=0.05))
    async with api.client() as client:
        await client.stream("Count").display()
    assert capsys.readouterr().out == "One two three\n"
    assert page.states == []


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None, Page())


@pytest.mark.usefixtures("terminal")
def test_terminal_prints_only_new_text(capsys: pytest.CaptureFixture[str], backend: str) -> None:
    words = Words()
    texts = iter(["One", "One two", "Other", "Other words"])

    def tick() -> None:
        words.text = next(texts, words.text)
        if words.text == "Other words":
            words.stop()
            words.whole.set()

    run(backend, words, tick)
    assert capsys.readouterr().out == "One two\nOther words [stopped]\n"


@pytest.mark.usefixtures("terminal")
def test_terminal_shows_no_control_characters(
    capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    words = Words()
    words.text = " \x1b]52;c;cm0=\x07\x9b31mred\r\u202efdp.exe\u2066\tend\n"
    words.whole.set()
    run(backend, words, lambda: None)
    assert capsys.readouterr().out == "]52;c;cm0=31mredfdp.exe\tend\n\n"


async def test_page_shows_no_control_characters(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch, page: Page
) -> None:
    """A kernel's output may appear in `jupyter console`, which prints it in a terminal."""
    shown: list[str] = []
    update = page.update

    def record(data: dict[str, str], *, raw: bool) -> None:
        shown.extend(data.values())
        update(data, raw=raw)

    monkeypatch.setattr(page, "update", record)
    server.reply(" a\x1b]0;title\x07\u202e &#x202e;&rlm;b")
    async with api.client() as client:
        await client.stream("Hi").display()
    assert shown
    for text in shown:
        assert not set(text) & set("\x1b\x07\u202e\u200f")


def test_empty_answer_displays_nothing(page: Page, backend: str) -> None:
    words = Words()
    words.whole.set()
    run(backend, words, lambda: None)
    assert page.states == []


# Refresh rate


class Words:
    """A stream whose words arrive when the test wants; both sync and async."""

    def __init__(self) -> None:
        self.text = ""
        self.whole = threading.Event()
        self.calls: list[str] = []

    def reply(self) -> Reply:
        return new_reply(self.text, "stopped" if "stop" in self.calls else "eos_token")

    def read(self) -> Reply:
        assert self.whole.wait(30)
        return self.reply()

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.whole.set()
        self.calls.append("close")


class AsyncWords:
    def __init__(self, words: Words) -> None:
        self.words = words

    @property
    def text(self) -> str:
        return self.words.text

    async def read(self) -> Reply:
        return await anyio.to_thread.run_sync(self.words.read)

    async def stop(self) -> None:
        self.words.stop()

    async def aclose(self) -> None:
        self.words.close()


async def display_words(backend: str, words: Words, tick: Callable[[], None]) -> Reply:
    """Display the words, and call `tick` instead of waiting."""
    if backend == "sync":

        def wait(event: threading.Event, seconds: float) -> bool:
            assert seconds == notebook.EVERY
            tick()
            return event.wait(0.01)

        return notebook.display(words, wait=wait)

    async def sleep(seconds: float) -> None:
        assert seconds == notebook.EVERY
        tick()
        await anyio.sleep(0.01)

    return await notebook.display_async(AsyncWords(words), sleep=sleep)


def run(backend: str, words: Words, tick: Callable[[], None]) -> Reply:
    if backend == "sync":
        coroutine = display_words(backend, words, tick)
        with pytest.raises(StopIteration) as stop:
            coroutine.send(None)
        return stop.value.value  # type: ignore[no-any-return]
    return anyio.run(display_words, backend, words, tick, backend=backend)


def test_refresh_shows_new_text_and_the_last_one_all(page: Page, backend: str) -> None:
    words = Words()
    looks = iter(range(100))

    def tick() -> None:
        look = next(looks)
        if look < 3:  # many words between two refreshes
            words.text += "".join(f" {number}" for number in range(10 * look, 10 * look + 10))
        elif look == 8:  # the last word arrives after the last refresh
            words.text += " end"
            words.whole.set()

    reply = run(backend, words, tick)
    assert reply.text.endswith(" 29 end")
    assert len(page.states) <= 5
    assert page.states[-1] == to_html(reply.text[1:])
    assert words.calls == ["close"]


def test_display_refreshes_ten_times_a_second() -> None:
    assert notebook.EVERY == 0.1


# Stop button


@pytest.mark.parametrize("backend", ["sync", *ASYNC])
def test_stop_button_stops_the_answer(server: Emulator, page: Page, backend: str) -> None:
    server.reply(endless(" One", " two"))
    pressed = iter([True])

    def press() -> None:
        if to_html("One two") in page.states and next(pressed, False):
            signal.raise_signal(signal.SIGINT)

    def wait(event: threading.Event, seconds: float) -> bool:
        press()
        return event.wait(seconds / 10)

    async def sleep(seconds: float) -> None:
        press()
        await anyio.sleep(seconds / 10)

    async def display() -> Reply:
        async with AsyncH2oClient(server.url) as client:
            return await notebook.display_async(client.stream("Count"), sleep=sleep)

    before = signal.getsignal(signal.SIGINT)
    if backend == "sync":
        with H2oClient(server.url) as client:
            reply = notebook.display(client.stream("Count"), wait=wait)
    else:
        reply = anyio.run(display, backend=backend)
    assert signal.getsignal(signal.SIGINT) is before
    assert reply.finish_reason == "stopped"
    assert reply.text.startswith(" One two")
    assert reply.conversation_id
    assert page.states[-1] == to_html(reply.text[1:], "stopped")
    server.wait_idle()
    assert server.stops == 1
    assert server.generating == 0
    assert server.conversations == []


@pytest.mark.parametrize("backend", ["sync", "asyncio"])
def test_second_press_interrupts_immediately(page: Page, backend: str) -> None:
    words = Words()
    words.text = " One"
    looks = iter(range(100))

    def tick() -> None:
        if next(looks) in (2, 4):
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if backend == "sync":
            display = display_words(backend, words, tick)
            with pytest.raises(KeyboardInterrupt):
                display.send(None)
        else:
            # asyncio's runner cancels the task, as in ipykernel.
            with pytest.raises(KeyboardInterrupt):
                anyio.run(display_words_freely, words, tick)
    finally:
        signal.signal(signal.SIGINT, before)
    assert words.calls[:2] == ["stop", "close"]
    assert page.states == [to_html("One"), to_html("One", "stopped")]


async def display_words_freely(words: Words, tick: Callable[[], None]) -> None:
    """Release the waiting thread when the task is cancelled, as a stream's reader does."""
    try:
        async with anyio.create_task_group() as tasks:

            async def free() -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    words.whole.set()

            tasks.start_soon(free)
            await display_words("asyncio", words, tick)
            tasks.cancel_scope.cancel()
    finally:
        words.whole.set()


@only("sync")
@pytest.mark.usefixtures("page")
async def test_display_outside_the_main_thread(api: Api, server: Emulator) -> None:
    server.reply(" Hi!")
    before = signal.getsignal(signal.SIGINT)
    async with api.client() as client:
        async with api.in_background(client.stream("Hi").display) as shown:
            assert signal.getsignal(signal.SIGINT) is before
        assert shown.result().text == " Hi!"


@only(*ASYNC)
async def test_cancelling_the_task_stops_the_answer(api: Api, server: Emulator, page: Page) -> None:
    server.reply(endless(" One", " two"))
    async with api.client() as client:
        with anyio.move_on_after(10) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.stream("Count").display)
                await api.wait(lambda: page.wait_for("One two"))
                scope.cancel()
        assert scope.cancelled_caught
    assert page.states[-1] == to_html("One two", "stopped")
    await api.settled()
    assert server.stops == 1


@pytest.mark.usefixtures("page")
async def test_failing_display_stops_the_answer(
    api: Api, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("the browser has gone")

    monkeypatch.setattr(sys.modules["IPython.display"], "display", fail)
    server.reply(endless(" One", " two"))
    async with api.client() as client:
        with pytest.raises(OSError, match="gone"):
            await client.stream("Count").display()
    await api.settled()


# Last value of a cell


def test_displayed_reply_is_not_shown_again(
    server: Emulator, page: Page, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, str]] = []
    display = page.display

    def record(data: dict[str, str], **options: Any) -> Page | None:
        if "display_id" in options:
            return display(data, **options)
        shown.append(data)
        return None

    monkeypatch.setattr(sys.modules["IPython.display"], "display", record)
    with H2oClient(server.url) as client:
        other = client.chat("Hello")
        reply = client.stream("Hello").display()
    shell.formatter[Reply](reply)
    assert shown == []
    shell.formatter[Reply](other)
    assert shown == [{"text/plain": repr(other), "text/html": other._repr_html_()}]
    for hook in list(shell.events.hooks):  # simulates the end of the cell
        hook(None)
    assert shell.events.hooks == []
    assert shell.formatter == {}


# Magics


@pytest.fixture
def chat(
    server: Emulator, shell: Shell, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[magics.Chat]:
    request.getfixturevalue("page")
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    chat = magics.Chat(shell)
    yield chat
    chat.close()


NO_OPTIONS: dict[str, object] = {"model": None, "param": [], "conversation": False, "new": False}


@pytest.mark.parametrize(
    ("line", "given", "prompt"),
    [
        ("What's up?", {}, "What's up?"),
        ("", {}, ""),
        ("-c And 'then'?", {"conversation": True}, "And 'then'?"),
        ("--conversation --new Hi", {"conversation": True, "new": True}, "Hi"),
        ("--model=a/b  Hi  there", {"model": "a/b"}, "Hi  there"),
        ("--model a/b", {"model": "a/b"}, ""),
        (
            '--param temperature=0.2 --param=stop=["\\n"] --param seed=x Hi',
            {"param": [("temperature", 0.2), ("stop", ["\n"]), ("seed", "x")]},
            "Hi",
        ),
        ("-- -c  -- or 1?", {}, "-c  -- or 1?"),
        ("Is --new  -- an option?", {}, "Is --new  -- an option?"),
    ],
)
def test_magic_parses_options(line: str, given: dict[str, Any], prompt: str) -> None:
    options, rest = magics.Chat(Shell()).parse(line)
    found = vars(options)
    del found["prompt"]
    assert found == {**NO_OPTIONS, **given}
    assert rest == prompt


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-x Hi", "unrecognized arguments: -x"),
        ("--new=yes", "--new"),
        ("--model", "--model: expected one argument"),
        ("--param", "--param: expected one argument"),
        ("--param warm Hi", "expected NAME=VALUE, got 'warm'"),
    ],
)
def test_magic_rejects_invalid_options(line: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        magics.Chat(Shell()).parse(line)


def test_magic_help_names_every_option() -> None:
    shown = magics.Chat.chat.__doc__ or ""
    for part in ("Show the answer to a prompt", "--model NAME", "-c, --conversation", "%chat ["):
        assert part in shown


def test_question_mark_does_not_open_help() -> None:
    cell = ["if x:\n", "    %chat -c Isn't it? \n", "%chat Fine.\n", "%chat?\n", "%chat Why??"]
    assert magics.keep_questions(cell) == [
        "if x:\n",
        "    get_ipython().run_line_magic('chat', \"-c Isn't it?\")\n",
        "%chat Fine.\n",
        "%chat?\n",
        "get_ipython().run_line_magic('chat', 'Why??')",
    ]
    cell = ["%%chat\n", "%chat Why?\n"]
    assert magics.keep_questions(cell) == cell
    assert magics.keep_questions([]) == []


def test_magic_sends_a_question(
    chat: magics.Chat, server: Emulator, shell: Shell, page: Page
) -> None:
    server.reply(" Fine.")
    chat.chat("--param temperature=0.2", "\nHow are\nyou?\n")
    assert shell.user_ns["reply"].text == " Fine."
    assert page.states[-1] == to_html("Fine.")
    (body,) = bodies(server)
    assert body["inputs"] == "How are\nyou?"
    assert body["parameters"]["temperature"] == 0.2
    server.wait_idle()
    assert server.conversations == []


def test_magic_continues_a_conversation(chat: magics.Chat, server: Emulator) -> None:
    chat.chat("-c One")
    chat.chat("aside")
    chat.chat("-c", "Two")
    (conversation,) = server.conversations
    assert [message.content for message in conversation.messages][::2] == ["One", "Two"]
    chat.chat("--new Three")
    (conversation,) = server.conversations
    assert [message.content for message in conversation.messages][::2] == ["Three"]
    chat.chat("--new")
    assert server.conversations == []
    chat.chat("-c Four")
    chat.close()
    assert server.conversations == []
    chat.chat("-c Five")
    assert len(server.conversations) == 1


def test_magic_uses_another_model(chat: magics.Chat, server: Emulator) -> None:
    other = DEFAULT_MODELS[1].name
    chat.chat(f"--new --model {other} One")
    chat.chat(f"-c --model {other} Two")
    chat.chat("-c Three")
    (conversation,) = server.conversations
    assert conversation.model == other
    with pytest.raises(UsageError, match="--new"):
        chat.chat("-c --model different Four")


def test_magic_shows_an_error_as_one_line(chat: magics.Chat, server: Emulator, page: Page) -> None:
    server.reply(Answer(" Because", ending="error", error="out of memory"))
    with pytest.raises(magics.ChatFailedError) as caught:
        chat.chat("Why?")
    assert isinstance(caught.value.__cause__, H2oError)
    (line,) = caught.value._render_traceback_()
    assert line.startswith("GenerationError: ")
    assert "out of memory" in line
    assert "\n" not in line
    assert page.states[-1] == to_html("Because", "incomplete")
    for error, line in (
        ("ValueError: ", ""),
        ("TypeError: .* 'temperature'", "--param temprature=1 Hi"),
    ):
        with pytest.raises(magics.ChatFailedError, match=f"^{error}"):
            chat.chat(line, "\n")


def private_name(name: str) -> Any:
    assert name not in h2o_client.__all__
    return getattr(h2o_client, name)


@pytest.mark.usefixtures("page")
def test_extension_loads_and_unloads(
    server: Emulator, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2O_CHAT_URL", server.url)
    # IPython finds them, though they are not public names.
    load: Callable[[Shell], None] = private_name("load_ipython_extension")
    unload: Callable[[Shell], None] = private_name("unload_ipython_extension")
    load(shell)
    shell.magics_manager.magics["cell"]["chat"]("-c", "One")
    load(shell)  # as %reload_ext may do
    assert server.conversations == []
    shell.magics_manager.magics["line"]["chat"]("-c Two")
    assert len(server.conversations) == 1
    unload(shell)
    assert server.conversations == []
    assert shell.magics_manager.magics == {"line": {}, "cell": {}}
    assert shell.input_transformers_cleanup == []
    unload(shell)


@pytest.mark.slow
def test_notebook_modules_are_imported_lazily() -> None:
    code = (
        "import sys, h2o_client\n"
        "from h2o_client import H2oClient\n"
        "H2oClient('http://127.0.0.1:9').close()\n"
        "names = {'IPython', 'h2o_client.notebook', 'h2o_client.magics'}\n"
        "assert not names & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=30)
