"""What the contenders quantize: a float network and the images it was trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.command import IMAGES, WEIGHTS, require
from edgeres.data.dataset import open_dataset
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.data.split import round_robin

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.data.split import Split


@dataclass(frozen=True, slots=True)
class Splits:
    """Images with a purpose; no two of the four share one.

    Attributes:
        calibration: They set scales; drawn by the seed.
        held_out: Other training images, on which settings are chosen; drawn by the seed.
        tuning: On which edgeres' search takes its decisions; the same for every seed.
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
        weights: The checkpoint below ``../shared``.
        images: The image folder below ``../shared``.
    """

    name: str
    title: str
    model: str
    preprocess: Preprocess
    weights: str
    images: str

    def check(self) -> None:
        """Looks for the files it needs.

        Raises:
            UsageError: One is absent.
        """
        require(self.weights), require(self.images)

    @property
    def checkpoint(self) -> Path:
        """The float network.

        Raises:
            UsageError: It is absent.
        """
        return require(self.weights)

    def splits(self, seed: int, images: int, held_out: int, validation: int | None) -> Splits:
        """Calibration and held-out images drawn by the seed.

        Args:
            seed: Of the draw.
            images: Calibration images; as many as there are, where more are asked for.
            held_out: Held-out training images, likewise.
            validation: Validation images, likewise; None takes all of them.
        """
        dataset = open_dataset(require(self.images), seed=0, calibration=32, allow=frozenset())
        train = dataset.train
        order = round_robin(train.labels, seed)
        calibration = train.take(order[:images], "calibration")
        used = set(calibration.hashes)
        rest = [index for index in order[images:] if train.images[index].sha256 not in used]
        judged = sorted(round_robin(dataset.validation.labels, 0)[:validation])
        return Splits(
            calibration, train.take(rest[:held_out], "held_out"), dataset.tuning, dataset.validation.take(judged)
        )


_IMAGENETTE = Preprocess(resize=Size.square(192), crop=Size.square(160))
_CIFAR = Preprocess(resize=Size.square(0), crop=Size.square(32))
"""Mean and deviation are ImageNet's for both; see ``../shared/models/README.md``."""


def _cifar(depth: int) -> Task:
    title, weights = f"ResNet-{depth} on CIFAR-10, 32 px", f"models/cifar-resnet{depth}.th"
    return Task(f"resnet{depth}-cifar10", title, f"resnet{depth}", _CIFAR, weights, "data/cifar10")


_TASKS = (
    Task("resnet18-imagenette", "ResNet-18 on Imagenette, 160 px", "resnet18", _IMAGENETTE, WEIGHTS, IMAGES),
    _cifar(20),
    _cifar(32),
)
TASKS = {task.name: task for task in _TASKS}
"""Every task by its name."""
