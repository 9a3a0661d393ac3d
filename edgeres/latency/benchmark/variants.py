"""Variants of a network that this host can run: one per installed runtime and precision, with the built engine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING

from edgeres.backends.backend import NarrowFloats
from edgeres.backends.package import Package
from edgeres.backends.registry import backends, find_backend
from edgeres.backends.tensorrt.runner import gpu
from edgeres.errors import BackendUnavailable, EdgeresError, UsageError, nearest
from edgeres.latency.benchmark.worker_spec import TORCH, SealedFile, Variant
from edgeres.progress import Silent
from edgeres.targets.target import find_target, targets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeres.artifacts.artifact import Engine, Exported
    from edgeres.latency.benchmark.worker_spec import Precision
    from edgeres.progress import Progress
    from edgeres.targets.target import Target

_ON_A_GPU = ("tensorrt", "tensorrt_rtx")
_PACKAGES = {"litert": "ai-edge-litert", "onnxruntime_mobile": "onnxruntime", "tensorrt_rtx": "tensorrt-rtx"}


@dataclass(slots=True)
class Variants:
    """Variants that this host can run.

    Attributes:
        variants: Variants in the order of the runtimes, the target's own first.
        absent: Why a runtime has no variant, by name.
    """

    variants: list[Variant] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def find_variants(
    exported: Exported, target: Target, out: Path, progress: Progress, runtimes: Sequence[str] | None = None
) -> Variants:
    """Builds a network for every runtime that is installed on this host.

    Args:
        exported: ONNX graphs of the network; without scales there is no INT8 variant.
        target: Target whose runtime comes first.
        out: An empty folder for the engines.
        progress: Advanced after each runtime.
        runtimes: Names of the runtimes to build for; None takes all.

    Raises:
        UsageError: A runtime's name is unknown.
    """
    names = _chosen(target, runtimes)
    found = Variants()
    with progress.task("build for each runtime", len(names)) as advance:
        for name in names:
            why = lacking(name)
            if why is None:
                try:
                    found.variants += _variants(name, exported, target, out)
                except EdgeresError as refusal:
                    why = refusal.what
            if why is not None:
                found.absent[name] = why
            advance(1)
    return found


def version_of(runtime: str) -> str:
    """Version of a runtime's Python package; empty where it is not installed."""
    try:
        return metadata.version(_PACKAGES.get(runtime, runtime))
    except metadata.PackageNotFoundError:
        return ""


def _chosen(target: Target, runtimes: Sequence[str] | None) -> list[str]:
    known = list(dict.fromkeys((target.backend, *backends(), TORCH)))
    for name in runtimes or ():
        if name not in known:
            raise UsageError(f"unknown runtime {name!r}", nearest(name, known))
    return [name for name in known if runtimes is None or name in runtimes]


def lacking(name: str) -> str | None:
    """Why a runtime cannot run on this host, found without building an engine; None where it can."""
    if name == TORCH:
        return Package("torch", "torch", "torch").missing()
    if name in _ON_A_GPU and gpu() is None:
        return "there is no NVIDIA GPU here"
    return find_backend(name).missing()


def _variants(name: str, exported: Exported, target: Target, out: Path) -> list[Variant]:
    here = at_home(name, target)
    if name == TORCH:
        return [_variant(name, "float32", exported, here, None)]
    folder = out / name
    folder.mkdir()
    backend = find_backend(name)
    engine = backend.build(exported, here, folder, Silent())
    if not engine.runs_here:
        raise BackendUnavailable("what it builds runs on its device, not here")
    precisions: list[Precision] = ["float32"]
    if isinstance(backend, NarrowFloats):
        precisions += backend.narrow_floats()
    if exported.scales is not None:
        precisions.append("int8")
    return [_variant(name, precision, exported, here, engine) for precision in precisions]


def at_home(name: str, target: Target) -> Target:
    """The host target of a runtime: ``target`` itself where it is one, else the first host target of that runtime."""
    if target.backend == name and target.build_on == "host":
        return target
    hosts = [other for other in targets().values() if other.build_on == "host"]
    versions = [find_target(f"{other.name}:{version}") for other in hosts for version in other.versions]
    matching = (other for other in (*hosts, *versions) if other.backend == name)
    return next(matching, replace(target, backend=name, build_on="host"))


def _variant(name: str, precision: Precision, exported: Exported, target: Target, engine: Engine | None) -> Variant:
    return Variant(
        runtime=name,
        precision=precision,
        target=target,
        preprocess=exported.metadata.preprocess,
        entry=engine.entry if engine else "",
        files={key: SealedFile.of(file) for key, file in engine.files.items()} if engine else {},
        graph=SealedFile.of(exported.model),
        float_graph=SealedFile.of(exported.float_model),
    )
