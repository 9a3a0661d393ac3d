"""``edgeres bench`` on a run: table, verdict, JSON, report, and what it refuses."""

import json
import shutil
from dataclasses import replace

import bench_networks
import pytest

from edgeres.artifacts.artifact import File
from edgeres.artifacts.budget_check import BudgetCheck
from edgeres.cli import main
from edgeres.report import report_files
from edgeres.runs import document
from edgeres.runs.run import Device, FileRow, Provenance, Run, Timings

QUICK = ["--threads", "1", "--rounds", "3", "--runtimes", "onnxruntime"]
CPU = Device(name="cpu", title="any CPU", backend="onnxruntime", runtime="ONNX Runtime")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run folder as a compilation leaves it."""
    folder = tmp_path_factory.mktemp("benched") / "run"
    folder.mkdir()
    exported = bench_networks.exported(folder)
    files = {"model.onnx": exported.model, "model.float.onnx": exported.float_model}
    for name, file in files.items():
        shutil.move(file.path, folder / name)
    (folder / "calibration.json").write_text("{}")
    sealed = {name: File.of(folder / name) for name in (*files, "calibration.json")}
    limit = BudgetCheck(name="accuracy_drop_pp", value=0.1, limit=1.0, status="passed", how="measured", source="here")
    run = Run(
        edgeres="0", command="edgeres", model="small", target=CPU, lines=(limit,),
        files={name: FileRow(sha256=file.sha256, size=file.path.stat().st_size) for name, file in sealed.items()},
        provenance=Provenance(data="digits", recipe="- load", seed=0, python="3", platform="here", cpu=""),
        timings=Timings(unmeasured="not asked for"),
    )  # fmt: skip
    report_files.write(run, folder)
    return folder


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def test_it_prints_a_table_a_verdict_and_how_it_was_measured(run, capsys):
    assert main(["bench", str(run), *QUICK]) == 0
    printed = capsys.readouterr().out
    for part in ("int8 on onnxruntime (ships)", "float32 on onnxruntime", "95 % interval", "fastest: ",
                 "one process per variant", "1 thread on processor ", "governor", "load", "report: "):  # fmt: skip
        assert part in printed
    bench = document.load(run).timings.bench
    assert (bench.accurate, bench.here, bench.threads) == (True, True, 1)
    for page in ("report.html", "report.md"):
        text = (run / page).read_text()
        assert "Benchmark" in text
        assert "int8 on onnxruntime (ships)" in text


def test_json_is_the_table_of_the_report(run, capsys):
    assert main(["bench", str(run), *QUICK, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((run / "report.json").read_text())["timings"]["bench"]
    assert found["schema"] == "edgeres.bench/1"
    assert [row["rounds"] for row in found["rows"]] == [3, 3]
    assert {layer["role"] for layer in found["layers"]["onnxruntime"]} == {"integer", "float", "reformat", "other"}


def test_quiet_is_the_verdict_alone(run, capsys):
    assert main(["bench", str(run), *QUICK, "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fastest: ")
    assert lines[-1].startswith("report: ")
    assert not any("95 % interval" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runtimes", "openvno"], "did you mean 'openvino'"),
        (["--threads", "4096"], "4096 threads on"),
        (["--runtimes", "tensorrt"], "no runtime of this host takes the network: there is no NVIDIA GPU here"),
    ],
)
def test_what_cannot_be_timed_is_refused_and_the_report_stays(run, capsys, words, said):
    before = (run / "report.json").read_bytes()
    assert main(["bench", str(run), *words]) == 2
    assert said in capsys.readouterr().err
    assert (run / "report.json").read_bytes() == before


def test_a_graph_that_is_not_the_runs_is_refused(run, capsys):
    (run / "model.onnx").write_bytes(b"another one")
    assert main(["bench", str(run), *QUICK]) == 2
    assert "model.onnx is not the file that its run reported" in capsys.readouterr().err


def test_a_board_with_a_runtime_that_is_here_as_well_is_not_here(run, capsys):
    board = Device(name="raspberry-pi", title="Raspberry Pi 5", backend="onnxruntime", runtime="ONNX Runtime")
    report_files.write(replace(document.load(run), target=board), run)
    assert main(["bench", str(run), *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "none of this was timed on raspberry-pi: its runtime does not run here" in printed
    assert "(ships)" not in printed


def test_no_run_is_no_bench(tmp_path, capsys):
    assert main(["bench", str(tmp_path)]) == 2
    assert not (tmp_path / ".lock").exists()
