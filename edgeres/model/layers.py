"""``Layer``: costs of one operation for one image, and the peak activation memory of a sequence of them.

The rows come from a spec (``layers`` here) or from an ONNX graph (``onnx_graph.operator_counts``), so that counting
conventions apply to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING, Literal

from edgeres.model.cost import Shape, layer_macs, shapes
from edgeres.model.graph import IMAGE, OpKind, graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeres.model.spec import ResNetSpec

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


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation on one image; shapes are without the batch.

    Attributes:
        name: Name of the operation.
        operator: Operator in its graph: ``conv`` in a spec, ``Conv`` in ONNX.
        kind: Category in counting. ``weighted`` is a convolution or a matrix product, ``view`` moves no data.
        inputs: Names of its activation inputs.
        output: Name of its output tensor.
        input_shape: Shape of its first input.
        output_shape: Shape of its output.
        macs: Multiply-accumulates.
        parameters: Number of learned parameters.
        bias: Whether a weighted layer adds a bias.
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
    """Peak activation memory.

    Attributes:
        elements: Elements alive at the peak, or bytes where widths were given.
        layer: The operation at the peak.
        tensors: The tensors alive there with their elements or bytes.
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
            parameters=sum(prod(shape) for key, shape in op.parameters.items() if "running_" not in key),
            bias=op.bias,
        )
        for op in graph(spec).ops
    )


def activations(rows: Sequence[Layer]) -> int:
    """Output elements of convolutions and matrix products, the "acts" of Radosavovic et al. (arXiv 2003.13678)."""
    return sum(prod(row.output_shape) for row in rows if row.kind == "weighted")


def stored_bytes(rows: Sequence[Layer], image: str = IMAGE) -> dict[str, int]:
    """Bytes per element of each tensor that a fusing runtime stores between kernels.

    Tensors that only quantizers read are stored as integers of one byte, as are inputs of one element-wise operation
    before such a tensor: convolution, bias, add, activation and quantizer are one kernel. Everything else is float32.

    Args:
        rows: Operations of a graph with Q/DQ pairs, in execution order.
        image: Name of the input tensor, which is float32.
    """
    readers: dict[str, list[Layer]] = {}
    for row in rows:
        for tensor in row.inputs:
            readers.setdefault(tensor, []).append(row)
    found: dict[str, int] = {}
    for row in reversed(rows):
        after = readers.get(row.output, [])
        if after and all(reader.operator == "QuantizeLinear" for reader in after):
            found[row.output] = 1
        elif len(after) == 1 and after[0].kind in _IN_PLACE and after[0].output_shape == row.output_shape:
            found[row.output] = found[after[0].output]
        else:
            found[row.output] = 4
    return {**found, image: 4}


def peak(rows: Sequence[Layer], image: Shape, name: str = IMAGE, widths: Mapping[str, int] | None = None) -> Peak:
    """The largest sum of live tensors in execution order.

    A tensor lives from the operation that computes it to the last one that reads it; both include inputs and output.
    Views share their input's memory; norms, activations and element-wise operations overwrite an input of their
    output's size that has no further reader, as the memory planners of runtimes do. The image is not overwritten.
    Kernel workspaces and layout padding are not included.

    Args:
        rows: Operations in execution order.
        image: Shape of the input for one image.
        name: Name of the input tensor.
        widths: Bytes of one element of each tensor; None counts elements.
    """
    width = widths or {}
    last = {tensor: float(index) for index, row in enumerate(rows) for tensor in row.inputs}
    last[rows[-1].output] = inf
    memory = _Memory({name: prod(image) * width.get(name, 1)}, {name: last[name]}, {name: name}, image=name)
    most = Peak(0, "", ())
    for index, row in enumerate(rows):
        size = prod(row.output_shape) * width.get(row.output, 1)
        buffer = memory.place(row, index, size)
        memory.owner[row.output] = buffer
        memory.live.setdefault(buffer, size)
        memory.end[buffer] = max(memory.end.get(buffer, index), last.get(row.output, index))
        if (total := sum(memory.live.values())) > most.elements:
            most = Peak(total, row.name, tuple(memory.live.items()))
        memory.live = {key: count for key, count in memory.live.items() if memory.end[key] > index}
    return most


@dataclass
class _Memory:
    """Buffers in execution order, each named by its first tensor.

    Attributes:
        live: Elements or bytes of each buffer with further readers.
        end: Position of its last reader.
        owner: Buffer of each tensor.
        image: The buffer that is never overwritten.
    """

    live: dict[str, int]
    end: dict[str, float]
    owner: dict[str, str]
    image: str

    def place(self, row: Layer, index: int, size: int) -> str:
        """The buffer of an operation's output: a new one, or that of an input."""
        input_shape = [self.owner[tensor] for tensor in row.inputs if tensor in self.owner]
        if row.kind == "view" and input_shape:
            return input_shape[0]
        if row.kind in _IN_PLACE:
            for buffer in input_shape:
                if buffer != self.image and self.end[buffer] <= index and self.live[buffer] == size:
                    return buffer
        return row.output
