"""What a finished run prints last: its lines, what to do next, where the report is; an error on standard error."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))
from example_run import full, jetson, stopped, x86

from edgeres.artifacts.artifact import Step
from edgeres.artifacts.results import StageMetrics
from edgeres.cli import main
from edgeres.cli._console import _facts
from edgeres.report import report_files
from edgeres.runs.run import FileRow

ROW = FileRow(sha256="0" * 64, size=1)


@pytest.fixture
def summary(tmp_path, capsys, monkeypatch):
    """Prints a run; returns both streams by line."""
    monkeypatch.chdir(tmp_path)

    def printed(run):
        Path("r").mkdir()
        report_files.write(run, Path("r"))
        main(["report", "r"])
        said = capsys.readouterr()
        return said.out.splitlines(), said.err.splitlines()

    return printed


@pytest.mark.parametrize("make", [jetson, x86, full, lambda: x86(1.4)])
def test_budget_lines_are_short_and_the_report_comes_last(summary, make):
    run = make()
    out, err = summary(run)
    assert err == []
    assert out[-1] == "report: r/report.html"
    budget = [line for line in out if line.startswith(("passed ", "failed ", "unmeasured "))]
    assert len(budget) == len(run.every_line)
    assert max(map(len, budget)) <= 120


def test_next_lines_stand_between_the_summary_and_the_report(summary):
    files = dict.fromkeys(("bundle/build_engine.py", "predictions.json"), ROW)
    out, _ = summary(replace(jetson(), files=files))
    steps = [line for line in out if line.startswith("next: ")]
    assert out[-1 - len(steps) : -1] == steps
    assert [line.split()[1] for line in steps] == ["bundle", "copy", "device", "back", "report", "CI"]
    assert "scp -r r/bundle USER@DEVICE:" in steps[1]


def test_a_remedy_names_the_run_it_is_for(summary):
    out, _ = summary(x86(1.4))
    assert not any(" RUN" in line for line in out)


def test_training_says_what_it_reached_and_not_that_a_target_is_incomplete(summary):
    run = replace(
        jetson(), command="edgeres train resnet18 --data d", lines=(), accuracy=None, files={"weights.safetensors": ROW}
    )
    out, _ = summary(replace(run, timings=replace(run.timings, lines=())))
    assert out[0].startswith("Trained: resnet18, top-1 ")
    assert any(line.startswith("next: weights  r/weights.safetensors") for line in out)


def test_an_error_is_one_line_on_standard_error_with_its_way_out(summary):
    run = stopped()
    out, err = summary(run)
    (line,) = err
    assert line.startswith(f"edgeres: {run.model} for {run.target.name} stopped in {run.error.stage}: ")
    assert line.endswith(run.error.hint)
    assert not any(run.error.what in line for line in out)


@pytest.mark.parametrize(
    ("stage", "which"), [("quantize", "before INT8"), ("qat", "before INT8"), ("verify", "the float reference")]
)
def test_agreement_says_with_which_float_network(stage, which):
    (fact,) = _facts(Step(stage=stage, settings={}, metrics=StageMetrics(agreement=99.5)))
    assert fact == f"same answer as {which} 99.50 %"
