"""``Work``: what each kernel of a network has to do for one image, from a spec or from an ONNX graph.

A kernel is a convolution, a matrix product or a pool. Bias, norm and activation belong to the kernel before them, as
every runtime here fuses them; so does the residual add but for runtimes that do not, which ask for it. What moves no
data, or constants alone, is no kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from edgeres.model.graph import graph
from edgeres.model.layers import layers as spec_layers
from edgeres.onnx_graph.graph_index import COUNTED, attribute
from edgeres.onnx_graph.operator_counts import tensor_shapes

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from edgeres.model.graph import Op
    from edgeres.model.layers import Layer
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
        name: The layer's own name.
        c_in: Input channels, of all groups together.
        c_out: Output channels.
        kernel: Side of the window; 1 for a matrix product, 0 for a global pool.
        side: Side of the square output in pixels, the root of its area where it is no square.
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
        spec: The network; its norms are folded or not, it is the same work.
        side: Side of the square input in pixels.
        integer: Whether it is quantized to INT8.
        float_layers: Layers that stay in float all the same.
        float_pools: Whether pools read floats, as TensorRT's do.
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
    """Every kernel of a network as a target runs it: its scheme says what of an INT8 network stays in float.

    Args:
        spec: The network.
        side: Side of the square input in pixels.
        target: Where it goes.
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
        side=_side(row.made[1:]),
        activations=len(op.inputs) * prod(row.given) + prod(row.made),
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
    given, weight, made = (shapes[name] for name in (*node.input[:2], node.output[0]))
    conv = node.op_type == "Conv"
    groups = int(attribute(node, "group") or 1) if conv else 1
    c_out = made[1] if conv else made[-1]
    inner = prod(weight) // c_out
    return Work(
        name=node.name or node.output[0],
        kind="conv" if conv else "linear",
        c_in=given[1] if conv else inner,
        c_out=c_out,
        kernel=weight[2] if conv else 1,
        stride=_stride(node) if conv else 1,
        groups=groups,
        side=_side(made[2:]) if conv else 1,
        activations=prod(given) + prod(made),
        weights=prod(weight),
        macs=prod(weight) * prod(made[2:]) if conv else prod(made) * inner,
        integer=integer,
    )


def _pool(node: NodeProto, shapes: Shapes, integer: bool) -> Work:
    given, made = shapes[node.input[0]], shapes[node.output[0]]
    windowed = not node.op_type.startswith("Global")
    return Work(
        name=node.name or node.output[0],
        kind="pool",
        c_in=given[1],
        c_out=made[1],
        kernel=int(attribute(node, "kernel_shape")[0]) if windowed else 0,
        stride=_stride(node) if windowed else 1,
        groups=1,
        side=_side(made[2:]),
        activations=prod(given) + prod(made),
        weights=0,
        macs=0,
        integer=integer,
    )


def _add(node: NodeProto, shapes: Shapes, integer: bool) -> Work:
    made = shapes[node.output[0]]
    return Work(
        name=node.name or node.output[0],
        kind="add",
        c_in=made[1],
        c_out=made[1],
        kernel=1,
        stride=1,
        groups=1,
        side=_side(made[2:]),
        activations=3 * prod(made),
        weights=0,
        macs=0,
        integer=integer,
    )


def _stride(node: NodeProto) -> int:
    return int((attribute(node, "strides") or (1,))[0])


def _side(pixels: tuple[int, ...]) -> float:
    return float(prod(pixels) ** 0.5) if pixels else 1.0
