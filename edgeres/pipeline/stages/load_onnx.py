"""Load an ONNX classifier: validated, converted to one signature and opset, folded, and evaluated in float."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, helper

from edgeres.artifacts.artifact import Baseline, Exported, File, ModelMetadata
from edgeres.artifacts.head import Head
from edgeres.artifacts.source import Source  # noqa: TC001  # a stage\'s annotations are read at runtime
from edgeres.errors import ModelError, StageError
from edgeres.model.probe import customary_for
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.fold import prepare
from edgeres.onnx_graph.inference import for_inference
from edgeres.onnx_graph.main_output import with_main_output
from edgeres.onnx_graph.operator_counts import image_of
from edgeres.onnx_graph.read import read_model
from edgeres.onnx_graph.signature import Signature, signature
from edgeres.pipeline.stages.fitting import check_chance, fit
from edgeres.pipeline.stages.stage import Context, Stage
from edgeres.settings import settings
from edgeres.tasks.measure import baseline_of, batch_size, chance_of, metrics_of, with_threshold
from edgeres.tasks.registry import find_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from edgeres.artifacts.results import StageMetrics
    from edgeres.data.preprocess import Preprocess
    from edgeres.model.probe import Answers
    from edgeres.onnx_graph.fold import Prepared
    from edgeres.pipeline.stages.fitting import Fitting
    from edgeres.progress import Advance
    from edgeres.tasks.task import Task

_BATCH = 32
"""Images of a batch of the float baseline."""


@settings
class LoadOnnx(Stage):
    """Recipe entry ``load_onnx``."""

    name = "load_onnx"
    version = 8
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
        model, changes = for_inference(read_model(artifact.file.path))
        classes = None if artifact.task == "embedding" else len(context.classes)
        model, chosen = with_main_output(model, artifact.main_output, classes)
        shape = signature(model)
        head = Head(task=artifact.task, probabilities=shape.probabilities, scored=context.scored)
        task = find_task(head)
        _check_output(shape, task)
        task.check_head(context.classes, shape.classes)
        source, notes = (artifact, ()) if shape.size is None else artifact.at_size(shape.size)
        notes = (*changes, *chosen, *notes)
        crop = source.preprocess.crop if source.preprocess else None
        with context.progress.task("fold", 1) as advance:
            prepared = prepare(model, context.target.runtime, crop)
            advance(1)
        answers = runner(prepared.model) if shape.size else _answers(model, shape)
        sizes = customary_for(shape.size)
        fitting = fit(answers, source, source.suggested, sizes, context, task=task, channels=shape.channels)
        preprocess = fitting.preprocess
        if image_of(prepared.model)[1][1:] != preprocess.crop:
            prepared = prepare(model, context.target.runtime, preprocess.crop)
        head = with_threshold(head, runner(prepared.model), preprocess, context.tuning)
        metadata = ModelMetadata(name=artifact.model, preprocess=preprocess, classes=context.classes, head=head)
        baseline = float_baseline(prepared.model, preprocess, task, context)
        metrics = _metrics(metrics_of(task, baseline.score), fitting, prepared)
        chance = chance_of(task, baseline, shape.classes)
        chance_notes = check_chance(chance, fitting.shown, allowed="chance" in context.allow)
        step = self.step(
            metrics, (*notes, *fitting.notes, *chance_notes), shown=(*notes, *fitting.shown, *chance_notes)
        )
        helper.set_model_props(prepared.model, metadata.model_props)
        saved = File.written(prepared.model, context.workspace / "model.float.onnx")
        return Exported(metadata.after(step, baseline), saved, saved)


def _metrics(scored: StageMetrics, fitting: Fitting, prepared: Prepared) -> StageMetrics:
    """The score with what the search of the preprocessing and the folding measured."""
    return replace(
        scored,
        probe_top1=fitting.metrics.probe_top1,
        probe_images=fitting.metrics.probe_images,
        macs=operator_counts.macs(prepared.model),
        parameters=operator_counts.parameters(prepared.model),
        max_abs_delta_logit=prepared.delta,
        nodes_given=prepared.nodes[0],
        nodes=prepared.nodes[1],
    )


def _check_output(shape: Signature, task: Task) -> None:
    """Refuses maps for a task of one answer an image, and the reverse."""
    if shape.map == task.maps:
        return
    if shape.map:
        what = f"the output {shape.logits!r} has {shape.classes} values at each of several pixels"
        raise ModelError(what, "pass --task segmentation, or export the network with its pooling and classifier")
    what = f"the output {shape.logits!r} has {shape.classes} values for an image, not for its pixels"
    raise ModelError(what, f"leave --task {task.name} out, or export the map [N,classes,H,W]")


def _answers(model: ModelProto, shape: Signature) -> Answers:
    """The graph as a function of any number of images; a fixed batch is filled with copies of each image."""
    run = runner(model)

    def answers(images: NDArray[np.float32]) -> NDArray[np.float32]:
        if shape.batch is None:
            return run(images)
        return np.concatenate([run(np.repeat(image[None], shape.batch, axis=0))[:1] for image in images])

    return answers


def float_baseline(model: ModelProto, preprocess: Preprocess, task: Task, context: Context) -> Baseline:
    """Predictions of the float graph on the validation images.

    Raises:
        StageError: Its outputs are not finite.
    """
    split, run = context.validation, runner(model)

    def outputs(advance: Advance) -> Iterator[NDArray[np.float32]]:
        for images, _ in split.batches(preprocess, batch_size(task, preprocess, _BATCH)):
            part = run(images)
            if not np.isfinite(part).all():
                raise StageError("the float graph returns NaN or infinity", "look at its weights")
            yield part
            advance(len(images))

    with context.progress.task("float baseline", len(split)) as advance:
        return baseline_of(task, outputs(advance), split, preprocess)
