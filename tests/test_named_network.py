import json

import onnx
import pytest

from edgeres.data.size import Size
from edgeres.errors import ModelError, UsageError
from edgeres.latency.random_model import random_model
from edgeres.latency.workload import of_graph
from edgeres.model.graph import graph
from edgeres.model.presets import PRESETS
from edgeres.runs import document
from edgeres.runs.model_reference import find_network, read_measured
from edgeres.runs.run import Device, LatencyRow, Run, Timings
from edgeres.targets.target import find_target

CPU, JETSON = find_target("cpu"), find_target("jetson")


@pytest.fixture
def run(tmp_path):
    """A run folder of a CIFAR ResNet, timed on this host."""
    models = random_model(PRESETS["resnet20"], Size.square(32), CPU)
    onnx.save(models["int8"], tmp_path / "model.onnx")
    onnx.save(models["float"], tmp_path / "model.float.onnx")
    rows = tuple(
        LatencyRow(
            variant=variant, runtime="ONNX Runtime", batch=1, threads=1, p50_ms=ms, p90_ms=ms, p99_ms=ms, n=9,
            low_ms=ms, high_ms=ms, how="here",
        )
        for variant, ms in (("float32", 2.0), ("int8", 1.0))
    )  # fmt: skip
    device = Device(name="cpu", title="CPU", backend="onnxruntime", runtime="ONNX Runtime")
    found = Run(edgeres="0", command="edgeres", model="resnet20", target=device, timings=Timings(latency=rows))
    (tmp_path / "report.json").write_text(document.encode(found))
    return tmp_path


def test_a_preset_is_what_its_target_makes_of_it():
    found = find_network("resnet50", JETSON)
    assert (found.name, found.size, found.precision) == ("resnet50", (224, 224), "int8")
    assert found.title == "resnet50 at 224 px, INT8"
    floating = [work.name for work in found.works if not work.integer]
    assert floating == ["maxpool", "avgpool", "fc"]  # TensorRT's pools take floats
    assert [work.name for work in find_network("resnet50", CPU).works if not work.integer] == ["fc"]
    assert find_network("resnet50", JETSON, precision="float").precision == "fp16"
    assert find_network("resnet50", CPU, precision="float").precision == "fp32"
    floating = find_network("resnet50", JETSON, precision="fp32")
    assert (floating.precision, floating.title) == ("fp32", "resnet50 at 224 px, FP32")
    assert not any(work.integer for work in floating.works)
    assert find_network("resnet20", JETSON, size=Size.square(64)).size == (64, 64)


def test_a_run_is_what_it_ships(run):
    found = find_network(str(run), CPU)
    assert (found.name, found.size, found.precision) == ("resnet20", (32, 32), "int8")
    assert find_network(str(run / "report.json"), CPU) == found
    assert find_network(str(run), CPU, precision="float").precision == "fp32"
    spec = of_graph(graph(PRESETS["resnet20"]), Size.square(32), integer=True, float_layers=("fc",), adds=True)
    assert sum(work.macs for work in found.works) == sum(work.macs for work in spec)
    assert sum(work.kind == "add" for work in found.works) == 9


def test_a_file_is_itself(run):
    found = find_network(str(run / "model.onnx"), CPU, size=Size.square(64))
    assert (found.name, found.size) == ("model", (64, 64))
    with pytest.raises(UsageError, match=r"fp32 for .*INT8 alone"):
        find_network(str(run / "model.onnx"), CPU, precision="float")
    with pytest.raises(UsageError, match=r"int8 for .*no INT8"):
        find_network(str(run / "model.float.onnx"), CPU, precision="int8")
    assert find_network(str(run / "model.float.onnx"), JETSON).precision == "fp16"
    assert find_network(str(run / "model.float.onnx"), JETSON, precision="fp32").precision == "fp32"


def test_what_is_nothing_is_said(tmp_path):
    with pytest.raises(ModelError, match="did you mean 'resnet50'"):
        find_network("resnett50", CPU)
    with pytest.raises(UsageError, match=r"there is no .*model\.onnx"):
        find_network(str(tmp_path), CPU)
    with pytest.raises(UsageError, match="has no INT8"):
        find_network("resnet18", find_target("jetson-nano"), precision="int8")
    with pytest.raises(UsageError, match="cpu has no FP16: ask for int8 or fp32"):
        find_network("resnet18", CPU, precision="fp16")


def test_a_run_calibrates_with_every_variant_it_timed(run):
    floating, int8 = read_measured(str(run), CPU)
    assert (floating.ms, int8.ms) == (2.0, 1.0)
    assert (floating.precision, int8.precision) == ("fp32", "int8")
    assert any(work.integer for work in int8.works)
    assert not any(work.integer for work in floating.works)
    with pytest.raises(UsageError, match="is a run for cpu"):
        read_measured(str(run), JETSON)


def test_a_note_calibrates(run, tmp_path):
    place = tmp_path / "note.json"
    place.write_text(json.dumps({"model": "resnet50", "precision": "int8", "size": 224, "latency_ms": 1.085}))
    (found,) = read_measured(str(place), JETSON)
    assert (found.ms, found.name) == (1.085, "resnet50 at 224 px, INT8")
    assert found.works == find_network("resnet50", JETSON).works
    place.write_text(json.dumps({"model": "model.onnx", "latency_ms": 3}))
    (found,) = read_measured(str(place), CPU)
    assert found.works == find_network(str(run / "model.onnx"), CPU).works
    assert (found.precision, found.figure) == ("int8", "host_latency")
    place.write_text(json.dumps({"model": "model.float.onnx", "latency_ms": 3, "figure": "gpu_compute"}))
    (found,) = read_measured(str(place), JETSON)
    assert (found.precision, found.figure) == ("fp16", "gpu_compute")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no JSON"),
        ('{"model": "resnet50"}', "latency_ms"),
        ('{"model": "resnet50", "latency": 1}', "latency_ms: Field required"),
        ('{"model": "resnet50", "latency_ms": 1, "precision": "int4"}', "precision"),
        ('{"model": "resnet50", "latency_ms": 1, "figure": "wall"}', "figure"),
    ],
)
def test_a_note_that_says_something_else_is_refused(text, said, tmp_path):
    place = tmp_path / "note.json"
    place.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_measured(str(place), JETSON)


def test_no_note():
    with pytest.raises(UsageError, match="cannot read"):
        read_measured("/nowhere/at/all.json", JETSON)
