"""A float graph in plain torch answers as ONNX Runtime does."""

import bench_networks
import numpy as np
import onnx
import pytest

from edgeres.data.size import Size
from edgeres.errors import StageError
from edgeres.latency.benchmark.worker_process import eager_session
from edgeres.latency.random_model import random_model
from edgeres.model.presets import preset
from edgeres.onnx_graph.execute import runner
from edgeres.targets.target import find_target


@pytest.mark.parametrize("name", ["small", "resnet20"])
def test_answers_are_those_of_onnx_runtime(name, tmp_path):
    spec = bench_networks.SPEC if name == "small" else preset(name)
    model = random_model(spec, Size.square(32), find_target("cpu"))["float"]
    path = tmp_path / "float.onnx"
    path.write_bytes(model.SerializeToString())
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
    found = eager_session(path, 1).run(images)
    expected = runner(model)(images)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_an_operator_it_does_not_know_is_named(tmp_path):
    model = random_model(bench_networks.SPEC, Size.square(32), find_target("cpu"))["float"]
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Acosh"
    path = tmp_path / "odd.onnx"
    onnx.save(model, str(path))
    with pytest.raises(StageError, match="Acosh"):
        eager_session(path, 1)
