"""The rules of TensorRT and TensorRT-RTX, in the order of a report.

Where a rule ends or eases at ``LENIENT``, TensorRT-RTX 1.7 parses and builds such a graph with the results of ONNX
(``python -m benchmarks.corpus``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.lint.rule import LENIENT
from edgeres.lint.rules import tensorrt_nodes as nodes
from edgeres.lint.rules import tensorrt_placement as placement
from edgeres.lint.rules import tensorrt_weights as weights

if TYPE_CHECKING:
    from edgeres.lint.rule import Rule

RULES: tuple[Rule, ...] = (
    nodes.symmetric,
    nodes.int8,
    nodes.three_inputs,
    nodes.explicit_type,
    nodes.one_type,
    nodes.zero_point_constant,
    nodes.scale_constant,
    nodes.positive,
    nodes.scale_float32,
    *nodes.one_float_type.eased(LENIENT, "W"),
    nodes.equal_volumes,
    nodes.channel_count,
    nodes.explicit_axis.lifted(LENIENT),
    *nodes.per_tensor_activations.eased(LENIENT, "W"),
    nodes.no_blocks,
    nodes.not_scalar,
    nodes.versions,
    nodes.known_operators,
    *nodes.paired.eased(LENIENT, "W"),
    weights.weight_next_to_dequantizer.lifted((10, 0)),
    weights.float_weights,
    *weights.weight_axis.eased(LENIENT, "W"),
    weights.float_bias,
    weights.kernel_shape,
    weights.channels,
    weights.float_classifier,
    weights.batch_norm_folded,
    placement.all_inputs,
    placement.before_epilogue,
    placement.identity_only,
    placement.one_scale,
    placement.shorter_branch,
    placement.one_quantizer,
    placement.one_side_of_moves,
    placement.integers_in_and_out,
    placement.float_bindings,
    placement.float_outputs,
)
