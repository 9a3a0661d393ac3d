import numpy as np
import onnx
import pytest

from edgeres.latency import microbenchmark
from edgeres.latency.workload import of_model
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.execute import runner
from edgeres.targets.target import find_target

RUNTIME = find_target("cpu").runtime
CHAINS = {
    "pair": (microbenchmark.pair(16, 32, 3, 8), 2 * 9 * 16 * 32 * 64),
    "residual": (microbenchmark.pair(16, 32, 1, 8, residual=True), 2 * 16 * 32 * 64),
    "strided": (microbenchmark.strided(16, 32, 3, 4), 9 * 16 * 32 * 16),
    "stem": (microbenchmark.stem(16, 8), 49 * 3 * 16 * 64),
    "head": (microbenchmark.head(32), 32 * 1000),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("integer", [True, False])
def test_two_graphs_differ_by_the_layer_alone(name, integer):
    links, layer_macs = CHAINS[name]
    few, many = links.models(RUNTIME, integer=integer).values()
    for model in (few, many):
        onnx.checker.check_model(model, full_check=True)
    assert (
        operator_counts.macs(many) - operator_counts.macs(few)
        == (microbenchmark.MANY - microbenchmark.FEW) * layer_macs
    )
    kernels = {integer if work.kind == "conv" else work.integer for work in of_model(many) if work.kind == "conv"}
    assert kernels <= {integer}
    assert all(work.integer is integer for work in of_model(many) if work.kind == "conv")


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("integer", [True, False])
def test_microbenchmark_graphs_run(name, integer, tmp_path):
    links, _ = CHAINS[name]
    for index, model in enumerate(links.models(RUNTIME, integer=integer).values()):
        path = tmp_path / f"{index}.onnx"
        onnx.save(model, path)
        made = runner(onnx.load(path))(np.random.default_rng(0).standard_normal(links.shape, dtype=np.float32))
        assert np.isfinite(made).all()


def test_a_residual_way_has_one_add_each_time():
    many = microbenchmark.pair(16, 16, 1, 8, residual=True).models(RUNTIME, integer=True)["many"]
    assert sum(work.kind == "add" for work in of_model(many, adds=True)) == 3
    assert not any(work.kind == "add" for work in of_model(many))


def test_no_two_branches_share_their_weights():
    """Equal branches would be merged into one by a runtime, and take no time."""
    many = microbenchmark.strided(16, 16, 3, 4).models(RUNTIME, integer=True)["many"]
    codes = [tensor.raw_data for tensor in many.graph.initializer if len(tensor.dims) == 4]
    assert len(codes) == len(set(codes)) == 3
