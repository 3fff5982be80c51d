"""How to install the dependencies of an optional feature."""


def install_hint(extra: str) -> str:
    """Return the command that installs an extra; this package is not published yet.

    Args:
        extra: its name in `pyproject.toml`.
    """
    return f"from a clone: pip install '.[{extra}]'"
