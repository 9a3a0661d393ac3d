from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.data.size import Size
from edgeres.latency.workload import Work, of_graph, of_model
from edgeres.model.cost import layer_macs
from edgeres.model.graph import graph
from edgeres.model.presets import PRESETS
from edgeres.model.weights import Weights
from edgeres.onnx_graph.write import write_model


def float_model(name, side):
    spec = replace(PRESETS[name], norm=False)
    weights = Weights({key: np.zeros(shape, np.float32) for key, shape in graph(spec).parameters.items()})
    return write_model(graph(spec), weights, (side, side), opset=17, ir_version=8)


def work(c_in=64, c_out=64, kernel=1, groups=1, side=10):
    weights = c_out * c_in // groups * kernel**2
    activations = (c_in + c_out) * side**2
    return Work("x", "conv", c_in, c_out, kernel, 1, groups, side, activations, weights, weights * side**2, True)


@pytest.mark.parametrize(
    ("name", "kernels"), [("resnet18", 23), ("resnet34", 39), ("resnet50", 56), ("resnet101", 107), ("resnet152", 158)]
)
def test_kernels_are_convolutions_products_and_pools(name, kernels):
    assert len(of_graph(graph(PRESETS[name]), Size.square(224), integer=True)) == kernels


@pytest.mark.parametrize(
    ("name", "side"), [("resnet18", 224), ("resnet50_v1", 96), ("resnet20", 32), ("resnext50_32x4d", 64)]
)
def test_macs_are_those_of_the_closed_form(name, side):
    found = {row.name: row.macs for row in of_graph(graph(PRESETS[name]), Size.square(side), integer=True) if row.macs}
    assert found == layer_macs(graph(PRESETS[name]), side, side)


@pytest.mark.parametrize(
    ("name", "side"), [("resnet18", 64), ("resnet50", 64), ("resnext50_32x4d", 64), ("resnet20", 32)]
)
def test_a_graph_and_its_spec_are_the_same_work(name, side):
    """All but the names, which ONNX nodes have of their own."""
    from_graph = [replace(row, name="") for row in of_model(float_model(name, side))]
    assert from_graph == [
        replace(row, name="") for row in of_graph(graph(PRESETS[name]), Size.square(side), integer=False)
    ]


def test_layers_left_in_float():
    rows = of_graph(graph(PRESETS["resnet18"]), Size.square(224), integer=True, float_layers=("fc",))
    assert [row.name for row in rows if not row.integer] == ["fc"]


def test_titles():
    rows = {row.name: row.title for row in of_graph(graph(PRESETS["resnext50_32x4d"]), Size.square(224), integer=True)}
    assert rows["conv1"] == "conv 7x7/2 3-64 at 112"
    assert rows["layer1.0.conv2"] == "conv 3x3 128-128 in 32 groups at 56"
    assert rows["maxpool"] == "pool 3x3/2 64 at 56"
    assert rows["avgpool"] == "pool 2048 at 1"
    assert rows["fc"] == "linear 2048-1000"


def test_tiles_in_closed_form():
    assert work(c_in=64, c_out=64).padded_macs(16) == work(c_in=64, c_out=64).macs
    assert work(c_out=72).padded_macs(16) == work(c_out=80).macs
    stem = work(c_in=3, c_out=64, kernel=7)
    assert stem.padded_macs(16) * 147 == stem.macs * 160


@given(st.integers(1, 100), st.integers(1, 100), st.sampled_from([1, 3, 7]), st.sampled_from([1, 4, 8, 16, 32]))
def test_tiles_cover_the_layer_with_less_than_one_tile_to_spare(c_in, c_out, kernel, multiple):
    layer = work(c_in=c_in, c_out=c_out, kernel=kernel)
    taps = c_in * kernel**2
    assert layer.macs <= layer.padded_macs(multiple)
    assert layer.padded_macs(multiple) * taps * c_out <= layer.macs * (taps + multiple - 1) * (c_out + multiple - 1)
