"""Every mutant of our own graph: found by exactly its rule, and repaired where that is mechanical, with a proof."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from benchmarks.draft import Draft
from benchmarks.mutants import MUTANTS, Mutant, mutate
from benchmarks.subjects import images, ours
from edgeres.errors import ModelError, StageError
from edgeres.lint.fixes.proof import prove
from edgeres.lint.linter import fix, lint
from edgeres.onnx_graph.execute import relative_delta, runner
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.read import infer
from edgeres.targets.target import find_target

NO_ONNX = {"Q05", "Q09", "Q10"}
"""Defects that the ONNX checker refuses itself, in the opset where they are."""
JETSON = find_target("jetson")


def target(version: str):
    newer = {"opset": 21, "ir_version": 10} if version == "10.13" else {}
    return replace(JETSON, runtime=replace(JETSON.runtime, tensorrt=version, **newer))


def name(mutant: Mutant) -> str:
    return f"{mutant.rule}{mutant.make.__name__}"


@pytest.fixture(scope="module")
def base():
    return ours(JETSON)


def test_what_is_mutated_is_clean(base) -> None:
    assert lint(base, JETSON) == ()


@pytest.mark.parametrize("mutant", MUTANTS, ids=name)
def test_a_mutant_is_found_by_its_rule(base, mutant: Mutant) -> None:
    found = {finding.rule for finding in lint(mutate(base, mutant), target(mutant.tensorrt))}
    assert found == {mutant.rule, *mutant.also}


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.repaired], ids=name)
def test_a_repair_leaves_nothing_and_computes_the_same(base, mutant: Mutant) -> None:
    broken = infer(mutate(base, mutant))
    before = broken.SerializeToString(deterministic=True)
    fixed = fix(broken, target(mutant.tensorrt))
    assert fixed.left == ()
    assert broken.SerializeToString(deterministic=True) == before
    assert mutant.rule in {rule for done in fixed.repairs for rule in done.rules}
    assert all(done.proof.holds and done.places > 0 and done.proof.tensors > 10 for done in fixed.repairs)
    pixels = images(4, seed=7)
    was, now = runner(broken, optimise=False)(pixels), runner(fixed.model, optimise=False)(pixels)
    exact = all(done.proof.relation == "equal" for done in fixed.repairs)
    assert relative_delta(was, now) <= (1e-5 if exact else 0.05)


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if not m.repaired], ids=name)
def test_findings_without_a_repair_are_left(base, mutant: Mutant) -> None:
    broken = mutate(base, mutant)
    if mutant.rule in NO_ONNX:
        with pytest.raises(ModelError, match="does not hold together"):
            infer(broken)
        return
    fixed = fix(infer(broken), target(mutant.tensorrt))
    assert mutant.rule in {finding.rule for finding in fixed.left}


def test_clean_graph_is_unchanged(base) -> None:
    fixed = fix(base, JETSON)
    assert fixed.repairs == ()
    assert fixed.model is base


def test_a_repair_that_would_change_values_is_refused(base) -> None:
    """uint8 with zero-point 0 on the image cuts negative pixels off; int8 over the same range would not."""
    draft = Draft(base)
    draft.put("image.zero_point", np.array(0, np.uint8))
    with pytest.raises(StageError, match=r"Q02 .*differs by .* quantization steps"):
        fix(infer(draft.model), JETSON)
    spared = fix(infer(draft.model), JETSON, only=frozenset({"W04"}))
    assert spared.repairs == ()
    assert {finding.rule for finding in spared.left} == {"Q02"}


def test_a_graph_for_processors_becomes_one_for_tensorrt() -> None:
    given = ours(find_target("cpu"))
    fixed = fix(given, JETSON)
    assert not [finding for finding in fixed.left if finding.severity == "E"]
    view = GraphIndex.of(fixed.model)
    zeros = [view.value(node.input[2]) for node in view.of_type("QuantizeLinear")]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    assert fixed.agreement == 1


def test_float_parts_become_half_where_typing_is_strong(base) -> None:
    rtx = find_target("rtx")
    fixed = fix(base, rtx)
    assert [(done.rules, done.proof.relation) for done in fixed.repairs] == [(("P11",), "half")]
    assert fixed.left == ()
    assert fixed.relative < 2**-8


def test_weights_within_seven_bits_cannot_saturate() -> None:
    narrow = find_target("x86-avx2")
    given = ours(find_target("cpu"))
    assert {finding.rule for finding in lint(given, narrow)} == {"O03"}
    fixed = fix(given, narrow)
    assert fixed.left == ()
    view = GraphIndex.of(fixed.model)
    codes = [
        view.value(node.input[0])
        for node in view.of_type("DequantizeLinear")
        if node.input[0] in view.constants
    ]  # fmt: skip
    assert max(int(np.abs(value).max()) for value in codes if value.dtype == np.int8) <= 63


def test_old_parsers_get_float_weights_of_the_very_same_values(base) -> None:
    xavier = find_target("xavier-nx:jp4.6")
    fixed = fix(base, xavier)
    assert fixed.left == ()
    assert {done.proof.relation for done in fixed.repairs} == {"equal"}
    assert fixed.relative == 0
    assert fixed.model.ir_version == 7


# ---- the proof itself


def test_a_graph_equals_itself(base) -> None:
    proof = prove(base, base, images(2))
    assert (proof.relation, proof.steps) == ("equal", 0)


@pytest.mark.parametrize("by", [1.5, 1.01, -1])
def test_a_changed_scale_is_no_rewrite(base, by: float) -> None:
    changed = type(base)()
    changed.CopyFrom(base)
    tensor = next(t for t in changed.graph.initializer if t.name == "fc.weight")
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(by), "fc.weight"))
    proof = prove(base, changed, images(2))
    assert not proof.holds
    assert proof.where == "logits"


def test_differences_do_not_accumulate(base) -> None:
    """Two rewrites of half a step each are half a step, not a step and whatever the network makes of it."""
    draft = Draft(base)
    for tensor in ("layer1.0.relu1", "layer2.0.relu1"):
        draft.put(f"{tensor}.scale", np.asarray(draft.value(f"{tensor}.scale") * 1.9, np.float32))
    proof = prove(base, infer(draft.model), images(2))
    assert proof.relation == "one step"
    assert 0.3 < proof.steps <= 1


def test_types_of_shared_tensors_have_to_agree(base) -> None:
    half = fix(base, find_target("rtx")).model
    assert any(tensor.data_type == TensorProto.FLOAT16 for tensor in half.graph.initializer)
    assert not prove(base, half, images(2)).holds  # without leave to round
    assert prove(base, half, images(2), 2**-8).relation == "half"
