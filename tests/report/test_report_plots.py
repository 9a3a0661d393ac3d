"""Plots: positions follow from values, pictures are well-formed, and words carry what colours do."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from example_run import CLASSES, accuracy, answers, calibration, x86
from hypothesis import given
from hypothesis import strategies as st

from edgeres.report.plots import accuracy_plot, confusion_plot, drop_plot, latency_plot, macs_plot, scales_plot
from edgeres.report.svg import Axis, ticks
from edgeres.runs.findings import Confusion

STAGES = [("train", 98.9), ("prune", 95.2), ("recover", 98.5)]


def shapes(picture: str, kind: str) -> list[ET.Element]:
    root = ET.fromstring(picture)
    return [node for node in root.iter() if kind in (node.get("class") or "").split()]


def test_axis_is_linear() -> None:
    axis = Axis(10, 20, 100, 300)
    assert [axis(10), axis(15), axis(20)] == [100, 200, 300]


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_ticks_are_inside_axis_and_few(low: float, span: float) -> None:
    found = ticks(low, low + span, 4)
    assert 1 <= len(found) <= 5
    assert all(low - 1e-6 * span - 1e-9 <= tick <= low + span + 1e-6 * span + 1e-9 for tick in found)


def test_golden_ticks() -> None:
    assert ticks(0, 1, 4) == [0, 0.5, 1]
    assert ticks(94.8, 99.4, 3) == [96, 98]


def test_accuracy_plot_places_dots_by_value() -> None:
    dots = [float(dot.attrib["cx"]) for dot in shapes(accuracy_plot(STAGES, "top-1"), "dot")]
    assert dots[1] < dots[2] < dots[0]
    assert (dots[2] - dots[1]) / (dots[0] - dots[1]) == pytest.approx(3.3 / 3.7, abs=1e-3)


def test_macs_bars_are_proportional_with_removed_macs() -> None:
    picture = macs_plot([("train", 100.0), ("prune", 65.0)], None)
    widths = [float(bar.attrib["width"]) for bar in shapes(picture, "bar") if "gone" not in bar.attrib["class"]]
    assert widths[1] / widths[0] == pytest.approx(0.65, abs=1e-3)
    assert len(shapes(picture, "gone")) == 1
    assert "-35 %" in picture


def test_distant_limit_is_written_and_not_drawn() -> None:
    rows = [("train", 1e6)]
    near, far = macs_plot(rows, 2e6), macs_plot(rows, 1e9)
    assert "beyond this scale" not in near
    assert "limit 1 G, beyond this scale" in far
    assert float(shapes(near, "bar")[0].attrib["width"]) * 2 == pytest.approx(
        float(shapes(far, "bar")[0].attrib["width"]), abs=0.1
    )


def test_drop_plot_interval_contains_drop() -> None:
    picture = drop_plot(accuracy(), 1.0)
    dot = float(shapes(picture, "dot")[0].attrib["cx"])
    start, end = _ends(picture)
    assert start < dot < end
    assert "limit +1.00 pp" in picture


def _ends(picture: str) -> tuple[float, float]:
    bar = shapes(picture, "whisker")[0].attrib["d"].split("M")[2]
    return float(bar.split()[0]), float(bar.split("H")[1])


def test_latency_bars_show_p50_and_p90() -> None:
    rows = x86().timings.latency
    picture = latency_plot(rows, [("p50", 1.02)])
    bars = [float(bar.attrib["width"]) for bar in shapes(picture, "bar")]
    assert bars[0] / bars[1] == pytest.approx(1.16, abs=1e-2)  # p90 behind p50
    assert bars[3] / bars[1] == pytest.approx(0.61 / 1.42, abs=1e-2)
    assert "float32 p50 1.42 ms" in ET.fromstring(picture).attrib["aria-label"]


def test_confusion_plot_shows_every_count() -> None:
    labels, _, deployed = answers()
    confusion = Confusion.of(CLASSES, labels, deployed)
    picture = confusion_plot(CLASSES, confusion.matrix())
    assert len(shapes(picture, "hit")) == 10
    assert len(shapes(picture, "miss")) == 7
    assert len(shapes(picture, "cell")) == 100
    written = sorted(int(node.text or "0") for node in shapes(picture, "mid"))
    assert written == sorted(count for _, _, count in confusion.cells)


def test_confusion_matrix_rows_are_true_classes() -> None:
    confusion = Confusion.of(("a", "b"), [0, 0, 0, 1], [0, 1, 1, 1])
    assert confusion.matrix() == [[1, 2], [0, 1]]


def test_scales_plot_places_larger_scales_higher() -> None:
    tensors = calibration().tensors
    dots = shapes(scales_plot(tensors), "dot")
    heights = [float(dot.attrib["cy"]) for dot in dots]
    order = sorted(range(len(tensors)), key=lambda index: tensors[index].scale)
    assert [heights[index] for index in order] == sorted(heights, reverse=True)
    unsigned = (replace(tensors[0], signed=False), *tensors[1:])
    assert len(shapes(scales_plot(unsigned), "hollow")) == 1


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1000.0, 0.1])
def test_scales_plot_accepts_single_scale(scale: float) -> None:
    dot = shapes(scales_plot((replace(calibration().tensors[0], scale=scale),)), "dot")[0]
    assert 8 <= float(dot.attrib["cy"]) <= 168


def test_plots_accept_equal_values() -> None:
    for picture in (
        accuracy_plot([("a", 100.0), ("b", 100.0)], "top-1"),
        accuracy_plot([("a", 0.0)], "top-1"),
        macs_plot([("a", 0.0)], None),
    ):
        assert "nan" not in picture
        ET.fromstring(picture)
