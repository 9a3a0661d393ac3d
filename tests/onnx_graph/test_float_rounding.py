"""Networks that enlarge float32 rounding are taken, and what computes something else is told from rounding."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.errors import StageError
from edgeres.onnx_graph import fold
from edgeres.onnx_graph.execute import probe, rounding
from edgeres.onnx_graph.fold import TOLERANCE, prepare, tolerance
from edgeres.onnx_graph.graph_import import import_graph
from edgeres.targets.target import find_target


def difference_of_pools(gain):
    """Logits ``gain (W p - V p)`` of pooled channels p, where V is W but for one part in ``gain``."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (8, 5)).astype(np.float32)
    other = weight * (1 + rng.normal(0, 1 / gain, weight.shape)).astype(np.float32)
    conv = rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32)
    values = {"k": conv, "w": weight, "v": other, "g": np.float32([gain])}
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["a"]),
        helper.make_node("MatMul", ["f", "v"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["d"]),
        helper.make_node("Mul", ["d", "g"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("gain", "low", "high"), [(1.0, 0, 1e-5), (1e5, 1e-3, 1.0)])
def test_rounding_grows_with_what_a_network_cancels(gain, low, high):
    model = difference_of_pools(gain)
    assert low <= rounding(model, probe(model, 2)) < high


def test_the_tolerance_is_the_usual_one_where_nothing_is_enlarged_and_bounded_where_much_is():
    plain, extreme = difference_of_pools(1.0), difference_of_pools(1e6)
    assert tolerance(plain, probe(plain, 2)) == TOLERANCE
    assert tolerance(extreme, probe(extreme, 2)) == 1e-2


def test_a_network_that_enlarges_rounding_is_prepared_and_imported():
    prepared = prepare(difference_of_pools(2e3), find_target("cpu").runtime)
    assert import_graph(prepared.model).relative < 1e-2


def test_a_folded_graph_with_another_weight_is_refused(monkeypatch):
    def damaged(model, **options):
        made = original(model, **options)
        stored = next(one for one in made.graph.initializer if len(one.dims) == 4)
        changed = np.array(numpy_helper.to_array(stored))
        changed[0, 0, 0, 0] += 0.5
        stored.CopyFrom(numpy_helper.from_array(changed, stored.name))
        return made

    original = fold.fold
    monkeypatch.setattr(fold, "fold", damaged)
    with pytest.raises(StageError, match="computes something else"):
        prepare(difference_of_pools(1.0), find_target("cpu").runtime)
