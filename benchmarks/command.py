"""What the commands have in common: the files they need, and how they end."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import EdgeresError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED = CHECKOUT.parent / "shared"
IMAGES = "data/imagenette"
WEIGHTS = "models/resnet18-imagenette.safetensors"


def require(name: str, shared: Path = SHARED) -> Path:
    """A file or folder below ``../shared``.

    Raises:
        UsageError: It is absent.
    """
    path = shared / name
    if not path.exists():
        raise UsageError(f"this benchmark needs {path}, which is absent", f"put it there; see {CHECKOUT / 'README.md'}")
    return path


def positive(text: str) -> int:
    """An argument that counts something.

    Raises:
        ArgumentTypeError: It is no whole number above zero.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def run(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], str], given: Sequence[str] | None) -> int:
    """Parses the command line, prints what ``work`` made of it, and tells failures in one line.

    Returns:
        The exit code.
    """
    options = parser.parse_args(given)
    try:
        print(work(options))
    except EdgeresError as failure:
        print(f"benchmarks: {failure}", file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def said(text: str) -> None:
    """One line about what is under way, on standard error."""
    print(text, file=sys.stderr, flush=True)
