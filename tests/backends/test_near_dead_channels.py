"""Channels of a gain near 0 on every runtime that is here: each answers what the graph says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from trapped_networks import images, quantized, trapped

from edgeres.artifacts.artifact import Exported, File, ModelMetadata
from edgeres.backends.registry import find_backend
from edgeres.data.preprocess import Preprocess
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.write import write_model
from edgeres.progress import Silent
from edgeres.targets.target import find_target

NEEDS = {"cpu": "onnxruntime", "cpu:litert": "ai_edge_litert", "cpu:executorch": "executorch", "x86": "openvino"}
SIDE = 12


@pytest.mark.parametrize("name", NEEDS)
def test_every_runtime_answers_what_float_answers(name, tmp_path):
    pytest.importorskip(NEEDS[name])
    target = find_target(name)
    scheme = replace(target.scheme, reduce_range=True)  # sums of 16 bits play no part here
    spec, weights = trapped()
    made = quantized(spec, weights, scheme)
    runtime = {"opset": target.runtime.opset, "ir_version": target.runtime.ir_version}
    model = write_model(graph(spec), weights, (SIDE, SIDE), **runtime, table=made.table, placement=made.placement)
    onnx.save(model, tmp_path / "model.onnx")
    onnx.save(write_model(graph(spec), weights, (SIDE, SIDE), **runtime), tmp_path / "model.float.onnx")
    metadata = ModelMetadata(name="trapped", preprocess=Preprocess(resize=SIDE, crop=SIDE), classes=tuple("abcde"))
    exported = Exported(metadata, File.of(tmp_path / "model.onnx"), File.of(tmp_path / "model.float.onnx"))
    (tmp_path / "out").mkdir()
    backend = find_backend(target.backend)
    engine = backend.build(exported, target, tmp_path / "out", Silent())
    with backend.engine_session(engine, target, threads=1) as session:
        found = session.run(images())
    assert backend.integer_kernels(engine).integer > 0
    expected, plain = Network(graph(spec), weights).eval().logits(images()), runner(model, optimise=False)(images())
    assert np.abs(found - plain).max() < 0.01 * np.ptp(plain)
    assert np.abs(found - expected).max() < 0.02 * np.ptp(expected)
