from dataclasses import replace

import pytest

from edgeres.artifacts.budget_check import BudgetCheck, Predicted
from edgeres.data.size import Size
from edgeres.gate.budget import latency_lines, limits
from edgeres.latency.prediction import Measured, predict, predicted
from edgeres.latency.random_model import random_model
from edgeres.latency.roofline import roofline_of
from edgeres.latency.workload import of_graph, of_target
from edgeres.model.graph import graph
from edgeres.model.presets import PRESETS
from edgeres.targets.target import find_target

JETSON = find_target("jetson")
ROOFLINE = roofline_of(JETSON)
RESNET18, RESNET50 = (
    of_graph(graph(PRESETS[name]), Size.square(224), integer=True) for name in ("resnet18", "resnet50")
)


def test_band_is_the_error_on_left_out_chips():
    found = predicted(RESNET50, ROOFLINE)
    factor = ROOFLINE.integer.uncalibrated.factor
    assert (found.low_ms, found.high_ms) == pytest.approx((found.ms / factor, found.ms * factor))
    assert found.ms == pytest.approx(found.call_ms + sum(cost.ms for cost in found.costs))
    assert "left out of the fit" in found.basis
    assert found.notes == ()


def test_a_gpu_has_a_figure_of_its_own_and_a_cpu_has_not():
    found = predicted(RESNET50, ROOFLINE)
    assert found.gpu_compute_ms == pytest.approx(sum(cost.ms for cost in found.costs))
    assert found.ms == pytest.approx(found.gpu_compute_ms + ROOFLINE.integer.call_ms)
    assert predicted(RESNET50, roofline_of(find_target("raspberry-pi"))).gpu_compute_ms is None


@pytest.mark.parametrize("target", ["jetson-orin-nano-super", "jetson-agx-orin", "jetson-xavier-nx"])
def test_fewer_bits_take_less_time(target):
    device = find_target(target)
    took = [
        predicted(
            of_target(graph(PRESETS["resnet50"]), Size.square(224), device, integer=precision == "int8"),
            roofline_of(device, precision),
        )
        for precision in ("int8", "fp16", "fp32")
    ]
    assert took[0].ms < took[1].ms < took[2].ms


def test_one_measured_network_narrows_the_band():
    measured = Measured("resnet50 of a friend", RESNET50, 3.0)
    found = predicted(RESNET18, ROOFLINE, measured)
    assert found.high_ms / found.ms == pytest.approx(ROOFLINE.integer.calibrated.factor)
    assert found.high_ms / found.ms < ROOFLINE.integer.uncalibrated.factor
    assert "resnet50 of a friend (3 ms)" in found.basis
    assert predicted(RESNET50, ROOFLINE, measured).ms == pytest.approx(3.0, rel=1e-3)


def test_small_images_are_noted():
    (note,) = predicted(of_graph(graph(PRESETS["resnet18"]), Size.square(32), integer=True), ROOFLINE).notes
    assert "224 to 256 pixels" in note


def test_a_network_measured_by_the_gpus_own_clock_calibrates_that():
    measured = Measured("resnet50 by trtexec", RESNET50, 3.0, figure="gpu_compute")
    found = predicted(RESNET50, ROOFLINE, measured)
    assert found.gpu_compute_ms == pytest.approx(3.0, rel=1e-3)
    assert found.ms == pytest.approx(3.0 + ROOFLINE.integer.call_ms, rel=1e-3)


def test_a_graph_is_predicted_as_its_spec_is():
    model = random_model(replace(PRESETS["resnet18"], classes=10), Size.square(64), JETSON)["int8"]
    works = of_graph(
        graph(replace(PRESETS["resnet18"], classes=10)),
        Size.square(64),
        integer=True,
        float_layers=("fc",),
        float_pools=True,
    )
    assert predict(model, JETSON).ms == pytest.approx(predicted(works, ROOFLINE).ms)
    assert predict(model, find_target("x86")) is None


def line(low, high, limit=2.0):
    known = limits("resnet18", Size.square(224), JETSON, {"latency_p50_ms": limit, "latency_p90_ms": 9.0})
    expected = Predicted(value=(low + high) / 2, low=low, high=high, basis="peaks")
    return latency_lines(known, None, "not here", expected)


@pytest.mark.parametrize(
    ("low", "high", "predicted_status"),
    [(0.5, 1.9, "passes"), (0.5, 2.0, "passes"), (1.9, 2.1, "open"), (2.0, 3.0, "open"), (2.1, 3.0, "fails")],
)
def test_the_ends_of_the_band_decide_and_the_line_stays_unmeasured(low, high, predicted_status):
    median, tail = line(low, high)
    assert (median.predicted_status, median.status, median.value) == (predicted_status, "unmeasured", None)
    assert (tail.predicted_status, tail.predicted, tail.status) == ("", None, "unmeasured")


def test_budget_check_refuses_a_status_outside_its_band():
    expected = Predicted(value=1, low=0.5, high=3, basis="peaks")
    said = {"name": "latency_p50_ms", "limit": 2.0, "how": "", "source": ""}
    unmeasured = {**said, "value": None, "status": "unmeasured"}
    with pytest.raises(ValueError, match="cannot be 'passes'"):
        BudgetCheck(**unmeasured, predicted=expected, predicted_status="passes")
    with pytest.raises(ValueError, match="without a predicted_status"):
        BudgetCheck(**unmeasured, predicted=expected)
    with pytest.raises(ValueError, match="without a prediction"):
        BudgetCheck(**unmeasured, predicted_status="open")
    with pytest.raises(ValueError, match="passed and predicted"):
        BudgetCheck(**said, value=1.0, status="passed", predicted=expected, predicted_status="open")
    assert BudgetCheck(**unmeasured, predicted=expected, predicted_status="open").predicted_status == "open"
