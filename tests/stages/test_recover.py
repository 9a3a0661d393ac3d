from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgeres.artifact import Card, Checkpoint
from edgeres.data.images import ArrayImage
from edgeres.data.preprocess import Preprocess
from edgeres.data.split import Split
from edgeres.errors import StageError
from edgeres.model.network import Network
from edgeres.model.spec import Block, ResNetSpec, Stem
from edgeres.model.weights import Weights
from edgeres.quant.qparams import QuantTable
from edgeres.stages.recover import Recover
from edgeres.stages.stage import Context
from edgeres.target import find_target

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
    card = Card(name="tiny", preprocess=PREPROCESS, classes=("a", "b", "c"))
    network = Network(_spec(12))
    with torch.no_grad():
        network.get_parameter("fc.weight").mul_(4)
    parent = Checkpoint(card, _spec(12), network.weights())
    return Checkpoint(card, _spec(8), _narrowed(parent.weights, 8), teacher=parent)


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
            F.log_softmax(Network(checkpoint.spec, checkpoint.weights).eval()(torch.from_numpy(images)), 1)
            for checkpoint in (teacher, student)
        )
    return F.kl_div(q, p, reduction="batchmean", log_target=True).item()


def test_student_comes_closer_to_its_teacher_and_lets_go_of_it(pruned: Checkpoint, context: Context) -> None:
    assert pruned.teacher is not None
    pruned = replace(pruned, statistics=Weights({"conv1.mean": np.zeros(8)}))
    digests = pruned.digest, pruned.teacher.digest
    recovered = replace(SHORT, alpha=1.0)(pruned, context)
    before, after = (_divergence(one, pruned.teacher, context.train) for one in (pruned, recovered))
    assert after < before / 4
    assert (pruned.digest, pruned.teacher.digest) == digests
    assert recovered.teacher is recovered.statistics is None
    assert recovered.spec == pruned.spec
    assert recovered.card.lineage[-1].stage == "recover"
    assert recovered.card.lineage[-1].metrics["images"] == 30 * 32


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
    assert recovered.card.lineage[-1].metrics["images"] == 40


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
