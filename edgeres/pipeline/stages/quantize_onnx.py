"""Quantize an imported ONNX graph: NNCF quantizes it, then its Q/DQ pairs are rewritten to the target's scheme.

That is done for the original graph and for the graph with its channels equalized
(``edgeres.quant.algorithms.cross_layer_equalization``); the one nearer to float on the tuning images is kept.
The float reference is the user's graph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx

from edgeres.artifacts.artifact import Exported, File
from edgeres.artifacts.results import StageMetrics
from edgeres.errors import StageError
from edgeres.metrics import agreement, divergences
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.equalization import Equalized, equalized
from edgeres.onnx_graph.execute import runner
from edgeres.onnx_graph.nncf import quantize_float_graph
from edgeres.onnx_graph.rewrite import Rewritten, rewrite
from edgeres.onnx_graph.roles import float_nodes
from edgeres.onnx_graph.stored_weights import require_room
from edgeres.pipeline.stages.quantization import write_table
from edgeres.pipeline.stages.stage import FLOAT_NOTE, Context, Stage
from edgeres.quant.quant_table import QuantTable
from edgeres.recovery.evaluator import mean_interval, nearer
from edgeres.settings import digest, plain, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.data.preprocess import Preprocess
    from edgeres.data.split import Split
    from edgeres.onnx_graph.execute import Runner
    from edgeres.progress import Progress
    from edgeres.targets.target import QuantScheme

_COMPARED = 64
"""Calibration images on which the graphs are compared."""

_TUNING = 256
"""Tuning images on which two candidates are compared."""


class _Images:
    """Images of a split one by one, iterable many times, with only a few in memory."""

    def __init__(self, split: Split, preprocess: Preprocess) -> None:
        self.split = split
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.split)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Batches ``[1,3,H,W]``."""
        for batch, _ in self.split.batches(self.preprocess, 1):
            yield batch


@dataclass(frozen=True)
class _Candidate:
    """NNCF's quantized graph, and the same graph under the target's scheme."""

    by_nncf: ModelProto
    rewritten: Rewritten


@settings
class QuantizeOnnx(Stage):
    """Recipe entry ``quantize_onnx``.

    Attributes:
        equalize: ``auto`` also tries equalized channels and keeps the graph nearer to float; ``never`` does not.
    """

    name = "quantize_onnx"
    version = 4
    reads = ("scheme", "calibration", "tuning")

    equalize: Literal["auto", "never"] = "auto"

    def __call__(self, artifact: Exported, context: Context) -> Exported:
        """Quantizes a float ONNX graph; for a target without integers the graph is unchanged, with a note.

        Raises:
            StageError: NNCF rejects the graph, its result cannot be rewritten to the scheme, or the accumulator of one
                of its layers may overflow int32.
        """
        scheme = context.target.scheme
        if scheme is None:
            return replace(artifact, metadata=artifact.metadata.after(self.step(notes=(FLOAT_NOTE,))))
        if artifact.scales is not None:
            raise StageError(
                f"{artifact.metadata.name} is quantized already", "remove the second quantize from the recipe"
            )
        if scheme.weight_bits != 8:
            raise StageError(
                f"NNCF quantizes the weights of an imported graph to 8 bits, the target wants {scheme.weight_bits}",
                "choose another target",
            )
        model = onnx.load_model_from_string(artifact.float_model.path.read_bytes())
        split, preprocess = context.calibration, artifact.metadata.preprocess
        images = _Images(split, preprocess)
        chosen, notes, metrics = self._chosen(model, images, _Images(context.tuning, preprocess), scheme, context)
        rewritten, counted = chosen.rewritten, operator_counts.qdq(chosen.rewritten.model)
        require_room(rewritten.model)
        compared = _Images(split.take(range(min(_COMPARED, len(split)))), preprocess)
        metrics = replace(
            _compared(model, chosen, compared, metrics, context.progress),
            activation_quantizers=counted.activations,
            integer_weights=counted.weights,
            retyped_pairs=rewritten.retyped,
            released_reads=rewritten.released,
        )
        step = self.step(metrics, notes + _notes(rewritten, metrics, scheme.signed))
        table = QuantTable(
            activations=rewritten.activations,
            weights=rewritten.weights,
            calibrator="nncf",
            data=digest([split.digest, plain(preprocess)]),
            images=len(split),
            network=artifact.float_model.sha256,
        )
        scales = write_table(artifact.metadata, scheme, table, context.workspace)
        quantized = File.written(rewritten.model, context.workspace / "model.onnx")
        return Exported(artifact.metadata.after(step), quantized, artifact.float_model, scales)

    def _chosen(
        self, model: ModelProto, images: _Images, tuning: _Images, scheme: QuantScheme, context: Context
    ) -> tuple[_Candidate, tuple[str, ...], StageMetrics]:
        """The chosen candidate, with a note on the choice and its metrics."""
        progress = context.progress
        original = _candidate(model, images, scheme, progress, "calibrate")
        if self.equalize == "never" or not len(tuning):
            return original, (), StageMetrics()
        with progress.task("ranges of channels", len(images)) as advance:
            other = equalized(model, images, float_nodes(model, scheme), advance)
        if isinstance(other, str):
            return original, (f"channels were not equalized: {other}",), StageMetrics()
        levelled = _candidate(other.model, images, scheme, progress, "calibrate, equalized")
        few = _Images(tuning.split.take(range(min(_TUNING, len(tuning)))), tuning.preprocess)
        deployed = [runner(one.rewritten.model, optimise=False) for one in (original, levelled)]
        reference, *logits = _logits([runner(model), *deployed], few, progress, "compare candidates")
        kl = [divergences(reference, one) for one in logits]
        better = bool(np.isfinite(kl[1]).all()) and (not np.isfinite(kl[0]).all() or nearer(kl[1], kl[0]))
        metrics = StageMetrics(
            kl_as_given=float(kl[0].mean()),
            kl_equalized=float(kl[1].mean()),
            max_relative_delta_equalized=other.relative,
        )
        return levelled if better else original, (_comparison(other, kl, kept=better),), metrics


def _candidate(model: ModelProto, images: _Images, scheme: QuantScheme, progress: Progress, label: str) -> _Candidate:
    with progress.task(label, len(images)) as advance:
        by_nncf = quantize_float_graph(model, images, scheme, float_nodes=float_nodes(model, scheme), advance=advance)
    return _Candidate(by_nncf, rewrite(by_nncf, scheme))


def _logits(runners: list[Runner], images: _Images, progress: Progress, label: str) -> list[NDArray[np.float32]]:
    """Logits ``[N,classes]`` of each graph, each image decoded once."""
    rows: list[list[NDArray[np.float32]]] = [[] for _ in runners]
    with progress.task(label, len(images)) as advance:
        for batch in images:
            for row, run in zip(rows, runners, strict=True):
                row.append(run(batch))
            advance(1)
    return [np.concatenate(row) for row in rows]


def _comparison(other: Equalized, kl: list[NDArray[np.float64]], *, kept: bool) -> str:
    gain = mean_interval(kl[0] - kl[1])
    what = f"{other.channels} channels were equalized, by up to {other.most:.3g} times within a tensor"
    proof = f"the float function stays, {other.relative:.1e} of the logits' range"
    measure = f"KL to float {kl[0].mean():.2g} as given, {kl[1].mean():.2g} equalized"
    interval = f"gain {gain.mean:.2g} [{gain.low:.2g}, {gain.high:.2g}] on {len(kl[0])} tuning images"
    outcome = "the equalized graph is kept" if kept else "the original graph is kept"
    return f"{what} ({proof}): {measure}, {interval}; {outcome}"


def _compared(
    model: ModelProto, chosen: _Candidate, images: _Images, metrics: StageMetrics, progress: Progress
) -> StageMetrics:
    """Metrics with the error of quantization and of the rewrite, computed node by node by the ONNX definitions."""
    runners = [runner(graph, optimise=False) for graph in (model, chosen.by_nncf, chosen.rewritten.model)]
    wanted, nncf, got = _logits(runners, images, progress, "compare with float")
    classes = [[int(index) for index in logits.argmax(1)] for logits in (wanted, nncf, got)]
    return replace(
        metrics,
        agreement=agreement(classes[0], classes[2]),
        nncf_agreement=agreement(classes[0], classes[1]),
        rewrite_agreement=agreement(classes[1], classes[2]),
        rewrite_max_abs_delta_logit=float(np.max(np.abs(nncf - got))),
    )


def _notes(rewritten: Rewritten, metrics: StageMetrics, signed: bool) -> tuple[str, ...]:
    kind = "int8 with zero-point 0" if signed else "uint8"
    cost = (
        f"max |delta logit| {metrics.rewrite_max_abs_delta_logit:.3g}, the same class on"
        f" {metrics.rewrite_agreement:.4g} % of the calibration images compared"
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
