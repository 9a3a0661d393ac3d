"""Export: the ONNX files, checked for validity, costs and numerical parity with torch, operation by operation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnx import helper

from edgeres.artifacts.artifact import Checkpoint, Exported, File
from edgeres.artifacts.results import StageMetrics
from edgeres.errors import StageError
from edgeres.model.cost import macs, parameters
from edgeres.model.graph import graph
from edgeres.model.network import Network
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.pixel_input import with_pixel_input
from edgeres.onnx_graph.stored_weights import require_room
from edgeres.onnx_graph.write import LOGITS, write_model
from edgeres.pipeline.stages.operation_parity import largest_difference
from edgeres.pipeline.stages.quantization import raised_scales, write_table
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.quant.placement import Placement, place
from edgeres.quant.quantized import QuantNetwork
from edgeres.settings import settings

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.data.dataset import Dataset
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split

_COMPARED = 4
"""Calibration images on which every operation is compared."""


@settings
class Export(Stage):
    """Recipe entry ``export``.

    Attributes:
        input: Input of the deployed graph: normalised ``float32``, or ``uint8`` pixels, which the graph normalises.
        layout: Layout of uint8 pixels: ``nchw``, or ``nhwc``.
    """

    name = "export"
    version = 3
    reads = ("scheme", "runtime", "calibration")

    input: Literal["float32", "uint8"] = "float32"
    layout: Literal["nchw", "nhwc"] = "nchw"

    def cost(self, dataset: Dataset) -> StageCost:
        """Writing and checking the graphs, whatever the data."""
        return StageCost(fixed_s=3.0)

    def __call__(self, artifact: Checkpoint, context: Context) -> Exported:
        """Writes ``model.onnx``, ``model.float.onnx`` and ``calibration.json``.

        Raises:
            StageError: A file is not valid ONNX, has other MACs or parameters than the closed form, differs
                numerically from torch, or has an integer layer whose accumulator may overflow int32.
        """
        scheme = context.target.scheme
        table = artifact.quant
        placement = place(graph(artifact.spec), scheme, table.float_layers) if table and scheme else None
        float_model = _write(artifact, context, None)
        model = _write(artifact, context, placement) if placement else float_model
        counted_macs, counted_parameters = _checked_costs(artifact, float_model)
        _checked_costs(artifact, model)
        require_room(model)
        images = context.calibration.take(range(min(_COMPARED, len(context.calibration))))
        batch, _ = next(images.batches(artifact.metadata.preprocess))
        float_delta = _parity(artifact, float_model, None, batch)
        int8_delta = _parity(artifact, model, placement, batch) if placement else None
        metadata, notes = artifact.metadata, _notes(artifact)
        if self.input == "uint8":
            preprocess = self._pixels(metadata.preprocess)
            models = [with_pixel_input(one, preprocess) for one in (float_model, model)]
            proof = _proven((float_model, model), models, images, (metadata.preprocess, preprocess))
            metadata, notes = replace(metadata, preprocess=preprocess), (*notes, proof)
            float_model, model = models
            for one in models:
                helper.set_model_props(one, metadata.model_props)
        saved_float = File.written(float_model, context.workspace / "model.float.onnx")
        saved = File.written(model, context.workspace / "model.onnx")
        metrics = StageMetrics(
            macs=counted_macs,
            parameters=counted_parameters,
            float_max_relative_delta=float_delta,
            int8_max_relative_delta=int8_delta,
            mib=saved.path.stat().st_size / 2**20,
        )
        scales = write_table(metadata, scheme, table, context.workspace) if table and scheme else None
        return Exported(metadata.after(self.step(metrics, notes)), saved, saved_float, scales)

    def _pixels(self, preprocess: Preprocess) -> Preprocess:
        """The preprocessing that is left outside a graph of uint8 pixels; ``StageError`` for deeper images."""
        if preprocess.range is not None:
            low, high = preprocess.range
            what = f"uint8 pixels for images of stored values {low:g} to {high:g}"
            raise StageError(what, "leave --input uint8 out, or convert the images to 8 bits")
        return replace(preprocess, input=self.input, layout=self.layout)


def _proven(
    before: tuple[ModelProto, ModelProto],
    after: list[ModelProto],
    images: Split,
    transforms: tuple[Preprocess, Preprocess],
) -> str:
    """Sentence on the largest difference of a logit between graphs of float images and of uint8 pixels.

    Raises:
        StageError: There is a difference: both compute every node in float32, in the same order.
    """
    (normalised, _), (pixels, _) = (next(images.batches(transform)) for transform in transforms)
    deltas = [
        float(np.abs(runner(first, optimise=False)(normalised) - runner(second, optimise=False)(pixels)).max())
        for first, second in zip(before, after, strict=True)
    ]
    if max(deltas) > 0:
        raise StageError(
            f"the graph of uint8 pixels differs from that of float images by {max(deltas):.1e} in a logit",
            "leave --input uint8 out, and report it",
        )
    shape = ",".join(map(str, ("N", *transforms[1].shape)))
    return (
        f"input uint8 [{shape}], normalised in the graph: max |delta logit| 0 against float input, {len(images)} images"
    )


def _write(artifact: Checkpoint, context: Context, placement: Placement | None) -> ModelProto:
    runtime, size = context.target.runtime, artifact.metadata.preprocess.crop
    return write_model(
        artifact.graph,
        (artifact.deployed or artifact.weights) if placement else artifact.weights,
        size,
        opset=runtime.opset,
        ir_version=runtime.ir_version,
        metadata=artifact.metadata.model_props,
        table=artifact.quant if placement else None,
        placement=placement,
    )


def _notes(artifact: Checkpoint) -> tuple[str, ...]:
    """Notes on layers whose weight scales were raised for their biases."""
    if artifact.quant is None:
        return ()
    return raised_scales(artifact.quant, artifact.graph, artifact.deployed or artifact.weights)


def _checked_costs(artifact: Checkpoint, model: ModelProto) -> tuple[int, int]:
    """MACs and parameters of a graph, which is valid ONNX and has the costs of the closed form."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as failure:
        raise StageError(f"the exported graph is not valid ONNX: {failure}", "please report it") from failure
    size = artifact.metadata.preprocess.crop
    wanted = macs(artifact.graph, *size), parameters(artifact.graph)
    counted = operator_counts.macs(model), operator_counts.parameters(model)
    if counted != wanted:
        raise StageError(
            f"the exported graph counts {counted} MACs and parameters, the spec {wanted}", "please report it"
        )
    return counted


def _parity(artifact: Checkpoint, model: ModelProto, placement: Placement | None, images: NDArray[np.float32]) -> float:
    """Largest relative difference of any operation; ``StageError`` where it is above the tolerance."""
    network = (
        QuantNetwork(artifact.graph, artifact.deployed or artifact.weights, artifact.quant, placement)
        if placement and artifact.quant
        else Network(artifact.graph, artifact.weights)
    )
    ops = network.graph.ops
    tensors = {op.name: LOGITS if op.name == network.graph.output else op.name for op in ops}
    return largest_difference(network, model, tensors, images)
