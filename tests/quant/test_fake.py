import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams
from edgeres.quant.quant_table import QuantTable
from edgeres.quant.quantized import QuantNetwork, fake_quantize, quantized_weights

floats = hnp.arrays(np.float32, 16, elements=st.floats(-40, 40, width=32))


@given(floats, st.floats(0.015625, 0.5, width=32), st.integers(-128, 127))
def test_torch_and_numpy_round_alike(x, scale, zero_point):
    params = QParams(scale=(scale,), zero_point=zero_point)
    expected = params.dequantize(params.quantize(x))
    assert np.array_equal(fake_quantize(torch.from_numpy(x), params).numpy(), expected)


@given(floats, st.floats(0.015625, 0.5, width=32))
def test_error_is_half_a_step_inside_the_range(x, scale):
    params = QParams(scale=(scale,))
    inside = np.abs(x) <= scale * 127
    error = np.abs(params.dequantize(params.quantize(x)) - x)
    assert np.all(error[inside] <= scale / 2 * (1 + 1e-5))


def test_halves_round_to_even():
    params = QParams(scale=(1.0,))
    assert params.quantize(np.float32([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0, 2, 2, 0, -2]


def test_ranges():
    assert (QParams(scale=(1.0,)).low, QParams(scale=(1.0,)).high) == (-128, 127)
    assert (QParams(scale=(1.0,), narrow=True).low, QParams(scale=(1.0,), signed=False).high) == (-127, 255)
    assert (QParams(scale=(1.0,), signed=False).low, QParams(scale=(1.0,), bits=4, narrow=True).low) == (0, -7)


def table(spec, weights, scheme, images):
    """Min-max scales of a few images."""
    placement = place(graph(spec), scheme)
    seen = {}
    network = Network(graph(spec), weights).eval()
    with torch.no_grad():
        network(images, tap=lambda name, x: seen.__setitem__(name, (min(x.min().item(), 0.0), x.max().item())))
    activations = {}
    for tensor in placement.tensors:
        low, high = seen[placement.shared.get(tensor, tensor)]
        if scheme.signed:
            activations[tensor] = QParams(scale=(float(np.float32(max(high, -low) / 127)),))
        else:
            step = float(np.float32((high - low) / 255))
            activations[tensor] = QParams(scale=(step,), zero_point=round(-low / step), signed=False)
    rows = {
        name: np.abs(weights[f"{name}.weight"]).reshape(len(weights[f"{name}.weight"]), -1).max(1)
        for name in placement.weighted
    }
    scales = {name: tuple(float(np.float32(value / 127)) for value in row) for name, row in rows.items()}
    weight = {name: QParams(scale=scale, axis=0, narrow=True) for name, scale in scales.items()}
    return QuantTable(
        activations=activations, weights=weight, calibrator="minmax", data="0", images=len(images)
    ), placement


def test_quantized_network_is_near_float_and_not_equal(thin, thin_weights, scheme):
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    scales, placement = table(thin, thin_weights, scheme, images)
    with torch.no_grad():
        expected = Network(graph(thin), thin_weights).eval()(images)
        given = QuantNetwork(graph(thin), thin_weights, scales, placement).eval()(images)
    error = ((expected - given).pow(2).sum() / expected.pow(2).sum()).item()
    assert 0 < error < 0.01


def test_quantized_weights_lie_on_their_grid_and_biases_are_untouched(thin, thin_weights, scheme):
    scales, _ = table(thin, thin_weights, scheme, torch.randn(2, 3, 16, 16))
    rounded = quantized_weights(thin_weights, scales)
    for name, params in scales.weights.items():
        codes = rounded[f"{name}.weight"] / params.scales(4)
        assert np.allclose(codes, np.rint(codes), atol=1e-3)
        assert np.array_equal(rounded[f"{name}.bias"], thin_weights[f"{name}.bias"])
