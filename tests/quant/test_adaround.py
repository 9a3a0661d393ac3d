from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.errors import StageError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.operation import Op
from edgeres.model.presets import preset
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.unit import units
from edgeres.model.weights import Weights
from edgeres.quant.algorithms.gptq import (
    Covariance,
    gptq_rounded,
    joint_codes,
    nearest_plane,
    patches,
    some_places,
    steps,
)
from edgeres.quant.algorithms.layerwise import Values, Walk
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.quant_table import quant_table
from edgeres.quant.quantized import Quantized

HALF = Stem(width=8, kernel=3, stride=1)
GROUPED = ResNetSpec(
    kind="bottleneck",
    stem=HALF,
    stages=((Block(inner=(8, 8), out=16, groups=4, projected=True, squeeze=4),),),
    classes=5,
    norm=False,
)
PREACTIVATED = ResNetSpec(
    kind="basic",
    stem=HALF,
    stages=((Block(inner=(8,), out=8), Block(inner=(8,), out=16, stride=2, projected=True)),),
    classes=5,
    preactivation=True,
    norm=False,
)
CIFAR = preset("resnet20")
PADDED = replace(CIFAR, stages=tuple(blocks[:1] for blocks in CIFAR.stages), norm=False)


def smooth_images(count=48, side=16, seed=0):
    """Images whose neighbouring pixels are alike, as those of photographs are."""
    coarse = torch.randn(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear").numpy()


def random_network(spec, seed=0):
    random = np.random.default_rng(seed)
    arrays = {}
    for key, array in Network(graph(spec)).weights().items():
        values = random.normal(0, 1.4, array.shape) / max(1.0, np.sqrt(array[0].size))
        arrays[key] = np.abs(values) + 0.5 if key.endswith("running_var") else values
    return Weights(arrays)


def quantized_by(spec, weights, scheme, images, bits=8):
    scheme = replace(scheme, weight_bits=bits)
    placement = place(graph(spec), scheme)
    histograms = observe(Network(graph(spec), weights).eval(), [images], placement.observed)
    table = quant_table(
        weights, histograms, placement, scheme, calibrator="mse", method="mse", data="0", images=len(images)
    )
    return Quantized(graph(spec), weights, table, scheme)


def test_two_weights_by_hand():
    # G = [[1, .9], [.9, 1]], L = [[1, 0], [.9, sqrt(.19)]]. The last weight .4 rounds to 0, an error of -.4; the first
    # one makes up for L_21 e_2 / L_11 = -.36: .3 + .36 = .66 rounds to 1. Nearest gives (0, 0) and an error of
    # .09 + .16 + 2 * .9 * .12 = .466; this gives (1, 0), errors (.7, -.4): .49 + .16 - 2 * .9 * .28 = .146.
    factor = torch.tensor([[1.0, 0.0], [0.9, 0.19**0.5]])
    codes = nearest_plane(torch.tensor([[0.3, 0.4]]), factor, torch.tensor([1.0]), 7)
    assert codes.tolist() == [[1.0, 0.0]]


def error(codes, weight, gram, scale):
    e = codes * scale[:, None] - weight
    return ((e @ gram) * e).sum(1)


def test_near_the_best_of_all_codes_and_never_far_behind_nearest():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, generator=generator)
    gram = x.T @ x / 4 + 0.05 * torch.eye(6)
    weight, scale = torch.randn(40, 6, generator=generator), torch.full((40,), 0.5)
    found = error(joint_codes(weight, gram, scale, 7), weight, gram, scale)
    nearest = error((weight / scale[:, None]).round().clamp(-7, 7), weight, gram, scale)
    floor = (weight / scale[:, None]).floor()
    every = torch.stack([error(floor + torch.tensor(up), weight, gram, scale) for up in product((0.0, 1.0), repeat=6)])
    best = every.min(0).values
    assert found.mean() < 0.5 * nearest.mean()
    assert found.mean() < 1.6 * best.mean()


def test_uncorrelated_inputs_leave_nothing_to_gain():
    weight = torch.randn(5, 200, generator=torch.Generator().manual_seed(0))
    scale = torch.full((5,), 0.1)
    codes = joint_codes(weight, torch.diag(torch.rand(200) + 0.1), scale, 127)
    assert torch.equal(codes, (weight / 0.1).round())


def test_blocks_of_columns_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 300, generator=generator)
    weight, scale = torch.randn(4, 300, generator=generator), torch.full((4,), 0.2)
    factor = torch.linalg.cholesky(x.T @ x / 500)
    blocked = nearest_plane(weight, factor, scale, 7)
    monkeypatch.setattr("edgeres.quant.algorithms.gptq._BLOCK", 1000)
    assert (blocked != nearest_plane(weight, factor, scale, 7)).float().mean() < 0.01  # last bits decide few ties


def test_inputs_that_never_vary_round_to_nearest():
    weight = torch.tensor([[0.26, -0.9, 3.0]])
    codes = joint_codes(weight, torch.zeros(3, 3), torch.tensor([0.1]), 7)
    assert codes.tolist() == [[3.0, -7.0, 7.0]]


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.booleans(),
    st.sampled_from([1, 2]), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_covariance_is_that_of_what_the_convolution_reads(kernel, stride, groups, bias, dilation, same, seed):
    op = Op("conv", "conv", ("x",), 4, 6, kernel, stride, groups, bias, dilation, same=same)
    generator = torch.Generator().manual_seed(seed)
    x, weight = torch.randn(3, 4, 7, 6, generator=generator), torch.randn(6, 4 // groups, kernel, kernel)
    above, left, below, right = op.pads((7, 6))
    padded = torch.nn.functional.pad(x, (left, right, above, below))
    y = torch.nn.functional.conv2d(padded, weight, None, stride, 0, dilation, groups)
    covariance = Covariance(op)
    places = some_places(op, x.shape, 10**6, generator)
    covariance.add(patches(op, x, places))
    assert places.shape == (3, y[0, 0].numel())
    rows = weight.reshape(groups, 6 // groups, -1)
    given = torch.einsum("god,gde,goe->go", rows, covariance.matrices(), rows).flatten()
    flat = y.transpose(0, 1).flatten(1)
    expected = flat.var(1, correction=0) if bias else flat.square().mean(1)
    assert torch.allclose(given, expected, rtol=1e-3, atol=1e-4)


def test_places_are_distinct_and_inside():
    op = Op("conv", "conv", ("x",), 1, 1, 3, 2)
    places = some_places(op, (50, 1, 9, 8), 7, torch.Generator().manual_seed(0))
    assert places.shape == (50, 7)
    assert all(len(set(row)) == 7 for row in places.tolist())
    assert set(places.flatten().tolist()) == set(range(20))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20", "seresnet18", "resnetv2_18", "resnext50_32x4d"])
def test_units_are_the_whole_network_and_read_one_tensor_each(name):
    spec = preset(name)
    found = units(graph(spec))
    assert tuple(op for unit in found for op in unit.ops) == graph(spec).ops
    assert [unit.name for unit in found[1:-1]] == [name for name, _, _ in spec.blocks]
    for unit in found:
        inside = {op.name for op in unit.ops}
        assert {name for op in unit.ops for name in op.inputs} - inside == {unit.source}
    assert all(before.output == after.source for before, after in pairwise(found))


@pytest.mark.parametrize("spec", [GROUPED, PREACTIVATED])
def test_walking_units_is_the_forward_pass(spec, cpu_scheme):
    weights, images = random_network(spec), smooth_images(4)
    network = quantized_by(spec, weights, cpu_scheme, images).network()
    x = torch.from_numpy(images)
    with torch.no_grad():
        expected = network(x)
        for unit in units(graph(spec)):
            x = Values(network, unit, x)[unit.output]
    assert torch.equal(x, expected)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("spec", [GROUPED, PREACTIVATED, PADDED])
def test_codes_are_on_the_grid_channel_by_channel(spec, bits, cpu_scheme):
    weights, images = random_network(spec), smooth_images(40)
    start = quantized_by(spec, weights, cpu_scheme, images, bits)
    done = []
    found = gptq_rounded(weights, start, lambda: [images], seed=0, advance=done.append)
    assert sum(done) == steps(start)
    assert found.table == start.table
    for name, params in found.table.weights.items():
        key = f"{name}.weight"
        codes = params.quantize(found.weights[key])
        assert params.bits == bits
        assert np.array_equal(params.dequantize(codes), found.weights[key])
        assert not np.array_equal(codes, params.quantize(weights[key]))
    untouched = set(weights) - {f"{name}.weight" for name in found.table.weights}
    for key in untouched:
        assert key.endswith(".bias") or np.array_equal(found.weights[key], weights[key])


@pytest.mark.parametrize("bits", [8, 4])
def test_answers_come_nearer_to_float_on_other_images(thin, thin_weights, scheme, bits):
    """Activations stay as they are: at 8 bits most of the noise is theirs, and hides what weights gain."""

    def error(weights):
        exact = Network(graph(thin), thin_weights).logits(others)
        return float(np.square(Network(graph(thin), weights).logits(others) - exact).mean())

    images, others = smooth_images(48), smooth_images(64, seed=1)
    start = quantized_by(thin, thin_weights, scheme, images, bits)
    found = gptq_rounded(thin_weights, start, lambda: [images], seed=0)
    nearest = {
        f"{name}.weight": params.dequantize(params.quantize(thin_weights[f"{name}.weight"]))
        for name, params in start.table.weights.items()
    }
    assert error(found.weights) < 0.5 * error(thin_weights.replaced(nearest))


def test_same_arguments_give_the_same_bytes_whatever_the_batches(thin, thin_weights, scheme):
    images = smooth_images(40)
    start = quantized_by(thin, thin_weights, scheme, images)
    once = gptq_rounded(thin_weights, start, lambda: [images], seed=3)
    again = gptq_rounded(thin_weights, start, lambda: np.array_split(images, 7), seed=3)
    assert once.weights.digest == again.weights.digest


def test_every_layers_mean_is_floats(thin, thin_weights, scheme):
    images = smooth_images(40)
    found = gptq_rounded(thin_weights, quantized_by(thin, thin_weights, scheme, images, 4), lambda: [images], seed=0)
    means = []
    for network in (Network(graph(thin), thin_weights).eval(), found.network()):
        seen = {}
        with torch.no_grad():
            network(torch.from_numpy(images), lambda name, x, seen=seen: seen.__setitem__(name, x))
        means.append({op.name: seen[op.name].transpose(0, 1).flatten(1).mean(1) for op in graph(thin).weighted})
    for name, mean in means[0].items():
        assert torch.allclose(mean, means[1][name], atol=2e-3), name


def test_large_images_leave_fewer_of_them_in_memory(thin, thin_weights, scheme, monkeypatch):
    monkeypatch.setattr("edgeres.quant.algorithms.layerwise.KEPT", 40 * 4 * 8 * 8 * 8)
    seen = []

    def images():
        for image in smooth_images(64):
            seen.append(1)
            yield image[None]

    start = quantized_by(thin, thin_weights, scheme, smooth_images(8))
    gptq_rounded(thin_weights, start, images, seed=0)
    assert len(seen) == 40


def test_large_tensors_leave_fewer_images_in_a_batch(thin, thin_weights, scheme, monkeypatch):
    start = quantized_by(thin, thin_weights, scheme, smooth_images(8))
    monkeypatch.setattr("edgeres.quant.algorithms.layerwise.LARGEST", 5 * 4 * 8 * 16 * 16)
    walk = Walk(thin_weights, start, start.network(), lambda: [smooth_images(48)])
    stem, first, *_ = walk.units
    assert [len(batch) for batch in walk.batches(stem)] == [5] * 9 + [3]
    assert [len(batch) for batch in walk.batches(first)] == [20, 20, 8]
    means = walk.lead(stem)
    walk.follow(stem)
    exact = Network(graph(thin), thin_weights).eval()
    seen = {}
    with torch.no_grad():
        exact(torch.from_numpy(smooth_images(48)), seen.__setitem__)
    assert torch.allclose(walk.wanted([3, 40]), seen[first.source][[3, 40]], rtol=2**-10, atol=1e-6)
    assert torch.allclose(means["conv1"].float(), seen["conv1"].mean((0, 2, 3)), atol=1e-6)
    with torch.no_grad():
        start.network()(torch.from_numpy(smooth_images(48)), seen.__setitem__)
    assert torch.allclose(
        walk.tensors(first, [3, 40])[first.source], seen[first.source][[3, 40]], rtol=2**-10, atol=1e-6
    )


def test_no_images_are_refused(thin, thin_weights, scheme):
    start = quantized_by(thin, thin_weights, scheme, smooth_images(8))
    with pytest.raises(StageError, match="no images"):
        gptq_rounded(thin_weights, start, list, seed=0)


@pytest.mark.parametrize("spread", [0.0, 1e-6, 1e-2])
@pytest.mark.parametrize("patches", [2, 7, 1000])
def test_inputs_that_hardly_vary_are_rounded_each_on_its_own(spread: float, patches: int) -> None:
    """Float32 leaves nothing of their covariance but rounding errors, which need not even be positive."""
    generator = torch.Generator().manual_seed(patches)
    seen = Covariance(Op("conv", "conv", ("x",), c_in=64, c_out=8, kernel=1, bias=True))
    means = 100 * torch.rand(1, 64, 1, 1, generator=generator)
    seen.add(means + spread * torch.randn(patches, 64, 1, 1, generator=generator))
    weight = torch.randn(8, 64, generator=generator)
    scale = weight.abs().amax(1) / 127
    codes = joint_codes(weight, seen.matrices()[0], scale, 127)
    assert (codes * scale[:, None] - weight).abs().max() <= 1.5 * scale.max()
