"""Golden numbers of torchvision's documentation, and agreement with torch's own counter on any network."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from edgeres.model.cost import layer_macs, macs, parameters, shapes
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.spec import Block, ResNetSpec, Stem

GOLDEN = {
    "resnet18": (1_814_073_344, 11_689_512),
    "resnet34": (3_663_761_408, 21_797_672),
    "resnet50": (4_089_184_256, 25_557_032),
    "resnet101": (7_801_405_440, 44_549_160),
    "resnet152": (11_513_626_624, 60_192_808),
}

GIGA = {
    "resnext50_32x4d": (4.2305, 25_028_904),
    "resnext101_32x8d": (16.414, 88_791_336),
    "resnext101_64x4d": (15.460, 83_455_272),
    "wide_resnet50_2": (11.398, 68_883_240),
    "wide_resnet101_2": (22.753, 126_886_696),
}


@pytest.mark.parametrize(("name", "expected"), GOLDEN.items())
def test_imagenet_costs_are_exact(name, expected):
    assert (macs(graph(preset(name)), 224, 224), parameters(graph(preset(name)))) == expected


@pytest.mark.parametrize(("name", "expected"), GIGA.items())
def test_wide_and_grouped_costs_match_the_published_ones(name, expected):
    giga, count = expected
    assert macs(graph(preset(name)), 224, 224) / 1e9 == pytest.approx(giga, abs=5.1e-4)
    assert parameters(graph(preset(name))) == count


@pytest.mark.parametrize(("side", "mega"), [(128, 592.2), (160, 925.3), (192, 1332.4), (224, 1813.6)])
def test_cost_scales_with_the_input(side, mega):
    from dataclasses import replace

    assert macs(graph(replace(preset("resnet18"), classes=10)), side, side) / 1e6 == pytest.approx(mega, abs=0.05)


def test_cifar_costs_are_the_papers():
    # He et al., table 6: 0.27 M, 0.46 M, 0.66 M, 0.85 M and 1.7 M parameters; option A adds none.
    counts = [parameters(graph(preset(f"resnet{depth}"))) for depth in (20, 32, 44, 56, 110)]
    assert [round(count / 1e6, 2) for count in counts] == [0.27, 0.46, 0.66, 0.85, 1.73]
    assert macs(graph(preset("resnet20")), 32, 32) == 40_551_040


def test_stride_in_1x1_is_cheaper_and_has_the_same_parameters():
    original, later = preset("resnet50_v1"), preset("resnet50")
    assert macs(graph(original), 224, 224) == 3_857_973_248  # 3.8e9 in He et al., table 1
    assert parameters(graph(original)) == parameters(graph(later))


@st.composite
def thin_specs(draw):
    """Random small networks of every kind."""
    kind = draw(st.sampled_from(["basic", "bottleneck"]))
    width = draw(st.integers(2, 6))
    stages, current = [], width
    for number in range(draw(st.integers(1, 3))):
        blocks = []
        for index in range(draw(st.integers(1, 2))):
            stride = 2 if number and not index else 1
            groups = draw(st.sampled_from([1, 2])) if kind == "bottleneck" else 1
            out = draw(st.integers(current, current + 4)) if not index else current
            inner = tuple(groups * draw(st.integers(1, 3)) for _ in range(2 if kind == "bottleneck" else 1))
            projected = draw(st.booleans()) if not index else False
            squeeze = draw(st.sampled_from([0, 2]))
            blocks.append(
                Block(inner=inner, out=out, stride=stride, groups=groups, projected=projected, squeeze=squeeze)
            )
            current = out
        stages.append(tuple(blocks))
    kernel = draw(st.sampled_from([3, 7]))
    return ResNetSpec(
        kind=kind,
        stem=Stem(width=width, kernel=kernel, stride=2 if kernel == 7 else 1, pool=kernel == 7),
        stages=tuple(stages),
        classes=draw(st.integers(2, 5)),
        stride_in=draw(st.sampled_from(["3x3", "1x1"])),
        preactivation=draw(st.booleans()),
        norm=draw(st.booleans()),
    )


@settings(max_examples=25, deadline=None)
@given(spec=thin_specs(), height=st.integers(17, 40), width=st.integers(17, 40))
def test_macs_and_shapes_equal_what_torch_counts(spec, height, width):
    network = Network(graph(spec)).eval()
    seen = {}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, height, width), tap=lambda name, tensor: seen.update({name: tuple(tensor.shape[1:])}))
    assert 2 * macs(graph(spec), height, width) == counter.get_total_flops()
    assert shapes(graph(spec), height, width) == seen
    assert parameters(graph(spec)) == sum(parameter.numel() for parameter in network.parameters())


def test_layers_add_up_and_are_the_weighted_operations():
    spec = preset("seresnet50")
    table = layer_macs(graph(spec), 224, 224)
    assert list(table) == [op.name for op in graph(spec).weighted]
    assert table["conv1"] == 49 * 3 * 64 * 112 * 112
    assert table["fc"] == 2048 * 1000
    assert table["layer1.0.se.fc1"] == 256 * 16
