"""Each task from data to verdict: weights and graphs, every target, itself against itself, and planted damage."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fitted_network import CLASSES, OPTIONS, PREPROCESS, SIDE, directions, face, fitted, folders, identities, table
from onnx import numpy_helper
from PIL import Image

from edgeres.cli import main
from edgeres.model import presets
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.zoo import read_checkpoint
from edgeres.onnx_graph.execute import runner
from edgeres.tasks.judgement import PairedPredictions, judge
from edgeres.tasks.registry import task_kind
from edgeres.tasks.task import rows

TARGETS = ("jetson", "x86", "cpu", "cpu:litert", "cpu:executorch")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """By task: the data, and weights whose head is fitted to them."""
    root = tmp_path_factory.mktemp("tasks")
    listed = table(root / "several")
    lines = [line for line in list(csv.reader(listed.open()))[1:] if line[0].startswith("train")]
    several = np.array([[int(cell) for cell in line[1:]] for line in lines])
    binary = folders(root / "binary")
    images = sorted((binary / "train").rglob("*.png"))
    red = np.array([[int(image.parent.name == "present")] for image in images])
    known = identities(root / "identities")
    faces = sorted((known / "train").rglob("*.png"))
    people = [int(image.parent.name[1:]) for image in faces]
    return {
        "multilabel": (listed, fitted(root / "m.safetensors", [listed.parent / line[0] for line in lines], several)),
        "binary": (binary, fitted(root / "b.safetensors", images, red)),
        "embedding": (known, fitted(root / "e.safetensors", faces, directions(people))),
    }


def compiled(folder, task, data, *more, target="cpu", model="resnet20_b"):
    place, weights = data[task]
    source = [] if model.endswith(".onnx") else ["--weights", str(weights)]
    words = ["compile", model, *source, "--data", str(place), "--target", target, "--out", str(folder)]
    cache = ["--cache", str(weights.parent / "cache"), "--quiet", "--budget", "peak_rss_mib=none"]
    cache += ["--calibration", "64"]
    return main([*words, *OPTIONS, *cache, "--task", task, *more])


def report(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize(("task", "metric"), [("multilabel", "mAP"), ("binary", "accuracy"), ("embedding", "recall@1")])
def test_weights_of_each_task_are_quantized_and_judged_by_its_metric(task, metric, data, tmp_path, capsys):
    assert compiled(tmp_path / "run", task, data, "--set", "quantize.technique=equalization") == 0
    document = report(tmp_path / "run")
    found = document["accuracy"]
    assert (document["task"], found["metric"], found["n"]) == (task, metric, 300)
    assert found["float_score"] > (90 if task == "embedding" else 97)
    assert abs(found["drop_pp"]) < 3
    assert document["stages"][1]["score"] == found["float_score"]
    assert document["stages"][1]["top1"] is None
    assert (found["b"] is None) == (task == "multilabel")
    assert (document["confusion"] is None) == (task != "binary")
    assert [one["name"].split(" at")[0] for one in found["further"]] == (["F1"] if task == "multilabel" else [])
    capsys.readouterr()
    code = main(["gate", str(tmp_path / "run"), "--margin", "9"])
    assert code == 0
    assert f"{metric} " in capsys.readouterr().out
    for page in ("report.md", "report.html"):
        text = (tmp_path / "run" / page).read_text()
        assert metric in text.replace("\u200b", "")  # in Markdown an @ would name a user


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cpu"])
def test_arcfaces_network_is_judged_from_weights_and_from_its_graph(target, data, tmp_path, monkeypatch):
    """PReLU, a norm in front of the first convolution of each block, and a norm behind the last layer."""
    place = data["embedding"][0]
    images = sorted((place / "train").rglob("*.png"))
    labels = directions([int(image.parent.name[1:]) for image in images])
    weights = fitted(tmp_path / "face.safetensors", images, labels, face)
    monkeypatch.setitem(presets.PRESETS, "tiny", face(labels.shape[1]))
    known = {"embedding": (place, weights)}
    more = ("--budget", "accuracy_drop_pp=20", "--set", "quantize.technique=calibrate")
    assert compiled(tmp_path / "weights", "embedding", known, *more, target=target, model="tiny") == 0
    file = exported(tmp_path / "face.onnx", weights)
    assert compiled(tmp_path / "graph", "embedding", known, *more, target=target, model=str(file)) == 0
    first, second = (report(tmp_path / run)["accuracy"] for run in ("weights", "graph"))
    assert first["float_score"] > 80  # chance: 4 %
    assert first["float_score"] == pytest.approx(second["float_score"], abs=2)
    for found in (first, second):
        assert abs(found["drop_pp"]) < 20
        assert found["outputs"][0]["cosine"] > 0.9


@pytest.mark.parametrize("task", ["multilabel", "binary", "embedding"])
def test_a_float_network_passes_against_itself(task, data, tmp_path):
    assert compiled(tmp_path / "run", task, data, "--variant", "float") == 0
    assert main(["gate", str(tmp_path / "run")]) == 0


@pytest.fixture
def outputs(data):
    """By task: float outputs of the validation images, and those of the same weights with its last stage damaged."""

    def of(task):
        place, weights = data[task]
        loaded = read_checkpoint(weights)
        root = place.parent if task == "multilabel" else place
        images = sorted((root / "val").rglob("*.png"))
        pixels = np.stack([PREPROCESS.apply(Image.open(image)) for image in images])
        key = "layer3.2.conv2.weight" if task == "embedding" else "fc.weight"
        damaged = np.array(loaded.weights[key]) * np.float32(-0.5)
        networks = [
            Network(graph(loaded.spec), one) for one in (loaded.weights, loaded.weights.replaced({key: damaged}))
        ]
        return images, [network.logits(pixels) for network in networks]

    return of


@pytest.mark.parametrize("task", ["multilabel", "binary"])
def test_planted_damage_fails(task, data, outputs):
    images, (before, after) = outputs(task)
    kind = task_kind(task)()
    if task == "multilabel":
        listed = {line[0]: line[1:] for line in csv.reader(data[task][0].open())}
        labels = np.array([[float(cell) for cell in listed[f"val/{image.name}"]] for image in images])
    else:
        labels = np.array([int(image.parent.name == "present") for image in images])
    predictions = [rows(kind.predictions(one, labels)) for one in (before, after)]
    assert judge(PairedPredictions("float", rows(labels), predictions[0], predictions[0], task), 1.0).exit_code == 0
    assert judge(PairedPredictions("float", rows(labels), *predictions, task), 1.0).exit_code == 3


class Normalised(torch.nn.Module):
    """Rows of length 1, as networks for faces end."""

    def forward(self, rows):
        return torch.nn.functional.normalize(rows)


ENDS = {"multilabel": torch.nn.Sigmoid, "embedding": Normalised}


def exported(path, weights, end=torch.nn.Identity):
    loaded = read_checkpoint(weights)
    network = Network(graph(loaded.spec), loaded.weights).eval()
    whole = torch.nn.Sequential(network, end())
    names = {"input_names": ["image"], "output_names": ["answer"]}
    free = {"image": {0: "N"}, "answer": {0: "N"}}
    torch.onnx.export(
        whole, (torch.zeros(1, 3, SIDE, SIDE),), str(path), opset_version=17, dynamo=False, dynamic_axes=free, **names
    )
    return path


def test_the_task_of_a_graph_is_found_and_stated(data, tmp_path):
    from edgeres.pipeline.request import Request
    from edgeres.pipeline.task_choice import with_task

    cases = {"b": "binary", "m": "multilabel", "e": "embedding", "c": "multilabel"}
    for name, task in cases.items():
        end = torch.nn.Identity if name == "c" else ENDS.get(task, torch.nn.Identity)
        file = exported(tmp_path / f"{name}.onnx", data[task][1], end)
        request = Request(model=str(file), target="cpu", data=str(tmp_path))
        source, notes = with_task(request, request.source())
        if name == "c":
            assert (source.task, notes) == ("classification", ())
        else:
            assert source.task == task
            assert f"--task {task}, as" in notes[0]


EVERYWHERE = [("embedding", target) for target in TARGETS] + [("multilabel", "cpu:litert"), ("binary", "jetson")]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "target"), EVERYWHERE)
def test_graphs_of_each_task_are_built_and_judged_on_every_target(task, target, data, tmp_path):
    file = exported(tmp_path / "given.onnx", data[task][1], ENDS.get(task, torch.nn.Identity))
    more = ("--budget", "accuracy_drop_pp=9", "--set", "quantize.technique=equalization")
    assert compiled(tmp_path / "run", task, data, *more, target=target, model=str(file)) == 0
    found = report(tmp_path / "run")["accuracy"]
    assert found["float_score"] > (90 if task == "embedding" else 97)
    assert abs(found["drop_pp"]) < 9
    assert {one["name"] for one in found["outputs"]} == ({"logits"} if task == "embedding" else set())


class WithFeatures(torch.nn.Module):
    """Both the features before the last layer and its outputs."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        values = {}
        logits = self.network(image, values.__setitem__)
        return values["flatten"], logits


def test_of_several_outputs_the_one_that_fits_the_data_is_judged(data, tmp_path, capsys):
    loaded = read_checkpoint(data["multilabel"][1])
    network = WithFeatures(Network(graph(loaded.spec), loaded.weights)).eval()
    names = {"input_names": ["image"], "output_names": ["features", "answer"]}
    free = {name: {0: "N"} for name in ("image", "features", "answer")}
    file, image = tmp_path / "given.onnx", torch.zeros(1, 3, SIDE, SIDE)
    torch.onnx.export(network, (image,), str(file), opset_version=17, dynamo=False, dynamic_axes=free, **names)
    call = ["multilabel", data, "--variant", "float"]
    assert compiled(tmp_path / "run", *call, model=str(file)) == 0
    document = report(tmp_path / "run")
    assert document["accuracy"]["float_score"] > 90
    notes = " ".join(note for stage in document["stages"] for note in stage.get("notes", ()))
    assert "output answer is deployed and judged, the one that fits" in notes
    assert "left out of what is deployed: features" in notes
    capsys.readouterr()
    assert compiled(tmp_path / "other", *call, "--main-output", "features", model=str(file)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the labels name 3 classes, and the network has 64 outputs" in said


@pytest.mark.slow
def test_a_damaged_graph_in_integers_fails(data, tmp_path):
    file = exported(tmp_path / "given.onnx", data["multilabel"][1], torch.nn.Sigmoid)
    assert compiled(tmp_path / "run", "multilabel", data, model=str(file)) == 0
    model = onnx.load(tmp_path / "run" / "model.onnx")
    pair = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == pair.input[1])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / np.float32(40), scale.name))
    answers = json.loads((tmp_path / "run" / "predictions.json").read_text())
    images = [data["multilabel"][0].parent / f"val/{number}.png" for number in range(300)]
    listed = {tuple(row) for row in answers["labels"]}
    assert all(len(row) == len(CLASSES) for row in listed)
    pixels = np.stack([PREPROCESS.apply(Image.open(image)) for image in images])
    after = runner(model)(pixels)
    before = tuple(tuple(row) for row in answers["float_predictions"])
    labels = tuple(tuple(row) for row in answers["labels"])
    found = judge(PairedPredictions("float", labels, before, rows(after), "multilabel"), 1.0)
    assert found.exit_code == 3


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--task", "multilabel"], "no table of labels"),
        (["--task", "embedding", "--recipe", "qat"], "learns from one class an image"),
        (["--task", "segment"], "segment"),
    ],
)
def test_what_does_not_fit_a_task_is_refused_before_any_work(words, text, data, tmp_path, capsys):
    place, weights = data["binary"]
    call = ["compile", "resnet20_b", "--weights", str(weights), "--data", str(place), "--target", "cpu"]
    try:
        code = main([*call, "--out", str(tmp_path / "run"), *words])
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert text in " ".join(capsys.readouterr().err.split())
    assert not Path(tmp_path / "run" / "report.json").exists()
