"""The `files=` of a message."""

from pathlib import Path
from typing import Any

import pytest

from h2o_client import File, H2oClient


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ("note.txt", "list"),
        (File("a", b"a"), "list"),
        ([7], "a path or a File"),
        ([("a", b"a")], "a path or a File"),
        ([File("a", "must be strings")], "bytes"),  # type: ignore[arg-type]
        ([File(7, b"a")], "must be strings"),  # type: ignore[arg-type]
    ],
)
def test_invalid_file_is_a_type_error(files: Any, error: str) -> None:
    with H2oClient("http://127.0.0.1:9") as client, pytest.raises(TypeError, match=error):
        client.stream("Hi", files=files)


def test_unreadable_path_is_an_immediate_error(tmp_path: Path) -> None:
    with H2oClient("http://127.0.0.1:9") as client, pytest.raises(FileNotFoundError):
        client.stream("Hi", files=[tmp_path / "missing.txt"])


def test_files_with_excessive_total_size_are_rejected() -> None:
    files = [File(f"{n}.txt", b"x" * 6_000_000) for n in range(2)]
    with H2oClient("http://127.0.0.1:9") as client, pytest.raises(ValueError, match="in total"):
        client.stream("Hi", files=files)
