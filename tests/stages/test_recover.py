from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgeres.artifacts.artifact import Checkpoint, ModelMetadata
from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import StageError
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import Weights
from edgeres.pipeline.stages.recover import Recover, _Comparison
from edgeres.pipeline.stages.stage import Context
from edgeres.quant.quant_table import QuantTable
from edgeres.targets.target import find_target

if TYPE_CHECKING:
    from pathlib import Path

PREPROCESS = Preprocess(resize=12, crop=12)
SHORT = Recover(epochs=30, batch=8, lr=3e-3)


def _spec(inner: int) -> ResNetSpec:
    """A folded network whose blocks are ``inner`` wide inside."""
    stages = ((Block(inner=(inner,), out=8),), (Block(inner=(inner,), out=16, stride=2, projected=True),))
    stem = Stem(width=8, kernel=3, stride=1, pool=False)
    return ResNetSpec(kind="basic", stem=stem, stages=stages, classes=3, norm=False)


def _narrowed(weights: Weights, keep: int) -> Weights:
    """The same network without the last inner channels of each block."""
    arrays = dict(weights)
    for block in ("layer1.0", "layer2.0"):
        for key in (f"{block}.conv1.weight", f"{block}.conv1.bias"):
            arrays[key] = arrays[key][:keep]
        arrays[f"{block}.conv2.weight"] = arrays[f"{block}.conv2.weight"][:, :keep]
    return Weights(arrays)


@pytest.fixture
def pruned() -> Checkpoint:
    torch.manual_seed(0)
    metadata = ModelMetadata(name="tiny", preprocess=PREPROCESS, classes=("a", "b", "c"))
    network = Network(graph(_spec(12)))
    with torch.no_grad():
        network.get_parameter("fc.weight").mul_(4)
    parent = Checkpoint(metadata, _spec(12), network.weights())
    return Checkpoint(metadata, _spec(8), _narrowed(parent.weights, 8), teacher=parent)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 12, 12, 3), dtype=np.uint8)
    split = Split("train", tuple(ArrayImage(array, "image") for array in pixels), (0, 1, 2, 1) * 8)
    whole = Context(
        target=find_target("cpu"),
        train=split,
        calibration=split,
        tuning=split,
        validation=split,
        classes=("a", "b", "c"),
        seed=3,
        workspace=tmp_path / "work",
        scratch=tmp_path / "scratch",
    )
    return whole.view(Recover.reads)


def _divergence(student: Checkpoint, teacher: Checkpoint, split: Split) -> float:
    """Mean KL(teacher || student) in nats."""
    images, _ = next(split.batches(PREPROCESS, 100))
    with torch.no_grad():
        p, q = (
            F.log_softmax(Network(graph(checkpoint.spec), checkpoint.weights).eval()(torch.from_numpy(images)), 1)
            for checkpoint in (teacher, student)
        )
    return F.kl_div(q, p, reduction="batchmean", log_target=True).item()


def test_student_comes_closer_to_its_teacher_and_lets_go_of_it(pruned: Checkpoint, context: Context) -> None:
    assert pruned.teacher is not None
    digests = pruned.digest, pruned.teacher.digest
    recovered = replace(SHORT, alpha=1.0)(pruned, context)
    before, after = (_divergence(one, pruned.teacher, context.train) for one in (pruned, recovered))
    assert after < before / 4
    assert (pruned.digest, pruned.teacher.digest) == digests
    assert recovered.teacher is None
    assert recovered.spec == pruned.spec
    assert recovered.metadata.lineage[-1].stage == "recover"
    assert recovered.metadata.lineage[-1].metrics.images == 30 * 32


def test_same_input_same_bytes_also_behind_an_interruption(
    pruned: Checkpoint, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgeres.training import loop

    short = replace(SHORT, epochs=4)
    whole = short(pruned, replace(context, scratch=tmp_path / "other"))
    isfinite, calls = loop.isfinite, []

    def interrupted(loss: float) -> bool:
        calls.append(loss)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return isfinite(loss)

    monkeypatch.setattr(loop, "isfinite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        short(pruned, context)
    assert short(pruned, context).digest == whole.digest
    assert len(calls) < 6 + 16


def test_limit_on_images_bounds_the_work(pruned: Checkpoint, context: Context) -> None:
    recovered = replace(SHORT, max_images=40)(pruned, context)
    assert recovered.metadata.lineage[-1].metrics.images == 40


def test_large_gradients_without_norms_stay_finite(pruned: Checkpoint, context: Context) -> None:
    wild = {key: array * (30 if key.endswith("weight") else 1) for key, array in pruned.weights.items()}
    recovered = replace(SHORT, epochs=3)(replace(pruned, weights=Weights(wild)), context)
    assert all(np.isfinite(array).all() for array in recovered.weights.values())


def test_what_cannot_be_recovered_is_refused(pruned: Checkpoint, context: Context) -> None:
    with pytest.raises(StageError, match="behind prune"):
        SHORT(replace(pruned, teacher=None), context)
    table = QuantTable(activations={}, weights={}, calibrator="mse", data="", images=1)
    with pytest.raises(StageError, match="before quantize"):
        SHORT(replace(pruned, quant=table), context)


def _taught(pruned: Checkpoint, context: Context) -> Context:
    """The context with tuning labels on which the teacher is always right, and a limit of 1 pp."""
    assert pruned.teacher is not None
    teacher = Network(graph(pruned.teacher.spec), pruned.teacher.weights)
    images, _ = next(context.train.batches(PREPROCESS, 100))
    labels = tuple(teacher.logits(images).argmax(1).tolist())
    return replace(context, tuning=Split("tuning", context.train.images, labels), margin=1.0)


SHUT = replace(SHORT, epochs=1, lr=1e-9)
"""A recovery that recovers nothing."""


def _broken(pruned: Checkpoint) -> Checkpoint:
    """The pruned network with its classes in another order: it is wrong wherever its teacher is right."""
    arrays = dict(pruned.weights)
    arrays |= {key: np.roll(arrays[key], 1, axis=0) * 3 for key in ("fc.weight", "fc.bias")}
    return replace(pruned, weights=Weights(arrays))


def test_the_unpruned_network_goes_on_where_recovery_is_not_enough(pruned: Checkpoint, context: Context) -> None:
    assert pruned.teacher is not None
    whole = SHUT(_broken(pruned), _taught(pruned, context))
    assert (whole.spec, whole.weights.digest) == (pruned.teacher.spec, pruned.teacher.weights.digest)
    assert whole.teacher is None
    step = whole.metadata.lineage[-1]
    assert step.metrics.tuning_drop_pp > 1
    assert "the unpruned network is used" in step.notes[-1]
    assert "recover.fallback=false" in step.notes[-1]
    assert step.shown == step.notes[-1:]


def test_the_pruned_network_goes_on_where_that_was_asked_for_or_any_drop_is_allowed(
    pruned: Checkpoint, context: Context
) -> None:
    broken, taught = _broken(pruned), _taught(pruned, context)
    for stage, where in ((replace(SHUT, fallback=False), taught), (SHUT, replace(taught, margin=None))):
        kept = stage(broken, where)
        assert kept.spec == pruned.spec
        assert kept.metadata.lineage[-1].metrics.tuning_drop_pp > 1
        assert "is used" not in kept.metadata.lineage[-1].notes[-1]
        assert kept.metadata.lineage[-1].shown == ()


def test_a_recovered_network_goes_on_with_what_it_costs_in_its_notes(pruned: Checkpoint, context: Context) -> None:
    """Of a teacher whose removed channels are unread, the pruned network is the teacher."""
    assert pruned.teacher is not None
    arrays = dict(pruned.teacher.weights)
    for block in ("layer1.0", "layer2.0"):
        arrays[f"{block}.conv2.weight"] = np.array(arrays[f"{block}.conv2.weight"])
        arrays[f"{block}.conv2.weight"][:, 8:] = 0
    teacher = replace(pruned.teacher, weights=Weights(arrays))
    same = replace(pruned, weights=_narrowed(teacher.weights, 8), teacher=teacher)
    recovered = SHUT(same, _taught(same, context))
    assert recovered.spec == pruned.spec
    step = recovered.metadata.lineage[-1]
    assert step.metrics.tuning_drop_pp == 0
    assert abs(step.metrics.tuning_loss_rise) < 1e-3
    assert "lose 0.00 pp of top-1" in step.notes[-1]
    empty = replace(_taught(same, context), tuning=context.train.take([]))
    assert "there are no tuning images" in SHUT(same, empty).metadata.lineage[-1].notes[-1]


def test_a_network_from_which_nothing_was_removed_is_passed_through(pruned: Checkpoint, context: Context) -> None:
    assert pruned.teacher is not None
    whole = replace(pruned.teacher, teacher=pruned.teacher)
    passed = SHORT(whole, context)
    assert passed.weights is whole.weights
    assert passed.teacher is None
    assert passed.metadata.lineage[-1].notes == ("nothing was removed: there is nothing to recover",)


@pytest.mark.parametrize(
    ("drop", "rise", "low", "margin", "worse"),
    [
        (1.0, 0.0, -0.01, 1.0, False),
        (1.1, 0.0, -0.01, 1.0, True),
        (0.0, 0.05, -0.01, 1.0, False),  # large, but no larger than noise
        (0.0, 0.05, 0.01 * math.log(2) + 1e-6, 1.0, True),
        (0.0, 0.05, 0.01 * math.log(2) - 1e-6, 1.0, False),
        (0.0, 0.05, 0.03, 5.0, False),
        (90.0, 5.0, 5.0, None, False),
    ],
)
def test_a_network_is_worse_by_its_answers_or_by_its_loss_beyond_noise(
    drop: float, rise: float, low: float, margin: float | None, worse: bool
) -> None:
    assert _Comparison(100, drop, rise, low, margin).worse is worse
