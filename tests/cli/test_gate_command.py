"""``edgeres gate`` on a real run, and on what becomes of it when what ships is broken.

What the run's network happens to have learnt decides nothing: verdicts rest on constructed answers, or on the answers
of the graph that ships as labels, of which a broken graph gives many others.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Tree

import numpy as np
import onnx
import pytest

import edgeres
from edgeres.backends.session import onnx_session
from edgeres.cli import main
from edgeres.data.dataset import open_dataset
from edgeres.data.split import Split
from edgeres.gate.predictions import decode, encode
from edgeres.pipeline.request import PreprocessFlags
from edgeres.settings import sha256_file

pytestmark = pytest.mark.slow

SMALL = ["resnet20", "--target", "cpu", "--crop", "8", "--resize", "8", "--set", "verify.seconds=0.1", "--quiet"]
LEARNS = ["--set", "train.epochs=6", "--set", "recover.epochs=2", "--set", "quantize.technique=calibrate",
          "--budget", "accuracy_drop_pp=3"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that has learnt something: a regression has accuracy to take away."""
    folder = tmp_path_factory.mktemp("gate") / "run"
    code = main(["compile", *SMALL, *LEARNS, "--out", str(folder), "--cache", str(folder.parent / "cache")])
    assert code in (0, 3)
    return folder


@pytest.fixture(scope="module")
def answers(run):
    return decode((run / "predictions.json").read_text(), "here")


@pytest.fixture(scope="module")
def data():
    return open_dataset(None, seed=0, calibration=512, allow=frozenset())


@pytest.fixture(scope="module")
def preprocess(data):
    return PreprocessFlags(resize=8, crop=8).over(data.suggested)


@pytest.fixture
def altered(run, answers, tmp_path):
    """Makes a copy of the run with other answers, sealed as if the run itself had given them."""

    def copy(name="altered", **columns):
        folder = tmp_path / name
        shutil.copytree(run, folder)
        path = folder / "predictions.json"
        path.write_bytes(encode(replace(answers, **columns)))
        report = json.loads((folder / "report.json").read_text())
        report["files"][path.name] = {"sha256": sha256_file(path), "size": path.stat().st_size}
        (folder / "report.json").write_text(json.dumps(report))
        return folder

    return copy


@pytest.fixture
def one_lost(altered, answers):
    """A copy of the run whose float network is right on 400 of 500 images, and what ships on 399 of them."""

    def copy(name="one-lost"):
        wrong = [(label + 1) % 10 for label in answers.labels]
        before = (*answers.labels[:400], *wrong[400:])
        return altered(name, float_predictions=before, deployed_predictions=(wrong[0], *before[1:]))

    return copy


@pytest.fixture
def against_itself(altered, answers):
    """A copy of the run on whose images the graph that ships was right throughout, and float as well."""

    def copy(name="altered", after=answers.deployed_predictions):
        right = answers.deployed_predictions
        return altered(name, labels=right, float_predictions=right, deployed_predictions=after)

    return copy


def deployed(model, data, preprocess, place):
    """What a graph answers on the validation images."""
    place.write_bytes(model.SerializeToString())
    with onnx_session(place, optimise=True) as session:
        return tuple(
            int(index) for images, _ in data.validation.batches(preprocess) for index in session.run(images).argmax(1)
        )


def judged(capsys, *words):
    capsys.readouterr()
    code = main(["gate", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_answers_are_those_of_the_report(run, answers, data):
    report = json.loads((run / "report.json").read_text())["accuracy"]
    columns = (answers.float_predictions, answers.deployed_predictions, answers.labels)
    lost = sum(before == label != after for before, after, label in zip(*columns, strict=True))
    assert (len(answers), lost) == (report["n"], report["b"])
    assert answers.images == data.validation.digest
    assert [content[:16] for content in data.validation.hashes] == list(answers.hashes)
    files = json.loads((run / "manifest.json").read_text())["files"]
    assert files["predictions.json"] == sha256_file(run / "predictions.json")


def test_the_runs_own_budget_is_the_margin_and_passes(one_lost, capsys):
    folder = one_lost()
    code, found = judged(capsys, folder)
    assert (code, found["outcome"], found["margin_pp"]) == (0, "PASS", 3.0)
    assert (found["reference_score"], found["lost"], found["gained"]) == (80, 1, 0)
    code, found = judged(capsys, folder, "--mlperf")
    assert found["margin_pp"] == pytest.approx(0.8)
    assert "no retraining; behind its float baseline this run did prune, recover" in found["warnings"][-1]
    assert (code, found["outcome"]) == (5, "INCONCLUSIVE")


def test_too_few_images_have_a_code_of_their_own(one_lost, capsys):
    code, found = judged(capsys, one_lost(), "--margin", "0.1")
    assert (code, found["outcome"]) == (5, "INCONCLUSIVE")
    assert found["n_needed"] > found["n"]
    assert found["power"] < 0.8


def graph_with(run, name, change):
    model = onnx.load(run / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), name))
    return model


@pytest.mark.parametrize("sequential", [(), ("--sequential",)])
@pytest.mark.parametrize(
    ("tensor", "change"),
    [
        ("layer1.0.conv1.weight.scale", lambda scale: scale * 8),
        ("layer1.0.conv2.weight.scale", lambda scale: scale * 8),
        ("layer1.0.conv2.weight.codes", lambda codes: np.roll(codes, 1, axis=0)),
    ],
)
def test_a_broken_graph_fails(run, data, preprocess, against_itself, capsys, tmp_path, tensor, change, sequential):
    model = graph_with(run, tensor, change)
    folder = against_itself(after=deployed(model, data, preprocess, tmp_path / "broken.onnx"))
    baseline = against_itself("baseline") / "report.json"
    code, found = judged(capsys, folder, "--margin", "1", *sequential)
    assert (code, found["outcome"]) == (3, "FAIL")
    code, found = judged(capsys, folder, "--margin", "1", "--baseline", baseline, *sequential)
    assert (code, found["outcome"], found["reference"]) == (3, "FAIL", "baseline")
    assert "lower than the baseline's" in found["warnings"][0]


def test_the_unbroken_graph_answers_as_recorded(run, answers, data, preprocess, tmp_path):
    model = onnx.load(run / "model.onnx")
    assert deployed(model, data, preprocess, tmp_path / "same.onnx") == answers.deployed_predictions


def test_pixels_that_nobody_normalised_fail(run, data, preprocess, against_itself, capsys, tmp_path):
    raw = replace(preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    after = deployed(onnx.load(run / "model.onnx"), data, raw, tmp_path / "same.onnx")
    code, found = judged(capsys, against_itself(after=after), "--margin", "1")
    assert (code, found["outcome"]) == (3, "FAIL")


def test_labels_in_another_order_do_not_pass(run, answers, altered, capsys):
    right = answers.labels
    other = tuple((label + 1) % 10 for label in right)
    folder = altered(labels=other, float_predictions=right, deployed_predictions=right)
    code, found = judged(capsys, folder)
    assert (code, found["outcome"]) == (5, "INCONCLUSIVE")
    assert "check the labels" in found["sentence"]
    assert main(["gate", str(folder), "--baseline", str(run / "report.json")]) == 2
    assert "another label in the baseline" in capsys.readouterr().err


def test_calibration_on_noise_fails(run, capsys, monkeypatch, tmp_path):
    """Faint noise instead of images: scales too small for what the network meets later."""
    cache = tmp_path / "cache"
    shutil.copytree(run.parent / "cache", cache)
    original = Split.batches

    def noise(self, preprocess, size=32):
        random = np.random.default_rng(0)
        for images, labels in original(self, preprocess, size):
            faint = 0.1 * random.standard_normal(images.shape, np.float32)
            yield (faint if self.name == "calibration" else images), labels

    monkeypatch.setattr(Split, "batches", noise)
    again = ["--cache", str(cache), "--quiet"]
    forced = ["--set", "quantize.calibrator=minmax", "--set", "quantize.technique=calibrate"]
    assert main(["quantize", str(run), "--out", str(tmp_path / "noise"), *again, *forced]) in (0, 3)
    assert main(["verify", str(tmp_path / "noise"), *again]) == 3
    code, found = judged(capsys, tmp_path / "noise", "--margin", "1")
    assert (code, found["outcome"]) == (3, "FAIL")


def test_a_run_against_itself_passes_and_nothing_is_written(run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, found = judged(capsys, run, "--baseline", run / "report.json", "--margin", "1")
    assert (code, found["changed"], found["warnings"]) == (0, 0, [])
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_baseline_on_other_images_is_refused(run, answers, altered, capsys):
    other = tuple(name if index < 100 else f"{index:016x}" for index, name in enumerate(answers.hashes))
    assert main(["gate", str(run), "--baseline", str(altered(hashes=other))]) == 2
    assert "only 100 of 500 images are in both runs" in capsys.readouterr().err


def test_ci_gets_its_files(one_lost, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(one_lost("run").parent)
    junit, sarif = tmp_path / "a.xml", tmp_path / "a.sarif"
    arguments = ["gate", "run", "--margin", "0.1", "--github", "--junit", str(junit), "--sarif", str(sarif)]
    assert main(arguments) == 5
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("INCONCLUSIVE: drop ")
    assert said[-1].startswith("::error title=edgeres gate%3A resnet20-cpu INCONCLUSIVE::INCONCLUSIVE: drop ")
    assert next(Tree.parse(junit).iter("error")).get("message") == said[0]
    place = json.loads(sarif.read_text())["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "run/report.json"
    assert main([*arguments, "--json"]) == 5
    said = capsys.readouterr()
    assert json.loads(said.out)["outcome"] == "INCONCLUSIVE"
    assert said.err.startswith("::error ")
    assert main(["gate", "run", "--junit", str(tmp_path / "nowhere" / "a.xml")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_what_cannot_be_judged_is_said(run, altered, capsys, tmp_path):
    assert main(["gate", str(tmp_path)]) == 2
    assert "cannot read" in capsys.readouterr().err
    folder = altered()
    (folder / "predictions.json").write_bytes((run / "predictions.json").read_bytes() + b" ")
    assert main(["gate", str(folder)]) == 2
    assert "is not the file that its run reported" in capsys.readouterr().err
    early = tmp_path / "early"
    cache = ["--cache", str(run.parent / "cache")]
    assert main(["compile", *SMALL, *LEARNS, "--until", "export", "--out", str(early), *cache]) == 0
    assert main(["gate", str(early)]) == 2
    assert "it stopped after export" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--margin", "0"], ["--margin", "x"], ["--margin", "1", "--mlperf"], ["--alpha", "0.5"], ["--seed", "-1"]]
)
def test_bad_usage_is_code_2(run, capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(["gate", str(run), *words])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("edgeres: argument ")
    assert line.endswith("(see 'edgeres gate --help')")


def test_the_gate_loads_no_runtime(run):
    code = (
        "import sys; from edgeres.cli import main; main(['gate', sys.argv[1], '--sequential']); "
        "print(sorted({'torch', 'torchvision', 'onnxruntime', 'onnx', 'openvino', 'sklearn'} & set(sys.modules)))"
    )
    alone = {**os.environ, "PYTHONPATH": str(Path(edgeres.__file__).parent.parent)}
    command = [sys.executable, "-c", code, str(run)]
    done = subprocess.run(command, env=alone, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
