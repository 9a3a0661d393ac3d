"""``edgeres quantize --explain`` and ``edgeres sensitivity`` on a real run, small."""

import json
import shutil
from xml.etree import ElementTree

import pytest
import yaml

from edgeres.cli import main
from edgeres.pipeline.run_folder import RECIPE
from edgeres.recovery.registry import chain
from edgeres.report import report_files
from edgeres.runs import document

pytestmark = pytest.mark.slow

LINE = ["compile", "resnet20", "--target", "cpu", "--crop", "8", "--resize", "8", "--recipe", "train", "--quiet"]
SET = ["train.epochs=1", "quantize.calibrator=minmax", "quantize.weights=max", "quantize.quantizer=edgeres",
       "quantize.skip=[equalization, range_search]"]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    changes = [word for change in SET for word in ("--set", change)]
    words = [*LINE, *changes, "--until", "quantize", "--cache", str(folder / "cache"), "--out", str(folder / "run")]
    assert main(words) == 0
    return folder


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def cached(made):
    return ["--cache", str(made / "cache")]


def test_the_bill_is_read_from_the_report_and_runs_nothing(run, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main(["quantize", str(run), "--explain", "--cache", "/nonexistent/never"]) == 0
    printed = capsys.readouterr().out
    for part in ("Technique", "KL to float", "* ", "calibrate", "float", "mixed_precision", "tuning images"):
        assert part in printed
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_the_bill_as_json(run, capsys):
    assert main(["quantize", str(run), "--explain", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"] in [row["name"] for row in found["techniques"] if row["chosen"]]
    assert [row["name"] for row in found["techniques"]][:2] == ["float", "calibrate"]
    assert found["techniques"][1]["seconds"] > 0
    assert found["techniques"][1]["latency_ms"] > 0
    assert found["techniques"][1]["latency_expected"] is False
    assert found["next"]
    assert found["error"] is None


def test_a_change_is_carried_out_before_it_is_explained(made, run, capsys):
    words = ["quantize", str(run), "--explain", "--json", "--set", "quantize.technique=bias_correction", *cached(made)]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["techniques"]] == ["float", *chain("bias_correction")]
    assert found["chosen"] == "bias_correction"


def test_a_time_budget_reaches_the_stage_and_the_lock_says_how_it_turned_out(made, run, capsys):
    assert main(["quantize", str(run), "--time-budget", "0.05", "--quiet", *cached(made)]) in (0, 3)
    request = json.loads((run / "request.json").read_text())
    assert "quantize.time_budget_s=3" in request["changes"]
    lock = {name: fields for entry in yaml.safe_load((run / RECIPE).read_text()) for name, fields in entry.items()}
    assert lock["quantize"]["time_budget_s"] is None
    assert lock["train"]["epochs"] == 1
    assert lock["quantize"]["calibrator"] == "minmax"


def test_the_same_bytes_come_out_again(made, run, capsys):
    assert main(["reproduce", str(run), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["identical"] is True


def test_minutes_that_are_none_are_refused(run, capsys):
    for wrong in ("soon", "-1", "nan", "inf"):
        with pytest.raises(SystemExit):
            main(["quantize", str(run), f"--time-budget={wrong}"])
        assert "is no number of minutes" in capsys.readouterr().err


def test_a_run_without_a_ladder_is_told_apart(tmp_path, run, capsys):
    found = document.load(run)
    from dataclasses import replace

    bare = tmp_path / "bare"
    bare.mkdir()
    report_files.write(replace(found, stages=tuple(row for row in found.stages if row.stage != "quantize")), bare)
    assert main(["quantize", str(bare), "--explain"]) == 2
    assert "tried no techniques" in capsys.readouterr().err
    assert main(["quantize", str(tmp_path / "nothing"), "--explain"]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_sensitivity_is_printed_drawn_and_added_to_the_report(made, run, tmp_path, capsys):
    drawn = tmp_path / "noise.svg"
    assert main(["sensitivity", str(run), "--svg", str(drawn), "--quiet", *cached(made)]) == 0
    printed = capsys.readouterr().out
    assert "conv1" in printed
    assert "most sensitive first" in printed
    assert ElementTree.parse(drawn).getroot().tag.endswith("svg")
    report = document.load(run)
    assert len(report.sensitivity) == 19
    assert "Sensitivity of each layer" in (run / report_files.HTML).read_text()
    assert main(["sensitivity", str(run), "--json", "--quiet", *cached(made)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in rows] == [row.layer for row in report.sensitivity]
    assert (run / RECIPE).read_bytes() == (made / "run" / RECIPE).read_bytes()


def test_sensitivity_of_a_run_that_stays_in_float_is_refused(made, run, capsys):
    request = json.loads((run / "request.json").read_text())
    (run / "request.json").write_text(json.dumps({**request, "recipe": "train", "until": "evaluate"}))
    assert main(["sensitivity", str(run), "--quiet", *cached(made)]) == 0  # what it stopped after does not matter
    request["changes"] = []
    (run / "request.json").write_text(json.dumps({**request, "recipe": "float", "weights": "x.pt", "data": "."}))
    assert main(["sensitivity", str(run), "--quiet", *cached(made)]) == 2
