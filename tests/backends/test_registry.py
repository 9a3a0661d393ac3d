"""Backends and targets are found by their files alone: a new one is added in one place."""

import json
import subprocess
import sys

import numpy as np
import pytest
from drawn_networks import export, random_images, tiny

import edgeres.backends
import edgeres.targets
from edgeres.backends.registry import backends, find_backend
from edgeres.cli import main
from edgeres.data.images import ArrayImage
from edgeres.data.split import Split
from edgeres.errors import TargetError
from edgeres.pipeline.stages.build import Build
from edgeres.pipeline.stages.stage import Context
from edgeres.targets.runtime import yaml_files
from edgeres.targets.target import find_target, targets

TOY_BACKEND = """
import shutil
from contextlib import contextmanager
from edgeres.artifacts.artifact import Engine, File, KernelCounts
from edgeres.backends.backend import Backend
from edgeres.backends.session import Package

class Zeros:
    def run(self, images):
        return images[:, 0, 0, :10] * 0

class Toy(Backend):
    name = "toy"
    package = Package("json", "Toy", "toy")

    def build(self, exported, target, out, progress):
        shutil.copyfile(exported.model.path, out / "model.toy")
        return Engine(exported, self.name, "model.toy", {"model.toy": File.of(out / "model.toy")})

    @contextmanager
    def session(self, graph, target, *, engine=None, threads=None):
        assert engine is None or engine.name == "model.toy"
        yield Zeros()

    def integer_kernels(self, engine):
        return KernelCounts(integer=0, weighted=0, kernels={}, how="not counted")

BACKENDS = (Toy,)
"""
TOY_DEVICE = """
name: toy-board
title: Toy board
backend: toy
build_on: host
latency_class: mobile
scheme: {signed: false, add_inputs: both, pools: true}
runtime: {name: Toy 1.0, opset: 17, ir_version: 8, source: this test}
device: {name: toy, source: this test}
"""


@pytest.fixture
def found_again():
    """Lists of backends and targets that are read again, before the test and after it."""
    for cached in (backends, yaml_files, targets):
        cached.cache_clear()
    yield
    for cached in (backends, yaml_files, targets):
        cached.cache_clear()


@pytest.fixture
def toy(tmp_path, monkeypatch, found_again):
    """A module beside the backends and a YAML file beside the devices; nothing else changes."""
    for package, path, text in (
        (edgeres.backends, "backends/toy.py", TOY_BACKEND),
        (edgeres.targets, "targets/devices/toy.yaml", TOY_DEVICE),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / path.partition("/")[0])])
    yield
    sys.modules.pop("edgeres.backends.toy", None)


@pytest.mark.usefixtures("toy")
def test_a_runtime_is_added_by_one_module_and_its_target_by_one_file(tmp_path, capsys):
    assert main(["targets", "--json"]) == 0
    row = next(row for row in json.loads(capsys.readouterr().out) if row["name"] == "toy-board")
    assert (row["runtime"], row["missing"]) == ("Toy 1.0", None)
    assert main(["compile", "resnet20", "--target", "toy-board", "--plan", "--out", str(tmp_path / "run")]) == 0
    assert "Build: " in capsys.readouterr().out

    exported = export(tmp_path / "export", tiny(), 32, "unsigned")
    image = Split("validation", (ArrayImage(np.zeros((32, 32, 3), np.uint8), "black"),), (0,))
    workspace = tmp_path / "built"
    workspace.mkdir()
    context = Context(find_target("toy-board"), image, image, image, image, tuple("0123456789"), 0, tmp_path, workspace)
    engine = Build()(exported, context.view(Build.reads))
    assert (engine.backend, engine.entry, engine.metadata.lineage[-1].stage) == ("toy", "model.toy", "build")
    with find_backend("toy").engine_session(engine, context.target) as session:
        assert session.run(random_images(2, 32, 0)).shape == (2, 10)


@pytest.mark.usefixtures("found_again")
def test_a_target_is_added_by_one_file(tmp_path, monkeypatch):
    (tmp_path / "devices").mkdir()
    device = {**yaml_files("devices")["android"], "name": "toy-phone", "aliases": [], "default": "litert"}
    (tmp_path / "devices" / "toy-phone.yaml").write_text(json.dumps(device))
    monkeypatch.setattr(edgeres.targets, "__path__", [*edgeres.targets.__path__, str(tmp_path)])
    yaml_files.cache_clear()
    assert (find_target("toy-phone").backend, find_target("toy-phone:ort").backend) == ("litert", "onnxruntime_mobile")


def test_every_target_names_a_backend_there_is():
    assert {target.backend for target in targets().values()} <= set(backends())


def test_a_backend_is_found_by_its_own_name():
    assert list(backends()) == [
        "executorch", "litert", "onnxruntime", "onnxruntime_mobile", "openvino", "tensorrt", "tensorrt_rtx",
    ]  # fmt: skip
    for name in backends():
        assert find_backend(name).name == name


def test_a_misspelt_backend_gets_the_nearest_name():
    with pytest.raises(TargetError, match="did you mean 'openvino'"):
        find_backend("openvno")


def test_listing_the_backends_loads_no_runtime():
    heavy = "('torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'nncf', 'executorch')"
    script = "import sys; from edgeres.backends.registry import backends; backends(); "
    script += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
