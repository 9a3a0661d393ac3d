"""What a device measured, on its way into the report of the run that was on it: read with suspicion, then believed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import example_run
import numpy as np
import pytest

from edgeres import cli
from edgeres.backends.bundle import device
from edgeres.errors import StageError, UsageError
from edgeres.report import report_files
from edgeres.runs import document
from edgeres.runs import measured as measurement
from edgeres.runs.device import read_device
from edgeres.runs.measured import check_device, check_origin, place, with_measurement
from edgeres.runs.run import FileRow, LatencyRow
from edgeres.settings import sha256_file
from edgeres.targets.target import Isa, find_target

SAMPLES = tuple(int(value) for value in np.random.default_rng(0).normal(30_000, 300, 500))
STATE = {
    "load": 0.4, "governor": "schedutil", "cpu_mhz": [729.6, 1510.4], "gpu_mhz": {"17000000.gpu": 624.75},
    "temperature_c": {"tj-thermal": 48.5, "cpu-thermal": 47.0}, "stolen_s": 0.0, "nvpmodel": "NV Power Mode: 15W 0",
}  # fmt: skip
MODEL = "a" * 64


def found(folder, samples=SAMPLES, **changes):
    """What ``engine.examine`` hands to ``device.report``."""
    manifest = sha256_file(folder / "manifest.json")
    facts = {"tensorrt": "10.3.0", "gpu": "Orin", "sm": "8.7", "driver": 12060}
    census = {"weighted": 21, "integer": 20, "kernels": {"Convolution int8": 20, "Convolution": 1}}
    whole = {
        "runtime": {"name": "tensorrt", "version": "10.3.0", "threads": 1},
        "engine": {"plan_sha256": "b" * 64, "manifest_sha256": manifest, **facts, "census": census},
        "golden": {"images": 8, "top1_agreeing": 8, "max_abs_delta": 0.02, "tolerance": 0.25, "passed": True},
        "latency_ms": {"batch": 1, "warmup": 50, "protocol": "by the protocol", "samples_ns": list(samples)}
        | device.figures(samples),
        "conditions": {"before": STATE, "after": {**STATE, "load": 0.9}},
        "images": {"n": 400, "right": 300, "classes": 10},
    }
    return whole | changes


@pytest.fixture
def folder(tmp_path):
    """A finished run for a Jetson, with its bundle's manifest."""
    bundle = tmp_path / "run" / "bundle"
    bundle.mkdir(parents=True)
    manifest = {
        "format": 1,
        "model": "resnet18",
        "target": "jetson-orin-nano",
        "entry": "model.onnx",
        "files": {"model.onnx": {"sha256": MODEL}},
        "golden": {"tolerance": 0.25},
    }
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    run = example_run.jetson()
    row = FileRow(sha256=sha256_file(bundle / "manifest.json"), size=1)
    report_files.write(replace(run, files={**run.files, "bundle/manifest.json": row}), tmp_path / "run")
    return tmp_path / "run"


def measured(folder, **changes):
    """``device.json`` as the device writes it."""
    bundle = folder / "bundle"
    device.report(bundle, json.loads((bundle / "manifest.json").read_text()), found(bundle, **changes))
    return bundle / "device.json"


def command(folder, path, *options):
    return cli.main(["measured", str(folder), str(path), *options])


def test_device_report_passes_unmeasured_line(folder, capsys):
    assert command(folder, measured(folder)) == 0
    run = document.load(folder)
    (line,) = run.timings.lines
    assert (line.status, line.limit, line.predicted) == ("passed", 0.0408, None)
    assert line.value == pytest.approx(np.median(SAMPLES) / 1e6)
    assert line.how.startswith("batch 1 on Orin, TensorRT 10.3.0, 500 calls after 50 to warm up, load 0.40 before")
    assert "17000000.gpu at 625 MHz" in line.how
    (row,) = run.timings.latency
    assert (row.variant, row.n, row.low_ms <= row.p50_ms <= row.high_ms) == ("int8", 500, True)
    for words in (
        "load 0.40 before, 0.90 after",
        "schedutil",
        "15W",
        "17000000.gpu at 625 MHz",
        "730 to 1510 MHz",
        "48",
    ):
        assert words in row.how, words
    assert run.timings.unmeasured == ""
    assert (run.kernels.integer, run.kernels.weighted) == (20, 21)
    assert "engine inspector on Orin" in run.kernels.how
    evidence = "\n".join(run.evidence)
    assert "golden answers agree on 8 of 8" in evidence
    assert "20 Convolution int8" in evidence
    assert "top-1 75.00 % of 400 images of 10 classes" in evidence
    out = capsys.readouterr().out
    assert "Passed: resnet18 for jetson-orin-nano keeps all" in out
    assert "engine inspector" in (folder / "report.html").read_text()
    assert "0.03" in (folder / "report.md").read_text()


def test_slow_device_fails_line_and_command(folder):
    assert command(folder, measured(folder, samples=tuple(2 * value for value in SAMPLES))) == 3
    assert document.load(folder).timings.lines[0].status == "failed"


def test_later_device_report_replaces_earlier(folder):
    before = document.load(folder).evidence
    command(folder, measured(folder))
    once = document.load(folder)
    command(folder, measured(folder))
    assert document.load(folder) == once
    assert once.evidence[: len(before)] == before
    assert len(once.evidence) == len(before) + 3
    command(folder, measured(folder, samples=SAMPLES[:300]))
    (row,) = document.load(folder).timings.latency
    assert row.n == 300


def test_tail_latency_is_judged_by_upper_bound_and_unmeasured_with_too_few_calls(folder):
    run = document.load(folder)
    limits = [replace(run.timings.lines[0], name=f"latency_p{share}_ms") for share in (90, 99)]
    run = replace(run, timings=replace(run.timings, lines=(*run.timings.lines, *limits)))
    for count, expected in ((500, ["passed"] * 3), (300, ["passed", "passed", "unmeasured"])):
        lines = with_measurement(run, read_device(measured(folder, samples=SAMPLES[:count]))).timings.lines
        assert [line.status for line in lines] == expected
    assert lines[1].value == device.figures(SAMPLES[:300])["p90_high"]


def test_device_report_keeps_other_latency_rows(folder):
    run = document.load(folder)
    row = LatencyRow(
        variant="float32",
        runtime="x",
        batch=1,
        threads=1,
        p50_ms=1,
        p90_ms=1,
        p99_ms=1,
        n=9,
        low_ms=1,
        high_ms=1,
        how="h",
    )
    run = replace(run, timings=replace(run.timings, latency=(row,)))
    assert with_measurement(run, read_device(measured(folder))).timings.latency[0] == row


def test_measured_json_is_report(folder, capsys):
    assert command(folder, measured(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads((folder / "report.json").read_text())


def edit(path, change, *, reseal=True):
    data = json.loads(path.read_text())
    change(data)
    if reseal:
        data["seal"] = device.sha256(
            json.dumps({k: v for k, v in data.items() if k != "seal"}, sort_keys=True, separators=(",", ":")).encode()
        )
    path.write_text(json.dumps(data))


def put(*keys, value):
    def change(data):
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("model_sha256", value="c" * 64), "of another run: model_sha256"),
        (put("target", value="jetson-agx-orin"), "of another run: target"),
        (put("manifest_sha256", value="c" * 64), "built from another bundle"),
        (put("engine", "manifest_sha256", value="c" * 64), "built from another bundle"),
        (put("golden", "tolerance", value=9.0), "tolerance 9.0"),
        (put("golden", "passed", value=False), "passed is not"),
        (put("golden", "top1_agreeing", value=9), "9 of 8"),
        (put("latency_ms", "p50", value=0.01), "its samples say"),
        (put("latency_ms", "p99_high", value=None), "its samples say"),
        (put("latency_ms", "p50", value=float("nan")), "no measurement"),
        (put("latency_ms", "p50", value=float("inf")), "no measurement"),
        (put("latency_ms", "p50", value=-1.0), "greater than 0"),
        (put("latency_ms", "samples_ns", 0, value=-5), "greater than or equal to 1000"),
        (put("latency_ms", "samples_ns", 0, value=1), "greater than or equal to 1000"),
        (put("latency_ms", "samples_ns", 0, value=10**15), "less than or equal"),
        (put("latency_ms", "samples_ns", value=[30_000] * 43), "at least 44"),
        (put("latency_ms", "batch", value=8), "1"),
        (put("engine", "census", "integer", value=22), "22 of 21"),
        (put("engine", value=None), "without an engine"),
        (put("images", "right", value=401), "401 of 400"),
        (put("conditions", "before", "load", value=-1), "greater than or equal to 0"),
        (put("conditions", "after", "temperature_c", value={"a": 4000}), "less than or equal to 200"),
        (put("format", value=2), "no device report of format 1"),
        (put("surprise", value=1), "unknown key 'surprise'"),
    ],
)
def test_inconsistent_device_report_is_rejected_and_report_unchanged(folder, capsys, change, words):
    path = measured(folder)
    edit(path, change)
    before = {name: (folder / name).read_bytes() for name in ("report.json", "report.md", "report.html")}
    assert command(folder, path) == 2
    assert words in capsys.readouterr().err
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_edited_device_report_fails_seal(folder, capsys):
    path = measured(folder)
    edit(path, put("machine", "board", value="a faster one"), reseal=False)
    assert command(folder, path) == 2
    assert "seal is broken" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "words"), [("{", "no JSON"), ("[]", "no device report"), ("[" * 99_999, "no JSON")])
def test_invalid_device_report_is_rejected(folder, tmp_path, capsys, text, words):
    (tmp_path / "device.json").write_text(text)
    assert command(folder, tmp_path / "device.json") == 2
    assert words in capsys.readouterr().err


def test_oversized_device_report_is_rejected_unread(tmp_path):
    with (tmp_path / "device.json").open("wb") as stream:
        stream.truncate(5 << 20)
    with pytest.raises(UsageError, match="more than a device writes"):
        read_device(tmp_path / "device.json")
    with pytest.raises(UsageError, match="cannot read"):
        read_device(tmp_path / "nowhere.json")


def test_wrong_golden_answers_exit_with_1(folder, capsys):
    golden = {"images": 8, "top1_agreeing": 3, "max_abs_delta": 0.5, "tolerance": 0.25, "passed": False}
    before = (folder / "report.json").read_bytes()
    assert command(folder, measured(folder, golden=golden)) == 1
    assert "off by 0.5" in capsys.readouterr().err
    assert (folder / "report.json").read_bytes() == before
    with pytest.raises(StageError):
        check_origin(document.load(folder), folder, read_device(folder / "bundle" / "device.json"))


def test_run_with_changed_or_missing_bundle_is_rejected(folder, tmp_path, capsys):
    path = measured(folder)
    (folder / "bundle" / "manifest.json").write_text("{}")
    assert command(folder, path) == 2
    assert "not the file that the run reported" in capsys.readouterr().err
    report_files.write(example_run.x86(), folder)
    assert command(folder, path) == 2
    assert "has no device bundle" in capsys.readouterr().err
    assert command(tmp_path / "nowhere", path) == 2
    assert not (tmp_path / "nowhere").exists()


def test_device_of_another_kind_is_rejected(folder, capsys):
    path = measured(folder)
    edit(path, put("engine", "sm", value="9.0"))
    assert command(folder, path) == 2
    assert "Orin has compute capability 9.0, Jetson Orin Nano 8GB" in capsys.readouterr().err
    report = read_device(measured(folder, engine=None, runtime={"name": "onnxruntime", "version": "1", "threads": 4}))
    pi, x86 = find_target("raspberry-pi"), find_target("x86-avx2")
    for machine, right, wrong in (("aarch64", pi, x86), ("x86_64", x86, pi), ("AMD64", x86, pi), ("armv7l", pi, x86)):
        found = replace(report, machine=replace(report.machine, machine=machine))
        check_device(right, found)
        with pytest.raises(UsageError, match=f"not from {wrong.name}: {machine}"):
            check_device(wrong, found)


def test_every_instruction_set_has_processor_family():
    assert set(measurement._FAMILIES) == set(get_args(Isa))


def test_onnx_runtime_report_has_no_engine_and_names_board(folder):
    runtime = {"name": "onnxruntime", "version": "1.31.1", "threads": 4}
    report = read_device(measured(folder, runtime=runtime, engine=None, images=None))
    report = replace(report, machine=replace(report.machine, board="Raspberry Pi 5 Model B Rev 1.0"))
    before = document.load(folder)
    run = with_measurement(before, report)
    assert place(report) == "Raspberry Pi 5 Model B Rev 1.0, ONNX Runtime 1.31.1"
    assert run.kernels == before.kernels
    assert run.timings.latency[0].threads == 4
