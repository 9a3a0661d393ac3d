import math
from dataclasses import replace

import pytest

from edgeres.budget import (
    accuracy_lines,
    activation_lines,
    documented,
    latency_lines,
    limits,
    memory_lines,
    requirements,
    static_lines,
)
from edgeres.errors import UsageError
from edgeres.model.cost import macs, parameters
from edgeres.model.spec import PRESETS
from edgeres.target import Budget, find_target

JETSON = find_target("jetson")
X86 = find_target("x86")


def macs_line(network, crop=224, target=JETSON):
    count = macs(PRESETS[network], crop, crop)
    known = limits(network, crop, target, {})
    return next(
        line
        for line in static_lines(known, network=network, crop=crop, macs=count, parameters=None, size_bytes=0)
        if line.name == "macs_g"
    )


@pytest.mark.parametrize(
    ("network", "gpu", "mobile", "macs_g"),
    [("resnet18", 2, 50, 1.8), ("resnet50", 4, 150, 4.1), ("resnet152", 12, 500, 11.3)],
)
def test_documented_figures(network, gpu, mobile, macs_g):
    assert documented(network, "gpu", 224)["latency_p50_ms"].limit == gpu
    assert documented(network, "mobile", 224)["latency_p50_ms"].limit == mobile
    assert documented(network, "gpu", 224)["macs_g"].limit == macs_g


def test_every_documented_name_is_a_preset():
    assert {name for row in requirements().networks for name in row.names} <= set(PRESETS)


def test_an_undocumented_network_has_only_the_targets_limits():
    assert documented("resnet34", "gpu", 224) == {}
    assert set(limits("resnet34", 224, JETSON, {})) == {"accuracy_drop_pp"}


def test_smaller_images_scale_limits_by_area_and_larger_ones_do_not():
    half = documented("resnet50", "mobile", 112)
    assert half["latency_p50_ms"].limit == pytest.approx(37.5)
    assert half["macs_g"].limit == pytest.approx(4.1 / 4)
    assert half["macs_g"].rounding == pytest.approx(0.05 / 4)
    assert "(112/224)^2" in half["macs_g"].source
    assert documented("resnet50", "mobile", 288)["latency_p50_ms"].limit == 150


@pytest.mark.parametrize(
    ("network", "status"),
    [("resnet18", "passed"), ("resnet50", "passed"), ("resnet152", "failed"), ("resnet152_v1", "passed")],
)
def test_dense_networks_against_their_documented_macs(network, status):
    assert macs_line(network).status == status


def test_a_documented_count_is_read_at_its_own_precision():
    limit = documented("resnet18", "gpu", 224)["macs_g"]
    assert limit.met(1.8)
    assert limit.met(math.nextafter(1.85, 0))
    assert not limit.met(1.85)
    assert "last written digit" in macs_line("resnet18").how
    assert "last written digit" not in macs_line("resnet50").how


def test_other_limits_are_exact():
    limit = documented("resnet18", "gpu", 224)["latency_p50_ms"]
    assert limit.met(2.0)
    assert not limit.met(math.nextafter(2.0, 3))


def test_too_many_macs_name_a_ratio_that_fits_and_the_variant_that_fits():
    line = macs_line("resnet152")
    assert "0.981" in line.how
    assert line.value * 0.981 <= 11.3
    assert "resnet152_v1 (11.28 G)" in line.how


def test_the_user_goes_before_the_target_and_the_target_before_the_documents():
    target = replace(JETSON, budget=Budget(accuracy_drop_pp=0.5, macs_g=1.5))
    assert limits("resnet18", 224, target, {})["macs_g"].limit == 1.5
    assert not limits("resnet18", 224, target, {})["macs_g"].met(1.51)
    asked = limits("resnet18", 224, target, {"macs_g": 1.2, "size_mib": 20.0})
    assert (asked["macs_g"].limit, asked["macs_g"].source) == (1.2, "asked for")
    assert asked["accuracy_drop_pp"].limit == 0.5
    assert asked["latency_p50_ms"].limit == 2


def test_none_lifts_a_limit():
    assert "macs_g" not in limits("resnet18", 224, JETSON, {"macs_g": None})


def test_limits_keep_the_order_of_the_budget_with_accuracy_first():
    assert list(limits("resnet18", 224, X86, {"size_mib": 1.0})) == [
        "accuracy_drop_pp",
        "macs_g",
        "size_mib",
        "latency_p50_ms",
    ]


def test_an_unknown_override_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="latency_p50_ms"):
        limits("resnet18", 224, X86, {"latency_p5_ms": 1.0})


def test_static_lines_hold_closed_forms():
    known = limits("resnet18", 224, X86, {"params_m": 11.0, "size_mib": 12.0})
    lines = static_lines(
        known,
        network="resnet18",
        crop=224,
        macs=macs(PRESETS["resnet18"], 224, 224),
        parameters=parameters(PRESETS["resnet18"]),
        size_bytes=12 << 20,
    )
    assert [(line.name, line.status) for line in lines] == [
        ("macs_g", "passed"),
        ("params_m", "failed"),
        ("size_mib", "passed"),
    ]
    assert lines[1].value == pytest.approx(11.689512)


def test_what_nobody_measured_is_unmeasured_and_says_why():
    known = limits("resnet18", 224, JETSON, {"params_m": 1.0, "latency_p90_ms": 3.0, "peak_rss_mib": 100.0})
    lines = latency_lines(known, None, "no Jetson here; predicted 1 ms") + memory_lines(known, None, "no Jetson")
    assert [line.name for line in lines] == ["latency_p50_ms", "latency_p90_ms", "peak_rss_mib"]
    assert all(line.status == "unmeasured" and line.value is None for line in lines)
    assert "predicted" in lines[0].how
    uncounted = static_lines(known, network="x", crop=224, macs=1, parameters=None, size_bytes=1)
    assert [line.status for line in uncounted if line.name == "params_m"] == ["unmeasured"]


def test_the_tail_is_held_to_what_it_does_not_exceed():
    asked = {"latency_p50_ms": 2.0, "latency_p90_ms": 3.0, "latency_p99_ms": 9.0}
    timed = {"p50_ms": 1.9, "p90_ms": 2.9, "p90_high_ms": 3.1, "p99_ms": 3.5, "p99_high_ms": None}
    lines = latency_lines(limits("resnet18", 224, X86, asked), timed, "60 calls")
    assert [(line.value, line.status) for line in lines] == [(1.9, "passed"), (3.1, "failed"), (None, "unmeasured")]
    assert lines[2].how == "60 calls; too few for a 99 % upper bound, which takes 459"


def test_activation_memory_is_a_static_line():
    known = limits("resnet18", 224, X86, {"peak_activation_mib": 1.5})
    assert [(line.value, line.status) for line in activation_lines(known, 2 << 20)] == [(2.0, "failed")]
    assert activation_lines(known, None)[0].status == "unmeasured"


@pytest.mark.parametrize(
    ("drop", "status"), [(1.0, "passed"), (1.01, "failed"), (-0.2, "passed"), (None, "unmeasured")]
)
def test_accuracy_line(drop, status):
    (line,) = accuracy_lines(limits("resnet18", 224, JETSON, {}), drop, "0.9 [0.1, 1.7]")
    assert (line.value, line.status, line.how) == (drop, status, "0.9 [0.1, 1.7]")


def test_a_lifted_limit_has_no_line():
    known = limits("resnet18", 224, JETSON, {"accuracy_drop_pp": None, "latency_p50_ms": None})
    assert accuracy_lines(known, 5.0, "") == ()
    assert latency_lines(known, {"p50_ms": 1.0, "p90_high_ms": 1.0, "p99_high_ms": 1.0}, "") == ()
