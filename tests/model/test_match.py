from dataclasses import replace

import pytest

from edgeres.errors import ModelError
from edgeres.model.likeness import describe, preset_name, reconcile
from edgeres.model.presets import PRESETS, preset
from edgeres.model.spec import Stem


def narrowed(spec, width=8):
    stages = tuple(tuple(replace(block, inner=(width,) * len(block.inner)) for block in stage) for stage in spec.stages)
    return replace(spec, stages=stages)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_itself_whatever_its_classes(name):
    spec = PRESETS[name]
    assert preset_name(replace(spec, classes=3, norm=False)) == name
    assert reconcile(replace(spec, classes=3, channels=1, norm=False), spec) == ()


@pytest.mark.parametrize(
    ("held", "named"),
    [
        ("resnet18", "resnet50"),
        ("resnet50", "resnet18"),
        ("resnet50", "resnet101"),
        ("resnet18", "seresnet18"),
        ("resnet18", "resnetv2_18"),
        ("resnext50_32x4d", "resnet50"),
        ("wide_resnet50_2", "resnet50"),
        ("resnet50", "wide_resnet50_2"),
        ("resnext101_64x4d", "resnext101_32x8d"),
        ("resnet20", "resnet20_b"),
        ("resnet20", "resnet32"),
    ],
)
def test_another_preset_is_named(held, named):
    with pytest.raises(ModelError) as caught:
        reconcile(preset(held), preset(named))
    assert f"the weights are {held}," in str(caught.value)
    assert f"name {held} instead, or pass weights of {named}" in str(caught.value)


def test_a_pruned_network_of_another_skeleton_is_named_too():
    with pytest.raises(ModelError, match="name resnet34 instead"):
        reconcile(narrowed(preset("resnet34")), preset("resnet18"))


def test_an_unknown_skeleton_is_described():
    spec = preset("resnet18")
    odd = replace(spec, stages=(*spec.stages[:3], (spec.stages[3][0],) * 1))
    with pytest.raises(
        ModelError, match="a basic network of 2-2-2-1 blocks with projections; the model named is resnet18"
    ):
        reconcile(odd, spec)


def test_pruned_widths_are_harmless():
    (note,) = reconcile(narrowed(preset("resnet50")), preset("resnet50"))
    assert "narrower than those of resnet50" in note


def test_a_small_stem_is_harmless_and_said():
    spec = preset("resnet18")
    (note,) = reconcile(replace(spec, stem=Stem(kernel=3, stride=1, pool=False)), spec)
    assert note == "the stem is 3x3, taken as stride 1 without pooling"


def test_descriptions_tell_networks_apart():
    assert describe(preset("resnext50_32x4d")) == "a bottleneck network of 3-4-6-3 blocks with groups, projections"
    assert describe(preset("resnetv2_18")).startswith("a pre-activation basic network of 2-2-2-2")
