from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.data.size import Size
from edgeres.errors import UsageError
from edgeres.latency.roofline import (
    KernelClass,
    PredictionError,
    Roofline,
    float_precisions,
    kernel_classes,
    roofline_of,
)
from edgeres.latency.workload import Work, of_graph, of_target
from edgeres.model.graph import graph
from edgeres.model.presets import PRESETS
from edgeres.targets.target import find_target, targets

MISSED = PredictionError(median_pct=1, p90_pct=2, factor=1.5, predictions=3, chips=4)
RESNET18, RESNET50 = (
    of_graph(graph(PRESETS[name]), Size.square(224), integer=True) for name in ("resnet18", "resnet50")
)


def work(c_in=64, c_out=32, side=10, *, kernel=1, integer=True):
    weights = c_out * c_in * kernel**2
    activations = (c_in + c_out) * side**2
    return Work("x", "conv", c_in, c_out, kernel, 1, 1, side, activations, weights, weights * side**2, integer)


def roofline(*, peak=1e9, bandwidth=None, multiple=1, slowness=1.0, **parameters):
    kind = KernelClass(name="k", title="k", calibrated=MISSED, **({"efficiency": 0.5} | parameters))
    peaks = {width: peak / width for width in (1, 2, 4)}
    return Roofline(kind, kind, 2, peaks, bandwidth, multiple, slowness=slowness)


def test_compute_in_closed_form():
    layer = work()
    assert roofline().total_ms([layer]) == pytest.approx(1e3 * 2 * 64 * 32 * 100 / 0.5e9)
    assert roofline().costs([layer])[0].bound == "compute"


def test_memory_in_closed_form():
    layer = work()
    found = roofline(balance=1e6)
    moved = 64 * 100 + 64 * 32 + 32 * 100
    assert found.total_ms([layer]) == pytest.approx(1e3 * 1e6 * moved / 0.5e9)
    assert found.costs([layer])[0].bound == "memory"


def test_bytes_have_a_time_of_their_own_at_a_share_of_the_bandwidth():
    layer = work()
    found = roofline(peak=1e18, bandwidth=1e6, bandwidth_share=0.5)
    moved = 64 * 100 + 64 * 32 + 32 * 100
    assert found.total_ms([layer]) == pytest.approx(1e3 * moved / 0.5e6)
    assert found.costs([layer])[0].bound == "memory"
    assert replace(found, slowness=3.0).total_ms([layer]) == pytest.approx(3e3 * moved / 0.5e6)
    assert found.total_ms([work(integer=False)]) == pytest.approx(2e3 * moved / 0.5e6)
    assert replace(found, bandwidth=None).costs([layer])[0].bound == "compute"


def test_weights_are_read_once():
    found = roofline(peak=1e18, bandwidth=1e6)
    assert found.total_ms([work()]) == pytest.approx(1e3 * 64 * 32 / 1e6)
    assert found.costs([work()])[0].bound == "weights"


def test_a_launch_per_kernel_and_a_call_per_image():
    found = roofline(peak=1e18, layer_us=5.0, call_ms=0.25, efficiency=1.0)
    assert found.total_ms([work()] * 7) == pytest.approx(0.25 + 7 * 5e-3, rel=1e-6)
    assert found.costs([work()])[0].bound == "launch"
    assert roofline(call_gops=2.0, efficiency=1.0).call_ms([work()]) == pytest.approx(2000)
    assert roofline(call_gops=2.0, efficiency=1.0).call_ms([work(integer=False)]) == pytest.approx(4000)


def test_a_call_costs_the_host_alone():
    found = roofline(peak=1e9, layer_us=5.0, call_ms=0.25, efficiency=1.0)
    layers = [work()] * 3
    assert found.total_ms(layers) == pytest.approx(found.total_ms(layers, "gpu_compute") + 0.25)
    assert found.total_ms(layers, "gpu_compute") == pytest.approx(sum(cost.ms for cost in found.costs(layers)))


def test_calibrating_by_what_the_gpu_computed_leaves_the_call_out():
    found = roofline(peak=1e12, call_ms=0.25).calibrated(RESNET18, 3.0, "gpu_compute")
    assert found.total_ms(RESNET18, "gpu_compute") == pytest.approx(3.0, rel=1e-3)
    assert found.total_ms(RESNET18) == pytest.approx(3.25, rel=1e-3)


def test_call_launches_and_weights_are_what_no_smaller_image_saves():
    layers = [work(side=10), work(side=20, integer=False)]
    found = roofline(peak=1e18, bandwidth=1e6, bandwidth_share=0.5, layer_us=5.0, call_ms=0.25, efficiency=1.0)
    weights = 1e3 * 64 * 32 * (1 + 2) / 0.5e6
    assert found.fixed_ms(layers) == pytest.approx(0.25 + 2 * 5e-3 + weights)
    assert roofline(bandwidth=1e6).fixed_ms(layers) == pytest.approx(1e3 * 64 * 32 * 3 / 1e6)
    assert roofline(call_ms=0.25).fixed_ms(layers) == pytest.approx(0.25)


@pytest.mark.parametrize("name", targets())
def test_a_smaller_image_takes_at_least_the_fixed_part_and_less_than_the_whole(name):
    target = find_target(name)
    integer = target.scheme is not None
    found = roofline_of(target, "int8" if integer else float_precisions(target)[0])
    large, small = (
        of_target(graph(PRESETS["resnet18"]), Size.square(side), target, integer=integer) for side in (224, 32)
    )
    if found.missing(large):
        found = found.calibrated(large, 50.0)
    assert found.fixed_ms(large) == pytest.approx(found.fixed_ms(small))
    assert found.fixed_ms(small) <= found.total_ms(small) < found.total_ms(large)


def test_winograd_helps_a_3x3_of_stride_1_alone():
    three, one = work(kernel=3), work()
    strided, grouped = replace(three, stride=2), replace(three, groups=2)
    for layer, gain in ((three, 2), (one, 1), (strided, 1), (grouped, 1)):
        ratio = roofline().total_ms([layer]) / roofline(gain=2.0).total_ms([layer])
        assert ratio == pytest.approx(gain)


def test_tiles_cost_what_they_cover():
    assert roofline(multiple=16).total_ms([work(c_out=17)]) == pytest.approx(roofline().total_ms([work(c_out=32)]))
    assert roofline(multiple=16).costs([work(c_out=24)])[0].share_of_tiles == pytest.approx(24 / 32)


def test_float_kernels_have_their_own_class_peak_and_width():
    slow = replace(roofline().floating, efficiency=0.25)
    mixed = replace(roofline(), floating=slow)
    assert mixed.total_ms([work(integer=False)]) == pytest.approx(4 * mixed.total_ms([work()]))


def test_missing_peak_of_the_device_profile_is_named():
    jetson = roofline_of(find_target("jetson"))
    assert jetson.missing(RESNET18) == ""
    assert "int8_tops" in replace(jetson, peaks={}).missing(RESNET18)
    assert "x86" in roofline_of(find_target("x86")).missing(RESNET18)


def test_every_target_has_its_classes():
    chosen = {name: roofline_of(find_target(name)) for name in ("jetson", "rtx", "raspberry-pi", "android", "cpu")}
    assert {name: found.integer.name for name, found in chosen.items()} == {
        "jetson": "jetson", "rtx": "card", "raspberry-pi": "arm_dot", "android": "arm_dot", "cpu": "x86_int8",
    }  # fmt: skip
    assert {name: found.gpu for name, found in chosen.items()} == {
        "jetson": True, "rtx": True, "raspberry-pi": False, "android": False, "cpu": False,
    }  # fmt: skip
    assert (chosen["rtx"].float_bytes, chosen["cpu"].float_bytes) == (2, 4)
    assert chosen["jetson"].multiple == 16


@settings(deadline=None)
@given(
    st.floats(1e-3, 1e4), st.floats(0, 300), st.floats(0, 20), st.floats(0, 5), st.floats(0, 10),
    st.one_of(st.none(), st.floats(1e8, 1e12)),
)  # fmt: skip
def test_calibrated_roofline_predicts_the_measured_latency(ms, balance, layer_us, call_ms, call_gops, bandwidth):
    given_ = roofline(
        peak=1e12, bandwidth=bandwidth, balance=balance, layer_us=layer_us, call_ms=call_ms, call_gops=call_gops
    )
    found = given_.calibrated(RESNET18, ms)
    assert found.total_ms(RESNET18) == pytest.approx(ms, rel=1e-3)
    assert found.total_ms(RESNET50) > ms


def test_calibrating_by_its_own_answer_changes_nothing():
    jetson = roofline_of(find_target("jetson"))
    found = jetson.calibrated(RESNET18, jetson.total_ms(RESNET18))
    assert found.slowness == pytest.approx(1)
    assert found.total_ms(RESNET50) == pytest.approx(jetson.total_ms(RESNET50))


def test_launches_stay_when_arithmetic_is_calibrated():
    """A device measured twice as slow launches no slower: the rest makes up for it."""
    found = roofline(peak=1e12, layer_us=10.0)
    twice = found.calibrated(RESNET18, 2 * found.total_ms(RESNET18))
    assert twice.fixed == 1
    launches = 23 * 0.01
    assert twice.slowness == pytest.approx(
        (2 * found.total_ms(RESNET18) - launches) / (found.total_ms(RESNET18) - launches)
    )


def test_without_a_peak_only_ratios_are_predicted():
    nobody_knows = replace(roofline_of(find_target("android")), peaks={}, bandwidth=None)
    found = nobody_knows.calibrated(RESNET18, 10.0)
    assert found.total_ms(RESNET18) == pytest.approx(10)
    assert 15 < found.total_ms(RESNET50) < 40


@pytest.mark.parametrize("ms", [0.0, -1.0, float("inf"), float("nan")])
def test_no_latency_no_calibration(ms):
    with pytest.raises(UsageError, match="milliseconds above zero"):
        roofline().calibrated(RESNET18, ms)


@pytest.mark.parametrize(
    ("device", "name", "measured"),
    [
        # MLPerf inference, closed, TensorRT INT8 SingleStream p50: v3.0 Orin_TRT, v3.0 Orin_NX_TRT, v2.0 Xavier_NX_TRT.
        ("jetson-agx-orin", "resnet50", 0.63),
        ("jetson-orin-nx", "resnet50", 1.085),
        ("jetson-xavier-nx", "resnet50", 2.434),
        # Tencent/ncnn benchmark, INT8, four threads.
        ("raspberry-pi", "resnet18", 16.74),
        ("raspberry-pi", "resnet50_v1", 40.75),
    ],
)
def test_public_measurements_lie_inside_the_band(device, name, measured):
    target = find_target(device)
    found = roofline_of(target)
    ratio = found.total_ms(of_graph(graph(PRESETS[name]), Size.square(224), integer=True)) / measured
    assert 1 / found.integer.uncalibrated.factor < ratio < found.integer.uncalibrated.factor
    assert ratio == pytest.approx(1, abs=0.35)


def test_kernel_classes_have_all_parameters():
    for name, kind in kernel_classes().items():
        assert kind.name == name
        assert kind.efficiency is None or 0 < kind.efficiency <= 1
        assert (kind.efficiency is None) is (kind.uncalibrated is None)
        assert 1 < kind.calibrated.factor < 2


def test_instructions_and_tensor_cores_decide_the_class():
    def classes(name, **profile):
        target = find_target(name)
        found = roofline_of(replace(target, device=replace(target.device, **profile)))
        return found.integer.name, found.floating.name

    assert classes("raspberry-pi", isa="neon") == ("arm_int8", "arm_fp32")
    assert classes("raspberry-pi", isa="i8mm") == ("arm_dot", "arm_fp32")
    assert classes("raspberry-pi", isa="avx512_vnni") == ("x86_int8", "x86_fp32")
    assert classes("raspberry-pi", isa=None) == ("npu", "npu")
    old = find_target("rtx")
    old = replace(old, device=replace(old.device, compute_capability="6.1"))
    assert "tensor cores" in roofline_of(old).missing(RESNET18)


@pytest.mark.parametrize(
    ("name", "precision", "floating", "width", "tops"),
    [
        ("jetson-orin-nano-super", "fp16", "jetson", 2, 16.71),
        ("jetson-orin-nano-super", "fp32", "jetson", 4, 16.71 / 2),  # TF32, on tensor cores
        ("jetson-xavier-nx", "int8", "jetson_xavier", 2, 6.758),
        ("jetson-xavier-nx", "fp32", "jetson_cuda", 4, 0.8448),
        ("jetson-nano", "fp16", "jetson_cuda", 2, 0.4719),
        ("rtx", "int8", "card", 2, None),
        ("rtx", "fp32", "card_float", 4, None),
        ("t4", "fp32", "card_float", 4, None),
        ("raspberry-pi", "fp16", "arm_fp16", 2, None),
        ("raspberry-pi", "fp32", "arm_fp32", 4, None),
        ("cpu", "int8", "x86_fp32", 4, None),
    ],
)
def test_the_precision_decides_class_width_and_peak_of_floats(name, precision, floating, width, tops):
    target = find_target(name)
    found = roofline_of(target, precision)
    assert (found.floating.name, found.float_bytes) == (floating, width)
    if tops is not None:
        assert found.peaks[width] == pytest.approx(1e12 * tops)
    if name == "t4":
        assert found.peaks[4] == pytest.approx(1e12 * target.device.fp32_tops)


def test_what_a_target_computes_floats_in():
    known = {
        name: float_precisions(find_target(name)) for name in ("jetson", "rtx", "raspberry-pi-4", "raspberry-pi", "x86")
    }
    assert known == {
        "jetson": ("fp16", "fp32"), "rtx": ("fp16", "fp32"), "raspberry-pi-4": ("fp32",),
        "raspberry-pi": ("fp32", "fp16"), "x86": ("fp32",),
    }  # fmt: skip


def test_pooled_prediction_errors_are_labelled():
    assert str(replace(MISSED, pooled=True)).endswith(
        "3 predictions on 4 chips left out of the fit, of related classes"
    )
    assert "related" not in str(MISSED)
