from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.model.graph import graph
from edgeres.model.spec import PRESETS
from edgeres.model.weights import Weights
from edgeres.onnxfile.write import write_model
from edgeres.roofline import CARD, CPU, JETSON, predict, prior_of
from edgeres.target import find_target


def float_model(name, side=224):
    spec = replace(PRESETS[name], norm=False)
    weights = Weights({key: np.zeros(shape, np.float32) for key, shape in graph(spec).parameters.items()})
    return write_model(spec, weights, (side, side), opset=17, ir_version=8)


def convolution(channels, out, side, *, quantized):
    """One 1x1 convolution ``[1,channels,side,side]``, in float or behind Q/DQ."""
    codes, floats = np.zeros((out, channels, 1, 1), np.int8), np.zeros((out, channels, 1, 1), np.float32)
    constants = {"s": np.float32(1).reshape(()), "z": np.int8(0).reshape(()), "codes": codes, "floats": floats}
    nodes = [helper.make_node("Conv", ["x" if quantized else "image", "w" if quantized else "floats"], ["y"])]
    if quantized:
        nodes[:0] = [
            helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
            helper.make_node("DequantizeLinear", ["codes", "s", "z"], ["w"]),
        ]
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", channels, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", out, side, side])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)])


def target(name="jetson", **profile):
    found = find_target(name)
    return replace(found, device=replace(found.device, **profile))


def test_a_layer_bound_by_arithmetic_in_closed_form():
    slow = target(int8_tops=1e-3, bandwidth_gbs=1e6)
    found = predict(convolution(64, 32, 10, quantized=True), slow)
    macs = 64 * 32 * 100
    assert found.ms == pytest.approx(1e3 * (2 * macs / (JETSON.efficiency * 1e9) + JETSON.overhead_us * 1e-6))


def test_a_layer_bound_by_memory_in_closed_form():
    starved = target(int8_tops=1e6, bandwidth_gbs=1e-3)
    found = predict(convolution(64, 32, 10, quantized=True), starved)
    moved = 64 * 100 + 64 * 32 + 32 * 100
    assert found.ms == pytest.approx(1e3 * (moved / 1e6 + JETSON.overhead_us * 1e-6))
    in_float = predict(convolution(64, 32, 10, quantized=False), target(fp16_tops=1e6, bandwidth_gbs=1e-3))
    assert in_float.ms == pytest.approx(1e3 * (2 * moved / 1e6 + JETSON.overhead_us * 1e-6))


def test_arithmetic_decides_the_peak():
    integer, floating = convolution(64, 64, 20, quantized=True), convolution(64, 64, 20, quantized=False)
    only_integers = target(int8_tops=1.0, fp16_tops=None)
    assert predict(integer, only_integers) is not None
    assert predict(floating, only_integers) is None
    pi = target("raspberry-pi", fp16_tops=None)
    assert predict(floating, pi).ms == pytest.approx(
        1e3 * 2 * 64 * 64 * 400 / (CPU.efficiency * pi.device.fp32_tops * 1e12)
    )


def test_a_profile_without_figures_predicts_nothing():
    model = convolution(8, 8, 4, quantized=True)
    assert predict(model, find_target("x86")) is None
    assert predict(model, target(bandwidth_gbs=None)) is None


def test_every_class_of_device_has_its_prior():
    assert prior_of(find_target("jetson")) is JETSON
    assert prior_of(find_target("rtx")) is CARD
    assert prior_of(find_target("raspberry-pi")) is CPU


@pytest.mark.parametrize(("name", "layers"), [("resnet18", 23), ("resnet50", 56)])
def test_layers_are_convolutions_products_and_pools(name, layers):
    """With endless peaks only the overhead is left, once per layer, as the priors were fitted."""
    endless = target(fp16_tops=1e9, bandwidth_gbs=1e9)
    assert predict(float_model(name), endless).ms == pytest.approx(layers * JETSON.overhead_us * 1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("device", "name", "measured"),
    [
        # MLPerf inference, closed, TensorRT INT8 SingleStream p50: v3.0 Orin_TRT, v3.0 Orin_NX_TRT, v2.0 Xavier_NX_TRT.
        ("jetson-agx-orin", "resnet50", 0.63),
        ("jetson-orin-nx", "resnet50", 1.085),
        ("jetson-xavier-nx", "resnet50", 2.434),
        # Tencent/ncnn benchmark, INT8, four threads.
        ("raspberry-pi", "resnet18", 16.74),
        ("raspberry-pi", "resnet50", 40.75),
    ],
)
def test_public_measurements_lie_inside_the_band(device, name, measured):
    """The float graph at the integer peak and as many numbers a second: the same network in INT8 throughout."""
    found = find_target(device)
    tops, bandwidth = found.device.int8_tops, found.device.bandwidth_gbs * prior_of(found).float_bytes
    profile = replace(found.device, fp16_tops=tops, fp32_tops=tops, bandwidth_gbs=bandwidth)
    as_integers = replace(found, device=profile)
    prediction = predict(float_model(name), as_integers)
    assert prediction.low_ms < measured < prediction.high_ms
    assert prediction.ms == pytest.approx(measured, rel=0.35)


def test_the_words_hold_figure_band_and_reservation():
    words = str(predict(convolution(64, 64, 20, quantized=True), find_target("jetson")))
    assert words.startswith("a roofline expects ")
    assert "between" in words
    assert "31 % (median)" in words
    assert "MLPerf" in words
