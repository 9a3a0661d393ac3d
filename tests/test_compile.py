"""The main job, end to end, on a small network: what is published, what is repeated, what survives."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest

from edgeres.cli import main
from edgeres.errors import StoreError
from edgeres.model.weights import Weights
from edgeres.onnx_graph import operator_counts
from edgeres.pipeline.run_folder import RunFolder
from edgeres.pipeline.runner import Pipeline
from edgeres.settings import sha256_file

pytestmark = pytest.mark.slow

SMALL = [
    "resnet20",
    "--target",
    "cpu",
    "--crop",
    "8",
    "--resize",
    "8",
    "--set",
    "train.epochs=1",
    "--set",
    "recover.epochs=1",
    "--set",
    "quantize.technique=calibrate",
    "--set",
    "prune.max_kl=null",
    "--set",
    "recover.fallback=false",
]
SAME = ("model.onnx", "model.float.onnx", "calibration.json", "predictions.json", "manifest.json", "recipe.lock.yaml")


def compiled(folder, *more, cache="cache"):
    return main(["compile", *SMALL, "--out", str(folder), "--cache", str(folder.parent / cache), "--quiet", *more])


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """A run that stopped after quantize, with its stages in a store beside it."""
    folder = tmp_path_factory.mktemp("quantized") / "run"
    assert compiled(folder, "--budget", "accuracy_drop_pp=50", "--until", "quantize") == 0
    return folder


@pytest.fixture(scope="module")
def run(quantized, tmp_path_factory):
    folder = tmp_path_factory.mktemp("main") / "run"
    shutil.copytree(quantized.parent / "cache", folder.parent / "cache")
    assert compiled(folder, "--budget", "accuracy_drop_pp=50") == 0
    return folder


@pytest.fixture(scope="module")
def report(run):
    return json.loads((run / "report.json").read_text())


def test_everything_a_user_was_promised_is_there(run):
    names = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    assert {"report.html", "report.md", "report.json", "request.json", "engine", *SAME} <= names


def test_every_stage_ran_in_order(report):
    assert [row["stage"] for row in report["stages"]] == [
        "train", "evaluate", "fold_batchnorm", "prune", "recover", "evaluate", "quantize", "export", "build", "verify",
    ]  # fmt: skip


def test_the_sample_task_is_named_with_what_to_pass_instead(report):
    assert any("neither --weights nor --data" in note and "--data DIR" in note for note in report["notes"])


def test_folding_and_pruning_say_what_they_did(report):
    rows = {row["stage"]: row for row in report["stages"]}
    assert rows["fold_batchnorm"]["metrics"]["max_abs_delta_logit"] < 1e-3
    assert rows["prune"]["macs"] <= 0.7 * report["stages"][1]["macs"]


def test_counts_are_those_of_the_graph(run, report):
    model = onnx.load(run / "model.onnx")
    rows = {row["stage"]: row for row in report["stages"]}
    assert operator_counts.macs(model) == rows["export"]["macs"]
    assert operator_counts.qdq(model).activations == rows["quantize"]["metrics"]["activation_quantizers"]


def test_integers_really_run(report):
    kernels = report["kernels"]
    assert kernels["integer"] == kernels["weighted"] - 1  # the classifier stays in float
    assert kernels["counts"]["QLinearConv"] == kernels["integer"]


def test_accuracy_is_paired_over_the_whole_validation_split(report):
    accuracy = report["accuracy"]
    assert accuracy["n"] == 500
    assert accuracy["drop_pp"] == pytest.approx(100 * (accuracy["b"] - accuracy["c"]) / 500)
    assert accuracy["low_pp"] <= accuracy["drop_pp"] <= accuracy["high_pp"]


def test_the_manifest_has_the_sha256_of_every_file(run):
    files = json.loads((run / "manifest.json").read_text())["files"]
    assert {"model.onnx", "model.float.onnx", "calibration.json", "recipe.lock.yaml", "engine/model.onnx"} <= set(files)
    for name, wanted in files.items():
        assert sha256_file(run / name) == wanted


def test_calibration_names_its_data(run):
    table = json.loads((run / "calibration.json").read_text())["table"]
    assert len(table["data"]) == 64
    assert table["images"] == 160


def test_another_cache_yields_the_same_bytes(run, tmp_path):
    again = tmp_path / "again"
    assert compiled(again, "--budget", "accuracy_drop_pp=50") == 0
    for name in SAME:
        assert (again / name).read_bytes() == (run / name).read_bytes(), name


def test_a_repeated_run_computes_nothing(run):
    before = (run / "manifest.json").read_bytes()
    assert compiled(run, "--budget", "accuracy_drop_pp=50") == 0
    times = json.loads((run / "report.json").read_text())["timings"]["stages"]
    assert all(row["cached"] for row in times)
    assert (run / "manifest.json").read_bytes() == before


def test_a_changed_budget_changes_the_verdict_and_recomputes_nothing(run, tmp_path):
    out = tmp_path / "tight"
    assert (
        main(
            [
                "verify",
                str(run),
                "--out",
                str(out),
                "--cache",
                str(run.parent / "cache"),
                "--quiet",
                "--budget",
                "size_mib=0.01",
            ]
        )
        == 3
    )
    report = json.loads((out / "report.json").read_text())
    assert [line["name"] for line in report["lines"] if line["status"] == "failed"] == ["size_mib"]
    assert all(row["cached"] for row in report["timings"]["stages"])


def test_strict_fails_on_what_nobody_measured(run, tmp_path):
    arguments = ["verify", str(run), "--out", str(tmp_path / "strict"), "--cache", str(run.parent / "cache"), "--quiet"]
    assert main([*arguments, "--budget", "peak_rss_mib=100000", "--strict"]) == 0


def test_quantizing_again_changes_the_scales_alone(run, tmp_path):
    out = tmp_path / "minmax"
    cache = str(run.parent / "cache")
    assert (
        main(
            [
                "quantize",
                str(run),
                "--out",
                str(out),
                "--cache",
                cache,
                "--quiet",
                "--set",
                "quantize.calibrator=minmax",
            ]
        )
        == 0
    )
    report = json.loads((out / "report.json").read_text())
    computed = [row["stage"] for row in report["timings"]["stages"] if not row["cached"]]
    assert computed == ["quantize", "export", "build", "verify"]
    assert (out / "engine" / "model.onnx").is_file()
    before, after = (json.loads((folder / "calibration.json").read_text())["table"] for folder in (run, out))
    assert before["activations"] != after["activations"]


def test_report_alone_draws_it_again(run):
    page = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").read_bytes() == page


def test_stopping_early_publishes_the_weights_so_far(run, tmp_path):
    out = tmp_path / "early"
    assert (
        main(
            [
                "compile",
                *SMALL,
                "--until",
                "fold_batchnorm",
                "--out",
                str(out),
                "--cache",
                str(run.parent / "cache"),
                "--quiet",
            ]
        )
        == 0
    )
    assert (out / "weights.safetensors").is_file()
    assert not (out / "model.onnx").exists()


def test_files_of_an_earlier_longer_run_do_not_linger(run, tmp_path):
    out = tmp_path / "shrinks"
    words = ["compile", *SMALL, "--budget", "accuracy_drop_pp=50", "--out", str(out), "--quiet"]
    words += ["--cache", str(run.parent / "cache")]
    assert main(words) == 0
    assert (out / "engine" / "model.onnx").is_file()
    assert main([*words, "--until", "export"]) == 0
    assert not (out / "engine" / "model.onnx").exists()
    assert (out / "model.onnx").is_file()


def test_a_plan_runs_nothing(run, tmp_path, capsys):
    arguments = ["compile", *SMALL, "--budget", "accuracy_drop_pp=50", "--plan", "--json"]
    arguments += ["--out", str(tmp_path / "plan")]
    assert main([*arguments, "--cache", str(run.parent / "cache")]) == 0
    assert {row["state"] for row in json.loads(capsys.readouterr().out)} == {"cached"}
    assert main([*arguments, "--cache", str(tmp_path / "empty")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["state"] for row in rows} == {"to run"}
    assert all(row["seconds"] > 0 and row["why"] for row in rows)
    assert not (tmp_path / "plan").exists()


def test_two_runs_never_share_a_folder(tmp_path, capsys):
    out = tmp_path / "busy"
    with RunFolder(out).held():
        assert compiled(out) == 1
    assert "another run is using" in capsys.readouterr().err


def test_an_unwritable_folder_is_said_before_any_work(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert compiled(tmp_path / "file" / "run") == 1
    assert "cannot write" in capsys.readouterr().err


def test_a_disk_that_fills_up_loses_nothing(run, tmp_path, monkeypatch):
    out = tmp_path / "full"

    def full(*_):
        raise OSError(28, "No space left on device", "weights.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(Weights, "save", full)
        assert compiled(out) == 1
    report = json.loads((out / "report.json").read_text())
    assert report["error"]["stage"] == "train"
    assert "No space left on device" in report["error"]["what"]
    assert compiled(out, "--budget", "accuracy_drop_pp=50") == 0
    assert (out / "model.onnx").read_bytes() == (run / "model.onnx").read_bytes()


def started(folder, *words):
    words = words or ("compile", *SMALL, "--budget", "accuracy_drop_pp=50", "--out", str(folder))
    command = [sys.executable, "-m", "edgeres", *words, "--cache", str(folder.parent / "cache")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(process, words):
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"never said {words!r}")


@pytest.mark.parametrize("stage", ["train", "recover", "quantize", "verify"])
def test_kill_9_costs_only_the_unfinished_stage(run, tmp_path, stage):
    process = started(tmp_path / "killed")
    wait_for(process, f"...  {stage}")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model.onnx").exists()
    assert compiled(tmp_path / "killed", "--budget", "accuracy_drop_pp=50") == 0
    assert (tmp_path / "killed" / "model.onnx").read_bytes() == (run / "model.onnx").read_bytes()


def test_ctrl_c_is_reported_and_resumable(tmp_path):
    process = started(tmp_path / "stopped")
    wait_for(process, "...  train")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    report = json.loads((tmp_path / "stopped" / "report.json").read_text())
    assert report["error"]["kind"] == "Interrupted"
    assert "again" in report["error"]["hint"]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copy(run, tmp_path):
    """A finished run with its stages in a store beside it."""
    shutil.copytree(run, tmp_path / "copy")
    shutil.copytree(run.parent / "cache", tmp_path / "cache")
    return tmp_path / "copy"


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("stage", ["quantize", "verify"])
def test_a_stage_done_again_and_stopped_half_way_leaves_the_finished_run_as_it_was(copy, stage, stop):
    before = files(copy)
    again = ["quantize", str(copy), "--set", "quantize.calibrator=percentile"]  # nothing else here has computed it
    process = started(copy, *again)
    wait_for(process, f"...  {stage}")
    process.send_signal(stop)
    assert process.wait() == (-signal.SIGKILL if stop == signal.SIGKILL else 130)
    assert files(copy) == before
    if stop == signal.SIGINT:
        report = json.loads((copy.parent / "copy.failed" / "report.json").read_text())
        assert report["error"]["kind"] == "Interrupted"
    assert main([*again, "--cache", str(copy.parent / "cache"), "--quiet"]) in (0, 3)
    assert sorted(path.name for path in copy.parent.iterdir()) == ["cache", "copy"]
    after = files(copy)
    assert b"quantize.calibrator=percentile" in after["request.json"]
    assert set(after) == set(before)


def test_a_stage_done_again_that_fails_leaves_the_finished_run_as_it_was(copy, monkeypatch, capsys):
    from edgeres.pipeline.stages import export

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device", "model.onnx")

    before = files(copy)
    monkeypatch.setattr(export, "write_model", full)
    again = ["quantize", str(copy), "--set", "quantize.calibrator=percentile"]
    assert main([*again, "--cache", str(copy.parent / "cache")]) == 1
    out, err = capsys.readouterr()
    assert files(copy) == before
    assert f"{copy} is as it was" in " ".join(err.split())
    assert str(copy.parent / "copy.failed" / "report.html") in "".join(out.split())


def test_a_stage_that_the_run_has_not_is_refused_in_the_users_words(copy, capsys):
    request = json.loads((copy / "request.json").read_text())
    (copy / "request.json").write_text(json.dumps({**request, "variant": "float"}))
    assert main(["quantize", str(copy)]) == 2
    assert "it ships a float network, as --variant asked" in capsys.readouterr().err
    (copy / "recipe.yaml").write_text("- train\n- evaluate\n")
    request |= {"changes": [], "recipe": str(copy / "recipe.yaml")}
    (copy / "request.json").write_text(json.dumps(request))
    assert main(["build", str(copy)]) == 2
    assert "has no stage 'build' to do again: recipe 'recipe' is train, evaluate" in capsys.readouterr().err


def test_a_folder_of_other_things_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert compiled(tmp_path) == 2
    said = capsys.readouterr().err
    assert "is not a run folder: it holds thesis.tex" in said
    assert "--out" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("mutation", ["scale", "channels", "residual"])
def test_a_graph_that_computes_something_else_is_refused(quantized, monkeypatch, tmp_path, mutation):
    """Export compares with torch: a wrong scale, swapped channels and a dropped residual are all noticed."""
    from edgeres.pipeline.stages import export

    def broken(*arguments, original=export.write_model, **options):
        model = original(*arguments, **options)
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        if mutation == "scale" and "layer1.0.relu.scale" in constants:
            tensor = constants["layer1.0.relu.scale"]
            tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * 1.01).astype(np.float32).tobytes()
        if mutation == "channels":
            tensor = constants["layer1.0.conv1.bias"]
            values = np.frombuffer(tensor.raw_data, np.float32).copy()
            values[[0, 1]] = values[[1, 0]]
            tensor.raw_data = values.tobytes()
        if mutation == "residual":
            add = next(node for node in model.graph.node if node.op_type == "Add")
            add.input[1] = add.input[0]
        return model

    monkeypatch.setattr(export, "write_model", broken)
    cache = tmp_path / "cache"
    shutil.copytree(quantized, tmp_path / "run")
    shutil.copytree(quantized.parent / "cache", cache)
    assert main(["export", str(tmp_path / "run"), "--cache", str(cache), "--quiet"]) == 1
    error = json.loads((tmp_path / "run.failed" / "report.json").read_text())["error"]
    assert error["stage"] == "export"
    assert "differs between ONNX Runtime and torch" in error["what"]


def test_holding_is_released(tmp_path):
    with RunFolder(tmp_path / "x").held():
        pass
    with RunFolder(tmp_path / "x").held(), pytest.raises(StoreError), RunFolder(tmp_path / "x").held():
        pass


def test_a_cache_entry_that_leaves_during_a_run_is_one_line(run, tmp_path, monkeypatch, capsys):
    cache = tmp_path / "cache"
    shutil.copytree(run.parent / "cache", cache)
    pipeline_run = Pipeline.run

    def robbed(pipeline):
        done = pipeline_run(pipeline)
        shutil.rmtree(done[-1].entry.folder)
        return done

    monkeypatch.setattr(Pipeline, "run", robbed)
    assert compiled(tmp_path / "out") == 1
    assert "leave the cache alone" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", '{"files": 5}', '{"files": [["a"]]}'])
def test_a_damaged_manifest_is_written_anew(run, tmp_path, text):
    out, cache = tmp_path / "out", tmp_path / "cache"
    shutil.copytree(run.parent / "cache", cache)
    out.mkdir()
    (out / "manifest.json").write_text(text)
    (out / "request.json").write_text("{")
    assert compiled(out, "--budget", "accuracy_drop_pp=50") == 0
    assert (out / "manifest.json").read_bytes() == (run / "manifest.json").read_bytes()


def test_a_damaged_request_is_not_called_a_missing_one(tmp_path, capsys):
    (tmp_path / "request.json").write_text("{")
    assert main(["verify", str(tmp_path)]) == 2
    assert "request.json: it is no JSON" in capsys.readouterr().err
