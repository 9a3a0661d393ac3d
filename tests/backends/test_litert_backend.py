"""LiteRT on this host, and its bundles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from drawn_networks import export, random_images, reference, tiny

from edgeres.artifacts.artifact import File
from edgeres.backends.backend import ShowsTensors
from edgeres.backends.litert import loader
from edgeres.backends.litert.loader import LiteRT
from edgeres.backends.litert.tflite import translate as translation
from edgeres.errors import StageError
from edgeres.progress import Silent
from edgeres.targets.target import find_target

CPU, PI, PHONE = (find_target(f"{name}:litert") for name in ("cpu", "raspberry-pi", "android"))


def build(folder, target=CPU, style="unsigned", name="out"):
    exported = export(folder / "export", tiny(), 32, style)
    (folder / name).mkdir()
    return LiteRT().build(exported, target, folder / name, Silent())


def test_it_is_the_backend_of_every_litert_version():
    assert {target.backend for target in (CPU, PI, PHONE)} == {"litert"}
    assert (CPU.build_on, PI.build_on, PHONE.build_on) == ("host", "device", "device")
    assert CPU.title == "any CPU, LiteRT 2.3 (.tflite)"


def test_every_convolution_runs_on_integers(tmp_path):
    found = LiteRT().integer_kernels(build(tmp_path))
    assert (found.integer, found.weighted) == (6, 7)
    assert found.counts["CONV_2D int8"] == 6
    assert found.counts["FULLY_CONNECTED float32"] == 1
    assert found.counts["ADD int8"] == 2
    assert "XNNPACK delegate took over 7 of 7 weighted layers" in found.how


def test_a_float_graph_has_no_integer_kernel(tmp_path):
    found = LiteRT().integer_kernels(build(tmp_path, style="float"))
    assert (found.integer, found.weighted) == (0, 7)


def test_sums_of_one_quantized_input_are_counted_as_float(tmp_path):
    """A graph in TensorRT's scheme: what ends in such a sum has a float output and is no integer kernel."""
    found = LiteRT().integer_kernels(build(tmp_path, style="signed"))
    assert found.integer < 6
    assert found.counts["ADD float32"] == 2


def test_the_file_that_ships_answers_like_the_graph(tmp_path):
    engine, images = build(tmp_path), random_images(5, 32, seed=1)
    assert engine.runs_here
    assert engine.evidence == (
        "model.tflite answers 8 golden images in LiteRT as the graph does, within 3 % of their range",
    )
    expected = reference(engine.exported.model.path, images)
    with LiteRT().engine_session(engine, CPU, threads=1) as session:
        found = session.run(images)
        again = session.run(images[:2])
    assert np.abs(found - expected).max() < 0.01 * np.ptp(expected)
    np.testing.assert_array_equal(again, found[:2])  # an earlier answer is not overwritten by a later one


def test_float_reference_computes_in_float32(tmp_path):
    engine, images = build(tmp_path), random_images(3, 32, seed=2)
    with LiteRT().session(engine.exported.float_model.path, CPU) as session:
        np.testing.assert_allclose(session.run(images), reference(engine.exported.float_model.path, images), atol=1e-4)


def test_codes_inside_are_shown_as_the_graph_has_them(tmp_path):
    engine, images = build(tmp_path), random_images(3, 32, seed=3)
    backend = LiteRT()
    assert isinstance(backend, ShowsTensors)
    with backend.showing(engine.exported.model.path, ["image.q", "relu.q"], threads=1) as session:
        logits, codes = session.run(images)
    expected = reference(engine.exported.model.path, images)
    assert np.abs(logits - expected).max() < 0.01 * np.ptp(expected)
    model = onnx.load(engine.exported.model.path)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    wanted = np.clip(np.rint(images / constants["image.scale"]) + constants["image.zero"], 0, 255)
    assert codes["image.q"].dtype == np.uint8
    np.testing.assert_allclose(codes["image.q"], wanted, atol=1)  # -2.5 lies between two codes and rounds either way
    assert np.mean(codes["image.q"] == wanted) > 0.99
    assert codes["relu.q"].shape == (3, 16, 32, 32)


def test_signed_codes_stay_signed(tmp_path):
    engine, images = build(tmp_path, style="signed"), random_images(1, 32, seed=3)
    with LiteRT().showing(engine.exported.model.path, ["image.q"], threads=1) as session:
        _, codes = session.run(images)
    assert codes["image.q"].dtype == np.int8
    assert codes["image.q"].min() < -50


def test_two_builds_are_equal_to_the_byte(tmp_path):
    first, second = build(tmp_path, name="first"), build(tmp_path, name="second")
    assert first.digest == second.digest
    assert set(first.files) == {"model.tflite"}


def test_weights_are_stored_in_eight_bits(tmp_path):
    parameters = 16 * 3 * 9 + 2 * 16 * 16 * 9 + 32 * 16 * 9 + 32 * 32 * 9 + 32 * 16
    assert build(tmp_path).files["model.tflite"].path.stat().st_size < 1.75 * parameters


def test_logits_beyond_rounding_fail_the_build(tmp_path, monkeypatch):
    """The golden images are asked before anything ships: here the scales of one weight are wrong, which is named."""
    translate = translation.translate

    def wrong(model, shown=()):
        made = translate(model, shown)
        tensors = tuple(
            replace(tensor, grid=replace(tensor.grid, scale=tuple(1.5 * scale for scale in tensor.grid.scale)))
            if tensor.name == "layer1.0.relu1.weight"
            else tensor
            for tensor in made.tensors
        )
        return replace(made, tensors=tensors)

    monkeypatch.setattr(translation, "translate", wrong)
    with pytest.raises(
        StageError, match=r"LiteRT's logits are .* codes of 'layer1\.0\.relu1\.q' up to .*; rounding explains 1"
    ):
        build(tmp_path)


def test_unsupported_operation_is_refused(tmp_path):
    exported = export(tmp_path / "export", tiny(), 32, "unsigned")
    model = onnx.load(exported.model.path)
    next(node for node in model.graph.node if node.name == "relu").op_type = "Elu"
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(StageError, match="relu: edgeres has no Elu for LiteRT"):
        LiteRT().build(replace(exported, model=File.of(tmp_path / "bad.onnx")), CPU, tmp_path, Silent())


def test_a_file_that_is_none_is_refused_in_the_runtimes_words(tmp_path):
    engine = build(tmp_path)
    path = engine.files["model.tflite"].path
    path.write_bytes(b"no flatbuffer at all" * 50)
    broken = replace(engine, files={"model.tflite": File.of(path)})
    with (
        pytest.raises(StageError, match=r"LiteRT refused the file: .*Flatbuffer"),
        LiteRT().engine_session(broken, CPU),
    ):
        pass


def test_changed_weights_are_never_opened(tmp_path):
    engine = build(tmp_path)
    path = engine.files["model.tflite"].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StageError, match=r"model\.tflite changed"), LiteRT().engine_session(engine, CPU):
        pass


def test_missing_names_the_pip_line(monkeypatch):
    assert LiteRT().missing() is None
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    assert LiteRT().missing() == "LiteRT is not installed: pip install 'edgeres[litert]'"


def test_only_the_known_log_line_is_dropped(capfd):
    with loader._without_greeting():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nERROR: something is wrong\n")
    assert capfd.readouterr().err == "ERROR: something is wrong\n"


SCRIPT = """
import os, sys
sys.addaudithook(lambda event, _: os._exit(9) if event in ("socket.connect", "socket.getaddrinfo") else None)
from pathlib import Path
sys.path.insert(0, {tests!r})
from drawn_networks import export, tiny, random_images
from edgeres.backends.litert.loader import LiteRT
from edgeres.progress import Silent
from edgeres.targets.target import find_target
folder = Path({folder!r})
(folder / "quiet").mkdir()
target = find_target("cpu:litert")
engine = LiteRT().build(export(folder / "export", tiny(), 32, "unsigned"), target, folder / "quiet", Silent())
before = len(os.listdir("/proc/self/task"))
with LiteRT().engine_session(engine, target, threads={threads}) as session:
    session.run(random_images(1, 32, 0))
    after = len(os.listdir("/proc/self/task"))
    {told}
"""


def alone(folder, threads, told):
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), threads=threads, told=told)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_process_prints_nothing_and_opens_no_connection(tmp_path):
    """A fresh process that dies when anything connects to anywhere builds, runs and prints nothing."""
    done = alone(tmp_path, 1, "pass")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in Linux's /proc")
def test_it_takes_the_threads_it_is_given(tmp_path):
    assert alone(tmp_path, 3, "print(after - before)").stdout == "2\n"


def test_a_board_gets_a_bundle_that_checks_itself(tmp_path):
    engine = build(tmp_path, PI)
    assert not engine.runs_here
    assert engine.evidence[-1] == "it ran on this host's processor, not on the device's"
    assert set(engine.files) == {
        "model.tflite", "check_device.py", "device.py", "pixels.py", "golden_inputs.npy", "golden_outputs.npy",
        "preprocess.json", "README.md", "SHA256SUMS", "manifest.json",
        "golden_pixels.npy", "pixels_0.png", "pixels_1.png", "pixels_2.png", "pixels_3.jpg",
    }  # fmt: skip
    out = engine.files["model.tflite"].path.parent
    call = [sys.executable, "check_device.py", "--seconds", "0"]
    done = subprocess.run(call, cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "device.json").read_text())
    assert report["runtime"]["name"] == "litert"
    assert report["golden"]["passed"]
    assert report["golden"]["top1_agreeing"] == 8
    assert report["model_sha256"] == engine.files["model.tflite"].sha256


def test_bundle_describes_images_with_channels_last(tmp_path):
    files = build(tmp_path, PHONE).files
    assert json.loads(files["preprocess.json"].path.read_text())["input"]["shape"] == [1, 32, 32, 3]
    assert np.load(files["golden_inputs.npy"].path).shape == (8, 32, 32, 3)
    readme = files["README.md"].path.read_text()
    assert "input `image` float32 [1,32,32,3]" in readme
    assert "@" not in readme
    assert json.loads(files["manifest.json"].path.read_text())["entry"] == "model.tflite"
