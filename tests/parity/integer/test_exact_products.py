"""Products and rounding, each against plain Python integers and fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.onnx_graph.graph_index import WindowAttributes
from edgeres.parity.integer.kernel import EXACT, Kernel, pieces
from edgeres.parity.integer.operations import average, largest
from edgeres.parity.integer.value import Exact, Term, constant, requantize
from edgeres.quant.qparams import PEAK, QParams


def test_dot_product_is_split_where_float32_would_round():
    long = np.full((4 * 520, 1), 127, np.float32)  # 255 * 127 * 518 is the last sum below 2**24
    cuts = pieces(long)
    assert [end - start for start, end in cuts[:-1]] == [EXACT // (PEAK * 127)] * (len(cuts) - 1)
    assert (cuts[0][0], cuts[-1][1]) == (0, len(long))
    rows = np.full((1, len(long)), PEAK, np.float32)
    assert Kernel.of(long.T.astype(np.int8), None)(rows).item() == PEAK * 127 * len(long)
    assert len(pieces(np.full((518, 1), 127, np.float32))) == 1


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    groups=st.sampled_from([1, 2]),
    stride=st.sampled_from([1, 2]),
    size=st.sampled_from([(1, 1), (3, 3), (3, 1)]),
    dilation=st.sampled_from([1, 2]),
)
def test_convolutions_are_those_of_whole_numbers(seed, groups, stride, size, dilation):
    random = np.random.default_rng(seed)
    x = random.integers(-PEAK, PEAK, (2, 7, 6, 4), endpoint=True)
    weight = random.integers(-127, 127, (6, 4 // groups, *size), endpoint=True)
    window = WindowAttributes(size, (stride, stride), (1, 2, 1, 0), (dilation, dilation))
    found = Kernel.of(weight.astype(np.int8), window, groups)(x.astype(np.float32))
    padded = np.pad(x, ((0, 0), (1, 1), (2, 0), (0, 0)))
    rows = range(0, padded.shape[1] - dilation * (size[0] - 1), stride)
    columns = range(0, padded.shape[2] - dilation * (size[1] - 1), stride)
    assert found.shape == (2, len(rows), len(columns), 6)
    share = 6 // groups
    for out in (0, 5):
        channels = slice(out // share * (4 // groups), (out // share + 1) * (4 // groups))
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                area = padded[:, top : top + dilation * size[0] : dilation, left : left + dilation * size[1] : dilation]
                area = area[:, : size[0], : size[1], channels].transpose(0, 3, 1, 2)
                assert found[:, i, j, out].tolist() == (area * weight[out]).sum(axis=(1, 2, 3)).tolist()


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=40),
    scale=st.floats(2.0**-20, 2.0**-4, width=32),
    weight=st.sampled_from([0.25, 0.1, 2.0**-7]),
    step=st.sampled_from([0.5, 0.3, 2.0**-6]),
    bias=st.sampled_from([0.0, 0.75, -0.1]),
    over=st.sampled_from([1, 7, 16]),
    zero=st.integers(0, 255),
)
def test_every_code_is_that_of_rational_numbers(counts, scale, weight, step, bias, over, zero):
    bias, step, product = (np.float32(bias), float(np.float32(step)), float(np.float32(weight)) * scale)
    term = Term(np.array(counts, np.float64).reshape(-1, 1), np.array([product]), np.array([2.0**20]), 1, over)
    value = Exact((term, constant(np.array([bias]))))
    found = requantize(value, QParams(scale=(step,), zero_point=zero, signed=False))
    for count, code in zip(counts, found.reshape(-1).tolist(), strict=True):
        exact = (count * Fraction(product) / over + Fraction(float(bias))) / Fraction(step)
        assert code == min(255, max(0, round(exact) + zero))


def test_many_exact_ties_round_to_even():
    codes = np.arange(256, dtype=np.float64).repeat(400).reshape(-1, 16)
    value = Exact((Term(codes, np.asarray(1.0), np.asarray(255.0)),))
    found = requantize(value, QParams(scale=(2.0,), signed=False))
    assert (found.reshape(-1)[::400] == np.rint(np.arange(256) / 2)).all()


def test_pools_of_whole_numbers_stay_whole():
    x = np.arange(2 * 5 * 5 * 3, dtype=np.float32).reshape(2, 5, 5, 3)
    window = WindowAttributes((3, 3), (2, 2), (1, 1, 1, 1))
    assert largest(x, window, -np.inf).shape == (2, 3, 3, 3)
    assert largest(x, window, -np.inf)[0, 0, 0].tolist() == x[0, :2, :2].max(axis=(0, 1)).tolist()
    value = Exact((Term(x, np.asarray(0.5), np.asarray(255.0)), constant(np.ones(3, np.float32))))
    pooled = average(value, None)
    assert pooled.terms[0].over == 25
    assert np.allclose(pooled.approximate(), x.mean(axis=(1, 2), keepdims=True) * 0.5 + 1)
    by_two = average(value, WindowAttributes((2, 2), (2, 2)))
    assert np.allclose(by_two.approximate()[0, 0, 0], x[0, :2, :2].mean(axis=(0, 1)) * 0.5 + 1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_bound_holds_for_float32_sums_in_any_order(share):
    random = np.random.default_rng(4)
    weight = random.integers(-127, 127, (4, 300), endpoint=True)
    x = random.integers(0, 255, (50, 300)).astype(np.float32)
    kernel, scale = (
        Kernel.of(weight.astype(np.int8), None),
        np.full(4, float(np.float32(0.013)) * float(np.float32(0.7))),
    )
    term = Term(kernel(x), scale, kernel.reach, kernel.length)
    order = random.permutation(300) if share else np.arange(300)
    dequantized = (x * np.float32(0.7))[:, order], (weight * np.float32(0.013)).astype(np.float32)[:, order]
    sums = np.zeros((50, 4), np.float32)
    for place in range(300):
        sums += dequantized[0][:, place : place + 1] * dequantized[1][:, place]
    assert (np.abs(sums - term.approximate()) <= Exact((term,)).error()).all()
