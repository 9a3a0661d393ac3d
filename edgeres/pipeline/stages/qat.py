"""Quantization-aware training: distillation from the float network, where quantization lost too much accuracy.

Krishnamoorthi 2018 (arXiv 1806.08342, section 4.1) for training through fake quantization with norms folded; weights
and step sizes are learned together as in LSQ (arXiv 1902.08153), from the calibrated scales.
"""

from __future__ import annotations

import time
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from edgeres.artifacts.results import TechniqueResult
from edgeres.errors import StageError
from edgeres.gate.paired_test import Outcome
from edgeres.model.network import Network
from edgeres.pipeline.stages.quantization import evaluator_of
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.pipeline.stages.training import distillation_method, run_training
from edgeres.quant.learned_network import LearnedNetwork
from edgeres.quant.quantized import Quantized
from edgeres.recovery.search import technique_result
from edgeres.settings import plain, settings
from edgeres.training.device import autocast_dtype, training_device
from edgeres.training.feed import Augment
from edgeres.training.loop import distillation
from edgeres.training.method import Count, Precision, Rate

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.artifacts.artifact import Checkpoint
    from edgeres.data.dataset import Dataset
    from edgeres.recovery.evaluator import Evaluation
    from edgeres.training.loop import Objective, TrainingResult

_EPS = 1e-14
"""AdamW's epsilon: gradients in steps of an 8-bit grid are as small as 1e-12."""

_ALL_THE_SAME = "--set qat.when=always trains all the same"


@settings
class Qat(Stage):
    """Recipe entry ``qat``, after ``quantize``.

    Attributes:
        when: ``needed`` trains only where the accuracy gate returns FAIL for the quantized network on the tuning
            images, or is INCONCLUSIVE with a drop over the limit; ``always`` trains in any case. The trained network is
            kept only where it is significantly nearer to float.
        epochs: Passes over the training split.
        max_images: Most training images in all epochs; None for no limit.
        batch: Images per step.
        lr: Peak learning rate of AdamW, in quantization steps of a weight or a scale: 0.002 moves a weight
            by 1/500 of a step per update, with 4 bits and with 8; see ``edgeres.quant.learned_network``.
        weight_decay: Decoupled decay towards the initial weights.
        clip: Largest gradient norm over all parameters.
        temperature: Temperature of both softmaxes in the distillation loss.
        alpha: Weight of the distillation loss; the labels have the rest. Any share of the labels also changes what
            quantization did not: they sharpen the predictions of a network trained with smoothed labels, which takes
            it away from float while its accuracy may rise.
        augment: Augmentation; by default crops of at least 60 % of the area, without mirroring.
        precision: Arithmetic of the float network. The network in training computes in float32, because that
            is what the deployed graph does.
    """

    name = "qat"
    version = 4
    reads = ("scheme", "margin", "train", "tuning", "seed")

    when: Literal["needed", "always"] = "needed"
    epochs: Count = 1
    max_images: Count | None = None
    batch: Count = 32
    lr: Rate = 0.002
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    clip: Rate = 1.0
    temperature: Rate = 1.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 1.0
    augment: Augment = Augment(scale=(0.6, 1.0), flip=False)
    precision: Precision = "float32"

    def cost(self, dataset: Dataset) -> StageCost:
        """A training step through fake quantization and the teacher's forward pass over the training split an epoch."""
        return StageCost(5.0 * len(dataset.train) * self.epochs)

    def __call__(self, artifact: Checkpoint, context: Context) -> Checkpoint:
        """Trains the fake-quantized network where needed; the float weights are kept as the float reference.

        Raises:
            StageError: The network has no scales yet, or the loss is not finite.
            DataError: A training split that cannot be learned from.
        """
        scheme = context.target.scheme
        if scheme is None:
            return self._untrained(artifact, "the target has no INT8: there is nothing to train for")
        if artifact.quant is None:
            raise StageError("qat: the network has no scales to start from", "put '- qat' behind '- quantize'")
        start = Quantized(artifact.graph, artifact.deployed or artifact.weights, artifact.quant, scheme)
        evaluator = evaluator_of(artifact.graph, artifact.weights, artifact.metadata, context, context.margin)
        before = evaluator.evaluation(start, "evaluate what quantize gave")
        if self.when == "needed" and (excuse := _excuse(before, context.margin)):
            note = f"not trained: {excuse}"
            skipped = TechniqueResult(name=self.name, note=note)
            return self._untrained(artifact, note, technique_result("quantize", before, chosen=True), skipped)
        trained, outcome = self._trained(artifact, start, context)
        after = evaluator.evaluation(trained, "evaluate what training gave")
        better = after.better_than(before)
        comparison = _comparison(before, after, better=better)
        evaluation = after if better else before
        step = self.step(
            replace(
                outcome.metrics,
                agreement=evaluation.agreement,
                kl=evaluation.kl if isfinite(evaluation.kl) else None,
                tuning_top1=evaluation.top1,
                tuning_score=None if evaluation.top1 is not None else evaluation.score,
                tuning_drop_pp=evaluation.drop_pp,
            ),
            (comparison, *outcome.conditions),
            techniques=(
                technique_result("quantize", before, chosen=not better),
                technique_result(self.name, after, chosen=better, settings=plain(self), note=comparison),
            ),
        )
        metadata = artifact.metadata.after(step)
        if better:
            return replace(artifact, metadata=metadata, quant=trained.table, deployed=trained.weights)
        return replace(artifact, metadata=metadata)

    def _untrained(self, artifact: Checkpoint, note: str, *techniques: TechniqueResult) -> Checkpoint:
        return replace(artifact, metadata=artifact.metadata.after(self.step(notes=(note,), techniques=techniques)))

    def _trained(self, artifact: Checkpoint, start: Quantized, context: Context) -> tuple[Quantized, TrainingResult]:
        """The trained network, and the metrics and conditions of the training."""
        network, began = LearnedNetwork(start), time.monotonic()
        outcome = run_training(
            network,
            self._objective(artifact, training_device()),
            replace(distillation_method(self), eps=_EPS, precision="float32"),
            artifact.metadata.preprocess,
            context,
            identity=[plain(self), artifact.digest, plain(start.scheme)],
            label=f"qat {artifact.metadata.name}",
        )
        context.timings.add(self.name, time.monotonic() - began)
        return network.quantized(), outcome

    def _objective(self, artifact: Checkpoint, device: torch.device) -> Objective:
        """Distillation loss to the float network, plus the cross-entropy with the labels."""
        teacher = Network(artifact.graph, artifact.weights).eval().requires_grad_(False).to(device)
        distance = distillation(teacher, self.temperature, self.alpha)
        dtype = autocast_dtype(self.precision, device)

        def objective(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                return distance(logits, images.contiguous(memory_format=torch.channels_last), labels)

        return objective


def _excuse(evaluation: Evaluation, margin: float | None) -> str:
    """Why training is not needed, one sentence; empty where the gate returns FAIL or tends to it."""
    interval = f"[{evaluation.low_pp:.2f}, {evaluation.high_pp:.2f}]"
    drop = f"a drop of {evaluation.drop_pp:.2f} pp {interval} on {evaluation.n:,} tuning images"
    match evaluation.outcome:
        case Outcome.FAIL:
            return ""
        case Outcome.PASS:
            return f"{drop} is within the limit of {margin:g} pp"
        case Outcome.INCONCLUSIVE if evaluation.doubtful:
            return ""
        case Outcome.INCONCLUSIVE:
            needed = f", about {evaluation.needed:,} images would" if evaluation.needed else ""
            return f"{drop} does not settle whether the limit of {margin:g} pp is met{needed}; {_ALL_THE_SAME}"
        case None:
            return f"no accuracy limit is set; {_ALL_THE_SAME}"


def _comparison(before: Evaluation, after: Evaluation, *, better: bool) -> str:
    """Whether the trained or the untrained network is kept, and by which figures."""
    measure = f"KL to float {after.kl:.2g} behind training, {before.kl:.2g} before"
    if after.outcome is not before.outcome:
        measure = f"the gate says {after.outcome} behind training, {before.outcome} before; {measure}"
    return f"{measure}; {'the trained network' if better else 'the network of quantize'} is kept"
