"""Load a foreign ONNX classifier: read with care, brought to one signature and opset, folded, judged in float."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from onnx import helper

from edgeres.artifact import Baseline, Card, Exported, File, Source, Step
from edgeres.data.contract import check_head
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError, StageError
from edgeres.measure import top1
from edgeres.onnxfile import census
from edgeres.onnxfile.execute import runner
from edgeres.onnxfile.fold import prepare
from edgeres.onnxfile.read import read_model
from edgeres.onnxfile.signature import signature
from edgeres.settings import canonical, plain, settings
from edgeres.stages.stage import Read

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.stages.stage import Context


@settings
class LoadOnnx:
    """Recipe entry ``load_onnx``."""

    name: ClassVar[str] = "load_onnx"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[Read, ...]] = ("runtime", "validation", "classes")

    def __call__(self, artifact: Source, context: Context) -> Exported:
        """Reads, folds and judges a float graph.

        Raises:
            ModelError: The file is no float classifier edgeres can take; the message says what, where, and the way out.
            DataError: The data has more or fewer classes than the graph.
            StageError: The graph has no equivalent in the target's opset, or computes something else once folded.
        """
        if artifact.file is None:
            raise ModelError(f"{artifact.model} is no ONNX file", "give the path of a .onnx file")
        model = read_model(artifact.file.path)
        given = signature(model)
        check_head(context.classes, given.classes)
        wanted = artifact.preprocess.crop if artifact.preprocess else None
        with context.progress.task("fold", 1) as advance:
            prepared = prepare(model, context.target.runtime, wanted)
            advance(1)
        side = int(prepared.model.graph.input[0].type.tensor_type.shape.dim[2].dim_value)
        preprocess, note = choose_preprocess(artifact.preprocess, side)
        card = Card(name=artifact.model, preprocess=preprocess, classes=context.classes)
        baseline = judge(prepared.model, preprocess, context)
        metrics = {
            "top1": baseline.top1,
            "macs": float(census.macs(prepared.model)),
            "parameters": float(census.parameters(prepared.model)),
            "max_abs_delta_logit": prepared.delta,
            "nodes_given": float(prepared.nodes[0]),
            "nodes": float(prepared.nodes[1]),
        }
        step = Step(stage=self.name, settings=plain(self), metrics=metrics, notes=(note,) if note else ())
        _describe(prepared.model, card)
        path = context.workspace / "model.float.onnx"
        path.write_bytes(prepared.model.SerializeToString(deterministic=True))
        saved = File.of(path)
        return Exported(card.after(step, baseline), saved, saved)


def choose_preprocess(given: Preprocess | None, side: int) -> tuple[Preprocess, str]:
    """The preprocessing of a graph that takes square images of ``side`` pixels, and what the user should know of it.

    A file says nothing about preprocessing but the size: what the user leaves open is torchvision's default for
    ImageNet classifiers, with its ratio of 256 to 224 between the resize and the crop.
    """
    base = given or Preprocess()
    resize = round(side * base.resize / base.crop)
    chosen = base if side == base.crop else replace(base, crop=side, resize=resize)
    if given is None:
        how = f"resize {chosen.resize}, crop {side}, ImageNet mean and std"
        return chosen, f"the file says nothing about preprocessing: {how} (--resize, --crop, --mean, --std change it)"
    if chosen is not given:
        return chosen, f"the graph takes {side} px: crop {given.crop} -> {side}, resize {given.resize} -> {resize}"
    return chosen, ""


def judge(model: ModelProto, preprocess: Preprocess, context: Context) -> Baseline:
    """The float graph's answers on the validation images.

    Raises:
        StageError: It answers with something that is no number.
    """
    split, run = context.validation, runner(model)
    predictions: list[int] = []
    with context.progress.task("float baseline", len(split)) as advance:
        for images, _ in split.batches(preprocess):
            logits = run(images)
            if not np.isfinite(logits).all():
                raise StageError("the float graph answers with NaN or infinity", "look at its weights")
            predictions += (int(index) for index in logits.argmax(1))
            advance(len(images))
    labels = tuple(split.labels)
    return Baseline(
        top1=top1(tuple(predictions), labels), predictions=tuple(predictions), labels=labels, images=split.digest
    )


def _describe(model: ModelProto, card: Card) -> None:
    """Lets the file itself say what it is and how images are prepared for it."""
    entries = {
        "edgeres.classes": canonical(list(card.classes)),
        "edgeres.model": card.name,
        "edgeres.preprocess": canonical(plain(card.preprocess)),
    }
    helper.set_model_props(model, entries)
