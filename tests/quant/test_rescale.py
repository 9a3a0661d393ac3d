"""Scaled channels, the same answers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_weights import random_weights

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.operation import IMAGE
from edgeres.model.presets import PRESETS, preset
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import Weights
from edgeres.quant.algorithms.channel_scaling import FIXED, channel_units, rescaled, tensor_scales


def narrow(spec, depth=2):
    """A spec of the same family, a few channels wide; groups stay whole."""
    share = 8 if spec.stem.pool else 2

    def block(given):
        inner = given.inner if given.groups > 1 else tuple(width // share for width in given.inner)
        return replace(given, inner=inner, out=given.out // share, squeeze=2 if given.squeeze else 0)

    stages = tuple(tuple(block(one) for one in stage[:depth]) for stage in spec.stages)
    stem = replace(spec.stem, width=spec.stem.width // share, inner=tuple(width // 4 for width in spec.stem.inner))
    return replace(
        spec,
        stem=stem,
        stages=stages,
        classes=5,
        features=8 if spec.features else 0,
        norm_groups=4,
        attention_heads=min(spec.attention_heads, 2),
        hidden=8 if spec.hidden else 0,
        grid=(2, 2) if spec.attention_heads else spec.grid,
    )


def drawn(spec, seed, spread=1.0):
    """Random scales of every unit."""
    units = channel_units(graph(spec))
    return tensor_scales(units, np.exp(np.random.default_rng(seed).normal(0, spread, units.count)))


def relative_change(spec, weights, scales, side=16):
    images = np.random.default_rng(5).normal(size=(2, spec.channels, side, side)).astype(np.float32)
    expected = Network(graph(spec), weights).logits(images)
    return np.abs(
        Network(graph(spec), rescaled(graph(spec), weights, scales)).logits(images) - expected
    ).max() / np.ptp(expected)


FAMILIES = {narrow(replace(spec, norm=norm), 1 if spec.kind == "bottleneck" else 2) for spec in PRESETS.values()
            for norm in (False, True) if spec.stem.width <= 64}  # fmt: skip


@pytest.mark.parametrize("spec", sorted(FAMILIES, key=repr), ids=lambda spec: "")
def test_every_family_answers_as_before(spec):
    side = spec.image_size.height if any(spec.grid) else 16 if spec.antialias == "none" else 64
    assert relative_change(spec, random_weights(spec), drawn(spec, 1), side) < 1e-5


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["basic", "bottleneck"]),
    preactivation=st.booleans(),
    padded=st.booleans(),
    squeeze=st.sampled_from([0, 3]),
    groups=st.sampled_from([1, 2]),
    widths=st.tuples(*[st.sampled_from([4, 6])] * 3),
)
def test_any_network_of_any_widths_answers_as_before(seed, kind, preactivation, padded, squeeze, groups, widths):
    wide = max(widths) + 2
    inner = widths[1:] if kind == "bottleneck" else widths[1:2]
    groups = groups if kind == "bottleneck" else 1
    first = Block(inner=inner, out=widths[0], groups=groups, squeeze=squeeze)
    second = Block(inner=inner, out=wide, stride=2, projected=not padded, squeeze=squeeze)
    spec = ResNetSpec(
        kind=kind,
        stem=Stem(width=widths[0], kernel=3, stride=1),
        stages=((first,), (second, Block(inner=inner, out=wide))),
        classes=3,
        shortcut="padding" if padded else "projection",
        preactivation=preactivation,
        norm=bool(seed % 2),
    )
    assert relative_change(spec, random_weights(spec, seed), drawn(spec, seed), side=8) < 1e-4


def test_scales_by_hand():
    """One 1x1 kernel: W' = W s_i / s_o and b' = b / s_o."""
    block = Block(inner=(1,), out=1)
    spec = ResNetSpec(kind="basic", stem=Stem(width=1, kernel=1, pool=False), stages=((block,),), norm=False)
    weights = random_weights(spec)
    units = channel_units(graph(spec))
    scales = {name: np.array([[1.0, 4.0, 2.0][unit]] if (unit := channels[0]) < 3 else [8.0])
              for name, channels in units.of.items()}  # fmt: skip
    scales |= {IMAGE: np.ones(3), "fc": np.ones(1000)}
    after = rescaled(graph(spec), weights, scales)
    assert after["conv1.weight"] == pytest.approx(weights["conv1.weight"] / 4)
    assert after["layer1.0.conv1.weight"] == pytest.approx(weights["layer1.0.conv1.weight"] * 4 / 2)
    assert after["layer1.0.conv1.bias"] == pytest.approx(weights["layer1.0.conv1.bias"] / 2)
    assert after["layer1.0.conv2.weight"] == pytest.approx(weights["layer1.0.conv2.weight"] * 2 / 4)
    assert after["fc.weight"] == pytest.approx(weights["fc.weight"] * 4)
    assert np.array_equal(after["fc.bias"], weights["fc.bias"])


def test_activations_are_divided(thin, thin_weights):
    scales = drawn(thin, 3)
    image = np.random.default_rng(0).normal(size=(1, 3, 12, 12)).astype(np.float32)
    before, after = (
        tensors(thin, thin_weights, image),
        tensors(thin, rescaled(graph(thin), thin_weights, scales), image),
    )
    for name, x in before.items():
        scale = scales[name].reshape(-1, *[1] * (x.ndim - 2))
        assert np.abs(after[name] * scale - x).max() <= 1e-4 * np.abs(x).max()


def tensors(spec, weights, image):
    import torch

    seen = {}
    with torch.inference_mode():
        Network(graph(spec), weights).eval()(
            torch.from_numpy(image), lambda name, x: seen.__setitem__(name, x.numpy().copy())
        )
    return seen


def test_a_stream_is_one_group_and_widths_inside_are_their_own(thin):
    units = channel_units(graph(thin))
    stream = [units.of[name] for name in ("conv1", "maxpool", "layer1.0.conv2", "layer1.0.relu")]
    assert all(np.array_equal(stream[0], other) for other in stream)
    assert not set(units.of["layer1.0.relu1"]) & set(stream[0])
    assert np.array_equal(units.of["layer2.0.conv2"], units.of["layer2.0.downsample.0"])
    assert np.all(units.of[IMAGE] == FIXED)
    assert np.all(units.of["fc"] == FIXED)
    assert len({int(units.group[unit]) for unit in stream[0]}) == 1


def test_a_gate_is_never_scaled():
    spec = narrow(preset("seresnet18"), 1)
    units = channel_units(graph(spec))
    assert np.all(units.of["layer1.0.se.fc2"] == FIXED)
    assert np.all(units.of["layer1.0.se.gate"] == FIXED)
    assert np.all(units.of["layer1.0.se.fc1"] != FIXED)
    assert np.array_equal(units.of["layer1.0.se.scale"], units.of["layer1.0.bn2"])


def test_padded_streams_keep_their_channels_in_place():
    spec = narrow(preset("resnet20"), 1)
    units = channel_units(graph(spec))
    narrower, wider = units.of["layer2.0.subsample"], units.of["layer2.0.zeropad"]
    front = (len(wider) - len(narrower)) // 2
    assert np.array_equal(wider[front : front + len(narrower)], narrower)
    assert np.array_equal(wider, units.of["layer2.0.bn2"])
    assert units.count == 1 + len({int(unit) for channels in units.of.values() for unit in channels} - {FIXED})


def test_scales_of_a_group_have_a_geometric_mean_of_one(thin):
    units, scales = channel_units(graph(thin)), drawn(thin, 2)
    assert np.log(scales["layer1.0.relu1"]).mean() == pytest.approx(0, abs=1e-12)
    raised = tensor_scales(units, np.where(np.arange(units.count) == FIXED, 1.0, 7.0))
    assert all(scale == pytest.approx(np.ones_like(scale)) for scale in raised.values())


@pytest.mark.parametrize("forgotten", ["bias", "running_mean", "grouped"])
def test_a_wrong_scaling_would_be_noticed(forgotten, monkeypatch):
    spec = narrow(preset("resnext50_32x4d" if forgotten == "grouped" else "resnetv2_18"), 1)
    weights, scales = random_weights(spec), drawn(spec, 1)
    after = dict(rescaled(graph(spec), weights, scales))
    name = next(op.name for op in graph(spec).ops if op.kind == ("conv" if forgotten == "grouped" else "norm")
                and (op.groups > 1) == (forgotten == "grouped"))  # fmt: skip
    if forgotten == "grouped":
        after[f"{name}.weight"] = after[f"{name}.weight"][::-1]
    else:
        after[f"{name}.{forgotten}"] = weights[f"{name}.{forgotten}"]
    images = np.random.default_rng(5).normal(size=(2, 3, 16, 16)).astype(np.float32)
    expected = Network(graph(spec), weights).logits(images)
    assert np.abs(Network(graph(spec), Weights(after)).logits(images) - expected).max() > 1e-3 * np.ptp(expected)
