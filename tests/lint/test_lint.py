"""Every rule on a graph with exactly its defect, and none on the clean one."""

import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from edgeres.errors import TargetError
from edgeres.lint.linter import lint, rules_for
from edgeres.lint.rule import tensorrt_version
from edgeres.model.families import imagenet
from edgeres.model.graph import graph
from edgeres.model.presets import preset
from edgeres.model.weights import Weights
from edgeres.onnx_graph.lowering import for_runtime
from edgeres.onnx_graph.write import write_model
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams
from edgeres.quant.quant_table import QuantTable
from edgeres.targets.runtime import Runtime
from edgeres.targets.target import QuantScheme, Target, find_target

CHANNELS = 16


class Draft:
    """A graph under construction; edits are by node name."""

    def __init__(self) -> None:
        self.nodes: list = []
        self.initializers: dict[str, np.ndarray] = {}
        self.rng = np.random.default_rng(0)

    def add(self, kind: str, name: str, inputs: list[str], output: str | None = None, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output or name], name=name, **attributes))
        return output or name

    def quantize(self, tensor: str, scale: float = 0.05, kind: type = np.int8, name: str | None = None) -> str:
        name = name or tensor
        self.initializers[f"{name}.scale"] = np.array(scale, np.float32)
        self.initializers[f"{name}.zero"] = np.array(0, kind)
        return self.add("QuantizeLinear", f"{name}.q", [tensor, f"{name}.scale", f"{name}.zero"])

    def dequantize(self, tensor: str, reader: str) -> str:
        return self.add("DequantizeLinear", f"{reader}.dq", [f"{tensor}.q", f"{tensor}.scale", f"{tensor}.zero"])

    def conv(self, name: str, data: str, into: int = CHANNELS, kernel: int = 3, out: int = CHANNELS) -> str:
        weight = self.rng.integers(-127, 128, (out, into, kernel, kernel))
        self.initializers[f"{name}.codes"] = weight.astype(np.int8)
        self.initializers[f"{name}.scales"] = np.full(out, 0.01, np.float32)
        self.initializers[f"{name}.zeros"] = np.zeros(out, np.int8)
        self.initializers[f"{name}.bias"] = np.zeros(out, np.float32)
        names = [f"{name}.codes", f"{name}.scales", f"{name}.zeros"]
        read = self.dequantize(data, f"{name}.data") if f"{data}.q" in {node.name for node in self.nodes} else data
        weight_name = self.add("DequantizeLinear", f"{name}.weight.dq", names, axis=0)
        window = {"kernel_shape": [kernel, kernel], "pads": [kernel // 2] * 4}
        return self.add("Conv", name, [read, weight_name, f"{name}.bias"], **window)

    def node(self, name: str):
        return next(node for node in self.nodes if node.name == name)

    def drop(self, *names: str) -> None:
        self.nodes = [node for node in self.nodes if node.name not in names]

    def before(self, name: str, *nodes: object) -> None:
        position = next(index for index, node in enumerate(self.nodes) if node.name == name)
        self.nodes[position:position] = nodes

    def model(self, opset: int = 17, ir_version: int = 8) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
            [numpy_helper.from_array(value, name) for name, value in self.initializers.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def clean() -> Draft:
    """Stem, an identity block and a projected block under TensorRT's scheme; pool and classifier in float."""
    draft = Draft()
    draft.quantize("image")
    draft.conv("stem", "image", into=3)
    draft.add("Relu", "stem.relu", ["stem"])
    draft.quantize("stem.relu")
    draft.conv("a1", "stem.relu")
    draft.add("Relu", "a1.relu", ["a1"])
    draft.quantize("a1.relu")
    draft.conv("a2", "a1.relu")
    draft.add("Add", "a.add", ["a2", draft.dequantize("stem.relu", "a.identity")])
    draft.add("Relu", "a.out", ["a.add"])
    draft.quantize("a.out")
    draft.conv("b1", "a.out")
    draft.add("Relu", "b1.relu", ["b1"])
    draft.quantize("b1.relu")
    draft.conv("b2", "b1.relu")
    draft.conv("b.down", "a.out", kernel=1)
    draft.quantize("b.down")
    draft.add("Add", "b.add", ["b2", draft.dequantize("b.down", "b.identity")])
    draft.add("Relu", "b.out", ["b.add"])
    draft.add("GlobalAveragePool", "pool", ["b.out"])
    draft.add("Flatten", "flat", ["pool"])
    draft.initializers["fc.weight"] = draft.rng.standard_normal((10, CHANNELS)).astype(np.float32)
    draft.initializers["fc.bias"] = np.zeros(10, np.float32)
    draft.add("Gemm", "fc", ["flat", "fc.weight", "fc.bias"], "logits", transB=1)
    return draft


def target(version: str = "10.3") -> Target:
    base = find_target("jetson")
    runtime = Runtime(name="t", opset=17, ir_version=8, tensorrt=version, source="test")
    return Target(
        name="t", title="t", backend="tensorrt", build_on="device", latency_class="gpu",
        scheme=QuantScheme(signed=True, add_inputs="identity", pools=False), runtime=runtime, device=base.device,
    )  # fmt: skip


def zero_point(draft: Draft) -> None:
    draft.initializers["a1.relu.zero"] = np.array(3, np.int8)


def unsigned(draft: Draft) -> None:
    draft.initializers["a1.relu.zero"] = np.array(0, np.uint8)


def no_zero_point(draft: Draft) -> None:
    del draft.node("image.q").input[2]


def computed_zero_point(draft: Draft) -> None:
    draft.before("image.q", helper.make_node("Identity", ["image.zero"], ["zero.copy"], name="copy"))
    draft.node("image.q").input[2] = "zero.copy"


def computed_scale(draft: Draft) -> None:
    draft.before("image.q", helper.make_node("Abs", ["image.scale"], ["scale.copy"], name="copy"))
    draft.node("image.q").input[1] = "scale.copy"


def zero_scale(draft: Draft) -> None:
    draft.initializers["a1.scales"][3] = 0


def nan_scale(draft: Draft) -> None:
    draft.initializers["a1.relu.scale"] = np.array(np.nan, np.float32)


def half_scale(draft: Draft) -> None:
    draft.initializers["a1.relu.scale"] = np.array(0.05, np.float16)


def fewer_zero_points(draft: Draft) -> None:
    draft.initializers["a1.zeros"] = np.zeros((), np.int8)


def zero_points_of_fewer_channels(draft: Draft) -> None:
    draft.initializers["a1.zeros"] = np.zeros(CHANNELS - 1, np.int8)


def fewer_scales(draft: Draft) -> None:
    draft.initializers["a1.scales"] = np.full(8, 0.01, np.float32)
    draft.initializers["a1.zeros"] = np.zeros(8, np.int8)


def no_axis(draft: Draft) -> None:
    del draft.node("a1.weight.dq").attribute[:]


def per_channel_activation(draft: Draft) -> None:
    draft.initializers["a1.relu.scale"] = np.full(CHANNELS, 0.05, np.float32)
    draft.initializers["a1.relu.zero"] = np.zeros(CHANNELS, np.int8)
    for name in ("a1.relu.q", "a2.data.dq"):
        draft.node(name).attribute.append(helper.make_attribute("axis", 1))


def integer_operator(draft: Draft) -> None:
    draft.node("stem.relu").op_type = "QLinearAdd"
    draft.node("stem.relu").domain = "com.microsoft"


def stranger_reads_codes(draft: Draft) -> None:
    draft.before("stem.relu", helper.make_node("Identity", ["image.q"], ["codes.copy"], name="copy"))


def unread_codes(draft: Draft) -> None:
    draft.quantize("logits")


def transposed_weight(draft: Draft) -> None:
    draft.before("a1", helper.make_node("Transpose", ["a1.weight.dq"], ["turned"], name="turn", perm=[0, 1, 3, 2]))
    draft.node("a1").input[1] = "turned"


def wrong_axis(draft: Draft) -> None:
    draft.node("a1.weight.dq").attribute[0].i = 1


def integer_bias(draft: Draft) -> None:
    draft.initializers["a1.bias"] = np.zeros(CHANNELS, np.int32)
    draft.initializers["bias.scale"] = np.array(1e-3, np.float32)
    draft.before("a1", helper.make_node("DequantizeLinear", ["a1.bias", "bias.scale"], ["bias.f"], name="bias.dq"))
    draft.initializers["bias.zero"] = np.array(0, np.int32)
    draft.node("bias.dq").input.append("bias.zero")
    draft.node("a1").input[2] = "bias.f"


def no_kernel_shape(draft: Draft) -> None:
    node = draft.node("a1")
    node.attribute.remove(next(entry for entry in node.attribute if entry.name == "kernel_shape"))


def odd_channels(draft: Draft) -> None:
    keep = 13
    for key, value in list(draft.initializers.items()):
        if key in ("a1.codes", "a1.scales", "a1.zeros", "a1.bias"):
            draft.initializers[key] = value[:keep]
    draft.initializers["a2.codes"] = draft.initializers["a2.codes"][:, :keep]


def float_data(draft: Draft) -> None:
    draft.node("a2").input[0] = "a1.relu"
    draft.drop("a1.relu.q", "a2.data.dq")


def float_weight(draft: Draft) -> None:
    draft.initializers["a2.float"] = draft.rng.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
    draft.node("a2").input[1] = "a2.float"
    draft.drop("a2.weight.dq")


def before_relu(draft: Draft) -> None:
    draft.drop("a1.relu.q", "a2.data.dq")
    draft.node("a2").input[0] = "a1.relu"
    names = ["a1.relu.scale", "a1.relu.zero"]
    draft.before("a1.relu", helper.make_node("QuantizeLinear", ["a1", *names], ["e.q"], name="e.q"),
                 helper.make_node("DequantizeLinear", ["e.q", *names], ["e.dq"], name="e.dq"))  # fmt: skip
    draft.node("a1.relu").input[0] = "e.dq"


def both_inputs(draft: Draft) -> None:
    names = ["a1.relu.scale", "a1.relu.zero"]
    draft.before("a.add", helper.make_node("QuantizeLinear", ["a2", *names], ["r.q"], name="r.q"),
                 helper.make_node("DequantizeLinear", ["r.q", *names], ["r.dq"], name="r.dq"))  # fmt: skip
    draft.node("a.add").input[0] = "r.dq"


def no_identity(draft: Draft) -> None:
    draft.node("a.add").input[1] = "stem.relu"
    draft.drop("a.identity.dq")


def residual_instead(draft: Draft) -> None:
    both_inputs(draft)
    no_identity(draft)


def two_scales(draft: Draft) -> None:
    draft.initializers["other.scale"] = np.array(0.06, np.float32)
    names = ["other.scale", "stem.relu.zero"]
    draft.before("a.add", helper.make_node("QuantizeLinear", ["stem.relu", *names], ["o.q"], name="o.q"),
                 helper.make_node("DequantizeLinear", ["o.q", *names], ["o.dq"], name="o.dq"))  # fmt: skip
    draft.node("a.add").input[1] = "o.dq"
    draft.drop("a.identity.dq")


def quantized_twice(draft: Draft) -> None:
    names = ["a1.relu.scale", "a1.relu.zero"]
    draft.before("a2", helper.make_node("QuantizeLinear", ["a2.data.dq", *names], ["t.q"], name="t.q"),
                 helper.make_node("DequantizeLinear", ["t.q", *names], ["t.dq"], name="t.dq"))  # fmt: skip
    draft.node("a2").input[0] = "t.dq"


def integer_pool(draft: Draft) -> None:
    names = ["a.out.scale", "a.out.zero"]
    draft.before("pool", helper.make_node("QuantizeLinear", ["b.out", *names], ["p.q"], name="p.q"),
                 helper.make_node("DequantizeLinear", ["p.q", *names], ["p.dq"], name="p.dq"))  # fmt: skip
    draft.node("pool").input[0] = "p.dq"


def integer_output(draft: Draft) -> None:
    names = ["a.out.scale", "a.out.zero"]
    draft.node("fc").output[0] = "raw"
    draft.add("QuantizeLinear", "l.q", ["raw", *names])
    draft.add("DequantizeLinear", "l.dq", ["l.q", *names], "logits")


Mutant = Callable[[Draft], None]
MUTANTS: dict[str, tuple[str, Mutant, str]] = {
    # rule: (severity, defect, TensorRT version)
    "Q01": ("E", zero_point, "10.3"),
    "Q02": ("E", unsigned, "10.3"),
    "Q03": ("E", no_zero_point, "8.5"),
    "Q04": ("E", no_zero_point, "10.3"),
    "Q06": ("E", computed_zero_point, "8.5"),
    "Q07": ("E", computed_scale, "10.3"),
    "Q08": ("E", zero_scale, "10.3"),
    "Q09": ("E", half_scale, "8.5"),
    "Q11": ("E", fewer_zero_points, "10.3"),
    "Q12": ("E", fewer_scales, "10.3"),
    "Q13": ("E", no_axis, "10.3"),
    "Q14": ("E", per_channel_activation, "10.3"),
    "Q19": ("E", integer_operator, "10.3"),
    "Q20": ("E", stranger_reads_codes, "10.3"),
    "W01": ("E", transposed_weight, "8.5"),
    "W03": ("E", wrong_axis, "10.3"),
    "W04": ("E", integer_bias, "10.3"),
    "W05": ("E", no_kernel_shape, "8.5"),
    "W06": ("W", odd_channels, "10.3"),
    "P01": ("W", float_data, "10.3"),
    "P02": ("W", before_relu, "10.3"),
    "P03": ("W", both_inputs, "10.3"),
    "P04": ("W", two_scales, "10.3"),
    "P05": ("W", residual_instead, "10.3"),
    "P06": ("W", quantized_twice, "10.3"),
    "P08": ("W", integer_pool, "10.3"),
    "P10": ("W", integer_output, "10.3"),
}


@pytest.mark.parametrize("version", ["8.5", "8.6", "10.3", "10.13", "rtx-1.7"])
def test_the_clean_graph_is_clean(version: str) -> None:
    model = clean().model(opset=13)
    checker.check_model(model, full_check=True)
    assert lint(model, target(version)) == ()


@pytest.mark.parametrize("rule", MUTANTS)
def test_a_rule_finds_its_defect_and_nothing_else(rule: str) -> None:
    severity, defect, version = MUTANTS[rule]
    draft = clean()
    defect(draft)
    found = lint(draft.model(), target(version))
    assert {finding.rule for finding in found} == {rule}
    assert {finding.severity for finding in found} == {severity}
    assert all(finding.where and finding.what and finding.fix and finding.source for finding in found)


@pytest.mark.parametrize("defect", [*(defect for _, defect, _ in MUTANTS.values()), zero_points_of_fewer_channels])
@pytest.mark.parametrize("name", ["cpu", "x86", "cpu:litert", "cpu:executorch"])
def test_a_malformed_graph_is_linted_for_every_runtime(defect: Mutant, name: str) -> None:
    draft = clean()
    defect(draft)
    found = lint(draft.model(opset=13), find_target(name))
    assert all(finding.what and finding.fix for finding in found)


@pytest.mark.parametrize("defect", [unread_codes])
def test_unread_codes_are_a_half_pair(defect: Mutant) -> None:
    draft = clean()
    defect(draft)
    assert {finding.rule for finding in lint(draft.model(), target())} == {"Q20"}


def test_nan_scales_are_found() -> None:
    draft = clean()
    nan_scale(draft)
    assert {finding.rule for finding in lint(draft.model(), target())} == {"Q08"}


@pytest.mark.parametrize("defect", [no_identity])
def test_an_add_without_any_pair_breaks_p03(defect: Mutant) -> None:
    draft = clean()
    defect(draft)
    assert {finding.rule for finding in lint(draft.model(), target())} == {"P03"}


@pytest.mark.parametrize(
    ("version", "opset", "ir_version", "clear"),
    [("8.5", 17, 8, True), ("8.5", 18, 8, False), ("8.5", 17, 9, False), ("8.2", 17, 7, False), ("10.3", 20, 10, True),
     ("10.3", 22, 10, False), ("10.13", 24, 11, True), ("10.3", 12, 8, False)],
)  # fmt: skip
def test_opset_and_ir_version_belong_to_the_parser(version: str, opset: int, ir_version: int, clear: bool) -> None:
    found = lint(clean().model(opset, ir_version), target(version))
    assert {finding.rule for finding in found} - {"W02"} == (set() if clear else {"Q17"})


def test_rules_that_a_later_parser_lifted_do_not_fire_there() -> None:
    draft = clean()
    no_kernel_shape(draft)
    assert lint(draft.model(), target("10.4")) == ()


def test_errors_come_first() -> None:
    draft = clean()
    both_inputs(draft)
    zero_point(draft)
    severities = [finding.severity for finding in lint(draft.model(), target())]
    assert severities == sorted(severities, key="EWI".index)
    assert severities[0] == "E"
    assert severities[-1] == "W"


def test_add_inputs_may_stand_in_either_order() -> None:
    draft = clean()
    for name in ("a.add", "b.add"):
        first, second = draft.node(name).input
        draft.node(name).input[:] = [second, first]
    assert lint(draft.model(), target()) == ()


def test_a_float_graph_has_nothing_to_find() -> None:
    draft = Draft()
    draft.initializers["w"] = np.ones((10, 3, 16, 16), np.float32)
    draft.add("Conv", "c", ["image", "w"])
    draft.add("Flatten", "f", ["c"], "logits")
    assert lint(draft.model(), target()) == ()


def onnxruntime_clean(kind: type) -> Draft:
    """The same network under ONNX Runtime's scheme: both inputs of every add, and every convolution's output."""
    draft = Draft()
    draft.quantize("image", kind=kind)
    draft.conv("stem", "image", into=3)
    draft.add("Relu", "stem.relu", ["stem"])
    draft.quantize("stem.relu", kind=kind)
    draft.conv("a1", "stem.relu")
    draft.quantize("a1", kind=kind)
    reads = [draft.dequantize("a1", "r"), draft.dequantize("stem.relu", "i")]
    draft.add("Add", "add", reads)
    draft.quantize("add", kind=kind)
    draft.add("GlobalAveragePool", "pool", [draft.dequantize("add", "pool.in")])
    draft.add("Flatten", "flat", ["pool"])
    draft.initializers["fc"] = np.ones((CHANNELS, 10), np.float32)
    draft.add("Gemm", "gemm", ["flat", "fc"], "logits")
    return draft


def test_onnxruntime_wants_unsigned_adds_and_quantized_outputs() -> None:
    cpu = find_target("cpu")
    assert lint(onnxruntime_clean(np.uint8).model(), cpu) == ()
    assert {finding.rule for finding in lint(onnxruntime_clean(np.int8).model(), cpu)} == {"O01"}
    draft = onnxruntime_clean(np.uint8)
    draft.drop("a1.q", "r.dq")
    draft.node("add").input[0] = "a1"
    assert {finding.rule for finding in lint(draft.model(), cpu)} == {"O02"}


def kernels(model: ModelProto, tmp_path) -> dict[str, int]:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    return {kind: kinds.count(kind) for kind in set(kinds)}


def test_onnxruntime_itself_agrees(tmp_path) -> None:
    assert kernels(onnxruntime_clean(np.uint8).model(), tmp_path).get("QLinearAdd") == 1
    assert "QLinearAdd" not in kernels(onnxruntime_clean(np.int8).model(), tmp_path)
    draft = onnxruntime_clean(np.uint8)
    assert kernels(draft.model(), tmp_path).get("QLinearConv") == 2
    draft.drop("a1.q", "r.dq")
    draft.node("add").input[0] = "a1"
    assert kernels(draft.model(), tmp_path).get("QLinearConv") == 1


RTX_REFUSES = {"Q01", "Q08", "Q09", "Q11", "Q12", "Q19", "W04"}
"""Errors on which TensorRT-RTX 1.7's parser agrees; the others are read wrongly, refused later, or by older parsers."""


@pytest.mark.parametrize("rule", [rule for rule, (severity, _, version) in MUTANTS.items() if severity == "E"])
def test_the_parser_agrees_where_it_can(rule: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    draft = clean()
    MUTANTS[rule][1](draft)
    assert parses(trt, draft.model()) == (rule not in RTX_REFUSES)


def test_the_parser_takes_the_clean_graph() -> None:
    assert parses(pytest.importorskip("tensorrt_rtx"), clean().model())


def parses(trt, model: ModelProto) -> bool:
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(0)
    return bool(trt.OnnxParser(network, logger).parse(model.SerializeToString()))


def chained(blocks: int) -> ModelProto:
    """Residual blocks, one behind the other."""
    draft = Draft()
    draft.quantize("image")
    draft.conv("stem", "image", into=3)
    source = draft.add("Relu", "stem.relu", ["stem"])
    for index in range(blocks):
        draft.quantize(source)
        draft.conv(f"{index}.conv", source)
        draft.add("Add", f"{index}.add", [f"{index}.conv", draft.dequantize(source, f"{index}.identity")])
        source = draft.add("Relu", f"{index}.relu", [f"{index}.add"])
    draft.add("GlobalAveragePool", "pool", [source])
    draft.add("Flatten", "logits", ["pool"])
    return draft.model()


def test_work_grows_with_the_graph_and_no_faster() -> None:
    """Counted in calls of functions, which no load of the machine changes."""

    def calls(blocks: int) -> int:
        model, counted = chained(blocks), [0]

        def count(frame: object, event: str, what: object) -> None:
            counted[0] += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            lint(model, target())
        finally:
            sys.setprofile(before)
        return counted[0]

    calls(2)  # what is computed once and kept
    assert calls(80) < 2.5 * calls(40)


def test_rules_have_unique_ids_and_a_title() -> None:
    rules, _ = rules_for(target("10.3"))
    assert len({rule.id for rule in rules}) == len(rules)
    assert all(rule.title and rule.fix and rule.source for rule in rules)
    assert set(MUTANTS) - {"Q03", "Q09", "Q17"} <= {rule.id for rule in rules} | {"W05", "W01"}


def test_versions_are_read_or_refused() -> None:
    assert tensorrt_version("8.5") == (8, 5)
    assert tensorrt_version("10.13.3.9") == (10, 13)
    assert tensorrt_version("rtx-1.7") >= (10, 0)
    with pytest.raises(TargetError, match="is no version"):
        tensorrt_version("ten")


@pytest.mark.parametrize("target_name", ["jetson", "xavier-nx", "rtx", "cpu", "raspberry-pi"])
@pytest.mark.parametrize("network", ["resnet20", "resnet20_b", "seresnet"])
def test_what_edgeres_writes_has_nothing_to_find(network: str, target_name: str) -> None:
    goal = find_target(target_name)
    spec = imagenet("bottleneck", (1, 1, 1, 1), squeeze_ratio=16) if network == "seresnet" else preset(network)
    spec = replace(spec, norm=False)
    placement = place(graph(spec), goal.scheme)
    random = np.random.default_rng(0)
    weights = {key: random.normal(0, 0.1, shape) for key, shape in graph(spec).parameters.items()}
    table = QuantTable(
        activations={name: QParams(scale=(0.1,), signed=goal.scheme.signed) for name in placement.tensors},
        weights={
            op.name: QParams(scale=(0.01,) * op.c_out, axis=0, narrow=True)
            for op in graph(spec).weighted
            if op.name in placement.weighted
        },
        calibrator="none", data="", images=0,
    )  # fmt: skip
    runtime = goal.runtime
    model = write_model(
        graph(spec), Weights(weights), (32, 32), opset=runtime.opset, ir_version=runtime.ir_version, table=table,
        placement=placement,
    )  # fmt: skip
    assert not lint(for_runtime(model, runtime), goal)
