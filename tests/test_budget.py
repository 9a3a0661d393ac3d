import math
from dataclasses import replace

import pytest

from edgeres.artifacts.results import Latency
from edgeres.data.size import Size
from edgeres.errors import UsageError
from edgeres.gate.budget import (
    budget_lines,
    documented,
    latency_lines,
    limits,
    requirements,
    static_lines,
)
from edgeres.latency.prediction import predicted
from edgeres.latency.roofline import float_precisions, roofline_of
from edgeres.latency.workload import of_target
from edgeres.model.cost import macs, parameters
from edgeres.model.graph import graph
from edgeres.model.presets import PRESETS
from edgeres.targets.target import Budget, find_target, targets

JETSON = find_target("jetson")
X86 = find_target("x86")


def timing(p50_ms, **others):
    same = dict.fromkeys(("p90_ms", "p99_ms", "low_ms", "high_ms"), p50_ms)
    return Latency(p50_ms=p50_ms, **{**same, "n": 60, "warmup": 5, "stolen": None, **others})


def macs_line(network, crop=224, target=JETSON):
    count = macs(graph(PRESETS[network]), crop, crop)
    known = limits(network, Size.square(crop), target, {})
    return next(
        line
        for line in static_lines(
            known,
            network=network,
            image=Size.square(crop),
            macs=count,
            parameters=None,
            size_bytes=0,
            peak_activation_bytes=None,
        )
        if line.name == "macs_g"
    )


@pytest.mark.parametrize(
    ("network", "gpu", "mobile", "macs_g"),
    [("resnet18", 2, 50, 1.8), ("resnet50", 4, 150, 4.1), ("resnet152", 12, 500, 11.3)],
)
def test_documented_figures(network, gpu, mobile, macs_g):
    assert documented(network, JETSON, Size.square(224))["latency_p50_ms"].limit == gpu
    assert documented(network, X86, Size.square(224))["latency_p50_ms"].limit == mobile
    assert documented(network, JETSON, Size.square(224))["macs_g"].limit == macs_g


def test_every_documented_name_is_a_preset():
    assert {name for row in requirements().networks for name in row.names} <= set(PRESETS)


def test_an_undocumented_network_has_only_the_targets_limits():
    assert documented("resnet34", JETSON, Size.square(224)) == {}
    assert set(limits("resnet34", Size.square(224), JETSON, {})) == {"accuracy_drop_pp"}


def test_smaller_images_scale_macs_by_area_and_larger_ones_do_not():
    half = documented("resnet50", X86, Size.square(112))["macs_g"]
    assert half.limit == pytest.approx(4.1 / 4)
    assert half.rounding == pytest.approx(0.05 / 4)
    assert half.derivation == "4.1 G at 224 px, scaled by the area to 112 px"
    larger = documented("resnet50", X86, Size.square(288))
    assert (larger["macs_g"].limit, larger["latency_p50_ms"].limit) == (4.1, 150)
    assert [limit.derivation for limit in larger.values()] == ["", ""]


@pytest.mark.parametrize("name", ["jetson", "jetson-agx-orin", "rtx", "raspberry-pi", "jetson-xavier-nx"])
@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_a_latency_keeps_its_fixed_part_at_smaller_images_and_scales_the_rest_by_macs(name, network):
    """The share that call, launches and weights take of the network at 224 px stays, whatever the image."""
    target, spec = find_target(name), PRESETS[network]
    works = of_target(graph(spec), Size.square(224), target, integer=True)
    roofline = roofline_of(target)
    share = roofline.fixed_ms(works) / roofline.total_ms(works)
    whole, small = (documented(network, target, Size.square(side))["latency_p50_ms"] for side in (224, 32))
    ratio = macs(graph(spec), 32, 32) / macs(graph(spec), 224, 224)
    assert small.limit == pytest.approx(whole.limit * (share + (1 - share) * ratio))
    assert small.derivation == (
        f"{whole.limit:g} ms at 224 px: {100 * share:.0f} % stays (call, launches, weights), the rest scales by MACs"
    )


def test_without_the_devices_peaks_it_is_a_device_that_just_keeps_the_limit():
    """x86: of 50 ms, the 0.7 ms of a call stay."""
    share = roofline_of(X86).integer.call_ms / 50
    ratio = macs(graph(PRESETS["resnet18"]), 32, 32) / macs(graph(PRESETS["resnet18"]), 224, 224)
    unknown = replace(X86, device=replace(X86.device, bandwidth_gbs=None))
    assert documented("resnet18", unknown, Size.square(32))["latency_p50_ms"].limit == pytest.approx(
        50 * (share + (1 - share) * ratio), rel=1e-3
    )


@pytest.mark.parametrize("name", targets())
def test_no_smaller_image_gets_a_limit_below_what_call_and_launches_take(name):
    target = find_target(name)
    sides = (1, 8, 16, 32, 64, 112, 160, 192, 224)
    found = [documented("resnet18", target, Size.square(side))["latency_p50_ms"].limit for side in sides]
    assert found == sorted(found)
    integer = target.scheme is not None
    roofline = roofline_of(target, "int8" if integer else float_precisions(target)[0])
    works = of_target(graph(PRESETS["resnet18"]), Size.square(32), target, integer=integer)
    if not roofline.missing(works):
        assert min(found) > replace(roofline, bandwidth=None).fixed_ms(works)


@pytest.mark.parametrize("name", [name for name in targets() if name.startswith("jetson")])
def test_a_network_that_keeps_its_latency_at_224_px_keeps_it_at_the_sample_tasks_32(name):
    """The dense ResNet-18: what the roofline expects stands to both limits alike."""
    target = find_target(name)
    integer = target.scheme is not None
    roofline = roofline_of(target, "int8" if integer else "fp16")
    lines = []
    for side in (224, 32):
        expected = predicted(
            of_target(graph(PRESETS["resnet18"]), Size.square(side), target, integer=integer), roofline
        ).predicted
        lines += latency_lines(limits("resnet18", Size.square(side), target, {}), None, "not here", expected)
    assert [line.status for line in lines] == ["unmeasured"] * 2
    assert lines[0].predicted_status == lines[1].predicted_status
    if name == "jetson-orin-nano":
        assert lines[1].predicted_status == "passes"


@pytest.mark.parametrize(
    ("network", "status"),
    [("resnet18", "passed"), ("resnet50", "passed"), ("resnet152", "failed"), ("resnet152_v1", "passed")],
)
def test_dense_networks_against_their_documented_macs(network, status):
    assert macs_line(network).status == status


def test_a_documented_count_is_read_at_its_own_precision():
    limit = documented("resnet18", JETSON, Size.square(224))["macs_g"]
    assert limit.met(1.8)
    assert limit.met(math.nextafter(1.85, 0))
    assert not limit.met(1.85)
    assert "last written digit" in macs_line("resnet18").how
    assert "last written digit" not in macs_line("resnet50").how


def test_other_limits_are_exact():
    limit = documented("resnet18", JETSON, Size.square(224))["latency_p50_ms"]
    assert limit.met(2.0)
    assert not limit.met(math.nextafter(2.0, 3))


def test_too_many_macs_name_a_ratio_that_fits_and_the_variant_that_fits():
    line = macs_line("resnet152")
    assert "0.981" in line.how
    assert line.value * 0.981 <= 11.3
    assert "resnet152_v1 (11.28 G)" in line.how


def test_the_user_goes_before_the_target_and_the_target_before_the_documents():
    target = replace(JETSON, budget=Budget(accuracy_drop_pp=0.5, macs_g=1.5))
    assert limits("resnet18", Size.square(224), target, {})["macs_g"].limit == 1.5
    assert not limits("resnet18", Size.square(224), target, {})["macs_g"].met(1.51)
    asked = limits("resnet18", Size.square(224), target, {"macs_g": 1.2, "size_mib": 20.0})
    assert (asked["macs_g"].limit, asked["macs_g"].source) == (1.2, "asked for")
    assert asked["accuracy_drop_pp"].limit == 0.5
    assert asked["latency_p50_ms"].limit == 2


def test_none_lifts_a_limit():
    assert "macs_g" not in limits("resnet18", Size.square(224), JETSON, {"macs_g": None})


def test_limits_keep_the_order_of_the_budget_with_accuracy_first():
    assert list(limits("resnet18", Size.square(224), X86, {"size_mib": 1.0})) == [
        "accuracy_drop_pp",
        "macs_g",
        "size_mib",
        "latency_p50_ms",
    ]


def test_an_unknown_override_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="latency_p50_ms"):
        limits("resnet18", Size.square(224), X86, {"latency_p5_ms": 1.0})


def test_static_lines_hold_closed_forms():
    known = limits("resnet18", Size.square(224), X86, {"params_m": 11.0, "size_mib": 12.0})
    lines = static_lines(
        known,
        network="resnet18",
        image=Size.square(224),
        macs=macs(graph(PRESETS["resnet18"]), 224, 224),
        parameters=parameters(graph(PRESETS["resnet18"])),
        size_bytes=12 << 20,
        peak_activation_bytes=None,
    )
    assert [(line.name, line.status) for line in lines] == [
        ("macs_g", "passed"),
        ("params_m", "failed"),
        ("size_mib", "passed"),
    ]
    assert lines[1].value == pytest.approx(11.689512)


def test_what_nobody_measured_is_unmeasured_and_says_why():
    known = limits(
        "resnet18", Size.square(224), JETSON, {"params_m": 1.0, "latency_p90_ms": 3.0, "peak_rss_mib": 100.0}
    )
    lines = latency_lines(known, None, "no Jetson here; predicted 1 ms") + budget_lines(
        known, "peak_rss_mib", None, "no Jetson"
    )
    assert [line.name for line in lines] == ["latency_p50_ms", "latency_p90_ms", "peak_rss_mib"]
    assert all(line.status == "unmeasured" and line.value is None for line in lines)
    assert "predicted" in lines[0].how
    uncounted = static_lines(
        known, network="x", image=Size.square(224), macs=1, parameters=None, size_bytes=1, peak_activation_bytes=None
    )
    assert [line.status for line in uncounted if line.name == "params_m"] == ["unmeasured"]


def test_the_tail_is_held_to_what_it_does_not_exceed():
    asked = {"latency_p50_ms": 2.0, "latency_p90_ms": 3.0, "latency_p99_ms": 9.0}
    timed = timing(1.9, p90_ms=2.9, p90_high_ms=3.1, p99_ms=3.5)
    lines = latency_lines(limits("resnet18", Size.square(224), X86, asked), timed, "60 calls")
    assert [(line.value, line.status) for line in lines] == [(1.9, "passed"), (3.1, "failed"), (None, "unmeasured")]
    assert lines[2].how == "60 calls; too few for a 99 % upper bound, which takes 459"


def test_a_latency_line_says_which_figure_it_is_and_no_other_line_does():
    asked = {"latency_p50_ms": 2.0, "latency_p90_ms": 3.0, "params_m": 99.0}
    known = limits("resnet18", Size.square(224), X86, asked)
    lines = latency_lines(known, timing(1.0, p90_high_ms=1.0), "here")
    static = static_lines(
        known,
        network="resnet18",
        image=Size.square(224),
        macs=1,
        parameters=1,
        size_bytes=1,
        peak_activation_bytes=None,
    )
    assert [line.figure for line in lines] == ["host_latency"] * 2
    assert {line.figure for line in (*static, *budget_lines(known, "accuracy_drop_pp", 0.0, ""))} == {None}


def test_activation_memory_is_a_static_line():
    known = limits("resnet18", Size.square(224), X86, {"peak_activation_mib": 1.5})
    for peak, expected in ((2 << 20, (2.0, "failed")), (None, (None, "unmeasured"))):
        lines = static_lines(
            known, network="x", image=Size.square(224), macs=1, parameters=1, size_bytes=1, peak_activation_bytes=peak
        )
        assert [(line.value, line.status) for line in lines if line.name == "peak_activation_mib"] == [expected]


@pytest.mark.parametrize(
    ("drop", "status"), [(1.0, "passed"), (1.01, "failed"), (-0.2, "passed"), (None, "unmeasured")]
)
def test_accuracy_line(drop, status):
    (line,) = budget_lines(limits("resnet18", Size.square(224), JETSON, {}), "accuracy_drop_pp", drop, "0.9 [0.1, 1.7]")
    assert (line.value, line.status, line.how) == (drop, status, "0.9 [0.1, 1.7]")


def test_a_lifted_limit_has_no_line():
    known = limits("resnet18", Size.square(224), JETSON, {"accuracy_drop_pp": None, "latency_p50_ms": None})
    assert budget_lines(known, "accuracy_drop_pp", 5.0, "") == ()
    assert latency_lines(known, timing(1.0, p90_high_ms=1.0, p99_high_ms=1.0), "") == ()
