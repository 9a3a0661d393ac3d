"""What the contenders quantize: a float network and the images it was trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import child
from benchmarks.command import IMAGES, WEIGHTS, require, said
from edgeres.data.dataset import open_dataset
from edgeres.data.partition import round_robin
from edgeres.data.preprocess import Preprocess
from edgeres.data.sources import DIGITS

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.data.dataset import Dataset
    from edgeres.data.split import Split


@dataclass(frozen=True, slots=True)
class Splits:
    """Images with a purpose; no two of the four share one.

    Attributes:
        calibration: They set scales; drawn by the seed.
        held_out: Other training images, on which settings are chosen; drawn by the seed.
        tuning: On which edgeres' ladder takes its decisions; the same for every seed.
        validation: On which nothing is chosen; the same for every seed.
    """

    calibration: Split
    held_out: Split
    tuning: Split
    validation: Split


@dataclass(frozen=True, slots=True)
class Task:
    """A network with its images.

    Attributes:
        name: As the command line calls it.
        title: For people.
        model: Name of the preset.
        preprocess: What the weights were trained for.
        shared: Whether weights and images lie in ``../shared``; otherwise the network is trained on the digits that
            scikit-learn ships.
    """

    name: str
    title: str
    model: str
    preprocess: Preprocess
    shared: bool

    def check(self) -> None:
        """Looks for the files it needs.

        Raises:
            UsageError: One is absent.
        """
        if self.shared:
            require(WEIGHTS), require(IMAGES)

    def checkpoint(self, folder: Path) -> Path:
        """The float network; trained below ``folder`` unless it is there or shared.

        Raises:
            EdgeresError: Training failed.
        """
        if self.shared:
            return require(WEIGHTS)
        made = folder / self.name
        if not (made / "weights.safetensors").is_file():
            said(f"training {self.title}")
            arguments = ["train", self.model, "--seed", "0", "--out", str(made), "--cache", str(folder / "cache")]
            child.python("edgeres", [*arguments, "--quiet"]).checked(f"training {self.title}")
        return made / "weights.safetensors"

    def splits(self, seed: int, images: int, held_out: int, validation: int) -> Splits:
        """Calibration and held-out images drawn by the seed; as many as there are, where more are asked for."""
        dataset = self._dataset()
        train = dataset.train
        order = round_robin(train.labels, seed)
        calibration = train.take(order[:images], "calibration")
        used = set(calibration.hashes)
        rest = [index for index in order[images:] if train.images[index].sha256 not in used]
        judged = sorted(round_robin(dataset.validation.labels, 0)[:validation])
        return Splits(
            calibration, train.take(rest[:held_out], "held_out"), dataset.tuning, dataset.validation.take(judged)
        )

    def _dataset(self) -> Dataset:
        return open_dataset(require(IMAGES) if self.shared else None, seed=0, calibration=32, allow=frozenset())


_IMAGENETTE = Preprocess(resize=192, crop=160)
"""See ``../shared/models/README.md``."""

_TASKS = (
    Task("resnet18-imagenette", "ResNet-18 on Imagenette, 160 px", "resnet18", _IMAGENETTE, shared=True),
    Task("resnet20-digits", "ResNet-20 (CIFAR stem) on scikit-learn's digits, 32 px", "resnet20", DIGITS, shared=False),
    Task("resnet32-digits", "ResNet-32 (CIFAR stem) on scikit-learn's digits, 32 px", "resnet32", DIGITS, shared=False),
)
TASKS = {task.name: task for task in _TASKS}
"""Every task by its name."""
