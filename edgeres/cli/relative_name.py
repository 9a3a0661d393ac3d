"""Names of files in SARIF documents, as code scanning services expect them."""

from __future__ import annotations

from pathlib import Path


def relative_name(path: Path) -> str:
    """A path below the working directory relative to it, any other path absolute; both in POSIX form."""
    whole, here = path.resolve(), Path.cwd()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else whole.as_posix()
