"""Operations of the integer reference: in whole numbers where possible, in float64 elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeres.errors import ModelError
from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, attribute, label
from edgeres.parity.integer.constants import Weight, numbers, weight, window
from edgeres.parity.integer.pool import POOLS, average, largest, pooled
from edgeres.parity.integer.product import INT32
from edgeres.parity.integer.value import Exact, Real, Term, Value, constant

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import NodeProto

    from edgeres.parity.integer.value import Array


@dataclass(frozen=True, slots=True)
class IntegerLayer:
    """Constants of a Conv, Gemm or MatMul.

    Attributes:
        weight: Integers, or float64 where it is stored in float.
        bias: float32 ``[O]``.
        reach: Upper bound of the sum of magnitudes in an accumulator, ``[O]``.
        whole_bias: Whether to round the bias to a whole number of ``S_1 S_2``, as integer kernels do.
    """

    weight: Weight | NDArray[np.float64]
    bias: NDArray[np.float32] | None
    reach: NDArray[np.float64]
    whole_bias: bool

    @classmethod
    def of(cls, view: GraphIndex, node: NodeProto, *, whole_bias: bool) -> IntegerLayer:
        """Reads a node's constants.

        Raises:
            ModelError: One is not constant, or the accumulator could overflow.
        """
        bias = numbers(view, node.input[2]) if len(node.input) > 2 and node.input[2] else None
        held = weight(view, node)
        reach = held.kernel.reach if isinstance(held, Weight) else np.zeros(())
        if reach.max() >= INT32:
            hint = "scale the weights down"
            raise ModelError(f"node {label(node)!r}: an accumulator may reach {reach.max():,.0f}, beyond int32", hint)
        return cls(held, bias, reach, whole_bias)


CARRIED = ("Relu", "MaxPool", "Pad", "Flatten", "Reshape", "Identity", "Dropout")
"""Operations that commute with a quantizer: they preserve the order of values and the value zero."""

_FLOAT16 = 10
"""``TensorProto.FLOAT16``."""


def carried(view: GraphIndex, node: NodeProto) -> Callable[[Array, float, float], Array]:
    """An operation of ``CARRIED`` on codes, steps, or bounds.

    Returns:
        A function of the numbers, of the number that represents zero, and of a lower bound of all.

    Raises:
        ModelError: An unsupported reshape or padding.
    """
    match node.op_type:
        case "Relu":
            return lambda x, zero, lowest: np.maximum(x, x.dtype.type(zero))
        case "MaxPool":
            look = window(node)
            return lambda x, zero, lowest: largest(x, look, lowest)
        case "Pad":
            pads = _padding(view, node)
            return lambda x, zero, lowest: np.pad(x, pads, constant_values=zero)
        case "Flatten" | "Reshape":
            shape = view.value(node.input[1]) if node.op_type == "Reshape" else None
            if attribute(node, "axis", 1) != 1 or (shape is not None and shape.size != 2):
                raise ModelError(f"node {label(node)!r} is no flattening of [N,C,H,W]", "export a plain classifier")
            return lambda x, zero, lowest: flat(x)
        case _:
            return lambda x, zero, lowest: x


def flat(x: Array) -> Array:
    """``[N,H,W,C]`` in the order of ``[N,C,H,W]``, flattened to ``[N,F]``."""
    return np.moveaxis(x, -1, 1).reshape(len(x), -1) if x.ndim == 4 else x


def _padding(view: GraphIndex, node: NodeProto) -> list[tuple[int, int]]:
    """Pads of ``[N,H,W,C]``."""
    given = view.value(node.input[1]) if len(node.input) > 1 else None
    filling = view.value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    mode = attribute(node, "mode", b"constant")
    if given is None or given.size != 8 or mode != b"constant" or (filling is not None and np.any(filling)):
        raise ModelError(
            f"node {label(node)!r} pads with something else than zeros", "its logits can be compared all the same"
        )
    before, after = given[:4].tolist(), given[4:].tolist()
    return [(before[axis], after[axis]) for axis in (0, 2, 3, 1)]


def computed(view: GraphIndex, node: NodeProto, values: tuple[Value, ...], layer: IntegerLayer | None) -> Value:
    """Output of one node.

    Args:
        view: The graph.
        node: Any node except quantizers.
        values: Its activations, in order.
        layer: Weight and bias of a Conv, Gemm or MatMul.

    Raises:
        ModelError: An unsupported operator.
    """
    match node.op_type, values:
        case (("Conv" | "Gemm" | "MatMul"), (x,)) if layer is not None:
            return _weighted(node, x, layer)
        case "Add", (x, y):
            return Exact((*x.terms, *y.terms)) if isinstance(x, Exact) and isinstance(y, Exact) else _sum(x, y)
        case (("GlobalAveragePool" | "AveragePool"), (x,)):
            return average(x, pooled(node))
        case kind, (x,) if kind in CARRIED:
            return _carried_value(view, node, x)
        case kind, _ if kind in _FLOATS:
            return Real(_FLOATS[kind](view, node, tuple(value.approximate() for value in values)))
        case _:
            raise ModelError(
                f"node {label(node)!r}: {node.op_type} has no integer reference",
                "its logits can be compared all the same",
            )


def _sum(x: Value, y: Value) -> Real:
    return Real(x.approximate() + y.approximate())


def _carried_value(view: GraphIndex, node: NodeProto, x: Value) -> Value:
    """An operation of ``CARRIED`` on values: whole numbers remain whole where one scale preserves their order."""
    change = carried(view, node)
    if node.op_type in ("Flatten", "Reshape", "Pad", "Identity", "Dropout"):
        if isinstance(x, Exact) and any(term.scale.ndim or term.count.ndim == 0 for term in x.terms):
            x = Real(x.approximate())
        return x.laid_out(lambda array: change(array, 0, 0))
    if isinstance(x, Exact) and len(x.terms) == 1:
        return x.laid_out(lambda array: change(array, 0, -np.inf))
    return Real(change(x.approximate(), 0, -np.inf))


def _weighted(node: NodeProto, x: Value, layer: IntegerLayer) -> Value:
    """A convolution or matrix product with its bias."""
    held, source = layer.weight, _codes(x)
    bias = () if layer.bias is None else (constant(layer.bias),)
    if isinstance(held, Weight) and source is not None:
        made = Term(
            count=held.kernel(source.count),
            scale=source.scale * held.scale,
            reach=layer.reach,
            length=held.kernel.length,
            magnitudes=lambda: held.kernel.magnitudes(source.count),
        )
        if layer.whole_bias and layer.bias is not None:
            # A quantized bias is rounded in float32 like any tensor: a large one may round to the other neighbour.
            whole = np.rint(layer.bias / made.scale.astype(np.float32)).astype(np.float64)
            return Exact((replace(made, count=made.count + whole),))
        return Exact((made, *bias))
    found = _float_product(node, x.approximate(), held)
    return Real(found + bias[0].scale if bias else found)


def _codes(x: Value) -> Term | None:
    """The single term of a dequantized tensor, whose scale is a float32 number; None otherwise."""
    if isinstance(x, Real) or len(x.terms) != 1 or x.terms[0].length:
        return None
    return x.terms[0] if x.terms[0].scale.ndim == 0 else None


def _float_product(node: NodeProto, x: Array, held: Weight | NDArray[np.float64]) -> NDArray[np.float64]:
    """A convolution or matrix product in float64."""
    if isinstance(held, Weight):
        groups, scale = held.kernel.groups, held.scale
        look, parts = held.kernel.window, [part.astype(np.float64) for part in groups]
    else:
        scale, split = np.ones(()), np.split(held, attribute(node, "group", 1))
        look = window(node, (held.shape[2], held.shape[3])) if held.ndim == 4 else None
        parts = [part.transpose(2, 3, 1, 0).reshape(-1, len(part)) if look else part.T for part in split]
    given = np.split(x, len(parts), axis=-1)
    made = [(look.patches(g) if look else g) @ part for g, part in zip(given, parts, strict=True)]
    return np.asarray(np.concatenate(made, axis=-1) * scale)


def _normalized(view: GraphIndex, node: NodeProto, inputs: tuple[Array, ...]) -> Array:
    gain, shift, mean, variance = (numbers(view, name).astype(np.float64) for name in node.input[1:5])
    spread = np.sqrt(variance + float(attribute(node, "epsilon", 1e-5)))
    return np.asarray((inputs[0] - mean) / spread * gain + shift)


def _cast(view: GraphIndex, node: NodeProto, inputs: tuple[Array, ...]) -> Array:
    if attribute(node, "to") == _FLOAT16:
        return inputs[0].astype(np.float16).astype(np.float64)
    return inputs[0]


_FLOATS: dict[str, Callable[[GraphIndex, NodeProto, tuple[Array, ...]], Array]] = {
    "Sigmoid": lambda view, node, inputs: 1 / (1 + np.exp(-inputs[0])),
    "Mul": lambda view, node, inputs: inputs[0] * inputs[1],
    "BatchNormalization": _normalized,
    "Cast": _cast,
}
"""Operations computed in float64, since they have no integer form."""

FLOAT_ONLY = frozenset(_FLOATS)

KNOWN = FLOAT_ONLY.union(CARRIED, WEIGHTED, POOLS, ("Add", "Constant"))
"""Supported operators, besides quantizers."""
