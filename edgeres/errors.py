"""Exceptions of edgeres, each with a message and a hint."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class EdgeresError(Exception):
    """Base class of expected failures, printed in one line.

    Args:
        what: The error, with the offending value and its place.
        hint: Remedy; may be empty.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, hint: str = "") -> None:
        what = what.encode("utf-8", errors="backslashreplace").decode()  # a path may hold bytes that are not UTF-8
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}: {self.hint}" if self.hint else self.what


class UsageError(EdgeresError):
    """Invalid usage or input, found before anything runs."""

    exit_code: ClassVar[int] = 2


class RecipeError(UsageError):
    """A recipe that names an unknown stage or key, a bad value, or a broken type chain."""


class TargetError(UsageError):
    """An unknown target, or an invalid target file."""


class ModelError(UsageError):
    """Weights or a graph that edgeres does not support."""


class DataError(UsageError):
    """Images that are missing, corrupt, too few, or shared between splits."""


class ChanceError(UsageError):
    """A float network that predicts at chance: its preprocessing, the order of its classes, or the labels are wrong."""


class StageError(EdgeresError):
    """A failure of a stage."""


class StoreError(EdgeresError):
    """The cache or the run folder cannot be written, or another process holds its lock."""


class BackendUnavailable(EdgeresError):
    """A runtime is not installed; the hint is its pip command."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Hint for a misspelt name: ``did you mean 'resnet18'?`` where something is close, otherwise the known names."""
    names = sorted(set(known))
    return did_you_mean(word, names) or f"known: {', '.join(names)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean 'resnet18'?``, or nothing where no known name is close to a word."""
    by_lower = {name.casefold(): name for name in known}
    close = get_close_matches(word.casefold(), by_lower, n=1)
    return f"did you mean {by_lower[close[0]]!r}?" if close else ""
