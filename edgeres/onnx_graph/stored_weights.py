"""Weights of a Q/DQ graph's layers as they are stored, and the int32 accumulators of its integer layers.

A weight is stored as codes before DequantizeLinear, or as floats before QuantizeLinear. A runtime computes
``DequantizeLinear -> Conv`` in integers and turns the float bias into ``round(b / (s_x s_w))``
(core/optimizer/qdq_transformer of microsoft/onnxruntime). ``edgeres.quant.qparams`` has the bounds of accumulators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from edgeres.errors import StageError
from edgeres.onnx_graph.edit import set_attribute, store
from edgeres.onnx_graph.graph_index import BIASED, COUNTED, GraphIndex, attribute, input_at, label, output_channel_axis
from edgeres.quant.qparams import INT32_MAX, PEAK, roomy_scales

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """A constant behind DequantizeLinear.

    Attributes:
        values: Integer codes, or floats where the graph stores those before QuantizeLinear (``in_float``).
        scale: One, or ``[C]`` along ``axis``; so is ``zero_point``.
        axis: Channel axis of ``values``; None for one scale.
    """

    values: NDArray[np.generic]
    scale: NDArray[np.generic]
    zero_point: NDArray[np.generic]
    axis: int | None
    in_float: bool

    def _broadcast(self, parameter: NDArray[np.generic]) -> NDArray[np.generic]:
        """``[C]`` as ``[C,1,...]``, so that it meets the channels of ``values``."""
        places = range(self.values.ndim)
        return parameter.reshape([-1 if place == self.axis else 1 for place in places] if parameter.size > 1 else [])

    @property
    def codes(self) -> NDArray[np.int32]:
        """Codes less their zero-point; floats are quantized as by QuantizeLinear, rounding half to even."""
        zero = self._broadcast(self.zero_point)
        codes = self.values
        if self.in_float:
            low, high = (0, 255) if self.zero_point.dtype == np.uint8 else (-128, 127)
            steps = np.rint(self.values.astype(np.float32) / self._broadcast(self.scale).astype(np.float32))
            codes = np.clip(steps + zero.astype(np.float32), low, high)
        difference: NDArray[np.int32] = codes.astype(np.int32) - zero.astype(np.int32)
        return difference

    @property
    def dequantized(self) -> NDArray[np.float64]:
        """Output of DequantizeLinear: codes less their zero-point, times the scale."""
        stored = self.values.astype(np.float64) - self._broadcast(self.zero_point).astype(np.float64)
        whole = self.codes.astype(np.float64) if self.in_float else stored
        product: NDArray[np.float64] = whole * self._broadcast(self.scale).astype(np.float64)
        return product

    @property
    def real(self) -> NDArray[np.float64]:
        """The float values: as stored before QuantizeLinear, otherwise the output of DequantizeLinear."""
        return self.values.astype(np.float64) if self.in_float else self.dequantized


def stored_weight(view: GraphIndex, dequantizer: NodeProto) -> StoredWeight | None:
    """Constants of a weight's DequantizeLinear.

    None where one is not constant, there is a scale per block, or scales and zero-points do not match the channels.
    """
    source, name = view.source(dequantizer), input_at(dequantizer, 2)
    values, scale = view.value(source), view.value(dequantizer.input[1])
    zero = view.value(name) if name else np.zeros((), np.int8)
    if values is None or scale is None or zero is None or scale.ndim > 1:
        return None
    axis = attribute(dequantizer, "axis", 1) % max(values.ndim, 1) if scale.size > 1 else None
    if zero.size not in (1, scale.size) or (axis is not None and values.shape[axis : axis + 1] != scale.shape):
        return None
    return StoredWeight(values, scale, zero, axis, source != dequantizer.input[0])


def dequantized_weight(view: GraphIndex, dequantizer: NodeProto) -> NDArray[np.float64] | None:
    """``StoredWeight.real`` of a weight; None where a part of it is computed, or it has a scale for each block."""
    stored = stored_weight(view, dequantizer)
    return None if stored is None else stored.real


@dataclass(frozen=True, slots=True)
class IntegerLayer:
    """A Conv, Gemm or MatMul whose data and weight are quantized.

    Attributes:
        dequantizer: DequantizeLinear of its weight.
        axis: Output-channel axis of the weight.
        real: The dequantized weight, float64, output channels first.
        codes: Its codes less their zero-point, as float64 of the same shape.
        scale: float32 ``[O]``.
        step: Scale of the data.
        bias: float64 ``[O]``; zeros where there is none.
        bias_codes: Initial value of an int32 accumulator, float64 ``[O]``: stored codes, or the rounded bias.
    """

    node: NodeProto
    dequantizer: NodeProto
    axis: int
    real: Floats
    codes: Floats
    scale: NDArray[np.float32]
    step: float
    bias: Floats
    bias_codes: Floats

    @property
    def reach(self) -> Floats:
        """Upper bound of any accumulator's magnitude by output channel, ``[O]``."""
        sums: Floats = PEAK * np.abs(self.codes).reshape(len(self.codes), -1).sum(axis=1) + np.abs(self.bias_codes)
        return sums


def integer_layers(view: GraphIndex) -> Iterator[IntegerLayer]:
    """Every layer with constant integer weights on quantized data, in execution order.

    Transposed convolutions, products of two activations, and Gemm with factors are left out, since their sums share no
    accumulator with a bias.
    """
    layers = (_integer_layer(view, node) for node in view.of_type(*COUNTED))
    return (layer for layer in layers if layer is not None)


def _integer_layer(view: GraphIndex, node: NodeProto) -> IntegerLayer | None:
    pair, dequantizer = view.pair(node.input[0]), view.producer(node.input[1], "DequantizeLinear")
    if pair is None or dequantizer is None or attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
        return None
    step, stored = view.value(pair[0].input[1]), stored_weight(view, dequantizer)
    if step is None or step.size != 1 or stored is None or stored.scale.dtype != np.float32 or stored.values.ndim < 2:
        return None
    axis = output_channel_axis(node, stored.values.shape)
    if stored.axis not in (None, axis):
        return None
    real = np.moveaxis(stored.real, axis, 0)
    channels = np.broadcast_to(stored.scale.astype(np.float32).reshape(-1), len(real))
    codes = np.rint(real / channels.astype(np.float64).reshape(-1, *[1] * (real.ndim - 1)))
    width = float(step.reshape(-1)[0])
    bias = _bias(view, node, len(real), width * channels.astype(np.float64))
    if bias is None:
        return None
    return IntegerLayer(node, dequantizer, axis, real, codes, np.array(channels), width, *bias)


def _bias(view: GraphIndex, node: NodeProto, channels: int, products: Floats) -> tuple[Floats, Floats] | None:
    """The bias ``[O]`` and its codes; None where it is not constant."""
    if not input_at(node, 2):
        return np.zeros(channels), np.zeros(channels)
    value = view.value(node.input[2])
    if value is not None:
        real = np.broadcast_to(value.astype(np.float64).reshape(-1), channels)
        return real, np.rint(real / products)
    stored = stored_bias(view, node)
    if stored is None or stored[0].size != channels:
        return None
    codes, scale = stored
    return codes * scale, codes


def stored_bias(view: GraphIndex, node: NodeProto) -> tuple[Floats, Floats] | None:
    """int32 codes ``[O]`` of a bias and their scale ``[O]`` or ``[1]``; None for a float bias."""
    dequantizer = view.producer(input_at(node, 2), "DequantizeLinear")
    if dequantizer is None:
        return None
    codes, scale = view.value(dequantizer.input[0]), view.value(dequantizer.input[1])
    if codes is None or scale is None or codes.dtype != np.int32:
        return None
    return codes.astype(np.float64).reshape(-1), scale.astype(np.float64).reshape(-1)


def overflows(view: GraphIndex) -> Iterator[tuple[NodeProto, int, float]]:
    """Layers with channels that may overflow int32: the node, the number of such channels, the largest bound."""
    for layer in integer_layers(view):
        beyond = layer.reach > INT32_MAX
        if beyond.any():
            yield layer.node, int(beyond.sum()), float(layer.reach.max())


def cut_off(view: GraphIndex) -> dict[str, int]:
    """Number of int32 bias codes at an end of int32 by layer label, where larger values were saturated."""
    biases = ((label(node), stored_bias(view, node)) for node in view.of_type(*BIASED))
    counts = {name: int((np.abs(bias[0]) >= INT32_MAX).sum()) for name, bias in biases if bias is not None}
    return {name: count for name, count in counts.items() if count}


def require_room(model: ModelProto) -> None:
    """Checks the accumulators of a graph that is deployed.

    Raises:
        StageError: An accumulator of an integer layer may overflow int32; the message names the layer.
    """
    for node, channels, reach in overflows(GraphIndex.of(model)):
        what = f"{label(node)}: sums of {channels} channels reach {reach:.2g}, int32 ends at {INT32_MAX}"
        raise StageError(what, f"leave the layer in float: scheme.float_layers: [{label(node)}]")


def make_room(model: ModelProto) -> dict[str, int]:
    """Raises weight scales in place until int32 holds every accumulator; the number of changed channels by node name.

    The weights of those channels are rounded again. Only for float biases: an int32 bias is saturated already, or fits.
    A per-tensor scale becomes one per output channel, so that the other channels keep theirs.
    """
    raised: dict[str, int] = {}
    view = GraphIndex.of(model)
    for node in view.of_type(*COUNTED):
        layer = _integer_layer(view, node)
        if layer is None or stored_bias(view, node) is not None:
            continue
        fitting = roomy_scales(layer.scale, layer.real, layer.bias, layer.step)
        if np.any(fitting != layer.scale):
            _store(model, view, layer, fitting)
            view = GraphIndex.of(model)
            raised[label(node)] = int((fitting != layer.scale).sum())
    return raised


def _store(model: ModelProto, view: GraphIndex, layer: IntegerLayer, scale: NDArray[np.float32]) -> None:
    """Writes a weight with one scale per output channel."""
    dequantizer, shape = layer.dequantizer, (-1, *[1] * (layer.real.ndim - 1))
    zero = view.constants.get(input_at(dequantizer, 2))
    kind = helper.tensor_dtype_to_np_dtype(TensorProto.UINT8 if zero is None else zero.data_type)
    zeros = np.zeros(1, np.int64) if zero is None else np.asarray(view.value(zero.name)).astype(np.int64).reshape(-1)
    wide = np.broadcast_to(zeros, len(scale))
    codes = np.rint(layer.real / scale.astype(np.float64).reshape(shape))
    same = scale == layer.scale
    codes[same] = layer.codes[same]
    whole = np.moveaxis(codes + wide.reshape(shape), 0, layer.axis).astype(np.int32)
    values = {"codes": whole.astype(kind), "scale": scale, "zero_point": wide.astype(np.int32).astype(kind)}
    dequantizer.input[:] = [store(model, f"{dequantizer.output[0]}.{part}", value) for part, value in values.items()]
    dequantizer.ClearField("attribute")
    set_attribute(dequantizer, "axis", layer.axis)
