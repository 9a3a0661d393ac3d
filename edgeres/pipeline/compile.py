"""Compilation of a request: plan, run the stages, check budgets, publish the run folder, and write the report."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx

import edgeres
from edgeres.artifacts.artifact import Artifact, VerificationResult
from edgeres.errors import EdgeresError
from edgeres.onnx_graph.operator_counts import quantized_tensors
from edgeres.pipeline import assemble
from edgeres.pipeline.plan import Plan, prepare
from edgeres.pipeline.recipe import Recipe, is_file_name
from edgeres.pipeline.run_folder import RunFolder
from edgeres.pipeline.runner import Listener, Pipeline, versions
from edgeres.pipeline.stages.verify import Verify
from edgeres.quant.calibration_table import NAME, read_table
from edgeres.report import report_files
from edgeres.runs import document
from edgeres.runs.run import Device, Failure, FileRow, Run, StageRow, StageTime, Timings, is_timed

if TYPE_CHECKING:
    from edgeres.artifacts.store import Store
    from edgeres.pipeline.request import Request
    from edgeres.progress import Progress

INTERRUPTED = 130
"""Exit code after Ctrl-C, by shell convention."""


@dataclass(frozen=True)
class CompileOptions:
    """Run folder, cache and callbacks of a compilation, and the command line for the report."""

    out: Path
    store: Store
    progress: Progress
    listener: Listener
    command: str


@dataclass(frozen=True)
class Compilation:
    """The report of a compilation in the run folder, or in ``<folder>.failed`` where a finished run was kept."""

    run: Run
    folder: Path


def compile_model(request: Request, compile_options: CompileOptions) -> Compilation:
    """Compiles a network and writes its report, whether it succeeds or fails.

    A finished run in the folder is replaced only once its successor is complete.

    Raises:
        EdgeresError: The request is invalid, or the run folder cannot be used.
        KeyboardInterrupt: The user stopped it; finished stages are kept.
    """
    folder, listener = RunFolder(compile_options.out), compile_options.listener
    folder.check()
    plan = prepare(request, compile_options.progress)
    with folder.held():
        compile_options.store.sweep()
        attempt = folder.attempt()
        attempt.begin(_anchored(plan), plan.recipe)
        pipeline = Pipeline(plan, compile_options.store, compile_options.progress, listener)
        start = time.monotonic()
        run = _started(plan, compile_options.command)
        for note in plan.notes:
            listener.note(note)
        listener.planned(pipeline)
        try:
            pipeline.run()
            if request.variant == "fastest":
                plan, pipeline = _fastest(plan, pipeline, compile_options)
                run = _started(plan, compile_options.command)
                attempt.begin(_anchored(plan), plan.recipe)
            run = _finished(run, plan, pipeline, attempt)
        except BaseException as failure:
            run = replace(run, error=_failure(failure, pipeline.current))
            if not isinstance(failure, EdgeresError):
                raise
        finally:
            report_files.write(_timed(run, pipeline, time.monotonic() - start), attempt.path)
            run = document.load(attempt.path)  # what the pages were drawn from
            place = folder.settle(attempt, complete=run.error is None)
            if place != folder.path:
                listener.note(f"{folder.path} is as it was; the report of this attempt is in {place}")
    return Compilation(run, place)


def _fastest(plan: Plan, pipeline: Pipeline, compile_options: CompileOptions) -> tuple[Plan, Pipeline]:
    """The run of the faster variant that keeps the accuracy limit; the request then names that variant.

    INT8 is chosen unless float32 is significantly faster or INT8 exceeds the accuracy limit.
    """
    variant, why = _chosen(pipeline.done[-1].entry.load(), plan)
    note = f"--variant fastest: {variant} ships, {why}"
    compile_options.listener.note(note)
    if variant == "int8":
        settled = replace(plan.request, variant=variant)
        return replace(plan, request=settled, notes=(*plan.notes, note)), pipeline
    again = prepare(replace(plan.request, variant=variant), compile_options.progress)
    again = replace(again, notes=(*again.notes, note))
    second = Pipeline(again, compile_options.store, compile_options.progress, compile_options.listener)
    second.run()
    return again, second


def _chosen(verdict: Artifact, plan: Plan) -> tuple[Literal["int8", "float"], str]:
    """The variant to deploy and the reason."""
    if not isinstance(verdict, VerificationResult):
        return "int8", "nothing was measured"
    lines = assemble.every_line(verdict, assemble.comparison(verdict), plan.target, plan.request.budget)
    if any(line.name == "accuracy_drop_pp" and line.status == "failed" for line in lines):
        return "float", "INT8 is over the accuracy limit"
    int8, float32 = verdict.latencies.get("int8"), verdict.latencies.get("float32")
    if int8 is None or float32 is None:
        return "int8", f"{plan.target.title} is not here to time float beside it" if not float32 else "there is no INT8"
    figures = f"{int8.p50_ms:.3g} ms against {float32.p50_ms:.3g} ms in float32"
    return ("float", f"INT8 takes {figures}") if int8.low_ms > float32.high_ms else ("int8", figures)


def _anchored(plan: Plan) -> Request:
    """The request with absolute paths, so that ``resume`` works from any folder."""
    request, file = plan.request, plan.source.file is not None

    def absolute(path: str | None) -> str | None:
        return str(Path(path).absolute()) if path else path

    return replace(
        request,
        model=str(Path(request.model).absolute()) if request.foreign else request.model,
        weights=absolute(request.weights) if file else request.weights,
        recipe=absolute(request.recipe) if request.recipe and is_file_name(request.recipe) else request.recipe,
        data=absolute(request.data),
        classes=absolute(request.classes),
        scales=absolute(request.scales),
    )


def _started(plan: Plan, command: str) -> Run:
    request, target = plan.request, plan.target
    return Run(
        edgeres=edgeres.__version__,
        command=command,
        model=request.name,
        task=plan.source.task,
        target=Device(name=target.name, title=target.title, backend=target.backend, runtime=target.runtime.name),
        strict=request.strict,
        until=request.until or "",
        notes=plan.notes,
        provenance=assemble.provenance(plan),
    )


def _finished(run: Run, plan: Plan, pipeline: Pipeline, folder: RunFolder) -> Run:
    """Publishes the last artifact and completes the report."""
    artifact = pipeline.done[-1].entry.load()
    verified = artifact if isinstance(artifact, VerificationResult) else None
    place: Literal["engine", "bundle"] = "engine" if plan.target.build_on == "host" else "bundle"
    answers = assemble.answers(verified, plan.dataset.validation) if verified else None
    recipe = plan.recipe.locked([done.steps[-1].settings for done in pipeline.done])
    folder.lock(recipe)
    sums = folder.publish(artifact, _facts(plan, pipeline, recipe), place, answers)
    files = {name: FileRow(sha256=digest, size=(folder.path / name).stat().st_size) for name, digest in sums.items()}
    assert run.provenance is not None
    run = replace(run, files=files, provenance=replace(run.provenance, recipe=recipe.text))
    if verified:
        run = _verified(run, plan, verified)
    if NAME not in sums:
        return run
    order = quantized_tensors(onnx.load(str(folder.path / "model.onnx")))
    return replace(run, calibration=assemble.calibration(read_table(folder.path / NAME).table, order))


def _verified(run: Run, plan: Plan, verdict: VerificationResult) -> Run:
    counts = assemble.comparison(verdict)
    lines = assemble.every_line(verdict, counts, plan.target, plan.request.budget)
    threads = next(stage.threads for stage in plan.recipe.stages if isinstance(stage, Verify))
    margin = next((line.limit for line in lines if line.name == "accuracy_drop_pp"), None)
    return replace(
        run,
        lines=tuple(line for line in lines if not is_timed(line)),
        accuracy=assemble.accuracy(verdict, counts, margin),
        confusion=assemble.confusion(verdict),
        flips=assemble.flips(verdict, plan.dataset.validation),
        kernels=verdict.kernels,
        evidence=verdict.engine.evidence,
        timings=Timings(
            lines=tuple(line for line in lines if is_timed(line)),
            latency=assemble.latency_rows(verdict, plan.target, threads),
            unmeasured="" if verdict.latencies else f"{plan.target.title} is not here",
        ),
    )


def _facts(plan: Plan, pipeline: Pipeline, recipe: Recipe) -> dict[str, object]:
    """Identity of the run for its manifest."""
    return {
        "model": plan.request.name,
        "target": plan.target.name,
        "seed": plan.request.seed,
        "source": plan.source.digest,
        "scales": plan.scales.digest if plan.scales else None,
        "recipe": recipe.digest,
        "data": {row.name: {"images": row.images, "sha256": row.digest} for row in assemble.split_rows(plan.dataset)},
        "stages": [{"stage": done.name, "sha256": done.entry.digest} for done in pipeline.done],
        "versions": versions(),
    }


def _timed(run: Run, pipeline: Pipeline, seconds: float) -> Run:
    steps = [step for done in pipeline.done for step in done.steps]
    times = tuple(
        StageTime(
            stage=done.name,
            cached=done.cached,
            seconds=round(done.entry.seconds, 3),
            timings={part: round(value, 6) for part, value in done.entry.timings.items()},
        )
        for done in pipeline.done
    )
    sensitivity = next((step.sensitivity for step in reversed(steps) if step.sensitivity), ())
    timings = replace(run.timings, total_s=round(seconds, 3), stages=times)
    return replace(run, stages=tuple(map(StageRow.of, steps)), sensitivity=sensitivity, timings=timings)


def _failure(failure: BaseException, stage: str) -> Failure:
    if isinstance(failure, EdgeresError):
        kind = type(failure).__name__
        return Failure(stage=stage, kind=kind, what=failure.what, hint=failure.hint, exit_code=failure.exit_code)
    if isinstance(failure, KeyboardInterrupt):
        again = "run the same command again: finished stages are kept"
        return Failure(stage=stage, kind="Interrupted", what="stopped by the user", hint=again, exit_code=INTERRUPTED)
    what = f"{type(failure).__name__}: {failure}"
    return Failure(stage=stage, kind="Unexpected", what=what, hint="please report it with this file", exit_code=1)
