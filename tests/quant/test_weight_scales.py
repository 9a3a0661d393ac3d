from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeres.errors import ModelError
from edgeres.quant.qparams import SMALLEST, QParams, weight_qparams

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


def errors(weight: Floats, params: QParams) -> NDArray[np.float64]:
    rounded = params.dequantize(params.quantize(weight)).astype(np.float64)
    return ((weight - rounded) ** 2).reshape(len(weight), -1).sum(axis=1)


def drawn(name: str, shape: tuple[int, ...], seed: int = 0) -> Floats:
    generator = np.random.default_rng(seed)
    values = {
        "gaussian": generator.standard_normal(shape),
        "laplace": generator.laplace(size=shape),
        "heavy": generator.standard_t(3, size=shape),
    }[name]
    return values.astype(np.float32)


def test_max_scales_computed_by_hand() -> None:
    weight = np.array([[1.27, -0.5], [0.1, -2.54]], dtype=np.float32).reshape(2, 2, 1, 1)
    params = weight_qparams(weight, 8, "max")
    peaks = np.array([1.27, 2.54], dtype=np.float32).astype(np.float64)
    assert params.scale == tuple((peaks / 127).astype(np.float32).tolist())
    assert (params.axis, params.zero_point, params.bits, params.signed, params.narrow) == (0, 0, 8, True, True)
    assert params.quantize(weight).ravel().tolist() == [127, -50, 5, -127]


@pytest.mark.parametrize("method", ["mse", "max"])
def test_an_empty_channel_has_a_harmless_scale(method: str) -> None:
    weight = np.zeros((3, 2, 3, 3), dtype=np.float32)
    weight[1] = 0.5
    weight[2] = 1e-42
    scale = weight_qparams(weight, 8, method).scale
    assert scale[0] == 1.0
    assert scale[2] == SMALLEST
    assert all(float(np.float32(value)) == value for value in scale)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "heavy"])
@pytest.mark.parametrize(
    ("bits", "shape"), [(8, (16, 32, 3, 3)), (4, (16, 32, 3, 3)), (8, (10, 512)), (8, (4, 9000, 3, 3))]
)
def test_mse_is_as_good_as_a_dense_search(name: str, bits: int, shape: tuple[int, ...]) -> None:
    weight = drawn(name, shape)
    found = errors(weight, weight_qparams(weight, bits, "mse"))
    peaks = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    top = 2 ** (bits - 1) - 1
    dense = np.array(
        [
            errors(weight, QParams(scale=tuple((peaks * share / top).tolist()), bits=bits, axis=0, narrow=True))
            for share in np.linspace(0.125, 1, 120 if weight.size < 10**5 else 30)
        ]
    ).min(axis=0)
    assert (found <= 1.05 * dense).all()
    assert found.sum() <= 1.01 * dense.sum()


@given(hnp.arrays(np.float32, (3, 8), elements=st.floats(-100, 100, width=32)), st.sampled_from([2, 4, 8]))
def test_mse_never_loses_to_max(weight: Floats, bits: int) -> None:
    best, plain = (errors(weight, weight_qparams(weight, bits, method)) for method in ("mse", "max"))
    assert (best <= plain * (1 + 1e-5) + 1e-12).all()


@given(hnp.arrays(np.float32, (2, 3, 3, 3), elements=st.floats(-10, 10, width=32)))
def test_max_rounds_within_half_a_step_and_never_to_the_lowest_code(weight: Floats) -> None:
    params = weight_qparams(weight, 8, "max")
    codes = params.quantize(weight)
    assert np.abs(codes).max() <= 127
    assert (np.abs(params.dequantize(codes) - weight) <= params.scales(4) * 0.5001).all()


def test_channels_do_not_see_each_other() -> None:
    weight = drawn("heavy", (40, 64, 3, 3))
    whole = weight_qparams(weight, 8, "mse").scale
    alone = [weight_qparams(weight[i : i + 1], 8, "mse").scale[0] for i in range(40)]
    assert list(whole) == alone


def test_swapped_scales_would_be_noticed() -> None:
    weight = drawn("gaussian", (2, 100)) * np.array([[1.0], [30.0]], dtype=np.float32)
    params = weight_qparams(weight, 8, "mse")
    swapped = QParams(scale=params.scale[::-1], axis=0, narrow=True)
    assert errors(weight, swapped).sum() > 100 * errors(weight, params).sum()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    weight = np.ones((2, 3), dtype=np.float32)
    weight[1, 2] = bad
    with pytest.raises(ModelError, match="NaN or infinite"):
        weight_qparams(weight, 8, "mse")
