"""Planted defects are found where they were planted, and nothing is found where there are none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantized_graph import drawn, drawn_spec

from edgeres.parity.integer.network import IntegerNetwork
from edgeres.parity.result import RuntimeRow
from edgeres.parity.study import LOGITS, LayerComparison, nearer
from edgeres.targets.target import find_target

SCHEMES = {"signed": find_target("jetson").scheme, "unsigned": find_target("cpu").scheme}


@pytest.fixture(scope="module", params=SCHEMES)
def network(request):
    return drawn(drawn_spec(), SCHEMES[request.param], 5, images=4)


@pytest.fixture(params=[False, True], ids=["unoptimised", "optimised"])
def row(request, network, tmp_path):
    """Compares a graph in ONNX Runtime with the reference of the graph as it should be."""

    def compared(model=None):
        logits, codes = network.shown(tmp_path, optimise=request.param, model=model)
        exact = network.reference.run(network.images)
        found = {bias: LayerComparison(IntegerNetwork(network.model, bias)) for bias in ("float", "int32")}
        for comparison in found.values():
            comparison.add(network.images, exact, logits, codes)
        bias = nearer(found)
        return RuntimeRow(name="x", title="x", top1=0.0, biases=bias, depths=found[bias].depths())

    return compared


def mutant(network):
    copy = onnx.ModelProto()
    copy.CopyFrom(network.model)
    return copy


def change(model, name, how):
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(how(numpy_helper.to_array(tensor)), name))


def swapped(array):
    return array[[1, 0, *range(2, len(array))]]


def test_unchanged_graph_has_no_divergence(row):
    found = row()
    assert found.diverges is None
    assert [depth.tensor for depth in found.depths][-1] == LOGITS
    assert found.alone < 1e-3 * found.codes
    assert all(depth.steps <= 1 for depth in found.depths)


def test_doubled_weight_scale_diverges_at_its_layer(network, row):
    model = mutant(network)
    change(model, "layer2.0.conv1.weight.scale", lambda scale: 2 * scale)
    assert row(model).diverges.tensor == "layer2.0.relu1"


def test_doubled_activation_scale_diverges_at_its_layer(network, row):
    model = mutant(network)
    change(model, "layer1.0.relu1.scale", lambda scale: 2 * scale)
    assert row(model).diverges.tensor == "layer1.0.relu1"


def test_swapped_channels_diverge_at_their_layer(network, row):
    model = mutant(network)
    for part in ("weight.codes", "weight.scale", "bias"):
        change(model, f"layer1.0.conv1.{part}", swapped)
    assert row(model).diverges.tensor == "layer1.0.relu1"


def test_swapped_classifier_channels_diverge_at_the_logits(network, row):
    model = mutant(network)
    change(model, "fc.weight", lambda weight: np.ascontiguousarray(swapped(weight.T).T))
    found = row(model)
    assert found.diverges.tensor == LOGITS
    assert "fc" in found.diverges.nodes


def test_dropped_residual_diverges_at_the_add(network, row):
    model = mutant(network)
    add = next(node for node in model.graph.node if node.name == "layer2.0.add")
    add.op_type = "Identity"
    del add.input[1]
    found = row(model).diverges
    assert found.tensor == "layer2.0.relu"
    assert "layer2.0.add" in found.nodes


def test_earlier_difference_is_not_attributed_to_a_layer(network, row):
    model = mutant(network)
    change(model, "conv1.weight.scale", lambda scale: 2 * scale)
    first, *rest = (depth for depth in row(model).depths if depth.tensor != "image")
    assert first.unexplained
    assert first.sqnr_db < 10
    assert [depth.unexplained for depth in rest] == [0] * len(rest)
