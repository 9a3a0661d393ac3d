"""``QuantTable``: every scale of a network, from which all runtimes are served."""

from __future__ import annotations

from pydantic import Field

from edgeres.quant.qparams import QParams
from edgeres.quant.sketch import Sketch
from edgeres.settings import settings


@settings
class QuantTable:
    """Every scale of a network.

    Attributes:
        activations: Tensor name to per-tensor parameters.
        weights: Name of a convolution or linear operation to per-channel parameters of its weight (axis 0).
        calibrator: The calibrator the activation scales come from.
        data: Digest of the calibration images with their preprocessing.
        images: Number of calibration images.
        float_layers: Operations left in float for accuracy's sake, beyond those the target's scheme leaves.
        network: Digest of the weights that the scales are for: equalization moves scales and weights together.
        sketches: What calibration saw of a tensor under its scale, where it was watched. A sketch of another scale than
            the table's is left out, so that whoever changes a scale cannot leave a stale one behind.
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
        """Leaves out sketches that are not of this table's scales."""
        scales = self.activations
        kept = {name: one for name, one in self.sketches.items() if name in scales and one.is_of(scales[name])}
        object.__setattr__(self, "sketches", kept)
