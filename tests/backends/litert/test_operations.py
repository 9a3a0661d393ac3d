"""Operations one by one, as other exporters write them, beside ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from interpreted import Sketch, answers, interpreter, names, written

from edgeres.backends.litert.tflite.translate import translate
from edgeres.errors import StageError


def pixels(*shape: int, count: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (count, *shape)).astype(np.float32)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)


def check(sketch: Sketch, atol: float = 1e-5, **kind) -> list[str]:
    """Compares a sketch in LiteRT with ONNX Runtime; returns the operators it became."""
    model, images = sketch.model(**kind), pixels(*sketch.shape)
    made = interpreter(model)
    np.testing.assert_allclose(answers(made, images), written(model, images), atol=atol)
    return names(made)


sides = st.integers(5, 12)


@settings(deadline=None, max_examples=40)
@given(
    height=sides, width=sides, kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)), pads=st.tuples(*[st.integers(0, 3)] * 4),
    dilation=st.integers(1, 2), groups=st.sampled_from([1, 2, 4]),
)  # fmt: skip
def test_any_window_of_a_convolution(height, width, kernel, stride, pads, dilation, groups):
    assume(min(height + pads[0] + pads[2], width + pads[1] + pads[3]) > dilation * 3)
    sketch = Sketch(4, height, width)
    weight = sketch.constant("weight", drawn(8, 4 // groups, *kernel))
    bias = sketch.constant("bias", drawn(8, seed=1))
    sketch.node("Conv", "out", "image", weight, bias, strides=stride, pads=pads, group=groups, dilations=[dilation] * 2)
    check(sketch)


@settings(deadline=None, max_examples=40)
@given(
    height=sides, width=sides, kernel=st.integers(2, 3), stride=st.integers(1, 3), ceil=st.booleans(),
    pads=st.tuples(*[st.integers(0, 1)] * 4), positive=st.booleans(), codes=st.booleans(),
)  # fmt: skip
def test_any_window_of_a_maximum(height, width, kernel, stride, ceil, pads, positive, codes):
    sketch = Sketch(4, height, width)
    data = sketch.node("Relu", "relu", "image") if positive else "image"
    data = sketch.pair(data, 0.03, 0 if positive else 110) if codes else data
    sketch.node("MaxPool", "out", data, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, ceil_mode=int(ceil))
    for side, before, behind in ((height, pads[0], pads[2]), (width, pads[1], pads[3])):
        count = (side + before + behind - kernel + ceil * (stride - 1)) // stride + 1
        if (count - 1) * stride >= side + before:
            with pytest.raises(StageError, match=r"^out: a pool over padding alone"):
                translate(sketch.model())
            return
    check(sketch)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("side", [8, 9])
def test_padding_by_name(auto, side):
    sketch = Sketch(3, side, side)
    sketch.node("Conv", "out", "image", sketch.constant("weight", drawn(4, 3, 3, 3)), strides=[2, 2], auto_pad=auto)
    assert ("PAD" in check(sketch)) == (auto == "SAME_LOWER" and side == 8)


@pytest.mark.parametrize("side", [8, 9])
def test_resnet_d_averages_on_its_shortcut(side):
    """torchvision-like ``AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)``, as timm's ResNet-D has it."""
    sketch = Sketch(3, side, side)
    pool = sketch.node(
        "AveragePool", "pool", "image", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=0
    )
    sketch.node("Conv", "out", pool, sketch.constant("weight", drawn(4, 3, 1, 1)))
    assert check(sketch) == ["AVERAGE_POOL_2D", "CONV_2D"]


def test_resnet_d_in_integers_averages_codes():
    sketch = Sketch(3, 8, 8)
    read = sketch.pair("image", 0.04, 120)
    pool = sketch.node("AveragePool", "pool", read, kernel_shape=[2, 2], strides=[2, 2])
    read = sketch.pair(pool, 0.02, 118)
    conv = sketch.node("Conv", "conv", read, sketch.weight("weight", drawn(4, 3, 1, 1)))
    sketch.node("Identity", "out", sketch.pair(conv, 0.02, 128))
    found = check(sketch, atol=0.061)  # three steps: the pool rounds on its input's grid, then on its own
    assert found == ["QUANTIZE", "AVERAGE_POOL_2D", "QUANTIZE", "CONV_2D", "DEQUANTIZE"]


@pytest.mark.parametrize(("counted", "found"), [(1, ["PAD", "AVERAGE_POOL_2D"]), (0, ["AVERAGE_POOL_2D"])])
def test_averages_over_padding(counted, found):
    sketch = Sketch(3, 7, 7)
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": counted}
    sketch.node("AveragePool", "out", "image", **window)
    assert check(sketch) == found


def test_an_average_that_counts_otherwise_is_refused():
    sketch = Sketch(3, 8, 8)
    sketch.node("AveragePool", "out", "image", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    with pytest.raises(StageError, match=r"^out: an average over padding"):
        translate(sketch.model())


def test_a_dilated_pool_is_refused():
    sketch = Sketch(3, 8, 8)
    sketch.node("MaxPool", "out", "image", kernel_shape=[2, 2], dilations=[2, 2])
    with pytest.raises(StageError, match=r"^out: a pool with dilation"):
        translate(sketch.model())


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolutions(multiplier):
    sketch = Sketch(8, 6, 6)
    read = sketch.pair("image", 0.04, 120)
    weight = sketch.weight("weight", drawn(8 * multiplier, 1, 3, 3))
    conv = sketch.node("Conv", "conv", read, weight, group=8, pads=[1, 1, 1, 1])
    bounds = sketch.constant("low", np.float32(0)), sketch.constant("high", np.float32(6))
    clipped = sketch.node("Clip", "clip", conv, *bounds)
    sketch.node("Identity", "out", sketch.pair(clipped, 6 / 255, 0))
    assert check(sketch, atol=6 / 255 + 1e-6) == ["QUANTIZE", "DEPTHWISE_CONV_2D", "DEQUANTIZE"]


def test_a_norm_between_sums_runs_in_float():
    """A network of order v2: the residual stream is summed on codes where both sides are, and normed in float."""
    sketch = Sketch(4, 5, 5)
    first, second = sketch.pair("image", 0.03, 128), sketch.pair(sketch.node("Relu", "relu", "image"), 0.02, 0)
    added = sketch.node("Add", "add", first, second)
    numbers = [sketch.constant(name, np.abs(drawn(4, seed=seed)) + 0.5) for seed, name in enumerate("gsmv")]
    sketch.node("Relu", "out", sketch.node("BatchNormalization", "norm", added, *numbers, epsilon=1e-3))
    assert check(sketch)[-4:] == ["ADD", "MUL", "ADD", "RELU"]


def test_sums_products_and_gates():
    sketch = Sketch(4, 5, 5)
    mean = sketch.node("ReduceMean", "mean", "image", axes=[2, 3], keepdims=1)
    gate = sketch.node("Sigmoid", "gate", mean)
    scaled = sketch.node("Mul", "scaled", "image", gate)
    shifted = sketch.node("Add", "shifted", scaled, sketch.constant("shift", drawn(4, 1, 1)))
    sketch.node("Mul", "out", shifted, sketch.constant("half", np.float32(0.5)))
    assert check(sketch) == ["MEAN", "LOGISTIC", "MUL", "ADD", "MUL"]


@pytest.mark.parametrize("scale", [0.001, 0.02])
def test_products_of_codes_that_enlarge_or_not(scale):
    """One that enlarges needs another version of the operator."""
    sketch = Sketch(4, 5, 5)
    first, second = sketch.pair("image", 0.03, 128), sketch.pair(sketch.node("Sigmoid", "gate", "image"), 1 / 255, 0)
    product = sketch.node("Mul", "product", first, second)
    sketch.node("Identity", "out", sketch.pair(product, scale * 0.03 / 0.06, 128))
    check(sketch, atol=scale + 1e-6)


def test_a_computed_bias_of_a_classifier_is_refused():
    sketch = Sketch(4, 1, 1)
    flat = sketch.node("Flatten", "flat", "image")
    bias = sketch.node("Gemm", "bias", flat, sketch.constant("other", drawn(4, 3, seed=1)))
    sketch.node("Gemm", "out", flat, sketch.constant("weight", drawn(4, 3)), bias)
    with pytest.raises(StageError, match="its bias is computed"):
        translate(sketch.model())


@pytest.mark.parametrize("channels", [1, 4])
def test_a_constant_map_is_added_to_the_channels(channels):
    sketch = Sketch(4, 5, 5)
    sketch.node("Add", "out", "image", sketch.constant("map", drawn(1, channels, 5, 5)))
    assert check(sketch)[-1] == "ADD"


def test_a_constant_of_another_shape_is_refused():
    sketch = Sketch(4, 5, 5)
    sketch.node("Add", "out", "image", sketch.constant("row", drawn(5)))
    with pytest.raises(StageError, match="constant 'row' of shape"):
        translate(sketch.model())


def test_densenet_concatenates_codes_on_one_grid():
    sketch = Sketch(4, 6, 6)
    relu = sketch.node("Relu", "relu", "image")
    joined = sketch.node("Concat", "joined", sketch.pair("image", 0.03, 128), sketch.pair(relu, 0.011, 0), axis=1)
    sketch.node("Identity", "out", sketch.pair(joined, 0.02, 120))
    assert check(sketch, atol=0.0201)[-5:] == ["QUANTIZE", "QUANTIZE", "QUANTIZE", "CONCATENATION", "DEQUANTIZE"]


def test_channels_are_padded_on_codes():
    sketch = Sketch(4, 6, 6)
    ends = sketch.constant("ends", np.array([0, 2, 0, 1, 0, 3, 1, 0], np.int64))
    sketch.node("Pad", "out", sketch.pair("image", 0.03, 100), ends)
    assert check(sketch) == ["QUANTIZE", "PAD", "DEQUANTIZE"]


def test_a_classifier_over_a_map_keeps_the_order_of_its_features():
    sketch = Sketch(4, 3, 2)
    flat = sketch.node("Flatten", "flat", "image", axis=1)
    weight, bias = sketch.constant("weight", drawn(24, 5)), sketch.constant("bias", drawn(5))
    logits = sketch.node("Gemm", "logits", flat, weight, bias)
    sketch.node("Softmax", "out", logits, axis=-1)
    assert check(sketch) == ["TRANSPOSE", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX"]


def test_matmul_and_add_are_a_classifier_too():
    sketch = Sketch(6, 4, 4)
    pool = sketch.node("GlobalAveragePool", "pool", "image")
    flat = sketch.node("Reshape", "flat", pool, sketch.constant("shape", np.array([0, -1], np.int64)))
    product = sketch.node("MatMul", "product", flat, sketch.constant("weight", drawn(6, 5)))
    sketch.node("Relu", "out", product)
    assert check(sketch) == ["MEAN", "RESHAPE", "FULLY_CONNECTED"]


def test_a_sum_that_others_read_before_its_relu_keeps_it_apart():
    sketch = Sketch(4, 5, 5)
    conv = sketch.node("Conv", "conv", "image", sketch.constant("weight", drawn(4, 4, 1, 1)))
    relu = sketch.node("Relu", "relu", conv)
    sketch.node("Add", "out", conv, relu)
    assert check(sketch) == ["CONV_2D", "RELU", "ADD"]


@pytest.mark.parametrize("quantized", [False, True])
def test_blocks_of_pixels_become_channels_in_the_order_of_onnx(quantized):
    sketch = Sketch(3, 6, 8)
    read = sketch.pair("image", 0.03, 128) if quantized else "image"
    blocks = sketch.node("SpaceToDepth", "blocks", read, blocksize=2)
    sketch.node("Flatten", "out", sketch.pair(blocks, 0.03, 128) if quantized else blocks)
    assert check(sketch).count("SPACE_TO_DEPTH") == 1


def test_a_tensor_read_on_two_grids_is_computed_in_float():
    sketch = Sketch(4, 5, 5)
    conv = sketch.node("Conv", "conv", sketch.pair("image", 0.03, 128), sketch.weight("weight", drawn(4, 4, 1, 1)))
    one = sketch.pair(conv, 0.05, 128)
    scale, zero = sketch.constant("s", np.float32(0.021)), sketch.constant("z", np.uint8(100))
    codes = sketch.node("QuantizeLinear", "codes", conv, scale, zero)
    sketch.node("Add", "out", one, sketch.node("DequantizeLinear", "other", codes, scale, zero))
    # float sums of the convolution come in another order: now and then a code is the next one
    assert check(sketch, atol=0.072).count("CONV_2D") == 1


def test_onnxruntimes_own_form_of_biases_and_unsigned_weights():
    """quantize_static writes biases as int32 behind DequantizeLinear; other tools store weights as uint8 about 128."""
    sketch = Sketch(4, 5, 5)
    read, value = sketch.pair("image", 0.03, 128), drawn(4, 4, 1, 1)
    scale = (np.abs(value).reshape(4, -1).max(1) / 127).astype(np.float32)
    codes = (np.rint(value / scale.reshape(-1, 1, 1, 1)) + 128).astype(np.uint8)
    weight = sketch.node(
        "DequantizeLinear", "weight", sketch.constant("codes", codes), sketch.constant("scale", scale),
        sketch.constant("zero", np.full(4, 128, np.uint8)), axis=0,
    )  # fmt: skip
    biases = sketch.constant("biases", np.array([100, -200, 300, 0], np.int32))
    steps = sketch.constant("steps", scale * np.float32(0.03))
    bias = sketch.node("DequantizeLinear", "bias", biases, steps, axis=0)
    conv = sketch.node("Conv", "conv", read, weight, bias)
    sketch.node("Identity", "out", sketch.pair(conv, 0.05, 128))
    assert check(sketch, atol=0.0501) == ["QUANTIZE", "CONV_2D", "DEQUANTIZE"]
    tensors = {tensor.name: tensor.value for tensor in translate(sketch.model()).tensors}
    np.testing.assert_array_equal(tensors["conv.bias"], [100, -200, 300, 0])


def test_weights_in_float_before_quantizelinear_get_its_codes():
    """The form that TensorRT before 8.5 takes."""
    sketch = Sketch(4, 5, 5)
    value = drawn(4, 4, 1, 1)
    scale = sketch.constant("scale", (np.abs(value).reshape(4, -1).max(1) / 127).astype(np.float32))
    zero = sketch.constant("zero", np.zeros(4, np.int8))
    codes = sketch.node("QuantizeLinear", "codes", sketch.constant("value", value), scale, zero, axis=0)
    weight = sketch.node("DequantizeLinear", "weight", codes, scale, zero, axis=0)
    conv = sketch.node("Conv", "conv", sketch.pair("image", 0.03, 128), weight)
    sketch.node("Identity", "out", sketch.pair(conv, 0.05, 128))
    assert check(sketch, atol=0.0501) == ["QUANTIZE", "CONV_2D", "DEQUANTIZE"]


@pytest.mark.parametrize(
    ("codes", "zero", "axis", "said"),
    [
        (np.full((4, 4, 1, 1), -128, np.int8), np.zeros(4, np.int8), 0, "codes up to 128"),
        (np.full((4, 4, 1, 1), 127, np.int8), np.full(4, -3, np.int8), 0, "codes up to 130"),
        (np.ones((4, 4, 1, 1), np.int8), np.zeros(4, np.int8), 1, "do not count output channels"),
    ],
)
def test_weights_on_no_grid_of_litert_are_refused(codes, zero, axis, said):
    sketch = Sketch(4, 5, 5)
    weight = sketch.node(
        "DequantizeLinear", "weight", sketch.constant("codes", codes), sketch.constant("scale", np.ones(4, np.float32)),
        sketch.constant("zero", zero), axis=axis,
    )  # fmt: skip
    conv = sketch.node("Conv", "conv", sketch.pair("image", 0.03, 128), weight)
    sketch.node("Identity", "out", sketch.pair(conv, 0.05, 128))
    with pytest.raises(StageError, match=f"^conv: .*{said}"):
        translate(sketch.model())


def test_activations_of_sixteen_bits_are_refused():
    sketch = Sketch(4, 5, 5)
    sketch.node("Relu", "out", sketch.pair("image", 0.03, 0, np.uint16))
    with pytest.raises(StageError, match="activations of type uint16"):
        translate(sketch.model(opset=21))


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (-0.5, None), (None, 0.25), (0, 0.5)])
def test_a_clip_to_any_bounds(low, high):
    sketch = Sketch(4, 5, 5)
    bounds = [
        "" if bound is None else sketch.constant(name, np.float32(bound))
        for name, bound in (("low", low), ("high", high))
    ]
    sketch.node("Clip", "out", "image", *bounds)
    check(sketch)


def test_a_clip_to_computed_bounds_is_refused():
    sketch = Sketch(4, 5, 5)
    sketch.node("ReduceMax", "most", "image", keepdims=0)
    sketch.node("Clip", "out", "image", "", "most")
    with pytest.raises(StageError, match=r"^most: a reduction over \(0, 1, 2, 3\)"):
        translate(sketch.model())


@pytest.mark.parametrize(
    ("kind", "axes", "keep"),
    [("ReduceSum", [1], 1), ("ReduceL2", [1], 1), ("ReduceMax", [2, 3], 0), ("ReduceMin", [-1], 1)],
)
def test_reductions(kind, axes, keep):
    sketch = Sketch(4, 5, 6)
    if kind == "ReduceSum":
        sketch.node(kind, "out", "image", sketch.constant("axes", np.array(axes, np.int64)), keepdims=keep)
    else:
        sketch.node(kind, "out", "image", axes=axes, keepdims=keep)
    check(sketch)


def test_a_reduction_that_leaves_axes_in_another_order_is_refused():
    sketch = Sketch(4, 5, 6)
    sketch.node("ReduceMax", "out", "image", axes=[1], keepdims=0)
    with pytest.raises(StageError, match=r"^out: a reduction over \(1,\)"):
        translate(sketch.model())


@pytest.mark.parametrize("form", ["torch", "sum of squares"])
def test_an_embedding_is_normalised_as_exporters_write_it(form):
    """``torch.nn.functional.normalize``, and Keras' ``l2_normalize``."""
    sketch = Sketch(4, 3, 3)
    rows = sketch.node("Flatten", "rows", "image")
    if form == "torch":
        sketch.node("ReduceL2", "norm", rows, axes=[1], keepdims=1)
        sketch.node("Clip", "least", "norm", sketch.constant("epsilon", np.float32(1e-12)))
        sketch.node("Expand", "norms", "least", sketch.constant("shape", np.array([1, 36], np.int64)))
        sketch.node("Div", "out", rows, "norms")
    else:
        sketch.node("Mul", "squares", rows, rows)
        sketch.node("ReduceSum", "total", "squares", sketch.constant("axes", np.array([1], np.int64)))
        sketch.node("Max", "least", "total", sketch.constant("epsilon", np.float32(1e-12)))
        sketch.node("Sqrt", "norm", "least")
        sketch.node("Div", "out", rows, "norm")
    check(sketch)
