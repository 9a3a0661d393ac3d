"""Load an ONNX classifier: validated, converted to one signature and opset, folded, and evaluated in float."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, helper

from edgeres.artifacts.artifact import Baseline, Exported, File, ModelMetadata, Source
from edgeres.data.contract import check_head
from edgeres.errors import DataError, ModelError, StageError
from edgeres.metrics import top1
from edgeres.model.probe import customary_for
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.fold import prepare
from edgeres.onnx_graph.read import read_model
from edgeres.onnx_graph.signature import Signature, signature
from edgeres.pipeline.stages.fitting import check_chance, fit
from edgeres.pipeline.stages.stage import Context, Stage
from edgeres.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.data.preprocess import Preprocess
    from edgeres.model.probe import Answers


@settings
class LoadOnnx(Stage):
    """Recipe entry ``load_onnx``."""

    name = "load_onnx"
    version = 3
    reads = ("runtime", "tuning", "validation", "classes", "allow")

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
        shape = signature(model)
        check_head(context.classes, shape.classes)
        source, notes = (artifact, ()) if shape.size is None else at_side(artifact, shape.size)
        crop = source.preprocess.crop if source.preprocess else None
        with context.progress.task("fold", 1) as advance:
            prepared = prepare(model, context.target.runtime, crop)
            advance(1)
        answers = runner(prepared.model) if shape.size else _answers(model, shape)
        fitting = fit(answers, source, source.suggested, customary_for(shape.size), context)
        preprocess = fitting.preprocess
        if prepared.model.graph.input[0].type.tensor_type.shape.dim[2].dim_value != preprocess.crop:
            prepared = prepare(model, context.target.runtime, preprocess.crop)
        metadata = ModelMetadata(name=artifact.model, preprocess=preprocess, classes=context.classes)
        baseline = float_baseline(prepared.model, preprocess, context)
        metrics = replace(
            fitting.metrics,
            top1=baseline.top1,
            macs=operator_counts.macs(prepared.model),
            parameters=operator_counts.parameters(prepared.model),
            max_abs_delta_logit=prepared.delta,
            nodes_given=prepared.nodes[0],
            nodes=prepared.nodes[1],
        )
        chance_notes = check_chance(baseline.chance(shape.classes), fitting.shown, allowed="chance" in context.allow)
        step = self.step(
            metrics, (*notes, *fitting.notes, *chance_notes), shown=(*notes, *fitting.shown, *chance_notes)
        )
        helper.set_model_props(prepared.model, metadata.model_props)
        saved = File.written(prepared.model, context.workspace / "model.float.onnx")
        return Exported(metadata.after(step, baseline), saved, saved)


def at_side(source: Source, side: int) -> tuple[Source, tuple[str, ...]]:
    """Stated preprocessing for a graph that takes only square images of ``side`` pixels.

    The crop is set to ``side``, with a note where a stated one was replaced; where a crop was stated or suggested with
    its resize, the resize is scaled with it.

    Raises:
        DataError: A resized side smaller than the graph's.
    """
    suggested = _scaled(source.suggested, side) if source.suggested else None
    stated, notes = source.preprocess, tuple[str, ...]()
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


def _answers(model: ModelProto, shape: Signature) -> Answers:
    """The graph as a function of any number of images; a fixed batch is filled with copies of each image."""
    run = runner(model)

    def answers(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if shape.batch is None:
            return run(images)
        return np.concatenate([run(np.repeat(image[None], shape.batch, axis=0))[:1] for image in images])

    return answers


def float_baseline(model: ModelProto, preprocess: Preprocess, context: Context) -> Baseline:
    """Predictions of the float graph on the validation images.

    Raises:
        StageError: Its logits are not finite.
    """
    split, run, classes = context.validation, runner(model), list[int]()
    with context.progress.task("float baseline", len(split)) as advance:
        for images, _ in split.batches(preprocess):
            logits = run(images)
            if not np.isfinite(logits).all():
                raise StageError("the float graph returns NaN or infinity", "look at its weights")
            classes += logits.argmax(1).tolist()
            advance(len(images))
    predictions, labels = tuple(classes), tuple(split.labels)
    return Baseline(top1=top1(predictions, labels), predictions=predictions, labels=labels, images=split.digest)
