"""Q/DQ pairs that NNCF leaves out, for runtimes whose integer kernels fuse no activation but a ReLU.

NNCF places pairs for OpenVINO: a convolution before HardSwish or SiLU ends in float, and squeeze and excitation stays
in float. ONNX Runtime, LiteRT and XNNPACK form an integer kernel only where its output is quantized too. So the output
of every integer convolution gets a pair, the squeeze gets integer weights, and products of quantized tensors get pairs
on all sides. HardSigmoid, for which these runtimes have no integer kernel, stays in float between two of them.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from edgeres.errors import StageError
from edgeres.onnx_graph.edit import free_name, insert_before, names, replace_nodes, store
from edgeres.onnx_graph.execute import exposing
from edgeres.onnx_graph.graph_index import BIASED, COMMUTING, GraphIndex
from edgeres.onnx_graph.read import sort_nodes
from edgeres.onnx_graph.roles import pooled_convolutions
from edgeres.quant.calibrator import activation_qparams
from edgeres.quant.qparams import weight_qparams

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.quant.qparams import QParams
    from edgeres.targets.target import QuantScheme

_POINTWISE = ("Mul", "Sigmoid", "GlobalAveragePool")
"""Operators with integer kernels where all their inputs and their output are quantized."""

_GATES = ("HardSigmoid", "Sigmoid", "Clip")
"""Operators whose output a Mul reads beside a quantized tensor."""

_CALIBRATOR = "mse"


def with_integer_outputs(
    model: ModelProto, float_model: ModelProto, scheme: QuantScheme, images: Iterable[NDArray[np.float32]]
) -> ModelProto:
    """NNCF's graph with the pairs that it left out; the graph itself where there are none.

    ``float_model`` is the graph that NNCF got, with inferred shapes; ``images`` ``[1,C,H,W]`` set the ranges of the new
    pairs, computed with activations as NNCF quantized them.
    """
    changed = deepcopy(model)
    changed.graph.ClearField("value_info")
    squeezed = {node.name for node in pooled_convolutions(GraphIndex.of(float_model))} - {*scheme.float_layers}
    _quantize_weights(changed, squeezed, scheme)
    tensors = _tensors(GraphIndex.of(changed))
    if not tensors:
        return model
    _insert(changed, tensors, _ranges(changed, tensors, scheme, images))
    return changed


def _quantize_weights(model: ModelProto, wanted: set[str], scheme: QuantScheme) -> None:
    """Integer weights of float convolutions, one scale per output channel."""
    view = GraphIndex.of(model)
    for node in view.of_type("Conv"):
        weight = view.value(node.input[1])
        if node.name not in wanted or weight is None:
            continue
        floats = weight.astype(np.float32)
        params = weight_qparams(floats, scheme.bits_of(node.name))
        codes, scales = params.quantize(floats).astype(np.int8), np.array(params.scale, np.float32)
        parts = (("codes", codes), ("scale", scales), ("zero_point", np.zeros(len(scales), np.int8)))
        stored = [store(model, f"{node.name}.weight.{part}", value) for part, value in parts]
        name = free_name(f"{node.name}.weight.dequantized", names(model))
        insert_before(model, node, helper.make_node("DequantizeLinear", stored, [name], name=name, axis=0))
        node.input[1] = name


def _tensors(view: GraphIndex) -> dict[str, None]:
    """Tensors that need a pair on every read, in execution order."""
    chosen: dict[str, None] = {}
    outputs = {value.name for value in view.model.graph.output}

    def is_quantized(tensor: str) -> bool:
        while tensor not in chosen and view.pair(tensor) is None:
            moved = view.producer(tensor, *COMMUTING)
            if moved is None or moved.op_type == "Concat":
                return False
            tensor = moved.input[0]
        return True

    def is_read_in_float(tensor: str) -> bool:
        return any(node.op_type != "QuantizeLinear" for node, _ in view.consumers(tensor))

    for node in view.nodes:
        if node.op_type in BIASED:
            weighted = view.weight_dequantizer(node.input[1]) is not None and is_quantized(node.input[0])
            output = view.behind_epilogue(node.output[0])
            if weighted and output not in outputs and is_read_in_float(output):
                chosen[output] = None
            continue
        if node.op_type not in _POINTWISE or any(name in view.constants for name in node.input):
            continue
        floats = [name for name in node.input if not is_quantized(name)]
        gated = all(view.producer(name, *_GATES) is not None for name in floats)
        output = node.output[0]
        if len(floats) < len(node.input) and gated and output not in outputs and _is_useful(view, output):
            chosen.update(dict.fromkeys(floats))
            if is_read_in_float(output):
                chosen[output] = None
    return chosen


def _is_useful(view: GraphIndex, tensor: str) -> bool:
    """Whether an integer kernel reads a tensor."""
    return any(
        node.op_type in ("QuantizeLinear", *_POINTWISE)
        or (node.op_type == "Conv" and view.weight_dequantizer(node.input[1]) is not None)
        for node, _ in view.consumers(tensor)
    )


def _ranges(
    model: ModelProto, tensors: Iterable[str], scheme: QuantScheme, images: Iterable[NDArray[np.float32]]
) -> dict[str, QParams]:
    """Scale of each tensor: that of a pair that is there already, otherwise from a histogram of its values."""
    import torch

    from edgeres.quant.observer import Binner, Tally

    view = GraphIndex.of(model)
    open_ones = [name for name in tensors if not view.quantizers_of(name)]
    run, binner = exposing(model, open_ones), Binner(torch.device("cpu"))
    tallies, count = {name: Tally(name, binner) for name in open_ones}, 0
    for batch in images:
        for name, value in run(batch).items():
            tallies[name].add(torch.from_numpy(np.array(value, dtype=np.float32)))
        count += len(batch)
    if not count:
        raise StageError("there are no calibration images", "pass at least one")
    return {name: activation_qparams(tally.histogram(), _CALIBRATOR, scheme) for name, tally in tallies.items()}


def _insert(model: ModelProto, tensors: Iterable[str], params: Mapping[str, QParams]) -> None:
    """Puts a pair on every float read of the tensors; tensors without ``params`` have one that some readers share."""
    view, nodes, taken = GraphIndex.of(model), list[NodeProto](), names(model)
    values = dict[str, str]()
    for tensor in tensors:
        present = view.quantizers_of(tensor)
        shared = view.consumers(present[0].output[0])[0][0].output[0] if present else ""
        values[tensor] = shared or free_name(f"{tensor}.dequantized", taken)
        for reader, index in view.consumers(tensor):
            if reader.op_type != "QuantizeLinear":
                reader.input[index] = values[tensor]
    for node in model.graph.node:
        nodes.append(node)
        for tensor in node.output:
            if tensor in params:
                codes = free_name(f"{tensor}.codes", taken)
                grid = _stored(model, tensor, params[tensor], taken)
                nodes.append(helper.make_node("QuantizeLinear", [tensor, *grid], [codes], name=codes))
                value = values[tensor]
                nodes.append(helper.make_node("DequantizeLinear", [codes, *grid], [value], name=value))
    replace_nodes(model, nodes)
    sort_nodes(model)


def _stored(model: ModelProto, tensor: str, params: QParams, taken: set[str]) -> tuple[str, str]:
    """Names of a new scale and zero-point."""
    scale, zero_point = (free_name(f"{tensor}.{part}", taken) for part in ("scale", "zero_point"))
    kind = np.int8 if params.signed else np.uint8
    model.graph.initializer.append(numpy_helper.from_array(np.array(params.scale[0], np.float32), scale))
    model.graph.initializer.append(numpy_helper.from_array(np.array(params.zero_point, kind), zero_point))
    return scale, zero_point
