from dataclasses import replace

import pytest

from edgeres.errors import ModelError
from edgeres.model.graph import check_shapes, graph
from edgeres.model.operation import IMAGE
from edgeres.model.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("norm", [True, False])
def test_names_are_unique_and_inputs_come_first(name, norm):
    seen = {IMAGE}
    for op in graph(replace(PRESETS[name], norm=norm)).ops:
        assert op.name not in seen
        assert set(op.inputs) <= seen
        seen.add(op.name)


def test_folding_leaves_only_the_norms_behind_adds():
    norms = {op.name for op in graph(replace(preset("resnetv2_18"), norm=False)).ops if op.kind == "norm"}
    assert norms == {*(f"layer{n}.{i}.bn1" for n in (1, 2, 3, 4) for i in (0, 1)), "norm"}
    assert not [op for op in graph(replace(preset("resnet50"), norm=False)).ops if op.kind == "norm"]


def test_adds_have_the_branch_first_and_the_identity_second():
    ops = graph(preset("resnet18"))
    assert ops["layer1.0.add"].inputs == ("layer1.0.bn2", "maxpool")
    assert ops["layer2.0.add"].inputs == ("layer2.0.bn2", "layer2.0.downsample.1")
    assert graph(preset("resnet20"))["layer2.0.add"].inputs == ("layer2.0.bn2", "layer2.0.zeropad")


def test_consumers_are_found_with_their_position():
    found = [(op.name, index) for op, index in graph(preset("resnet18")).consumers("maxpool")]
    assert found == [("layer1.0.conv1", 0), ("layer1.0.add", 1)]


def test_shapes_are_checked_by_name():
    network = graph(preset("resnet20"))
    check_shapes(network, network.parameters)
    with pytest.raises(ModelError, match=r"'conv1.weight' \(16, 3, 3, 3\) is missing \(and 1 more\)"):
        check_shapes(network, {k: v for k, v in network.parameters.items() if k not in ("conv1.weight", "fc.bias")})
    with pytest.raises(ModelError, match=r"'aux\.weight'"):
        check_shapes(network, {**network.parameters, "aux.weight": (3,)})
