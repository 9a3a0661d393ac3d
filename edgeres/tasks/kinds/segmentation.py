"""Segmentation: every pixel has a class, and the largest logit at it is the answer.

mIoU is the mean over classes of ``TP / (TP + FP + FN)``, counted over the pixels of all images (Everingham et al. 2015,
IJCV 111:98, section 4.2.3; Long et al. 2015, arXiv 1411.4038, section 5); a class without a pixel in any mask is left
out. Masks are resized to the network's input by the nearest pixel, as torchvision's references do; outputs of another
size are resized to it, bilinear. Of each image its areas of every class are kept, and the classes on a grid of 8x8
pixels, by which predictions are compared with float's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.data.chance import PixelChance
from edgeres.data.masks import IGNORED
from edgeres.errors import DataError
from edgeres.gate.bootstrap import SAMPLES, Bootstrap
from edgeres.metrics import class_areas, divergences, mean_iou, pixel_accuracy
from edgeres.tasks.comparison import Comparison, Resampled, Scored
from edgeres.tasks.task import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.tasks.task import Array, Outputs

    Metric = Callable[[Array, Array, NDArray[np.float64] | None], NDArray[np.float64]]

_GRID = 8
"""Rows and columns of the pixels by which two predictions are compared."""
_MOST = 64
"""Most rows and columns of an image's outputs that are kept to compare them with float's."""
_LEAST = 1e-7  # lower bound of a probability: float32 does not hold one nearer to 1
_CLASS_SAMPLES = 500
"""Bootstrap samples of a single class, which is reported and not judged."""


class Segmentation(Task):
    """Mean IoU of logits ``[N,classes,H,W]``, or of one logit ``[N,1,H,W]`` of the second of two classes.

    The divergence is the mean over pixels of the KL of the softmax. Predictions are ``[N,2 classes + 64]``: right and
    predicted pixels of each class, and classes on the grid; labels ``[N,classes]`` are the pixels of the masks.
    """

    name = "segmentation"
    metric = "mIoU"
    divergence = "KL of the pixels"
    label_kind = "mask"
    maps = True

    def check_head(self, classes: Sequence[str], outputs: int) -> None:
        """One output for each class of the masks, or one for two classes."""
        if len(classes) == outputs or (outputs == 1 and len(classes) == 2):
            return
        what = f"classes.txt names {len(classes)} classes, and the network has {outputs} outputs at each pixel"
        raise DataError(what, "name one class for each output, in the order of the outputs; pixels of 255 are ignored")

    def labels(self, split: Split, preprocess: Preprocess) -> Array:
        """Pixels of each class in the masks, at the pixels of the network's input, int64 ``[N,classes]``."""
        if split.masks is None:
            what = f"the {split.name} images have no masks, which --task segmentation takes"
            raise DataError(what, "pass --data DIR with images/ and masks/, or a table of path,mask")
        classes = len(split.masks.outputs)
        rows = [np.bincount(mask.ravel(), minlength=IGNORED)[:classes] for mask in split.truths(preprocess)]
        return np.asarray(rows, dtype=np.int64).reshape(len(split), classes)

    def kept(self, outputs: Outputs, truths: Sequence[Array]) -> Array:
        """Areas and grid of each image of a batch ``[n,2 classes + 64]``."""
        classes = max(2, outputs.shape[1])
        return np.stack([self._row(one[None], truth, classes) for one, truth in zip(outputs, truths, strict=True)])

    def _row(self, outputs: Outputs, truth: Array, classes: int) -> Array:
        predicted = _resized(self.logits(outputs), truth.shape)[0].argmax(0)
        right, found = class_areas(predicted, truth, classes, IGNORED)
        rows, columns = ((2 * np.arange(_GRID) + 1) * size // (2 * _GRID) for size in truth.shape)
        return np.concatenate([right, found, predicted[rows][:, columns].ravel()])

    def sampled(self, outputs: Outputs) -> Outputs:
        """Outputs at every second, third, ... pixel, at most 64x64 of them."""
        down, across = (-(-size // _MOST) for size in outputs.shape[2:])
        return np.ascontiguousarray(outputs[:, :, down // 2 :: down, across // 2 :: across])

    def predictions(self, kept: Array, labels: Array) -> Array:
        """The areas and grids as they are."""
        return kept

    def score(self, predictions: Array, labels: Array) -> float:
        """Mean IoU in percent."""
        return float(mean_iou(_areas(predictions, labels), labels)[0])

    def logits(self, outputs: Outputs) -> Outputs:
        """Logits of the classes; of one logit or probability, those of the two classes are ``[0, logit]``."""
        shown = outputs
        if self.probabilities:
            p = np.clip(outputs.astype(np.float64), _LEAST, 1 - _LEAST)
            shown = (np.log(p / (1 - p)) if outputs.shape[1] == 1 else np.log(p)).astype(np.float32)
        return np.concatenate([np.zeros_like(shown), shown], axis=1) if outputs.shape[1] == 1 else shown

    def divergences(self, reference: Outputs, outputs: Outputs) -> NDArray[np.float64]:
        """Mean over pixels of ``KL(softmax(reference) || softmax(outputs))`` in nats ``[N]``."""
        each = [
            divergences(self.logits(r[None]), self.logits(o[None])).mean()
            for r, o in zip(reference, outputs, strict=True)
        ]
        return np.asarray(each, dtype=np.float64)

    def direction(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """That of the softmax of each pixel, divided by the root of their number."""
        from edgeres.quant.algorithms.fisher_information import softmax_direction

        pixels = outputs.shape[2] * outputs.shape[3]
        if outputs.shape[1] == 1:
            p = outputs.sigmoid()
            curved: Tensor = (p * (1 - p)).sqrt() * signs
        else:
            curved = softmax_direction(outputs, signs)
        return curved.div(pixels**0.5)

    def compare(self, before: Array, after: Array, labels: Array) -> Comparison:
        """The drop of mIoU, by the bootstrap over images."""
        first, second = (_areas(one, labels) for one in (before, after))
        truth = labels.astype(np.float64)
        drop = Bootstrap.of(lambda counts: mean_iou(first, truth, counts) - mean_iou(second, truth, counts), len(truth))
        return Resampled(drop)

    def agreement(self, before: Array, after: Array) -> float:
        """Share of the pixels on the grids with the same class, in percent."""
        first, second = (one[:, -(_GRID**2) :] for one in (before, after))
        return float(100 * np.mean(first == second))

    def chance(self, predictions: Array, labels: Array, classes: int) -> PixelChance:
        """Pixel accuracy compared with that of the same areas at places that ignore the image."""
        right, found = np.split(_areas(predictions, labels), 2, axis=1)
        return PixelChance.of(right, found, labels)

    def further(
        self, before: Array, after: Array, labels: Array, threshold: float | None, classes: Sequence[str]
    ) -> tuple[Scored, ...]:
        """Pixel accuracy, and the IoU of each class that the masks have."""
        first, second = (_areas(one, labels) for one in (before, after))
        found = [_compared("pixel accuracy", pixel_accuracy, first, second, labels)]
        count = labels.shape[1]
        for index in np.flatnonzero(labels.sum(0)).tolist():
            first_areas, second_areas = (one[:, [index, count + index]] for one in (first, second))
            name, truth = f"IoU of {classes[index]}", labels[:, [index]]
            found.append(_compared(name, mean_iou, first_areas, second_areas, truth, samples=_CLASS_SAMPLES))
        return tuple(found)


def _areas(predictions: Array, labels: Array) -> NDArray[np.float64]:
    """Right and predicted pixels ``[N,2 classes]`` of predictions."""
    return np.asarray(predictions[:, : 2 * labels.shape[1]], dtype=np.float64)


def _compared(
    name: str, metric: Metric, before: Array, after: Array, labels: Array, *, samples: int = SAMPLES
) -> Scored:
    """A metric of both networks' areas, with the bootstrap interval of its drop."""
    truth = labels.astype(np.float64)
    drop = Bootstrap.of(
        lambda counts: metric(before, truth, counts) - metric(after, truth, counts), len(labels), samples=samples
    )
    first, second = (float(metric(one, truth, None)[0]) for one in (before, after))
    return Scored(name, first, second, drop.interval())


def _resized(logits: Outputs, size: Sequence[int]) -> Outputs:
    """Logits ``[N,classes,h,w]`` at the pixels of a mask, bilinear between the centres of pixels."""
    if logits.shape[2:] == tuple(size):
        return logits
    import torch

    maps = torch.nn.functional.interpolate(torch.from_numpy(logits), tuple(size), mode="bilinear", align_corners=False)
    return np.asarray(maps.numpy(), dtype=np.float32)


TASK = Segmentation
