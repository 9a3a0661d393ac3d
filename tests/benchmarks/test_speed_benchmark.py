"""The table of the ResNet family: its goal, its means, and networks that are drawn."""

import numpy as np
import pytest

from benchmarks import speed
from benchmarks.drawn import drawn
from benchmarks.speed import GOAL, Gain, mean, page, parser
from edgeres.backends.backend import LayerTime
from edgeres.latency.benchmark.result import BenchmarkResult, HostLoad, ProcessorPeak, Ratio, VariantResult
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.read import read_model
from edgeres.targets.target import find_target

STAGES = ((Block(inner=(8,), out=8),), (Block(inner=(16,), out=16, stride=2, projected=True),))
SPEC = ResNetSpec(kind="basic", stem=Stem(width=8, kernel=7, stride=2), stages=STAGES, classes=5)
BUSY = HostLoad(cpu="a CPU", cores=2, pinned=(0, 1), governor=None, load_before=0.5, load_after=1, stolen=None)
LAYERS = (
    LayerTime(name="conv", kind="QLinearConv", role="integer", ms=3.0),
    LayerTime(name="fc", kind="Gemm", role="float", ms=1.0),
)


def row(runtime, precision, p50, p10, floats, first):
    ratio = Ratio(value=floats / p50, low=floats / p50, high=floats / p50)
    return VariantResult(
        runtime=runtime, version="1", precision=precision, own=False, ships=False, p50_ms=p50, low_ms=p50, high_ms=p50,
        p10_ms=p10, p90_ms=p50, n=9, rounds=3, speedup=ratio, over_float=None,
        to_fastest=Ratio(value=first / p50, low=first / p50, high=first / p50), peak_share=0.5,
    )  # fmt: skip


def result(network, int8, float32):
    """INT8 is fastest on b, float32 on a; tenth percentiles are half the medians."""
    rows = [
        row("b", "int8", int8, int8 / 2, float32, int8),
        row("a", "int8", 1.2 * int8, 0.6 * int8, float32, int8),
        row("a", "float32", float32, float32 / 2, float32, int8),
        row("b", "float32", 3 * float32, 1.5 * float32, float32, int8),
    ]
    return BenchmarkResult(
        network=network, target="cpu", here=True, accurate=None, macs=1, threads=2, seconds=1.0, machine=BUSY,
        rows=tuple(sorted(rows, key=lambda each: each.p50_ms)), layers={"b": LAYERS}, absent={"c": "not installed"},
        peaks=(ProcessorPeak(precision="int8", gmacs=900, median_gmacs=800, n=5),),
    )  # fmt: skip


def test_the_gain_is_the_fastest_int8_over_the_fastest_float_whatever_their_runtimes():
    assert Gain.of(result("n", 2.0, 7.0)) == Gain(3.5, 3.5)


def test_means_are_geometric():
    assert mean([2.0, 8.0]) == pytest.approx(4)


@pytest.mark.parametrize(("int8", "verdict"), [(2.0, "Goal 3.5: met."), (2.5, "Goal 3.5: missed by 20.0%.")])
def test_the_goal_is_held_against_the_medians(int8, verdict):
    told = page([result("one", int8, 2 * GOAL), result("two", int8, 2 * GOAL)])
    assert verdict in told
    assert "25% of the time is no integer layer (`fc` 1.00 ms); slowest integer layers: `conv` 3.00 ms" in told
    assert "c: not installed" in told
    assert told.count("int8 on b 1") == 2


def test_a_drawn_network_keeps_its_range_and_loses_little_in_int8(tmp_path):
    exported = drawn("small", SPEC, 32, find_target("cpu"), tmp_path)
    models = [read_model(file.path) for file in (exported.model, exported.float_model)]
    assert operator_counts.macs(models[0]) == operator_counts.macs(models[1])
    images = np.random.default_rng(5).standard_normal((8, 3, 32, 32), dtype=np.float32)
    integer, plain = (runner(model)(images) for model in models)
    noise = np.sum((integer - plain) ** 2) / np.sum(plain**2)
    assert 10 * np.log10(1 / noise) > 20
    assert 1e-3 < plain.std() < 1e3


def test_the_command_line_takes_the_family_by_default():
    options = parser().parse_args([])
    assert options.networks == ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    assert (options.threads, options.runtimes, options.write) == (2, None, None)


def test_a_document_without_a_place_for_the_table_is_refused_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed, "measured", lambda *_: pytest.fail("measured first"))
    document = tmp_path / "page.md"
    document.write_text("no markers")
    for path, told in ((document, "no single pair"), (tmp_path / "absent.md", "cannot renew")):
        assert speed.main(["--write", str(path)]) == 2
        assert told in capsys.readouterr().err
    assert document.read_text() == "no markers"
