"""A stem over blocks computes the same integers as the stem it stands for."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.subjects import THIN, float_network, ours
from edgeres.artifacts.artifact import Exported, File, ModelMetadata
from edgeres.backends.onnxruntime.loader import OnnxRuntime
from edgeres.backends.registry import find_backend
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.latency.random_model import random_model
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.lowering import BLOCKED, blocked_stem
from edgeres.progress import Silent
from edgeres.targets.target import find_target

SPEC = ResNetSpec(
    kind="basic",
    stem=Stem(width=16, kernel=7, stride=2),
    stages=((Block(inner=(16,), out=16),),),
    classes=5,
    norm=False,
)


def quantized(side=32, spec=SPEC):
    return random_model(spec, Size.square(side), find_target("cpu"))["int8"]


@pytest.mark.parametrize("side", [8, 32, 34])
@pytest.mark.parametrize("zero_point", [0, 117])
def test_space_to_depth_logits_equal_bit_by_bit(side, zero_point):
    model = quantized(side)
    next(
        tensor for tensor in model.graph.initializer if tensor.name == "image.zero_point"
    ).CopyFrom(numpy_helper.from_array(np.array(zero_point, np.uint8), "image.zero_point"))  # fmt: skip
    blocked = blocked_stem(model)
    onnx.checker.check_model(blocked, full_check=True)
    images = np.random.default_rng(side).normal(0, 3, (3, 3, side, side)).astype(np.float32)
    assert np.array_equal(runner(blocked)(images), runner(model)(images))
    plain = [runner(each, optimise=False)(images) for each in (blocked, model)]
    assert np.abs(plain[0] - plain[1]).max() <= 0.02 * np.abs(plain[1]).max()


def test_blocked_weight_has_the_same_codes_and_zeros():
    model = quantized()
    blocked = blocked_stem(model)
    before, after = (_stem_codes(each) for each in (model, blocked))
    assert (before.shape, after.shape) == ((16, 3, 7, 7), (16, 12, 4, 4))
    assert np.array_equal(np.sort(before[before != 0]), np.sort(after[after != 0]))
    # tap (0, 0) of padding 3 is pixel -3: block -2, place 1, both ways
    assert np.array_equal(after[:, 9:12, 0, 0], before[:, :, 0, 0])


def _stem_codes(model):
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    weight = next(node for node in model.graph.node if node.output[0] == conv.input[1])
    return numpy_helper.to_array(next(each for each in model.graph.initializer if each.name == weight.input[0]))


@pytest.mark.parametrize(
    "model",
    [
        quantized(33),
        quantized(32, replace(SPEC, stem=Stem(width=16, kernel=3, stride=1))),
        random_model(SPEC, Size.square(32), find_target("cpu"))["float"],
    ],
    ids=["odd side", "3x3 stem", "float"],
)
def test_graphs_without_such_a_stem_are_unchanged(model):
    assert blocked_stem(model) is None


def test_input_graph_is_unchanged_by_blocking():
    model = quantized()
    before = model.SerializeToString(deterministic=True)
    blocked_stem(model)
    assert model.SerializeToString(deterministic=True) == before


@pytest.fixture
def exported(tmp_path):
    spec = replace(THIN, stem=Stem(width=16, kernel=7, stride=2))
    onnx.save(ours(find_target("cpu"), spec), tmp_path / "int8.onnx")
    onnx.save(float_network(spec), tmp_path / "float.onnx")
    metadata = ModelMetadata(name="n", preprocess=Preprocess(resize=32, crop=32), classes=tuple("abcdefghij"))
    return Exported(metadata, File.of(tmp_path / "int8.onnx"), File.of(tmp_path / "float.onnx"))


def built(exported, name, folder):
    folder.mkdir()
    target = find_target(name)
    return find_backend(target.backend).build(exported, target, folder, Silent())


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert", "executorch"])
def test_host_engine_uses_space_to_depth_with_equal_logits(exported, runtime, tmp_path, monkeypatch):
    engine = built(exported, f"cpu:{runtime}", tmp_path / "blocks")
    assert BLOCKED in engine.evidence
    monkeypatch.setattr("edgeres.onnx_graph.lowering.blocked_stem", lambda model: None)
    plain = built(exported, f"cpu:{runtime}", tmp_path / "plain")
    assert BLOCKED not in plain.evidence
    assert plain.files[plain.entry].sha256 != engine.files[engine.entry].sha256
    images, answers = np.random.default_rng(0).normal(0, 2, (4, 3, 32, 32)).astype(np.float32), []
    for each in (engine, plain):
        with find_backend(each.backend).engine_session(each, find_target(f"cpu:{runtime}"), threads=1) as session:
            answers.append(session.run(images))
    assert np.array_equal(*answers)


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert", "executorch"])
def test_device_engine_has_no_space_to_depth(exported, runtime, tmp_path):
    assert BLOCKED not in built(exported, f"raspberry-pi:{runtime}", tmp_path / "device").evidence


def test_onnxruntime_engine_notes_space_to_depth(tmp_path):
    path = tmp_path / "graph.onnx"
    path.write_bytes(quantized().SerializeToString())
    exported = Exported(ModelMetadata(name="n", preprocess=Preprocess(), classes=()), File.of(path), File.of(path))
    engines = []
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
        engines.append(OnnxRuntime().build(exported, find_target("cpu"), tmp_path / name, Silent()))
    assert "blocks of 2x2 pixels" in engines[0].evidence[0]
    assert engines[0].files["model.onnx"].sha256 == engines[1].files["model.onnx"].sha256 != exported.model.sha256
    census = OnnxRuntime().integer_kernels(engines[0])
    assert census.counts["QLinearConv"] == 3
    device = find_target("raspberry-pi")
    (tmp_path / "device").mkdir()
    assert OnnxRuntime().build(exported, device, tmp_path / "device", Silent()).files["model.onnx"].sha256 == (
        exported.model.sha256
    )
