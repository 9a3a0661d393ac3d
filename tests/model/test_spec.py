from dataclasses import replace

import pytest

from edgeres.errors import ModelError
from edgeres.model.families import cifar
from edgeres.model.presets import PRESETS, preset
from edgeres.model.spec import Block, ResNetSpec, Stem


def test_presets_cover_every_family():
    families = {
        *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
        *(f"seresnet{depth}" for depth in (18, 34, 50, 101, 152)),
        *(f"resnetv2_{depth}" for depth in (18, 34, 50, 101, 152)),
        *(f"resnet{depth}_v1" for depth in (50, 101, 152)),
        *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110)),
        *(f"resnet{depth}_b" for depth in (20, 32, 44, 56, 110)),
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "wide_resnet50_2",
        "wide_resnet101_2",
    }
    assert families <= set(PRESETS)


def test_unknown_name_gets_the_nearest():
    with pytest.raises(ModelError, match="did you mean 'resnet50'"):
        preset("resnet-50")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnetv2_50d_evos", "EvoNorm"),
        ("resnet61q", "four convolutions"),
        ("skresnet50d", "selective kernels"),
        ("gcresnext50ts", "global context"),
    ],
)
def test_timms_names_of_other_networks_are_refused_with_the_reason_and_a_way_out(name, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        preset(name)
    assert "compile the .onnx file" in caught.value.hint


@pytest.mark.parametrize("depth", [2, 21, 0, -4])
def test_cifar_depths_are_6n_plus_2(depth):
    with pytest.raises(ModelError, match=r"6 n \+ 2"):
        cifar(depth)


def test_blocks_are_named_and_fed_as_in_torchvision():
    names = [(name, width) for name, width, _ in preset("resnet50").blocks]
    assert names[0] == ("layer1.0", 64)
    assert names[1] == ("layer1.1", 256)
    assert names[-1] == ("layer4.2", 2048)
    assert len(names) == 16


SMALL = {"kind": "basic", "stem": Stem(width=8, kernel=3), "stages": ((Block(inner=(8,), out=8),),)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stages": ()}, "at least one stage"),
        ({"stages": ((),)}, "every stage a block"),
        ({"stem": Stem(width=8, kernel=4)}, "even"),
        ({"stages": ((Block(inner=(8, 8), out=8),),)}, "2 inner widths"),
        ({"kind": "bottleneck"}, "1 inner widths"),
        ({"stages": ((Block(inner=(8,), out=8, groups=2),),)}, "only the 3x3 of a bottleneck"),
        ({"kind": "bottleneck", "stages": ((Block(inner=(6, 8), out=8, groups=4),),)}, "do not divide"),
        ({"stages": ((Block(inner=(8,), out=4),),)}, "cannot be padded"),
    ],
)
def test_impossible_specs_are_refused(change, says):
    with pytest.raises(ModelError, match=says):
        ResNetSpec(**{**SMALL, **change})


def test_a_spec_stays_a_value():
    spec = preset("resnet18")
    assert replace(spec, classes=10) == replace(spec, classes=10)
    assert hash(replace(spec, classes=10)) != hash(spec)
    with pytest.raises(AttributeError):
        spec.classes = 10
