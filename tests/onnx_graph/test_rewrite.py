"""Q/DQ pairs under a target's scheme: ranges kept, codes of the right type, pairs where the target wants them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgeres.errors import StageError
from edgeres.lint.linter import lint
from edgeres.onnx_graph.execute import probe, relative_delta, runner
from edgeres.onnx_graph.graph_index import GraphIndex, attribute
from edgeres.onnx_graph.operator_counts import qdq
from edgeres.onnx_graph.rewrite import convert, rewrite
from edgeres.onnx_graph.roles import classifier, float_nodes, residual_adds
from edgeres.quant.qparams import QParams
from edgeres.targets.target import QuantScheme, find_target

C = 16


class Draft:
    """A Q/DQ graph as NNCF would emit it."""

    def __init__(self) -> None:
        self.nodes: list = []
        self.values: dict[str, np.ndarray] = {}
        self.rng = np.random.default_rng(0)

    def add(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}.node", **attributes))
        return output

    def pair(self, tensor: str, scale: float, zero_point: int = 0, kind: type = np.uint8) -> str:
        self.values |= {f"{tensor}.s": np.array(scale, np.float32), f"{tensor}.z": np.array(zero_point, kind)}
        names = [f"{tensor}.s", f"{tensor}.z"]
        self.add("QuantizeLinear", [tensor, *names], f"{tensor}.q")
        return self.add("DequantizeLinear", [f"{tensor}.q", *names], f"{tensor}.dq")

    def conv(self, data: str, output: str, into: int = C, kernel: int = 3, **weight: int) -> str:
        self.values |= {
            f"{output}.w": self.rng.integers(-127, 128, (C, into, kernel, kernel)).astype(np.int8),
            f"{output}.ws": (self.rng.uniform(0.5, 1.5, C) / (70 * kernel * into**0.5)).astype(np.float32),
            f"{output}.wz": np.zeros(C, np.int8),
            f"{output}.b": self.rng.normal(0, 0.1, C).astype(np.float32),
        }
        names = [f"{output}.{part}" for part in ("w", "ws", "wz")]
        weight_name = self.add("DequantizeLinear", names, f"{output}.wd", **(weight or {"axis": 0}))
        window = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4}
        return self.add("Conv", [data, weight_name, f"{output}.b"], output, **window)

    def model(self) -> ModelProto:
        tensors = [numpy_helper.from_array(value, name) for name, value in self.values.items()]
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
            tensors,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def nncf_like(*, swap: bool = False) -> Draft:
    """Stem and pool, an identity block, a projected block, a float head: pairs on both inputs of every add."""
    draft = Draft()
    order = (lambda a, b: [b, a]) if swap else (lambda a, b: [a, b])
    draft.conv(draft.pair("image", 0.03, kind=np.int8), "stem", into=3)
    draft.add("Relu", ["stem"], "stem.r")
    draft.add("MaxPool", [draft.pair("stem.r", 0.01)], "pool", kernel_shape=[2, 2], strides=[2, 2])
    draft.conv("pool", "a1")
    draft.add("Relu", ["a1"], "a1.r")
    draft.conv(draft.pair("a1.r", 0.01), "a2")
    draft.add("Add", order(draft.pair("a2", 0.02, kind=np.int8), "pool"), "a")
    draft.add("Relu", ["a"], "a.r")
    shared = draft.pair("a.r", 0.015)
    draft.conv(shared, "b1")
    draft.add("Relu", ["b1"], "b1.r")
    draft.conv(draft.pair("b1.r", 0.012), "b2")
    draft.conv(shared, "down", kernel=1)
    draft.add("Add", order(draft.pair("b2", 0.02, kind=np.int8), draft.pair("down", 0.02, 7, kind=np.int8)), "b")
    draft.add("Relu", ["b"], "b.r")
    draft.add("GlobalAveragePool", [draft.pair("b.r", 0.02)], "gap")
    draft.add("Flatten", ["gap"], "flat")
    draft.values["fc.w"] = draft.rng.normal(0, 1, (10, C)).astype(np.float32)
    draft.add("Gemm", ["flat", "fc.w"], "logits", transB=1)
    return draft


TRT = QuantScheme(signed=True, add_inputs="identity", pools=False)
CPU = QuantScheme(signed=False, add_inputs="both", pools=True)


@given(st.floats(1e-6, 1e3), st.integers(0, 255))
def test_uint8_to_int8_covers_the_same_range(scale: float, zero_point: int) -> None:
    scale = float(np.float32(scale))
    given_params = QParams(scale=(scale,), zero_point=zero_point, signed=False)
    made = convert(given_params, signed=True)
    assert made.signed
    assert made.zero_point == 0
    low, high = -zero_point * scale, (255 - zero_point) * scale
    assert 127 * made.scale[0] == pytest.approx(max(high, -low), rel=1e-6)
    values = np.linspace(low, high, 101).astype(np.float32)
    back = made.dequantize(made.quantize(values))
    assert np.abs(back - values).max() <= made.scale[0] * 0.5001
    if zero_point == 0:
        assert made.scale[0] == pytest.approx(scale * 255 / 127, rel=1e-6)


@given(st.floats(1e-6, 1e3), st.integers(-128, 127))
def test_int8_to_uint8_changes_no_value(scale: float, zero_point: int) -> None:
    given_params = QParams(scale=(float(np.float32(scale)),), zero_point=zero_point)
    made = convert(given_params, signed=False)
    assert not made.signed
    values = np.random.default_rng(0).normal(0, 100 * scale, 500).astype(np.float32)
    assert np.array_equal(
        given_params.dequantize(given_params.quantize(values)), made.dequantize(made.quantize(values))
    )


def test_symmetric_int8_and_uint8_stay_what_they_are() -> None:
    for signed in (True, False):
        params = QParams(scale=(0.1,), zero_point=0 if signed else 9, signed=signed)
        assert convert(params, signed=signed) == params


def kinds(model: ModelProto) -> set[tuple[str, int]]:
    view = GraphIndex.of(model)
    return {
        (str(view.value(node.input[2]).dtype), int(np.any(view.value(node.input[2]))))
        for node in view.of_type("QuantizeLinear", "DequantizeLinear")
    }


@pytest.mark.parametrize("swap", [False, True])
def test_tensorrt_pairs_are_int8_on_data_and_identity_only(swap: bool) -> None:
    given_model = nncf_like(swap=swap).model()
    before = given_model.SerializeToString()
    made = rewrite(given_model, TRT)
    assert given_model.SerializeToString() == before
    assert kinds(made.model) == {("int8", 0)}
    # image, pool (for conv and identity; its pair stood in front of it), a1.r, a.r, b1.r, down
    assert sorted(made.activations) == ["a.r", "a1.r", "b1.r", "down", "image", "pool"]
    assert made.released == 3  # a2 and b2 in front of their adds, b.r in front of the pool
    assert made.retyped == 5  # four uint8 tensors and one with a zero-point
    assert made.activations["pool"].scale[0] == pytest.approx(0.01 * 255 / 127)
    assert made.activations["image"].scale[0] == pytest.approx(0.03)
    assert made.activations["down"].scale[0] == pytest.approx(0.02 * 135 / 127)
    assert qdq(made.model).activations == 6
    assert lint(made.model, find_target("jetson")) == ()
    view = GraphIndex.of(made.model)
    for add in residual_adds(view):
        assert view.pair(add.residual_tensor) is None


@pytest.mark.parametrize("scheme", [TRT, CPU])
@pytest.mark.parametrize(("second", "moved"), [(0.03, True), (0.04, False)])
def test_pairs_are_repeated_behind_data_movement(scheme: QuantScheme, second: float, moved: bool) -> None:
    """Through Relu, MaxPool and a Concat of equal scales, without changing a value; not through unequal scales."""
    kind = np.int8 if scheme.signed else np.uint8
    draft = Draft()
    draft.conv(draft.pair("image", 0.03, kind=kind), "stem", into=3)
    draft.add("Relu", ["stem"], "left")
    draft.add("Sigmoid", ["stem"], "right")
    draft.add("Concat", [draft.pair("left", 0.03, kind=kind), draft.pair("right", second, kind=kind)], "both", axis=1)
    draft.add("Relu", ["both"], "relu")
    draft.add("MaxPool", ["relu"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    draft.conv("pool", "last", into=2 * C)
    draft.add("GlobalAveragePool", ["last"], "gap")
    draft.add("Flatten", ["gap"], "flat")
    draft.values["fc.w"] = draft.rng.normal(0, 1, (10, C)).astype(np.float32)
    draft.add("Gemm", ["flat", "fc.w"], "logits", transB=1)
    model = draft.model()
    made = rewrite(model, scheme)
    images = probe(model, 8)
    assert relative_delta(runner(model, optimise=False)(images), runner(made.model, optimise=False)(images)) == 0
    view = GraphIndex.of(made.model)
    assert (view.pair(view.producer("last").input[0]) is not None) == moved
    if scheme.signed:
        assert ("P01" in {finding.rule for finding in lint(made.model, find_target("jetson"))}) == (not moved)
    both = view.producer("both")
    assert all(view.pair(name) is not None for name in both.input) == (scheme.pools or not moved)
    assert len([1 for node in view.of_type("QuantizeLinear")]) == (2 if moved and scheme.signed else 6 if moved else 3)


def test_a_pair_does_not_move_through_padding_with_other_values() -> None:
    draft = Draft()
    draft.values |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "fill": np.array(0.5, np.float32)}
    draft.add("Pad", [draft.pair("image", 0.03, kind=np.int8), "pads", "fill"], "padded")
    draft.conv("padded", "c", into=3)
    draft.add("GlobalAveragePool", ["c"], "gap")
    draft.add("Flatten", ["gap"], "flat")
    draft.values["fc.w"] = draft.rng.normal(0, 1, (10, C)).astype(np.float32)
    draft.add("Gemm", ["flat", "fc.w"], "logits", transB=1)
    view = GraphIndex.of(rewrite(draft.model(), TRT).model)
    assert view.pair(view.producer("c").input[0]) is None
    assert view.pair(view.producer("padded").input[0]) is not None


def test_int8_costs_a_bit_of_resolution_and_no_more() -> None:
    model = nncf_like().model()
    images = probe(model, 8)
    given_logits, got = (runner(m, optimise=False)(images) for m in (model, rewrite(model, TRT).model))
    assert 0 < relative_delta(given_logits, got) < 0.1


def test_wrong_scale_changes_logits() -> None:
    """What the parser's silent uint8-as-int8 reading does: half the range is gone."""
    model = nncf_like().model()
    images = probe(model, 8)
    made = rewrite(model, TRT)
    for tensor in made.model.graph.initializer:
        if tensor.name.startswith(("stem.r.", "a1.r.", "a.r.", "b1.r.")) and tensor.name.endswith(".scale"):
            value = numpy_helper.to_array(tensor) * np.float32(127 / 255)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    given_logits, got = (runner(m, optimise=False)(images) for m in (model, made.model))
    assert relative_delta(given_logits, got) > 0.1


def test_cpu_pairs_are_uint8_everywhere_with_equal_logits() -> None:
    model = nncf_like().model()
    made = rewrite(model, CPU)
    assert {kind for kind, _ in kinds(made.model)} == {"uint8", "int8"}
    view = GraphIndex.of(made.model)
    for node in view.of_type("QuantizeLinear"):
        assert view.value(node.input[2]).dtype == np.uint8
    assert made.released == 0
    assert made.retyped == 4
    assert view.pair(view.producer("a1").input[0]) is not None  # behind the pool, which runs on codes
    images = probe(model, 8)
    assert relative_delta(runner(model, optimise=False)(images), runner(made.model, optimise=False)(images)) == 0


@pytest.mark.parametrize("scheme", [TRT, CPU])
def test_rewriting_twice_changes_nothing_more(scheme: QuantScheme) -> None:
    once = rewrite(nncf_like().model(), scheme)
    twice = rewrite(once.model, scheme)
    assert (twice.retyped, twice.released, twice.biases) == (0, 0, 0)
    assert twice.activations == once.activations
    assert twice.weights == once.weights
    assert qdq(twice.model) == qdq(once.model)
    assert rewrite(nncf_like().model(), scheme).model.SerializeToString() == once.model.SerializeToString()


def test_weights_get_an_explicit_axis() -> None:
    draft = nncf_like()
    for node in draft.nodes:
        if node.output[0] == "a1.wd":
            node.attribute[0].i = -4
    made = rewrite(draft.model(), TRT)
    view = GraphIndex.of(made.model)
    assert all(attribute(node, "axis") == 0 for node in view.of_type("DequantizeLinear") if node.output[0][-2:] == "wd")
    assert made.weights["a1.node"].axis == 0
    assert len(made.weights) == 6
    assert made.weights["a1.node"].narrow
    np.testing.assert_allclose(made.weights["a1.node"].scale, draft.values["a1.ws"])


def test_integer_biases_become_float() -> None:
    draft = nncf_like()
    expected = runner(draft.model(), optimise=False)
    step = np.float32(1e-4)
    codes = np.rint(draft.values["a1.b"] / step).astype(np.int32)
    draft.values |= {"bias.c": codes, "bias.s": np.array(step), "bias.z": np.array(0, np.int32)}
    position = next(i for i, node in enumerate(draft.nodes) if node.output[0] == "a1")
    draft.nodes.insert(
        position, helper.make_node("DequantizeLinear", ["bias.c", "bias.s", "bias.z"], ["bias.d"], name="bias")
    )
    draft.nodes[position + 1].input[2] = "bias.d"
    made = rewrite(draft.model(), CPU)
    assert made.biases == 1
    view = GraphIndex.of(made.model)
    np.testing.assert_allclose(view.value(view.producer("a1").input[2]), codes * step, rtol=1e-6)
    assert "bias.c" not in view.constants
    images = probe(made.model, 4)
    assert relative_delta(expected(images), runner(made.model, optimise=False)(images)) < 0.02


def test_graph_outside_the_scheme_is_refused() -> None:
    draft = nncf_like()
    draft.values |= {"a1.r.s": np.full(C, 0.01, np.float32), "a1.r.z": np.zeros(C, np.uint8)}
    with pytest.raises(StageError, match="16 scales of uint8 codes"):
        rewrite(draft.model(), TRT)
    draft = nncf_like()
    draft.values["a1.w"] = draft.values["a1.w"].astype(np.uint8)
    draft.values["a1.wz"] = np.full(C, 128, np.uint8)
    with pytest.raises(StageError, match="not symmetric int8"):
        rewrite(draft.model(), TRT)


def test_the_identity_is_the_branch_with_fewer_weights() -> None:
    for swap in (False, True):
        view = GraphIndex.of(nncf_like(swap=swap).model())
        first, second = residual_adds(view)
        assert first.identity_tensor == "pool"
        assert second.identity_tensor == "down.dq"


def test_adding_a_constant_is_no_residual() -> None:
    draft = nncf_like()
    draft.values["shift"] = np.ones((1, C, 1, 1), np.float32)
    draft.nodes[-2].input[0] = "shifted"
    draft.nodes.insert(-2, helper.make_node("Add", ["gap", "shift"], ["shifted"], name="shift"))
    assert len(residual_adds(GraphIndex.of(draft.model()))) == 2


def test_the_classifier_is_found_by_its_role() -> None:
    model = nncf_like().model()
    assert classifier(GraphIndex.of(model)).name == "logits.node"
    assert float_nodes(model, TRT) == ("logits.node",)
    assert float_nodes(model, replace(TRT, float_layers=())) == ()
    assert float_nodes(model, replace(TRT, float_layers=("stem.node",))) == ("stem.node",)
    draft = nncf_like()
    draft.nodes[-1:] = [
        helper.make_node("MatMul", ["flat", "fc.t"], ["product"], name="product"),
        helper.make_node("Add", ["product", "fc.b"], ["sum"], name="sum"),
        helper.make_node("Softmax", ["sum"], ["logits"], name="softmax"),
    ]
    draft.values |= {"fc.t": np.ones((C, 10), np.float32), "fc.b": np.zeros(10, np.float32)}
    assert float_nodes(draft.model(), TRT) == ("product",)
    draft = nncf_like()
    draft.conv("b.r", "last")
    draft.add("GlobalAveragePool", ["last"], "p")
    draft.add("Flatten", ["p"], "end")
    model = draft.model()
    model.graph.output[0].name = "end"
    assert float_nodes(model, TRT) == ()
