"""``Package``: the Python package of a runtime, imported on demand."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from edgeres.errors import BackendUnavailable

if TYPE_CHECKING:
    from types import ModuleType


class Package(NamedTuple):
    """The Python package of a runtime: its module, its display name, and the argument of ``pip install``."""

    module: str
    title: str
    pip: str

    def missing(self) -> str | None:
        """Why it is not available, with the pip command, without importing it; None when it is installed."""
        return None if find_spec(self.module) is not None else f"{self.title} is not installed: pip install {self.pip}"

    def load(self, submodule: str = "") -> ModuleType:
        """Imports it, or one of its submodules.

        Raises:
            BackendUnavailable: It is not installed, or its libraries do not load; the message quotes the loader.
        """
        hint = f"pip install {self.pip}"
        if find_spec(self.module) is None:
            raise BackendUnavailable(f"{self.title} is not installed", hint)
        try:
            return importlib.import_module(f"{self.module}.{submodule}" if submodule else self.module)
        except (ImportError, OSError, RuntimeError) as failure:
            raise BackendUnavailable(f"{self.title} is installed but does not load ({failure})", hint) from failure


FLATBUFFERS = Package("flatbuffers", "FlatBuffers", "flatbuffers")
