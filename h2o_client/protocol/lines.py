"""Splits bytes into lines, for every dialect's stream.

HTTP chunks do not match events: a chunk can contain many events, and an event can be split
anywhere, even inside a character. So lines are split as bytes and decoded whole. A line ends with
LF, or with CRLF or CR, as proxies can change it. U+2028, U+2029 and U+0085 do not end a line: they
occur unescaped inside JSON strings.
"""

# 05_upstream_split: events split anywhere. 05_upstream_newlines: a raw U+2028 inside a string.

MAX_LINE = 1024 * 1024
_EXCERPT = 200


def excerpt(data: bytes) -> str:
    """Return the beginning of some data, quoted for an error message."""
    text = data[:_EXCERPT].decode("utf-8", "backslashreplace")
    return repr(text) + ("…" if len(data) > _EXCERPT else "")


class LineSplitter:
    """Splits bytes into lines, without their line ends.

    Args:
        limit: the maximum size of a line, in bytes, so that a server cannot exhaust the memory.

    Attributes:
        overlong: whether a line was longer than the limit; only the lines before it are returned.
    """

    __slots__ = ("_after_cr", "_limit", "_pending", "_size", "overlong")

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._pending: list[bytes] = []  # the pieces of an incomplete line
        self._size = 0
        self._after_cr = False  # the last byte was a CR: an LF that follows belongs to it
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
        """Return the unterminated last line; b"" if nothing is left."""
        rest = b"".join(self._pending)
        self._pending.clear()
        self._size = 0
        return rest

    def _keep_limit(self, lines: list[bytes]) -> None:
        """Drop the first line that is too long, and everything after it."""
        for index, line in enumerate(lines):
            if len(line) > self._limit:
                del lines[index:]
                self.overlong = True
                break
        if self.overlong or self._size > self._limit:
            self.overlong = True
            self._pending.clear()
            self._size = 0
