"""Verify: the deployed engine's predictions on every validation image, and its latency where it runs on this host."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from edgeres.artifacts.artifact import Engine, VerificationResult
from edgeres.artifacts.results import Latency, OutputError, StageMetrics
from edgeres.backends.backend import Backend, intact
from edgeres.backends.registry import find_backend
from edgeres.errors import StageError
from edgeres.latency.prediction import predict
from edgeres.latency.timer import Timing, interleaved
from edgeres.metrics import cosines, sqnr_db
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.operator_counts import peak_bytes
from edgeres.onnx_graph.signature import LOGITS
from edgeres.pipeline.parallel import cores, in_order
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.settings import settings
from edgeres.targets.host import peak_rss_mib
from edgeres.tasks.measure import Answers, Collector, batch_size, score_of
from edgeres.tasks.registry import find_task
from edgeres.tasks.task import rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.artifacts.results import Rows
    from edgeres.backends.session import Session
    from edgeres.data.dataset import Dataset
    from edgeres.tasks.task import Task


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
    version = 6
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
        deployed, float_reference, outputs = _answers(backend, artifact, context)
        latencies = self._latencies(backend, artifact, context) if artifact.runs_here else {}
        model = onnx.load(str(artifact.exported.model.path))
        prediction = predict(model, context.target)
        where = "as this host simulates it; the device has not run it"
        if artifact.runs_here:
            where = f"on {artifact.backend}, the runtime that ships"
        task = find_task(artifact.metadata.head)
        scores = [score_of(task, one.predictions, baseline.labels) for one in (deployed, float_reference)]
        agreeing = task.agreement(np.asarray(baseline.predictions), np.asarray(deployed.predictions))
        metrics = StageMetrics(score=scores[0], float_graph_score=scores[1], agreement=agreeing)
        if task.name == "classification":
            metrics = StageMetrics(top1=scores[0], float_graph_top1=scores[1], agreement=agreeing)
        return VerificationResult(
            engine=artifact.after(self.step(metrics, (f"accuracy of {artifact.entry} {where}",))),
            macs=operator_counts.macs(model),
            parameters=operator_counts.parameters(model),
            predictions=deployed.predictions,
            float_predictions=float_reference.predictions,
            kernels=backend.integer_kernels(artifact),
            predicted=prediction.predicted if prediction else None,
            latencies=latencies,
            peak_rss_mib=peak_rss_mib() if artifact.runs_here else None,
            peak_activation_bytes=peak_bytes(model),
            outputs=outputs,
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
    """Predictions of the validation images, and the probability of a predicted class, rounded for equal bytes."""

    predictions: Rows
    confidences: tuple[float, ...]

    @classmethod
    def of(cls, answers: Answers, labels: NDArray[Any], task: Task) -> _Answers:
        """Predictions from what is kept of the outputs."""
        confidences = task.confidences(answers.sampled)
        rounded = () if confidences is None else tuple(confidences.round(_DECIMALS).tolist())
        return cls(rows(task.predictions(answers.kept, labels)), rounded)


def _logits(sessions: list[Session], images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Logits ``[N,classes]`` of each of a thread's sessions for images ``[N,C,H,W]``."""
    logits = [session.run(images) for session in sessions]
    if not all(np.isfinite(values).all() for values in logits):
        raise StageError("the deployed network returns NaN or infinity", "look at the scales in calibration.json")
    return logits


def _answers(backend: Backend, engine: Engine, context: Context) -> tuple[_Answers, _Answers, tuple[OutputError, ...]]:
    """Predictions of the deployed graph and of its float reference, the same graph without scales, and its error.

    Each image is decoded once. Sessions of one thread each take batches of one size from one stream, so predictions do
    not depend on the number of cores; at most ``workers + AHEAD`` batches, beside the two being decoded, are in memory.
    """
    alone, split, preprocess = backend.concurrent(engine), context.validation, engine.metadata.preprocess
    threads, task = 1 if alone else None, find_task(engine.metadata.head)
    with ExitStack() as stack, context.progress.task("verify", len(split)) as advance:

        def opened() -> list[Session]:
            sessions = [stack.enter_context(backend.engine_session(engine, context.target, threads))]
            if engine.exported.scales:
                graph = intact(engine.exported.float_model)
                sessions.append(stack.enter_context(backend.session(graph, context.target, threads=threads)))
            return sessions

        workers = [opened() for _ in range(min(cores(), _MOST) if alone else 1)]
        batches = (images for images, _ in split.batches(preprocess, batch_size(task, preprocess, _BATCH)))
        collector = Collector(task, split, preprocess, len(workers[0]))
        for logits in in_order(workers, batches, _logits):
            collector.add(*logits)
            advance(len(logits[0]))
    labels, collected = task.labels(split, preprocess), collector.answers()
    answers = [_Answers.of(each, labels, task) for each in collected]
    errors = (_error(collected[-1].sampled, collected[0].sampled),) if task.measures_outputs else ()
    return answers[0], answers[-1], errors


def _error(reference: NDArray[np.float32], deployed: NDArray[np.float32]) -> OutputError:
    """Error of the deployed output ``[N,...]`` to that of the float reference."""
    noise = sqnr_db(reference, deployed)
    return OutputError(
        name=LOGITS,
        shape=tuple(deployed.shape[1:]),
        sqnr_db=noise if np.isfinite(noise) else None,
        cosine=float(cosines(reference, deployed).mean()),
    )
