"""Checks the files of a message before anything is sent."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from h2o_client.protocol.effects import Flow
from h2o_client.protocol.exchange import Exchange
from h2o_client.protocol.retries import Call
from h2o_client.types import File

_LARGEST = 10 * 1024 * 1024  # bytes of one file
_LARGEST_BODY = 15 * 1024 * 1024  # bytes of a message; base64 turns three bytes into four
_TEXT = ("text/*", "application/json", "application/xml", "application/csv")


def check_sizes(files: Sequence[File]) -> None:
    """Check the sizes of files.

    Raises:
        ValueError: a file is empty or too large, or all files together are.
    """
    # 17_files: the server drops empty files, and rejects files that are too large.
    for file in files:
        for text in (file.name, file.type):
            if not text.isprintable():  # control characters, or not valid UTF-8
                raise ValueError(f"the name or type of a file cannot be sent: {text!r}")
        if not file.content:
            raise ValueError(f"the file {file.name!r} is empty: the server would drop it")
        if len(file.content) >= _LARGEST:
            raise ValueError(
                f"the file {file.name!r} is too large: the server accepts less than 10 MB"
            )
    if sum(len(file.content) * 4 // 3 for file in files) > _LARGEST_BODY - 64 * 1024:
        raise ValueError("the files are too large in total: the server accepts 15 MB, in base64")


def check_files(exchange: Exchange, files: tuple[File, ...], model: str, call: Call) -> Flow[None]:
    """Check whether the model accepts the files: the server silently drops any others.

    Raises:
        ValueError: the model does not accept one of them.
    """
    if not files:
        return
    if exchange.models is None:
        yield from exchange.read_models(call)
    types = [
        kind for known in exchange.models or () if known.id == model for kind in known.file_types
    ]
    for file in files:
        if not any(fnmatchcase(file.type, kind) for kind in (*_TEXT, *types)):
            more = f" and {', '.join(types)}" if types else ""
            raise ValueError(
                f"the model {model!r} does not accept the file {file.name!r} of type "
                f"{file.type!r}: it accepts text{more}"
            )
