"""The fewest layers in float: exactly those that are needed, in few questions."""

from math import ceil, log2

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.quant.observer import observe
from edgeres.quant.placement import place
from edgeres.quant.quant_table import quant_table
from edgeres.quant.quantized import Quantized
from edgeres.recovery.techniques.mixed_precision import fewest

LAYERS = tuple(f"layer{index}" for index in range(53))


def asked(needed, layers=LAYERS, most=10**6):
    """The answer, and how many questions it took, where exactly these layers have to be in float."""
    questions = []

    def meets(names):
        questions.append(names)
        return set(needed) <= set(names)

    return fewest(layers, meets, most), questions


@given(st.integers(1, 60).flatmap(lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1), min_size=1))))
def test_exactly_the_layers_that_are_needed_stay_in_float(case):
    size, ranks = case
    layers = tuple(f"l{index}" for index in range(size))
    needed = tuple(layers[rank] for rank in sorted(ranks))
    found, questions = asked(needed, layers)
    assert found == needed
    assert len(set(questions)) == len(questions), "nothing is asked twice"


@pytest.mark.parametrize("rank", [0, 1, 26, 52])
def test_one_layer_to_blame_takes_a_bisection(rank):
    found, questions = asked([LAYERS[rank]])
    assert found == (LAYERS[rank],)
    assert len(questions) <= 2 + ceil(log2(len(LAYERS)))


def test_two_layers_far_back_do_not_take_a_question_for_each_before_them():
    found, questions = asked([LAYERS[31], LAYERS[41]])
    assert found == (LAYERS[31], LAYERS[41])
    assert len(questions) <= 20


def test_after_the_last_question_what_is_kept_is_enough():
    needed = {LAYERS[rank] for rank in range(0, 40, 3)}
    found, questions = asked(needed, most=12)
    assert len(questions) == 12
    assert needed < set(found)


def test_where_all_layers_are_not_enough_there_is_no_answer():
    assert fewest(LAYERS, lambda names: False, 100) is None


def test_a_layer_that_reads_the_image_in_float_answers_as_float(thin, thin_weights, scheme):
    images = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
    placement = place(graph(thin), scheme)
    histograms = observe(Network(graph(thin), thin_weights).eval(), [images], placement.observed)
    table = quant_table(
        thin_weights, histograms, placement, scheme, calibrator="minmax", method="max", data="", images=len(images)
    )
    quantized = Quantized(graph(thin), thin_weights, table, scheme)
    found = quantized.left_in_float(thin_weights, ("conv1",))
    assert "image" in quantized.table.activations
    assert "image" not in found.table.activations

    def stem(network):
        seen = {}
        with torch.inference_mode():
            network(torch.from_numpy(images), seen.__setitem__)
        return seen["conv1"]

    exact = stem(Network(graph(thin), thin_weights).eval())
    assert torch.equal(stem(found.network()), exact)
    assert not torch.equal(stem(quantized.network()), exact)
