"""What the runtimes of this host make of 4-bit weights: the same numbers, and no integer kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_weights import random_weights

from edgeres.artifacts.artifact import Exported, File, ModelMetadata
from edgeres.backends.backend import expected_kernels
from edgeres.backends.onnxruntime.loader import OnnxRuntime
from edgeres.backends.openvino import OpenVino
from edgeres.data.preprocess import Preprocess
from edgeres.lint.linter import lint
from edgeres.metrics import sqnr_db
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.onnx_graph.write import write_model
from edgeres.progress import Silent
from edgeres.quant.calibrator import activation_qparams
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.qparams import weight_qparams
from edgeres.quant.quant_table import QuantTable
from edgeres.quant.quantized import Quantized
from edgeres.targets.target import find_target

TARGET = find_target("w4a8")
IMAGES = np.random.default_rng(3).normal(size=(6, 3, 32, 32)).astype(np.float32)


def quantized(spec, weights, scheme, method="mse"):
    placement = place(graph(spec), scheme)
    histograms = observe(Network(graph(spec), weights).eval(), [IMAGES], placement.observed)
    activations = {tensor: activation_qparams(histograms[tensor], "minmax", scheme) for tensor in placement.observed}
    activations |= {tensor: activations[origin] for tensor, origin in placement.shared.items()}
    scales = {
        name: weight_qparams(weights[f"{name}.weight"], scheme.bits_of(name), method) for name in placement.weighted
    }
    table = QuantTable(activations=activations, weights=scales, calibrator="minmax", data="0", images=len(IMAGES))
    return Quantized(graph(spec), weights, table, scheme)


def logits(network):
    import torch

    with torch.no_grad():
        return network(torch.from_numpy(IMAGES)).numpy()


@pytest.fixture
def exported(thin, thin_weights, tmp_path):
    made = quantized(thin, thin_weights, TARGET.scheme)
    options = {"opset": TARGET.runtime.opset, "ir_version": TARGET.runtime.ir_version}
    files = {"model": {"table": made.table, "placement": made.placement}, "float": {}}
    for name, more in files.items():
        model = write_model(graph(thin), thin_weights, (32, 32), **options, **more)
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
    preprocess = Preprocess(resize=32, crop=32)
    metadata = ModelMetadata(name="thin", preprocess=preprocess, classes=tuple("abcde"))
    return made, Exported(metadata, File.of(tmp_path / "model.onnx"), File.of(tmp_path / "float.onnx"))


@pytest.fixture
def engine(exported, tmp_path):
    (tmp_path / "out").mkdir()
    return OnnxRuntime().build(exported[1], TARGET, tmp_path / "out", Silent())


def test_onnx_runtime_gives_the_fake_quantized_answers(exported, engine):
    wanted = logits(exported[0].network())
    with OnnxRuntime().engine_session(engine, TARGET, threads=1) as session:
        found = session.run(IMAGES)
    assert np.abs(found - wanted).max() < 0.02 * np.ptp(wanted)


def test_the_kernel_count_says_that_it_only_simulates(engine):
    found = OnnxRuntime().integer_kernels(engine)
    narrow = len(graph_of(engine)) - 2  # all weighted layers but the first convolution and the classifier
    assert (found.integer, found.weighted) == (1, len(graph_of(engine)))
    assert found.how.endswith(f"; it simulates {narrow} layers of 4-bit weights in float")
    assert not engine.runs_here


def graph_of(engine):
    import onnx

    nodes = onnx.load(str(engine.files["model.onnx"].path)).graph.node
    return [node for node in nodes if node.op_type in ("Conv", "Gemm")]


def test_openvino_gives_the_same_answers_in_float(exported, tmp_path):
    pytest.importorskip("openvino")
    made, graph_file = exported
    x86 = replace(TARGET, backend="openvino", build_on="host")
    (tmp_path / "ir").mkdir()
    engine = OpenVino().build(graph_file, x86, tmp_path / "ir", Silent())
    wanted = logits(made.network())
    with OpenVino().engine_session(engine, x86, threads=1) as session:
        assert np.abs(session.run(IMAGES) - wanted).max() < 0.02 * np.ptp(wanted)
    assert OpenVino().integer_kernels(engine).integer <= 1


def test_tensorrt_is_not_expected_to_run_them_in_integers(exported):
    assert expected_kernels(exported[1].model.path, "why").integer == 1


def test_lint_has_no_finding_on_the_targets_own_graph(exported):
    import onnx

    findings = lint(onnx.load(str(exported[1].model.path)), TARGET)
    assert [finding for finding in findings if finding.severity != "I"] == []


def test_the_file_holds_half_a_byte_a_weight(exported, thin, thin_weights, tmp_path):
    made, graph_file = exported
    wide = quantized(thin, thin_weights, replace(TARGET.scheme, weight_bits=8))
    options = {"opset": 21, "ir_version": 10, "table": wide.table, "placement": wide.placement}
    model = write_model(graph(thin), thin_weights, (32, 32), **options)
    narrow = [name for name in made.placement.weighted if name != "conv1"]
    saved = sum(thin_weights[f"{name}.weight"].size // 2 for name in narrow)
    points = sum(len(thin_weights[f"{name}.weight"]) // 2 for name in narrow)
    difference = model.ByteSize() - graph_file.model.path.stat().st_size
    assert difference == pytest.approx(saved + points, rel=0.02)


def test_4_bits_cost_more_than_8_and_no_more_than_rounding_explains():
    """On a network of ResNet-20's shape: the order of schemes, and a floor that a broken scale would fall through."""
    from edgeres.model.presets import preset

    spec = replace(preset("resnet20"), norm=False)
    weights = random_weights(spec)
    wanted = logits(Network(graph(spec), weights).eval())
    found = {
        bits: sqnr_db(
            wanted, logits(quantized(spec, weights, replace(TARGET.scheme, weight_bits=bits), "max").network())
        )
        for bits in (8, 4)
    }
    assert found[8] > found[4] + 6
    assert found[4] > 12
