from dataclasses import replace

import numpy as np
import pytest
import torch
from family_networks import NETWORKS
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.model.cost import parameters
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import PRESETS
from edgeres.model.pruning.coupling import CouplingGroup, channels, coupling_groups, narrowed, sliced
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import Weights


@st.composite
def thin_specs(draw):
    """Every feature of a spec, a few channels wide."""
    kind = draw(st.sampled_from(["basic", "bottleneck"]))
    preactivation, shortcut = draw(st.booleans()), draw(st.sampled_from(["projection", "padding"]))
    groups = draw(st.sampled_from([1, 2, 4])) if kind == "bottleneck" else 1
    squeeze = draw(st.sampled_from([0, 3]))
    width = draw(st.sampled_from([4, 6]))
    stem = Stem(width=width, kernel=3, stride=1, pool=draw(st.booleans()))
    stages = []
    for number in range(draw(st.integers(1, 2))):
        out = draw(st.sampled_from([4, 8]))
        blocks = []
        for index in range(draw(st.integers(1, 2))):
            first, second = draw(st.sampled_from([4, 8])), draw(st.sampled_from([4, 8]))
            stride = 2 if number and not index else 1
            changes = stride != 1 or width != out
            if shortcut == "padding" and out < width:
                out = width
            blocks.append(
                Block(
                    inner=(first, second) if kind == "bottleneck" else (first,),
                    out=out,
                    stride=stride,
                    groups=groups,
                    projected=changes and shortcut == "projection",
                    squeeze=squeeze,
                )
            )
            width = out
        stages.append(tuple(blocks))
    return ResNetSpec(
        kind=kind,
        stem=stem,
        stages=tuple(stages),
        classes=5,
        shortcut=shortcut,
        stride_in=draw(st.sampled_from(["3x3", "1x1"])),
        preactivation=preactivation,
        norm=draw(st.booleans()),
    )


def random_weights(spec, seed):
    generator = np.random.default_rng(seed)
    arrays = {}
    for key, shape in graph(spec).parameters.items():
        values = generator.normal(size=shape).astype(np.float32)
        arrays[key] = (
            0.5 + np.abs(values) if key.endswith("running_var") else values / max(1, np.prod(shape[1:])) ** 0.5
        )
    return Weights(arrays)


class Masked(Network):
    """The original network in which some channels of some tensors are zero."""

    masks: dict[str, torch.Tensor]

    def apply_op(self, op, inputs):
        result = super().apply_op(op, inputs)
        if op.name not in self.masks:
            return result
        mask = self.masks[op.name]
        return result * mask.reshape(1, -1, *([1] * (result.ndim - 2)))


def logits_of_the_masked_original(spec, weights, keep, image):
    network = Masked(graph(spec), weights).eval()
    network.masks = {}
    for group in coupling_groups(spec):
        if group.name in keep:
            for tensor in group.tensors:
                count = graph(spec)[tensor].c_out
                mask = torch.zeros(count)
                mask[channels(keep[group.name], count // group.width)] = 1
                network.masks[tensor] = mask
    with torch.no_grad():
        return network(image)


def keep_some(draw, group: CouplingGroup):
    return sorted(draw(st.sets(st.integers(0, group.width - 1), min_size=1)))


@settings(deadline=None, max_examples=40)
@given(st.data(), thin_specs(), st.integers(0, 2**16))
def test_slicing_is_masking(data, spec, seed):
    weights = random_weights(spec, seed)
    groups = coupling_groups(spec)
    chosen = data.draw(st.sets(st.sampled_from(groups), min_size=1)) if groups else set()
    keep = {group.name: keep_some(data.draw, group) for group in groups if group in chosen}
    spec_cut, weights_cut = sliced(spec, weights, keep)
    assert {key: array.shape for key, array in weights_cut.items()} == graph(spec_cut).parameters
    image = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 3, 9, 9)).astype(np.float32))
    with torch.no_grad():
        cut = Network(graph(spec_cut), weights_cut).eval()(image)
    expected = logits_of_the_masked_original(spec, weights, keep, image)
    torch.testing.assert_close(cut, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["attention pool", "classifier of two layers"])
def test_heads_lose_what_nothing_reads_together(name):
    spec = replace(NETWORKS[name], norm=True)
    weights = random_weights(spec, 0)
    keep = {group.name: list(range(0, group.width, 2)) for group in coupling_groups(spec)}
    assert ("hidden" in keep) == bool(spec.hidden)
    cut, fewer = sliced(spec, weights, keep)
    assert cut.attention_heads == spec.attention_heads
    assert cut.hidden == spec.hidden // 2
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32))
    with torch.no_grad():
        found = Network(graph(cut), fewer).eval()(image)
    expected = logits_of_the_masked_original(spec, weights, keep, image)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=40)
@given(thin_specs())
def test_groups_cover_each_axis_at_most_once_and_all_but_the_fixed_ones(spec):
    members = [(member.op, member.axis) for group in coupling_groups(spec) for member in group.members]
    assert len(members) == len(set(members))
    ops = graph(spec)
    fixed = {("conv1", "in"), ("fc", "out")}
    free = {(op.name, axis) for op in ops.weighted for axis in ("in", "out")} - fixed - set(members)
    padded = any(op.kind == "zeropad" for op in ops.ops)
    assert padded or not free


def test_keeping_everything_changes_nothing():
    spec = PRESETS["seresnet50"]
    assert narrowed(spec, {group.name: group.width for group in coupling_groups(spec)}) == spec


def test_groups_of_resnet18():
    groups = {group.name: group for group in coupling_groups(PRESETS["resnet18"])}
    # The stem's stream holds both blocks of stage 1; the three other streams begin at a projection.
    assert list(groups) == [
        "conv1",
        *("layer1.0.conv1", "layer1.1.conv1"),
        *("layer2.0.conv1", "layer2.0.conv2", "layer2.1.conv1"),
        *("layer3.0.conv1", "layer3.0.conv2", "layer3.1.conv1"),
        *("layer4.0.conv1", "layer4.0.conv2", "layer4.1.conv1"),
    ]
    stem = {(member.op, member.axis) for member in groups["conv1"].members}
    assert stem == {
        ("conv1", "out"), ("bn1", "out"),
        ("layer1.0.conv1", "in"), ("layer1.0.conv2", "out"), ("layer1.0.bn2", "out"),
        ("layer1.1.conv1", "in"), ("layer1.1.conv2", "out"), ("layer1.1.bn2", "out"),
        ("layer2.0.conv1", "in"), ("layer2.0.downsample.0", "in"),
    }  # fmt: skip
    assert {("layer4.0.downsample.0", "out"), ("fc", "in")} <= {
        (member.op, member.axis) for member in groups["layer4.0.conv2"].members
    }


def test_the_projection_of_a_bottleneck_parts_the_stem_from_stage_one():
    groups = {group.name: group for group in coupling_groups(PRESETS["resnet50"])}
    assert groups["conv1"].width == 64
    assert groups["layer1.0.conv3"].width == 256


def test_a_padded_stream_is_left_alone():
    groups = coupling_groups(PRESETS["resnet20"])
    assert [group.name for group in groups] == [f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in (0, 1, 2)]


def test_a_grouped_convolution_loses_whole_groups():
    spec = PRESETS["resnext50_32x4d"]
    group = next(group for group in coupling_groups(spec) if group.name == "layer1.0.conv1")
    assert group.width == 32
    assert {(member.op, member.axis, member.span) for member in group.members if "conv" in member.op} == {
        ("layer1.0.conv1", "out", 4),
        ("layer1.0.conv2", "in", 4),
        ("layer1.0.conv2", "out", 4),
        ("layer1.0.conv3", "in", 4),
    }
    block = narrowed(spec, {group.name: 24}).stages[0][0]
    assert (block.groups, block.inner) == (24, (96, 96))


def test_squeeze_and_excitation_has_a_width_of_its_own_and_gates_the_stream():
    groups = {group.name: group for group in coupling_groups(PRESETS["seresnet18"])}
    own = {(member.op, member.axis) for member in groups["layer1.0.se.fc1"].members}
    assert own == {("layer1.0.se.fc1", "out"), ("layer1.0.se.fc2", "in")}
    stream = {(member.op, member.axis) for member in groups["conv1"].members}
    assert {("layer1.0.se.fc1", "in"), ("layer1.0.se.fc2", "out")} <= stream


def test_a_preactivated_stream_carries_its_norms():
    spec = replace(PRESETS["resnetv2_18"], norm=False)
    stream = coupling_groups(spec)[0]
    assert {("layer1.0.bn1", "out"), ("layer2.0.bn1", "out")} <= {(m.op, m.axis) for m in stream.members}


@pytest.mark.parametrize("name", ["resnet152", "resnext101_64x4d", "seresnet50", "resnetv2_101"])
def test_half_of_everything_is_a_smaller_network_of_the_same_depth(name):
    spec = PRESETS[name]
    half = narrowed(spec, {group.name: max(1, group.width // 2) for group in coupling_groups(spec)})
    assert len(graph(half).ops) == len(graph(spec).ops)
    assert parameters(graph(half)) < 0.4 * parameters(graph(spec))


def test_swapped_channels_are_noticed():
    """The proof itself: keeping other channels than those the mask leaves does not give the same logits."""
    spec = PRESETS["resnet20_b"]
    weights = random_weights(spec, 0)
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    keep = {"conv1": list(range(8))}
    cut_spec, cut_weights = sliced(spec, weights, {"conv1": list(range(8, 16))})
    cut = Network(graph(cut_spec), cut_weights).eval()
    with torch.no_grad():
        assert (cut(image) - logits_of_the_masked_original(spec, weights, keep, image)).abs().max() > 1e-2
