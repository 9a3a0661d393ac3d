"""Closed forms for multiply-accumulates, parameters, activation sizes and peak activation memory.

One MAC is one multiply and one add of a convolution or of the classifier; norms, activations, pools and adds are not
counted, which is torchvision's and fvcore's convention. A convolution has ``k^2 * C_in / groups * C_out * H' * W'``
with ``H' = floor((H + 2 p - k) / s) + 1``.

``Layer`` rows come from a ``Graph`` (``layers`` here) or from an ONNX graph (``onnx_graph.operator_counts``), so that
counting conventions apply to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING, Literal

from edgeres.errors import ModelError
from edgeres.model.operation import IMAGE, Op, OpKind

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from edgeres.data.size import Size
    from edgeres.model.graph import Graph

Shape = tuple[int, ...]

Kind = Literal["weighted", "norm", "relu", "maxpool", "avgpool", "globalpool", "elementwise", "view", "other"]

_KINDS: dict[OpKind, Kind] = {
    "conv": "weighted",
    "linear": "weighted",
    "norm": "norm",
    "groupnorm": "norm",
    "relu": "relu",
    "silu": "elementwise",
    "prelu": "elementwise",
    "maxpool": "maxpool",
    "avgpool": "avgpool",
    "blur": "weighted",
    "pad": "other",
    "channelconv": "weighted",
    "tokens": "other",
    "attention": "weighted",
    "gap": "globalpool",
    "add": "elementwise",
    "mul": "elementwise",
    "sigmoid": "elementwise",
    "flatten": "view",
    "subsample": "other",
    "zeropad": "other",
    "operator": "other",
}

_IN_PLACE: frozenset[Kind] = frozenset(("norm", "relu", "elementwise"))


def shapes(graph: Graph, height: int, width: int) -> dict[str, Shape]:
    """Shape of every tensor for one image, without the batch: ``(C, H, W)``, or ``(C,)`` after the flatten.

    Raises:
        ModelError: The network does not take images of this size: a window is larger than what it reads, or both
            inputs of an add differ.
    """
    size: dict[str, Shape] = {IMAGE: (graph.channels, height, width)}
    for op in graph.ops:
        if op.shape:
            size[op.name] = op.shape
            continue
        flat = op.kind in ("flatten", "linear") or len(size[op.inputs[0]]) == 1
        pixels = () if flat else tuple(op.side(length) for length in size[op.inputs[0]][1:])
        pixels = (op.kernel, 1) if op.kind == "tokens" else pixels
        size[op.name] = (op.c_out, *pixels)
        if min(pixels, default=1) < 1 or (op.reflected and min(size[op.inputs[0]][1:]) <= op.padding):
            where = "x".join(map(str, size[op.inputs[0]][1:]))
            what = f"images of {height}x{width} pixels are too small: {op.name} reads {where} of them"
            raise ModelError(what, "choose a larger crop")
        if (wanted := _features(op)) and wanted != prod(size[op.inputs[0]][1:]):
            found = "x".join(map(str, size[op.inputs[0]][1:]))
            what = f"the head reads {wanted} pixels of features, and images of {height}x{width} give {found} of them"
            raise ModelError(
                what, "choose the crop that the network was trained with: 112 for ArcFace's, 224 for CLIP's ResNet-50"
            )
        if op.kind == "add" and pixels != size[op.inputs[1]][1:]:
            other = size[op.inputs[1]][1:]
            what = f"for images of {height}x{width}, {op.name} adds {pixels[0]}x{pixels[1]} to {other[0]}x{other[1]}"
            raise ModelError(what, "its averages over 2x2 need even sizes: choose a multiple of 32")
    return size


def _features(op: Op) -> int:
    """Pixels that a head reads each by itself; 0 for operations that take any number."""
    return {"flatten": op.c_out // op.c_in, "tokens": op.kernel - 1}.get(op.kind, 0)


def layer_macs(graph: Graph, height: int, width: int) -> dict[str, int]:
    """MACs of each operation that multiplies by weights, for one image of ``height x width`` pixels.

    Those are convolutions, the classifier, blurs, whose weights are constants, convolutions along channels, and the
    products of an attention.
    """
    size = shapes(graph, height, width)
    weighted = (op for op in graph.ops if _KINDS[op.kind] == "weighted")
    return {op.name: op.macs_per_pixel * prod(size[op.name]) // op.c_out for op in weighted}


def share_of_macs(graph: Graph, layers: Collection[str], size: Size) -> float:
    """Share of the network's MACs in some layers, for one image of a size."""
    costs = layer_macs(graph, *size)
    return sum(costs[layer] for layer in layers) / sum(costs.values())


def macs(graph: Graph, height: int, width: int) -> int:
    """MACs of the network for one image, exact."""
    return sum(layer_macs(graph, height, width).values())


def parameters(graph: Graph) -> int:
    """Exact number of learned parameters, without running statistics."""
    return sum(_learned(op) for op in graph.ops)


def _learned(op: Op) -> int:
    return sum(prod(shape) for key, shape in op.parameters.items() if "running_" not in key)


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation on one image; shapes are without the batch.

    ``operator`` is that of its graph: ``conv`` in a ``Graph``, ``Conv`` in ONNX. Kind ``weighted`` is a convolution or
    a matrix product, ``view`` moves no data. ``input_shape`` is that of its first activation input.
    """

    name: str
    operator: str
    kind: Kind
    inputs: tuple[str, ...]
    output: str
    input_shape: Shape
    output_shape: Shape
    macs: int = 0
    parameters: int = 0
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Peak:
    """Peak activation memory: the operation at the peak, and the tensors alive there.

    Counts are elements, or bytes where widths were passed.
    """

    elements: int
    layer: str
    tensors: tuple[tuple[str, int], ...]


def layers(graph: Graph, height: int, width: int) -> tuple[Layer, ...]:
    """Every operation of a network for one image of ``height x width`` pixels, in execution order."""
    size, macs = shapes(graph, height, width), layer_macs(graph, height, width)
    return tuple(
        Layer(
            name=op.name,
            operator=op.kind,
            kind=_KINDS[op.kind],
            inputs=op.inputs,
            output=op.name,
            input_shape=size[op.inputs[0]],
            output_shape=size[op.name],
            macs=macs.get(op.name, 0),
            parameters=_learned(op),
            bias=op.bias,
        )
        for op in graph.ops
    )


def activations(rows: Sequence[Layer]) -> int:
    """Output elements of convolutions and matrix products, the "acts" of Radosavovic et al. (arXiv 2003.13678)."""
    return sum(prod(row.output_shape) for row in rows if row.kind == "weighted")


def stored_bytes(rows: Sequence[Layer], image: str = IMAGE) -> dict[str, int]:
    """Bytes per element of each tensor that a fusing runtime stores between kernels of a graph with Q/DQ pairs.

    Tensors that only quantizers read are stored as integers of one byte, as are inputs of one element-wise operation
    before such a tensor: convolution, bias, add, activation and quantizer are one kernel. Everything else is float32,
    the ``image`` too.
    """
    readers: dict[str, list[Layer]] = {}
    for row in rows:
        for tensor in row.inputs:
            readers.setdefault(tensor, []).append(row)
    stored: dict[str, int] = {}
    for row in reversed(rows):
        after = readers.get(row.output, [])
        if after and all(reader.operator == "QuantizeLinear" for reader in after):
            stored[row.output] = 1
        elif len(after) == 1 and after[0].kind in _IN_PLACE and after[0].output_shape == row.output_shape:
            stored[row.output] = stored[after[0].output]
        else:
            stored[row.output] = 4
    return {**stored, image: 4}


def peak(rows: Sequence[Layer], image: Shape, name: str = IMAGE, widths: Mapping[str, int] | None = None) -> Peak:
    """The largest sum of live tensors in execution order, for an input ``name`` of shape ``image``.

    A tensor lives from the operation that computes it to the last one that reads it; both include inputs and output.
    Views share their input's memory; norms, activations and element-wise operations overwrite an input of their
    output's size that has no further reader, as the memory planners of runtimes do. The image is not overwritten.
    Kernel workspaces and layout padding are not included. ``widths`` has the bytes of one element of each tensor; None
    counts elements.
    """
    width = widths or {}
    last = {tensor: float(index) for index, row in enumerate(rows) for tensor in row.inputs}
    last[rows[-1].output] = inf
    # Each buffer is named by its first tensor: its elements or bytes, the position of its last reader, and its tensors.
    live, end, owner = {name: prod(image) * width.get(name, 1)}, {name: last[name]}, {name: name}
    most = Peak(0, "", ())
    for index, row in enumerate(rows):
        size = prod(row.output_shape) * width.get(row.output, 1)
        buffers = [owner[tensor] for tensor in row.inputs if tensor in owner]
        if row.kind != "view":
            in_place = row.kind in _IN_PLACE
            buffers = [b for b in buffers if in_place and b != name and end[b] <= index and live[b] == size]
        buffer = owner[row.output] = buffers[0] if buffers else row.output
        live.setdefault(buffer, size)
        end[buffer] = max(end.get(buffer, index), last.get(row.output, index))
        if (total := sum(live.values())) > most.elements:
            most = Peak(total, row.name, tuple(live.items()))
        live = {key: count for key, count in live.items() if end[key] > index}
    return most
