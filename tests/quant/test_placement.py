from dataclasses import replace

import pytest

from edgeres.model.graph import graph
from edgeres.model.operation import IMAGE
from edgeres.model.presets import PRESETS, preset
from edgeres.quant.placement import place
from edgeres.targets.target import find_target

TENSORRT = find_target("jetson").scheme
BOTH = find_target("cpu").scheme


def folded(name):
    return graph(replace(preset(name), norm=False))


@pytest.mark.parametrize(
    ("name", "quantizers"),
    [("resnet18", 20), ("resnet34", 36), ("resnet50", 53), ("resnet101", 104), ("resnet152", 155)],
)
def test_tensorrt_census_is_the_published_one(name, quantizers):
    placement = place(folded(name), TENSORRT)
    assert len(placement.tensors) == quantizers
    assert len(placement.weighted) == quantizers
    assert not placement.shared


def test_tensorrt_quantizes_the_identity_of_every_add_and_nothing_else_of_it():
    net = folded("resnet50")
    edges = place(net, TENSORRT).edges
    for op in net.ops:
        if op.kind == "add":
            assert (op.name, 1) in edges
            assert (op.name, 0) not in edges


def test_identity_of_a_plain_block_shares_the_quantizer_of_its_first_convolution():
    net = folded("resnet18")
    block = net["layer1.1.add"]
    assert block.inputs[1] == net["layer1.1.conv1"].inputs[0]
    assert block.inputs[1] in place(net, TENSORRT).tensors


def test_projected_identity_is_quantized_behind_its_projection():
    assert "layer2.0.downsample.0" in place(folded("resnet18"), TENSORRT).tensors


def test_tensorrt_leaves_classifier_and_last_pool_in_float():
    placement = place(folded("resnet18"), TENSORRT)
    assert "fc" not in placement.weighted
    assert "layer4.1.relu" not in placement.tensors


def test_cpu_runtimes_get_both_inputs_of_every_add_and_both_sides_of_every_pool():
    net = folded("resnet18")
    edges = place(net, BOTH).edges
    for op in net.ops:
        if op.kind == "add":
            assert {(op.name, 0), (op.name, 1)} <= edges
        if op.kind in ("maxpool", "gap"):
            assert (op.name, 0) in edges
            assert all(edge in edges for edge in ((r.name, i) for r, i in net.consumers(op.name)))


def test_a_pool_shares_the_scale_of_its_input():
    assert place(folded("resnet18"), BOTH).shared == {"maxpool": "relu"}


def test_a_padded_identity_shares_the_scale_of_the_block_input_through_subsampling():
    shared = place(folded("resnet20"), TENSORRT).shared
    assert shared == {"layer2.0.zeropad": "layer1.2.relu", "layer3.0.zeropad": "layer2.2.relu"}


def test_squeeze_and_excitation_gates_stay_in_float():
    placement = place(folded("seresnet18"), BOTH)
    assert not [name for name in placement.weighted if ".se." in name]


@pytest.mark.parametrize("name", sorted(PRESETS))
@pytest.mark.parametrize("scheme", [TENSORRT, BOTH])
def test_every_integer_convolution_reads_integers(name, scheme):
    net = folded(name)
    placement = place(net, scheme)
    assert placement.tensors[0] == IMAGE
    assert all((op, 0) in placement.edges for op in placement.weighted)
    assert set(placement.tensors) == {net[op].inputs[index] for op, index in placement.edges}
    assert set(placement.shared.values()) <= set(placement.observed)
