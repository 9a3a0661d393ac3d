"""Every kind of the ResNet family through every runtime that is here, in float and in INT8, beside its graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from drawn_networks import random_images, reference
from family_networks import NETWORKS
from quantized_graph import drawn
from random_weights import random_weights

from edgeres.artifacts.artifact import Exported, File, ModelMetadata
from edgeres.backends.executorch.torch_program import torch_program
from edgeres.backends.registry import find_backend
from edgeres.data.preprocess import Preprocess
from edgeres.lint.linter import lint
from edgeres.model.graph import graph
from edgeres.onnx_graph.read import infer
from edgeres.onnx_graph.write import write_model
from edgeres.progress import Silent
from edgeres.targets.target import find_target

SIDE = 32
RUNTIMES = ("cpu", "x86", "cpu:litert", pytest.param("cpu:executorch", marks=pytest.mark.slow))


def exported(folder, spec, target) -> Exported:
    """The network quantized for a target, and its float twin."""
    folder.mkdir()
    onnx.save(drawn(spec, target.scheme, side=SIDE).model, folder / "model.onnx")
    twin = write_model(graph(spec), random_weights(spec), (SIDE, SIDE), opset=17, ir_version=8)
    onnx.save(twin, folder / "model.float.onnx")
    metadata = ModelMetadata(name="tiny", preprocess=Preprocess(resize=SIDE, crop=SIDE), classes=tuple("abcde"))
    return Exported(metadata, File.of(folder / "model.onnx"), File.of(folder / "model.float.onnx"))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_logits_are_those_of_the_graph(name, runtime, tmp_path):
    target, images = find_target(runtime), random_images(4, SIDE, seed=1)
    backend = find_backend(target.backend)
    if backend.missing():
        pytest.skip(backend.missing())
    network = exported(tmp_path / "export", NETWORKS[name], target)
    with backend.session(network.float_model.path, target, threads=1) as session:
        expected = reference(network.float_model.path, images)
        # Runtimes sum the statistics of a group norm in float32, each in an order of its own.
        rounding = 1e-3 if NETWORKS[name].normalization == "group" else 1e-4
        np.testing.assert_allclose(session.run(images), expected, atol=rounding * np.abs(expected).max())
    (tmp_path / "out").mkdir()
    engine = backend.build(network, target, tmp_path / "out", Silent())
    with backend.engine_session(engine, target, threads=1) as session:
        found = session.run(images)
    expected = reference(network.model.path, images)
    assert np.abs(found - expected).max() <= 0.04 * np.ptp(expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_for_executorch_computes_the_graph(name, tmp_path):
    images = random_images(2, SIDE, seed=1)
    network = exported(tmp_path / "export", NETWORKS[name], find_target("cpu:executorch"))
    for path, steps in ((network.float_model.path, 1e-4), (network.model.path, 0.04)):
        module = torch_program(onnx.load(path)).module
        with torch.no_grad():
            found = np.concatenate([module(torch.from_numpy(image[None])).numpy() for image in images])
        expected = reference(path, images)
        assert np.abs(found - expected).max() <= steps * np.ptp(expected)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", ["jetson", "x86", "cpu", "cpu:litert", "cpu:executorch"])
def test_no_lint_rule_finds_an_error(name, target, tmp_path):
    network = exported(tmp_path / "export", NETWORKS[name], find_target(target))
    findings = lint(infer(onnx.load(network.model.path)), find_target(target))
    assert not [str(finding) for finding in findings if finding.severity == "error"]
