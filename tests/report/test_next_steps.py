"""What to do after a run follows from the files it has, and what helps from the lines it broke."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from example_run import accuracy, jetson, lines, stopped, x86

from edgeres.artifacts.budget_check import BudgetCheck
from edgeres.report.html import html
from edgeres.report.markdown import markdown
from edgeres.report.next_steps import next_steps
from edgeres.report.select import reference_float, tuned_float
from edgeres.runs.run import Device, FileRow, StageRow
from edgeres.runs.verdict import measuring, remedies

PLACE = Path("build/run")
ROW = FileRow(sha256="0" * 64, size=1)


def run_with(*names, backend="onnxruntime", runtime="ONNX Runtime 1.31", command="edgeres compile resnet18"):
    device = Device(name="some", title="Some device", backend=backend, runtime=runtime)
    return replace(jetson(), target=device, files=dict.fromkeys(names, ROW), command=command)


def steps_of(run, place=PLACE):
    return {step.label: step.text for step in next_steps(run, place)}


def test_next_steps_of_tensorrt_bundle_copy_build_and_report():
    files = ("bundle/model.onnx", "bundle/build_engine.py", "bundle/build_engine.sh", "predictions.json", "model.onnx")
    steps = steps_of(run_with(*files, backend="tensorrt", runtime="TensorRT 10.3.0.30 (JetPack 6.2)"))
    assert list(steps) == ["bundle", "copy", "device", "back", "report", "CI"]
    assert steps["copy"] == "scp -r build/run/bundle USER@DEVICE:"
    assert steps["device"] == "cd bundle && python3 build_engine.py"
    assert steps["report"] == "edgeres measured build/run device.json"
    assert steps["CI"] == "edgeres gate build/run"


def test_next_steps_use_shell_builder_without_python_builder():
    steps = steps_of(run_with("bundle/build_engine.sh", backend="tensorrt", runtime="TensorRT 8.2.1 (JetPack 4.6)"))
    assert steps["device"] == "cd bundle && bash build_engine.sh"
    assert "report" not in steps, "the shell script writes no device.json"


def test_next_steps_of_app_bundle_have_command_only_with_device_check():
    app = steps_of(run_with("bundle/model.ort", "bundle/required_operators.config"))
    assert "model.ort into the app's assets" in app["app"]
    assert not {"copy", "device", "report"} & set(app)
    board = steps_of(run_with("bundle/model.onnx", "bundle/check_device.py"))
    assert "app" not in board
    assert board["device"] == "cd bundle && python3 check_device.py"
    both = steps_of(run_with("bundle/model.tflite", "bundle/check_device.py"))
    assert {"app", "device"} <= set(both)


@pytest.mark.parametrize(
    ("backend", "entry", "module"),
    [
        ("openvino", "model.xml", "openvino"),
        ("onnxruntime", "model.onnx", "onnxruntime"),
        ("litert", "model.tflite", "ai_edge_litert"),
        ("executorch", "model.pte", "executorch"),
    ],
)
def test_next_steps_name_artifact_and_python_expression(backend, entry, module):
    steps = steps_of(run_with(f"engine/{entry}", "model.onnx", backend=backend))
    assert steps["artifact"] == f"build/run/engine/{entry}"
    assert steps["Python"].startswith(f"{module}.")
    assert f"'build/run/engine/{entry}'" in steps["Python"]
    assert "copy" not in steps


def test_next_steps_quote_folder_names():
    steps = steps_of(run_with("bundle/check_device.py", "predictions.json"), Path("my runs/a"))
    for label in ("copy", "report", "CI"):
        assert any("my runs/a" in word for word in shlex.split(steps[label], comments=True))


@pytest.mark.parametrize("given", ["--data 'my images'", "--data='my images'"])
def test_next_steps_of_training_name_weights_and_compile_command(given):
    run = replace(run_with("weights.safetensors", command=f"edgeres train resnet18 {given}"), stages=())
    steps = steps_of(run)
    assert steps["weights"] == "build/run/weights.safetensors"
    words = shlex.split(steps["compile"], comments=True)
    assert words[:3] == ["edgeres", "compile", "resnet18"]
    assert words[words.index("--weights") + 1] == "build/run/weights.safetensors"
    assert words[words.index("--data") + 1] == "my images"


def test_next_steps_of_folded_weights_have_no_compile_command():
    folded = replace(run_with("weights.safetensors"), stages=(StageRow(stage="fold_batchnorm"),))
    assert list(steps_of(folded)) == ["weights"]


def test_failed_run_has_only_its_own_hint():
    assert next_steps(stopped(), PLACE) == ()
    assert remedies(stopped()) == ()


def broken(name, value, limit):
    return BudgetCheck(name=name, value=value, limit=limit, status="failed", how="measured", source="test")


@pytest.mark.parametrize("name", ["macs_g", "params_m", "size_mib", "peak_activation_mib", "strange_figure"])
def test_failed_budget_lines_have_remedies_in_header(name):
    run = replace(x86(), lines=(broken(name, 9.0, 1.0),), accuracy=None)
    (helps, *_) = remedies(run)
    assert f"--budget {name}=VALUE" in helps
    header = html(run).partition("</header>")[0]
    assert "What helps: " in header
    assert f"--budget {name}=VALUE" in header
    assert "**What helps:**" in markdown(run).partition("## Budget")[0]


def test_failed_accuracy_names_stage_that_caused_drop():
    lost = replace(accuracy(), deployed_score=90.0, drop_pp=accuracy().float_score - 90.0, high_pp=12.0)
    run = replace(x86(), accuracy=lost, lines=(replace(lines()[0], value=lost.drop_pp, status="failed"), *lines()[1:]))
    assert "pp went into INT8" in remedies(run)[0]


def test_unmeasured_line_names_device_measurement_with_bundle():
    assert measuring(jetson()) == ""
    with_bundle = replace(jetson(), files={"bundle/model.onnx": ROW})
    assert "'edgeres measured RUN device.json'" in measuring(with_bundle)
    assert measuring(replace(x86(), files={"bundle/model.onnx": ROW})) == "", "everything is measured"


def test_reports_distinguish_evaluated_and_quantized_float_networks():
    run = replace(x86(), stages=tuple(StageRow(stage=s) for s in ("train", "evaluate", "prune", "recover", "quantize")))
    assert "before prune and recover" in reference_float(run)
    assert "behind 'recover'" in tuned_float(run)
    whole = replace(run, stages=tuple(StageRow(stage=s) for s in ("load", "evaluate", "quantize")))
    assert "before" not in reference_float(whole)
    assert "behind" not in tuned_float(whole)
    for page in (html(run), markdown(run)):
        assert "first 'evaluate'" in page.replace("&#x27;", "'")
