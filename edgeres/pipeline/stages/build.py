"""Build: compile the graph for the target's runtime, or write the bundle that builds it on the device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx

from edgeres.artifacts.artifact import Engine, Exported, File
from edgeres.artifacts.results import StageMetrics
from edgeres.backends.registry import find_backend
from edgeres.errors import BackendUnavailable, StageError
from edgeres.lint.linter import lint, lowered
from edgeres.pipeline.stages.stage import Context, Stage, StageCost
from edgeres.settings import settings

if TYPE_CHECKING:
    from edgeres.data.dataset import Dataset


@settings
class Build(Stage):
    """Recipe entry ``build``."""

    name = "build"
    version = 7
    reads = ("target",)

    def cost(self, dataset: Dataset) -> StageCost:
        """An engine build, whatever the data."""
        return StageCost(fixed_s=20.0)

    def __call__(self, artifact: Exported, context: Context) -> Engine:
        """Converts the graph to the target's runtime format, lints it for the target, and builds it.

        Raises:
            StageError: The target would reject the graph, or compute wrong results.
            BackendUnavailable: The runtime is needed on this host and not installed.
        """
        backend = find_backend(context.target.backend)
        if context.target.build_on == "host" and (missing := backend.missing()):
            raise BackendUnavailable(missing)
        model, lowering = lowered(onnx.load(str(artifact.model.path)), context.target.runtime)
        if lowering:
            graph = context.workspace / "graph"
            graph.mkdir()
            artifact = replace(artifact, model=File.written(model, graph / "model.onnx"))
        findings = lint(model, context.target)
        if first := next((finding for finding in findings if finding.severity == "E"), None):
            what = f"{first.rule} at {first.where}: {first.what}"
            raise StageError(f"{context.target.name} cannot take this graph: {what}", first.fix)
        engine = backend.build(artifact, context.target, context.workspace, context.progress)
        mib = sum(file.path.stat().st_size for file in engine.files.values()) / 2**20
        warnings = tuple(f"lint {finding}" for finding in findings)
        notes = (lowering,) if lowering else ()
        metrics = StageMetrics(mib=mib, lint_findings=len(findings))
        return engine.after(self.step(metrics, (*notes, *engine.evidence, *warnings)))
