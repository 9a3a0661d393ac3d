"""What a network costs at one image size: its layers, MACs, parameters and peak activation memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.errors import UsageError
from edgeres.model.graph import IMAGE
from edgeres.model.layers import layers, peak
from edgeres.model.spec import preset

if TYPE_CHECKING:
    from edgeres.model.layers import Layer, Peak


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """A network with an image size.

    Attributes:
        name: Of the preset or the file.
        image: Shape of one image: channels, height, width.
        rows: Its layers in order of execution.
        tensor: Name of the input tensor.
        notes: What other counters do differently with this network.
    """

    name: str
    image: tuple[int, ...]
    rows: tuple[Layer, ...]
    tensor: str
    notes: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-adds of all layers."""
        return sum(row.macs for row in self.rows)

    @property
    def parameters(self) -> int:
        """Parameters of all layers."""
        return sum(row.parameters for row in self.rows)

    @property
    def peak(self) -> Peak:
        """The layer during which most activations are in memory."""
        return peak(self.rows, self.image, self.tensor)


def preset_cost(name: str, size: int | None, classes: int | None) -> NetworkCost:
    """The costs of a preset.

    Args:
        name: Of the preset.
        size: Side of the image; None takes 224 for an ImageNet stem and 32 for a CIFAR stem.
        classes: Width of the classifier; None takes the preset's own.
    """
    spec = preset(name)
    if classes is not None:
        spec = replace(spec, classes=classes)
    side = size or (224 if spec.stem.pool else 32)
    return NetworkCost(name, (spec.channels, side, side), layers(spec, side, side), IMAGE)


def onnx_cost(name: str, size: int | None, classes: int | None) -> NetworkCost:
    """The costs of an ONNX file.

    Args:
        name: Path of the file.
        size: Side of the image; None takes the graph's own.
        classes: None; a file's classifier cannot be changed.

    Raises:
        UsageError: ``classes`` is a number.
    """
    from edgeres.onnx_graph.operator_counts import UNCOVERED, image_of, qdq, sized
    from edgeres.onnx_graph.operator_counts import layers as graph_layers
    from edgeres.onnx_graph.read import read_model

    if classes is not None:
        raise UsageError(f"--classes {classes} beside {name}", "an ONNX file has its classes; export it with others")
    model = sized(read_model(Path(name)), size)
    rows = graph_layers(model)
    tensor, image = image_of(model)
    notes = []
    if qdq(model).activations:
        notes.append("Q/DQ pairs count nothing here; the counters never see them, because they read the float module.")
    if not any(row.kind == "norm" for row in rows):
        notes.append("no batch norm is left in this graph; of a torch module that has them, the counters count them.")
    if uncovered := sorted({row.operator for row in rows} & UNCOVERED):
        notes.append(f"some counters weigh {', '.join(uncovered)}, which no closed form here covers.")
    return NetworkCost(Path(name).stem, image, rows, tensor, tuple(notes))
