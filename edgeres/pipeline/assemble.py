"""Assembly of a ``Run`` report from the artifacts of a pipeline."""

from __future__ import annotations

import platform
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgeres
from edgeres.gate.budget import Overrides, budget_lines, latency_lines, limits, static_lines
from edgeres.gate.paired_test import Paired, decide, tango
from edgeres.gate.predictions import Answers
from edgeres.metrics import agreement, top1
from edgeres.pipeline.runner import versions
from edgeres.report.select import FLIPS_SHOWN, worst_first
from edgeres.runs.findings import Accuracy, Calibration, Confusion, Flip, TensorScale
from edgeres.runs.run import LatencyRow, Provenance, SplitRow
from edgeres.settings import plain
from edgeres.targets.host import machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image as Pillow

    from edgeres.artifacts.artifact import Baseline, VerificationResult
    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.data.dataset import Dataset
    from edgeres.data.split import Split
    from edgeres.pipeline.plan import Plan
    from edgeres.quant.quant_table import QuantTable
    from edgeres.targets.target import Target

_THUMBNAIL = 96


def split_rows(dataset: Dataset) -> tuple[SplitRow, ...]:
    """The splits with their digests, without training images, which are hashed only where a stage read them."""
    splits = (dataset.calibration, dataset.tuning, dataset.validation)
    return tuple(SplitRow(name=split.name, images=len(split), digest=split.digest) for split in splits)


def _paired(verdict: VerificationResult) -> tuple[Baseline, Paired]:
    """The float baseline, and its predictions paired with those of the deployed network."""
    baseline = verdict.metadata.baseline
    assert baseline is not None
    return baseline, Paired.of(baseline.predictions, verdict.predictions, baseline.labels)


def answers(verdict: VerificationResult, validation: Split) -> Answers:
    """Paired predictions with the sha256 of each image."""
    baseline, _ = _paired(verdict)
    columns = (baseline.labels, baseline.predictions, verdict.predictions)
    return Answers.of(validation.digest, validation.hashes, *columns)


def accuracy(verdict: VerificationResult, margin_pp: float | None) -> Accuracy:
    """Top-1 of float and deployed network, their paired difference and its confidence interval."""
    baseline, counts = _paired(verdict)
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


def every_line(verdict: VerificationResult, target: Target, overrides: Overrides) -> tuple[BudgetCheck, ...]:
    """Every budget line against its limit, accuracy first."""
    metadata, engine, (_, counts) = verdict.metadata, verdict.engine, _paired(verdict)
    crop, interval = metadata.preprocess.crop, tango(counts)
    known = limits(metadata.name, crop, target, overrides)
    how = (
        f"{counts.n} validation images, {counts.b} lost and {counts.c} gained, "
        f"95 % interval {interval.low:+.2f} to {interval.high:+.2f} pp"
    )
    static = static_lines(
        known,
        network=metadata.name,
        crop=crop,
        macs=verdict.macs,
        parameters=verdict.parameters,
        size_bytes=engine.files[engine.entry].path.stat().st_size,
        peak_activation_bytes=verdict.peak_activation_bytes,
    )
    timed = verdict.latencies.get("int8") or verdict.latencies.get("float32")
    where = f"batch 1 on this host, {timed.n} calls" if timed else f"{target.title} is not here"
    return (
        *budget_lines(known, "accuracy_drop_pp", counts.drop, how),
        *static,
        *latency_lines(known, timed, where, verdict.predicted),
        *budget_lines(known, "peak_rss_mib", verdict.peak_rss_mib, "peak of the whole verifying process"),
    )


def latency_rows(verdict: VerificationResult, target: Target, threads: int) -> tuple[LatencyRow, ...]:
    """Latency of each variant, float first."""
    cpu = machine().cpu
    return tuple(
        LatencyRow.of(
            timed,
            variant=variant,
            runtime=target.runtime.name,
            threads=threads,
            how=f"variants in turn on {cpu}"
            + (f", {timed.stolen:.1%} of the CPU stolen" if timed.stolen is not None else ""),
        )
        for variant, timed in sorted(verdict.latencies.items())
    )


def confusion(verdict: VerificationResult) -> Confusion:
    """Confusion matrix of the deployed network."""
    return Confusion.of(verdict.metadata.classes, _paired(verdict)[0].labels, verdict.predictions)


def flips(verdict: VerificationResult, validation: Split) -> tuple[Flip, ...]:
    """Images whose prediction differs from float, by index; the worst ones, which pages show, with a thumbnail."""
    (baseline, _), preprocess = _paired(verdict), verdict.metadata.preprocess
    rows = []
    for index, (label, before, after) in enumerate(
        zip(baseline.labels, baseline.predictions, verdict.predictions, strict=True)
    ):
        if before == after:
            continue
        in_float, deployed = verdict.confidences[index] if verdict.confidences else (None, None)
        rows.append(
            Flip(
                index=index,
                sha256=validation.hashes[index],
                label=label,
                float_prediction=before,
                deployed_prediction=after,
                float_confidence=in_float if verdict.float_predictions[index] == before else None,
                deployed_confidence=deployed,
            )
        )
    shown = {flip.index for flip in worst_first(rows)[:FLIPS_SHOWN]}
    return tuple(
        replace(flip, thumbnail=_thumbnail(preprocess.upright(validation.image(flip.index))))
        if flip.index in shown
        else flip
        for flip in rows
    )


def _thumbnail(image: Pillow.Image) -> str:
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = BytesIO()
    image.quantize(64).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(stream.getvalue()).decode()


def calibration(table: QuantTable, order: Sequence[str]) -> Calibration:
    """Every activation scale with the calibration statistics of its tensor, in ``order``, others last by name."""
    place = {name: index for index, name in enumerate(order)}
    tensors = []
    for name, params in sorted(table.activations.items(), key=lambda item: (place.get(item[0], len(place)), item[0])):
        statistics: dict[str, Any] = plain(table.sketches[name]) if name in table.sketches else {}
        scale = {"scale": params.scale[0], "zero_point": params.zero_point}
        tensors.append(TensorScale(**{**statistics, **scale}, tensor=name, bits=params.bits, signed=params.signed))
    return Calibration(calibrator=table.calibrator, images=table.images, data=table.data, tensors=tuple(tensors))


def provenance(plan: Plan) -> Provenance:
    """Inputs of a run: data, recipe, package versions, source code, weights, seed and machine."""
    here = machine()
    return Provenance(
        data=plan.dataset.name,
        splits=split_rows(plan.dataset),
        weights=plan.source.file.sha256 if plan.source.file else None,
        scales=plan.scales.digest if plan.scales else None,
        recipe=plan.recipe.text,
        code=source_digest(Path(edgeres.__file__).parent),
        seed=plan.request.seed,
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        cpu=here.cpu,
        cores=here.cores,
        packages=versions(),
    )


def source_digest(package: Path) -> str:
    """sha256 over the relative path and content of a package's modules and data files, independent of the folder.

    It distinguishes checkouts between two releases. A wheel has the recipes inside the package, a checkout beside it,
    so they are left out: a run's own recipe is in its provenance.
    """
    whole = sha256()
    for name, path in sorted((path.relative_to(package).as_posix(), path) for path in package.rglob("*")):
        if path.suffix in (".py", ".yaml") and not name.startswith("recipes/"):
            whole.update(f"{name}\0{sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()
