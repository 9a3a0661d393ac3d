"""Registry of the quantization techniques, found in the files of ``edgeres.recovery.techniques``."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from edgeres.errors import UsageError
from edgeres.recovery import techniques
from edgeres.recovery.technique import Technique

if TYPE_CHECKING:
    from collections.abc import Mapping


def discover() -> Mapping[str, type[Technique]]:
    """The technique of every file of the package by name, from the cheapest to the most expensive.

    Raises:
        UsageError: A file without a ``TECHNIQUE`` of its name, or two techniques with one order.
    """
    classes: list[type[Technique]] = []
    for module in pkgutil.iter_modules(techniques.__path__):
        name = f"{techniques.__name__}.{module.name}"
        technique = getattr(import_module(name), "TECHNIQUE", None)
        if not (isinstance(technique, type) and issubclass(technique, Technique) and technique.name == module.name):
            raise UsageError(f"{name} has no technique {module.name!r}", "set TECHNIQUE to a subclass of that name")
        for other in classes:
            if technique.order == other.order:
                raise UsageError(f"{other.name} and {technique.name} have the same order", "give each its own")
        classes.append(technique)
    return MappingProxyType({one.name: one for one in sorted(classes, key=lambda technique: technique.order)})


TECHNIQUES = discover()  # every technique by name, from the cheapest to the most expensive

if TYPE_CHECKING:
    TechniqueName = str
else:
    TechniqueName = Literal[tuple(TECHNIQUES)]


def chain(name: str) -> tuple[str, ...]:
    """A forced technique with those that it builds on: every quick one before it."""
    forced = TECHNIQUES[name]
    before = (one for one in TECHNIQUES.values() if one.effort == "quick" and one.order < forced.order)
    return (*(one.name for one in before if not forced.from_float), name)
