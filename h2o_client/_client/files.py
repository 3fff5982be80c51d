"""Reads the files to send with a message."""

import mimetypes
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from h2o_client.protocol.files import check_sizes
from h2o_client.types import File, FileLike

_UNKNOWN = "application/octet-stream"


def read_files(files: Sequence[FileLike]) -> tuple[File, ...]:
    """Read files.

    Args:
        files: paths, or `File` objects with contents.

    Raises:
        TypeError: an item is neither a path nor a `File`.
        ValueError: a file is empty or too large, or all files together are.
        OSError: a file cannot be read.
    """
    if isinstance(files, str | bytes | PathLike | File):
        raise TypeError("files must be a list: put a single file in a list")
    found = tuple(map(_read, files))
    check_sizes(found)
    return found


def _read(given: object) -> File:
    if isinstance(given, str | PathLike):
        path = Path(given)
        given = File(path.name, path.read_bytes())
    if not isinstance(given, File):
        raise TypeError(
            f"a file must be a path or a File(name, content, type), not {type(given).__name__}"
        )
    name, content, kind = given
    if not isinstance(name, str) or not isinstance(kind, str):
        raise TypeError("the name and type of a file must be strings")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(f"the content of a file must be bytes, not {type(content).__name__}")
    return File(name, bytes(content), kind or mimetypes.guess_type(name)[0] or _UNKNOWN)
