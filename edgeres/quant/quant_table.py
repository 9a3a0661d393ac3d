"""``QuantTable``: every scale of a network."""

from __future__ import annotations

from pydantic import Field

from edgeres.quant.qparams import QParams
from edgeres.quant.sketch import Sketch
from edgeres.settings import settings


@settings
class QuantTable:
    """Every scale of a network.

    Attributes:
        activations: Per-tensor parameters by tensor name.
        weights: Per-channel parameters (axis 0) of the weights by name of the convolution or linear operation.
        calibrator: Calibrator of the activation scales.
        data: Digest of the calibration images with their preprocessing.
        images: Number of calibration images.
        float_layers: Operations left in float for accuracy, beyond those of the target's scheme.
        network: Digest of the weights that the scales are for: equalization changes scales and weights together.
        sketches: Distribution of each observed tensor under its scale. A sketch of another scale than
            the table's is dropped, so that a changed scale leaves no stale sketch.
    """

    activations: dict[str, QParams]
    weights: dict[str, QParams]
    calibrator: str
    data: str
    images: int
    float_layers: tuple[str, ...] = ()
    network: str = ""
    sketches: dict[str, Sketch] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        """Drops sketches that are not of this table's scales."""
        scales = self.activations
        kept = {name: one for name, one in self.sketches.items() if name in scales and one.is_of(scales[name])}
        object.__setattr__(self, "sketches", kept)
