"""Every backend by its name in target files.

A runtime is added in one place: a module of ``edgeres.backends``, or a package with a module ``loader``, that declares
its adapters as ``BACKENDS``. Runtimes themselves are imported only in the adapter's methods.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING

import edgeres.backends
from edgeres.errors import TargetError, nearest

if TYPE_CHECKING:
    from edgeres.backends.backend import Backend


@cache
def backends() -> dict[str, type[Backend]]:
    """The class of every backend by its name, in alphabetical order."""
    classes: dict[str, type[Backend]] = {}
    for entry in iter_modules(edgeres.backends.__path__, "edgeres.backends."):
        name = f"{entry.name}.loader" if entry.ispkg else entry.name
        if find_spec(name) is not None:
            classes |= {backend.name: backend for backend in getattr(import_module(name), "BACKENDS", ())}
    return dict(sorted(classes.items()))


def find_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        TargetError: The name is unknown; the message has the nearest one.
    """
    if name not in backends():
        raise TargetError(f"unknown backend {name!r}", nearest(name, backends()))
    return backends()[name]()
