"""One client connection: bytes to requests, responses to bytes.

h11 implements the protocol; this module reads and writes. It also reads from the connection while
a response is produced, because only this shows that the client has left: the response is then
abandoned, but a generation that it started continues.

To close a connection without a response, or in the middle of one, it simply closes the socket: all
bytes written before that still arrive.
"""

from __future__ import annotations

from contextlib import ExitStack
from email.utils import formatdate

import anyio
import anyio.abc
import h11

from h2o_client.emulator.gateway import Gateway
from h2o_client.emulator.recording import Tape
from h2o_client.emulator.web import (
    ClientLostError,
    Headers,
    Request,
    Response,
    Stream,
    reason_phrase,
)

FIRST_REQUEST = 60.0
"""Seconds to wait for the first request on a new connection."""

GONE = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)
"""The exceptions of reading and writing when the peer is gone."""

MAX_HEADERS = 64 * 1024
READ = 64 * 1024


class Connection:
    """A connection to a client."""

    def __init__(self, stream: anyio.abc.ByteStream, gateway: Gateway, address: str) -> None:
        self.stream = stream
        self.gateway = gateway
        self.address = address
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADERS)
        self._tape: Tape | None = None
        self._ending = "eof"  # how the response ends if nothing else happens

    async def serve(self) -> None:
        """Answer requests until either side closes."""
        patience = FIRST_REQUEST
        while True:
            request = await self._next_request(patience)
            if request is None:
                return
            if not await self._answer_watched(request):
                return
            if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.MUST_CLOSE:
                return
            self._http.start_next_cycle()
            patience = self.gateway.keep_alive

    async def _next_request(self, patience: float) -> Request | None:
        """Read one request; None at the end of the connection."""
        try:
            head: object = None
            with anyio.move_on_after(patience):
                head = await self._event()
            if isinstance(head, h11.Request):
                with anyio.move_on_after(FIRST_REQUEST):
                    return await self._whole_request(head)
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            text = f"HTTP/1.1 {status} {reason_phrase(status)}\r\nConnection: close\r\n\r\n"
            await self.stream.send(text.encode())
        return None

    async def _whole_request(self, head: h11.Request) -> Request | None:
        """Read a request's body; None if it is incomplete or much too long."""
        path, _, query = head.target.decode("latin-1").partition("?")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers
        ]
        method = head.method.decode()
        kind = self.gateway.face.kind(method, path)
        declared = int(dict(headers).get("content-length", "0"))
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        body = bytearray()
        too_long = declared > self.gateway.max_body
        while isinstance(event := await self._event(), h11.Data):
            too_long = too_long or len(body) + len(event.data) > self.gateway.max_body
            if not too_long:
                body += event.data
        if not isinstance(event, h11.EndOfMessage):
            return None
        kept = b"" if too_long else bytes(body)
        now = self.gateway.clock()
        request = Request(kind, method, path, query, headers, kept, now, self.address)
        if declared <= self.gateway.max_body:
            return request
        self.gateway.received(request)
        await self._send_whole(request, self.gateway.face.usual(request, 413))
        return None

    async def _event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            try:
                data = await self.stream.receive(READ)
            except anyio.EndOfStream:
                data = b""
            self._http.receive_data(data)

    async def _answer_watched(self, request: Request) -> bool:
        """Send an answer unless the client leaves; return whether the connection stays open."""
        alive = False
        self._tape = self.gateway.tape(request)
        self._ending = "eof"
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._watch, tasks.cancel_scope)
                try:
                    alive = await self._answer(request)
                except GONE:
                    alive = False
                tasks.cancel_scope.cancel()
        finally:
            tape, self._tape = self._tape, None
            if tape is not None:
                tape.end(self._ending)
        return alive

    async def _watch(self, scope: anyio.CancelScope) -> None:
        """Keep reading while a response is produced, to notice that the client has left."""
        size = 0
        while size < READ:
            try:
                data = await self.stream.receive(READ)
            except (anyio.EndOfStream, *GONE):
                self._ending = "client-closed"
                scope.cancel()
                return
            size += len(data)
            self._http.receive_data(data)

    async def _answer(self, request: Request) -> bool:
        with (
            ExitStack() as busy
        ):  # first, so that a test that sees the request can wait for it to end
            self.gateway.count(1)
            busy.callback(self.gateway.count, -1)
            fault = self.gateway.received(request)
            if fault is not None:
                await anyio.sleep(fault.delay)
                if fault.processed:
                    answer = await self.gateway.handle(request)
                    if isinstance(answer, Stream):
                        answer.leave()
                if fault.hang:
                    await anyio.sleep_forever()
                if fault.disconnect:
                    return False
                if fault.status is not None:
                    return await self._send_whole(request, self.gateway.face.fault(request, fault))
            answer = await self.gateway.handle(request)
            if answer is None:
                return False
            if isinstance(answer, Response):
                return await self._send_whole(request, answer)
            return await self._send_stream(request, answer, busy)

    async def _send_whole(self, request: Request, answer: Response) -> bool:
        await self._send_head(answer.status, answer.headers)
        if answer.body and request.method != "HEAD":
            await self._send(h11.Data(data=answer.body))
        await self._send(h11.EndOfMessage())
        return True

    async def _send_stream(self, request: Request, answer: Stream, busy: ExitStack) -> bool:
        try:
            await self._send_head(answer.status, answer.headers)
            if answer.endless:
                busy.close()
            while request.method != "HEAD" and (data := await answer.feed.get()):
                await self._send(h11.Data(data=data))
        except ClientLostError:
            return False
        finally:
            answer.leave()
        await self._send(h11.EndOfMessage())
        return True

    async def _send_head(self, status: int, headers: Headers) -> None:
        names = {name for name, _ in headers}
        full = sorted(headers, key=lambda header: header[0])
        if "date" not in names:
            full.append(("Date", formatdate(self.gateway.clock(), usegmt=True)))
        if "connection" not in names and self._http.their_state is not h11.MUST_CLOSE:
            full.append(("Connection", "keep-alive"))
            full.append(("Keep-Alive", f"timeout={int(self.gateway.keep_alive)}"))
        if "content-length" not in names:
            full.append(("Transfer-Encoding", "chunked"))
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in full]
        phrase = reason_phrase(status).encode()
        await self._send(h11.Response(status_code=status, headers=encoded, reason=phrase))

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if self._tape is not None:
            self._record(self._tape, event)
        if data:
            await self.stream.send(data)

    def _record(self, tape: Tape, event: h11.Event) -> None:
        if isinstance(event, h11.Response):
            headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in event.headers.raw_items()
            ]
            tape.head(event.status_code, bytes(event.reason).decode("latin-1"), headers)
        elif isinstance(event, h11.Data):
            tape.chunk(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            tape.end()
