"""Discovery of lint rules and repairs in the modules of their package."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from types import ModuleType

T = TypeVar("T")


def discovered(package: ModuleType, kind: type[T]) -> tuple[T, ...]:
    """Instances of a class in a package's modules, alone or in tuples: modules by name, then as they are defined."""
    found: list[T] = []
    for name in sorted(info.name for info in iter_modules(package.__path__)):
        for value in vars(import_module(f"{package.__name__}.{name}")).values():
            found += [entry for entry in (value if isinstance(value, tuple) else (value,)) if isinstance(entry, kind)]
    return tuple(dict.fromkeys(found))
