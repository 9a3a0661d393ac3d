"""What keeps XNNPACK from integers, as lint says it and as the program written for ExecuTorch has it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.draft import Draft
from benchmarks.subjects import THIN, ours
from edgeres.backends.executorch.torch_program import torch_program
from edgeres.errors import StageError
from edgeres.lint.linter import lint
from edgeres.model.spec import Block
from edgeres.targets.target import find_target

CPU = find_target("cpu:executorch")


def found(model) -> set[tuple[str, str]]:
    return {(finding.rule, finding.where) for finding in lint(model, CPU)}


def integer_layers(model) -> int:
    """Layers whose weights go to XNNPACK as codes; the runtime's own record of them is counted in tests/backends."""
    return sum("dequantize_per_channel" in str(node.target) for node in torch_program(model).module.graph.nodes)


def asymmetric_weight(draft: Draft) -> None:
    draft.put("layer1.0.conv2.weight.zero_point", np.full(16, 3, np.int8))


def float_data(draft: Draft) -> None:
    draft.node("layer1.0.conv2").input[0] = "layer1.0.relu1"
    draft.drop("layer1.0.conv2.input0.dequantize")


def float_output(draft: Draft) -> None:
    draft.node("layer1.0.add").input[0] = "layer1.0.conv2"
    draft.drop("layer1.0.add.input0.dequantize", "layer1.0.conv2.quantize")


@pytest.mark.parametrize(
    ("defect", "findings"),
    [
        (asymmetric_weight, {("X05", "layer1.0.conv2")}),
        (float_data, {("X01", "layer1.0.conv2"), ("X01", "layer1.0.conv1")}),
        (float_output, {("X01", "layer1.0.conv2"), ("X02", "layer1.0.add")}),
    ],
)
def test_layers_with_findings_run_in_float(defect, findings) -> None:
    draft = Draft(ours(CPU))
    assert found(draft.model) == set()
    clean = integer_layers(draft.model)
    defect(draft)
    assert found(draft.model) == findings
    assert integer_layers(draft.model) == clean - sum(rule in ("X01", "X05") for rule, _ in findings)


def test_activations_with_a_scale_per_channel_are_refused_by_both() -> None:
    draft = Draft(ours(CPU))
    draft.put("layer1.0.relu1.scale", np.linspace(0.02, 0.04, 16).astype(np.float32))
    draft.put("layer1.0.relu1.zero_point", np.zeros(16, np.uint8))
    for node in ("layer1.0.relu1.quantize", "layer1.0.conv2.input0.dequantize"):
        draft.attribute(node, "axis", 1)
    (first, *_) = lint(draft.model, CPU)
    assert (first.rule, first.severity) == ("X04", "E")
    with pytest.raises(StageError, match="quantize activations per tensor"):
        torch_program(draft.model)


def test_pool_of_one_pixel_is_found() -> None:
    spec = replace(THIN, stages=(*THIN.stages, (Block(inner=(48,), out=48, stride=2),)))
    assert found(ours(CPU, spec)) == {("X03", "layer3.0.subsample")}
