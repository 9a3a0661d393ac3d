"""Checked loading of runtimes and files."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING

from edgeres.errors import BackendUnavailable, StageError
from edgeres.settings import sha256_file

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from edgeres.artifacts.artifact import File


def absent(module: str, title: str, pip: str) -> str | None:
    """Why a Python module is not available, with the pip command, without importing it; None when it is installed."""
    return None if find_spec(module) is not None else f"{title} is not installed: pip install {pip}"


def load(module: str, title: str, pip: str) -> ModuleType:
    """Imports a runtime.

    Raises:
        BackendUnavailable: It is not installed, or its libraries do not load; the message quotes the loader.
    """
    if find_spec(module) is None:
        raise BackendUnavailable(f"{title} is not installed", f"pip install {pip}")
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as failure:
        raise BackendUnavailable(
            f"{title} is installed but does not load ({failure})", f"pip install {pip}"
        ) from failure


def intact(file: File) -> Path:
    """The path of a file, after checking its sha256.

    Raises:
        StageError: The file is missing or was changed: a native runtime must not read it.
    """
    if not file.path.is_file():
        raise StageError(f"{file.path} is missing", "build again")
    if sha256_file(file.path) != file.sha256:
        raise StageError(f"{file.path} changed after it was made (sha256 differs)", "build again")
    return file.path
