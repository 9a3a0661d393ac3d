"""Scales and codes on the grids of LiteRT's kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import Sketch, answers, interpreter, written

from edgeres.backends.litert.tflite.tensor_table import Codes, with_room_for_bias
from edgeres.quant.qparams import LIMIT, PEAK


def codes(values, scale):
    return Codes(np.array(values, np.int32).reshape(len(scale), -1, 1, 1), np.array(scale, np.float32))


def test_a_bias_that_fits_changes_no_code_and_no_scale():
    given_codes = codes([[127, -127], [5, 3]], [0.01, 0.002])
    fitted, bias = with_room_for_bias(given_codes, np.array([0.5, -0.25], np.float32), 0.02)
    np.testing.assert_array_equal(fitted.values, given_codes.values)
    np.testing.assert_array_equal(fitted.scale, given_codes.scale)
    np.testing.assert_array_equal(bias, [2500, -6250])


@settings(deadline=None)
@given(
    bias=st.floats(-50, 50, width=32), exponent=st.integers(-60, -1), step=st.floats(2.0**-20, 1.0, width=32),
    values=st.lists(st.integers(-127, 127), min_size=1, max_size=8),
)  # fmt: skip
def test_any_bias_gets_room_and_weights_move_by_half_a_step_at_most(bias, exponent, step, values):
    made = codes([values], [2.0**exponent])
    fitted, code = with_room_for_bias(made, np.array([bias], np.float32), step)
    assert np.abs(code).max() + PEAK * np.abs(fitted.values).sum() <= 1.001 * LIMIT
    assert np.abs(fitted.values).max() <= 127
    moved = np.abs(fitted.real.astype(np.float64) - made.real.astype(np.float64)).max()
    reach = PEAK * np.abs(made.real.astype(np.float64)).sum() + abs(bias) / step
    assert moved <= 1.01 * reach / (2 * LIMIT)
    told = code[0] * step * float(fitted.scale[0])
    assert abs(told - bias) <= 0.5001 * step * float(fitted.scale[0]) + 1e-12


@pytest.mark.parametrize("scale", [1e-14, 2.0**-60])
def test_an_emptied_channel_still_answers_its_bias(scale):
    """At its own scale the bias would need 40 bits and more, and int32 would wrap."""
    sketch = Sketch(2, 4, 4)
    weight = sketch.node(
        "DequantizeLinear", "weight", sketch.constant("codes", np.full((2, 2, 1, 1), 3, np.int8)),
        sketch.constant("scale", np.array([scale, 0.01], np.float32)), sketch.constant("zero", np.zeros(2, np.int8)),
        axis=0,
    )  # fmt: skip
    conv = sketch.node(
        "Conv",
        "conv",
        sketch.pair("image", 0.03, 128),
        weight,
        sketch.constant("bias", np.array([1.5, 0.5], np.float32)),
    )
    sketch.node("Identity", "out", sketch.pair(conv, 0.02, 100))
    model, images = sketch.model(), np.random.default_rng(0).normal(0, 1, (2, 2, 4, 4)).astype(np.float32)
    found = answers(interpreter(model), images)
    np.testing.assert_allclose(found, written(model, images), atol=0.0201)
    np.testing.assert_allclose(found[:, 0], 1.5, atol=0.0101)
