"""Verify: the deployed engine's predictions on every validation image, and its latency where it runs on this host."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import onnx

from edgeres.artifacts.artifact import Engine, Step, VerificationResult
from edgeres.backends.backend import intact
from edgeres.backends.registry import find_backend
from edgeres.errors import StageError
from edgeres.latency.prediction import predict
from edgeres.latency.timer import Timing, interleaved
from edgeres.metrics import agreement, top1
from edgeres.onnx_graph import operator_counts
from edgeres.onnx_graph.operator_counts import peak_bytes
from edgeres.pipeline.parallel import cores, in_order
from edgeres.pipeline.stages.stage import Read
from edgeres.settings import plain, settings
from edgeres.targets.host import peak_rss_mib

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from edgeres.backends.backend import Backend
    from edgeres.backends.session import Session
    from edgeres.latency.timer import Latency
    from edgeres.pipeline.stages.stage import Context


_LEAST, _TAIL = 44, 459
"""Calls from which the 90th and the 99th percentile follow with 99 % confidence: least n with ``q**n <= 0.01``."""
_DECIMALS = 4
"""Decimals of a confidence: more than a report shows, fewer than float32 noise reaches."""
_BATCH = 8
"""Images per batch on any number of cores: activations of 32-pixel images fit a core's cache."""
_MOST = 8
"""Most evaluation threads: each has a copy of both networks and the activations of a batch."""


@settings
class Verify:
    """Recipe entry ``verify``.

    Attributes:
        threads: Threads of the runtime during the latency measurement.
        seconds: Time cap of the latency measurement, in seconds.
    """

    name: ClassVar[str] = "verify"
    version: ClassVar[int] = 5
    reads: ClassVar[tuple[Read, ...]] = ("target", "validation")

    threads: int = 2
    seconds: float = 8.0

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
        metrics = {
            "top1": top1(deployed.classes, baseline.labels),
            "float_graph_top1": top1(float_reference.classes, baseline.labels),
            "agreement": agreement(baseline.predictions, deployed.classes),
        }
        step = Step(stage=self.name, settings=plain(self), metrics=metrics, notes=(_where(artifact),))
        exported = replace(artifact.exported, metadata=artifact.metadata.after(step))
        return VerificationResult(
            engine=replace(artifact, exported=exported),
            macs=operator_counts.macs(model),
            parameters=operator_counts.parameters(model),
            predictions=deployed.classes,
            float_predictions=float_reference.classes,
            kernels=backend.integer_kernels(artifact),
            predicted=prediction.predicted if prediction else None,
            latencies={name: plain(latency) for name, latency in latencies.items()},
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
            found = interleaved(runs, Timing(least=_LEAST, limit_s=self.seconds), wanted=_TAIL)
            advance(1)
        return found


@dataclass(frozen=True, slots=True)
class _Answers:
    """Predictions of a network on the validation images.

    Attributes:
        classes: Predicted class index.
        confidences: Softmax of that class, rounded so that equal runs write equal bytes.
    """

    classes: tuple[int, ...]
    confidences: tuple[float, ...]

    @classmethod
    def of(cls, logits: NDArray[np.float32]) -> _Answers:
        """Predictions from logits ``[N,classes]``."""
        return cls(tuple(logits.argmax(1).tolist()), tuple(confidence(logits).round(_DECIMALS).tolist()))


@dataclass(frozen=True, slots=True)
class _Sessions:
    """Sessions of one evaluation thread.

    Attributes:
        shipped: Session of the deployed graph.
        float_reference: Session of its float reference on the same runtime; None where the network is deployed in
            float.
    """

    shipped: Session
    float_reference: Session | None

    def logits(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits ``[N,classes]`` of the deployed graph and of its float reference, for images ``[N,C,H,W]``."""
        shipped = _finite(self.shipped.run(images))
        return shipped, shipped if self.float_reference is None else _finite(self.float_reference.run(images))


def _answers(backend: Backend, engine: Engine, context: Context) -> tuple[_Answers, _Answers]:
    """Predictions of the deployed graph and of its float reference, each image decoded once.

    Sessions of one thread each take batches of one size from one stream, so predictions do not depend on the number of
    cores; at most ``workers + AHEAD`` batches, beside the two being decoded, are in memory.
    """
    alone = backend.concurrent(engine)
    threads = 1 if alone else None
    parts = []
    with ExitStack() as stack, context.progress.task("verify", len(context.validation)) as advance:

        def float_session() -> AbstractContextManager[Session | None]:
            if not engine.exported.scales:
                return nullcontext()
            return backend.session(intact(engine.exported.float_model), context.target, threads=threads)

        workers = [
            _Sessions(
                stack.enter_context(backend.engine_session(engine, context.target, threads)),
                stack.enter_context(float_session()),
            )
            for _ in range(min(cores(), _MOST) if alone else 1)
        ]
        batches = (images for images, _ in context.validation.batches(engine.metadata.preprocess, _BATCH))
        for pair in in_order(workers, batches, _Sessions.logits):
            parts.append(pair)
            advance(len(pair[0]))
    shipped, float_reference = (np.concatenate(found) for found in zip(*parts, strict=True))
    return _Answers.of(shipped), _Answers.of(float_reference)


def _finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(logits).all():
        raise StageError("the deployed network returns NaN or infinity", "look at the scales in calibration.json")
    return logits


def confidence(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax ``[N]`` of the largest of the logits ``[N,classes]``."""
    wide = logits.astype(np.float64)
    total: NDArray[np.float64] = np.exp(wide - wide.max(axis=1, keepdims=True)).sum(axis=1)
    return 1 / total


def _where(engine: Engine) -> str:
    if engine.runs_here:
        return f"accuracy of {engine.entry} on {engine.backend}, the runtime that ships"
    return f"accuracy of {engine.entry} as this host simulates it; the device has not run it"
