"""``IntegerNetwork``: exact evaluation of a Q/DQ graph.

Between DequantizeLinear and QuantizeLinear the graph is evaluated in real numbers: ``S (q - Z)`` of each code, the
exact float32 bias, sums without rounding. Only QuantizeLinear rounds. Runtimes that compute the same graph in float32
differ from it only where their own rounding crosses a boundary; ``QuantizedTensor.bounds`` bounds that rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from edgeres.errors import ModelError
from edgeres.onnx_graph.graph_index import QDQ, WEIGHTED, GraphIndex, label
from edgeres.parity.integer.kernel import LOGITS_ONLY, LayerConstants, numbers, quantizer
from edgeres.parity.integer.operations import CARRIED, FLOAT_ONLY, KNOWN, POOLS, carried, computed, pooled
from edgeres.parity.integer.value import Exact, Real, Term, Value, constant, requantize
from edgeres.quant.qparams import PEAK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.parity.integer.value import Array
    from edgeres.quant.qparams import QParams

Bias = Literal["float", "int32"]

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
        steps: Computes the exact value over the scale in float64, of the codes' shape.
        bounds: Computes the error bound of float32 arithmetic in steps, of the codes' shape.
    """

    tensor: str
    codes: Array
    params: QParams
    steps: Callable[[], NDArray[np.float64]]
    bounds: Callable[[], NDArray[np.float64]]


class Answer(NamedTuple):
    """Output of the integer reference: float64 logits ``[N,classes]``, and every quantized tensor by name."""

    logits: NDArray[np.float64]
    codes: dict[str, Array]


class IntegerNetwork:
    """Exact integer evaluation of a classifier's Q/DQ graph with its nodes in execution order.

    ``bias`` ``float`` takes biases as the graph has them; ``int32`` rounds those of integer layers to the scale of
    their accumulator, ``S_1 S_2``, as the ONNX operator QLinearConv and Jacob et al. 2018, section 2.4, do.

    Raises:
        ModelError: An unsupported operator, scale or weight; the message names the node.
    """

    def __init__(self, model: ModelProto, bias: Bias = "float") -> None:
        self.view = GraphIndex.of(model)
        self.image, self.output = str(model.graph.input[0].name), str(model.graph.output[0].name)
        for node in self.view.nodes:
            if node.op_type not in (*KNOWN, *QDQ):
                raise ModelError(f"node {label(node)!r}: {node.op_type} has no integer reference", LOGITS_ONLY)
            if node.op_type in POOLS:
                pooled(node)
        self.weighted = {
            node.output[0]: LayerConstants.of(self.view, node, whole_bias=bias == "int32")
            for node in self.view.of_type(*WEIGHTED)
        }
        nodes = self.view.activation_quantizers()
        self.codes = {node.input[0]: node.output[0] for node in nodes}
        self.params_of_codes = {node.output[0]: quantizer(self.view, node) for node in nodes}
        self.params = {tensor: self.params_of_codes[codes] for tensor, codes in self.codes.items()}
        self.last_reads = self._last_reads()

    @property
    def float_nodes(self) -> tuple[str, ...]:
        """Nodes computed in float64, because they have float weights or no integer form."""
        floats = {name for name, layer in self.weighted.items() if isinstance(layer.kernel, np.ndarray)}
        return tuple(label(node) for node in self.view.nodes if node.op_type in FLOAT_ONLY or node.output[0] in floats)

    def nodes_of(self, tensor: str) -> tuple[str, ...]:
        """Nodes between a tensor's quantizer and the quantizers before it, in execution order."""
        between, pending = set[str](), [tensor]
        while pending:
            node = self.view.producer(pending.pop())
            if node is not None and node.op_type != "DequantizeLinear" and node.output[0] not in between:
                between.add(node.output[0])
                pending += node.input
        return tuple(label(node) for node in self.view.nodes if node.output[0] in between)

    def run(self, images: NDArray[np.float32]) -> Answer:
        """Logits and codes of images ``[N,C,H,W]``."""
        evaluation = _Evaluation(self, images, {})
        codes = {quantized.tensor: quantized.codes for quantized in evaluation.quantized()}
        return Answer(evaluation.logits(), codes)

    def layers(
        self, images: NDArray[np.float32], codes: Mapping[str, Array]
    ) -> Iterator[QuantizedTensor | NDArray[np.float64]]:
        """Output of each layer for images ``[N,C,H,W]``, in execution order; the logits ``[N,classes]`` come last.

        Every tensor is computed from the ``codes`` of the quantized tensors before it, channels second, so that a
        difference is the error of that layer alone.
        """
        evaluation = _Evaluation(self, images, codes)
        yield from evaluation.quantized()
        yield evaluation.logits()

    def _last_reads(self) -> dict[str, int]:
        """Position of the last quantizer, or of the output, that reads a tensor, by tensor."""
        nodes = self.view.nodes
        last = {self.output: len(nodes)}
        for position, node in reversed(list(enumerate(nodes))):
            read = position if node.op_type == "QuantizeLinear" else last.get(node.output[0], -1)
            for name in node.input:
                last[name] = max(last.get(name, -1), read)
        return last


class _Evaluation:
    """One evaluation of a batch; ``replacements`` are codes of quantized tensors that later layers read."""

    def __init__(self, network: IntegerNetwork, images: NDArray[np.float32], replacements: Mapping[str, Array]) -> None:
        self._network, self._view = network, network.view
        self._replacements = {network.codes[tensor]: _channels_last(codes) for tensor, codes in replacements.items()}
        image = Real(_channels_last(images).astype(np.float64), _PIXEL)
        self._values: dict[str, Value] = {network.image: image}
        self._codes: dict[str, Array] = {}

    def quantized(self) -> Iterator[QuantizedTensor]:
        """Every quantized tensor in execution order."""
        network = self._network
        for position, node in enumerate(self._view.nodes):
            name = node.output[0]
            if name in network.params_of_codes:
                tensor = self._quantize(node, network.params_of_codes[name])
                self._codes[name] = self._replacements.get(name, tensor.codes)
                yield replace(tensor, codes=_channels_second(tensor.codes))
                for cache in (self._values, self._codes):
                    for old in [old for old in cache if network.last_reads.get(old, -1) <= position]:
                        del cache[old]

    def logits(self) -> NDArray[np.float64]:
        """The logits, once every quantized tensor is computed."""
        return self._value(self._network.output).approximate()

    def _quantize(self, node: NodeProto, params: QParams) -> QuantizedTensor:
        """Codes of a tensor, from the value before it and the operations that preserve the order of values."""
        chain: list[NodeProto] = []
        tensor = node.input[0]
        while (producer := self._view.producer(tensor, *CARRIED)) is not None:
            chain.append(producer)
            tensor = producer.input[0]
        value = self._value(tensor)
        changes = [carried(self._view, step) for step in reversed(chain)]

        def through(x: Array, zero: float, lowest: float) -> Array:
            for change in changes:
                x = change(x, zero, lowest)
            return x

        def bounds() -> NDArray[np.float64]:
            error = np.broadcast_to(value.error() / params.scale[0], value.approximate().shape)
            return _channels_second(through(error, 0, 0)) + _QUANTIZING

        return QuantizedTensor(
            tensor=node.input[0],
            codes=through(requantize(value, params), params.zero_point, params.low),
            params=params,
            steps=lambda: _channels_second(through(value.approximate() / params.scale[0], 0, -np.inf)),
            bounds=bounds,
        )

    def _value(self, tensor: str) -> Value:
        if tensor not in self._values:
            self._values[tensor] = self._compute(tensor)
        return self._values[tensor]

    def _compute(self, tensor: str) -> Value:
        node = self._view.producer(tensor)
        if node is None:
            raise ModelError(f"tensor {tensor!r} is an activation that no node makes", "export the model again")
        if node.op_type == "DequantizeLinear":
            return self._dequantized(node)
        # Weights, biases and shapes are read by their operation.
        activations = node.input if node.op_type in ("Add", "Mul", "Concat") else node.input[:1]
        values = tuple(self._operand(node, name) for name in activations)
        return computed(self._view, node, values, self._network.weighted.get(tensor))

    def _operand(self, node: NodeProto, name: str) -> Value:
        if name not in self._view.constants:
            return self._value(name)
        array = numbers(self._view, name)
        if array.ndim == 4 and array.size != array.shape[1]:
            return Real(_channels_last(array).astype(np.float64))
        if array.ndim != 4 and array.size != 1:
            raise ModelError(f"node {label(node)!r} takes a constant {array.shape}", LOGITS_ONLY)
        return Exact((constant(array.reshape(-1)),))

    def _dequantized(self, node: NodeProto) -> Exact:
        params = self._network.params_of_codes.get(node.input[0])
        if params is None:
            raise ModelError(f"node {label(node)!r} dequantizes what no quantizer made", LOGITS_ONLY)
        if quantizer(self._view, node) != params:
            raise ModelError(f"node {label(node)!r} has another scale than its quantizer", "export the model again")
        codes = self._codes[node.input[0]].astype(np.float32) - np.float32(params.zero_point)
        return Exact((Term(codes, np.asarray(params.scale[0]), np.asarray(float(PEAK))),))


def _channels_last(array: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if array.ndim == 4 else array


def _channels_second(array: Array) -> Array:
    return np.moveaxis(array, -1, 1) if array.ndim == 4 else array
