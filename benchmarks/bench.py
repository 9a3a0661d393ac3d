"""The folder in which contenders meet: one float graph, the same pixels for all, float logits to hold them against.

``python -m benchmarks.bench FOLDER --images N --validation N --held-out N --seed S`` makes it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.command import IMAGES, WEIGHTS, positive, require
from benchmarks.pixels import Pixels, decode
from edgeres.data.dataset import open_dataset
from edgeres.data.partition import round_robin
from edgeres.data.preprocess import Preprocess

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgeres.data.dataset import Dataset
    from edgeres.data.split import Split
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights

PREPROCESS = Preprocess(resize=192, crop=160)
"""What the shared weights were trained for: see ``../shared/models/README.md``."""

OPSET, IR_VERSION = 17, 8
JUDGED = ("held_out", "validation")
"""Held-out training images, on which settings are chosen, and validation images, on which nothing is."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The folder."""

    folder: Path

    @property
    def graph(self) -> Path:
        """The folded float network as ONNX."""
        return self.folder / "float.onnx"

    def pixels(self, name: str) -> Pixels:
        """``calibration`` or one of ``JUDGED``."""
        return Pixels(self.folder / f"{name}.pixels", PREPROCESS.crop)

    def labels(self, name: str) -> NDArray[np.int64]:
        """True classes ``[N]``."""
        labels: NDArray[np.int64] = np.load(self.folder / f"{name}.labels.npy")
        return labels

    def float_logits(self, name: str) -> NDArray[np.float32]:
        """The float network's answers ``[N,classes]``."""
        logits: NDArray[np.float32] = np.load(self.folder / f"{name}.logits.npy")
        return logits

    def model(self, contender: str) -> Path:
        """Where a contender leaves its graph."""
        return self.folder / f"{contender}.onnx"


def network() -> tuple[ResNetSpec, Weights]:
    """The shared ResNet-18, its batch norms folded."""
    from edgeres.model.zoo import read_checkpoint
    from edgeres.stages.fold_batchnorm import folded

    loaded = read_checkpoint(require(WEIGHTS))
    return folded(loaded.spec, loaded.weights)


def answers(model: Path, pixels: Pixels, *, optimise: bool) -> NDArray[np.float32]:
    """Logits ``[N,classes]`` by ONNX Runtime."""
    from edgeres.backends.session import onnx_session

    with onnx_session(model, optimise=optimise) as session:
        return np.concatenate([session.run(batch) for batch in pixels.batches(32)])


def make(bench: Bench, images: int, validation: int, held_out: int, seed: int) -> None:
    """Decodes the images, writes the float graph and asks it for its answers.

    Raises:
        UsageError: ``../shared`` is absent.
    """
    from edgeres.onnxfile.write import write_model

    spec, weights = network()
    model = write_model(spec, weights, (PREPROCESS.crop, PREPROCESS.crop), opset=OPSET, ir_version=IR_VERSION)
    bench.graph.write_bytes(model.SerializeToString(deterministic=True))
    dataset = open_dataset(require(IMAGES), seed=seed, calibration=images, allow=frozenset({"few-images"}))
    decode(dataset.calibration, PREPROCESS, bench.pixels("calibration").path)
    for name, split in zip(
        JUDGED, (_held_out(dataset, held_out, seed), _some(dataset.validation, validation)), strict=True
    ):
        pixels = decode(split, PREPROCESS, bench.pixels(name).path)
        np.save(bench.folder / f"{name}.labels.npy", np.asarray(split.labels, dtype=np.int64))
        np.save(bench.folder / f"{name}.logits.npy", answers(bench.graph, pixels, optimise=True))


def _held_out(dataset: Dataset, count: int, seed: int) -> Split:
    """Training images that calibrate nothing, spread over the classes."""
    used = set(dataset.calibration.hashes)
    rest = dataset.train.take([i for i, content in enumerate(dataset.train.hashes) if content not in used], "held_out")
    return rest.take(round_robin(rest.labels, seed)[:count])


def _some(split: Split, count: int) -> Split:
    """The first images of every class, as many as asked for."""
    return split.take(sorted(round_robin(split.labels, 0)[:count]))


def main(given: Sequence[str] | None = None) -> int:
    """Makes the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench")
    parser.add_argument("folder", type=Path)
    for name in ("--images", "--validation", "--held-out"):
        parser.add_argument(name, type=positive, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args(given)
    make(Bench(options.folder), options.images, options.validation, options.held_out, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
