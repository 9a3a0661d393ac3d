"""The recovery report in every form."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from example_run import jetson

from edgeres.artifacts.results import LayerSensitivity, StageMetrics, TechniqueResult
from edgeres.report.candidates import folded, heads, next_step, recovery_rows
from edgeres.report.html import html
from edgeres.report.markdown import markdown
from edgeres.report.recovery import kl_axis, sensitivity_plot, spending, spending_plot, tradeoff, tradeoff_plot
from edgeres.report.svg import apart, standalone
from edgeres.runs.document import decode, encode
from edgeres.runs.run import StageRow, StageTime

LEFT = "left out: named in skip, or beyond the time budget"


def technique(name, kl, verdict="FAIL", chosen=False, integer=20, **more):
    figures = {"top1": 96.0, "drop_pp": 2.0, "low_pp": 1.2, "high_pp": 2.9, "agreement": 97.0}
    return TechniqueResult(
        name=name, kl=kl, verdict=verdict, chosen=chosen, integer=integer, note=f"what {name} did", **figures, **more
    )


MIXED = {"calibrate": {}, "mixed_precision": {"float_layers": ["layer1.0.conv1"], "float_share_of_macs": 0.05}}
LADDER = (
    technique("calibrate", 0.02),
    technique("equalization", 0.004),
    TechniqueResult(name="gptq", note=LEFT),
    TechniqueResult(name="block_reconstruction", note=LEFT),
    technique("mixed_precision", 0.001, "PASS", chosen=True, integer=19, settings=MIXED),
)
LAPS = {"calibrate": 4.0, "equalization": 9.0, "mixed_precision": 75.0, "latency float32": 0.004, "latency int8": 0.001,
        "latency mixed_precision": 0.002}  # fmt: skip
NOISE = tuple(
    LayerSensitivity(layer=f"layer{n}.0.conv1", sqnr_db=40.0 - n, kl=10.0**-n, top1=99.0, macs=1000 * n)
    for n in range(1, 6)
)


@pytest.fixture
def run():
    base = jetson()
    stages = tuple(replace(row, techniques=LADDER) if row.stage == "quantize" else row for row in base.stages)
    times = tuple(replace(time, timings=LAPS) if time.stage == "quantize" else time for time in base.timings.stages)
    return replace(base, stages=stages, sensitivity=NOISE, timings=replace(base.timings, stages=times))


def behind(run, *techniques):
    """The run with a stage qat after its quantization."""
    stages = (*run.stages, StageRow(stage="qat", techniques=techniques))
    times = (*run.timings.stages, StageTime(stage="qat", cached=False, seconds=600.0))
    return replace(run, stages=stages, timings=replace(run.timings, stages=times))


def test_recovery_report_round_trips_through_json(run):
    assert decode(encode(run), "x") == run


def test_recovery_rows_have_figures_and_durations(run):
    rows = recovery_rows(run)
    assert [row.technique.name for row in rows] == [
        "float",
        "calibrate",
        "equalization",
        "gptq",
        "block_reconstruction",
        "mixed_precision",
    ]
    assert [row.seconds for row in rows] == [None, 4.0, 9.0, None, None, 75.0]
    assert [row.latency_ms for row in rows] == [4.0, 1.0, 1.0, None, None, 2.0]
    assert not any(row.expected for row in rows if row.tried)
    assert rows[0].technique.top1 == 98.0
    assert rows[-1].cells("-") == (
        "mixed_precision", "PASS", "96.00 %", "+2.00 pp (+1.20 to +2.90)", "97.00 %", "1.0e-03", "19 of 21", "2 ms",
        "1 min 15 s", "what mixed_precision did",
    )  # fmt: skip
    assert len(rows[-1].cells("-")) == len(heads(run))


def test_skipped_techniques_with_equal_reason_share_row(run):
    names = [row.technique.name for row in folded(recovery_rows(run))]
    assert names == ["float", "calibrate", "equalization", "gptq, block_reconstruction", "mixed_precision"]


def test_predicted_latency_is_marked_expected(run):
    quantize = next(row for row in run.stages if row.stage == "quantize")
    expected = replace(quantize, metrics=StageMetrics(expected_ms={"int8": 0.5}))
    stages = tuple(expected if row is quantize else row for row in run.stages)
    times = tuple(replace(time, timings={}) for time in run.timings.stages)
    rows = recovery_rows(replace(run, stages=stages, timings=replace(run.timings, stages=times)))
    assert rows[1].cells("-")[7] == "0.5 ms expected"
    assert rows[-1].cells("-")[7] == "-"
    assert rows[1].seconds is None


def test_qat_after_quantization_is_chosen_row(run):
    kept = technique("quantize", 0.001, chosen=False)
    rows = recovery_rows(behind(run, kept, technique("qat", 0.0005, "PASS", chosen=True)))
    assert [row.technique.name for row in rows if row.technique.chosen] == ["qat"]
    assert [row.technique.name for row in rows].count("quantize") == 0
    assert rows[-1].seconds == 600.0


def test_skipped_qat_keeps_chosen_row(run):
    rows = recovery_rows(
        behind(run, technique("quantize", 0.001, chosen=True), TechniqueResult(name="qat", note="not trained"))
    )
    assert [row.technique.name for row in rows if row.technique.chosen] == ["mixed_precision"]


@pytest.mark.parametrize(
    ("verdict", "name", "others", "said"),
    [
        ("PASS", "bias_correction", (), "limit is met"),
        (
            "FAIL",
            "bias_correction",
            (TechniqueResult(name="gptq", note=LEFT),),
            "also tries what was left out (gptq, about 2 min more)",
        ),
        (
            "PASS",
            "bias_correction",
            (TechniqueResult(name="gptq", note=LEFT),),
            "Left out for its cost: gptq, about 2 min more.",
        ),
        ("FAIL", "bias_correction", (), "--recipe qat"),
        ("INCONCLUSIVE", "bias_correction", (), "do not settle"),
        ("", "bias_correction", (), "accuracy_drop_pp=1"),
        ("FAIL", "qat", (), "loosen it"),
    ],
)
def test_next_step_by_verdict(run, verdict, name, others, said):
    techniques = (technique(name, 0.01, verdict, chosen=True), *others)
    stages = tuple(replace(row, techniques=techniques) if row.stage == "quantize" else row for row in run.stages)
    timings = {"predicted gptq": 118.0} if others else {}
    times = tuple(replace(time, timings=timings) for time in run.timings.stages)
    run = replace(run, stages=stages, timings=replace(run.timings, stages=times))
    assert said in next_step(run)
    assert [row.cells("-")[-1] for row in recovery_rows(run) if not row.tried] == [
        f"{LEFT}; would take about 2 min more" for _ in others
    ]


def test_no_recovery_rows_without_search():
    run = jetson()
    assert recovery_rows(run) == ()
    assert next_step(run) == ""
    assert "No technique was searched" in html(run)
    assert "No quantization technique was searched." in markdown(run)


def test_spending_accumulates_seconds(run):
    assert spending(recovery_rows(run)) == [
        ("calibrate", 4.0, 0.02, False),
        ("equalization", 13.0, 0.004, False),
        ("mixed_precision", 88.0, 0.001, True),
    ]


def test_pages_hold_techniques_and_sensitivities(run):
    page, text = html(run), markdown(run)
    for part in (
        "\u2713 mixed",
        "gptq, block_reconstruction",
        "19 of 21",
        "What each technique won",
        "Sensitivity of each layer",
    ):
        assert part in page
    for part in (
        "**mixed_precision**",
        "gptq, block_reconstruction",
        "19\u00a0of\u00a021",
        "Most sensitive layers",
        "`layer1.0.conv1` 1.0e-01",
    ):
        assert part in text
    assert "Most sensitive: layer1.0.conv1 1.0e-01, layer2.0.conv1" in page
    assert "left out: named in skip" in page


def test_tradeoff_plot_places_techniques_by_latency_and_accuracy(run):
    points = tradeoff(recovery_rows(run))
    assert [(name, ms) for name, ms, _, _ in points] == [
        ("float", 4.0), ("calibrate", 1.0), ("equalization", 1.0), ("mixed_precision", 2.0),
    ]  # fmt: skip
    dots = re.findall(r'<circle class="(dot[^"]*)" cx="([\d.]+)" cy="([\d.]+)"', tradeoff_plot(points))
    assert [kind for kind, _, _ in dots] == ["dot hollow", "dot hollow", "dot hollow", "dot"]
    across = [float(x) for _, x, _ in dots]
    left = across[1] - (across[3] - across[1])  # where 0 ms is, by the distance from 1 to 2
    assert (across[0] - left) / (across[1] - left) == pytest.approx(4.0, abs=0.02)
    assert float(dots[0][2]) < float(dots[1][2])  # float is higher up
    assert "Accuracy against latency" in html(run)


def test_no_tradeoff_plot_of_equal_latencies(run):
    rows = recovery_rows(run)
    assert tradeoff(row for row in rows if row.technique.name in ("calibrate", "equalization")) == []


def test_sensitivity_plot_draws_float_layers_hollow():
    drawn = sensitivity_plot(NOISE, ("layer3.0.conv1",))
    assert drawn.count("dot hollow") == 1
    assert drawn.index("dot hollow") < drawn.index("layer3.0.conv1: KL")
    assert drawn.index("layer2.0.conv1: KL") < drawn.index("dot hollow")


def test_recovery_plots_accept_zero_and_single_values():
    silent = LayerSensitivity(layer="conv1", sqnr_db=None, kl=0.0, top1=100.0, macs=1)
    assert "no noise" in sensitivity_plot((silent,))
    assert "conv1" in sensitivity_plot((silent, NOISE[0]))
    assert "KL to float" in spending_plot([("calibrate", 0.0, 0.0, True), ("bias_correction", 0.0, 0.5, False)])


def test_drawing_is_standalone_svg():
    from xml.etree import ElementTree

    root = ElementTree.fromstring(standalone(sensitivity_plot(NOISE)))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len([node for node in root.iter() if node.tag.endswith("circle")]) == len(NOISE)


def test_labels_do_not_overlap_and_are_inside_plot():
    for heights in ([10.0] * 8, [170.0] * 8, [10.0, 12.0, 90.0, 91.0], [50.0]):
        found = sorted(apart(heights, 176))
        assert all(b - a >= 13.999 for a, b in pairwise(found))
        assert found[-1] <= 176.001


def test_kl_axis_ends_at_powers_of_ten():
    axis = kl_axis([3e-4, 2e-2])
    assert (axis.low, axis.high) == (-4, -1)
    assert axis(-4) == 170
    assert axis(-1) == 10
    assert axis(-3) == pytest.approx(170 - 160 / 3)
    assert kl_axis([0.0]) == replace(axis, low=-9, high=-8)
