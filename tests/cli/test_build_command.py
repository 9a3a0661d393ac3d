"""``edgeres build BUNDLE``: the engine on the device itself, without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgeres import cli
from edgeres.backends.bundle import build_engine, device
from edgeres.cli.build import is_bundle

HEAVY = ("torch", "torchvision", "nncf", "onnx", "onnxruntime", "openvino", "tensorrt_rtx", "sklearn")


@pytest.fixture
def bundle(tmp_path):
    """The files of a bundle, as far as verifying goes."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"a graph")
    manifest = {
        "format": device.FORMAT,
        "model": "resnet18",
        "target": "jetson-orin-nano",
        "runtime": "TensorRT 10.3 (JetPack 6.2)",
        "entry": "model.onnx",
        "files": {"model.onnx": {"sha256": device.sha256(b"a graph")}},
        "golden": {"tolerance": 0.1},
        "build": {"tensorrt": "10.3"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def alone(bundle, *options):
    """The command in a process of its own, which prints the heavy modules it imported."""
    code = (
        "import sys\nfrom edgeres.cli import main\ncode = main(sys.argv[1:])\n"
        f"print('heavy:', [name for name in {HEAVY} if name in sys.modules])\nsys.exit(code)"
    )
    call = [sys.executable, "-c", code, "build", str(bundle), *options]
    return subprocess.run(call, capture_output=True, text=True, check=False)


def test_on_this_host_it_verifies_says_what_is_missing_and_ends_with_3_without_torch(bundle, monkeypatch):
    (bundle / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: no such file')")
    monkeypatch.setenv("PYTHONPATH", str(bundle))
    done = alone(bundle)
    assert done.returncode == 3
    assert "bundle intact: 1 files, resnet18 for jetson-orin-nano" in done.stdout
    assert "heavy: []" in done.stdout
    assert "TensorRT does not load here" in done.stderr
    assert "copy the bundle to the device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_bundle_ends_with_2_before_anything_is_loaded(bundle, capsys):
    (bundle / "model.onnx").write_bytes(b"another")
    assert cli.main(["build", str(bundle)]) == 2
    assert "model.onnx is damaged" in capsys.readouterr().err
    (bundle / "SHA256SUMS").write_text("")
    (bundle / "manifest.json").write_text("{")
    assert cli.main(["build", str(bundle)]) == 2
    assert "manifest.json cannot be read" in capsys.readouterr().err


def test_a_bundle_without_an_engine_says_where_to_look(bundle, capsys):
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["build"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["build", str(bundle)]) == 2
    assert "README.md says what to type" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--set", "a.b=1"], ["--budget", "macs_g=1"], ["--strict"], ["--out", "x"]])
def test_what_a_run_is_asked_does_not_apply_to_a_bundle(bundle, option, capsys):
    assert cli.main(["build", str(bundle), *option]) == 2
    assert f"{option[0]} does not apply" in capsys.readouterr().err


def test_it_is_the_code_that_travels_and_its_answer_is_passed_on(bundle, monkeypatch, capsys):
    def run(folder, *, check_only, say):
        say("model.plan: built")
        (folder / device.REPORT).write_text('{"format": 1}\n')

    monkeypatch.setattr(build_engine, "run", run)
    assert cli.main(["build", str(bundle)]) == 0
    out = capsys.readouterr().out
    assert "model.plan: built" in out
    assert "edgeres measured RUN device.json" in out
    assert cli.main(["build", str(bundle), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"format": 1}
    assert "model.plan: built" in err


def test_a_run_is_no_bundle(tmp_path, capsys):
    (tmp_path / "manifest.json").write_text(json.dumps({"model": "resnet18", "files": {}}))
    assert not is_bundle(tmp_path)
    assert cli.main(["build", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
