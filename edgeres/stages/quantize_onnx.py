"""Quantize a foreign graph: NNCF chooses ranges and places, then the result is brought under the target's scheme."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx

from edgeres.artifact import Exported, File, Step
from edgeres.errors import StageError
from edgeres.measure import agreement
from edgeres.onnxfile import census
from edgeres.onnxfile.accumulators import require_room
from edgeres.onnxfile.execute import runner
from edgeres.onnxfile.rewrite import Rewritten, rewrite
from edgeres.onnxfile.roles import float_nodes
from edgeres.quant.calibration_table import NAME, CalibrationTable, encode
from edgeres.quant.foreign import quantize_float_graph
from edgeres.quant.qparams import QuantTable
from edgeres.settings import digest, plain, settings
from edgeres.stages.stage import Read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.progress import Progress
    from edgeres.stages.stage import Context

_COMPARED = 64
"""Calibration images on which the graphs are compared."""


class _Images:
    """Images of a split one by one, as often as they are asked for; never more than a few in memory."""

    def __init__(self, split: Split, preprocess: Preprocess) -> None:
        self.split = split
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.split)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Batches ``[1,3,H,W]``."""
        for batch, _ in self.split.batches(self.preprocess, 1):
            yield batch


@settings
class QuantizeOnnx:
    """Recipe entry ``quantize_onnx``."""

    name: ClassVar[str] = "quantize_onnx"
    version: ClassVar[int] = 2
    reads: ClassVar[tuple[Read, ...]] = ("scheme", "calibration")

    def __call__(self, artifact: Exported, context: Context) -> Exported:
        """Quantizes a float graph; a target without integers passes it through and says so.

        Raises:
            StageError: NNCF refuses the graph, or its result cannot be brought under the scheme.
        """
        scheme = context.target.scheme
        if scheme is None:
            note = "the target has no INT8: the network stays in float"
            step = Step(stage=self.name, settings=plain(self), metrics={}, notes=(note,))
            return replace(artifact, card=artifact.card.after(step))
        if artifact.scales is not None:
            raise StageError(f"{artifact.card.name} is quantized already", "remove the second quantize from the recipe")
        if scheme.weight_bits != 8:
            raise StageError(
                f"NNCF quantizes the weights of a foreign graph to 8 bits, the target wants {scheme.weight_bits}",
                "choose another target",
            )
        model = onnx.load_model_from_string(artifact.float_model.path.read_bytes())
        split, preprocess = context.calibration, artifact.card.preprocess
        with context.progress.task("calibrate", len(split)) as advance:
            by_nncf = quantize_float_graph(
                model, _Images(split, preprocess), scheme, float_nodes=float_nodes(model, scheme), advance=advance
            )
        rewritten = rewrite(by_nncf, scheme)
        require_room(rewritten.model)
        compared = split.take(range(min(_COMPARED, len(split))))
        metrics = _compare(model, by_nncf, rewritten.model, _Images(compared, preprocess), context.progress)
        counted = census.qdq(rewritten.model)
        metrics |= {"activation_quantizers": counted.activations, "integer_weights": counted.weights}
        metrics |= {"retyped_pairs": rewritten.retyped, "released_reads": rewritten.released}
        step = Step(
            stage=self.name, settings=plain(self), metrics=metrics, notes=_notes(rewritten, metrics, scheme.signed)
        )
        table = QuantTable(
            activations=rewritten.activations,
            weights=rewritten.weights,
            calibrator="nncf",
            data=digest([split.digest, plain(preprocess)]),
            images=len(split),
            network=artifact.float_model.sha256,
        )
        saved = CalibrationTable(model=artifact.card.name, preprocess=preprocess, scheme=scheme, table=table)
        quantized, scales = context.workspace / "model.onnx", context.workspace / NAME
        quantized.write_bytes(rewritten.model.SerializeToString(deterministic=True))
        scales.write_text(encode(saved), encoding="utf-8")
        return Exported(artifact.card.after(step), File.of(quantized), artifact.float_model, File.of(scales))


def _compare(
    given: ModelProto, by_nncf: ModelProto, rewritten: ModelProto, images: _Images, progress: Progress
) -> dict[str, float]:
    """What quantization costs, and what the rewrite costs on top, node by node as ONNX defines them."""
    runners = [runner(model, optimise=False) for model in (given, by_nncf, rewritten)]
    rows: list[list[NDArray[np.float32]]] = [[], [], []]
    with progress.task("compare with float", len(images)) as advance:
        for batch in images:
            for found, run in zip(rows, runners, strict=True):
                found.append(run(batch))
            advance(1)
    wanted, nncf, got = (np.concatenate(found) for found in rows)
    classes = [[int(index) for index in logits.argmax(1)] for logits in (wanted, nncf, got)]
    return {
        "agreement": agreement(classes[0], classes[2]),
        "nncf_agreement": agreement(classes[0], classes[1]),
        "rewrite_agreement": agreement(classes[1], classes[2]),
        "rewrite_max_abs_delta_logit": float(np.max(np.abs(nncf - got))),
    }


def _notes(rewritten: Rewritten, metrics: dict[str, float], signed: bool) -> tuple[str, ...]:
    """What the rewrite did and what it costs."""
    kind = "int8 with zero-point 0" if signed else "uint8"
    cost = (
        f"max |delta logit| {metrics['rewrite_max_abs_delta_logit']:.3g}, the same class on"
        f" {metrics['rewrite_agreement']:.4g} % of the calibration images compared"
    )
    notes = [f"NNCF's graph was brought under the target's scheme: {cost}"]
    if rewritten.retyped:
        notes.append(f"{rewritten.retyped} activation pairs became {kind}, keeping their range")
    if rewritten.released:
        notes.append(f"{rewritten.released} reads went back to float: the target fuses more without their Q/DQ")
    if rewritten.raised:
        notes.append(
            f"{rewritten.raised} channels have weights so small beside their bias that int32 could not hold it at the "
            "scale of the weights: their scale was raised"
        )
    if rewritten.biases:
        notes.append(f"{rewritten.biases} quantized biases went back to float")
    return tuple(notes)
