"""Weight scales under which int32 holds every sum, whatever made them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from trapped_networks import TRAPS, images, quantized, table_of, trapped

from edgeres.errors import ModelError, StageError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.nncf import nncf_quantized
from edgeres.onnx_graph.stored_weights import overflows, require_room
from edgeres.onnx_graph.write import write_model
from edgeres.quant.algorithms.bias_correction import empirical_bias
from edgeres.quant.algorithms.block_reconstruction import reconstructed
from edgeres.quant.algorithms.channel_scaling import rescaled
from edgeres.quant.algorithms.equalization import balancing_scales
from edgeres.quant.algorithms.fisher_information import importance
from edgeres.quant.algorithms.gptq import gptq_rounded
from edgeres.quant.algorithms.range_search import refined
from edgeres.quant.learned_network import LearnedNetwork
from edgeres.quant.qparams import INT32_MAX, LIMIT, PEAK, SMALLEST, QParams, roomy_scales
from edgeres.quant.quant_table import narrow_channels
from edgeres.quant.quantized import Quantized
from edgeres.targets.target import find_target

SCHEMES = {
    "jetson": find_target("jetson").scheme,
    "cpu": replace(find_target("cpu").scheme, reduce_range=True),  # sums of 16 bits play no part here
    "w4a8": replace(find_target("jetson").scheme, weight_bits=4),
}


def written(made: Quantized, table=None):
    bits = max(params.bits for params in made.table.weights.values())
    opset, version = (17, 8) if bits > 4 else (21, 10)
    return write_model(
        made.graph, made.weights, (12, 12), opset=opset, ir_version=version,
        table=table or made.table, placement=made.placement,
    )  # fmt: skip


def test_the_least_scale_by_hand():
    """One weight of 1e-9, bias 5, input scale 0.02: 250 / 2**30 to within the room for the product."""
    scale = roomy_scales(np.array([1e-9 / 127], np.float32), np.array([[1e-9]]), np.array([5.0]), 0.02)
    assert scale[0] == pytest.approx(250 / 2**30, rel=1e-6)
    assert round(5 / (0.02 * float(scale[0]))) == pytest.approx(2**30, rel=1e-6)


def test_scales_with_room_stay_to_the_last_bit():
    weight = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    scale = (np.abs(weight).max(1) / 127).astype(np.float32)
    assert np.array_equal(roomy_scales(scale, weight, np.array([3.0, -2, 0, 8]), 0.05), scale)


def test_a_row_of_zeros_rounds_its_bias_as_the_others_do():
    """At the scale of 1 that says nothing of weights, a bias of 0.3 would become a multiple of the input's step."""
    weight = np.array([[0.0, 0.0], [1.27, 0.5]])
    scale = roomy_scales(np.array([1.0, 0.01], np.float32), weight, np.array([0.3, 0.3]), 2.0)
    assert scale.tolist() == pytest.approx([0.01, 0.01])
    nothing = roomy_scales(np.ones(2, np.float32), np.zeros((2, 2)), np.array([0.3, 0.0]), 2.0)
    assert np.abs(np.rint(0.3 / (2 * nothing)) * 2 * nothing - 0.3).max() < 1e-6
    assert roomy_scales(np.ones(1, np.float32), np.zeros((1, 2)), np.zeros(1), 2.0).tolist() == [1.0]


def test_a_bias_beyond_every_scale_is_refused_with_its_size():
    with pytest.raises(ModelError, match=r"a bias of 1e\+38 at an input scale of 8.67e-19 has no int32 code"):
        roomy_scales(np.ones(1, np.float32), np.ones((1, 1)), np.array([1e38]), SMALLEST)


@given(
    weight=hnp.arrays(np.float32, (3, 40), elements=st.floats(-10, 10, width=32)),
    power=st.lists(st.integers(-45, 0), min_size=3, max_size=3),
    bias=hnp.arrays(np.float32, 3, elements=st.floats(-1e6, 1e6, width=32)),
    step=st.floats(1e-6, 10),
    share=st.floats(0.1, 1),
)
def test_no_sum_leaves_int32_and_no_output_moves_by_more_than_the_bound(weight, power, bias, step, share):
    weight = weight * np.float32(10.0) ** np.array(power, np.float32)[:, None]
    peaks = np.abs(weight).max(1).astype(np.float64)
    own = np.where(peaks > 0, np.maximum(peaks * share / 127, SMALLEST), 1.0).astype(np.float32)
    found = roomy_scales(own, weight, bias, step)
    params = QParams(scale=tuple(found.tolist()), axis=0, narrow=True)
    codes = params.quantize(weight).astype(np.float64)
    bias_codes = np.rint(bias.astype(np.float64) / (step * found.astype(np.float64)))
    assert (PEAK * np.abs(codes).sum(1) + np.abs(bias_codes) <= min(1.001 * LIMIT, INT32_MAX)).all()
    raised = (found > own) & (peaks > 0)
    reach = 127 * found.astype(np.float64)[:, None]
    covered = np.clip(weight.astype(np.float64), -reach, reach)  # what a range cuts off is not rounding's doing
    moved = PEAK * step * np.abs(params.dequantize(codes.astype(np.int32)).astype(np.float64) - covered).sum(1)
    allowed = PEAK * 40 * (PEAK * np.abs(weight).sum(1, dtype=np.float64) * step + np.abs(bias)) / (2 * LIMIT)
    assert (moved[raised] <= 1.01 * allowed[raised] + 1e-30).all()
    again = roomy_scales(found, weight, bias, step)
    assert np.array_equal(again[peaks > 0], found[peaks > 0])


@pytest.mark.parametrize("name", SCHEMES)
def test_the_trap_bites_without_room_and_is_named(name):
    spec, weights = trapped()
    made = quantized(spec, weights, SCHEMES[name])
    bare = written(made, table_of(spec, weights, SCHEMES[name]))
    found = {node.name: channels for node, channels, _ in overflows(GraphIndex.of(bare))}
    assert {"conv1", "layer1.0.conv1", "layer2.0.conv1", "layer2.1.conv1"} == set(found)
    with pytest.raises(StageError, match=r"conv1: sums of 3 channels reach .* int32 ends at 2147483647"):
        require_room(bare)
    model = written(made)
    require_room(model)
    if name == "w4a8":
        return  # ONNX Runtime has no integer kernels of 4 bits
    optimised, plain = runner(bare)(images()), runner(bare, optimise=False)(images())
    assert np.abs(optimised - plain).max() > 0.1 * np.ptp(plain)
    optimised, plain = runner(model)(images()), runner(model, optimise=False)(images())
    assert np.abs(optimised - plain).max() < 0.01 * np.ptp(plain)


def test_channels_with_narrow_scales_are_counted():
    spec, weights = trapped()
    made = quantized(spec, weights, SCHEMES["jetson"])
    narrow = [channel for channel, (factor, bias) in TRAPS.items() if factor not in (0.0, 1e-4) and bias]
    assert narrow == [0, 2, 3]
    assert narrow_channels(made.table, graph(spec), weights) == dict.fromkeys(
        ("conv1", "layer1.0.conv1", "layer2.0.conv1", "layer2.1.conv1"), len(narrow)
    )


def techniques(scheme):
    """Every technique's network, by name."""
    spec, weights = trapped()
    made, batches = quantized(spec, weights, scheme), lambda: [images()]
    yield "calibrate", made
    yield "range_search", refined(made, batches)
    scales = balancing_scales(made, importance(graph(spec), weights, made.placement, batches))
    equal = rescaled(graph(spec), weights, scales)
    yield "equalization", quantized(spec, equal, scheme)
    yield "bias", empirical_bias(Network(graph(spec), weights).eval(), made, batches)
    yield "gptq", gptq_rounded(weights, made, batches, seed=0)
    yield "block_reconstruction", reconstructed(weights, made, batches, seed=0, iterations=2)
    yield "mixed", made.left_in_float(weights, ("layer1.0.conv2",))
    if scheme.weight_bits == 8:
        singles = [image[None] for image in images()]
        yield "nncf", nncf_quantized(graph(spec), weights, replace(scheme, reduce_range=False), singles, data="0")
    trained = LearnedNetwork(made)
    trained.weight_steps.data.fill_(-3.0)  # training has made every weight scale smaller
    trained.activation_steps.data.fill_(-3.0)
    yield "qat", trained.quantized()
    yield "reused", Quantized(graph(spec), weights, table_of(spec, weights, scheme), scheme)


@pytest.mark.parametrize("name", SCHEMES)
def test_no_technique_writes_a_graph_whose_sums_can_leave_int32(name):
    spec, weights = trapped()
    expected = Network(graph(spec), weights).eval().logits(images())
    for technique, made in techniques(SCHEMES[name]):
        model = written(made)
        assert list(overflows(GraphIndex.of(model))) == [], technique
        if name != "w4a8" and technique not in ("qat", "nncf"):
            found = runner(model)(images())
            assert np.abs(found - expected).max() < 0.03 * np.ptp(expected), technique
