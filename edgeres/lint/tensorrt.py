"""The rules of TensorRT and TensorRT-RTX, in the order of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.lint import tensorrt_nodes as nodes
from edgeres.lint import tensorrt_placement as placement
from edgeres.lint import tensorrt_weights as weights

if TYPE_CHECKING:
    from edgeres.lint.rule import Rule

RULES: tuple[Rule, ...] = (
    nodes.symmetric,
    nodes.int8,
    nodes.three_inputs,
    nodes.explicit_type,
    nodes.zero_point_constant,
    nodes.scale_constant,
    nodes.positive,
    nodes.scale_float32,
    nodes.equal_volumes,
    nodes.channel_count,
    nodes.explicit_axis,
    nodes.per_tensor_activations,
    nodes.versions,
    nodes.known_operators,
    nodes.paired,
    weights.weight_next_to_dequantizer,
    weights.weight_axis,
    weights.float_bias,
    weights.kernel_shape,
    weights.channels,
    placement.all_inputs,
    placement.before_epilogue,
    placement.identity_only,
    placement.one_scale,
    placement.shorter_branch,
    placement.one_quantizer,
    placement.integers_in_and_out,
    placement.float_outputs,
)
