"""Closed forms for multiply-accumulates, parameters, activation sizes and peak activation memory.

One MAC is one multiply and one add of a convolution or of the classifier; norms, activations, pools and adds are not
counted, which is torchvision's and fvcore's convention. A convolution has ``k^2 * C_in / groups * C_out * H' * W'``
with ``H' = floor((H + 2 p - k) / s) + 1``.

``Layer`` rows come from a spec (``layers`` here) or from an ONNX graph (``onnx_graph.layers``), so that counting
conventions apply to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING, Literal

from edgeres.model.graph import IMAGE, Op, OpKind, graph

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from edgeres.model.spec import ResNetSpec

Shape = tuple[int, ...]

Kind = Literal["weighted", "norm", "relu", "maxpool", "avgpool", "globalpool", "elementwise", "view", "other"]

_KINDS: dict[OpKind, Kind] = {
    "conv": "weighted",
    "linear": "weighted",
    "norm": "norm",
    "relu": "relu",
    "maxpool": "maxpool",
    "gap": "globalpool",
    "add": "elementwise",
    "mul": "elementwise",
    "sigmoid": "elementwise",
    "flatten": "view",
    "subsample": "other",
    "zeropad": "other",
}

_IN_PLACE: frozenset[Kind] = frozenset(("norm", "relu", "elementwise"))


def shapes(spec: ResNetSpec, height: int, width: int) -> dict[str, Shape]:
    """Shape of every tensor for one image, without the batch: ``(C, H, W)``, or ``(C,)`` after the flatten."""
    size: dict[str, Shape] = {IMAGE: (spec.channels, height, width)}
    for op in graph(spec).ops:
        pixels = size[op.inputs[0]][1:]
        if op.kind in ("flatten", "linear"):
            pixels = ()
        elif op.kind == "gap":
            pixels = (1, 1)
        elif op.kind in ("conv", "maxpool", "subsample"):
            pixels = tuple((length + 2 * op.padding - op.kernel) // op.stride + 1 for length in pixels)
        size[op.name] = (op.c_out, *pixels)
    return size


def layer_macs(spec: ResNetSpec, height: int, width: int) -> dict[str, int]:
    """MACs of each convolution and of the classifier for one image of ``height x width`` pixels."""
    size = shapes(spec, height, width)
    return {op.name: prod(op.parameters[f"{op.name}.weight"]) * prod(size[op.name][1:]) for op in graph(spec).weighted}


def share_of_macs(spec: ResNetSpec, layers: Collection[str], side: int) -> float:
    """Share of the network's MACs in some layers, for one image of ``side x side`` pixels."""
    costs = layer_macs(spec, side, side)
    return sum(costs[layer] for layer in layers) / sum(costs.values())


def macs(spec: ResNetSpec, height: int, width: int) -> int:
    """MACs of the network for one image, exact."""
    return sum(layer_macs(spec, height, width).values())


def parameters(spec: ResNetSpec) -> int:
    """Exact number of learned parameters, without running statistics."""
    return sum(_learned(op) for op in graph(spec).ops)


def _learned(op: Op) -> int:
    return sum(prod(shape) for key, shape in op.parameters.items() if "running_" not in key)


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation on one image; shapes are without the batch.

    ``operator`` is that of its graph: ``conv`` in a spec, ``Conv`` in ONNX. Kind ``weighted`` is a convolution or a
    matrix product, ``view`` moves no data. ``input_shape`` is that of its first activation input.
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


def layers(spec: ResNetSpec, height: int, width: int) -> tuple[Layer, ...]:
    """Every operation of a network for one image of ``height x width`` pixels, in execution order."""
    size, macs = shapes(spec, height, width), layer_macs(spec, height, width)
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
        for op in graph(spec).ops
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
