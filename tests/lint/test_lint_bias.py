"""Biases that int32 does not hold, in files of others: found, repaired where that is exact, and real in the runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from benchmarks.draft import Draft
from benchmarks.subjects import images, ours
from edgeres.lint.linter import fix, lint
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.read import infer
from edgeres.targets.target import find_target

CPU = find_target("cpu")
PIXELS = images(4, seed=3)
LAYER = "layer1.0.conv1"


@pytest.fixture(scope="module")
def base():
    """Weights of 7 bits, so that no processor saturates and every difference is the defect's."""
    assert CPU.scheme is not None
    return ours(replace(CPU, scheme=replace(CPU.scheme, reduce_range=True)))


def tiny_weights(base) -> Draft:
    """A channel whose weights were divided by 1e8 and whose bias is 3."""
    draft = Draft(base)
    scale, bias = draft.value(f"{LAYER}.weight.scale").copy(), draft.value(f"{LAYER}.bias").copy()
    scale[2], bias[2] = scale[2] * 1e-8, 3.0
    draft.put(f"{LAYER}.weight.scale", scale)
    draft.put(f"{LAYER}.bias", bias)
    return draft


def integer_bias(draft: Draft, factor: float = 1.0) -> Draft:
    """The layer's bias as int32 codes at ``factor`` times the scale of the products, cut off where they do not fit."""
    step = next(draft.value(node.input[1]) for node in draft.model.graph.node if node.output[0] == f"{LAYER}.input0")
    scale = draft.value(f"{LAYER}.weight.scale") * step * np.float32(factor)
    codes = np.rint(draft.value(f"{LAYER}.bias").astype(np.float64) / scale)
    limits = np.iinfo(np.int32)
    draft.put("bias.codes", np.clip(codes, limits.min, limits.max).astype(np.int32))
    draft.put("bias.scale", scale.astype(np.float32))
    draft.put("bias.zero", np.zeros(len(scale), np.int32))
    node = helper.make_node(
        "DequantizeLinear", ["bias.codes", "bias.scale", "bias.zero"], ["bias.real"], name="bias.dq", axis=0
    )
    draft.before(LAYER, node)
    draft.node(LAYER).input[2] = "bias.real"
    return draft


def rules(model) -> set[str]:
    return {finding.rule for finding in lint(infer(model), CPU)} - {"O03"}


def disagreement(model) -> float:
    """How far ONNX Runtime's integer kernels are from what the graph says, in shares of the logits' range."""
    plain = runner(model, optimise=False)(PIXELS)
    return float(np.abs(runner(model)(PIXELS) - plain).max() / np.ptp(plain))


def test_own_graph_has_no_overflow(base) -> None:
    assert rules(base) == set()
    assert disagreement(base) < 0.02


def test_a_float_bias_beyond_int32_is_found_and_repaired(base) -> None:
    model = infer(tiny_weights(base).model)
    assert rules(model) == {"O05"}
    (finding,) = (entry for entry in lint(model, CPU) if entry.rule == "O05")
    assert finding.where == LAYER
    assert finding.what.startswith("sums of 1 channels reach")
    assert disagreement(model) > 0.05
    fixed = fix(model, CPU, only=frozenset({"O05"}))
    assert rules(fixed.model) == set()
    assert [done.places for done in fixed.repairs] == [1]
    assert fixed.relative < 1e-3
    assert disagreement(fixed.model) < 0.02


def test_a_repair_leaves_the_other_channels_their_codes(base) -> None:
    fixed = fix(infer(tiny_weights(base).model), CPU, only=frozenset({"O05"}))
    weight = next(node for node in fixed.model.graph.node if node.output[0] == f"{LAYER}.weight")
    after, before = Draft(fixed.model), Draft(base)
    others = np.arange(16) != 2
    codes, scale = after.value(weight.input[0]), after.value(weight.input[1])
    assert np.array_equal(codes[others], before.value(f"{LAYER}.weight.codes")[others])
    assert np.array_equal(scale[others], before.value(f"{LAYER}.weight.scale")[others])
    assert codes.dtype == np.int8


def test_a_scale_for_the_whole_tensor_becomes_one_per_channel_where_one_has_to_be_raised(base) -> None:
    draft = tiny_weights(base)
    draft.put(f"{LAYER}.weight.scale", np.array(1e-10, np.float32))
    draft.put(f"{LAYER}.weight.zero_point", np.array(0, np.int8))
    draft.attribute(f"{LAYER}.weight.dequantize", "axis", None)
    bias = np.zeros(16, np.float32)
    bias[2] = 3.0
    draft.put(f"{LAYER}.bias", bias)
    fixed = fix(infer(draft.model), CPU, only=frozenset({"O05"}))
    weight = next(node for node in fixed.model.graph.node if node.output[0] == f"{LAYER}.weight")
    scale = Draft(fixed.model).value(weight.input[1])
    assert scale.shape == (16,)
    assert np.array_equal(np.flatnonzero(scale != np.float32(1e-10)), [2])
    assert rules(fixed.model) == set()


def test_an_integer_bias_at_the_right_scale_is_clean(base) -> None:
    model = infer(integer_bias(Draft(base)).model)
    assert rules(model) == set()
    assert disagreement(model) < 0.02


def integer_convolutions(model, folder) -> int:
    """How many convolutions ONNX Runtime makes integer kernels of."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimised.onnx"), 4
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return sum(node.op_type == "QLinearConv" for node in onnx.load(folder / "optimised.onnx").graph.node)


def test_an_integer_bias_at_another_scale_is_found_and_repaired(base, tmp_path) -> None:
    draft = Draft(base)
    draft.put(f"{LAYER}.bias", np.full(16, 2.0, np.float32))
    model = infer(integer_bias(draft, 8.0).model)
    assert rules(model) == {"O06"}
    (finding,) = (entry for entry in lint(model, CPU) if entry.rule == "O06")
    assert finding.what == "its bias's scale is 8 times data scale x weight scale: it runs in float"
    whole = integer_convolutions(base, tmp_path)
    assert integer_convolutions(model, tmp_path) == whole - 1
    fixed = fix(model, CPU, only=frozenset({"O06"}))
    assert rules(fixed.model) == set()
    assert fixed.relative < 1e-6
    assert integer_convolutions(fixed.model, tmp_path) == whole


def test_saturated_bias_is_found_and_not_repaired(base) -> None:
    model = infer(integer_bias(tiny_weights(base)).model)
    assert rules(model) == {"O05", "O07"}
    fixed = fix(model, CPU, only=frozenset({"O05", "O06", "O07"}))
    assert fixed.repairs == ()
    assert {finding.rule for finding in fixed.left} >= {"O05", "O07"}
    jetson = find_target("jetson")
    assert {"W04"} <= {finding.rule for finding in fix(model, jetson, only=frozenset({"W04"})).left}
