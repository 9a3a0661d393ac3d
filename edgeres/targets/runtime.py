"""``Runtime``: the runtime of a graph, with its versions and limits, read from ``runtimes/*.yaml``."""

from __future__ import annotations

from functools import cache
from typing import TypeVar

from edgeres.errors import TargetError
from edgeres.settings import parse, settings
from edgeres.targets.yaml_files import yaml_files

T = TypeVar("T")


@settings
class Runtime:
    """Versions and limits of the runtime of a graph.

    Attributes:
        name: Display name with the version, such as ``TensorRT 10.3 (JetPack 6.2)``.
        opset: ONNX opset of the exported graph.
        ir_version: ONNX IR version of the exported file.
        tensorrt: TensorRT version for engine builds, or None.
        jetpack: JetPack that contains it, or None.
        python: Version of that JetPack's ``python3``.
        flags: Options of the builder tool, in order.
        timing_flags: Options with which the builder tool times an engine; 10 and 11 differ in their defaults, so all
            relevant ones are given.
        strongly_typed: Whether the runtime computes in the graph's types, so that FP16 has to be in the graph.
        float_weights: Whether weights are stored in float before QuantizeLinear: parsers before 8.5 do not support
            codes.
        source: Source of these values.
    """

    name: str
    opset: int
    ir_version: int
    tensorrt: str | None = None
    jetpack: str | None = None
    python: str | None = None
    flags: tuple[str, ...] = ()
    timing_flags: tuple[str, ...] = ()
    strongly_typed: bool = False
    float_weights: bool = False
    workspace_mib: int = 1024
    source: str

    @property
    def short_name(self) -> str:
        """Description in a target's title, such as ``JetPack 6.2, TensorRT 10.3``."""
        if self.tensorrt is None:
            return self.name
        jetpack = f"JetPack {self.jetpack}, " if self.jetpack else ""
        return f"{jetpack}TensorRT {self.tensorrt}"


@settings
class _Generation:
    """Requirements of a TensorRT generation; see ``Runtime``."""

    opset: int
    ir_version: int
    flags: tuple[str, ...]
    float_weights: bool = False
    strongly_typed: bool = False
    source: str


@settings
class _Generations:
    timing_flags: tuple[str, ...]
    generations: dict[str, _Generation]


@settings
class _Release:
    l4t: str
    tensorrt: str
    release: str
    python: str


@settings
class _Releases:
    source: str
    releases: dict[str, _Release]


@settings
class _AppRuntime:
    """A runtime that is not part of the device's system: it is bundled with the app, and has its own backend."""

    backend: str
    name: str
    opset: int
    ir_version: int
    source: str


def find_runtime(version: str, *, integers: bool) -> tuple[Runtime, str | None]:
    """A runtime by its name, ``jp6.2``, ``trt10.3`` or the stem of its file, and its backend; None for the device's.

    ``integers`` says whether the device has INT8.

    Raises:
        TargetError: There is no such runtime.
    """
    if version.startswith(("jp", "trt")):
        return _tensorrt(version, integers=integers), None
    if version not in yaml_files("runtimes"):
        raise TargetError(f"there is no runtimes/{version}.yaml", f"known: {', '.join(yaml_files('runtimes'))}")
    row = _read(_AppRuntime, version)
    runtime = Runtime(name=row.name, opset=row.opset, ir_version=row.ir_version, source=row.source)
    return runtime, row.backend


def _tensorrt(version: str, *, integers: bool) -> Runtime:
    """``jp6.2`` or ``trt10.3`` as a runtime; without INT8 options for a device without integers."""
    jetpack, number = version.startswith("jp"), version.removeprefix("jp").removeprefix("trt")
    tensorrt, name, evidence, python = number, f"TensorRT {number}", "", None
    if jetpack:
        table = _read(_Releases, "jetpack")
        if number not in table.releases:
            raise TargetError(f"jetpack.yaml has no release {number!r}", f"known: {', '.join(table.releases)}")
        shipped = table.releases[number]
        tensorrt, python, name = shipped.tensorrt, shipped.python, f"TensorRT {shipped.release} (JetPack {number})"
        evidence = f"{table.source} (L4T {shipped.l4t}); "
    known = _read(_Generations, "tensorrt")
    if tensorrt not in known.generations:
        raise TargetError(f"tensorrt.yaml has no generation {tensorrt!r}", f"known: {', '.join(known.generations)}")
    generation = known.generations[tensorrt]
    return Runtime(
        name=name,
        opset=generation.opset,
        ir_version=generation.ir_version,
        tensorrt=tensorrt,
        jetpack=number if jetpack else None,
        python=python,
        flags=tuple(flag for flag in generation.flags if integers or flag != "--int8"),
        timing_flags=known.timing_flags,
        strongly_typed=generation.strongly_typed,
        float_weights=generation.float_weights,
        source=f"{evidence}{generation.source}",
    )


@cache
def _read(kind: type[T], stem: str) -> T:
    return parse(kind, yaml_files("runtimes")[stem], f"{stem}.yaml", TargetError)
