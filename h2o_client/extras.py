"""How to install what an optional feature needs."""


def install_hint(extra: str) -> str:
    """Return how to install an extra of this package, which is not published yet.

    Args:
        extra: its name in `pyproject.toml`.
    """
    return f"from a clone: pip install '.[{extra}]'"
