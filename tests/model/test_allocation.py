from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.data.size import Size
from edgeres.model.cost import macs
from edgeres.model.graph import graph
from edgeres.model.presets import PRESETS
from edgeres.model.pruning.allocation import allocate, is_stream, steps
from edgeres.model.pruning.coupling import CouplingGroup, Member, coupling_groups, narrowed

NAMES = ["resnet18", "resnet20", "resnet50", "resnet50_v1", "resnext50_32x4d", "seresnet18", "resnetv2_18"]


def random_importance(spec, seed):
    generator = np.random.default_rng(seed)
    return {group.name: generator.exponential(size=group.width) for group in coupling_groups(spec)}


def shrunk(spec, allocation):
    return narrowed(spec, {name: len(units) for name, units in allocation.keep.items()})


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(NAMES), st.integers(0, 99), st.floats(0.3, 1.0), st.sampled_from([8, 16]))
def test_macs_of_an_allocation_are_those_of_the_narrower_network(name, seed, share, multiple):
    spec, side = replace(PRESETS[name], norm=False), 64
    dense = macs(graph(spec), side, side)
    found = allocate(
        spec,
        random_importance(spec, seed),
        image=Size.square(side),
        macs=int(share * dense),
        multiple=multiple,
        minimum=0.1,
    )
    cut = shrunk(spec, found)
    assert found.dense == dense
    assert found.macs == macs(graph(cut), side, side)
    assert found.macs <= share * dense or name == "resnet20"
    before = {group.name: group for group in coupling_groups(spec)}
    for group in coupling_groups(cut):
        if group.name in found.keep:
            assert all(group.width * member.span % multiple == 0 for member in group.members)
            assert group.width >= 0.1 * before[group.name].width


def test_the_least_important_units_go():
    spec = PRESETS["resnet20_b"]
    importance = random_importance(spec, 0)
    found = allocate(
        spec, importance, image=Size.square(32), macs=int(0.6 * macs(graph(spec), 32, 32)), multiple=8, minimum=0.25
    )
    assert found.keep
    for name, kept in found.keep.items():
        gone = sorted(set(range(len(importance[name]))) - set(kept))
        assert list(kept) == sorted(kept)
        assert importance[name][gone].max() <= importance[name][list(kept)].min()


def test_the_first_step_is_the_cheapest_per_mac():
    spec, side = PRESETS["resnet20"], 32
    importance = {group.name: np.ones(group.width) for group in coupling_groups(spec)}
    importance["layer2.1.conv1"] = np.full(32, 0.4)
    dense = macs(graph(spec), side, side)
    found = allocate(spec, importance, image=Size.square(side), macs=dense - 1, multiple=8, minimum=0.25)
    # One unit inside stage 1 saves 2 * 9 * 16 * 32^2 MACs, inside stage 2 2 * 9 * 32 * 16^2 (half as many): it goes
    # first once it is worth less than half.
    assert list(found.keep) == ["layer2.1.conv1"]
    assert found.dense - found.macs == 8 * 2 * 9 * 32 * 16**2
    importance["layer2.1.conv1"] = np.full(32, 0.6)
    other = allocate(spec, importance, image=Size.square(side), macs=dense - 1, multiple=8, minimum=0.25)
    assert list(other.keep) == ["layer1.0.conv1"]


def test_what_has_no_importance_stays():
    spec = PRESETS["resnet18"]
    inner = {group.name: np.ones(group.width) for group in coupling_groups(spec) if not is_stream(group, spec)}
    found = allocate(spec, inner, image=Size.square(64), macs=0, multiple=16, minimum=0.0)
    assert set(found.keep) == set(inner)
    assert {len(units) for units in found.keep.values()} == {16}
    assert [stage[-1].out for stage in shrunk(spec, found).stages] == [64, 128, 256, 512]


def test_out_of_reach_gives_the_smallest_there_is():
    spec = PRESETS["resnet18"]
    found = allocate(spec, random_importance(spec, 1), image=Size.square(64), macs=0, multiple=16, minimum=0.5)
    assert found.macs == macs(
        graph(narrowed(spec, {group.name: group.width // 2 for group in coupling_groups(spec)})), 64, 64
    )


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(NAMES), st.integers(0, 99), st.floats(0.0, 30.0))
def test_no_more_importance_is_lost_than_allowed(name, seed, most):
    spec, side = PRESETS[name], 64
    importance = random_importance(spec, seed)
    found = allocate(spec, importance, image=Size.square(side), macs=0, multiple=16, minimum=0.25, most=most)
    gone = {group: np.delete(importance[group], list(kept)).sum() for group, kept in found.keep.items()}
    assert found.lost == pytest.approx(sum(gone.values()))
    assert found.lost <= most
    free = allocate(spec, importance, image=Size.square(side), macs=found.macs, multiple=16, minimum=0.25)
    assert free.macs <= found.macs


def test_a_step_over_the_limit_does_not_keep_others_from_being_taken():
    spec, side = PRESETS["resnet20"], 32
    importance = {group.name: np.full(group.width, 10.0) for group in coupling_groups(spec)}
    importance["layer3.2.conv1"] = np.zeros(64)
    found = allocate(spec, importance, image=Size.square(side), macs=0, multiple=16, minimum=0.25, most=1.0)
    assert {name: len(kept) for name, kept in found.keep.items()} == {"layer3.2.conv1": 16}
    assert found.lost == 0


def test_streams_are_told_from_inner_widths():
    spec = PRESETS["resnet50"]
    streams = {group.name for group in coupling_groups(spec) if is_stream(group, spec)}
    assert streams == {"layer1.0.conv3", "layer2.0.conv3", "layer3.0.conv3", "layer4.0.conv3"}


@pytest.mark.parametrize(
    ("width", "span", "multiple", "minimum", "expected"),
    [
        (64, 1, 16, 0.25, (64, 48, 32, 16)),
        (64, 1, 16, 0.5, (64, 48, 32)),
        (20, 1, 8, 0.25, (20, 16, 8)),
        (12, 1, 16, 0.25, (12,)),
        (32, 4, 16, 0.25, (32, 28, 24, 20, 16, 12, 8)),
        (8, 32, 16, 0.0, (8, 7, 6, 5, 4, 3, 2, 1)),
        (64, 1, 16, 1.0, (64,)),
    ],
)
def test_widths_a_group_may_take(width, span, multiple, minimum, expected):
    group = CouplingGroup("x", width, (Member("x", "out", span),), ("x",))
    assert steps(group, multiple, minimum) == expected
