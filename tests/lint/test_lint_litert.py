"""What lint tells of LiteRT before anything is built."""

from dataclasses import replace

import numpy as np
from onnx import numpy_helper

from benchmarks.subjects import ours
from edgeres.lint.linter import lint
from edgeres.targets.target import find_target

LITERT = find_target("android:litert")


def findings(model) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for finding in lint(model, LITERT):
        told.setdefault(finding.rule, []).append(f"{finding.where}: {finding.what}")
    return told


def test_own_graph_has_no_findings() -> None:
    assert findings(ours(LITERT)) == {}


def test_an_operation_without_a_form_is_an_error() -> None:
    model = ours(LITERT)
    next(node for node in model.graph.node if node.name == "layer1.0.relu1").op_type = "Elu"
    (told,) = (finding for finding in lint(model, LITERT) if finding.rule == "L01")
    assert (told.severity, told.where, told.what) == ("E", "layer1.0.relu1", "edgeres has no Elu for LiteRT")
    assert told.fix == "take a runtime that reads ONNX: the same target without ':litert'"


def test_codes_no_kernel_takes_are_an_error() -> None:
    model = ours(LITERT)
    codes = next(tensor for tensor in model.graph.initializer if tensor.name == "conv1.weight.codes")
    values = np.array(numpy_helper.to_array(codes))
    values.flat[0] = -128
    codes.CopyFrom(numpy_helper.from_array(values, codes.name))
    assert [text.split(";")[0] for text in findings(model)["L01"]] == [
        "conv1: weight codes up to 128 on a symmetric grid"
    ]


def test_sums_of_one_quantized_input_leave_convolutions_in_float() -> None:
    identity = replace(LITERT.scheme, add_inputs="identity")
    told = findings(ours(replace(LITERT, scheme=identity)))
    assert told == {
        "L02": [
            f"{name}: its output is not quantized: it runs in float" for name in ("layer1.0.conv2", "layer2.0.conv2")
        ]
    }
