"""Load an ONNX classifier: validated, converted to one signature and opset, folded, and evaluated in float."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from onnx import helper

from edgeres.artifacts.artifact import Baseline, Exported, File, ModelMetadata, Source, Step
from edgeres.data.chance import Chance
from edgeres.data.contract import check_head
from edgeres.errors import DataError, ModelError, StageError
from edgeres.metrics import top1
from edgeres.model.probe import customary_for
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.fold import prepare
from edgeres.onnx_graph.read import read_model
from edgeres.onnx_graph.signature import signature
from edgeres.pipeline.stages.fitting import check_chance, fit
from edgeres.pipeline.stages.stage import Read
from edgeres.settings import canonical, plain, settings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.data.preprocess import Preprocess
    from edgeres.model.probe import Answers
    from edgeres.onnx_graph.signature import Signature
    from edgeres.pipeline.stages.stage import Context


@settings
class LoadOnnx:
    """Recipe entry ``load_onnx``."""

    name: ClassVar[str] = "load_onnx"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[Read, ...]] = ("runtime", "tuning", "validation", "classes", "allow")

    def __call__(self, artifact: Source, context: Context) -> Exported:
        """Reads, folds and evaluates a float ONNX graph.

        Raises:
            ModelError: The file is not a supported float classifier; the message gives the place and a hint.
            DataError: The data has more or fewer classes than the graph, or another class order.
            ChanceError: The graph is at chance under every preprocessing.
            StageError: The graph has no equivalent in the target's opset, or differs numerically once folded.
        """
        if artifact.file is None:
            raise ModelError(f"{artifact.model} is no ONNX file", "give the path of a .onnx file")
        model = read_model(artifact.file.path)
        given = signature(model)
        check_head(context.classes, given.classes)
        source, notes = (artifact, ()) if given.size is None else at_side(artifact, given.size)
        crop = source.preprocess.crop if source.preprocess else None
        with context.progress.task("fold", 1) as advance:
            prepared = prepare(model, context.target.runtime, crop)
            advance(1)
        answers = runner(prepared.model) if given.size else _answers(model, given)
        fitting = fit(answers, source, source.suggested, customary_for(given.size), context)
        preprocess = fitting.preprocess
        if _side(prepared.model) != preprocess.crop:
            prepared = prepare(model, context.target.runtime, preprocess.crop)
        metadata = ModelMetadata(name=artifact.model, preprocess=preprocess, classes=context.classes)
        baseline = judge(prepared.model, preprocess, context)
        metrics = {
            "top1": baseline.top1,
            "macs": float(operator_counts.macs(prepared.model)),
            "parameters": float(operator_counts.parameters(prepared.model)),
            "max_abs_delta_logit": prepared.delta,
            "nodes_given": float(prepared.nodes[0]),
            "nodes": float(prepared.nodes[1]),
        }
        chance_notes = check_chance(_beside_chance(baseline, given.classes), context.allow, fitting.shown)
        step = Step(
            stage=self.name,
            settings=plain(self),
            metrics=metrics | fitting.metrics,
            notes=(*notes, *fitting.notes, *chance_notes),
            shown=(*notes, *fitting.shown, *chance_notes),
        )
        _describe(prepared.model, metadata)
        path = context.workspace / "model.float.onnx"
        path.write_bytes(prepared.model.SerializeToString(deterministic=True))
        saved = File.of(path)
        return Exported(metadata.after(step, baseline), saved, saved)


def at_side(source: Source, side: int) -> tuple[Source, tuple[str, ...]]:
    """Stated preprocessing for a graph that takes only square images of ``side`` pixels.

    The crop is set to ``side``; where a crop was stated or suggested with its resize, the resize is scaled with it.

    Returns:
        The source, and a note where a stated crop was replaced.

    Raises:
        DataError: A resized side smaller than the graph's.
    """
    suggested = _scaled(source.suggested, side) if source.suggested else None
    stated = source.preprocess
    notes: tuple[str, ...] = ()
    if stated is None:
        return replace(source, suggested=suggested), ()
    left_open = tuple(name for name in source.left_open if name != "crop")
    if left_open != source.left_open:
        if "resize" not in left_open and 0 < stated.resize < side:
            raise DataError(
                f"--resize {stated.resize} is smaller than the {side} px the graph takes",
                "give at least that, or leave it out",
            )
        stated = replace(stated, crop=side)
    elif stated.crop != side:
        scaled = _scaled(stated, side)
        change = f"crop {stated.crop} -> {side}, resize {stated.resize} -> {scaled.resize}"
        stated, notes = scaled, (f"the graph takes {side} px: {change}",)
    return replace(source, preprocess=stated, left_open=left_open, suggested=suggested), notes


def _scaled(preprocess: Preprocess, side: int) -> Preprocess:
    return replace(preprocess, crop=side, resize=round(side * preprocess.resize / preprocess.crop))


def _side(model: ModelProto) -> int:
    return int(model.graph.input[0].type.tensor_type.shape.dim[2].dim_value)


def _answers(model: ModelProto, given: Signature) -> Answers:
    """The graph as a function of any number of images; a fixed batch is filled with copies of each image."""
    run = runner(model)

    def answers(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if given.batch is None:
            return run(images)
        return np.concatenate([run(np.repeat(image[None], given.batch, axis=0))[:1] for image in images])

    return answers


def _beside_chance(baseline: Baseline, classes: int) -> Chance:
    answers, labels = (np.asarray(column, dtype=np.int64) for column in (baseline.predictions, baseline.labels))
    return Chance.of(answers, labels, classes)


def judge(model: ModelProto, preprocess: Preprocess, context: Context) -> Baseline:
    """Predictions of the float graph on the validation images.

    Raises:
        StageError: Its logits are not finite.
    """
    split, run = context.validation, runner(model)
    predictions: list[int] = []
    with context.progress.task("float baseline", len(split)) as advance:
        for images, _ in split.batches(preprocess):
            logits = run(images)
            if not np.isfinite(logits).all():
                raise StageError("the float graph returns NaN or infinity", "look at its weights")
            predictions += (int(index) for index in logits.argmax(1))
            advance(len(images))
    labels = tuple(split.labels)
    return Baseline(
        top1=top1(tuple(predictions), labels), predictions=tuple(predictions), labels=labels, images=split.digest
    )


def _describe(model: ModelProto, metadata: ModelMetadata) -> None:
    """Writes name, classes and preprocessing into the model file's metadata."""
    entries = {
        "edgeres.classes": canonical(list(metadata.classes)),
        "edgeres.model": metadata.name,
        "edgeres.preprocess": canonical(plain(metadata.preprocess)),
    }
    helper.set_model_props(model, entries)
