"""``--variant``: what ships, float, INT8 or the faster of both, and that a run says so."""

import json
from dataclasses import replace

import pytest

from edgeres.artifacts.results import Latency
from edgeres.cli import main
from edgeres.pipeline.plan import prepare
from edgeres.pipeline.request import Request
from edgeres.pipeline.stages import verify
from edgeres.runs import document
from edgeres.settings import sha256_file

pytestmark = pytest.mark.slow

LINE = ["compile", "resnet20", "--target", "cpu", "--crop", "8", "--resize", "8", "--quiet", "--set", "train.epochs=1",
        "--recipe", "train", "--set", "quantize.calibrator=minmax", "--set", "quantize.weights=max",
        "--set", "quantize.quantizer=edgeres", "--set", "quantize.skip=[equalization, range_search]",
        "--set", "verify.seconds=1", "--budget", "accuracy_drop_pp=100"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("variants")


def compiled(folder, name, *words):
    out = folder / name
    assert main([*LINE, *words, "--cache", str(folder / "cache"), "--out", str(out)]) == 0
    return out, document.load(out)


def timed(milliseconds):
    latency = Latency(p50_ms=1, p90_ms=1, p99_ms=1, low_ms=1, high_ms=1, n=500, warmup=5, stolen=0.0)
    return lambda runs, timing, **_: {
        name: replace(latency, p50_ms=milliseconds[name], low_ms=0.99 * milliseconds[name],
                      high_ms=1.01 * milliseconds[name])
        for name in runs
    }  # fmt: skip


def variant_of(out):
    return json.loads((out / "request.json").read_text())["variant"]


def test_float_variant_is_the_network_that_int8_is_quantized_from(folder):
    integer, _ = compiled(folder, "int8")
    plain, run = compiled(folder, "float", "--variant", "float")
    assert sha256_file(plain / "model.onnx") == sha256_file(integer / "model.float.onnx")
    assert sha256_file(plain / "model.onnx") == sha256_file(plain / "model.float.onnx")
    assert not (plain / "calibration.json").exists()
    assert "float ships, as asked: nothing is quantized" in run.notes
    assert (run.kernels.integer, [row.variant for row in run.timings.latency]) == (0, ["float32"])
    assert [variant_of(integer), variant_of(plain)] == ["int8", "float"]


def test_slower_int8_is_reported_and_deployed(folder, monkeypatch, capsys):
    monkeypatch.setattr(verify, "interleaved", timed({"float32": 2.0, "int8": 3.0}))
    out, run = compiled(folder, "slow", "--set", "verify.seconds=2")
    assert run.kernels.integer > 0
    assert "INT8 is slower than float32 on ONNX Runtime" in (out / "report.md").read_text()
    assert "INT8 is slower than float32 on ONNX Runtime" in (out / "report.html").read_text()
    capsys.readouterr()
    main(["report", str(out)])
    told = " ".join(capsys.readouterr().out.split())
    assert f"(0.67 times as fast): 'edgeres bench {out}' says where its time goes" in told
    assert "--variant float" in told


def test_the_fastest_is_float_where_int8_is_slower(folder, monkeypatch):
    monkeypatch.setattr(verify, "interleaved", timed({"float32": 2.0, "int8": 3.0}))
    out, run = compiled(folder, "fastest-float", "--variant", "fastest", "--set", "verify.seconds=2")
    assert any(note == "--variant fastest: float ships, INT8 takes 3 ms against 2 ms in float32" for note in run.notes)
    assert run.kernels.integer == 0
    assert sha256_file(out / "model.onnx") == sha256_file(out / "model.float.onnx")
    assert variant_of(out) == "float"


def test_the_fastest_is_int8_where_it_is_faster_or_as_fast(folder, monkeypatch):
    for name, ms in {"faster": 1.0, "equal": 2.01}.items():
        monkeypatch.setattr(verify, "interleaved", timed({"float32": 2.0, "int8": ms}))
        seconds = {"faster": 3, "equal": 4}[name]
        out, run = compiled(folder, name, "--variant", "fastest", "--set", f"verify.seconds={seconds}")
        assert any(note.startswith("--variant fastest: int8 ships") for note in run.notes)
        assert run.kernels.integer > 0
        assert variant_of(out) == "int8"


def test_int8_over_the_accuracy_limit_is_not_the_fastest(folder, monkeypatch):
    monkeypatch.setattr(verify, "interleaved", timed({"float32": 2.0, "int8": 1.0}))

    def wrong(backend, engine, context, original=verify._answers):
        """Answers of which INT8 has not one right."""
        deployed, twin, outputs = original(backend, engine, context)
        classes = tuple((label + 1) % 10 for label in context.validation.labels)
        return (replace(deployed, predictions=classes) if engine.exported.scales else deployed), twin, outputs

    monkeypatch.setattr(verify, "_answers", wrong)
    words = ("--variant", "fastest", "--set", "quantize.technique=calibrate", "--set", "verify.seconds=5")
    words += ("--budget", "accuracy_drop_pp=0")
    out = folder / "inaccurate"
    main([*LINE, *words, "--cache", str(folder / "cache"), "--out", str(out)])
    assert "--variant fastest: float ships, INT8 is over the accuracy limit" in document.load(out).notes


@pytest.mark.parametrize("target", ["jetson", "xavier-nx", "jetson-orin-nano:jp7.2"])
def test_float_graph_is_built_without_int8(target):
    request = Request(model="resnet18", target=target, variant="float")
    flags = prepare(request).target.runtime.flags
    assert "--int8" not in flags
    assert set(flags) == set(prepare(replace(request, variant="int8")).target.runtime.flags) - {"--int8"}
    assert not {"quantize", "qat", "sensitivity"} & {stage.name for stage in prepare(request).recipe.stages}
