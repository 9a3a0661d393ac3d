"""Assembly of a ``Run`` report from the artifacts of a pipeline."""

from __future__ import annotations

import platform
from base64 import b64encode
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import edgeres
from edgeres.gate.budget import budget_lines, latency_lines, limits, static_lines
from edgeres.gate.paired_test import Paired, decide, tango
from edgeres.gate.predictions import Answers
from edgeres.metrics import agreement, top1
from edgeres.pipeline.source_digest import source_digest
from edgeres.report.select import FLIPS_SHOWN, worst_first
from edgeres.runs.findings import Accuracy, Calibration, Confusion, Flip, Kernels, TensorScale
from edgeres.runs.run import LatencyRow, Provenance, SplitRow
from edgeres.runs.stage import StageRow
from edgeres.targets.host import machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from PIL import Image as Pillow

    from edgeres.artifacts.artifact import Step, VerificationResult
    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.data.dataset import Dataset
    from edgeres.data.split import Split
    from edgeres.gate.budget import Overrides
    from edgeres.quant.quant_table import QuantTable
    from edgeres.targets.target import Target

_THUMBNAIL = 96


def stage_rows(steps: Iterable[Step]) -> tuple[StageRow, ...]:
    """One report row per step; figures common to all stages have their own columns."""
    rows = []
    for step in steps:
        rest = dict(step.metrics)
        macs, parameters = rest.pop("macs", None), rest.pop("parameters", None)
        rows.append(
            StageRow(
                stage=step.stage,
                top1=rest.pop("top1", None),
                macs=None if macs is None else round(macs),
                parameters=None if parameters is None else round(parameters),
                mib=rest.pop("mib", None),
                metrics=rest,
                notes=step.notes,
                techniques=step.techniques,
            )
        )
    return tuple(rows)


def split_rows(dataset: Dataset) -> tuple[SplitRow, ...]:
    """The four splits with their digests; training images are hashed only where a stage read them."""
    splits = (dataset.calibration, dataset.tuning, dataset.validation)
    return tuple(SplitRow(name=split.name, images=len(split), digest=split.digest) for split in splits)


def paired(verdict: VerificationResult) -> Paired:
    """Paired predictions of the float baseline and the deployed network."""
    baseline = verdict.metadata.baseline
    assert baseline is not None
    return Paired.of(baseline.predictions, verdict.predictions, baseline.labels)


def answers(verdict: VerificationResult, validation: Split) -> Answers:
    """Paired predictions with the sha256 of each image."""
    baseline = verdict.metadata.baseline
    assert baseline is not None
    columns = (baseline.labels, baseline.predictions, verdict.predictions)
    return Answers.of(validation.digest, validation.hashes, *columns)


def accuracy(verdict: VerificationResult, margin_pp: float | None) -> Accuracy:
    """Top-1 of float and deployed network, their paired difference and its confidence interval."""
    baseline, counts = verdict.metadata.baseline, paired(verdict)
    assert baseline is not None
    interval = tango(counts)
    method = "Tango (1998) score interval of the paired difference"
    if margin_pp is not None and margin_pp > 0:
        method += f". {decide(counts, margin_pp).sentence}"
    return Accuracy(
        n=counts.n,
        float_top1=baseline.top1,
        deployed_top1=top1(verdict.predictions, baseline.labels),
        drop_pp=counts.drop,
        low_pp=interval.low,
        high_pp=interval.high,
        b=counts.b,
        c=counts.c,
        agreement=agreement(baseline.predictions, verdict.predictions),
        method=method,
    )


def judged(verdict: VerificationResult, target: Target, overrides: Overrides) -> tuple[BudgetCheck, ...]:
    """Every budget line against its limit, accuracy first."""
    metadata, engine = verdict.metadata, verdict.engine
    known = limits(metadata.name, metadata.preprocess.crop, target, overrides)
    counts = paired(verdict)
    interval = tango(counts)
    how = (
        f"{counts.n} validation images, {counts.b} lost and {counts.c} gained, "
        f"95 % interval {interval.low:+.2f} to {interval.high:+.2f} pp"
    )
    static = static_lines(
        known,
        network=metadata.name,
        crop=metadata.preprocess.crop,
        macs=verdict.macs,
        parameters=verdict.parameters,
        size_bytes=engine.files[engine.entry].path.stat().st_size,
        peak_activation_bytes=verdict.peak_activation_bytes,
    )
    timed = verdict.latencies.get("int8") or verdict.latencies.get("float32")
    if timed:
        latency = latency_lines(known, timed, f"batch 1 on this host, {timed['n']:.0f} calls")
    else:
        latency = latency_lines(known, None, f"{target.title} is not here", verdict.predicted)
    drop = budget_lines(known, "accuracy_drop_pp", counts.drop, how)
    memory = budget_lines(known, "peak_rss_mib", verdict.peak_rss_mib, "peak of the whole verifying process")
    return (*drop, *static, *latency, *memory)


def latency_rows(verdict: VerificationResult, target: Target, threads: int) -> tuple[LatencyRow, ...]:
    """Latency of each variant, float first."""
    host = machine()
    rows = []
    for variant, timed in sorted(verdict.latencies.items()):
        figures = {
            name: value for name in ("p50_ms", "p90_ms", "p99_ms", "low_ms", "high_ms") if (value := timed[name])
        }
        stolen = timed.get("stolen")
        rows.append(
            LatencyRow(
                variant=variant,
                runtime=target.runtime.name,
                batch=1,
                threads=threads,
                n=round(timed["n"] or 0),
                how=f"variants in turn on {host.cpu}"
                + (f", {stolen:.1%} of the CPU stolen" if stolen is not None else ""),
                **figures,
            )
        )
    return tuple(rows)


def kernels(verdict: VerificationResult) -> Kernels:
    """Counts of integer and float kernels."""
    counts = verdict.kernels
    return Kernels(integer=counts.integer, weighted=counts.weighted, counts=counts.kernels, how=counts.how)


def confusion(verdict: VerificationResult) -> Confusion:
    """Confusion matrix of the deployed network."""
    assert verdict.metadata.baseline is not None
    return Confusion.of(verdict.metadata.classes, verdict.metadata.baseline.labels, verdict.predictions)


def flips(verdict: VerificationResult, validation: Split) -> tuple[Flip, ...]:
    """Images whose prediction differs from float, by index; the worst ones, which pages show, with a thumbnail."""
    baseline, preprocess = verdict.metadata.baseline, verdict.metadata.preprocess
    assert baseline is not None
    answered = enumerate(zip(baseline.labels, baseline.predictions, verdict.predictions, strict=True))
    found = []
    for index, (label, before, after) in answered:
        if before == after:
            continue
        surely, deployed = verdict.confidences[index] if verdict.confidences else (None, None)
        found.append(
            Flip(
                index=index,
                sha256=validation.hashes[index],
                label=label,
                float_prediction=before,
                deployed_prediction=after,
                float_confidence=surely if verdict.float_predictions[index] == before else None,
                deployed_confidence=deployed,
            )
        )
    shown = {flip.index for flip in worst_first(found)[:FLIPS_SHOWN]}
    return tuple(
        replace(flip, thumbnail=_thumbnail(preprocess.upright(validation.image(flip.index))))
        if flip.index in shown
        else flip
        for flip in found
    )


def _thumbnail(image: Pillow.Image) -> str:
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = BytesIO()
    image.quantize(64).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(stream.getvalue()).decode()


def calibration(table: QuantTable, order: Sequence[str]) -> Calibration:
    """Every activation scale with the calibration statistics of its tensor.

    Args:
        table: The deployed scales.
        order: Tensors in order of execution; a calibration table is sorted by name. Other tensors come last.
    """
    place = {name: index for index, name in enumerate(order)}
    tensors = []
    for name, params in sorted(table.activations.items(), key=lambda item: (place.get(item[0], len(place)), item[0])):
        seen = table.sketches.get(name)
        row = TensorScale(
            tensor=name, scale=params.scale[0], zero_point=params.zero_point, bits=params.bits, signed=params.signed
        )
        if seen:
            row = replace(
                row,
                clipped=seen.clipped,
                sqnr_db=seen.sqnr_db,
                low=seen.low,
                high=seen.high,
                zeros=seen.zeros,
                columns=seen.columns,
            )
        tensors.append(row)
    return Calibration(calibrator=table.calibrator, images=table.images, data=table.data, tensors=tuple(tensors))


def provenance(
    dataset: Dataset, recipe: str, packages: Mapping[str, str], *, weights: str | None, scales: str | None, seed: int
) -> Provenance:
    """Inputs of a run: data, recipe, package versions, source code, weights, seed and machine."""
    here = machine()
    return Provenance(
        data=dataset.name,
        splits=split_rows(dataset),
        weights=weights,
        scales=scales,
        recipe=recipe,
        code=source_digest(Path(edgeres.__file__).parent),
        seed=seed,
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        cpu=here.cpu,
        cores=here.cores,
        packages=dict(packages),
    )
