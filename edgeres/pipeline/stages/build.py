"""Build: compile the graph for the target's runtime, or write the bundle that builds it on the device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import onnx

from edgeres.artifacts.artifact import Engine, Exported, File, Step
from edgeres.backends.registry import find_backend
from edgeres.errors import BackendUnavailable, StageError
from edgeres.lint.linter import lint, lowered
from edgeres.pipeline.stages.stage import Read
from edgeres.settings import plain, settings

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from edgeres.lint.rule import Finding
    from edgeres.pipeline.stages.stage import Context


@settings
class Build:
    """Recipe entry ``build``."""

    name: ClassVar[str] = "build"
    version: ClassVar[int] = 6
    reads: ClassVar[tuple[Read, ...]] = ("target",)

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
            artifact = replace(artifact, model=_kept(model, context.workspace / "graph"))
        findings = lint(model, context.target)
        _refuse(findings, context.target.name)
        engine = backend.build(artifact, context.target, context.workspace, context.progress)
        mib = sum(file.path.stat().st_size for file in engine.files.values()) / 2**20
        warnings = tuple(f"lint {finding}" for finding in findings)
        notes = (lowering,) if lowering else ()
        metrics = {"mib": mib, "lint_findings": float(len(findings))}
        step = Step(stage=self.name, settings=plain(self), metrics=metrics, notes=(*notes, *engine.evidence, *warnings))
        exported = replace(engine.exported, metadata=engine.metadata.after(step))
        return replace(engine, exported=exported)


def _kept(model: ModelProto, folder: Path) -> File:
    folder.mkdir()
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return File.of(path)


def _refuse(findings: tuple[Finding, ...], target: str) -> None:
    errors = [finding for finding in findings if finding.severity == "E"]
    if errors:
        first = errors[0]
        raise StageError(f"{target} cannot take this graph: {first.rule} at {first.where}: {first.what}", first.fix)
