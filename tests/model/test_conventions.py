"""Every counter's figure, to the last operation: two are here, three are golden numbers of the release named."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, convert_num_with_suffix, get_suffix_str

from edgeres.model.conventions import CONVENTIONS
from edgeres.model.cost import layers
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.presets import preset
from edgeres.model.zoo import import_torchvision

RULES = {rule.tool: rule for rule in CONVENTIONS}
COUNTERS = ("fvcore", "thop", "ptflops", "ptflops backend=aten")
COUNTED = {
    "resnet18": (1_819_065_856, 1_824_033_792, 1_825_313_768, 1_814_074_344),
    "resnet34": (3_671_262_720, 3_678_739_456, 3_680_019_432, 3_663_762_408),
    "resnet50": (4_111_512_576, 4_133_742_592, 4_132_436_968, 4_089_185_256),
    "resnet101": (7_833_969_664, 7_866_435_584, 7_865_129_960, 7_801_406_440),
    "resnet152": (11_558_835_200, 11_603_945_472, 11_602_639_848, 11_513_627_624),
    "resnext50_32x4d": (4_259_381_248, 4_288_184_320, 4_286_878_696, 4_230_480_872),
    "resnext101_32x8d": (16_476_534_784, 16_538_955_776, 16_537_650_152, 16_414_016_488),
    "resnext101_64x4d": (15_522_789_376, 15_585_210_368, 15_583_904_744, 15_460_271_080),
    "wide_resnet50_2": (11_426_922_496, 11_455_725_568, 11_454_419_944, 11_398_022_120),
    "wide_resnet101_2": (22_795_599_872, 22_838_050_816, 22_836_745_192, 22_753_051_624),
}
"""Counted by fvcore 0.1.5.post20221221, thop 0.1.1.post2209072238 and ptflops 0.7.5 with torch 2.13 over torchvision
0.28's networks, evaluating one image of 224 x 224."""


def rows_of(name, side=224, **changes):
    return layers(graph(replace(preset(name), **changes)), side, side)


@pytest.mark.parametrize("name", COUNTED)
def test_closed_forms_leave_no_operation_unexplained(name):
    rows = rows_of(name)
    assert tuple(RULES[tool].count(rows) for tool in COUNTERS) == COUNTED[name]


def test_other_sizes_and_other_classes():
    rows = rows_of("resnet50", 160, classes=10)
    assert [RULES[tool].count(rows) for tool in COUNTERS] == [
        2_096_686_080, 2_108_028_928, 2_107_361_290, 2_085_294_090,
    ]  # fmt: skip


def test_a_folded_network_has_biases_instead_of_norms():
    rows = rows_of("resnet18", norm=False)  # torch.fx.experimental.optimization.fuse of torchvision's
    assert [RULES[tool].count(rows) for tool in COUNTERS] == [
        1_814_098_432, 1_814_098_944, 1_822_830_056, 1_816_558_056,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "seresnet50", "resnetv2_50", "resnet20"])
def test_flop_counter_mode_counts_here_and_now(name):
    side = 224 if preset(name).stem.pool else 32
    with torch.device("meta"):
        network, image = Network(graph(preset(name))).eval(), torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    rule, count = RULES["torch FlopCounterMode"], counter.get_total_flops()
    assert rule.count(rows_of(name, side)) == count
    assert rule.written(count) == convert_num_with_suffix(count, get_suffix_str(count))


@pytest.mark.parametrize("name", COUNTED)
def test_torchvision_publishes_these_figures(name):
    models = import_torchvision().models
    published = [weights.meta["_ops"] for weights in models.get_model_weights(name)]
    rule = RULES["torchvision _ops"]
    at_224 = [ops for weights, ops in zip(models.get_model_weights(name), published, strict=True)
              if weights.transforms().crop_size == [224]]  # fmt: skip
    assert at_224
    assert {f"{ops:.3f}" for ops in at_224} == {rule.written(rule.count(rows_of(name)))}


WRITTEN = {
    999: ("0.999K", "999.000B", "999 Mac", "999.000"),
    1_001: ("1.001K", "1.001K", "1.0 KMac", "1001.000"),
    99_999: ("99.999K", "99.999K", "100.0 KMac", "99.999K"),
    100_001: ("0.1M", "100.001K", "100.0 KMac", "100.001K"),
    999_999_999: ("1G", "1000.000M", "1000.0 MMac", "1000.000M"),
    1_819_065_856: ("1.819G", "1.819G", "1.82 GMac", "1819.066M"),
    10**12 + 1: ("1T", "1.000T", "1000.0 GMac", "1000.000B"),
}
"""By ``_format_size``, ``clever_format`` to three places, ``flops_to_string`` and ``convert_num_with_suffix``."""


@pytest.mark.parametrize("count", WRITTEN)
def test_counts_are_written_as_each_tool_writes_them(count):
    tools = ("fvcore", "thop", "ptflops", "torch FlopCounterMode")
    assert tuple(RULES[tool].written(count) for tool in tools) == WRITTEN[count]
