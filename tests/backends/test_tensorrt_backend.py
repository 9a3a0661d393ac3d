"""TensorRT's device bundle, and what this host can say about it."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from drawn_networks import draw, export, random_images, reference, tiny
from onnx import numpy_helper

from edgeres.artifacts.artifact import File
from edgeres.artifacts.store import Store
from edgeres.backends.backend import expected_kernels
from edgeres.backends.bundle.write import GraphInput, golden_inputs
from edgeres.backends.tensorrt import loader as tensorrt
from edgeres.backends.tensorrt.loader import TensorRT
from edgeres.backends.tensorrt.runner import build_settings, timing_flags, trtexec_flags
from edgeres.data.preprocess import Preprocess
from edgeres.errors import StageError, TargetError
from edgeres.model.presets import preset
from edgeres.pipeline.run_folder import RECIPE, RunFolder
from edgeres.progress import Silent
from edgeres.settings import sha256_file
from edgeres.targets.target import find_target, targets

JETSONS = [target for target in targets().values() if target.backend == "tensorrt"]
RUNTIMES = list({target.runtime.flags: target for target in JETSONS}.values())
ORIN = find_target("jetson")
IMAGE = GraphInput("image", (3, 224, 224), free=True)


PYTHON = ("build_engine.py", "run_engine.py", "engine.py", "device.py", "pixels.py")


def has_python(target):
    """Whether the bundle's Python commands find what they call there."""
    return tuple(map(int, target.runtime.tensorrt.split("."))) >= (8, 5)


def build(folder, target=ORIN, name="out", style="signed"):
    exported = export(folder / "export", tiny(), 32, style, opset=target.runtime.opset, ir=target.runtime.ir_version)
    (folder / name).mkdir()
    return TensorRT().build(exported, target, folder / name, Silent())


@pytest.mark.parametrize("target", JETSONS, ids=lambda target: target.name)
def test_the_bundle_holds_everything_and_its_hashes(tmp_path, target):
    engine = build(tmp_path, target)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == set(engine.files) == {
        "model.onnx", "build_engine.sh", "golden_inputs.npy", "golden_outputs.npy",
        "golden_pixels.npy", "pixels_0.png", "pixels_1.png", "pixels_2.png", "pixels_3.jpg",
        "preprocess.json", "manifest.json", "SHA256SUMS", "README.md", *(PYTHON if has_python(target) else ()),
    }  # fmt: skip
    assert (engine.entry, engine.runs_here) == ("model.onnx", False)
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["files"]) == set(engine.files) - {"manifest.json"}
    for name, entry in manifest["files"].items():
        assert entry == {"sha256": sha256_file(out / name), "bytes": (out / name).stat().st_size}
    assert manifest["build"]["tensorrt"] == target.runtime.tensorrt
    assert engine.files["model.onnx"].sha256 == engine.exported.model.sha256


def test_golden_answers_are_those_of_the_graph_as_written(tmp_path):
    engine = build(tmp_path)
    inputs, outputs = (np.load(engine.files[f"golden_{key}.npy"].path) for key in ("inputs", "outputs"))
    assert (inputs.shape, inputs.dtype, outputs.shape) == ((8, 3, 32, 32), np.float32, (8, 10))
    np.testing.assert_allclose(outputs, reference(engine.exported.model.path, inputs), atol=1e-5)
    tolerance = json.loads(engine.files["manifest.json"].path.read_text())["golden"]["tolerance"]
    assert tolerance == pytest.approx(0.03 * (outputs.max() - outputs.min()))


def test_golden_images_lie_where_normalised_pixels_do():
    preprocess = Preprocess(crop=48)
    images = golden_inputs(preprocess, 3, 48, 40)
    mean, std = (np.reshape(value, (3, 1, 1)) for value in (preprocess.mean, preprocess.std))
    pixels = images * std + mean
    assert images.shape == (8, 3, 48, 40)
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    assert pixels.std() > 0.15
    assert len({image.tobytes() for image in images}) == 8


def test_network_with_constant_logits_gets_no_golden_outputs(tmp_path):
    exported = export(tmp_path / "export", tiny(), 32, "signed")
    model = onnx.load(exported.model.path)
    for name in ("fc.weight", "fc.bias"):
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), name))
    onnx.save(model, tmp_path / "mute.onnx")
    with pytest.raises(StageError, match="alike"):
        TensorRT().build(replace(exported, model=File.of(tmp_path / "mute.onnx")), ORIN, tmp_path, Silent())


def test_two_bundles_are_equal_to_the_byte(tmp_path):
    assert build(tmp_path, name="first").digest == build(tmp_path, name="second").digest


@pytest.mark.parametrize("target", RUNTIMES, ids=lambda target: target.name)
def test_the_shell_script_parses_and_refuses_a_damaged_bundle(tmp_path, target):
    engine = build(tmp_path, target)
    script = engine.files["build_engine.sh"].path
    assert "@" not in script.read_text().replace('"$@"', "").replace("[@]", "")
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    recorder = tmp_path / "bin" / "trtexec"
    recorder.parent.mkdir()
    recorder.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@" >> arguments; echo plan > model.plan\n')
    recorder.chmod(0o755)
    environment = {"PATH": f"{recorder.parent}:/usr/bin:/bin"}
    call = [str(script), "--extra"]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert ("python3" in done.stdout) == has_python(target)
    arguments = (script.parent / "arguments").read_text().split()
    given = GraphInput("image", (3, 32, 32), free=True)
    assert arguments == [
        "--onnx=model.onnx", *trtexec_flags(target.runtime, given), "--timingCacheFile=timing.cache",
        "--saveEngine=model.plan", "--extra", *timing_flags(target.runtime, given), "--loadEngine=model.plan",
    ]  # fmt: skip
    assert "--shapes=image:1x3x32x32" in arguments
    (script.parent / "arguments").unlink()
    with (script.parent / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    assert subprocess.run(call, env=environment, capture_output=True, check=False).returncode == 1
    assert not (script.parent / "arguments").exists()


def test_the_script_can_be_executed_from_the_store_and_from_the_run_folder(tmp_path):
    """Packed, taken out of the store, handed on by a later stage (linked or copied), and published."""
    engine, store, folder = build(tmp_path), Store(tmp_path / "cache"), RunFolder(tmp_path / "run")
    with store.workspace() as first:
        linked = store.keep("ab", engine, first, 0.0).load()
    with store.workspace() as second, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another file system")))
        copied = store.keep("cd", linked, second, 0.0).load()
    folder.path.mkdir()
    (folder.path / RECIPE).write_text("")
    for artifact in (engine, linked, copied):
        folder.publish(artifact, {}, "bundle", None)
        published = folder.path / "bundle" / "build_engine.sh"
        done = subprocess.run([str(published)], env={"TRTEXEC": "/nowhere", "PATH": "/usr/bin:/bin"}, check=False)
        assert done.returncode == 3  # it ran, and trtexec is not there
        published.chmod(0o644)
    assert not os.access(folder.path / "bundle" / "README.md", os.X_OK)


@pytest.mark.parametrize("target", JETSONS, ids=lambda target: target.name)
def test_the_readme_lists_what_the_device_can_run_and_nothing_else(tmp_path, target):
    files = build(tmp_path, target).files
    text = files["README.md"].path.read_text()
    commands = [line.split("#")[0].strip() for line in text.splitlines() if line.startswith("    ")]
    assert "./build_engine.sh" in commands
    for command in commands:
        program, *words = command.split()
        assert Path(words[0] if program == "python3" else program).name in files
    for name in re.findall(r"[a-z_]+\.(?:py|sh|npy|onnx)", text):
        assert name in files
    version = {"4": "3.6", "5": "3.8", "6": "3.10", "7": "3.12"}.get((target.runtime.jetpack or "x")[0])
    assert target.runtime.python == version
    if has_python(target):
        assert f"Python {version} of JetPack {target.runtime.jetpack}" in text if version else "Python 3.8" in text
        oldest = tuple(map(int, (version or "3.8").split(".")))
        for name in PYTHON:
            ast.parse(files[name].path.read_text(), feature_version=oldest)
    else:
        assert "python3" not in text


def test_script_without_trtexec_names_what_to_install(tmp_path):
    script = build(tmp_path).files["build_engine.sh"].path
    environment = {"TRTEXEC": "/nowhere/trtexec", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "libnvinfer-bin" in done.stderr


@pytest.mark.parametrize("target", JETSONS, ids=lambda target: target.name)
def test_flags_exist_in_the_targets_version(target):
    """NVIDIA/TensorRT samples/common/sampleOptions.cpp, release by release."""
    flags = {flag.partition("=")[0] for flag in trtexec_flags(target.runtime, IMAGE)}
    version = tuple(map(int, target.runtime.tensorrt.split(".")))
    weak = {"--int8", "--fp16"} if target.scheme is not None else {"--fp16"}
    assert weak <= flags or version >= (10, 12)
    assert ("--builderOptimizationLevel" in flags) <= (version >= (8, 6))
    assert ("--skipInference" in flags) == (version >= (8, 6))
    assert ("--buildOnly" in flags) == (version < (8, 6))
    assert ("--nvtxMode" in flags) == (version < (8, 2))
    assert ("--profilingVerbosity" in flags) == (version >= (8, 2))
    assert not any(flag.startswith("--useDLACore") for flag in flags)


def test_memory_cap_and_shapes_are_spelt_as_the_version_does():
    old = replace(ORIN.runtime, tensorrt="8.2", flags=())
    assert trtexec_flags(old, IMAGE)[0] == "--workspace=1024"
    assert "--percentile=99" in timing_flags(replace(ORIN.runtime, tensorrt="8.4"), IMAGE)
    assert "--percentile=50,90,99" in timing_flags(replace(ORIN.runtime, tensorrt="8.5"), IMAGE)
    for version in ("8.4", "8.5", "10.3"):
        assert trtexec_flags(replace(old, tensorrt=version), IMAGE)[0] == "--memPoolSize=workspace:1024"
    new = trtexec_flags(replace(ORIN.runtime, flags=()), IMAGE)
    assert new == (
        "--memPoolSize=workspace:1024",
        "--minShapes=image:1x3x224x224",
        "--optShapes=image:1x3x224x224",
        "--maxShapes=image:8x3x224x224",
    )
    assert len(trtexec_flags(ORIN.runtime, replace(IMAGE, free=False))) == len(ORIN.runtime.flags) + 1
    with pytest.raises(TargetError, match="'ten'"):
        trtexec_flags(replace(ORIN.runtime, tensorrt="ten"), IMAGE)


def test_python_builder_gets_the_settings_of_trtexec():
    found = build_settings(ORIN.runtime, IMAGE)
    assert (found.precisions, found.optimization_level, found.workspace_mib) == (("INT8", "FP16"), 5, 1024)
    bare = build_settings(replace(ORIN.runtime, flags=("--fp16",)), IMAGE)
    assert (bare.precisions, bare.optimization_level) == (("FP16",), None)


def test_bundle_holds_preprocessing_and_classes(tmp_path):
    engine = build(tmp_path)
    found = json.loads(engine.files["preprocess.json"].path.read_text())
    assert found["preprocess"]["crop"] == 32
    assert found["input"] == {"name": "image", "shape": ["N", 3, 32, 32], "type": "float32"}
    assert found["classes"] == list(engine.metadata.classes)


def test_the_simulation_follows_the_scales_to_the_last_bit(tmp_path):
    engine, images = build(tmp_path), random_images(4, 32, seed=1)
    with TensorRT().engine_session(engine, ORIN) as session:
        np.testing.assert_array_equal(session.run(images), reference(engine.exported.model.path, images))


def test_float_reference_is_simulated_with_every_optimisation(tmp_path):
    engine, images = build(tmp_path), random_images(4, 32, seed=1)
    expected = reference(engine.exported.float_model.path, images)
    with TensorRT().session(engine.exported.float_model.path, ORIN) as session:
        np.testing.assert_allclose(session.run(images), expected, atol=1e-4)


def test_kernel_counts_are_labelled_as_expected(tmp_path):
    found = TensorRT().integer_kernels(build(tmp_path))
    assert (found.integer, found.weighted, found.counts) == (6, 7, {})
    assert "expected from the graph, 2 of 2 residual adds among them; TensorRT has not run here" in found.how


def test_the_expectation_for_resnet18_is_twenty_convolutions_and_eight_adds(tmp_path):
    onnx.save(draw(preset("resnet18"), 32, "signed"), tmp_path / "model.onnx")
    found = expected_kernels(tmp_path / "model.onnx", "why")
    assert (found.integer, found.weighted) == (20, 21)
    assert "8 of 8" in found.how


def test_a_layer_with_one_float_operand_is_not_expected_in_integers(tmp_path):
    model = draw(tiny(), 32, "signed")
    node = next(node for node in model.graph.node if node.name == "layer1.0.conv2")
    node.input[0] = "layer1.0.relu1"
    add = next(node for node in model.graph.node if node.name == "layer2.0.add")
    add.input[1] = "layer2.0.downsample.0"
    onnx.save(model, tmp_path / "model.onnx")
    found = expected_kernels(tmp_path / "model.onnx", "why")
    assert found.integer == 5
    assert "1 of 2" in found.how


def test_build_evidence_names_its_tool(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    (evidence,) = build(tmp_path).evidence
    assert evidence.endswith("parsed and built the graph on this host: evidence of that and of nothing more")


def test_without_tensorrt_rtx_there_is_no_build_evidence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    engine = build(tmp_path)
    assert engine.evidence == ("not proven on this host: pip install 'edgeres[tensorrt-rtx]'",)
    assert "edgeres[tensorrt]" in TensorRT().missing()


def test_a_graph_the_parser_refuses_makes_no_engine(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(StageError, match=r"image\.q"):
        build(tmp_path, style="unsigned")


@pytest.fixture
def jetson(tmp_path, monkeypatch):
    """This machine as a Jetson with TensorRT 10.3, whose builder answers with a marked plan."""
    (tmp_path / "nv_tegra_release").write_text("# R36\n")
    monkeypatch.setattr(tensorrt, "JETSON", tmp_path / "nv_tegra_release")
    monkeypatch.setattr(tensorrt, "_runtime", lambda: SimpleNamespace(__version__="10.3.0"))
    monkeypatch.setattr(tensorrt, "compile_graph", lambda *_, advance: b"plan")
    monkeypatch.setattr(tensorrt, "gpu", lambda: "Orin (compute capability 8.7)")
    return monkeypatch


def test_on_the_jetson_itself_the_engine_is_built_too(tmp_path, jetson):
    engine = build(tmp_path)
    assert (engine.entry, engine.runs_here) == ("model.plan", True)
    assert engine.files["model.plan"].path.read_bytes() == b"plan"
    assert "Orin" in engine.evidence[0]


def test_other_tensorrt_or_gpu_builds_without_shipping_the_engine(tmp_path, jetson):
    jetson.setattr(tensorrt, "_runtime", lambda: SimpleNamespace(__version__="10.30.0"))
    engine = build(tmp_path)
    assert (engine.entry, engine.runs_here) == ("model.onnx", False)
    assert "which is not the target" in engine.evidence[0]
    shutil.rmtree(tmp_path / "out")
    jetson.setattr(tensorrt, "_runtime", lambda: SimpleNamespace(__version__="10.3.0"))
    jetson.setattr(tensorrt, "JETSON", tmp_path / "nowhere")
    assert not build(tmp_path).runs_here
