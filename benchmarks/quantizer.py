"""What every contender is: a frozen value with a title, the packages it needs, and one way to quantize."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.bench import Bench
    from benchmarks.pixels import Pixels
    from edgeres.targets.target import Target

SchemeName = Literal["tensorrt", "x86"]
SCHEMES: dict[SchemeName, str] = {"tensorrt": "jetson", "x86": "cpu"}
"""Scheme to a target that wants it."""
BOTH: tuple[SchemeName, ...] = ("tensorrt", "x86")
IMAGE = "image"
PIP = "pip install --no-deps -r benchmarks/peers.txt"


class FloatFolder(Protocol):
    """A folder with a float graph and its calibration images, in which contenders leave theirs."""

    @property
    def graph(self) -> Path:
        """The folded float network as ONNX."""

    def pixels(self, name: str) -> Pixels:
        """Decoded images, such as ``calibration``."""

    def model(self, contender: str, suffix: str = ".onnx") -> Path:
        """Where a contender leaves its graph."""


class Quantizer(Protocol):
    """One way to quantize."""

    @property
    def title(self) -> str:
        """How the table calls it."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions it needs, by their names on the package index."""

    @property
    def schemes(self) -> tuple[SchemeName, ...]:
        """Schemes it has an answer for."""

    @property
    def suffix(self) -> str:
        """Of the file it makes: ``.onnx``, or ``.pt2`` of a program that only torch runs."""

    def prepare(self, bench: Bench, target: Target) -> Callable[[], bytes]:
        """Imports and reads what it needs; the call it returns quantizes and returns the file."""


def versions(quantizer: Quantizer) -> dict[str, str]:
    """Installed versions of the packages a contender needs; an absent one is left out."""
    found = {}
    for name in quantizer.packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def missing(quantizer: Quantizer) -> str | None:
    """What is not installed, as one line with the way to get it; None where everything is."""
    absent = [name for name in quantizer.packages if name not in versions(quantizer)]
    return f"no {', '.join(absent)} here: {PIP}" if absent else None


class Singles:
    """Calibration images one at a time, as often as they are asked for."""

    def __init__(self, bench: FloatFolder) -> None:
        self._pixels = bench.pixels("calibration")

    def __len__(self) -> int:
        return len(self._pixels)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return self._pixels.batches(1)
