"""The bench server: the part of the protocol that the clients need, at minimal CPU cost.

It has one thread and one selector. Before each run, the benchmark sets the form of the answers with
`POST /bench` and a `Plan` in JSON; `GET /bench` returns the counts since then.

It never sleeps longer than half a millisecond while a stream is paced: `epoll` counts in whole
milliseconds, and at a token per millisecond, tokens would arrive in pairs.
"""

import heapq
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .wire import (
    CONVERSATION,
    CYCLE,
    MODEL,
    TREE_PATH,
    chunk,
    event,
    final_answer,
    whole_text,
    word,
)

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n"
_NAP = 0.0005
_BLOCK = 256 * 1024  # bytes of a burst waiting for a socket


@dataclass
class Plan:
    """The form of the answers.

    Attributes:
        tokens: tokens of an answer.
        interval: seconds between two tokens; 0: as fast as they are read.
        delay: seconds before each response begins.
        dated: whether a token's text is its due time, in µs of the monotonic clock.
        warm: number of short answers without pauses that come first.
        gather: number of answers that start together once all are requested, spread over one
            interval.
    """

    tokens: int = 100
    interval: float = 0.0
    delay: float = 0.0
    dated: bool = False
    warm: int = 0
    gather: int = 1


WARM = 200
"""Tokens of a warm-up answer."""

_KINDS = {b"/v1/chat/completions": "openai", b"/generate_stream": "tgi"}
_TYPES = {"jsonl": b"application/jsonl"}
_TREE = {"title": "New Chat", "model": MODEL, "rootMessageId": "root", "messages": []}
_CREATED = {"conversationId": CONVERSATION, "conversation": json.dumps({"json": _TREE})}


class Texts:
    """The chunks of one kind of answer, built once."""

    def __init__(self, kind: str) -> None:
        self.chunks = [chunk(event(kind, word(index))) for index in range(CYCLE)]
        self.cycle = b"".join(self.chunks)
        kind_of_body = _TYPES.get(kind, b"text/event-stream")
        self.head = _HEAD % kind_of_body
        self.tells_whole = kind == "jsonl"
        self._end = chunk(event(kind, None)) + b"0\r\n\r\n"
        # One chunk with a placeholder date, split around it.
        self._date = 15
        dated = chunk(event(kind, " " + "0" * self._date))
        self._before, _, self._after = dated.partition(b"0" * self._date)

    def date(self, due: float) -> bytes:
        return b"%0*d" % (self._date, int(due * 1e6))

    def dated(self, date: bytes) -> bytes:
        return b"%b%b%b" % (self._before, date, self._after)

    def end(self, text: str) -> bytes:
        """Return the end of an answer; if `tells_whole`, it contains the complete `text`."""
        return chunk(final_answer(text)) + self._end if self.tells_whole else self._end


class Stream:
    """An answer in progress."""

    def __init__(self, plan: Plan, texts: Texts, tokens: int) -> None:
        self._plan = plan
        self._texts = texts
        self._tokens = tokens
        self.sent = 0
        self.begun = 0.0
        self.ended = False
        self._dates: list[bytes] = []

    def due(self) -> float:
        return self.begun + self.sent * self._plan.interval

    def one(self) -> bytes:
        """Return the next token; as in the service, the first includes the head."""
        texts = self._texts
        if self._plan.dated:
            date = texts.date(self.due())
            token = texts.dated(date)
            if texts.tells_whole:
                self._dates.append(date)
        else:
            token = texts.chunks[self.sent % CYCLE]
        if self.sent == 0:
            token = texts.head + token
        self.sent += 1
        if self.sent < self._tokens:
            return token
        self.ended = True
        return token + self._end()

    def _end(self) -> bytes:
        if not self._texts.tells_whole:
            return self._texts.end("")
        dates = b" " + b" ".join(self._dates)
        return self._texts.end(dates.decode() if self._dates else whole_text(self._tokens))

    def many(self) -> bytes:
        """Return a batch of tokens, and the end after the last."""
        left = self._tokens - self.sent
        if left >= CYCLE:
            self.sent += CYCLE
            data = self._texts.cycle
        else:
            self.sent += left
            data = b"".join(self._texts.chunks[:left])
        if self.sent == self._tokens:
            self.ended = True
            data += self._end()
        return data


class Connection:
    """A client's connection."""

    def __init__(self, server: "Server", sock: socket.socket) -> None:
        self._server = server
        self.sock = sock
        self._received = bytearray()
        self._unsent: deque[bytes] = deque()
        self._waiting = 0
        self.burst: Stream | None = None
        self.closed = False
        self._writing = False

    def ready(self, mask: int) -> None:
        try:
            if mask & selectors.EVENT_READ:
                self._read()
            if mask & selectors.EVENT_WRITE and not self.closed:
                self._flush()
        except OSError:
            self.close()

    def _read(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            self.close()
            return
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[:end])
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(self._received) < end + 4 + length:
                return
            body = bytes(self._received[end + 4 : end + 4 + length])
            del self._received[: end + 4 + length]
            method, target, _ = head.split(b"\r\n")[0].split(b" ")
            self._server.answer(self, method, target, body)

    def send(self, data: bytes) -> None:
        if self.closed:
            return
        self._unsent.append(data)
        self._waiting += len(data)
        if not self._writing:
            try:
                self._flush()
            except OSError:
                self.close()

    def _flush(self) -> None:
        while True:
            while self.burst is not None and self._waiting < _BLOCK:
                data = self.burst.many()
                self._unsent.append(data)
                self._waiting += len(data)
                if self.burst.ended:
                    self.burst = None
            if not self._unsent:
                break
            data = self._unsent.popleft() if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent.clear()
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            self._waiting -= sent
            if sent < len(data):
                self._unsent.append(data[sent:])
                break
        self._write_when_ready(bool(self._unsent))

    def _write_when_ready(self, wanted: bool) -> None:
        if wanted == self._writing:
            return
        self._writing = wanted
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0)
        self._server.selector.modify(self.sock, events, self)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.burst = None
            self._server.selector.unregister(self.sock)
            self.sock.close()


class Server:
    """The server; see the module."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self.selector.register(self._listener, selectors.EVENT_READ, None)
        self.port: int = self._listener.getsockname()[1]
        self._texts = {kind: Texts(kind) for kind in ("h2o", "jsonl", "openai", "tgi")}
        self._plan = Plan()
        self._counts: dict[str, int] = {}
        self._paced: list[tuple[float, int, Connection, Stream]] = []
        self._gathered: list[tuple[Connection, Stream]] = []
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def run(self) -> None:
        while True:
            now = time.monotonic()
            self._send_due(now)
            if self._paced or self._later:
                dues = [queue[0][0] for queue in (self._paced, self._later) if queue]
                left = min(dues) - time.monotonic()
                if left > 0:
                    time.sleep(min(left, _NAP))
                events = self.selector.select(0)
            else:
                events = self.selector.select()
            for key, mask in events:
                if key.data is None:
                    self._accept()
                elif not key.data.closed:
                    key.data.ready(mask)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._count("connections")
            self.selector.register(sock, selectors.EVENT_READ, Connection(self, sock))

    def _count(self, what: str) -> None:
        self._counts[what] = self._counts.get(what, 0) + 1

    def _send_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            heapq.heappop(self._later)[2]()
        paced = self._paced
        while paced and paced[0][0] <= now:
            _, number, connection, stream = paced[0]
            connection.send(stream.one())
            if stream.ended or connection.closed:
                heapq.heappop(paced)
            else:
                heapq.heapreplace(paced, (stream.due(), number, connection, stream))

    def answer(self, connection: Connection, method: bytes, target: bytes, body: bytes) -> None:
        if target == b"/bench":
            if method == b"POST":
                self._plan = Plan(**json.loads(body))
                self._gathered.clear()
                self._paced.clear()
                counts, self._counts = self._counts, {}
            else:
                counts = self._counts
            connection.send(_response(json.dumps(counts).encode()))
            return
        self._count("requests")
        self._count(f"{method.decode()} {target.decode().partition(CONVERSATION)[0]}")
        if self._plan.delay:
            self._number += 1
            due = time.monotonic() + self._plan.delay
            later = (due, self._number, lambda: self._respond(connection, method, target))
            heapq.heappush(self._later, later)
        else:
            self._respond(connection, method, target)

    def _respond(self, connection: Connection, method: bytes, target: bytes) -> None:
        if target == b"/settings":
            cookie = b"set-cookie: hf-chat=bench; Path=/; HttpOnly; Secure; SameSite=None\r\n"
            connection.send(_response(b'{"type":"redirect","status":303,"location":"/"}', cookie))
        elif target == b"/conversation":
            connection.send(_response(b'{"conversationId":"%b"}' % CONVERSATION.encode()))
        elif target == TREE_PATH + b"/conversation":
            connection.send(_response(json.dumps(_CREATED).encode()))
        elif target == TREE_PATH + b"/api/v2/models":
            models = [{"id": MODEL, "name": MODEL}]
            connection.send(_response(json.dumps({"json": models}).encode()))
        elif method == b"POST" and not target.endswith(b"/stop-generating"):
            kind = "jsonl" if target.startswith(TREE_PATH) else _KINDS.get(target, "h2o")
            self._stream(connection, self._texts[kind])
        else:
            connection.send(_response(b"{}"))

    def _stream(self, connection: Connection, texts: Texts) -> None:
        plan = self._plan
        warm = plan.warm > 0
        plan.warm -= warm
        stream = Stream(plan, texts, plan.tokens)
        if warm or not plan.interval:
            connection.burst = Stream(Plan(), texts, WARM) if warm else stream
            connection.send(texts.head)
            return
        self._gathered.append((connection, stream))
        if len(self._gathered) < plan.gather:
            return
        now = time.monotonic()
        for index, (waiting, each) in enumerate(self._gathered):
            each.begun = now + plan.interval * index / len(self._gathered)
            self._number += 1
            heapq.heappush(self._paced, (each.begun, self._number, waiting, each))
        self._gathered.clear()


def _response(body: bytes, headers: bytes = b"") -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    return head % (headers, len(body)) + body


def end_with_the_parent() -> None:
    """End this process when the parent closes our standard input, or dies."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    server = Server()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    server.run()
