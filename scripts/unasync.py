"""Generates the sync code from the async code.

    python scripts/unasync.py           writes each `_sync` folder from the `_async` one beside it
    python scripts/unasync.py --check   fails if that would change something

`_runtime.py` holds what truly differs; both versions are written by hand and not converted.
The check compares code, docstrings and comments, but not their layout, so it needs no formatter.
"""

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [ROOT / "h2o_client/_client/_async", ROOT / "h2o_client/_fast/_async"]
HEADER = "# Generated, do not edit: run `python scripts/unasync.py`.\n"

# Applied in this order, to code and docstrings. Docstrings describe what both sides have in common;
# the last rules replace the words that differ.
RULES = [
    (r"\ban (?=`async with\b)", "a "),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait\s+", ""),
    (r"\bAwaitable\[((?:[^\[\]]|\[[^\]]*\])*)\]", r"\1"),
    (r"\bAwaitable, ", ""),
    (r"\bAsyncByteStream\b", "SyncByteStream"),
    (r"\bhandle_async_request\b", "handle_request"),
    (r"\b(Stop)?Async(?=[A-Z])", r"\1"),
    (r"\b_async\b", "_sync"),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\ba(close|iter|next)\b", r"\1"),
    (r"\bdisplay_async\b", "display"),
    (r"\bany task of the\s+same event loop\b", "any thread"),
    (r"\bthe tasks of one event loop\b", "threads"),
    (r"\bfor asyncio and trio\b", "for scripts and threads"),
    (r"; on asyncio it takes about\s+half of the CPU time", ""),
    (r"\btask\b", "thread"),
]
LEFT_OVER = re.compile(r"(?i)\w*(async|await|anyio|trio|task|event loop|awaitable)\w*")


def convert(code: str) -> str:
    """Return the sync code of async code.

    Raises:
        ValueError: async code is left that no rule converts.
    """
    for pattern, replacement in RULES:
        code = re.sub(pattern, replacement, code)
    if left := LEFT_OVER.search(code):
        raise ValueError(f"no rule for {left[0]!r}")
    return HEADER + code


def essence(code: str) -> tuple[str, list[str]]:
    """Return the parts of code to compare: its syntax tree with docstrings, and its comments."""
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return ast.dump(ast.parse(code)), comments


def main() -> int:
    """Generate or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail if something would change")
    check = parser.parse_args().check
    generated: dict[Path, str] = {}
    left: list[Path] = []
    for source in SOURCES:
        target = source.with_name("_sync")
        for path in sorted(source.glob("*.py")):
            if path.name != "_runtime.py":
                generated[target / path.name] = convert(path.read_text(encoding="utf-8"))
        known = {*generated, target / "_runtime.py"}
        left += [path for path in target.glob("*.py") if path not in known]
    outdated = list(left)
    for path, code in generated.items():
        if not path.exists() or essence(path.read_text(encoding="utf-8")) != essence(code):
            outdated.append(path)
    if check:
        for path in outdated:
            print(f"{path.relative_to(ROOT)} is out of date: run python scripts/unasync.py")
        return bool(outdated)
    for path, code in generated.items():
        path.write_text(code, encoding="utf-8")
    for path in left:
        path.unlink()
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", *generated], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
