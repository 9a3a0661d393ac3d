"""Results for the deployed network: accuracy, confusions, flips, kernels and scales."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from edgeres.artifacts.results import OutputError
from edgeres.settings import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Thumbnail = Annotated[str, Field(pattern=r"^(data:image/png;base64,[A-Za-z0-9+/]+={0,2})?$", max_length=65_536)]


@settings
class FurtherScore:
    """A metric in percent that is reported and not judged, with the 95 % interval of its drop in pp."""

    name: str
    float_score: Percent
    deployed_score: Percent
    low_pp: float
    high_pp: float


@settings
class Accuracy:
    """The deployed network against its float baseline, on the same images, with the interval of the drop in pp.

    ``metric`` is what both scores are, such as top-1. ``b`` images are right by float alone, ``c`` by the deployed
    network alone, None where an image is not right or wrong; ``agreement`` is in percent. ``further`` are metrics that
    are not judged, ``outputs`` the errors of the outputs themselves.
    """

    metric: str = "top-1"
    n: Annotated[int, Field(gt=0)]
    float_score: Percent
    deployed_score: Percent
    drop_pp: float
    low_pp: float
    high_pp: float
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    b: Count | None = None
    c: Count | None = None
    agreement: Percent
    method: str
    further: tuple[FurtherScore, ...] = ()
    outputs: tuple[OutputError, ...] = ()

    def __post_init__(self) -> None:
        if abs(self.float_score - self.deployed_score - self.drop_pp) > 0.02:  # each may be rounded
            raise ValueError("drop_pp is not float_score - deployed_score")
        if self.low_pp > self.high_pp:
            raise ValueError("low_pp is above high_pp")


@settings
class Confusion:
    """Confusion matrix of the deployed network without its zeros: sorted ``(true class, predicted class, images)``."""

    classes: tuple[str, ...]
    cells: tuple[tuple[Count, Count, Annotated[int, Field(gt=0)]], ...]

    def __post_init__(self) -> None:
        if any(max(true, predicted) >= len(self.classes) for true, predicted, _ in self.cells):
            raise ValueError("a cell names a class index that is not there")

    @classmethod
    def of(cls, classes: Sequence[str], labels: Sequence[int], predictions: Sequence[int]) -> Confusion:
        """Counts pairs of true and predicted class indices."""
        counts = Counter(zip(labels, predictions, strict=True))
        cells = tuple((int(true), int(predicted), count) for (true, predicted), count in sorted(counts.items()))
        return cls(classes=tuple(classes), cells=cells)

    def matrix(self) -> list[list[int]]:
        """Dense counts, rows true and columns predicted."""
        dense = [[0] * len(self.classes) for _ in self.classes]
        for true, predicted, count in self.cells:
            dense[true][predicted] = count
        return dense


@settings
class Flip:
    """An image, by its index in the validation split, with different predictions of float and the deployed network.

    A confidence is the softmax of that prediction. The float one is None where the float graph of the last stage
    predicts another class, as a pruned network's may; the other one where it was not recorded.
    """

    index: Count
    sha256: Sha256
    label: Count
    float_prediction: Count
    deployed_prediction: Count
    float_confidence: Share | None = None
    deployed_confidence: Share | None = None
    thumbnail: Thumbnail = ""


@settings
class TensorScale:
    """Quantization parameters and calibration statistics of one activation tensor.

    ``clipped`` and ``zeros`` are shares of the calibration values, ``columns`` counts of those other than zero in
    columns of equal width from ``low`` to ``high``. All are absent where the tensor was not observed, as where it
    shares the scale of an earlier one.
    """

    tensor: str
    scale: Annotated[float, Field(gt=0)]
    zero_point: int = 0
    bits: int = 8
    signed: bool = True
    clipped: Share | None = None
    sqnr_db: float | None = None
    low: float | None = None
    high: float | None = None
    zeros: Share | None = None
    columns: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        if self.columns and (self.low is None or self.high is None or self.low > self.high):
            raise ValueError("columns lie between low and high")

    @property
    def covered(self) -> tuple[float, float]:
        """Smallest and largest representable value."""
        low = -(1 << (self.bits - 1)) if self.signed else 0
        high = low + (1 << self.bits) - 1
        return (low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale


@settings
class Calibration:
    """Calibration of the deployed scales: activation tensors in order of execution.

    ``data`` is the digest of the calibration images with their preprocessing.
    """

    calibrator: str
    images: Count
    data: str
    tensors: tuple[TensorScale, ...]
