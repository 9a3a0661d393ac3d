"""NNCF's result in our own terms computes what NNCF's graph computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeres.errors import StageError
from edgeres.metrics import sqnr_db
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.onnx_graph import nncf
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.nncf import nncf_quantized
from edgeres.onnx_graph.write import write_model
from edgeres.quant.quantized import quantized_weights

IMAGES = np.random.default_rng(0).normal(size=(24, 3, 32, 32)).astype(np.float32)


class Batches:
    """Images one by one, and how often they were read."""

    def __init__(self, images=IMAGES):
        self.images, self.read = images, 0

    def __len__(self):
        return len(self.images)

    def __iter__(self):
        for image in self.images:
            self.read += 1
            yield image[None]


def logits(network):
    with torch.no_grad():
        return network(torch.from_numpy(IMAGES)).numpy()


def likeness(first, second):
    """SQNR in decibels of what differs between images: the biases, which all answers share, prove nothing."""
    return sqnr_db(first - first.mean(0), second - second.mean(0))


@pytest.fixture
def graphs(monkeypatch):
    """Every graph that was read back, as the rewrite left it."""
    kept, genuine = [], nncf.rewrite

    def keeping(model, scheme):
        kept.append(genuine(model, scheme))
        return kept[-1]

    monkeypatch.setattr(nncf, "rewrite", keeping)
    return kept


def test_quantized_network_computes_what_nncf_graph_computes(thin, thin_weights, scheme, graphs):
    done, scheme = [], replace(scheme, pools=False)  # so that the placement wants nothing that NNCF leaves out
    made = nncf_quantized(graph(thin), thin_weights, scheme, Batches(), done.append, data="d")
    theirs = runner(graphs[0].model, optimise=False)(IMAGES)
    ours, plain = logits(made.network()), logits(Network(graph(thin), thin_weights).eval())
    assert made.table.calibrator == "nncf"
    assert np.array_equal(theirs.argmax(1), ours.argmax(1))
    # A code on a rounding boundary may fall the other way in float32: on one image, not on the others.
    same = np.abs(theirs - ours).max(1).argsort()[:-1]
    assert likeness(theirs[same], ours[same]) > 60 > likeness(plain, ours) > 10
    assert likeness(theirs, ours) > 40
    assert sum(done) >= len(IMAGES)


def test_placement_has_every_scale_and_nncf_scales_are_unchanged(thin, thin_weights, scheme, graphs):
    made = nncf_quantized(graph(thin), thin_weights, scheme, Batches(), data="d")
    table, placement = made.table, made.placement
    assert tuple(table.activations) == placement.tensors
    assert set(table.weights) == placement.weighted
    theirs = graphs[0].activations
    missing = [tensor for tensor in placement.observed if tensor not in theirs]
    assert all(table.activations[tensor] == theirs[tensor] for tensor in placement.observed if tensor in theirs)
    assert all(table.activations[tensor] == table.activations[origin] for tensor, origin in placement.shared.items())
    assert all(params.signed == scheme.signed for params in table.activations.values())
    assert table.calibrator == (
        f"nncf, {len(missing)} of {len(placement.tensors)} tensors by mse" if missing else "nncf"
    )
    assert len(missing) <= 1
    assert (table.data, table.images) == ("d", len(IMAGES))


def test_nncf_weights_lie_on_their_grid(thin, thin_weights, scheme):
    made = nncf_quantized(graph(thin), thin_weights, scheme, Batches(), data="d")
    again = quantized_weights(made.weights, made.table)
    for name, params in made.table.weights.items():
        weight = made.weights[f"{name}.weight"]
        assert np.array_equal(again[f"{name}.weight"], weight)
        assert len(params.scale) == len(weight)
        assert params.axis == 0
        assert np.abs(weight - thin_weights[f"{name}.weight"]).max() < 0.02 * np.abs(weight).max()
    assert np.array_equal(made.weights["fc.weight"], thin_weights["fc.weight"])
    assert np.array_equal(made.weights["fc.bias"], thin_weights["fc.bias"])
    biases = [f"{op.name}.bias" for op in graph(thin).weighted]
    assert any(not np.array_equal(made.weights[key], thin_weights[key]) for key in biases)  # NNCF corrects some


def test_exported_graph_is_the_evaluated_network(thin, thin_weights, scheme):
    made = nncf_quantized(graph(thin), thin_weights, scheme, Batches(), data="d")
    model = write_model(
        graph(thin), made.weights, (32, 32), opset=17, ir_version=8, table=made.table, placement=made.placement
    )
    shipped, ours = runner(model, optimise=False)(IMAGES), logits(made.network())
    assert np.abs(shipped - ours).max() < 0.004 * np.ptp(ours)


def test_damaged_nncf_scale_changes_logits(thin, thin_weights, scheme, graphs):
    made = nncf_quantized(graph(thin), thin_weights, replace(scheme, pools=False), Batches(), data="d")
    tensor = next(iter(made.table.activations))
    params = made.table.activations[tensor]
    wrong = replace(params, scale=(params.scale[0] * 1.5,))
    other = replace(made, table=replace(made.table, activations={**made.table.activations, tensor: wrong}))
    theirs = runner(graphs[0].model, optimise=False)(IMAGES)
    assert likeness(theirs, logits(other.network())) < 40


@pytest.mark.parametrize("change", [{"weight_bits": 4}, {"reduce_range": True}])
def test_weights_of_other_widths_are_refused(thin, thin_weights, scheme, change):
    with pytest.raises(StageError, match=r"no weights of [47] bits"):
        nncf_quantized(graph(thin), thin_weights, replace(scheme, **change), Batches(), data="d")


def test_no_images_are_refused(thin, thin_weights, scheme):
    with pytest.raises(StageError, match="no calibration images"):
        nncf_quantized(graph(thin), thin_weights, scheme, Batches(IMAGES[:0]), data="d")
