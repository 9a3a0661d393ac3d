"""``edgeres parity`` on a real run, small: of target x86, whose weights suit this processor in every runtime."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from edgeres.cli import main, parity
from edgeres.parity.result import Pair, Parity, RuntimeRow
from edgeres.report import report_files
from edgeres.runs import document

pytestmark = pytest.mark.slow

LINE = ["compile", "resnet20", "--target", "x86", "--crop", "8", "--resize", "8", "--recipe", "train", "--quiet"]
SET = ["train.epochs=1", "quantize.calibrator=minmax", "quantize.weights=max", "quantize.technique=calibrate"]
HERE = ["--runtimes", "onnxruntime,openvino,onnxruntime_mobile"]
FEW = ["--images", "30", "--layers", "2", "--agreement", "0", *HERE]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity")
    changes = [word for change in SET for word in ("--set", change)]
    words = [*LINE, *changes, "--until", "export", "--cache", str(folder / "cache"), "--out", str(folder / "run")]
    assert main(words) == 0
    return folder


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def cached(made):
    return ["--cache", str(made / "cache"), "--quiet"]


def test_every_runtime_here_is_compared_and_nothing_diverges(made, run, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main(["parity", str(run), *FEW, *cached(made), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((run / "parity.json").read_text())
    assert (found["images"], found["shown"], found["target"]) == (30, 2, "x86")
    rows = {row["name"]: row for row in found["runtimes"]}
    assert {"reference", "torch", "onnxruntime_unoptimised", "onnxruntime", "openvino"} <= set(rows)
    assert len(found["pairs"]) == len(rows) * (len(rows) - 1) // 2
    assert all(pair["agreement"] >= 90 for pair in found["pairs"])
    for name in ("torch", "onnxruntime_unoptimised", "onnxruntime", "openvino"):
        depths = rows[name]["depths"]
        assert [depths[0]["tensor"], depths[-1]["tensor"]] == ["image", "logits"]
        assert [depth["tensor"] for depth in depths if depth["unexplained"]] == []
    assert rows["onnxruntime"]["biases"] == "int32"
    assert rows["onnxruntime_unoptimised"]["biases"] == "float"
    assert "device" in found["absent"]["onnxruntime_mobile"]
    drawn = ElementTree.parse(run / "parity.svg").getroot()
    assert drawn.tag.endswith("svg")
    page = (run / "parity.html").read_text()
    ElementTree.fromstring(page.partition("\n")[2])
    assert "How a difference grows with depth" in page
    assert {name: data for name, data in before.items() if (run / name).read_bytes() != data} == {}


def test_people_get_a_table_and_one_line_that_judges(made, run, tmp_path, capsys):
    words = [
        "parity",
        str(run),
        "--images",
        "10",
        "--layers",
        "1",
        "--agreement",
        "0",
        "--out",
        str(tmp_path / "p"),
        *HERE,
    ]
    assert main([*words, "--cache", str(made / "cache")]) == 0
    output = capsys.readouterr().out
    for part in ("exact integers", "ORT unoptimised", "OpenVINO", "codes off alone", "PASS: ", "no layer diverges"):
        assert part in output
    assert not (run / "parity.json").exists()
    assert (tmp_path / "p" / "parity.html").is_file()


def test_less_agreement_than_wanted_fails(run, monkeypatch, capsys):
    rows = tuple(RuntimeRow(name=name, title=name, top1=50.0) for name in "ab")
    found = Parity(model="m", target="t", images=1000, shown=1, wanted=99.9, runtimes=rows, absent={}, float_nodes=(),
                   pairs=(Pair(first="a", second="b", agreement=99.8, differing=2, margin=0.1, rank=0.5),))  # fmt: skip
    monkeypatch.setattr(parity, "_result", lambda *arguments: found)
    assert main(["parity", str(run), "--quiet"]) == 3
    output = capsys.readouterr().out
    assert (
        "FAIL: 2 runtimes, 1,000 images: the least agreement is 99.80 %, of a and b (2 answered differently" in output
    )
    assert "all among the 0.5 % of images" in output
    assert not (run / "parity.svg").exists()


def test_what_cannot_be_compared_is_told(made, run, tmp_path, capsys):
    def refused(*words):
        assert main(["parity", *words, *cached(made)]) == 2
        return capsys.readouterr().err

    assert "cannot read" in refused(str(tmp_path / "nothing"))
    report = document.load(run)
    bare = tmp_path / "bare"
    bare.mkdir()
    report_files.write(replace(report, files={}), bare)
    assert "it ended before export" in refused(str(bare))
    report_files.write(replace(report, files={n: f for n, f in report.files.items() if n != "calibration.json"}), run)
    assert "ships no integers" in refused(str(run))
    report_files.write(report, run)
    assert "did you mean 'openvino'" in refused(str(run), "--runtimes", "openvno")
    request = json.loads((run / "request.json").read_text())
    (run / "request.json").write_text(json.dumps({**request, "data": str(tmp_path / "gone")}))
    assert "is not there" in refused(str(run))
    (run / "model.onnx").write_bytes(b"")
    assert "is not the file that its run reported" in refused(str(run))


@pytest.mark.parametrize("wrong", ["--images=0", "--layers=-1", "--agreement=101", "--agreement=most"])
def test_bad_numbers_are_refused(run, wrong, capsys):
    with pytest.raises(SystemExit):
        main(["parity", str(run), wrong])
    assert "argument" in capsys.readouterr().err


def test_another_network_than_the_runs_is_refused(made, run, capsys):
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"][0]["sha256"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert main(["parity", str(run), *FEW, *cached(made)]) == 1
    assert "comes out differently now" in capsys.readouterr().err
