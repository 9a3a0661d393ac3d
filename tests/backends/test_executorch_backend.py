"""ExecuTorch on this host: .pte files whose kernels are XNNPACK's."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from drawn_networks import reference

from benchmarks.subjects import THIN, float_network, images, ours
from edgeres.artifacts.artifact import Exported, File, ModelMetadata
from edgeres.backends.backend import Profiled, ShowsTensors
from edgeres.backends.bundle import check_device, device
from edgeres.backends.bundle.write import CHECK, write_bundle
from edgeres.backends.executorch import loader as adapter
from edgeres.backends.executorch.loader import ExecuTorch
from edgeres.backends.executorch.runner import open_pte, without_chatter
from edgeres.backends.session import showing_session
from edgeres.data.preprocess import Preprocess
from edgeres.errors import StageError
from edgeres.model.spec import Block
from edgeres.progress import Silent
from edgeres.targets.target import find_target

pytestmark = pytest.mark.slow

pytest.importorskip("executorch")
ENTRY = ExecuTorch.entry
HOST, SIGNED, BOARD = find_target("cpu:executorch"), find_target("jetson"), find_target("raspberry-pi:executorch")
EVERY_SHORTCUT = replace(THIN, stages=(*THIN.stages, (Block(inner=(48,), out=48, stride=2),)))
"""Identity, projection, and the subsampled and padded one of CIFAR's ResNets."""


def export(folder, target, spec) -> Exported:
    folder.mkdir()
    onnx.save(ours(target, spec), folder / "model.onnx")
    onnx.save(float_network(spec), folder / "model.float.onnx")
    metadata = ModelMetadata(name="thin", preprocess=Preprocess(resize=32, crop=32), classes=tuple("abcdefghij"))
    return Exported(metadata, File.of(folder / "model.onnx"), File.of(folder / "model.float.onnx"))


def built(folder, target, spec):
    exported = export(folder / "export", target, spec)
    (folder / "out").mkdir()
    return ExecuTorch().build(exported, HOST, folder / "out", Silent())


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return built(tmp_path_factory.mktemp("unsigned"), HOST, EVERY_SHORTCUT)


@pytest.fixture(scope="module")
def for_tensorrt(tmp_path_factory):
    return built(tmp_path_factory.mktemp("signed"), SIGNED, THIN)


def assert_same_answers(found, expected, steps=0.01):
    """Logits within a few quantization steps, and the same class wherever those steps do not decide it."""
    delta = np.abs(found - expected).max()
    assert delta < steps * np.ptp(expected)
    first, second = np.sort(expected, axis=1)[:, ::-1][:, :2].T
    clear = first - second > 2 * delta
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found.argmax(1)[clear], expected.argmax(1)[clear])


def test_logits_stay_near_the_graph_as_written(engine):
    pixels = images(32, seed=1)
    with ExecuTorch().engine_session(engine, HOST, threads=1) as session:
        found = session.run(pixels)
        again = session.run(pixels[:2])
    assert_same_answers(found, reference(engine.exported.model.path, pixels))
    np.testing.assert_array_equal(again, found[:2])  # an earlier answer is not overwritten by a later one


def test_float_reference_computes_in_float32(engine):
    pixels = images(3, seed=2)
    with ExecuTorch().session(engine.exported.float_model.path, HOST) as session:
        expected = reference(engine.exported.float_model.path, pixels)
        np.testing.assert_allclose(session.run(pixels), expected, atol=1e-4)


def test_every_convolution_runs_on_integers(engine):
    found = ExecuTorch().integer_kernels(engine)
    assert (found.integer, found.weighted) == (8, 9)
    assert sum(count for kind, count in found.counts.items() if kind.startswith("Convolution (NHWC, QC8)")) == 8
    assert sum(count for kind, count in found.counts.items() if kind.startswith("Fully Connected (NC, F32)")) == 1
    assert "recorded by ExecuTorch's event tracer" in found.how


def test_no_add_leaves_the_integers(engine):
    """The image, the portable pool and the padding, each in float, and the pooled features change their type."""
    assert ExecuTorch().integer_kernels(engine).counts["Convert (NC)"] == 1 + 2 + 2 + 1


def test_operators_left_by_xnnpack_are_named(engine):
    assert engine.evidence[-1] == (
        "XNNPACK left to ExecuTorch's portable kernels: layer3.0.subsample (max_pool2d_with_indices)"
    )
    found = ExecuTorch().integer_kernels(engine)
    assert found.counts["max_pool2d_with_indices.out"] == 1
    assert f"1 of {sum(found.counts.values())} kernels are portable ones" in found.how


def test_tensorrts_placement_runs_too_with_its_last_convolutions_in_float(for_tensorrt):
    pixels = images(8, seed=3)
    with ExecuTorch().engine_session(for_tensorrt, HOST) as session:
        assert_same_answers(session.run(pixels), reference(for_tensorrt.exported.model.path, pixels))
    found = ExecuTorch().integer_kernels(for_tensorrt)
    assert (found.integer, found.weighted) == (3, 7)


def test_codes_inside_the_network_are_those_of_the_graph(engine):
    pixels, graph = images(3, seed=5), engine.exported.model.path
    names = [node.output[0] for node in onnx.load(graph).graph.node if node.op_type == "QuantizeLinear"]
    with showing_session(graph, names, optimise=False) as session:
        _, expected = session.run(pixels)
    assert isinstance(ExecuTorch(), ShowsTensors)
    with ExecuTorch().showing(engine.exported.model.path, names, threads=1) as shown:
        logits, found = shown.run(pixels)
    assert logits.shape == (3, 10)
    assert len(found) == len(names) == 16
    np.testing.assert_array_equal(found["image.codes"], expected["image.codes"])
    for name in names:
        assert found[name].dtype == expected[name].dtype == np.uint8
        steps = np.abs(found[name].astype(int) - expected[name].astype(int))
        assert steps.max() <= 5, name  # one of rounding a layer, and what came of it further down
        assert steps.mean() < 0.3, name


def test_kernels_are_timed_one_by_one(engine):
    assert isinstance(ExecuTorch(), Profiled)
    layers = ExecuTorch().layer_times(engine.files[ENTRY].path, images(1), threads=1, calls=3)
    roles = [layer.role for layer in layers]
    assert (roles.count("integer"), roles.count("float")) == (8, 1)
    assert "reformat" in roles
    assert [layer.ms for layer in layers] == sorted((layer.ms for layer in layers), reverse=True)
    assert 0 < sum(layer.ms for layer in layers) < 1000


def test_thread_pool_is_not_replaced_while_a_session_is_open(engine):
    data, pixels = engine.files[ENTRY].path.read_bytes(), images(1, seed=4)
    with open_pte(data, 2) as first:
        with open_pte(data, 2) as second:
            np.testing.assert_array_equal(first.run(pixels), second.run(pixels))
        with pytest.raises(StageError, match="computes on 2 threads, not 1"), open_pte(data, 1):
            pass
        expected = first.run(pixels)
    with open_pte(data, 1) as alone:
        np.testing.assert_array_equal(alone.run(pixels), expected)


def test_a_changed_file_is_never_opened(engine, tmp_path):
    data = bytearray(engine.files[ENTRY].path.read_bytes())
    data[-100] ^= 1
    (tmp_path / ENTRY).write_bytes(data)
    changed = replace(engine, files={ENTRY: File(tmp_path / ENTRY, engine.files[ENTRY].sha256)})
    with pytest.raises(StageError, match=r"model\.pte changed"), ExecuTorch().engine_session(changed, HOST):
        pass


def test_refused_file_quotes_the_runtime(capfd):
    with (
        pytest.raises(StageError, match=r"ExecuTorch refused the file: .*identifier 'ageg'"),
        open_pte(b"garbage" * 99),
    ):
        pass
    assert capfd.readouterr().err == ""


def test_an_image_of_another_size_is_refused(engine):
    with (
        open_pte(engine.files[ENTRY].path.read_bytes(), 1) as session,
        pytest.raises(StageError, match="an image of 1x3x16x16"),
    ):
        session.run(images(1, side=16))


def test_refused_graph_names_its_node(engine, tmp_path):
    model = onnx.load(engine.exported.model.path)
    model.graph.node[-1].op_type = "Frobnicate"
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(StageError, match="fc: edgeres has no Frobnicate for ExecuTorch"):
        ExecuTorch().build(replace(engine.exported, model=File.of(tmp_path / "bad.onnx")), HOST, tmp_path, Silent())


def test_a_file_that_answers_otherwise_is_not_built(engine, for_tensorrt, tmp_path, monkeypatch):
    other = (for_tensorrt.files[ENTRY].path.read_bytes(), ())
    right = adapter.lower
    monkeypatch.setattr(adapter, "lower", lambda model, shown: right(model, shown) if shown else other)
    with pytest.raises(StageError, match=r"ExecuTorch's logits are .* from those of model\.onnx"):
        ExecuTorch().build(engine.exported, HOST, tmp_path, Silent())


def test_a_board_checks_and_times_its_bundle(engine, tmp_path):
    own = {ENTRY: engine.files[ENTRY].path.read_bytes()}
    readme = "README.executorch.md"
    files = write_bundle(engine.exported, BOARD, tmp_path, entry=ENTRY, own=own, readme=readme, commands=CHECK)
    assert {ENTRY, "check_device.py", "device.py", "golden_inputs.npy", "README.md"} <= set(files)
    manifest = json.loads(files["manifest.json"].path.read_text())
    assert manifest["entry"] == ENTRY
    found = check_device.examine(tmp_path, device.verified(tmp_path, print), seconds=0.2)
    assert found["runtime"]["name"] == "executorch"
    assert found["golden"]["passed"]
    assert "pip install executorch" in files["README.md"].path.read_text()


def test_missing_names_the_pip_line(monkeypatch):
    assert ExecuTorch().missing() is None
    monkeypatch.setitem(sys.modules, "executorch", None)
    assert ExecuTorch().missing() == "ExecuTorch is not installed: pip install 'edgeres[executorch]'"


def test_logging_is_as_before_afterwards():
    root = logging.getLogger()
    handlers = list(root.handlers)
    with without_chatter():
        logging.basicConfig(force=True)
    assert root.handlers == handlers
    assert root.manager.disable == logging.NOTSET


def test_fresh_process_builds_equal_bytes_silently_and_offline(engine):
    """It dies when anything connects to anywhere."""
    script = f"""
import os, sys, tempfile
sys.addaudithook(lambda event, _: os._exit(9) if event in ("socket.connect", "socket.getaddrinfo") else None)
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from benchmarks.subjects import images
from edgeres.artifacts.artifact import ModelMetadata, Exported, File
from edgeres.backends.executorch.loader import ExecuTorch
from edgeres.data.preprocess import Preprocess
from edgeres.progress import Silent
from edgeres.targets.target import find_target
model = File.of(Path({str(engine.exported.model.path)!r}))
metadata = ModelMetadata(name="thin", preprocess=Preprocess(resize=32, crop=32), classes=tuple("abcdefghij"))
target = find_target("cpu:executorch")
with tempfile.TemporaryDirectory() as folder:
    engine = ExecuTorch().build(Exported(metadata, model, model), target, Path(folder), Silent())
    with ExecuTorch().engine_session(engine, target, threads=1) as session:
        session.run(images(1))
    print(engine.files["model.pte"].sha256)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    digest = hashlib.sha256(engine.files[ENTRY].path.read_bytes()).hexdigest()
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{digest}\n", "")
