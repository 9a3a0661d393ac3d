"""OpenVINO on this host."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from drawn_networks import draw, export, random_images, reference, tiny

from edgeres.artifacts.artifact import File
from edgeres.backends.openvino import OpenVino
from edgeres.errors import StageError
from edgeres.progress import Silent
from edgeres.targets.target import find_target

pytest.importorskip("openvino")
X86 = find_target("x86")


def build(folder, style="unsigned", name="out"):
    exported = export(folder / "export", tiny(), 32, style)
    (folder / name).mkdir()
    return OpenVino().build(exported, X86, folder / name, Silent())


def test_every_convolution_runs_on_integers(tmp_path):
    found = OpenVino().integer_kernels(build(tmp_path))
    assert (found.integer, found.weighted) == (6, 7)
    assert found.counts["Convolution u8"] == 6
    assert found.counts["FullyConnected f32"] == 1


def test_a_float_graph_has_no_integer_kernel_and_no_half_precision(tmp_path):
    found = OpenVino().integer_kernels(build(tmp_path, "float"))
    assert (found.integer, found.weighted) == (0, 7)
    assert found.counts["Convolution f32"] == 6


def test_logits_stay_near_the_graph_as_written(tmp_path):
    engine, images = build(tmp_path), random_images(5, 32, seed=1)
    expected = reference(engine.exported.model.path, images)
    with OpenVino().engine_session(engine, X86, threads=1) as session:
        found = session.run(images)
        again = session.run(images[:2])
    assert np.abs(found - expected).max() < 0.01 * np.ptp(expected)
    np.testing.assert_array_equal(again, found[:2])  # an earlier answer is not overwritten by a later one


def test_float_reference_computes_in_float32(tmp_path):
    engine, images = build(tmp_path), random_images(3, 32, seed=2)
    with OpenVino().session(engine.exported.float_model.path, X86) as session:
        np.testing.assert_allclose(session.run(images), reference(engine.exported.float_model.path, images), atol=1e-4)


def test_two_builds_in_one_process_are_equal_to_the_byte(tmp_path):
    first, second = build(tmp_path, name="first"), build(tmp_path, name="second")
    assert {name: file.sha256 for name, file in first.files.items()} == {
        name: file.sha256 for name, file in second.files.items()
    }
    assert set(first.files) == {"model.xml", "model.bin"}


def test_operations_of_the_graph_keep_their_names(tmp_path):
    assert 'name="layer1.0.conv1"' in build(tmp_path, "float").files["model.xml"].path.read_text()


def test_weights_stay_in_eight_bits(tmp_path):
    engine = build(tmp_path)
    parameters = 16 * 3 * 9 + 2 * 16 * 16 * 9 + 32 * 16 * 9 + 32 * 32 * 9 + 32 * 16
    assert engine.files["model.bin"].path.stat().st_size < 1.5 * parameters


def test_a_fixed_batch_is_filled_up_and_cut_back(tmp_path):
    exported = export(tmp_path / "export", tiny(), 32, "float")
    model = draw(tiny(), 32, "float")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "fixed.onnx")
    images = random_images(5, 32, seed=3)
    engine = OpenVino().build(replace(exported, model=File.of(tmp_path / "fixed.onnx")), X86, tmp_path, Silent())
    with OpenVino().engine_session(engine, X86) as session:
        np.testing.assert_allclose(session.run(images), reference(exported.float_model.path, images), atol=1e-4)


def test_refused_graph_quotes_the_runtime(tmp_path):
    exported = export(tmp_path / "export", tiny(), 32, "unsigned")
    model = onnx.load(exported.model.path)
    model.graph.node[-1].op_type = "Frobnicate"
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(StageError, match="Frobnicate"):
        OpenVino().build(replace(exported, model=File.of(tmp_path / "bad.onnx")), X86, tmp_path, Silent())


def test_changed_weights_are_never_opened(tmp_path):
    engine = build(tmp_path)
    path = engine.files["model.bin"].path
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(StageError, match=r"model\.bin changed"), OpenVino().engine_session(engine, X86):
        pass


def test_missing_names_the_pip_line(monkeypatch):
    assert OpenVino().missing() is None
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert OpenVino().missing() == "OpenVINO is not installed: pip install 'edgeres[openvino]'"


def test_process_prints_nothing_and_opens_no_connection(tmp_path):
    """A fresh process that dies when anything connects to anywhere builds, runs and prints nothing."""
    export(tmp_path / "export", tiny(), 32, "unsigned")
    script = f"""
import os, sys
sys.addaudithook(lambda event, _: os._exit(9) if event in ("socket.connect", "socket.getaddrinfo") else None)
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from drawn_networks import export, tiny, random_images
from edgeres.backends.openvino import OpenVino
from edgeres.progress import Silent
from edgeres.targets.target import find_target
folder = Path({str(tmp_path)!r})
(folder / "quiet").mkdir()
target = find_target("x86")
engine = OpenVino().build(export(folder / "export", tiny(), 32, "unsigned"), target, folder / "quiet", Silent())
with OpenVino().engine_session(engine, target) as session:
    session.run(random_images(1, 32, 0))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_ctrl_c_still_works_after_two_sessions(tmp_path):
    """Cores that end in the order they began leave a signal stack behind that is unmapped: the next signal is fatal."""
    export(tmp_path / "export", tiny(), 32, "unsigned")
    script = f"""
import faulthandler, signal, sys
faulthandler.enable()
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from drawn_networks import export, tiny, random_images
from edgeres.backends.openvino import OpenVino
from edgeres.progress import Silent
from edgeres.targets.target import find_target
folder = Path({str(tmp_path)!r})
(folder / "twice").mkdir()
target = find_target("x86")
engine = OpenVino().build(export(folder / "export", tiny(), 32, "unsigned"), target, folder / "twice", Silent())
first = OpenVino().engine_session(engine, target)
second = OpenVino().engine_session(engine, target)
opened = [first.__enter__(), second.__enter__()]
first.__exit__(None, None, None)
opened.pop(0)
del first
second.__exit__(None, None, None)
opened.clear()
del second
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n")
