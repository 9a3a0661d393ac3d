"""Operations of the integer reference on ``[N,H,W,C]``: in whole numbers where possible, in float64 elsewhere."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from edgeres.errors import ModelError
from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, attribute, input_at, label
from edgeres.parity.integer.kernel import LOGITS_ONLY, Kernel, columns, node_window, numbers, padded, patches, views
from edgeres.parity.integer.value import Exact, Real, Term, Value, constant

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import NodeProto

    from edgeres.onnx_graph.graph_index import WindowAttributes
    from edgeres.parity.integer.kernel import LayerConstants
    from edgeres.parity.integer.value import Array

CARRIED = ("Relu", "MaxPool", "Pad", "Flatten", "Reshape", "Identity", "Dropout")
"""Operations that commute with a quantizer: they preserve the order of values and the value zero."""

POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})


def carried(view: GraphIndex, node: NodeProto) -> Callable[[Array, float, float], Array]:
    """An operation of ``CARRIED`` on codes, steps, or bounds.

    It is a function of the numbers, of the number that represents zero, and of a lower bound of all.

    Raises:
        ModelError: An unsupported reshape or padding.
    """
    match node.op_type:
        case "Relu":
            return lambda x, zero, lowest: np.maximum(x, x.dtype.type(zero))
        case "MaxPool":
            window = node_window(node)
            return lambda x, zero, lowest: largest(x, window, lowest)
        case "Pad":
            pads, mode = _padding(view, node), attribute(node, "mode", b"constant").decode()
            if mode != "constant":
                return lambda x, zero, lowest: np.pad(x, pads, mode)
            return lambda x, zero, lowest: np.pad(x, pads, constant_values=zero)
        case "Flatten" | "Reshape":
            shape = _shape(view, node)
            return lambda x, zero, lowest: reshaped(x, shape)
    return lambda x, zero, lowest: x


def _shape(view: GraphIndex, node: NodeProto) -> tuple[int, ...]:
    """Sizes ``[C,...]`` that a Flatten or Reshape gives each image, -1 for one that follows from the others."""
    if node.op_type == "Flatten" and attribute(node, "axis", 1) == 1:
        return (-1,)
    shape = view.value(node.input[1]) if node.op_type == "Reshape" else None
    if shape is None or shape.size < 2 or 0 in shape[1:] or shape[0] not in (0, -1, 1):
        raise ModelError(f"node {label(node)!r} is no change of shape of each image alone", "export a plain classifier")
    return tuple(int(size) for size in shape[1:])


def reshaped(x: Array, shape: tuple[int, ...]) -> Array:
    """A tensor, channels last where it has four dimensions, with ``[C,...]`` of each image in another shape."""
    plain = np.moveaxis(x, -1, 1) if x.ndim == 4 else x
    result = plain.reshape(len(x), *shape)
    return np.moveaxis(result, 1, -1) if result.ndim == 4 else result


def _padding(view: GraphIndex, node: NodeProto) -> list[tuple[int, int]]:
    """Pads of ``[N,H,W,C]``."""
    pads, filling = (view.value(input_at(node, index)) for index in (1, 2))
    mode = attribute(node, "mode", b"constant")
    known = mode in (b"constant", b"reflect", b"edge")
    if pads is None or pads.size != 8 or not known or (filling is not None and np.any(filling)):
        raise ModelError(f"node {label(node)!r} pads with something else than zeros or the image", LOGITS_ONLY)
    before, after = pads[:4].tolist(), pads[4:].tolist()
    return [(before[axis], after[axis]) for axis in (0, 2, 3, 1)]


def pooled(node: NodeProto) -> WindowAttributes | None:
    """Window of a pool; None for a global pool.

    Raises:
        ModelError: It rounds its size up, leaves its padding to the runtime, or averages padding, so that the number of
            averaged values would vary.
    """
    if node.op_type == "GlobalAveragePool":
        return None
    window = node_window(node)
    if node.op_type == "AveragePool" and any(window.pads):
        raise ModelError(f"node {label(node)!r} averages padding", "pad in a node of its own")
    return window


def largest(x: Array, window: WindowAttributes, filling: float) -> Array:
    """Maximum of each window ``[N,H',W',C]``; ``filling`` pads the border and must be below all values."""
    if window.kernel == (1, 1):
        return x[:, :: window.strides[0], :: window.strides[1]]
    return np.asarray(views(padded(x, window, filling), window).max(axis=(4, 5)))


def average(value: Value, window: WindowAttributes | None) -> Value:
    """Average of each window without padding, or of the whole image; sums of whole numbers remain whole."""
    if isinstance(value, Real):
        sums, over = _sums(value.values, window)
        return Real(sums / over, value.share)
    return Exact(tuple(_averaged(term, window) for term in value.terms))


def _averaged(term: Term, window: WindowAttributes | None) -> Term:
    if term.count.ndim == 0:
        return term
    sums, over = _sums(term.count.astype(np.float64), window)
    # Each of the numbers has a rounding error itself, to which the additions add theirs.
    return replace(
        term, count=sums, over=term.over * over, reach=term.reach * over, length=term.length + over, magnitudes=None
    )


def _sums(x: Array, window: WindowAttributes | None) -> tuple[Array, int]:
    if window is None:
        return x.sum(axis=(1, 2), keepdims=True), x.shape[1] * x.shape[2]
    return views(x, window).sum(axis=(4, 5)), prod(window.kernel)


def computed(view: GraphIndex, node: NodeProto, values: tuple[Value, ...], layer: LayerConstants | None) -> Value:
    """Output of any node except quantizers, from its activations in order, and the constants of a weighted one.

    Raises:
        ModelError: An unsupported operator.
    """
    match node.op_type, values:
        case (("Conv" | "Gemm" | "MatMul"), (x,)) if layer is not None:
            return _weighted(node, x, layer)
        case "Add", (Exact() as x, Exact() as y):
            return Exact((*x.terms, *y.terms))
        case "Add", (x, y):
            return Real(x.approximate() + y.approximate())
        case (("GlobalAveragePool" | "AveragePool"), (x,)):
            return average(x, pooled(node))
        case kind, (x,) if kind in CARRIED:
            return _carried_value(view, node, x)
        case kind, _ if kind in _FLOATS:
            return Real(_FLOATS[kind](view, node, tuple(value.approximate() for value in values)))
    raise ModelError(f"node {label(node)!r}: {node.op_type} has no integer reference", LOGITS_ONLY)


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


def _weighted(node: NodeProto, x: Value, layer: LayerConstants) -> Value:
    """A convolution or matrix product with its bias."""
    kernel, codes = layer.kernel, _codes(x)
    bias = () if layer.bias is None else (constant(layer.bias),)
    if not isinstance(kernel, Kernel) or codes is None:
        products = _float_product(node, x.approximate(), layer)
        return Real(products + bias[0].scale if bias else products)
    term = Term(
        count=kernel(codes.count),
        scale=codes.scale * layer.scale,
        reach=kernel.reach,
        length=kernel.length,
        magnitudes=lambda: kernel.magnitudes(codes.count),
    )
    if layer.whole_bias and layer.bias is not None:
        # A quantized bias is rounded in float32 like any tensor: a large one may round to the other neighbour.
        whole = np.rint(layer.bias / term.scale.astype(np.float32)).astype(np.float64)
        return Exact((replace(term, count=term.count + whole),))
    return Exact((term, *bias))


def _codes(x: Value) -> Term | None:
    """The single term of a dequantized tensor, whose scale is a float32 number; None otherwise."""
    if isinstance(x, Real) or len(x.terms) != 1 or x.terms[0].length:
        return None
    return x.terms[0] if x.terms[0].scale.ndim == 0 else None


def _float_product(node: NodeProto, x: Array, layer: LayerConstants) -> NDArray[np.float64]:
    """A convolution or matrix product in float64."""
    kernel = layer.kernel
    if isinstance(kernel, Kernel):
        window, parts = kernel.window, [part.astype(np.float64) for part in kernel.groups]
    else:
        window = node_window(node, kernel.shape[2:]) if kernel.ndim == 4 else None
        parts = columns(kernel, attribute(node, "group", 1))
    inputs = np.split(x, len(parts), axis=-1)
    products = [(patches(g, window) if window else g) @ part for g, part in zip(inputs, parts, strict=True)]
    return np.asarray(np.concatenate(products, axis=-1) * layer.scale)


def _normalized(view: GraphIndex, node: NodeProto, inputs: tuple[Array, ...]) -> Array:
    gain, shift, mean, variance = (numbers(view, name).astype(np.float64) for name in node.input[1:5])
    spread = np.sqrt(variance + float(attribute(node, "epsilon", 1e-5)))
    return np.asarray((inputs[0] - mean) / spread * gain + shift)


def _parametric(view: GraphIndex, node: NodeProto, inputs: tuple[Array, ...]) -> Array:
    """A ReLU of ``[N,H,W,C]`` with a slope below 0, one or one per channel."""
    slopes = numbers(view, node.input[1]).astype(np.float64).reshape(-1)
    return np.where(inputs[0] < 0, inputs[0] * slopes, inputs[0])


def _instance_normalized(view: GraphIndex, node: NodeProto, inputs: tuple[Array, ...]) -> Array:
    """Normalization of each channel of each image: of ``[N,H,W,C]``, or of rows ``[N,C,L]``."""
    x = inputs[0]
    axes, place = ((1, 2), (-1,)) if x.ndim == 4 else ((2,), (-1, 1))
    gain, shift = (numbers(view, name).astype(np.float64).reshape(place) for name in node.input[1:3])
    spread = np.sqrt(x.var(axis=axes, keepdims=True) + float(attribute(node, "epsilon", 1e-5)))
    return np.asarray((x - x.mean(axis=axes, keepdims=True)) / spread * gain + shift)


def _concatenated(view: GraphIndex, node: NodeProto, inputs: tuple[Array, ...]) -> Array:
    """Tensors ``[N,H,W,C]`` side by side along an axis of ``[N,C,H,W]``."""
    if inputs[0].ndim != 4:
        raise ModelError(f"node {label(node)!r} is a Concat of something else than [N,C,H,W]", LOGITS_ONLY)
    return np.concatenate(inputs, axis=(0, 3, 1, 2)[attribute(node, "axis") % 4])


def _softmax(view: GraphIndex, node: NodeProto, inputs: tuple[Array, ...]) -> Array:
    """Softmax of rows ``[N,C,L]`` along the last axis."""
    if inputs[0].ndim == 4 or attribute(node, "axis", -1) not in (-1, inputs[0].ndim - 1):
        raise ModelError(f"node {label(node)!r} is a Softmax over another axis than the last", LOGITS_ONLY)
    powers = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _cast(view: GraphIndex, node: NodeProto, inputs: tuple[Array, ...]) -> Array:
    half = attribute(node, "to") == TensorProto.FLOAT16
    return inputs[0].astype(np.float16).astype(np.float64) if half else inputs[0]


_FLOATS: dict[str, Callable[[GraphIndex, NodeProto, tuple[Array, ...]], Array]] = {
    "Sigmoid": lambda view, node, inputs: 1 / (1 + np.exp(-inputs[0])),
    "Mul": lambda view, node, inputs: inputs[0] * inputs[1],
    "BatchNormalization": _normalized,
    "PRelu": _parametric,
    "InstanceNormalization": _instance_normalized,
    "Concat": _concatenated,
    "Softmax": _softmax,
    "Cast": _cast,
}
"""Operations computed in float64, since they have no integer form."""

FLOAT_ONLY = frozenset(_FLOATS)

KNOWN = FLOAT_ONLY.union(CARRIED, WEIGHTED, POOLS, ("Add", "Constant"))
"""Supported operators, besides quantizers."""
