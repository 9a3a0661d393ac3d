"""Variants of a network that this host can run: one per installed runtime and precision, with the built engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING

from edgeres.artifacts.artifact import Engine
from edgeres.backends.registry import backends, find_backend
from edgeres.backends.session import Package
from edgeres.backends.tensorrt.runner import gpu
from edgeres.errors import BackendUnavailable, EdgeresError, UsageError, nearest
from edgeres.latency.benchmark.worker import TORCH, Variant
from edgeres.progress import Silent
from edgeres.targets.target import find_target, targets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeres.artifacts.artifact import Exported
    from edgeres.latency.benchmark.worker import Precision
    from edgeres.progress import Progress
    from edgeres.targets.target import Target

_ON_A_GPU = ("tensorrt", "tensorrt_rtx")
_TORCH = Package("torch", "torch", "torch")


@dataclass(frozen=True, slots=True)
class Variants:
    """Variants that this host can run, those of the target's runtime first, and why a runtime has none, by name."""

    variants: tuple[Variant, ...]
    absent: dict[str, str]


def find_variants(
    exported: Exported, target: Target, out: Path, progress: Progress, runtimes: Sequence[str] | None = None
) -> Variants:
    """Builds a network for every runtime that is installed on this host, or those named, in the empty folder ``out``.

    Without scales there is no INT8 variant.

    Raises:
        UsageError: A runtime's name is unknown.
    """
    known = list(dict.fromkeys((target.backend, *backends(), TORCH)))
    for name in runtimes or ():
        if name not in known:
            raise UsageError(f"unknown runtime {name!r}", nearest(name, known))
    chosen = [name for name in known if runtimes is None or name in runtimes]
    variants, absent = list[Variant](), dict[str, str]()
    with progress.task("build for each runtime", len(chosen)) as advance:
        for name in chosen:
            try:
                variants += _variants(name, exported, target, out)
            except EdgeresError as refusal:
                absent[name] = refusal.what
            advance(1)
    return Variants(tuple(variants), absent)


def version_of(runtime: str) -> str:
    """Version of a runtime's Python package; empty where it is not installed."""
    try:
        return metadata.version((_TORCH if runtime == TORCH else find_backend(runtime).package).module)
    except metadata.PackageNotFoundError:
        return ""


def _require(name: str) -> None:
    """Raises BackendUnavailable where a runtime cannot run on this host, found without building an engine."""
    if name in _ON_A_GPU and gpu() is None:
        raise BackendUnavailable("there is no NVIDIA GPU here")
    if why := (_TORCH if name == TORCH else find_backend(name)).missing():
        raise BackendUnavailable(why)


def build_here(name: str, exported: Exported, target: Target, out: Path) -> Engine:
    """A backend's engine for its host target, built in the new folder ``name`` of ``out``.

    Raises:
        BackendUnavailable: The runtime cannot run on this host.
        StageError: It rejected the graph.
    """
    _require(name)
    folder = out / name
    folder.mkdir()
    engine = find_backend(name).build(exported, target, folder, Silent())
    if not engine.runs_here:
        raise BackendUnavailable("what it builds runs on its device, not here")
    return engine


def _variants(name: str, exported: Exported, target: Target, out: Path) -> list[Variant]:
    here, engine = at_home(name, target), Engine(exported, name, "")
    precisions: list[Precision] = ["float32"]
    if name == TORCH:
        _require(name)
    else:
        backend, engine = find_backend(name), build_here(name, exported, here, out)
        precisions += backend.narrow_floats()
        precisions += ("int8",) if exported.scales is not None else ()
    # A worker needs the files and the size of the image, not the lineage.
    needed = replace(engine.metadata, lineage=(), baseline=None)
    engine = replace(engine, exported=replace(engine.exported, metadata=needed))
    return [Variant(runtime=name, precision=precision, target=here, engine=engine) for precision in precisions]


def at_home(name: str, target: Target) -> Target:
    """The host target of a runtime: ``target`` itself where it is one, else the first host target of that runtime."""
    if target.backend == name and target.build_on == "host":
        return target
    hosts = [other for other in targets().values() if other.build_on == "host"]
    versions = [find_target(f"{other.name}:{version}") for other in hosts for version in other.versions]
    matching = (other for other in (*hosts, *versions) if other.backend == name)
    return next(matching, replace(target, backend=name, build_on="host"))
