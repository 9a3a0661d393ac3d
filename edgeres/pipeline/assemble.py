"""Assembly of a ``Run`` report from the artifacts of a pipeline."""

from __future__ import annotations

import platform
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import edgeres
from edgeres.data.bands import pixels_of
from edgeres.gate.budget import Overrides, budget_lines, latency_lines, limits, static_lines
from edgeres.gate.predictions import Answers
from edgeres.pipeline.runner import versions
from edgeres.report.select import FLIPS_SHOWN, worst_first
from edgeres.runs.findings import Accuracy, Calibration, Confusion, Flip, FurtherScore, TensorScale
from edgeres.runs.run import LatencyRow, Provenance, SplitRow
from edgeres.settings import plain
from edgeres.targets.host import machine
from edgeres.tasks.measure import compared, indices, score_of
from edgeres.tasks.registry import find_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.artifacts.artifact import Baseline, VerificationResult
    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.data.dataset import Dataset
    from edgeres.data.preprocess import DecodedImage, Preprocess
    from edgeres.data.split import Split
    from edgeres.pipeline.plan import Plan
    from edgeres.quant.quant_table import QuantTable
    from edgeres.targets.target import Target
    from edgeres.tasks.comparison import Comparison
    from edgeres.tasks.task import Task

_THUMBNAIL = 96


def split_rows(dataset: Dataset) -> tuple[SplitRow, ...]:
    """The splits with their digests, without training images, which are hashed only where a stage read them."""
    splits = (dataset.calibration, dataset.tuning, dataset.validation)
    return tuple(SplitRow(name=split.name, images=len(split), digest=split.digest) for split in splits)


def _baseline(verdict: VerificationResult) -> tuple[Task, Baseline]:
    """The task, and the float baseline."""
    baseline = verdict.metadata.baseline
    assert baseline is not None
    return find_task(verdict.metadata.head), baseline


def comparison(verdict: VerificationResult) -> Comparison:
    """The float baseline's predictions, paired with those of the deployed network."""
    task, baseline = _baseline(verdict)
    return compared(task, baseline.predictions, verdict.predictions, baseline.labels)


def answers(verdict: VerificationResult, validation: Split) -> Answers:
    """Paired predictions with the sha256 of each image."""
    task, baseline = _baseline(verdict)
    columns = (baseline.labels, baseline.predictions, verdict.predictions)
    return Answers.of(validation.digest, validation.hashes, *columns, task=task.name)


def accuracy(verdict: VerificationResult, counts: Comparison, margin_pp: float | None) -> Accuracy:
    """The score of float and deployed network, their paired difference and its confidence interval."""
    (task, baseline), interval = _baseline(verdict), counts.interval()
    method, paired = counts.method, counts.paired
    if margin_pp is not None and margin_pp > 0:
        method += f". {counts.decide(margin_pp).sentence}"
    method += _subset_rule(verdict, baseline) if task.classes else ""
    before, after, labels = map(np.asarray, (baseline.predictions, verdict.predictions, baseline.labels))
    return Accuracy(
        metric=task.metric,
        n=counts.n,
        float_score=baseline.score,
        deployed_score=score_of(task, verdict.predictions, baseline.labels),
        drop_pp=counts.drop,
        low_pp=interval.low,
        high_pp=interval.high,
        b=paired.b if paired else None,
        c=paired.c if paired else None,
        agreement=task.agreement(before, after),
        method=method,
        further=tuple(
            FurtherScore(
                name=one.name,
                float_score=one.before,
                deployed_score=one.after,
                low_pp=one.interval.low,
                high_pp=one.interval.high,
            )
            for one in task.further(before, after, labels, verdict.metadata.head.threshold, verdict.metadata.classes)
        ),
        outputs=verdict.outputs,
    )


def _subset_rule(verdict: VerificationResult, baseline: Baseline) -> str:
    """Among which outputs a prediction is the largest, where the data have some of the network's classes."""
    present, outputs = {*indices(baseline.labels)}, len(verdict.metadata.classes)
    if len(present) == outputs:
        return ""
    rule = f"largest of all {outputs:,} outputs, on images of {len(present):,} classes"
    if scored := verdict.metadata.head.scored:
        rule = f"largest of the {len(scored):,} outputs of the data's classes, of {outputs:,} outputs"
    return f". A prediction is the {rule}"


def every_line(
    verdict: VerificationResult, counts: Comparison, target: Target, overrides: Overrides
) -> tuple[BudgetCheck, ...]:
    """Every budget line against its limit, accuracy first."""
    metadata, engine = verdict.metadata, verdict.engine
    image, interval = metadata.preprocess.crop, counts.interval()
    known = limits(metadata.name, image, target, overrides)
    how = f"{counts.counted}, 95 % interval {interval.low:+.2f} to {interval.high:+.2f} pp"
    static = static_lines(
        known,
        network=metadata.name,
        image=image,
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


def confusion(verdict: VerificationResult) -> Confusion | None:
    """Confusion matrix of the deployed network; None for a task whose predictions are no classes."""
    task, baseline = _baseline(verdict)
    if not task.classes:
        return None
    return Confusion.of(verdict.metadata.classes, indices(baseline.labels), indices(verdict.predictions))


def flips(verdict: VerificationResult, validation: Split) -> tuple[Flip, ...]:
    """Images whose prediction differs from float, by index; the worst ones, which pages show, with a thumbnail.

    Empty for a task whose predictions are no classes.
    """
    (task, baseline), preprocess = _baseline(verdict), verdict.metadata.preprocess
    if not task.classes:
        return ()
    rows = []
    columns = [indices(one) for one in (baseline.labels, baseline.predictions, verdict.predictions)]
    for index, (label, before, after) in enumerate(zip(*columns, strict=True)):
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
        replace(flip, thumbnail=_thumbnail(preprocess, validation.image(flip.index, preprocess.channels)))
        if flip.index in shown
        else flip
        for flip in rows
    )


def _thumbnail(preprocess: Preprocess, decoded: DecodedImage) -> str:
    """A small picture as a data URL; of other bands than grey or RGB, the first three or the first alone."""
    pixels = pixels_of(preprocess.upright(decoded))
    low, high = preprocess.range or (0, 255)
    if pixels.dtype != np.uint8:
        pixels = np.clip(255 * (pixels.astype(np.float32) - low) / (high - low), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0])
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
        data_kind=plan.dataset.kind,
        census=plan.dataset.census,
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
