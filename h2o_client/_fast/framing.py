"""Finds the end of a response's head, and decodes the chunks of its body.

Both classes are fed bytes, and do not perform I/O.
"""

import re

MAX_HEAD = 100 * 1024  # h11's own limit; a longer head is left to it
MAX_LINE = 4096
MAX_TRAILERS = 16 * 1024

_BLANK_LINE = re.compile(rb"\n\r?\n")  # the end of a head, as h11 finds it
_STATUS_LINE = re.compile(rb"HTTP/1\.1 200[ \r\n]")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\r\n]*)?[ \t]*")
_START = b"HTTP/1.1 200"


class HeadWatch:
    """Watches the bytes of a connection for the end of a response's head.

    Only heads with status 200 count, because such a response is the final one for its request.

    Attributes:
        at_body: whether the bytes returned last ended with such a head.
        held: the bytes read beyond it.
    """

    __slots__ = ("_head", "at_body", "held")

    def __init__(self) -> None:
        self._head: bytearray | None = None  # the head so far; None: no head is expected
        self.at_body = False
        self.held = b""

    def sent(self) -> None:
        """Expect a head, because a request, or a part of one, was sent."""
        self.at_body = False
        if self._head is None and not self.held:
            self._head = bytearray()

    def received(self, data: bytes) -> bytes:
        """Return the bytes up to the end of the head, or all bytes if they do not contain it."""
        self.at_body = False
        if self._head is None:
            return data
        head = self._head
        searched = max(0, len(head) - 2)
        head += data
        blank = _BLANK_LINE.search(head, searched)
        if blank is None:
            known = head.startswith(_START[: len(head)]) and len(head) <= MAX_HEAD
            self._head = head if known else None
            return data
        self._head = None
        if _STATUS_LINE.match(head) is None:
            return data
        end = len(data) - (len(head) - blank.end())
        self.at_body = True
        self.held = data[end:]
        return data[:end]

    def take(self) -> bytes:
        """Take the bytes read beyond the head."""
        held, self.held = self.held, b""
        return held


class Dechunker:
    """Decodes the bytes of a chunked body.

    Attributes:
        ended: whether the body has ended.
        rest: the bytes after its end.
        error: the error in the chunks, once it occurs; decoding stops there.
    """

    __slots__ = ("_left", "_line", "_trailers", "ended", "error", "rest")

    def __init__(self) -> None:
        self._left = 0  # bytes of the chunk still to come, including its final CR LF
        self._line = b""  # an incomplete line with a size, trailer, or that CR LF
        self._trailers: int | None = None  # bytes of trailers so far; None: within the body
        self.ended = False
        self.error = ""
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the body bytes in this data; check `ended` and `error` afterwards."""
        if self._line:
            data = self._line + data
            self._line = b""
        pieces: list[bytes] = []
        start, size, left = 0, len(data), self._left
        while True:
            if left:
                end = start + left
                if end > size:
                    if size == end - 1:  # the CR has arrived, the LF has not
                        pieces.append(data[start : end - 2])
                        self._line = data[end - 2 :]
                        left = 2
                    else:
                        pieces.append(data[start:])
                        left = end - size
                    break
                pieces.append(data[start : end - 2])
                if data[end - 2 : end] != b"\r\n":
                    self.error = "a chunk does not end with a line break"
                    break
                left = 0
                start = end
            end = data.find(b"\r\n", start)
            if end < 0:
                self._line = data[start:]
                if len(self._line) > MAX_LINE:
                    self.error = "the line of a chunk's size, or a trailer, is too long"
                break
            if self._trailers is not None:
                if end == start:
                    self.ended = True
                    self.rest = data[end + 2 :]
                    break
                self._trailers += end - start
                if self._trailers > MAX_TRAILERS:
                    self.error = "too many trailers"
                    break
                start = end + 2
                continue
            line = _SIZE_LINE.fullmatch(data, start, end)
            if line is None:
                self.error = "invalid chunk size"
                break
            count = int(line[1], 16)
            start = end + 2
            if count:
                left = count + 2
            else:
                self._trailers = 0
        self._left = left
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
