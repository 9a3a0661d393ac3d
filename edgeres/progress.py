"""How long work reports how far it is; the command line draws it, tests and libraries stay silent."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Advance = Callable[[int], None]


class Progress(Protocol):
    """Anything that can show one task after another."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Opens a task of ``total`` units; the yielded function advances it by a number of units."""


class Silent:
    """Progress that nobody watches."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """A task whose advance goes nowhere."""
        yield lambda units: None
