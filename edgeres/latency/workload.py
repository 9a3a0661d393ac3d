"""``Work``: MACs, elements and shape of each kernel of a network for one image, from a ``Graph`` or an ONNX graph.

A kernel is a convolution, a matrix product or a pool. Bias, norm and activation belong to the kernel before them, since
every runtime here fuses them; so does the residual add, except for runtimes that do not fuse it (``adds``). Views and
operations on constants are no kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from edgeres.model.cost import layers
from edgeres.onnx_graph.graph_index import COUNTED, attribute
from edgeres.onnx_graph.operator_counts import tensor_shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.data.size import Size
    from edgeres.model.cost import Layer
    from edgeres.model.graph import Graph
    from edgeres.model.operation import Op
    from edgeres.onnx_graph.operator_counts import Shapes
    from edgeres.targets.target import Target

Kind = Literal["conv", "linear", "pool", "add"]
_POOL_ROWS = ("maxpool", "avgpool", "globalpool")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


@dataclass(frozen=True, slots=True)
class Work:
    """One kernel on one image: a convolution, matrix product, pool or residual add; INT8 where ``integer``.

    Attributes:
        c_in: Input channels, of all groups together.
        kernel: Side of the window; 1 for a matrix product, 0 for a global pool.
        side: Side of the square output in pixels; the square root of its area where it is not square.
        activations: Elements read and written, without the weight.
        weights: Elements of the weight.
    """

    name: str
    kind: Kind
    c_in: int
    c_out: int
    kernel: int
    stride: int
    groups: int
    side: float
    activations: int
    weights: int
    macs: int
    integer: bool

    @property
    def title(self) -> str:
        """``conv 3x3/2 64-128 at 28``."""
        if self.kind == "linear":
            return f"linear {self.c_in}-{self.c_out}"
        if self.kind == "add":
            return f"add {self.c_out} at {self.side:g}"
        window = f" {self.kernel}x{self.kernel}" if self.kernel else ""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        channels = f"{self.c_in}-{self.c_out}" if self.kind == "conv" else str(self.c_out)
        grouped = f" in {self.groups} groups" if self.groups > 1 else ""
        return f"{self.kind}{window}{stride} {channels}{grouped} at {self.side:g}"

    def padded_macs(self, multiple: int) -> int:
        """MACs of the tiles that cover the layer, where a tile is ``multiple`` wide along both sides of the product.

        A convolution is the product of ``k^2 C_in / groups`` by ``C_out / groups`` per pixel and group, so a stem of
        three channels pads its 147 taps, not each channel.
        """
        if not self.macs:
            return 0
        taps, outs = self.weights // self.c_out, self.c_out // self.groups
        return self.macs * tile_area(taps, outs, multiple) // (taps * outs)


def tile_area(rows: int, columns: int, multiple: int) -> int:
    """Area of the ``multiple x multiple`` tiles that cover a matrix."""
    return (-(-rows // multiple) * multiple) * (-(-columns // multiple) * multiple)


def of_graph(
    graph: Graph,
    size: Size,
    *,
    integer: bool,
    float_layers: tuple[str, ...] = (),
    float_pools: bool = False,
    adds: bool = False,
) -> tuple[Work, ...]:
    """Every kernel of a network for one image of a size.

    In a quantized network (``integer``) the ``float_layers`` stay in float, and with ``float_pools`` the pools, as in
    TensorRT. With ``adds`` residual adds are kernels. Folding the network's norms does not change the result.
    """
    return tuple(
        _of_op(
            graph[row.name],
            row,
            integer and row.name not in float_layers and not (float_pools and row.kind in _POOL_ROWS),
        )
        for row in layers(graph, *size)
        if row.kind in ("weighted", *_POOL_ROWS) or (adds and row.operator == "add")
    )


def of_target(graph: Graph, size: Size, target: Target, *, integer: bool) -> tuple[Work, ...]:
    """Every kernel of a network on a target, whose scheme gives the float layers of an INT8 network (``integer``)."""
    left, pools = (target.scheme.float_layers, target.scheme.pools) if target.scheme else ((), True)
    return of_graph(graph, size, integer=integer, float_layers=left, float_pools=not pools, adds=True)


def _of_op(op: Op, row: Layer, integer: bool) -> Work:
    kinds: dict[str, Kind] = {"linear": "linear", "add": "add"}
    kinds |= dict.fromkeys(("conv", "blur", "channelconv", "attention"), "conv")
    along = op.kind == "channelconv"  # a convolution of one channel, whose pixels are the channels
    return Work(
        name=row.name,
        kind=kinds.get(op.kind, "pool"),
        c_in=1 if along else op.c_in,
        c_out=1 if along else op.c_out,
        kernel={"gap": 0, "attention": 1}.get(op.kind, op.kernel),
        stride=op.stride,
        groups=op.c_in if op.kind == "blur" else op.groups,
        side=_side(row.output_shape if along else row.output_shape[1:]),
        activations=len(op.inputs) * prod(row.input_shape) + prod(row.output_shape),
        weights=op.kernel if along else op.macs_per_pixel,
        macs=row.macs,
        integer=integer and op.kind != "attention",
    )


def of_model(model: ModelProto, *, adds: bool = False) -> tuple[Work, ...]:
    """Every kernel of an ONNX graph of fixed size, for one image; a layer is INT8 where its operands are dequantized.

    With ``adds`` the adds of two activations are kernels.

    Raises:
        ModelError: Shapes cannot be inferred.
    """
    shapes = tensor_shapes(model)
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    works = []
    for node in model.graph.node:
        if node.op_type in COUNTED:
            kind: Kind = "conv" if node.op_type == "Conv" else "linear"
            works.append(_of_node(node, kind, shapes, dequantized.issuperset(node.input[:2])))
        elif node.op_type in _POOLS and set(attribute(node, "kernel_shape", ())) != {1}:  # else a strided slice
            works.append(_of_node(node, "pool", shapes, node.input[0] in dequantized))
        elif adds and node.op_type == "Add" and len({shapes[name] for name in node.input}) == 1:
            works.append(_of_node(node, "add", shapes, dequantized.issuperset(node.input)))
    return tuple(works)


def _of_node(node: NodeProto, kind: Kind, shapes: Shapes, integer: bool) -> Work:
    input_shape, output_shape = shapes[node.input[0]], shapes[node.output[0]]
    weight = shapes[node.input[1]] if kind in ("conv", "linear") else (0,)
    c_out = output_shape[-1] if kind == "linear" else output_shape[1]
    c_in = prod(weight) // c_out if kind == "linear" else input_shape[1]
    window = weight[2:] if kind == "conv" else attribute(node, "kernel_shape") or (0,)
    return Work(
        name=node.name or node.output[0],
        kind=kind,
        c_in=c_in,
        c_out=c_out,
        kernel=int(window[0]) if kind in ("conv", "pool") else 1,
        stride=int((attribute(node, "strides") or (1,))[0]),
        groups=int(attribute(node, "group") or 1),
        side=1 if kind == "linear" else _side(output_shape[2:]),
        activations=(2 if kind == "add" else 1) * prod(input_shape) + prod(output_shape),
        weights=prod(weight),
        macs=prod(output_shape) * c_in if kind == "linear" else prod(weight) * prod(output_shape[2:]),
        integer=integer,
    )


def _side(pixels: tuple[int, ...]) -> float:
    return float(prod(pixels) ** 0.5) if pixels else 1.0
