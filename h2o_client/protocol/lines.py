"""Bytes to lines, for every dialect's stream.

HTTP chunks do not match events: a chunk can hold many events, and an event can be cut anywhere,
even inside a character. So lines are split as bytes and decoded whole. A line ends with LF, or with
CRLF or CR, which proxies can turn it into. U+2028, U+2029 and U+0085 do not end a line: they occur
unescaped inside JSON strings.
"""

# 05_upstream_split: events cut anywhere. 05_upstream_newlines: U+2028 raw inside a string.

MAX_LINE = 1024 * 1024
_EXCERPT = 200


def excerpt(data: bytes) -> str:
    """Return the beginning of some data, in a form for the text of an error."""
    text = data[:_EXCERPT].decode("utf-8", "backslashreplace")
    return repr(text) + ("…" if len(data) > _EXCERPT else "")


class LineSplitter:
    """Cuts bytes into lines, without their ends.

    Args:
        limit: the most bytes that a line may have, so that a server cannot fill the memory.

    Attributes:
        overlong: whether a line was longer than the limit; only the lines before it are returned.
    """

    __slots__ = ("_after_cr", "_limit", "_pending", "_size", "overlong")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._pending: list[bytes] = []  # the pieces of a line that has not ended
        self._size = 0
        self._after_cr = False  # a CR was the last byte: an LF now belongs to it
        self.overlong = False

    @property
    def between(self) -> bool:
        """Whether the next byte begins a line."""
        return not (self._pending or self._after_cr or self.overlong)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that end within `data`; check `overlong` afterwards."""
        if self.overlong:
            return []
        if self._after_cr and data:
            self._after_cr = False
            if data.startswith(b"\n"):
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        held = self._size + len(data)
        if self._pending and len(lines) > 1:
            self._pending.append(lines[0])
            lines[0] = b"".join(self._pending)
            self._pending.clear()
            self._size = 0
        rest = lines.pop()
        if rest:
            self._pending.append(rest)
            self._size += len(rest)
        if held > self._limit:
            self._keep_limit(lines)
        return lines

    def finish(self) -> bytes:
        """Return the last line, which was not terminated; b"" if nothing is left."""
        rest = b"".join(self._pending)
        self._pending.clear()
        self._size = 0
        return rest

    def _keep_limit(self, lines: list[bytes]) -> None:
        """Drop the first line that is too long, and what follows it."""
        for index, line in enumerate(lines):
            if len(line) > self._limit:
                del lines[index:]
                self.overlong = True
                break
        if self.overlong or self._size > self._limit:
            self.overlong = True
            self._pending.clear()
            self._size = 0
