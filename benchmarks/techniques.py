"""Edgeres itself through the stages a user runs: at its default settings, and with each technique alone."""

from __future__ import annotations

import hashlib
import pkgutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from benchmarks.command import CHECKOUT
from benchmarks.quantizer import BOTH
from edgeres.errors import EdgeresError
from edgeres.recovery import techniques

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.bench import Bench
    from benchmarks.quantizer import SchemeName
    from edgeres.artifacts.artifact import Checkpoint
    from edgeres.pipeline.stages.stage import Context
    from edgeres.targets.target import Target

TECHNIQUES = tuple(module.name for module in pkgutil.iter_modules(techniques.__path__))
"""Names of the techniques, which are those of their files: importing them would bring torch along."""
MARGIN = 1.0
"""Accuracy drop in percentage points that the search is allowed: the targets' own budget."""
_SOURCES = (
    "edgeres/quant/**/*.py",
    "edgeres/recovery/**/*.py",
    "edgeres/model/**/*.py",
    "edgeres/pipeline/stages/fold_batchnorm.py",
    "edgeres/pipeline/stages/quantize.py",
    "edgeres/pipeline/stages/export.py",
    "edgeres/onnx_graph/write.py",
)


@dataclass(frozen=True, slots=True)
class Ours:
    """The stages fold_batchnorm, quantize and export, as recipe ``int8`` has them.

    The clock covers ``quantize`` and ``export``, the decoding of JPEGs and every comparison the stages make included.

    Attributes:
        technique: The technique to force, without a time limit; None leaves every setting at its default.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    schemes: ClassVar[tuple[SchemeName, ...]] = BOTH
    suffix: ClassVar[str] = ".onnx"

    technique: str | None

    @property
    def title(self) -> str:
        """Its technique."""
        return f"edgeres {self.technique or 'default'}"

    def prepare(self, bench: Bench, target: Target) -> Callable[[], bytes]:
        """See the class."""
        from edgeres.pipeline.stages.export import Export
        from edgeres.pipeline.stages.quantize import Quantize

        stage = Quantize() if self.technique is None else Quantize(technique=self.technique, time_budget_s=None)
        context, artifact = _start(bench, target)

        def quantize() -> bytes:
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
                inside = replace(context, workspace=Path(folder), scratch=Path(folder))
                return Export()(stage(artifact, inside), inside).model.path.read_bytes()

        return quantize


def _start(bench: Bench, target: Target) -> tuple[Context, Checkpoint]:
    """What the stage is given in a run: the folded network, and images as files."""
    from edgeres.artifacts.artifact import Checkpoint, ModelMetadata
    from edgeres.model.zoo import read_checkpoint
    from edgeres.pipeline.stages.fold_batchnorm import FoldBatchnorm
    from edgeres.pipeline.stages.stage import Context

    settings, splits, task = bench.settings, bench.splits(), bench.task
    context = Context(
        target=target,
        train=splits.calibration,
        calibration=splits.calibration,
        tuning=splits.tuning,
        validation=splits.validation,
        classes=tuple(str(label) for label in range(10)),
        seed=settings.seed,
        workspace=bench.folder,
        scratch=bench.folder,
        margin=MARGIN,
    )
    loaded = read_checkpoint(bench.checkpoint)
    metadata = ModelMetadata(name=task.model, preprocess=task.preprocess, classes=context.classes)
    return context, FoldBatchnorm()(Checkpoint(metadata, loaded.spec, loaded.weights), context)


def source_digest(checkout: Path = CHECKOUT) -> str:
    """sha256 over names and bytes of the files that decide what edgeres' rows are worth.

    Raises:
        EdgeresError: A pattern of ``_SOURCES`` matches no file, as after a renaming: the digest would miss changes.
    """
    found = hashlib.sha256()
    for pattern in _SOURCES:
        paths = sorted(checkout.glob(pattern))
        if not paths:
            raise EdgeresError(f"no file matches {pattern} in {checkout}", "renew _SOURCES in benchmarks/techniques.py")
        for path in paths:
            found.update(path.relative_to(checkout).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
