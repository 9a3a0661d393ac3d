"""NNCF's post-training quantization, of a float ONNX graph and of a network, quiet and without telemetry.

NNCF (github.com/openvinotoolkit/nncf) has the Q/DQ placement of DenseNet, EfficientNet and similar networks. Its result
is then rewritten to the target's scheme: see ``edgeres.onnx_graph.rewrite``.

Of a network NNCF gets the float graph, chooses ranges, aligns channels and corrects biases. The result has the
scheme's placement: a tensor that NNCF left in float is calibrated here, and one that it quantized beyond the placement
is float again.
"""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgeres.errors import StageError
from edgeres.model.network import Network
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.integer_outputs import with_integer_outputs
from edgeres.onnx_graph.rewrite import rewrite
from edgeres.onnx_graph.stored_weights import stored_weight
from edgeres.onnx_graph.write import write_model
from edgeres.quant.calibrator import activation_qparams
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams, weight_qparams
from edgeres.quant.quant_table import QuantTable
from edgeres.quant.quantized import Quantized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import ModuleType

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.model.graph import Graph
    from edgeres.model.weights import Weights
    from edgeres.onnx_graph.rewrite import Rewritten
    from edgeres.progress import Advance
    from edgeres.quant.placement import Placement
    from edgeres.targets.target import QuantScheme

_NO_TELEMETRY = "NNCF_CI"
"""Environment variable with which NNCF replaces its telemetry by a stub at import."""

_OPSET, _IR_VERSION = 17, 8
"""Opset and IR version of NNCF's graph; the deployed graph is written separately."""

_OWN = "mse"
"""Calibrator of tensors that NNCF left in float."""


class Images(Protocol):
    """Batches ``[1,3,H,W]`` that can be iterated more than once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[NDArray[np.float32]]: ...


@dataclass(frozen=True, slots=True)
class SingleImages:
    """Images of a split one at a time, iterable many times, with only a few in memory."""

    split: Split
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.split)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return (batch for batch, _ in self.split.batches(self.preprocess, 1))


def import_nncf() -> ModuleType:
    """NNCF, imported without telemetry."""
    before = os.environ.get(_NO_TELEMETRY)
    os.environ[_NO_TELEMETRY] = "1"
    try:
        with _quiet():
            import nncf
    finally:
        del os.environ[_NO_TELEMETRY]
        os.environ.update({} if before is None else {_NO_TELEMETRY: before})
    return nncf  # type: ignore[no-any-return]  # ships no usable type information


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses NNCF's progress bars and log lines."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def quantize_float_graph(
    model: ModelProto,
    images: Images,
    scheme: QuantScheme,
    *,
    float_nodes: Sequence[str] = (),
    integer_outputs: bool = False,
    advance: Callable[[int], None],
) -> ModelProto:
    """A float graph with Q/DQ pairs as NNCF places them, in the same opset; ``model`` is left as it is.

    With ``integer_outputs`` also with those that it leaves out: see ``edgeres.onnx_graph.integer_outputs``.

    Its node names are unique. ``images`` are batches ``[1,3,H,W]`` that set the ranges, read in order; ``float_nodes``
    stay in float, and ``advance`` is called with the number of images done.

    Activations are quantized per tensor: the per-channel scales that NNCF puts in front of depthwise convolutions are
    refused by TensorRT and run in float on ONNX Runtime. A signed scheme asks for the symmetric preset, which still
    yields uint8 behind a ReLU; an unsigned one for the mixed preset, whose uint8 codes have a zero-point.

    Raises:
        StageError: NNCF refuses the graph; the message carries its own words.
    """
    nncf = import_nncf()
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters

    name = model.graph.input[0].name

    def feed(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        advance(len(batch))
        return {name: batch}

    per_tensor = QuantizationParameters(per_channel=False)
    try:
        with _quiet():
            made: ModelProto = nncf.quantize(
                model,
                nncf.Dataset(images, feed),
                preset=nncf.QuantizationPreset.PERFORMANCE if scheme.signed else nncf.QuantizationPreset.MIXED,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(images),
                fast_bias_correction=True,
                ignored_scope=nncf.IgnoredScope(names=list(float_nodes)) if float_nodes else None,
                advanced_parameters=AdvancedQuantizationParameters(activations_quantization_params=per_tensor),
            )
    except (nncf.ValidationError, nncf.InternalError, RuntimeError, ValueError, KeyError, IndexError) as failure:
        reason = f"{type(failure).__name__}: {(str(failure).splitlines() or [''])[0]}"
        raise StageError(f"NNCF cannot quantize the graph: {reason}", "compile with --variant float") from failure
    return with_integer_outputs(made, model, scheme, images) if integer_outputs else made


def nncf_quantized(
    graph: Graph,
    weights: Weights,
    scheme: QuantScheme,
    images: Images,
    advance: Advance | None = None,
    *,
    data: str,
) -> Quantized:
    """A folded network quantized by NNCF: scales under the scheme's placement, weights on their grid, NNCF's biases.

    ``images`` are the calibration images in batches ``[1,C,H,W]``, read more than once, and ``data`` their digest.
    ``advance`` is called with 1 for each image that NNCF has read; images for tensors that it left out do not count.

    Raises:
        StageError: Weights of other than 8 bits, which NNCF does not support, or NNCF rejects
            the graph.
    """
    placement = place(graph, scheme)
    bits = {scheme.bits_of(name) for name in placement.weighted}
    if bits - {8}:
        raise StageError(f"NNCF has no weights of {min(bits)} bits in convolutions", "leave quantizer 'nncf' out")
    first = next(iter(images), None)
    if first is None:
        raise StageError("there are no calibration images", "pass at least one")
    size: tuple[int, int] = first.shape[2:]
    model = write_model(graph, weights, size, opset=_OPSET, ir_version=_IR_VERSION)
    floats = [op.name for op in graph.weighted if op.name not in placement.weighted]
    by_nncf = quantize_float_graph(model, images, scheme, float_nodes=floats, advance=advance or (lambda _: None))
    rewritten = rewrite(by_nncf, scheme)
    arrays, scales = _read_weights(graph, rewritten, placement)
    rounded = weights.replaced(arrays)
    activations, calibrator = completed(
        Network(graph, rounded).eval(), scheme, placement, rewritten.activations, images
    )
    table = QuantTable(
        activations=activations,
        weights=scales,
        calibrator=calibrator,
        data=data,
        images=len(images),
        network=rounded.digest,
    )
    return Quantized(graph, rounded, table, scheme)


def _read_weights(
    graph: Graph, rewritten: Rewritten, placement: Placement
) -> tuple[dict[str, NDArray[np.float32]], dict[str, QParams]]:
    """Weights on their grid and biases by state-dict key, and scales by operation."""
    view = GraphIndex.of(rewritten.model)
    nodes = {node.name: node for node in view.nodes}
    arrays: dict[str, NDArray[np.float32]] = {}
    scales: dict[str, QParams] = {}
    for op in graph.weighted:
        node, key = nodes[op.name], f"{op.name}.weight"
        if op.bias:
            arrays[f"{op.name}.bias"] = _constant(view, node, 2)
        params = rewritten.weights.get(op.name)
        if params is None:
            arrays[key] = _constant(view, node, 1)
            if op.name in placement.weighted:  # NNCF left it in float
                scales[op.name] = weight_qparams(arrays[key], 8, "max")
            continue
        dequantizer = view.producer(node.input[1], "DequantizeLinear")
        stored = stored_weight(view, dequantizer) if dequantizer is not None else None
        assert stored is not None, "rewrite found its scales there"
        scale = params.scale if params.axis is not None else params.scale * len(stored.codes)
        scales[op.name] = QParams(scale=scale, axis=0, narrow=params.narrow)
        arrays[key] = params.dequantize(stored.codes)
    return arrays, dict(sorted(scales.items()))


def _constant(view: GraphIndex, node: NodeProto, index: int) -> NDArray[np.float32]:
    value = view.value(node.input[index])
    if value is None:
        raise StageError(f"{node.name}: NNCF computes {node.input[index]!r}", "leave quantizer 'nncf' out")
    return value.astype(np.float32)


def completed(
    network: Network, scheme: QuantScheme, placement: Placement, known: Mapping[str, QParams], images: Images
) -> tuple[dict[str, QParams], str]:
    """Parameters of every tensor that the placement quantizes, and the calibrator that a table records for them.

    Those that NNCF left out are observed on NNCF's weights: where it aligned channels, the float network has other
    ranges.
    """
    params = {tensor: known[tensor] for tensor in placement.owners if tensor in known}
    missing = [tensor for tensor in placement.owners if tensor not in params]
    if missing:
        histograms = observe(network, images, missing)
        params |= {tensor: activation_qparams(histograms[tensor], _OWN, scheme) for tensor in missing}
    params |= {tensor: params[origin] for tensor, origin in placement.shared.items()}
    activations = {tensor: params[tensor] for tensor in placement.tensors}
    own = f"nncf, {len(missing)} of {len(activations)} tensors by {_OWN}"
    return activations, own if missing else "nncf"
