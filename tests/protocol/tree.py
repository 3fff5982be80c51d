"""A world with a 2025 server: it stores a message tree, and answers continue without their clients.

A `TreeWorld` is a `World` (see there) with such a server. Its model answers each message with the
next item of `answers`, or else " Hello"; a generation takes `takes` seconds, whatever happens to
the response. Storing, stopping and reattaching work as measured on the real servers.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from world import STREAM, Answer, Part, World, says

from h2o_client.protocol.effects import Request

JSONL = (("content-type", "application/jsonl"),)
HTML = Answer(404, (b"<!doctype html>",), (("content-type", "text/html"),))
GONE = says({"message": "Conversation not found"}, 404)
ORIGIN = says({"error": "Non-JSON form requests need to have an origin"}, 403)
MODELS = [
    {"id": "first", "name": "first", "multimodal": False, "promptExamples": None},
    {"id": "vision", "name": "vision", "multimodal": True, "multimodalAcceptedMimetypes": None},
]
STARTED = {"type": "status", "status": "started"}
FINISHED = {"type": "status", "status": "finished"}
FAILED = {"type": "status", "status": "error", "message": "x"}


def line(event: dict[str, Any]) -> bytes:
    """Encode an event as a line of a stream."""
    if event["type"] == "stream":
        event = {**event, "token": event["token"].ljust(16, "\0")}
    spaces = b" " * 4096 if event["type"] == "finalAnswer" else b""
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" + spaces


KEEP_ALIVE = line({"type": "status", "status": "keepAlive"})


def said(*tokens: str, final: str | None = None, interrupted: bool = False) -> list[dict[str, Any]]:
    """Return the events of an answer."""
    text = "".join(tokens).rstrip() if final is None else final
    return [
        STARTED,
        *({"type": "stream", "token": token} for token in tokens),
        {"type": "finalAnswer", "text": text, "interrupted": interrupted},
        FINISHED,
    ]


def streamed(events: Iterable[dict[str, Any]], *more: Part) -> Answer:
    """Return the response of these events, each one a separate read."""
    return Answer(200, (*map(line, events), *more), JSONL)


HELLO = said(" Hel", "lo")


@dataclass
class Run:
    """A generation.

    Attributes:
        answer: the message that it writes.
        events: all events that it will send.
        over: the time at which it ends.
        kept: how much of its text is kept, if it was stopped.
    """

    answer: dict[str, Any]
    events: list[dict[str, Any]]
    over: float
    kept: int | None = None


@dataclass
class Tree:
    """A conversation on the server."""

    id: str
    root: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    title: str = "New Chat"


class TreeWorld(World):
    """A world with a 2025 server.

    Args:
        script: as for `World`.
        main: whether it is the main branch, not 0.10.
        answers: the events of each answer, in order; " Hello" after that.
        takes: seconds that a generation takes.
        options: as for `World`.

    Attributes:
        trees: the conversations.
        takes: seconds that a generation takes from now on.
        killed: how many answers a pending stop has ended.
    """

    def __init__(
        self,
        script: Any = None,
        *,
        main: bool = True,
        answers: Iterable[list[dict[str, Any]]] = (),
        takes: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(script, **{"dialect": "chat-ui-2025", "model": "m", **options})
        self.trees: dict[str, Tree] = {}
        self.takes = takes
        self.killed = 0
        self._main = main
        self._answers = iter(answers)
        self._kept_stop: dict[str, float] = {}
        self._numbers = iter(range(1, 10**6))

    def fields(self, request: Request) -> dict[str, Any]:
        """Return the fields of a message."""
        found = re.search(rb'name="data"\r\n\r\n(.*?)\r\n--', request.content or b"", re.DOTALL)
        assert found is not None
        fields: dict[str, Any] = json.loads(found[1])
        return fields

    @property
    def sent(self) -> list[dict[str, Any]]:
        """The messages that were sent."""
        return [self.fields(each) for each in self.requests if each.operation == "message"]

    def _keep_account(self, request: Request, answer: Answer) -> None:
        """Do nothing: the server acts when it answers."""

    def answer(self, request: Request) -> Answer:
        """Respond as the script says, or as a healthy server, which acts in any case."""
        self.requests.append(request)
        origin = dict(request.headers).get("Origin")
        if request.operation != "settings" or request.method != "POST":
            assert origin == "https://host" or not self.exchange.recognised
        given = next(self.script.get(request.operation, iter(())), None)
        if given is not None and not callable(given):
            fault = given.fault
            arrived = fault is not None and getattr(fault, "sent", False)
            acts = request.operation in ("create", "message", "stop", "delete")
            gone = request.operation == "delete" and given.status == 404
            done = gone or 200 <= given.status < 300
            if acts and done and (fault is None or arrived):
                self._act(request)
            return given
        return given(request) if callable(given) else self._act(request)

    def _act(self, request: Request) -> Answer:
        path = request.url.removeprefix("https://host/chat")
        if request.operation == "settings" and not dict(request.headers).get("Origin"):
            return ORIGIN
        if path == "/conversation":
            return self._create(request)
        if path == "/api/v2/models":
            return says({"json": MODELS})
        if path.startswith("/api/v2/conversations?p="):
            shown = [{"id": each, "title": "x", "model": "m"} for each in self.trees]
            return says({"json": {"conversations": shown, "hasMore": False}})
        if path == "/settings" or path == "/api/v2/conversations":
            return says(b"")
        if path == "/api/v2/user/settings":
            fields = {"shareConversationsWithModelAuthors": True, "activeModel": "kept", "x": 1}
            return says({"json": fields, "meta": {}})
        found = re.fullmatch(r"(?:/api/v2/conversations|/conversation)/([^/?]+)(.*)", path)
        assert found is not None, path
        tree, rest = self.trees.get(found[1]), found[2]
        if tree is None:
            return GONE
        if request.method == "DELETE":
            del self.trees[tree.id]
            self.conversations.discard(tree.id)
            return says(b"")
        if request.method == "PATCH":
            tree.title = json.loads(request.content or b"")["title"]
            return says({"json": {"success": True}})
        if rest == "/stop-generating":
            return self._stop(tree, json.loads(request.content or b"{}"))
        if rest.startswith("/stream?"):
            return self._reattach(tree, rest)
        return self._message(tree, request) if request.method == "POST" else says(self._show(tree))

    def _create(self, request: Request) -> Answer:
        number = f"{next(self._made):024x}"
        preprompt = json.loads(request.content or b"").get("preprompt", "")
        tree = self.trees[number] = Tree(number, f"root-{number[-2:]}")
        tree.messages.append(self._node(tree.root, "system", preprompt, None))
        self.conversations.add(number)
        shown = {"conversation": json.dumps(self._show(tree))} if self._main else {}
        return says({"conversationId": number, **shown})

    def _node(self, number: str, role: str, content: str, parent: Any) -> dict[str, Any]:
        ancestors = [] if parent is None else [*parent["ancestors"], parent["id"]]
        if parent is not None:
            parent["children"].append(number)
        node: dict[str, Any] = {"id": number, "from": role, "content": content}
        return node | {"ancestors": ancestors, "children": [], "updates": []}

    def _message(self, tree: Tree, request: Request) -> Answer:
        fields = self.fields(request)
        by_id = {message["id"]: message for message in tree.messages}
        parent = by_id.get(fields["id"])
        if parent is None:
            return says({"message": "An error occurred", "errorId": "x"}, 500)
        if fields["is_retry"]:
            assert parent["from"] == "assistant"
            question = by_id[parent["ancestors"][-1]]
        else:
            question = self._node(f"q{next(self._numbers)}", "user", fields["inputs"], parent)
            tree.messages.append(question)
        answer = self._node(f"a{next(self._numbers)}", "assistant", "", question)
        if self._main:
            answer["generationId"] = fields["generationId"]
        tree.messages.append(answer)
        events = next(self._answers, HELLO)
        if self._kept_stop.get(tree.id, -1.0) >= self.now:
            self.killed += 1
            events = said(" Hel", interrupted=True)
        run = Run(answer, events, self.now + self.takes)
        tree.runs.append(run)
        return streamed(events)

    def _stop(self, tree: Tree, body: dict[str, Any]) -> Answer:
        running = [run for run in tree.runs if run.over > self.now and run.kept is None]
        if not running and self._main:
            self._kept_stop[tree.id] = self.now + 5
        for run in running:
            ours = self._main and body.get("generationId") == run.answer.get("generationId")
            text = "".join(event.get("token", "") for event in run.events)
            units = body["seenContentLength"] * 2 if ours else None
            run.kept = len(text.encode("utf-16-le")[:units].decode("utf-16-le"))
        return says(b"")

    def _reattach(self, tree: Tree, query: str) -> Answer:
        if not self._main:
            return HTML
        number = query.partition("generationId=")[2].partition("&")[0]
        runs = [run for run in tree.runs if run.answer.get("generationId") == number]
        if not runs:
            return Answer(200, (b'event: end\ndata: {"status":"gone"}\n\n',), STREAM)
        parts: list[Part] = [b": heartbeat\n\n", max(0.0, runs[0].over - self.now)]
        for count, event in enumerate(runs[0].events, 1):
            data = json.dumps(event, ensure_ascii=False)
            parts.append(f"id: {count}\nevent: update\ndata: {data}\n\n".encode())
        return Answer(200, (*parts, b'event: end\ndata: {"status":"completed"}\n\n'), STREAM)

    def _show(self, tree: Tree) -> dict[str, Any]:
        """Return the stored state of a conversation."""
        for run in tree.runs:
            text = "".join(event.get("token", "") for event in run.events)
            if run.kept is not None:
                run.answer["content"] = text[: run.kept]
                final = {"type": "finalAnswer", "text": text[: run.kept], "interrupted": True}
                run.answer["updates"] = [STARTED, final, FINISHED]
                run.answer["interrupted"] = True
            elif run.over <= self.now:
                finals = [event for event in run.events if event["type"] == "finalAnswer"]
                run.answer["content"] = finals[0]["text"] if finals else text
                run.answer["updates"] = run.events
        fields = {"messages": tree.messages, "title": tree.title, "model": "m"}
        return {"json": {**fields, "rootMessageId": tree.root, "id": tree.id}, "meta": {}}
