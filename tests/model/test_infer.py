"""Specs read off tensors: whatever was built is found again, whatever is no ResNet is named."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.errors import ModelError
from edgeres.model.graph import graph
from edgeres.model.infer import infer
from edgeres.model.presets import PRESETS, preset
from edgeres.model.spec import Block, ResNetSpec, Stem


@st.composite
def pruned(draw):
    """Random specs with irregular widths, as the pruner leaves them, with customary strides."""
    kind = draw(st.sampled_from(["basic", "bottleneck"]))
    shortcut = draw(st.sampled_from(["projection", "padding"]))
    preactivation = draw(st.booleans())
    kernel = draw(st.sampled_from([3, 5, 7]))
    stem = Stem(width=draw(st.integers(1, 40)), kernel=kernel, stride=2 if kernel > 3 else 1, pool=kernel > 3)
    squeeze = draw(st.booleans())
    stages, width = [], stem.width
    for number in range(draw(st.integers(2, 4))):
        out = draw(st.integers(width, width + 40)) if shortcut == "padding" else draw(st.integers(1, 80))
        blocks = []
        for index in range(draw(st.integers(1, 3))):
            stride = 2 if number and not index else 1
            groups = draw(st.sampled_from([1, 1, 4])) if kind == "bottleneck" else 1
            widths = tuple(groups * draw(st.integers(1, 20)) for _ in range(1 if kind == "basic" else 2))
            projected = shortcut == "projection" and (stride != 1 or width != out)
            blocks.append(
                Block(
                    inner=widths,
                    out=out,
                    stride=stride,
                    groups=groups,
                    projected=projected,
                    squeeze=draw(st.integers(1, 9)) if squeeze else 0,
                )
            )
            width = out
        stages.append(tuple(blocks))
    return ResNetSpec(
        kind=kind,
        stem=stem,
        stages=tuple(stages),
        classes=draw(st.integers(1, 2000)),
        channels=draw(st.sampled_from([1, 3, 4])),
        shortcut=shortcut,
        preactivation=preactivation,
        norm=draw(st.booleans()),
    )


@settings(max_examples=150, deadline=None)
@given(spec=pruned())
def test_round_trip(spec):
    assert infer(graph(spec).parameters) == spec


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_found_with_and_without_norms(name):
    folded = PRESETS[name].normalization == "group"  # group norms stay
    for spec in (PRESETS[name], replace(PRESETS[name], norm=folded, classes=10)):
        assert infer(graph(spec).parameters, PRESETS[name]) == spec


@settings(max_examples=50, deadline=None)
@given(spec=pruned(), stride=st.integers(1, 3), pool=st.booleans())
def test_what_tensors_cannot_tell_comes_from_the_hint(spec, stride, pool):
    hidden = replace(
        spec,
        stem=replace(spec.stem, stride=stride, pool=pool),
        stages=tuple(tuple(replace(block, stride=stride) for block in stage) for stage in spec.stages),
        stride_in="1x1",
    )
    assert infer(graph(spec).parameters, replace(hidden, classes=7)) == hidden


def test_a_hint_of_another_skeleton_is_not_believed():
    spec = preset("resnet50")
    assert infer(graph(spec).parameters, preset("resnet101_v1")) == spec


def broken(change, name="resnet18"):
    shapes = dict(graph(preset(name)).parameters)
    change(shapes)
    with pytest.raises(ModelError) as caught:
        infer(shapes, preset(name))
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("conv1.weight"), "'conv1.weight' is missing"),
        (lambda s: s.pop("fc.weight"), "'fc.weight' is missing"),
        (lambda s: s.pop("layer3.1.bn2.running_var"), "'layer3.1.bn2.running_var' (256,) is missing"),
        (lambda s: s.pop("layer2.0.conv2.weight"), "'layer2.0.conv2.weight' is missing"),
        (lambda s: [s.pop(key) for key in list(s) if key.startswith("layer2.")], "layer1, layer3, layer4"),
        (lambda s: [s.pop(key) for key in list(s) if key.startswith("layer")], "found none"),
        (lambda s: s.update({"conv1.weight": (64, 3, 7, 5)}), "7x5 kernel"),
        (lambda s: s.update({"conv1.weight": (64, 3, 4, 4)}), "4x4 kernel"),
        (lambda s: s.update({"conv1.weight": (64, 3)}), "expected 4 dimensions"),
        (lambda s: s.update({"layer1.0.conv1.weight": (64, 64, 5, 5)}), "5x5 kernel, expected 3x3"),
        (lambda s: s.update({"layer1.0.bn1.bias": (65,)}), "'layer1.0.bn1.bias' has shape (65,)"),
        (lambda s: s.update({"layer4.0.conv1.weight": (512, 250, 3, 3)}), "the rest of the network needs"),
        (lambda s: s.update({"fc.weight": (10, 500), "fc.bias": (10,)}), "'fc.weight' has shape (10, 500)"),
        (lambda s: s.update({"conv1.bias": (64,)}), "'conv1.bias' (64,) has no place"),
        (lambda s: s.update({"layer1.0.downsample.3.weight": (64,)}), "downsample path of more than"),
        (lambda s: s.update({"conv1.3.weight": (64, 64, 3, 3)}), "'conv1.3.weight' (64, 64, 3, 3) has no place"),
        (lambda s: s.update({"layer2.0.bn1.v": (128,)}), "EvoNorm"),
        (lambda s: s.update({"bn1.tau": (64,)}), "filter response normalization"),
        (lambda s: s.update({"fc.weight": (0, 512)}), "(0, 512)"),
    ],
)
def test_what_is_no_resnet_is_named(change, says):
    assert says in broken(change)


def test_groups_that_do_not_divide():
    message = broken(lambda s: s.update({"layer1.0.conv2.weight": (128, 3, 3, 3)}), "resnext50_32x4d")
    assert "128 input channels do not divide into groups of 3" in message


@pytest.mark.parametrize("name", ["densenet121", "vgg11", "mobilenet_v2", "efficientnet_b0", "vit_b_16", "alexnet"])
def test_other_architectures_are_refused(name):
    import torch

    from edgeres.model.zoo import import_torchvision

    with torch.device("meta"):
        state = import_torchvision().models.get_model(name).state_dict()
    with pytest.raises(ModelError, match=r"take any other classifier in as an \.onnx file"):
        infer({key: tuple(tensor.shape) for key, tensor in state.items()})
