"""sha256 of edgeres' own source code, which distinguishes checkouts between two releases."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIXES = (".py", ".yaml")
_RECIPES = "recipes"
"""A wheel has the recipes inside the package, a checkout beside it; a run's own recipe is in its provenance."""


def source_digest(package: Path) -> str:
    """sha256 over the relative path and content of every module and data file, independent of the folder.

    Args:
        package: Folder of the package.
    """
    whole = sha256()
    for name, path in sorted((path.relative_to(package).as_posix(), path) for path in package.rglob("*")):
        if path.suffix in _SUFFIXES and not name.startswith(f"{_RECIPES}/"):
            content = sha256(path.read_bytes()).hexdigest()
            whole.update(f"{name}\0{content}\n".encode())
    return whole.hexdigest()
