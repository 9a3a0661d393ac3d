"""``Work``: MACs, elements and shape of each kernel of a network for one image, from a spec or from an ONNX graph.

A kernel is a convolution, a matrix product or a pool. Bias, norm and activation belong to the kernel before them, since
every runtime here fuses them; so does the residual add, except for runtimes that do not fuse it (``adds``). Views and
operations on constants are no kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from edgeres.model.cost import layers as spec_layers
from edgeres.model.graph import graph
from edgeres.onnx_graph.graph_index import COUNTED, attribute
from edgeres.onnx_graph.operator_counts import tensor_shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.model.cost import Layer
    from edgeres.model.graph import Op
    from edgeres.model.spec import ResNetSpec
    from edgeres.onnx_graph.operator_counts import Shapes
    from edgeres.targets.target import Target

Kind = Literal["conv", "linear", "pool", "add"]
_POOL_ROWS = ("maxpool", "avgpool", "globalpool")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


@dataclass(frozen=True, slots=True)
class Work:
    """One kernel on one image.

    Attributes:
        name: Name of the layer.
        kind: Convolution, matrix product, pool or residual add.
        c_in: Input channels, of all groups together.
        c_out: Output channels.
        kernel: Side of the window; 1 for a matrix product, 0 for a global pool.
        stride: Stride of the window.
        groups: Groups of a convolution.
        side: Side of the square output in pixels; the square root of its area where it is not square.
        activations: Elements read and written, without the weight.
        weights: Elements of the weight.
        macs: Multiply-accumulates.
        integer: Whether it runs in INT8.
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
        channels = f"{self.c_in}-{self.c_out}" if self.kind == "conv" else f"{self.c_out}"
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
        tiles = (-(-taps // multiple) * multiple) * (-(-outs // multiple) * multiple)
        return self.macs * tiles // (taps * outs)


def of_spec(
    spec: ResNetSpec,
    side: int,
    *,
    integer: bool,
    float_layers: tuple[str, ...] = (),
    float_pools: bool = False,
    adds: bool = False,
) -> tuple[Work, ...]:
    """Every kernel of a network for one image of ``side x side`` pixels.

    Args:
        spec: The network; folding its norms does not change the result.
        side: Side of the square input in pixels.
        integer: Whether it is quantized to INT8.
        float_layers: Layers that stay in float in a quantized network.
        float_pools: Whether pools run in float, as in TensorRT.
        adds: Whether residual adds are kernels.
    """
    network = graph(spec)
    return tuple(
        _of_op(
            network[row.name],
            row,
            integer and row.name not in float_layers and not (float_pools and row.kind in _POOL_ROWS),
        )
        for row in spec_layers(spec, side, side)
        if row.kind in ("weighted", *_POOL_ROWS) or (adds and row.operator == "add")
    )


def of_target(spec: ResNetSpec, side: int, target: Target, *, integer: bool) -> tuple[Work, ...]:
    """Every kernel of a network on a target, whose scheme gives the float layers of an INT8 network.

    Args:
        spec: The network.
        side: Side of the square input in pixels.
        target: The target.
        integer: Whether it is quantized; the target must have INT8 then.
    """
    left, pools = (target.scheme.float_layers, target.scheme.pools) if target.scheme else ((), True)
    return of_spec(spec, side, integer=integer, float_layers=left, float_pools=not pools, adds=True)


def _of_op(op: Op, row: Layer, integer: bool) -> Work:
    kinds: dict[str, Kind] = {"conv": "conv", "linear": "linear", "add": "add"}
    kind = kinds.get(op.kind, "pool")
    weight = prod(op.parameters[f"{op.name}.weight"]) if row.macs else 0
    return Work(
        name=row.name,
        kind=kind,
        c_in=op.c_in,
        c_out=op.c_out,
        kernel=0 if op.kind == "gap" else op.kernel,
        stride=op.stride,
        groups=op.groups,
        side=_side(row.output_shape[1:]),
        activations=len(op.inputs) * prod(row.input_shape) + prod(row.output_shape),
        weights=weight,
        macs=row.macs,
        integer=integer,
    )


def of_model(model: ModelProto, *, adds: bool = False) -> tuple[Work, ...]:
    """Every kernel of an ONNX graph of fixed size, for one image; a layer is INT8 where its operands are dequantized.

    Args:
        model: The graph.
        adds: Whether adds of two activations are kernels.

    Raises:
        ModelError: Shapes cannot be inferred.
    """
    shapes = tensor_shapes(model)
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    found = []
    for node in model.graph.node:
        if node.op_type in COUNTED:
            found.append(_weighted(node, shapes, dequantized.issuperset(node.input[:2])))
        elif node.op_type in _POOLS and set(attribute(node, "kernel_shape", ())) != {1}:  # else a strided slice
            found.append(_pool(node, shapes, node.input[0] in dequantized))
        elif adds and node.op_type == "Add" and len({shapes[name] for name in node.input}) == 1:
            found.append(_add(node, shapes, dequantized.issuperset(node.input)))
    return tuple(found)


def _weighted(node: NodeProto, shapes: Shapes, integer: bool) -> Work:
    input_shape, weight, output_shape = (shapes[name] for name in (*node.input[:2], node.output[0]))
    conv = node.op_type == "Conv"
    groups = int(attribute(node, "group") or 1) if conv else 1
    c_out = output_shape[1] if conv else output_shape[-1]
    inner = prod(weight) // c_out
    return Work(
        name=node.name or node.output[0],
        kind="conv" if conv else "linear",
        c_in=input_shape[1] if conv else inner,
        c_out=c_out,
        kernel=weight[2] if conv else 1,
        stride=_stride(node) if conv else 1,
        groups=groups,
        side=_side(output_shape[2:]) if conv else 1,
        activations=prod(input_shape) + prod(output_shape),
        weights=prod(weight),
        macs=prod(weight) * prod(output_shape[2:]) if conv else prod(output_shape) * inner,
        integer=integer,
    )


def _pool(node: NodeProto, shapes: Shapes, integer: bool) -> Work:
    input_shape, output_shape = shapes[node.input[0]], shapes[node.output[0]]
    windowed = not node.op_type.startswith("Global")
    return Work(
        name=node.name or node.output[0],
        kind="pool",
        c_in=input_shape[1],
        c_out=output_shape[1],
        kernel=int(attribute(node, "kernel_shape")[0]) if windowed else 0,
        stride=_stride(node) if windowed else 1,
        groups=1,
        side=_side(output_shape[2:]),
        activations=prod(input_shape) + prod(output_shape),
        weights=0,
        macs=0,
        integer=integer,
    )


def _add(node: NodeProto, shapes: Shapes, integer: bool) -> Work:
    output_shape = shapes[node.output[0]]
    return Work(
        name=node.name or node.output[0],
        kind="add",
        c_in=output_shape[1],
        c_out=output_shape[1],
        kernel=1,
        stride=1,
        groups=1,
        side=_side(output_shape[2:]),
        activations=3 * prod(output_shape),
        weights=0,
        macs=0,
        integer=integer,
    )


def _stride(node: NodeProto) -> int:
    return int((attribute(node, "strides") or (1,))[0])


def _side(pixels: tuple[int, ...]) -> float:
    return float(prod(pixels) ** 0.5) if pixels else 1.0
