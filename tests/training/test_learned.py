"""The trainable quantized network: what it computes ships, bit by bit, whatever its weights and scales have become."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from family_networks import NETWORKS
from random_weights import random_weights
from smalltraining import METHOD, SIDE, cross_entropy, random_split, thin_spec
from torch import nn

from edgeres.data.preprocess import Preprocess
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.progress import Silent
from edgeres.quant.learned_network import PACE, LearnedNetwork
from edgeres.quant.placement import place
from edgeres.quant.qparams import QParams, weight_qparams
from edgeres.quant.quant_table import QuantTable
from edgeres.quant.quantized import Quantized
from edgeres.training.feed import Feed
from edgeres.training.loop import fit
from edgeres.training.recompute import Recomputed
from edgeres.training.resume import Snapshots

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.model.operation import Op
    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights
    from edgeres.targets.target import QuantScheme


def calibrated(spec: ResNetSpec, weights: Weights, scheme: QuantScheme, side: int, bits: int = 8) -> Quantized:
    """Scales from the extremes of a few random images; asymmetric where a tensor has both signs."""
    placement = place(graph(spec), scheme)
    seen = {}
    with torch.no_grad():
        images = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(0))
        Network(graph(spec), weights).eval()(images, tap=seen.__setitem__)
    activations = {}
    for tensor in placement.tensors:
        x = seen[placement.shared.get(tensor, tensor)]
        low, high = min(x.min().item(), 0.0), x.max().item()
        # Extremes are cut by a tenth, so that something is clipped.
        step = float(np.float32(0.9 * (max(high, -low) / 127 if scheme.signed else (high - low) / 255)))
        zero_point = 0 if scheme.signed else round(-0.9 * low / step)
        activations[tensor] = QParams(scale=(step,), zero_point=zero_point, signed=scheme.signed)
    rounded = {name: weight_qparams(weights[f"{name}.weight"], bits) for name in sorted(placement.weighted)}
    table = QuantTable(activations=activations, weights=rounded, calibrator="minmax", data="", images=8)
    return Quantized(graph(spec), weights, table, scheme)


def moved(start: Quantized, amount: float = 1.0) -> LearnedNetwork:
    """The network behind a training that went anywhere."""
    network = LearnedNetwork(start).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=amount)
    return network


@pytest.fixture
def start(thin: ResNetSpec, thin_weights: Weights, scheme: QuantScheme) -> Quantized:
    return calibrated(thin, thin_weights, scheme, 16, bits=4)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2)).contiguous(
        memory_format=torch.channels_last
    )


def test_it_starts_where_calibration_ended(start: Quantized, images: torch.Tensor) -> None:
    network = LearnedNetwork(start).eval()
    with torch.no_grad():
        assert torch.equal(network(images), start.network()(images))
        assert not torch.equal(network(images), Network(start.graph, start.weights).eval()(images))
    assert network.table().network == network.weights().digest
    assert replace(network.table(), network=start.table.network) == start.table
    assert network.weights().digest == start.weights.digest


def test_it_ships_what_it_computes_after_any_training(start: Quantized, images: torch.Tensor) -> None:
    network = moved(start)
    ended = network.quantized()
    with torch.no_grad():
        assert torch.equal(network(images), ended.network()(images))
        assert not torch.equal(network(images), start.network()(images))


def test_codes_that_ship_are_those_that_were_trained(start: Quantized) -> None:
    network = moved(start)
    ended = network.quantized()
    for name, params in ended.table.weights.items():
        op = network.graph[name]
        used = network.parameter(op, "weight")
        assert used is not None
        codes = params.quantize(ended.weights[f"{name}.weight"])
        assert np.array_equal(params.dequantize(codes), used.detach().numpy())
        assert np.abs(codes).max() == 7
        assert (params.bits, params.axis, params.narrow) == (4, 0, True)


def test_everything_moves_in_steps_of_its_grid(start: Quantized) -> None:
    """A unit of each parameter: one step of a channel, its largest code by ``PACE`` steps, a share of what is float."""
    network = LearnedNetwork(start)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.fill_(0.01)
    weights, table = network.weights(), network.table()
    for name, params in start.table.weights.items():
        before, after = start.weights[f"{name}.weight"], weights[f"{name}.weight"]
        assert np.allclose((after - before) / params.scales(before.ndim), 0.01, atol=1e-4)
        share = np.asarray(table.weights[name].scale) / np.asarray(params.scale)
        assert np.allclose((share - 1) * params.high, 0.01 * PACE, rtol=0.01)
    for key in ("fc.weight", "fc.bias", "conv1.bias"):
        peak = np.abs(start.weights[key]).max()
        assert np.allclose(
            (weights[key] - start.weights[key]) / peak * (2 ** (start.scheme.weight_bits - 1) - 1), 0.01, atol=1e-4
        )


def test_scales_are_normal_float32_and_zero_points_stay(start: Quantized) -> None:
    network = moved(start, 3.0)
    with torch.no_grad():
        network.weight_steps[0] = -300.0
    table = network.table()
    for before, after in ((start.table.activations, table.activations), (start.table.weights, table.weights)):
        for name, params in after.items():
            scale = np.asarray(params.scale, dtype=np.float64)
            assert (scale >= np.finfo(np.float32).tiny).all()
            assert np.array_equal(scale, scale.astype(np.float32))
            assert params == replace(before[name], scale=params.scale)
            assert params.scale != before[name].scale


def test_shared_scales_stay_shared_and_are_one_parameter(
    thin: ResNetSpec, thin_weights: Weights, cpu_scheme: QuantScheme
) -> None:
    start = calibrated(thin, thin_weights, cpu_scheme, 16)
    placement = start.placement
    network = moved(start)
    assert placement.shared
    assert len(network.activation_steps) == len(placement.observed) < len(placement.tensors)
    table = network.table()
    for tensor, origin in placement.shared.items():
        assert table.activations[tensor].scale == table.activations[origin].scale
    assert len({table.activations[tensor].scale for tensor in placement.observed}) == len(placement.observed)


class Spy(LearnedNetwork):
    """Remembers every tensor before and behind Q/DQ, with its gradient."""

    def __init__(self, start: Quantized) -> None:
        super().__init__(start)
        self.read_: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.rounded: dict[str, torch.Tensor] = {}

    def read(self, op: Op, index: int, values: dict[str, torch.Tensor]) -> torch.Tensor:
        found = super().read(op, index, values)
        before = values[op.inputs[index]]
        if found is not before:
            found.retain_grad()
            self.read_[op.inputs[index]] = before, found
        return found

    def parameter(self, op: Op, key: str) -> torch.Tensor | None:
        found = super().parameter(op, key)
        if key == "weight" and found is not None:
            found.retain_grad()
            self.rounded[op.name] = found
        return found


def lsq(x: torch.Tensor, gradient: torch.Tensor, scale: float, params: QParams) -> float:
    """Equation 3 of LSQ times the incoming gradient, summed in float64."""
    low, high = params.low - params.zero_point, params.high - params.zero_point
    v = (x.detach() / np.float32(scale)).double()
    slope = torch.where(v <= low, low, torch.where(v >= high, high, v.round() - v))
    return (slope * gradient.double()).sum().item()


def test_gradients_are_lsqs(start: Quantized, images: torch.Tensor) -> None:
    """``dL/dstep = PACE / Q * scale * dL/dscale / sqrt(N Q)``; of a shared scale, the sum over its tensors."""
    spy = Spy(start)
    spy(images).square().sum().backward()
    assert set(spy.rounded) >= set(start.table.weights)
    expected = dict.fromkeys(start.placement.observed, 0.0)
    for tensor, (x, y) in spy.read_.items():
        params = start.table.activations[tensor]
        factor = 1 / sqrt(x[0].numel() * (params.high - params.zero_point))
        pace = PACE / max(params.high - params.zero_point, params.zero_point - params.low)
        own = lsq(x, y.grad, params.scale[0], params) * factor * params.scale[0] * pace
        expected[start.placement.shared.get(tensor, tensor)] += own
    found = spy.activation_steps.grad.tolist()
    assert found == pytest.approx(list(expected.values()), rel=1e-2, abs=1e-3 * max(map(abs, found)))
    row = 0
    for name, params in start.table.weights.items():
        weight, through = spy.get_parameter(f"{name}.weight"), spy.rounded[name].grad
        for channel, scale in enumerate(params.scale):
            factor = PACE / params.high * scale / sqrt(weight[0].numel() * params.high)
            wanted = lsq(weight[channel], through[channel], scale, params) * factor
            assert spy.weight_steps.grad[row].item() == pytest.approx(wanted, rel=1e-3, abs=1e-5)
            inside = (weight[channel] / np.float32(scale)).abs() < params.high
            own = spy.get_parameter(f"{name}.weight_move").grad[channel]
            assert torch.allclose(own, through[channel] * inside * scale, rtol=1e-5, atol=1e-7)
            row += 1
        assert weight.grad is None
    assert row == len(spy.weight_steps)


def test_a_tensor_with_several_readers_is_rounded_once(start: Quantized, images: torch.Tensor) -> None:
    seen: dict[str, list[torch.Tensor]] = {}

    class Watching(LearnedNetwork):
        def read(self, op: Op, index: int, values: dict[str, torch.Tensor]) -> torch.Tensor:
            found = super().read(op, index, values)
            seen.setdefault(op.inputs[index], []).append(found)
            return found

    with torch.no_grad():
        Watching(start)(images)
    several = {tensor for tensor in start.placement.tensors if len(seen[tensor]) > 1}
    assert "layer1.0.relu" in several
    for tensor in several:
        quantized = [op for op, index in start.placement.edges if start.graph[op].inputs[index] == tensor]
        assert len({id(found) for found in seen[tensor]}) == 1 + (len(seen[tensor]) > len(quantized))


def test_autocast_around_it_changes_no_bit(start: Quantized, images: torch.Tensor) -> None:
    network = LearnedNetwork(start).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        within = network(images)
        assert Network(start.graph, start.weights).eval()(images).dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(within, network(images))


@pytest.mark.parametrize("name", ["ArcFace", "SiLU", "attention pool", "classifier of two layers"])
def test_slopes_and_positions_are_not_learned(name: str, cpu_scheme: QuantScheme) -> None:
    spec = NETWORKS[name]
    start = calibrated(spec, random_weights(spec), cpu_scheme, 32)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = start.network()(images)
        found = LearnedNetwork(start).eval()(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    learned = moved(start)
    learned(images).square().sum().backward()
    assert set(learned.weights()) == set(start.weights)


def test_recomputed_blocks_give_the_same_gradients(
    thin: ResNetSpec, thin_weights: Weights, cpu_scheme: QuantScheme, images: torch.Tensor
) -> None:
    start = calibrated(thin, thin_weights, cpu_scheme, 16)
    whole, pieces = LearnedNetwork(start), LearnedNetwork(start)
    whole(images).square().sum().backward()
    Recomputed(pieces)(images).square().sum().backward()
    for one, other in zip(whole.parameters(), pieces.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)


def test_norms_that_could_not_be_folded_stay(tmp_path: Path, cpu_scheme: QuantScheme) -> None:
    spec = thin_spec(preactivation=True, norm=False)
    torch.manual_seed(0)
    weights = Network(graph(spec)).weights()
    network = LearnedNetwork(calibrated(spec, weights, cpu_scheme, SIDE))
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    feed = Feed(random_split(), Preprocess(resize=0, crop=SIDE), METHOD.augment, classes=3, batch=8, seed=0)
    method = replace(METHOD, ema=0.0, epochs=1, optimizer="adamw")
    outcome = fit(
        network,
        cross_entropy,
        feed,
        method,
        device=torch.device("cpu"),
        snapshots=Snapshots(tmp_path, "a"),
        progress=Silent(),
        label="qat",
    )
    for key, array in weights.items():
        frozen = any(key.startswith(f"{name}.") for name in norms)
        assert np.array_equal(array, network.weights()[key]) == frozen, key
    assert outcome.metrics.steps == 3
    assert network.table() != calibrated(spec, weights, cpu_scheme, SIDE).table
