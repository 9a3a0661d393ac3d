"""Graphs as edgeres writes them, each with one defect: what every lint rule has to find, and how to make it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, helper

from benchmarks.draft import Draft

if TYPE_CHECKING:
    from collections.abc import Callable

    from onnx import ModelProto

# Names in benchmarks.subjects.THIN: the stem's conv1, relu and maxpool; layer1.0 keeps its identity, layer2.0 projects.
FIRST, SECOND = "layer1.0.conv1", "layer1.0.conv2"
INNER, OUT, PROJECTED = "layer1.0.relu1", "layer1.0.relu", "layer2.0.downsample.0"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One defect.

    Attributes:
        rule: The rule that is about it.
        make: Puts it into a draft.
        tensorrt: A version in which the rule holds as an error, or at all.
        also: Other rules that speak up about it too.
        repaired: Whether ``edgeres lint --fix`` makes it go away.
    """

    rule: str
    make: Callable[[Draft], None]
    tensorrt: str = "10.3"
    also: tuple[str, ...] = ()
    repaired: bool = True


def _zero_point(draft: Draft) -> None:
    draft.put(f"{INNER}.zero_point", np.array(-128, np.int8))
    scale = draft.value(f"{INNER}.scale")
    draft.put(f"{INNER}.scale", np.asarray(scale * 127 / 255, np.float32))


def _unsigned(draft: Draft) -> None:
    draft.put(f"{INNER}.zero_point", np.array(0, np.uint8))
    scale = draft.value(f"{INNER}.scale")
    draft.put(f"{INNER}.scale", np.asarray(scale * 127 / 255, np.float32))


def _no_zero_point(draft: Draft) -> None:
    for node in (f"{INNER}.quantize", f"{SECOND}.input0.dequantize"):
        del draft.node(node).input[2]
    draft.put(f"{INNER}.scale", np.asarray(draft.value(f"{INNER}.scale") * 127 / 255, np.float32))


def _two_types(draft: Draft) -> None:
    draft.model.opset_import[0].version = 21
    draft.model.ir_version = 10
    draft.attribute(f"{INNER}.quantize", "output_dtype", TensorProto.UINT8)


def _computed_zero_point(draft: Draft) -> None:
    name = f"{INNER}.zero_point"
    draft.before(f"{INNER}.quantize", helper.make_node("Identity", [name], ["copy"], name="copy"))
    draft.node(f"{INNER}.quantize").input[2] = "copy"


def _computed_scale(draft: Draft) -> None:
    name = f"{INNER}.scale"
    draft.before(f"{INNER}.quantize", helper.make_node("Abs", [name], ["copy"], name="copy"))
    draft.node(f"{INNER}.quantize").input[1] = "copy"


def _zero_scale(draft: Draft) -> None:
    value = draft.value(f"{FIRST}.weight.scale").copy()
    value[3] = 0
    draft.put(f"{FIRST}.weight.scale", value)


def _half_scale(draft: Draft) -> None:
    draft.put(f"{INNER}.scale", draft.value(f"{INNER}.scale").astype(np.float16))


def _mixed_types(draft: Draft) -> None:
    draft.model.opset_import[0].version = 19
    draft.model.ir_version = 9
    draft.put("half", draft.value(f"{INNER}.scale").astype(np.float16))
    draft.node(f"{INNER}.quantize").input[1] = "half"


def _fewer_zero_points(draft: Draft) -> None:
    draft.put(f"{FIRST}.weight.zero_point", np.zeros((), np.int8))


def _fewer_scales(draft: Draft) -> None:
    for kind in ("scale", "zero_point"):
        draft.put(f"{FIRST}.weight.{kind}", draft.value(f"{FIRST}.weight.{kind}")[:8])


def _no_axis(draft: Draft) -> None:
    draft.attribute(f"{FIRST}.weight.dequantize", "axis", None)


def _channels_of_an_activation(draft: Draft) -> None:
    draft.put(f"{INNER}.scale", np.full(16, draft.value(f"{INNER}.scale"), np.float32))
    draft.put(f"{INNER}.zero_point", np.zeros(16, np.int8))
    for node in (f"{INNER}.quantize", f"{SECOND}.input0.dequantize"):
        draft.attribute(node, "axis", 1)


def _blocks(draft: Draft) -> None:
    draft.model.opset_import[0].version = 21
    draft.model.ir_version = 10
    shape = draft.value(f"{FIRST}.weight.codes").shape
    blocks = (shape[0], 2, *shape[2:])
    draft.put(f"{FIRST}.weight.scale", np.full(blocks, 0.01, np.float32))
    draft.put(f"{FIRST}.weight.zero_point", np.zeros(blocks, np.int8))
    draft.attribute(f"{FIRST}.weight.dequantize", "axis", 1)
    draft.attribute(f"{FIRST}.weight.dequantize", "block_size", shape[1] // 2)


def _scalar(draft: Draft) -> None:
    draft.put("one", np.array(1, np.float32))
    draft.put("ten", np.array(10, np.float32))
    scale, zero = f"{INNER}.scale", f"{INNER}.zero_point"
    draft.before("fc", *draft.pair("one", "scalar", scale, zero))
    draft.before("fc", helper.make_node("Add", ["flatten", "scalar.dq"], ["shifted"], name="shift"))
    draft.node("fc").input[0] = "shifted"


def _too_new(draft: Draft) -> None:
    draft.model.opset_import[0].version = 21
    draft.model.ir_version = 10


def _fused_operator(draft: Draft) -> None:
    """One convolution in ONNX Runtime's QOperator form, with its int32 bias."""
    names = [f"{INNER}.codes", f"{INNER}.scale", f"{INNER}.zero_point"]
    weight = [f"{SECOND}.weight.{kind}" for kind in ("codes", "scale", "zero_point")]
    draft.put("out.scale", np.array(0.2, np.float32))
    draft.put("out.zero", np.array(0, np.int8))
    conv = draft.node(SECOND)
    fused = helper.make_node(
        "QLinearConv", [*names, *weight, "out.scale", "out.zero"], ["fused"], name="fused",
        kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1],
    )  # fmt: skip
    out = helper.make_node("DequantizeLinear", ["fused", "out.scale", "out.zero"], [conv.output[0]], name="fused.out")
    draft.before(SECOND, fused, out)
    draft.drop(SECOND, f"{SECOND}.input0.dequantize", f"{SECOND}.weight.dequantize")


def _vendor_operator(draft: Draft) -> None:
    relu = draft.node(OUT)
    relu.op_type, relu.domain = "QuickGelu", "com.microsoft"
    draft.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _unread_codes(draft: Draft) -> None:
    quantizer, _ = draft.pair(OUT, "nobody", f"{OUT}.scale", f"{OUT}.zero_point")
    draft.before("layer2.0.conv1", quantizer)


def _stranger(draft: Draft) -> None:
    """Codes that an Identity hands on before they are dequantized."""
    draft.before(f"{SECOND}.input0.dequantize", helper.make_node("Identity", [f"{INNER}.codes"], ["copy"], name="copy"))
    draft.node(f"{SECOND}.input0.dequantize").input[0] = "copy"


def _transposed_weight(draft: Draft) -> None:
    codes = draft.value(f"{FIRST}.weight.codes")
    draft.put(f"{FIRST}.weight.codes", codes.transpose(0, 1, 3, 2))
    turn = helper.make_node("Transpose", [f"{FIRST}.weight"], ["turned"], name="turn", perm=[0, 1, 3, 2])
    draft.before(FIRST, turn)
    draft.node(FIRST).input[1] = "turned"


def _wrong_axis(draft: Draft) -> None:
    draft.attribute(f"{FIRST}.weight.dequantize", "axis", 1)


def _integer_bias(draft: Draft) -> None:
    scale = draft.value(f"{INNER}.scale") * draft.value(f"{SECOND}.weight.scale")
    bias = draft.value(f"{SECOND}.bias")
    draft.put(f"{SECOND}.bias", np.rint(bias / scale).astype(np.int32))
    draft.put("bias.scale", scale.astype(np.float32))
    draft.put("bias.zero", np.zeros(scale.shape, np.int32))
    names = [f"{SECOND}.bias", "bias.scale", "bias.zero"]
    draft.before(SECOND, helper.make_node("DequantizeLinear", names, ["bias"], name="bias.dq", axis=0))
    draft.node(SECOND).input[2] = "bias"


def _no_kernel_shape(draft: Draft) -> None:
    draft.attribute(FIRST, "kernel_shape", None)


def _odd_channels(draft: Draft) -> None:
    keep = 13
    for kind in ("weight.codes", "weight.scale", "weight.zero_point", "bias"):
        draft.put(f"{FIRST}.{kind}", draft.value(f"{FIRST}.{kind}")[:keep])
    draft.put(f"{SECOND}.weight.codes", draft.value(f"{SECOND}.weight.codes")[:, :keep])


def _integer_classifier(draft: Draft) -> None:
    weight = draft.value("fc.weight")
    scale = np.abs(weight).max(axis=1) / np.float32(127)
    draft.put("fc.codes", np.rint(weight / scale[:, None]).astype(np.int8))
    draft.put("fc.scale", scale.astype(np.float32))
    draft.put("fc.zero", np.zeros(scale.shape, np.int8))
    names = ["fc.codes", "fc.scale", "fc.zero"]
    draft.before("fc", helper.make_node("DequantizeLinear", names, ["fc.dq"], name="fc.dq", axis=0))
    draft.before("fc", *draft.pair("flatten", "flat", f"{OUT}.scale", f"{OUT}.zero_point"))
    draft.node("fc").input[:] = ["flat.dq", "fc.dq", "fc.bias"]


def _around_norm(draft: Draft) -> None:
    conv = draft.node("layer2.0.conv1")
    for name, value in (("gain", 1.0), ("shift", 0.0), ("mean", 0.0), ("variance", 1.0)):
        draft.put(name, np.full(32, value, np.float32))
    inner = f"{conv.output[0]}.raw"
    relu = draft.node("layer2.0.relu1")
    names = ["gain", "shift", "mean", "variance"]
    pair = draft.pair(conv.output[0], "norm", "layer2.0.relu1.scale", "layer2.0.relu1.zero_point")
    draft.before(
        "layer2.0.relu1", *pair, helper.make_node("BatchNormalization", ["norm.dq", *names], [inner], name="bn")
    )
    relu.input[0] = inner


def _float_data(draft: Draft) -> None:
    draft.node(SECOND).input[0] = INNER
    draft.drop(f"{INNER}.quantize", f"{SECOND}.input0.dequantize")


def _before_relu(draft: Draft) -> None:
    draft.drop(f"{INNER}.quantize", f"{SECOND}.input0.dequantize")
    draft.node(SECOND).input[0] = INNER
    relu = draft.node(INNER)
    draft.before(INNER, *draft.pair(relu.input[0], "early", f"{INNER}.scale", f"{INNER}.zero_point"))
    relu.input[0] = "early.dq"


def _both_inputs(draft: Draft) -> None:
    draft.put("wide.scale", np.array(0.5, np.float32))
    draft.before("layer1.0.add", *draft.pair(SECOND, "residual", "wide.scale", f"{OUT}.zero_point"))
    draft.node("layer1.0.add").input[0] = "residual.dq"


def _no_identity(draft: Draft) -> None:
    draft.node("layer1.0.add").input[1] = "maxpool"
    draft.drop("layer1.0.add.input1.dequantize")


def _residual_instead(draft: Draft) -> None:
    _both_inputs(draft)
    _no_identity(draft)


def _two_scales(draft: Draft) -> None:
    draft.put("other.scale", np.asarray(draft.value("maxpool.scale") * 1.3, np.float32))
    draft.before("layer1.0.add", *draft.pair("maxpool", "other", "other.scale", "maxpool.zero_point"))
    draft.node("layer1.0.add").input[1] = "other.dq"
    draft.drop("layer1.0.add.input1.dequantize")


def _twice(draft: Draft) -> None:
    names = f"{INNER}.scale", f"{INNER}.zero_point"
    draft.before(SECOND, *draft.pair(f"{SECOND}.input0", "again", *names))
    draft.node(SECOND).input[0] = "again.dq"


def _both_sides(draft: Draft) -> None:
    draft.before("maxpool", *draft.pair("relu", "front", "maxpool.scale", "maxpool.zero_point"))
    draft.node("maxpool").input[0] = "front.dq"


def _integer_pool(draft: Draft) -> None:
    draft.put("pool.scale", np.array(0.5, np.float32))
    draft.before("avgpool", *draft.pair("layer2.0.relu", "pool", "pool.scale", f"{OUT}.zero_point"))
    draft.node("avgpool").input[0] = "pool.dq"


def _integer_input(draft: Draft) -> None:
    given = draft.model.graph.input[0]
    given.type.tensor_type.elem_type = TensorProto.INT8
    draft.drop("image.quantize")
    draft.node("conv1.input0.dequantize").input[0] = "image"


def _integer_output(draft: Draft) -> None:
    draft.put("out.scale", np.array(0.5, np.float32))
    draft.node("fc").output[0] = "raw"
    quantizer, dequantizer = draft.pair("raw", "out", "out.scale", f"{OUT}.zero_point")
    dequantizer.output[0] = "logits"
    draft.model.graph.node.extend((quantizer, dequantizer))


MUTANTS: tuple[Mutant, ...] = (
    Mutant("Q01", _zero_point),
    Mutant("Q02", _unsigned),
    Mutant("Q03", _no_zero_point, "8.5"),
    Mutant("Q04", _no_zero_point),
    Mutant("Q05", _two_types, "10.13", repaired=False),
    Mutant("Q06", _computed_zero_point, "8.5"),
    Mutant("Q07", _computed_scale),
    Mutant("Q08", _zero_scale, repaired=False),
    Mutant("Q09", _half_scale, "8.5", repaired=False),
    Mutant("Q10", _mixed_types, "10.13", repaired=False),
    Mutant("Q11", _fewer_zero_points, repaired=False),
    Mutant("Q12", _fewer_scales, repaired=False),
    Mutant("Q13", _no_axis),
    Mutant("Q14", _channels_of_an_activation),
    Mutant("Q15", _blocks, "10.13", repaired=False),
    Mutant("Q16", _scalar, "8.5", repaired=False),
    Mutant("Q17", _too_new),
    Mutant("Q19", _fused_operator, also=("Q20",)),
    Mutant("Q19", _vendor_operator, repaired=False),
    Mutant("Q20", _unread_codes),
    Mutant("Q20", _stranger, also=("P01",), repaired=False),
    Mutant("W01", _transposed_weight, "8.5"),
    Mutant("W03", _wrong_axis),
    Mutant("W04", _integer_bias),
    Mutant("W05", _no_kernel_shape, "8.5"),
    Mutant("W06", _odd_channels, repaired=False),
    Mutant("W07", _integer_classifier, repaired=False),
    Mutant("W08", _around_norm),
    Mutant("P01", _float_data, repaired=False),
    Mutant("P02", _before_relu),
    Mutant("P03", _both_inputs),
    Mutant("P03", _no_identity),
    Mutant("P04", _two_scales),
    Mutant("P05", _residual_instead),
    Mutant("P06", _twice),
    Mutant("P07", _both_sides),
    Mutant("P08", _integer_pool),
    Mutant("P09", _integer_input, also=("P01", "Q20"), repaired=False),
    Mutant("P10", _integer_output),
)
"""Every rule on TensorRT's parser and on places. W02, P11, P12, P13, the DLA's and those of CPUs ask about the target:
there a clean graph for another target is the mutant."""


def mutate(model: ModelProto, mutant: Mutant) -> ModelProto:
    """A copy of a graph with that defect."""
    draft = Draft(model)
    mutant.make(draft)
    return draft.model
