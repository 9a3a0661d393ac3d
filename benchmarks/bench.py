"""The folder in which contenders meet: one float graph, the same pixels for all, float logits to hold them against.

``python -m benchmarks.bench FOLDER --task T --checkpoint F --images N --validation N --held-out N --seed S`` makes it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.command import positive
from benchmarks.pixels import Pixels, decode
from benchmarks.tasks import TASKS
from edgeres.model.presets import preset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from benchmarks.tasks import Splits, Task
    from edgeres.data.split import Split
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights

OPSET, IR_VERSION = 17, 8
CLASSES = 10
"""Of every task."""
JUDGED = ("held_out", "validation")
"""Held-out training images, on which settings are chosen, and validation images, on which nothing is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a folder was made for.

    Attributes:
        task: Name of the task.
        images: Calibration images.
        validation: Validation images; None is all of them.
        held_out: Held-out training images.
        seed: Which calibration and held-out images.
    """

    task: str
    images: int
    validation: int | None
    held_out: int
    seed: int


@dataclass(frozen=True, slots=True)
class Bench:
    """The folder of one seed; validation images, the same for every seed, lie beside it."""

    folder: Path

    @property
    def settings(self) -> Settings:
        """What it is made for."""
        return Settings(**json.loads((self.folder / "settings.json").read_text(encoding="utf-8")))

    @property
    def complete(self) -> bool:
        """Whether it was made to the end: held-out answers are written last."""
        return (self.folder / "held_out.logits.npy").is_file()

    @property
    def task(self) -> Task:
        """What is quantized in it."""
        return TASKS[self.settings.task]

    @property
    def checkpoint(self) -> Path:
        """The float network, norms and all."""
        return self.folder / "network.safetensors"

    @property
    def graph(self) -> Path:
        """The folded float network as ONNX."""
        return self.folder / "float.onnx"

    def pixels(self, name: str) -> Pixels:
        """``calibration`` or one of ``JUDGED``."""
        return Pixels(self._place(f"{name}.pixels"), self.task.preprocess.crop)

    def labels(self, name: str) -> NDArray[np.int64]:
        """True classes ``[N]``."""
        labels: NDArray[np.int64] = np.load(self._place(f"{name}.labels.npy"))
        return labels

    def float_logits(self, name: str) -> NDArray[np.float32]:
        """The float network's answers ``[N,classes]``."""
        logits: NDArray[np.float32] = np.load(self._place(f"{name}.logits.npy"))
        return logits

    def splits(self) -> Splits:
        """The encoded images behind the pixels."""
        wanted = self.settings
        return self.task.splits(wanted.seed, wanted.images, wanted.held_out, wanted.validation)

    def network(self) -> tuple[ResNetSpec, Weights]:
        """The float network, its batch norms folded."""
        from edgeres.model.zoo import read_checkpoint
        from edgeres.pipeline.stages.fold_batchnorm import folded

        loaded = read_checkpoint(self.checkpoint)
        return folded(loaded.spec, loaded.weights)

    def model(self, contender: str, suffix: str = ".onnx") -> Path:
        """Where a contender leaves its graph."""
        return self.folder / f"{contender}{suffix}"

    def write_split(self, name: str, split: Split) -> None:
        """Decodes images and asks the float graph for its answers; what is there already stays."""
        logits = self._place(f"{name}.logits.npy")
        if logits.is_file():
            return
        pixels = decode(split, self.task.preprocess, self._place(f"{name}.pixels"))
        np.save(self._place(f"{name}.labels.npy"), np.asarray(split.labels, dtype=np.int64))
        partial = logits.with_suffix(".partial.npy")
        np.save(partial, answers(self.graph, pixels, optimise=True))
        partial.replace(logits)

    def _place(self, name: str) -> Path:
        return (self.folder.parent if name.startswith("validation") else self.folder) / name


def answers(model: Path, pixels: Pixels, *, optimise: bool) -> NDArray[np.float32]:
    """Logits ``[N,classes]`` by ONNX Runtime.

    Its kernels for x86 processors without VNNI add pairs of products in 16 bits, which saturate; told to be precise,
    they answer as those with VNNI do, so figures do not depend on the processor.
    """
    from edgeres.backends.session import onnx_session

    threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or None
    with onnx_session(model, optimise=optimise, threads=threads) as session:
        return np.concatenate([session.run(batch) for batch in pixels.batches(32)])


def make(folder: Path, settings: Settings, checkpoint: Path) -> None:
    """Decodes the images, writes the float graph and asks it for its answers; the folder needs nothing outside it.

    Raises:
        UsageError: Files of the task are absent.
    """
    from edgeres.model.graph import graph
    from edgeres.model.weights import save_checkpoint
    from edgeres.model.zoo import read_checkpoint
    from edgeres.onnx_graph.write import write_model

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(asdict(settings)), encoding="utf-8")
    bench = Bench(folder)
    loaded = read_checkpoint(checkpoint, replace(preset(bench.task.model), classes=CLASSES))
    save_checkpoint(bench.checkpoint, loaded.spec, loaded.weights)
    spec, weights = bench.network()
    model = write_model(graph(spec), weights, bench.task.preprocess.crop, opset=OPSET, ir_version=IR_VERSION)
    bench.graph.write_bytes(model.SerializeToString(deterministic=True))
    splits = bench.splits()
    decode(splits.calibration, bench.task.preprocess, bench.pixels("calibration").path)
    for name in reversed(JUDGED):
        bench.write_split(name, getattr(splits, name))


def main(given: Sequence[str] | None = None) -> int:
    """Makes the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    for name in ("--images", "--held-out"):
        parser.add_argument(name, type=positive, required=True)
    parser.add_argument("--validation", type=positive)
    parser.add_argument("--seed", type=int, required=True)
    options = vars(parser.parse_args(given))
    folder, checkpoint = options.pop("folder"), options.pop("checkpoint")
    make(folder, Settings(**options), checkpoint)
    return 0


if __name__ == "__main__":
    sys.exit(main())
