"""``IntegerNetwork``: exact evaluation of a Q/DQ graph.

Between DequantizeLinear and QuantizeLinear the graph is evaluated in real numbers: ``S (q - Z)`` of each code, the
exact float32 bias, sums without rounding. Only QuantizeLinear rounds. Runtimes that compute the same graph in float32
differ from it only where their own rounding crosses a boundary; ``QuantizedTensor.bounds`` bounds that rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.errors import ModelError
from edgeres.onnx_graph.graph_index import WEIGHTED, GraphIndex, label
from edgeres.parity.integer.constants import numbers, quantizer
from edgeres.parity.integer.operations import CARRIED, FLOAT_ONLY, KNOWN, IntegerLayer, carried, computed
from edgeres.parity.integer.pool import POOLS, pooled
from edgeres.parity.integer.product import PEAK
from edgeres.parity.integer.requantize import requantize
from edgeres.parity.integer.value import Exact, Real, Term, Value, constant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.parity.integer.value import Array
    from edgeres.quant.qparams import QParams

Bias = Literal["float", "int32"]
Codes = dict[str, "Array"]

_PIXEL = 2.0**-22
"""Relative error of a quantized pixel: it is divided by a float32 scale, or multiplied by the scale's reciprocal."""

_QUANTIZING = 255 * 2.0**-22
"""Error of a quantizer itself in steps: some shift values to the bottom of their range and back."""


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """A quantized tensor, channels second as in the graph.

    Attributes:
        tensor: Name of the tensor that QuantizeLinear reads.
        codes: int8 or uint8.
        params: Scale and zero-point.
        steps: Computes the exact value over the scale in float64, of the codes' shape.
        bounds: Computes the error bound of float32 arithmetic in steps, of the codes' shape.
    """

    tensor: str
    codes: Array
    params: QParams
    steps: Callable[[], NDArray[np.float64]]
    bounds: Callable[[], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Answer:
    """Output of the integer reference.

    Attributes:
        logits: float64 ``[N,classes]``.
        codes: Every quantized tensor by name, channels second.
    """

    logits: NDArray[np.float64]
    codes: Codes


class IntegerNetwork:
    """Exact integer evaluation of a classifier's Q/DQ graph.

    Args:
        model: The graph, its nodes in execution order.
        bias: ``float`` takes biases as the graph has them; ``int32`` rounds those of integer layers to the scale of
            their accumulator, ``S_1 S_2``, as the ONNX operator QLinearConv and Jacob et al. 2018, section 2.4, do.

    Raises:
        ModelError: An unsupported operator, scale or weight; the message names the node.
    """

    def __init__(self, model: ModelProto, bias: Bias = "float") -> None:
        self.view = GraphIndex.of(model)
        self._image, self._logits = str(model.graph.input[0].name), str(model.graph.output[0].name)
        nodes = self.view.nodes
        for node in nodes:
            if node.op_type not in (*KNOWN, "QuantizeLinear", "DequantizeLinear"):
                raise ModelError(
                    f"node {label(node)!r}: {node.op_type} has no integer reference",
                    "its logits can be compared all the same",
                )
            if node.op_type in POOLS:
                pooled(node)
        self._layers = {
            node.output[0]: IntegerLayer.of(self.view, node, whole_bias=bias == "int32")
            for node in nodes
            if node.op_type in WEIGHTED
        }
        self._quantizers = tuple(
            node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] not in self.view.constants
        )
        self._params = {node.output[0]: quantizer(self.view, node) for node in self._quantizers}
        self._needed = self._last_demands()

    @property
    def quantized(self) -> tuple[str, ...]:
        """Tensors that a QuantizeLinear reads, in execution order."""
        return tuple(node.input[0] for node in self._quantizers)

    @property
    def codes(self) -> dict[str, str]:
        """Name of the codes in the graph by quantized tensor."""
        return {node.input[0]: node.output[0] for node in self._quantizers}

    @property
    def params(self) -> dict[str, QParams]:
        """Scale and zero-point by quantized tensor."""
        return {node.input[0]: self._params[node.output[0]] for node in self._quantizers}

    @property
    def float_nodes(self) -> tuple[str, ...]:
        """Nodes computed in float64, because they have float weights or no integer form."""
        float_weights = {name for name, layer in self._layers.items() if isinstance(layer.weight, np.ndarray)}
        return tuple(
            label(node) for node in self.view.nodes if node.op_type in FLOAT_ONLY or node.output[0] in float_weights
        )

    def nodes_of(self, tensor: str) -> tuple[str, ...]:
        """Nodes between a tensor's quantizer and the quantizers before it, in execution order."""
        found, open_ = set[str](), [tensor]
        while open_:
            node = self.view.producer(open_.pop())
            if node is None or node.op_type == "DequantizeLinear" or node.output[0] in found:
                continue
            found.add(node.output[0])
            open_ += node.input
        return tuple(label(node) for node in self.view.nodes if node.output[0] in found)

    def run(self, images: NDArray[np.float32]) -> Answer:
        """Logits and codes of images ``[N,C,H,W]``."""
        evaluation = _Evaluation(self, images, {})
        codes = {found.tensor: found.codes for found in evaluation.quantized()}
        return Answer(evaluation.logits(), codes)

    @property
    def output(self) -> str:
        """Name of the logits."""
        return self._logits

    def layers(
        self, images: NDArray[np.float32], given: Mapping[str, Array]
    ) -> Iterator[QuantizedTensor | NDArray[np.float64]]:
        """Output of each layer computed from given codes, in execution order; the logits ``[N,classes]`` come last.

        Every tensor is computed from the codes that ``given`` has of the tensors before it, so that a difference is the
        error of that layer alone.

        Args:
            images: float32 ``[N,C,H,W]``.
            given: Codes of every quantized tensor, channels second.
        """
        evaluation = _Evaluation(self, images, given)
        yield from evaluation.quantized()
        yield evaluation.logits()

    def _last_demands(self) -> dict[str, int]:
        """Position of the last quantizer, or of the output, that reads a tensor, by tensor."""
        nodes = self.view.nodes
        needed = {self._logits: len(nodes)}
        for position in reversed(range(len(nodes))):
            node = nodes[position]
            asked = position if node.op_type == "QuantizeLinear" else needed.get(node.output[0], -1)
            for name in node.input:
                needed[name] = max(needed.get(name, -1), asked)
        return needed


class _Evaluation:
    """One evaluation of a batch."""

    def __init__(self, network: IntegerNetwork, images: NDArray[np.float32], given: Mapping[str, Array]) -> None:
        self._network, self._view = network, network.view
        self._given = {network.codes[tensor]: _channels_last(codes) for tensor, codes in given.items()}
        image = Real(_channels_last(images).astype(np.float64), _PIXEL)
        self._values: dict[str, Value] = {network._image: image}
        self._codes: dict[str, Array] = {}

    def quantized(self) -> Iterator[QuantizedTensor]:
        """Every quantized tensor in execution order."""
        network = self._network
        for position, node in enumerate(self._view.nodes):
            if node.output[0] in network._params:
                found = self._quantize(node, network._params[node.output[0]])
                self._codes[node.output[0]] = self._given.get(node.output[0], found.codes)
                yield replace(found, codes=_channels_second(found.codes))
                for held in (self._values, self._codes):
                    for name in [name for name in held if network._needed.get(name, -1) <= position]:
                        del held[name]

    def logits(self) -> NDArray[np.float64]:
        """The logits, once every quantized tensor is computed."""
        return self._value(self._network._logits).approximate()

    def _quantize(self, node: NodeProto, params: QParams) -> QuantizedTensor:
        """Codes of a tensor, from the value before it and the operations that preserve the order of values."""
        chain: list[NodeProto] = []
        tensor = node.input[0]
        while (maker := self._view.producer(tensor, *CARRIED)) is not None:
            chain.append(maker)
            tensor = maker.input[0]
        value = self._value(tensor)
        codes = self._as_they_were(tensor, params)
        codes = requantize(value, params) if codes is None else codes
        changes = [carried(self._view, step) for step in reversed(chain)]
        for change in changes:
            codes = change(codes, params.zero_point, params.low)

        def steps() -> NDArray[np.float64]:
            found = value.approximate() / params.scale[0]
            for change in changes:
                found = change(found, 0, -np.inf)
            return _channels_second(found)

        def bounds() -> NDArray[np.float64]:
            found = np.broadcast_to(value.error() / params.scale[0], value.approximate().shape)
            for change in changes:
                found = change(found, 0, 0)
            return _channels_second(found) + _QUANTIZING

        return QuantizedTensor(node.input[0], codes, params, steps, bounds)

    def _as_they_were(self, tensor: str, params: QParams) -> Array | None:
        """Codes that are dequantized and quantized again by the same scale; None otherwise."""
        maker = self._view.producer(tensor, "DequantizeLinear")
        same = maker is not None and self._network._params.get(maker.input[0]) == params
        return self._codes[maker.input[0]] if maker is not None and same else None

    def _value(self, tensor: str) -> Value:
        if tensor not in self._values:
            self._values[tensor] = self._made(tensor)
        return self._values[tensor]

    def _made(self, tensor: str) -> Value:
        node = self._view.producer(tensor)
        if node is None:
            raise ModelError(f"tensor {tensor!r} is an activation that no node makes", "export the model again")
        if node.op_type == "DequantizeLinear":
            return self._dequantized(node)
        values = tuple(self._operand(node, name) for name in node.input if self._is_activation(node, name))
        return computed(self._view, node, values, self._network._layers.get(tensor))

    def _is_activation(self, node: NodeProto, name: str) -> bool:
        """Whether an input is an activation; weights, biases and shapes are read by their operation."""
        if node.op_type in ("Add", "Mul"):
            return True
        return bool(name == node.input[0])

    def _operand(self, node: NodeProto, name: str) -> Value:
        if name not in self._view.constants:
            return self._value(name)
        array = numbers(self._view, name)
        if array.size not in (1, array.shape[1] if array.ndim == 4 else -1):
            raise ModelError(
                f"node {label(node)!r} takes a constant {array.shape}", "its logits can be compared all the same"
            )
        return Exact((constant(array.reshape(-1)),))

    def _dequantized(self, node: NodeProto) -> Exact:
        params = self._network._params.get(node.input[0])
        if params is None:
            raise ModelError(
                f"node {label(node)!r} dequantizes what no quantizer made", "its logits can be compared all the same"
            )
        if quantizer(self._view, node) != params:
            raise ModelError(f"node {label(node)!r} has another scale than its quantizer", "export the model again")
        codes = self._codes[node.input[0]].astype(np.float32) - np.float32(params.zero_point)
        return Exact((Term(codes, np.asarray(params.scale[0]), np.asarray(float(PEAK))),))


def _channels_last(array: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if array.ndim == 4 else array


def _channels_second(array: Array) -> Array:
    return np.moveaxis(array, -1, 1) if array.ndim == 4 else array
