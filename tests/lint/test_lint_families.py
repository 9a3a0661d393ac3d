"""Which rules a target is asked, and what the rules beyond TensorRT's parser find."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from benchmarks.draft import Draft
from benchmarks.subjects import THIN, ours, thin_like
from benchmarks.undecided import UNDECIDED
from edgeres.lint.integer_coverage import integer_coverage_of
from edgeres.lint.linter import all_rules, lint, rules_for
from edgeres.lint.rule import FAMILIES
from edgeres.model.presets import preset
from edgeres.targets.target import find_target, targets

RESEARCHED = (
    {f"Q{number:02}" for number in range(1, 22)}
    | {f"W{number:02}" for number in range(1, 9)}
    | {f"P{number:02}" for number in range(1, 16)}
)


def found(model, target, **options) -> set[str]:
    return {finding.rule for finding in lint(model, target, **options)}


def test_every_researched_requirement_has_a_rule_or_a_reason() -> None:
    rules = {rule.id for rule in all_rules() if not rule.family.accelerator}
    reasons = {entry.id for entry in UNDECIDED}
    assert rules | reasons >= RESEARCHED
    assert not rules & reasons


def test_rules_of_a_target_are_unique() -> None:
    for target in targets().values():
        for version in target.versions or ("",):
            for accelerator in (False, True):
                name = f"{target.name}:{version}" if version else target.name
                ids = [rule.id for rule in rules_for(find_target(name), accelerator=accelerator)[0]]
                assert len(ids) == len(set(ids)), name


def test_a_gpu_without_integers_takes_no_pairs() -> None:
    nano = find_target("jetson-nano")
    assert lint(ours(nano), nano) == ()
    assert "P12" in found(ours(find_target("xavier-nx:jp4.6")), nano)


def test_turing_lacks_kernels_of_few_channels() -> None:
    few = replace(THIN, stem=replace(THIN.stem, width=4), stages=thin_like(THIN, 4).stages)
    t4, l4 = find_target("t4:trt10.3"), find_target("l4:trt10.3")
    assert found(ours(t4, few), t4) == {"P13"}
    assert found(ours(l4, few), l4) == set()


def test_orin_is_warned_of_one_jetpack() -> None:
    assert found(ours(find_target("jetson:jp7.2")), find_target("jetson:jp7.2")) == {"T02"}
    assert found(ours(find_target("thor:jp7.2")), find_target("thor:jp7.2")) == set()


def test_operands_of_two_float_types_are_refused_where_typing_is_strong() -> None:
    rtx = find_target("rtx")
    draft = Draft(ours(rtx))
    draft.put("fc.weight:half", draft.value("fc.weight:half").astype(np.float32))
    assert "T01" in found(draft.model, rtx)
    trt = pytest.importorskip("tensorrt_rtx")
    network = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR)).create_network(0)
    assert not trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR)).parse(draft.model.SerializeToString())


@pytest.mark.parametrize(
    ("name", "rules"),
    [("agx-orin", {"D01", "D02", "D05"}), ("agx-orin:jp7.2", {"D01", "D02", "D04", "D05", "T02"}),
     ("agx-orin:trt11.4", {"D02", "D05"}), ("orin-nano", {"D06"}), ("thor", {"D06"})],
)  # fmt: skip
def test_an_accelerator_has_rules_of_its_own(name: str, rules: set[str]) -> None:
    target = find_target(name)
    assert found(ours(target), target, accelerator=True) == rules
    fixed = Draft(ours(target))
    fixed.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert found(fixed.model, target, accelerator=True) == rules - {"D02"}


def test_a_batch_beyond_an_accelerator_is_refused() -> None:
    orin = find_target("agx-orin:trt11.4")
    draft = Draft(ours(orin))
    draft.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5000
    assert "D03" in found(draft.model, orin, accelerator=True)
    assert {rule.family for rule in rules_for(orin, accelerator=True)[0]} - set(FAMILIES) == set()


def test_phones_get_findings_on_open_batches_and_vendor_operators() -> None:
    phone = find_target("android")
    draft = Draft(ours(phone))
    assert found(draft.model, phone) == {"M01"}
    draft.node("relu").domain = "vendor"
    assert found(draft.model, phone) == {"M01", "M02"}


def test_dynamic_ranges_are_slow() -> None:
    cpu = find_target("cpu")
    draft = Draft(ours(cpu))
    made = ["again", "again.scale", "again.zero"]
    draft.before("fc", helper.make_node("DynamicQuantizeLinear", ["flatten"], made, name="dynamic"))
    assert "O04" in found(draft.model, cpu)


def integer_convolutions(model) -> int:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    read = core.read_model(model.SerializeToString())
    read.reshape([1, 3, 32, 32])
    compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    facts = [dict(node.get_rt_info().items()) for node in compiled.get_runtime_model().get_ops()]
    kinds = [(fact["layerType"].astype(str), fact["runtimePrecision"].astype(str)) for fact in facts]
    return sum(kind == "Convolution" and precision in ("u8", "i8") for kind, precision in kinds)


def asymmetric_weight(draft: Draft) -> None:
    draft.put("layer1.0.conv2.weight.zero_point", np.full(16, 3, np.int8))


def scales_of_channels(draft: Draft) -> None:
    draft.put("layer1.0.relu1.scale", np.linspace(0.02, 0.04, 16).astype(np.float32))
    draft.put("layer1.0.relu1.zero_point", np.zeros(16, np.uint8))
    for node in ("layer1.0.relu1.quantize", "layer1.0.conv2.input0.dequantize"):
        draft.attribute(node, "axis", 1)


def float_weight(draft: Draft) -> None:
    shape = draft.value("layer1.0.conv2.weight.codes").shape
    draft.node("layer1.0.conv2").input[1] = draft.put("plain", np.full(shape, 0.01, np.float32))


@pytest.mark.parametrize(
    ("rule", "defect"), [("V01", asymmetric_weight), ("V02", scales_of_channels), ("V03", float_weight)]
)
def test_openvino_itself_agrees(rule: str, defect) -> None:
    x86 = find_target("x86")
    draft = Draft(ours(x86))
    clean = integer_convolutions(draft.model)
    defect(draft)
    assert rule in found(draft.model, x86)
    assert integer_convolutions(draft.model) == clean - 1


# ---- the census


@pytest.mark.parametrize(
    ("network", "count", "adds"),
    [("resnet18", 20, 8), ("resnet34", 36, 16), ("resnet50", 53, 16), ("resnet101", 104, 33), ("resnet152", 155, 50)],
)
def test_a_clean_resnet_has_the_known_number_of_quantizers(network: str, count: int, adds: int) -> None:
    jetson = find_target("jetson")
    census = integer_coverage_of(ours(jetson, thin_like(preset(network)), side=64), jetson)
    assert census.quantizers == census.tensors == census.expected_quantizers == count
    assert (census.weights, census.weighted, census.fused_kernels) == (count, count + 1, count)
    assert (census.fused_adds, census.adds) == (adds, adds)
    assert {entry.kind for entry in census.in_float} == {"Gemm", "GlobalAveragePool"}


def test_integer_coverage_names_float_layers_with_reasons() -> None:
    jetson = find_target("jetson")
    draft = Draft(ours(jetson))
    draft.node("layer1.0.conv2").input[0] = "layer1.0.relu1"
    draft.drop("layer1.0.relu1.quantize", "layer1.0.conv2.input0.dequantize")
    why = {entry.node: entry.why for entry in integer_coverage_of(draft.model, jetson).in_float}
    assert why["layer1.0.conv2"] == "its data is float"
    assert "integer convolution" in why["layer1.0.add"]
    assert why["fc"].startswith("the classifier")


def test_a_target_without_integers_expects_no_quantizers() -> None:
    nano = find_target("jetson-nano")
    census = integer_coverage_of(ours(nano), nano)
    assert (census.quantizers, census.expected_quantizers, census.fused_kernels) == (0, None, 0)
    assert {entry.why for entry in census.in_float} == {"the target has no INT8"}


@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_a_sum_of_two_integers_is_a_kernel_where_both_inputs_are_quantized(network: str) -> None:
    cpu = find_target("cpu")
    census = integer_coverage_of(ours(cpu, thin_like(preset(network)), side=64), cpu)
    assert census.fused_kernels == census.weighted - 1
    assert {entry.kind for entry in census.in_float} == {"Gemm"}


def test_a_layer_whose_output_is_float_is_no_integer_kernel_on_a_cpu() -> None:
    draft = Draft(ours(find_target("cpu")))
    draft.node("layer1.0.add").input[0] = "layer1.0.conv2"
    draft.drop("layer1.0.conv2.quantize", "layer1.0.add.input0.dequantize")
    for name, kernels in (("cpu", 1), ("cpu:litert", 1), ("cpu:executorch", 1), ("x86", 0)):
        target = find_target(name)
        census = integer_coverage_of(draft.model, target)
        whole = integer_coverage_of(ours(target), target)
        assert whole.fused_kernels - census.fused_kernels == kernels, name
