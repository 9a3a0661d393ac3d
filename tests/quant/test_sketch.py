import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_histogram import histogram_of

from edgeres.errors import UsageError
from edgeres.quant.qparams import QParams
from edgeres.quant.quant_table import COLUMNS, QuantTable, Sketch, sketch, with_sketches
from edgeres.settings import parse, plain


def drawn(values):
    return histogram_of(np.asarray(values, dtype=np.float32).reshape(1, -1))


def test_shares_and_columns_by_hand():
    # Scale 1 on int8: 200 lies beyond 127.5 and is clipped to 127, 127.25 is not clipped.
    found = sketch(drawn([0.0] * 5 + [1.0, 2.0, 127.25, 200.0, -3.0]), QParams(scale=(1.0,)))
    assert (found.low, found.high) == (-3.0, 200.0)
    assert found.zeros == 0.5
    assert found.clipped == 0.1
    assert sum(found.columns) == 5
    assert len(found.columns) == COLUMNS
    assert found.columns[-1] == 1


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.01, 0.03, 0.2]), st.booleans())
def test_noise_is_that_of_the_values_themselves(seed, scale, signed):
    values = np.random.default_rng(seed).normal(0.5, 1.0, 4000).astype(np.float32)
    params = QParams(scale=(scale,), signed=signed, zero_point=0 if signed else 100)
    noise = np.sum((values - params.dequantize(params.quantize(values))).astype(np.float64) ** 2)
    wanted = 10 * math.log10(np.sum(values.astype(np.float64) ** 2) / noise)
    assert sum(sketch(drawn(values), params).columns) == np.count_nonzero(values)
    assert sketch(drawn(values), params).sqnr_db == pytest.approx(wanted, abs=0.15)


def test_uniform_values_reach_the_closed_form():
    # Rounding noise of a step s is s^2 / 12, the power of uniform values on [0, 1] is 1/3.
    values = (np.arange(100_000) + 0.5) / 100_000
    found = sketch(drawn(values), QParams(scale=(1 / 255,), signed=False))
    assert found.sqnr_db == pytest.approx(10 * math.log10((1 / 3) / (1 / 255**2 / 12)), abs=0.05)
    assert found.clipped == 0.0


def test_a_tensor_of_zeros_has_no_noise():
    found = sketch(drawn(np.zeros(10)), QParams(scale=(1.0,)))
    assert (found.zeros, found.clipped, found.sqnr_db, sum(found.columns)) == (1.0, 0.0, None, 0)


def test_order_and_shards_change_nothing():
    values = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    params = QParams(scale=(0.02,))
    whole = sketch(drawn(values), params)
    halves = drawn(values[:300]).merged(drawn(values[300:]))
    assert sketch(halves, params) == whole


def table(**scales):
    activations = {name: QParams(scale=(scale,)) for name, scale in scales.items()}
    return QuantTable(activations=activations, weights={}, calibrator="minmax", data="", images=1)


def test_a_table_gets_a_sketch_of_every_tensor_that_was_seen():
    seen = drawn([0.5, -1.0, 2.0])
    found = with_sketches(table(image=0.1, relu=0.2), {"image": seen, "elsewhere": seen})
    assert found.sketches == {"image": sketch(seen, QParams(scale=(0.1,)))}
    assert parse(QuantTable, plain(found), "x") == found


@given(st.sampled_from([0.1, 0.3]), st.sampled_from([0, 3]))
def test_no_sketch_outlives_its_scale(scale, zero_point):
    first = with_sketches(table(image=0.1, relu=0.2), dict.fromkeys(("image", "relu"), drawn([0.5, 2.0])))
    moved = QParams(scale=(scale,), zero_point=zero_point)
    changed = replace(first, activations={**first.activations, "image": moved})
    kept = (scale, zero_point) == (0.1, 0)
    assert set(changed.sketches) == ({"image", "relu"} if kept else {"relu"})
    assert set(replace(first, activations={"relu": first.activations["relu"]}).sketches) == {"relu"}
    assert changed.sketches["relu"] == first.sketches["relu"]


def test_a_sketch_again_is_of_the_new_scale():
    seen = {"image": drawn([0.5, 100.0])}
    first = with_sketches(table(image=1.0), seen)
    again = with_sketches(replace(first, activations={"image": QParams(scale=(0.1,))}), seen)
    assert first.sketches["image"].clipped == 0
    assert again.sketches["image"].clipped == 0.5


@pytest.mark.parametrize("wrong", [{"columns": (1,) * 47}, {"clipped": 1.5}, {"zeros": -0.1}, {"low": 3.0}])
def test_what_is_no_sketch_is_refused(wrong):
    good = plain(sketch(drawn([0.0, 1.0]), QParams(scale=(0.1,))))
    with pytest.raises(UsageError):
        parse(Sketch, {**good, **wrong}, "x")
