"""``Progress`` protocol: reporting of progress, drawn by the command line and silent elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Advance = Callable[[int], None]


class Progress(Protocol):
    """Shows the progress of one task after another."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """Opens a task of ``total`` units; the yielded function advances it by a number of units."""


class Silent:
    """Progress without output."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """A task without output."""
        yield lambda units: None
