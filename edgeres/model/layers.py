"""``Layer``: what one operation of a network costs for one image, and how much memory a walk over them needs.

The same rows come from a spec (``layers`` here) and from an ONNX graph (``onnxfile.layers``), so everything that counts
on them, such as the conventions of other counters, holds for both.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING, Literal

from edgeres.model.cost import Shape, layer_macs, shapes
from edgeres.model.graph import IMAGE, OpKind, graph

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        name: Its own name.
        operator: What its graph calls it: ``conv`` in a spec, ``Conv`` in ONNX.
        kind: What counters tell apart. ``weighted`` is a convolution or a matrix product, ``view`` moves no data.
        inputs: Activation tensors it reads.
        output: Tensor it makes.
        given: Shape of its first input.
        made: Shape of its output.
        macs: Multiply-accumulates.
        parameters: Learned parameters.
        bias: Whether a weighted layer adds a bias.
    """

    name: str
    operator: str
    kind: Kind
    inputs: tuple[str, ...]
    output: str
    given: Shape
    made: Shape
    macs: int = 0
    parameters: int = 0
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Peak:
    """Where most activations are alive at once.

    Attributes:
        elements: Their number; times four bytes in float32, times one in int8.
        layer: The operation at which that is.
        tensors: The tensors alive there with their elements.
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
            given=size[op.inputs[0]],
            made=size[op.name],
            macs=macs.get(op.name, 0),
            parameters=sum(prod(shape) for key, shape in op.parameters.items() if "running_" not in key),
            bias=op.bias,
        )
        for op in graph(spec).ops
    )


def activations(rows: Sequence[Layer]) -> int:
    """Elements that convolutions and matrix products make, the "acts" of Radosavovic et al. (arXiv 2003.13678)."""
    return sum(prod(row.made) for row in rows if row.kind == "weighted")


def peak(rows: Sequence[Layer], image: Shape, name: str = IMAGE) -> Peak:
    """The largest sum of live tensors over a walk in execution order.

    A tensor lives from the operation that makes it to the last one that reads it; both ends hold inputs and output at
    once. Views share their input's memory; norms, activations and element-wise operations write over an input of their
    output's size that nobody reads any more, as the memory planners of runtimes do. The image itself is not written
    over. Workspaces of kernels and padding of layouts come on top.

    Args:
        rows: Operations in execution order.
        image: Shape of the input for one image.
        name: Name of the input tensor.
    """
    last = {tensor: float(index) for index, row in enumerate(rows) for tensor in row.inputs}
    last[rows[-1].output] = inf
    memory = _Memory({name: prod(image)}, {name: last[name]}, {name: name}, image=name)
    most = Peak(0, "", ())
    for index, row in enumerate(rows):
        buffer = memory.place(row, index)
        memory.owner[row.output] = buffer
        memory.live.setdefault(buffer, prod(row.made))
        memory.end[buffer] = max(memory.end.get(buffer, index), last.get(row.output, index))
        if (total := sum(memory.live.values())) > most.elements:
            most = Peak(total, row.name, tuple(memory.live.items()))
        memory.live = {key: count for key, count in memory.live.items() if memory.end[key] > index}
    return most


@dataclass
class _Memory:
    """Buffers during a walk, each named by the tensor it was made for.

    Attributes:
        live: Elements of each buffer that somebody still reads.
        end: Position of its last reader.
        owner: Buffer of each tensor.
        image: The buffer that is never written over.
    """

    live: dict[str, int]
    end: dict[str, float]
    owner: dict[str, str]
    image: str

    def place(self, row: Layer, index: int) -> str:
        """The buffer an operation writes to: a new one, or that of an input."""
        given = [self.owner[tensor] for tensor in row.inputs if tensor in self.owner]
        if row.kind == "view" and given:
            return given[0]
        if row.kind in _IN_PLACE:
            for buffer in given:
                if buffer != self.image and self.end[buffer] <= index and self.live[buffer] == prod(row.made):
                    return buffer
        return row.output
