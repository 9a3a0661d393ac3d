"""Verify: the deployed engine's predictions on every validation image, and its latency where it runs on this host."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from edgeres.artifacts.artifact import Engine, VerificationResult
from edgeres.artifacts.results import Latency, StageMetrics
from edgeres.backends.backend import Backend, intact
from edgeres.backends.registry import find_backend
from edgeres.errors import StageError
from edgeres.latency.prediction import predict
from edgeres.latency.timer import Timing, interleaved
from edgeres.metrics import agreement, top1
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.operator_counts import peak_bytes
from edgeres.pipeline.parallel import cores, in_order
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.settings import settings
from edgeres.targets.host import peak_rss_mib

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.backends.session import Session
    from edgeres.data.dataset import Dataset


_LEAST, _TAIL = 44, 459
"""Calls from which the 90th and the 99th percentile follow with 99 % confidence: least n with ``q**n <= 0.01``."""
_DECIMALS = 4
"""Decimals of a confidence: more than a report shows, fewer than float32 noise reaches."""
_BATCH = 8
"""Images per batch on any number of cores: activations of 32-pixel images fit a core's cache."""
_MOST = 8
"""Most evaluation threads: each has a copy of both networks and the activations of a batch."""


@settings
class Verify(Stage):
    """Recipe entry ``verify``.

    Attributes:
        threads: Threads of the runtime during the latency measurement.
        seconds: Time cap of the latency measurement, in seconds.
    """

    name = "verify"
    version = 5
    reads = ("target", "validation")

    threads: int = 2
    seconds: float = 8.0

    def cost(self, dataset: Dataset) -> StageCost:
        """Deployed graph and float reference on every validation image."""
        return StageCost(1.5 * len(dataset.validation), 3.0)

    def __call__(self, artifact: Engine, context: Context) -> VerificationResult:
        """Evaluates an engine.

        Raises:
            StageError: There is no float baseline on these validation images, or the logits are not finite.
        """
        baseline = artifact.metadata.baseline
        if baseline is None or baseline.images != context.validation.digest:
            raise StageError("no float baseline on these images", "put '- evaluate' before '- fold_batchnorm'")
        backend = find_backend(context.target.backend)
        deployed, float_reference = _answers(backend, artifact, context)
        latencies = self._latencies(backend, artifact, context) if artifact.runs_here else {}
        model = onnx.load(str(artifact.exported.model.path))
        prediction = predict(model, context.target)
        where = "as this host simulates it; the device has not run it"
        if artifact.runs_here:
            where = f"on {artifact.backend}, the runtime that ships"
        metrics = StageMetrics(
            top1=top1(deployed.classes, baseline.labels),
            float_graph_top1=top1(float_reference.classes, baseline.labels),
            agreement=agreement(baseline.predictions, deployed.classes),
        )
        return VerificationResult(
            engine=artifact.after(self.step(metrics, (f"accuracy of {artifact.entry} {where}",))),
            macs=operator_counts.macs(model),
            parameters=operator_counts.parameters(model),
            predictions=deployed.classes,
            float_predictions=float_reference.classes,
            kernels=backend.integer_kernels(artifact),
            predicted=prediction.predicted if prediction else None,
            latencies=latencies,
            peak_rss_mib=peak_rss_mib() if artifact.runs_here else None,
            peak_activation_bytes=peak_bytes(model, artifact.metadata.preprocess.crop),
            confidences=tuple(zip(float_reference.confidences, deployed.confidences, strict=True)),
        )

    def _latencies(self, backend: Backend, engine: Engine, context: Context) -> dict[str, Latency]:
        """Latency of deployed graph and float reference, batch 1, timed interleaved on the target's runtime."""
        float_graph = intact(engine.exported.float_model)
        image, _ = next(context.validation.take([0]).batches(engine.metadata.preprocess, 1))
        with (
            context.progress.task("latency", 1) as advance,
            backend.engine_session(engine, context.target, self.threads) as shipped,
            backend.session(float_graph, context.target, threads=self.threads) as plain_model,
        ):
            runs = {"float32": lambda: plain_model.run(image)}
            if engine.exported.scales:
                runs["int8"] = lambda: shipped.run(image)
            latencies = interleaved(runs, Timing(least=_LEAST, limit_s=self.seconds), wanted=_TAIL)
            advance(1)
        return latencies


@dataclass(frozen=True, slots=True)
class _Answers:
    """Predicted class index per validation image, and the softmax of that class, rounded for equal bytes."""

    classes: tuple[int, ...]
    confidences: tuple[float, ...]

    @classmethod
    def of(cls, logits: NDArray[np.float32]) -> _Answers:
        """Predictions from logits ``[N,classes]``."""
        return cls(tuple(logits.argmax(1).tolist()), tuple(confidence(logits).round(_DECIMALS).tolist()))


def _logits(sessions: list[Session], images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Logits ``[N,classes]`` of each of a thread's sessions for images ``[N,C,H,W]``."""
    logits = [session.run(images) for session in sessions]
    if not all(np.isfinite(values).all() for values in logits):
        raise StageError("the deployed network returns NaN or infinity", "look at the scales in calibration.json")
    return logits


def _answers(backend: Backend, engine: Engine, context: Context) -> tuple[_Answers, _Answers]:
    """Predictions of the deployed graph and of its float reference, which is the same graph without scales.

    Each image is decoded once. Sessions of one thread each take batches of one size from one stream, so predictions do
    not depend on the number of cores; at most ``workers + AHEAD`` batches, beside the two being decoded, are in memory.
    """
    alone = backend.concurrent(engine)
    threads = 1 if alone else None
    with ExitStack() as stack, context.progress.task("verify", len(context.validation)) as advance:

        def opened() -> list[Session]:
            sessions = [stack.enter_context(backend.engine_session(engine, context.target, threads))]
            if engine.exported.scales:
                graph = intact(engine.exported.float_model)
                sessions.append(stack.enter_context(backend.session(graph, context.target, threads=threads)))
            return sessions

        workers = [opened() for _ in range(min(cores(), _MOST) if alone else 1)]
        batches = (images for images, _ in context.validation.batches(engine.metadata.preprocess, _BATCH))
        parts = []
        for logits in in_order(workers, batches, _logits):
            parts.append(logits)
            advance(len(logits[0]))
    answers = [_Answers.of(np.concatenate(rows)) for rows in zip(*parts, strict=True)]
    return answers[0], answers[-1]


def confidence(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax ``[N]`` of the largest of the logits ``[N,classes]``."""
    wide = logits.astype(np.float64)
    total: NDArray[np.float64] = np.exp(wide - wide.max(axis=1, keepdims=True)).sum(axis=1)
    return 1 / total
