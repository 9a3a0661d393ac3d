"""The commands themselves, as far as they go without ``../shared``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks import calibration, command, imagenette, judge, quantizers
from benchmarks.calibration import Memory, Overhead, slopes, verdicts
from benchmarks.pixels import Pixels, decode
from benchmarks.row import Figures
from edgeres.artifacts.artifact import KernelCounts
from edgeres.data.dataset import open_dataset
from edgeres.data.preprocess import Preprocess
from edgeres.data.size import Size
from edgeres.errors import EdgeresError, UsageError
from edgeres.gate.paired_test import Paired, tango
from edgeres.runs.findings import Accuracy
from edgeres.runs.run import Device, FileRow, LatencyRow, Run, Timings

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = {"imagenette": imagenette, "quantizers": quantizers, "calibration": calibration}


@pytest.fixture
def no_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command.require, "__defaults__", (tmp_path / "shared",))


@pytest.mark.usefixtures("no_shared")
@pytest.mark.parametrize("name", COMMANDS)
def test_without_shared_files_there_is_one_clear_line_and_exit_code_2(name: str, capsys: pytest.CaptureFixture[str]):
    assert COMMANDS[name].main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "shared" in said.err
    assert "absent" in said.err


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("imagenette", ["--targets"]),
        ("quantizers", ["--images", "0"]),
        ("quantizers", ["--seeds", "-1"]),
        ("quantizers", ["--quantizers", "nobody"]),
        ("quantizers", ["--schemes", "nobody"]),
        ("calibration", ["--images", "many"]),
    ],
)
def test_bad_arguments_end_with_2(name: str, given: list[str]):
    with pytest.raises(SystemExit) as ended:
        COMMANDS[name].main(given)
    assert ended.value.code == 2


def test_failures_keep_their_exit_code(capsys: pytest.CaptureFixture[str]):
    def fails(failure: EdgeresError):
        def work(options: argparse.Namespace) -> str:
            raise failure

        return work

    parser = argparse.ArgumentParser()
    assert command.run(parser, fails(EdgeresError("broken")), []) == 1
    assert command.run(parser, fails(UsageError("wrong", "do right")), []) == 2
    assert capsys.readouterr().err == "benchmarks: broken\nbenchmarks: wrong: do right\n"
    assert command.run(parser, lambda options: "fine", []) == 0
    assert capsys.readouterr().out == "fine\n"


def test_the_commands_themselves_stay_small():
    script = "import sys, benchmarks.quantizers, benchmarks.calibration, benchmarks.imagenette; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "onnx", "onnxruntime", "scipy", "nncf"} & set(loaded)


def report(*, timed: bool) -> Run:
    low, high = (tango(Paired(n=1000, b=20, c=15)).low, tango(Paired(n=1000, b=20, c=15)).high)
    accuracy = Accuracy(
        n=1000, float_score=83.5, deployed_score=83.0, drop_pp=0.5, low_pp=low, high_pp=high, b=20, c=15,
        agreement=96.0, method="Tango",
    )  # fmt: skip
    latency = tuple(
        LatencyRow(
            variant=variant, runtime="r", batch=1, threads=2, p50_ms=p50, p90_ms=9, p99_ms=9, n=9, low_ms=1,
            high_ms=9, how="here",
        )
        for variant, p50 in (("float32", 5.24), ("int8", 1.87))
    )  # fmt: skip
    return Run(
        edgeres="0", command="c", model="resnet18", accuracy=accuracy,
        kernels=KernelCounts(integer=20, weighted=21, how="h"),
        target=Device(name="x86", title="t", backend="openvino", runtime="OpenVINO"),
        files={"model.onnx": FileRow(sha256="0" * 64, size=11 << 20)},
        timings=Timings(latency=latency) if timed else Timings(unmeasured="not here"),
    )  # fmt: skip


def test_a_report_becomes_a_row():
    row = imagenette.ImagenetteRow.of(report(timed=True), 12.4)
    assert row.cells() == (
        "x86", "OpenVINO", "1,000", "83.50 %", "83.00 %", "+0.50 pp [-0.69, +1.74]", "4.00 %", "20 of 21", "5.24 ms",
        "1.87 ms", "11.0 MiB", "12 s",
    )  # fmt: skip
    assert len(row.cells()) == len(imagenette.HEADS)


def test_what_no_device_measured_is_unmeasured():
    assert imagenette.ImagenetteRow.of(report(timed=False), 1).cells()[8:10] == ("unmeasured", "unmeasured")


def test_a_run_without_a_verdict_is_no_row():
    with pytest.raises(EdgeresError, match="no verdict"):
        imagenette.ImagenetteRow.of(replace(report(timed=True), accuracy=None), 1)


def test_only_an_existing_document_is_renewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "README.md"
    with pytest.raises(UsageError, match="cannot renew"):
        imagenette.write(path, "x")
    path.write_text("# T\n", encoding="utf-8")
    imagenette.write(path, "x")
    assert path.read_text(encoding="utf-8").endswith("<!-- numbers:begin -->\nx\n<!-- numbers:end -->\n")


def test_slopes_stay_within_one_calibrator_and_out_of_failures():
    rows = slopes(
        [
            Memory("edgeres", 10, 500.0, 1.0),
            Memory("edgeres", 20, 501.0, 2.0),
            Memory("onnxruntime-minmax", 10, 300.0, 1.0),
            Memory("onnxruntime-minmax", 30, 1700.0, failure="killed, out of memory"),
        ]
    )
    assert [row.slope_mib for row in rows] == [None, 0.1, None, None]
    assert rows[1].cells() == ("edgeres, any calibrator", "20", "501 MiB", "0.10 MiB/image", "2.0", "10.0")
    assert rows[3].cells()[3:] == ("-", "-", "-")


def test_overhead_is_said_against_both_passes():
    said = Overhead(images=100, plain=8.0, plain1=10.0, observe=12.0).sentence()
    assert "1.50 times a plain float pass" in said
    assert "1.20 times one image by image" in said


def test_goals_of_calibration_are_held_against_the_worst_figure_of_ours():
    rows = slopes([Memory("edgeres", 64, 900.0, 1.0), Memory("edgeres", 512, 940.0, 1.0), Memory("nncf", 9, 9e9, 1.0)])
    overhead = Overhead(images=100, plain=8.0, plain1=10.0, observe=10.0)
    assert verdicts(rows, overhead) == (
        "* peak memory <= 1 GB: **met**; 0.99",
        "* slope <= 0.1 MB per image: **met**; 0.09",
        "* time <= 1.25 times a plain float pass: **met**; 1.25",
    )
    worse = verdicts(slopes([Memory("edgeres", 64, 900.0, 1.0), Memory("edgeres", 128, 1000.0, 1.0)]), overhead)
    assert [line.split("**")[1] for line in worse] == ["missed by 0.05", "missed by 1.54", "met"]
    early = verdicts([Memory("edgeres", 16, 500.0, 1.0), Memory("edgeres", 64, 600.0, 1.0)], overhead)
    assert "**no verdict**" in early[1]
    assert "**no verdict**" in verdicts([Memory("edgeres", 64, 9.0, failure="killed, out of memory")], overhead)[0]


def test_counts_that_do_not_grow_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(command.require, "__defaults__", (tmp_path,))
    (tmp_path / "data/imagenette").mkdir(parents=True)
    assert calibration.main(["--images", "64", "16"]) == 2


def test_figures_of_the_judge_are_those_of_the_float_network():
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 400)
    exact = random.normal(size=(400, 5)).astype(np.float32)
    exact[np.arange(400), labels] += 2
    rounded = exact + random.normal(size=exact.shape).astype(np.float32) / 5
    found = judge.figures(exact, rounded, labels)
    wrong = (rounded.argmax(1) != labels) & (exact.argmax(1) == labels)
    gained = (rounded.argmax(1) == labels) & (exact.argmax(1) != labels)
    assert found["drop_pp"] == pytest.approx((wrong.sum() - gained.sum()) / 4)
    assert found["low_pp"] < found["drop_pp"] < found["high_pp"]
    assert found["changed"] == pytest.approx((rounded.argmax(1) != exact.argmax(1)).mean() * 100)
    assert found["kl"] > 0
    assert found["float_top1"] - found["top1"] == pytest.approx(found["drop_pp"])
    Figures(**found)


def test_pixels_come_back_in_any_batches(tmp_path: Path):
    split = open_dataset(None, seed=0, calibration=40, allow=frozenset()).calibration
    preprocess = Preprocess(resize=8, crop=8)
    pixels = decode(split, preprocess, tmp_path / "pixels")
    (whole, _), *rest = split.batches(preprocess, len(split))
    assert not rest
    assert len(pixels) == len(split)
    for size in (1, 7, 64):
        assert np.array_equal(np.concatenate(list(pixels.batches(size))), whole)
    assert np.array_equal(np.concatenate(list(pixels.batches(4, first=3, count=6))), whole[3:9])
    assert len(np.concatenate(list(pixels.batches(4, first=38, count=100)))) == len(split) - 38


def test_pixels_know_how_many_they_are(tmp_path: Path):
    path = tmp_path / "pixels"
    path.write_bytes(b"\0" * (5 * 3 * 4 * 4 * 4))
    assert len(Pixels(path, Size.square(4))) == 5
