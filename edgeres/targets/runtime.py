"""``Runtime``: the runtime of a graph, with its versions and limits, read from ``runtimes/*.yaml``."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TypeVar

import yaml

from edgeres.errors import TargetError
from edgeres.settings import parse, plain, settings

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
    def told(self) -> str:
        """Description in a target's title."""
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
class _Portable:
    """A runtime that is not part of the device's system: it is bundled with the app, and has its own backend."""

    backend: str
    name: str
    opset: int
    ir_version: int
    source: str


@settings
class _Portables:
    runtimes: dict[str, _Portable]


def find_runtime(version: str, *, integers: bool) -> tuple[Runtime, str | None]:
    """A runtime by its name in ``runtimes/*.yaml``, such as ``jp6.2``, ``trt10.3`` or ``litert``.

    Args:
        version: The name.
        integers: Whether the device has INT8.

    Returns:
        The runtime, and its backend; None for the device's own.

    Raises:
        TargetError: There is no such runtime.
    """
    portable = _read(_Portables, "portable.yaml").runtimes.get(version)
    if portable is None:
        return _tensorrt(version, integers=integers), None
    facts = {key: value for key, value in plain(portable).items() if key != "backend"}
    return parse(Runtime, facts, "portable.yaml", TargetError), portable.backend


def _tensorrt(version: str, *, integers: bool) -> Runtime:
    """``jp6.2`` or ``trt10.3`` as a runtime; without INT8 options for a device without integers."""
    kind, number = ("jp", version.removeprefix("jp")) if version.startswith("jp") else ("trt", version[3:])
    python = None
    if kind == "jp":
        table = _read(_Releases, "jetpack.yaml")
        if number not in table.releases:
            raise TargetError(f"jetpack.yaml has no release {number!r}", f"known: {', '.join(table.releases)}")
        shipped = table.releases[number]
        tensorrt, python, name = shipped.tensorrt, shipped.python, f"TensorRT {shipped.release} (JetPack {number})"
        evidence = f"{table.source} (L4T {shipped.l4t}); "
    else:
        tensorrt, name, evidence = number, f"TensorRT {number}", ""
    known = _read(_Generations, "tensorrt.yaml")
    if tensorrt not in known.generations:
        raise TargetError(f"tensorrt.yaml has no generation {tensorrt!r}", f"known: {', '.join(known.generations)}")
    generation = known.generations[tensorrt]
    return Runtime(
        name=name,
        opset=generation.opset,
        ir_version=generation.ir_version,
        tensorrt=tensorrt,
        jetpack=number if kind == "jp" else None,
        python=python,
        flags=tuple(flag for flag in generation.flags if integers or flag != "--int8"),
        timing_flags=known.timing_flags,
        strongly_typed=generation.strongly_typed,
        float_weights=generation.float_weights,
        source=f"{evidence}{generation.source}",
    )


@cache
def _read(kind: type[T], name: str) -> T:
    text = files("edgeres.targets").joinpath("runtimes", name).read_text(encoding="utf-8")
    return parse(kind, yaml.safe_load(text), name, TargetError)
