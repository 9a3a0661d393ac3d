"""Values of a pickle that is read as data: names of classes, and records of what was to be made of them."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_KEY = 1 << 60  # integers beyond hash alike, so that a dictionary of them would take quadratic time


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names: ``module.qualname``."""

    text: str


@dataclass(slots=True, eq=False)
class Record:
    """What a pickle wanted to make by calling ``name`` with ``arguments``; nothing was called.

    ``state`` is what it passed to ``__setstate__`` or ``__dict__``, ``pairs`` and ``elements`` what it stored by key or
    appended. A persistent id is a record without a name.
    """

    name: str
    arguments: tuple[object, ...] = ()
    state: object = None
    pairs: dict[object, object] = field(default_factory=dict)
    elements: list[object] = field(default_factory=list)

    @property
    def attributes(self) -> dict[object, object]:
        """Its ``__dict__``, also where slots stand beside it; empty where the state is something else."""
        state = self.state[0] or self.state[1] if isinstance(self.state, tuple) and len(self.state) == 2 else self.state
        return state if isinstance(state, dict) else {}


@dataclass(frozen=True, slots=True)
class Pickle:
    """A pickle's value, and the names of everything that it would have called, in order of first use."""

    value: object
    called: tuple[str, ...]
    persistent: tuple[object, ...] = ()
    """Persistent ids, which stand for storages beside the pickle."""


def _is_key(value: object) -> bool:
    """Whether a value may be a key: flat, so that hashing it does not recurse."""
    if isinstance(value, int):
        return abs(value) < MOST_KEY
    return value is None or isinstance(value, str | bytes | Name | Record)


def store(holder: object, values: list[object]) -> None:
    """Stores keys and values in turn; a pair whose key is no plain value is left out."""
    if len(values) % 2:
        raise ValueError("a key without a value")
    pairs = holder if isinstance(holder, dict) else holder.pairs if isinstance(holder, Record) else {}
    for key, value in zip(values[::2], values[1::2], strict=True):
        if _is_key(key):
            pairs[key] = value


def extend(holder: object, values: list[object]) -> None:
    """Appends values to a list, or to what a record stores."""
    if isinstance(holder, list | Record):
        (holder if isinstance(holder, list) else holder.elements).extend(values)
