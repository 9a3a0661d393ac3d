"""Graphs with several outputs: which one is deployed and judged, and what is said of the others."""

import pytest
from onnx import TensorProto, helper

from edgeres.errors import ModelError
from edgeres.onnx_graph.main_output import with_main_output


def several(**shapes):
    """A graph whose outputs have these shapes, each by a node of its own."""
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in shapes]
    nodes.append(helper.make_node("Identity", ["x"], ["unread"]))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in shapes.items()]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    return helper.make_model(helper.make_graph(nodes, "g", [image], outputs))


FEATURES = {"features": ("N", 64), "logits": ("N", 10)}
MAPS = {"c2": ("N", 16, 8, 8), "c5": ("N", 64, 1, 1), "c3": ("N", 32, 4, 4)}


def outputs(model):
    return [value.name for value in model.graph.output]


def test_a_graph_of_one_output_is_unchanged():
    model = several(logits=("N", 10))
    assert with_main_output(model) == (model, ())


@pytest.mark.parametrize(
    ("shapes", "name", "classes", "chosen"),
    [
        (FEATURES, None, 10, "logits"),
        (FEATURES, None, 64, "features"),
        (FEATURES, "features", 10, "features"),
        (MAPS, None, None, "c5"),
        ({"c4": ("N", 32, 4, 4), "logits": ("N", 10)}, None, 7, "logits"),
    ],
)
def test_the_main_output_is_the_stated_one_or_the_one_that_fits(shapes, name, classes, chosen):
    model = several(**shapes)
    found, (note,) = with_main_output(model, name, classes)
    assert outputs(found) == [chosen]
    assert outputs(model) == list(shapes)
    assert [node.output[0] for node in found.graph.node] == [chosen]
    assert f"output {chosen} is deployed and judged" in note
    assert all(other in note for other in shapes)
    assert ("as stated" in note) == (name is not None)


@pytest.mark.parametrize(
    ("shapes", "classes"),
    [(FEATURES, None), (FEATURES, 7), ({"a": ("N", 5), "b": ("N", 5)}, 5), ({"a": ("N", 4, 8, 8), "b": ("N",)}, 4)],
)
def test_without_one_that_fits_all_are_listed(shapes, classes):
    with pytest.raises(ModelError, match="the graph has 2 outputs: ") as refused:
        with_main_output(several(**shapes), None, classes)
    assert all(name in refused.value.what for name in shapes)
    assert "--main-output" in refused.value.hint


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ModelError, match="no output 'logit'") as refused:
        with_main_output(several(**FEATURES), "logit")
    assert "logits" in refused.value.hint
    with pytest.raises(ModelError, match="no output 'other'"):
        with_main_output(several(logits=("N", 10)), "other")
