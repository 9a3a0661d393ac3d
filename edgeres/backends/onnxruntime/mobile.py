"""ONNX Runtime mobile backend: an optimised ``.ort`` file, and the operators that an app's build needs for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

from edgeres.artifacts.artifact import Engine
from edgeres.backends.bundle.write import mobile_bundle
from edgeres.backends.loading import absent, intact
from edgeres.backends.onnxruntime.onnxruntime import kernel_counts
from edgeres.backends.onnxruntime.ort_format import canonical, operators, required_operators
from edgeres.backends.session import PIP, TITLE, load_graph, onnx_session, options

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from edgeres.artifacts.artifact import Exported, File
    from edgeres.backends.backend import KernelCounts, Session
    from edgeres.progress import Progress
    from edgeres.targets.target import Target

# Blocked layouts exist on x86-64 only: a file optimised with them does not run on phones.
# (onnxruntime/tools/python/convert_onnx_models_to_ort.py disables the same rewrite.)
NOT_FOR_PHONES = ("NchwcTransformer",)


@dataclass(frozen=True, slots=True)
class OnnxRuntimeMobile:
    """ONNX Runtime on a phone, from a bundle."""

    name: ClassVar[str] = "onnxruntime_mobile"

    def missing(self) -> str | None:
        """One sentence with the pip line when ONNX Runtime is not installed here."""
        return absent("onnxruntime", TITLE, PIP)

    def build(self, exported: Exported, target: Target, out: Path, progress: Progress) -> Engine:
        """Writes ``model.ort``, ``required_operators.config``, golden outputs and a manifest below ``out``.

        Raises:
            BackendUnavailable: ONNX Runtime is not installed.
            StageError: It rejected the graph.
        """
        with progress.task("onnxruntime mobile", 2) as advance, TemporaryDirectory() as folder:
            settings, saved = options(optimise=True), Path(folder, "model.ort")
            settings.optimized_model_filepath = str(saved)
            settings.add_session_config_entry("session.save_model_format", "ORT")
            signed = target.scheme is not None and target.scheme.signed
            settings.add_session_config_entry("session.qdqisint8allowed", "1" if signed else "0")
            load_graph(intact(exported.model), settings, NOT_FOR_PHONES)
            advance(1)
            model = canonical(saved.read_bytes())
            files = mobile_bundle(exported, target, out, model, required_operators(operators(model)))
            load_graph(files["model.ort"].path, options(optimise=True))
            advance(1)
        evidence = (
            "the .ort file that ships loads and runs in ONNX Runtime on this host's processor, not on a phone's",
        )
        return Engine(exported, self.name, "model.ort", files, runs_here=False, evidence=evidence)

    def session(
        self, engine: Engine, target: Target, model: File | None = None, threads: int | None = None
    ) -> AbstractContextManager[Session]:
        """Opens the deployed file on this host's processor."""
        return onnx_session(intact(model or engine.files[engine.entry]), optimise=True, threads=threads)

    def concurrent(self, engine: Engine) -> bool:
        """True: sessions share no state."""
        return True

    def integer_kernels(self, engine: Engine, target: Target) -> KernelCounts:
        """Counts the operators in the ``.ort`` file, whose optimisations are final."""
        found = operators(intact(engine.files[engine.entry]).read_bytes())
        return kernel_counts(Counter(operator.kind for operator in found), "counted in the .ort file that ships")
