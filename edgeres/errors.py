"""Every error edgeres raises on purpose: what happened, where, and the way out."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class EdgeresError(Exception):
    """An expected failure, told in one line.

    Args:
        what: What is wrong, naming the offending value and where it stands.
        hint: What the user can do about it; empty when there is nothing to add.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, hint: str = "") -> None:
        what = what.encode("utf-8", errors="backslashreplace").decode()  # a path may hold bytes that are no UTF-8
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}: {self.hint}" if self.hint else self.what


class UsageError(EdgeresError):
    """Bad usage or bad input: the run never had a chance."""

    exit_code: ClassVar[int] = 2


class RecipeError(UsageError):
    """A recipe that names an unknown stage or key, a bad value, or a broken type chain."""


class TargetError(UsageError):
    """An unknown target, or a target file that does not hold together."""


class ModelError(UsageError):
    """Weights or a graph that cannot be a network edgeres handles."""


class DataError(UsageError):
    """Images that are missing, corrupt, too few, or shared between splits."""


class ChanceError(UsageError):
    """A float network that predicts at chance: its preprocessing, the order of its classes, or the labels are wrong."""


class StageError(EdgeresError):
    """A stage failed on input that looked right."""


class StoreError(EdgeresError):
    """The cache or the run folder cannot be written, or somebody else holds it."""


class BackendUnavailable(EdgeresError):
    """A runtime is not installed here; the way out is its pip line."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The way out of a misspelt name.

    Returns:
        ``did you mean 'resnet18'?`` where something is close, otherwise the names there are.
    """
    names = sorted(set(known))
    by_lower = {name.casefold(): name for name in names}
    close = get_close_matches(word.casefold(), by_lower, n=1)
    return f"did you mean {by_lower[close[0]]!r}?" if close else f"known: {', '.join(names)}"
