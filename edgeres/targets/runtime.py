"""``Runtime``: the runtime of a graph, with its versions and limits, read from ``runtimes/*.yaml``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

import edgeres.targets
from edgeres.errors import TargetError
from edgeres.settings import parse, settings

_FIRST_IR_VERSION = {18: 8, 19: 9, 20: 9, 21: 10}
"""The IR version with which an opset was released (onnx, docs/Versioning.md)."""


@settings
class Runtime:
    """Versions and limits of the runtime of a graph.

    Attributes:
        name: Display name with the version, such as ``TensorRT 10.3 (JetPack 6.2)``.
        jetpack: JetPack that contains it, or None; ``python`` is the version of its ``python3``.
        flags: Options of the builder tool, in order.
        timing_flags: Options with which the builder tool times an engine; 10 and 11 differ in their defaults, so all
            relevant ones are given.
        strongly_typed: Whether the runtime computes in the graph's types, so that FP16 has to be in the graph.
        float_weights: Whether weights are stored in float before QuantizeLinear: parsers before 8.5 do not support
            codes.
        latest_opset: Latest opset that the runtime takes; an imported graph of an opset from ``opset`` to it keeps its
            own. None where there is none beyond ``opset``.
        uint8_input: Whether the built network may take uint8 pixels.
        fused_activations: Whether an integer convolution ends in any activation after it, such as HardSwish; elsewhere
            only in a ReLU, and its output has to be quantized.
    """

    name: str
    opset: int
    ir_version: int
    latest_opset: int | None = None
    tensorrt: str | None = None
    jetpack: str | None = None
    python: str | None = None
    flags: tuple[str, ...] = ()
    timing_flags: tuple[str, ...] = ()
    strongly_typed: bool = False
    float_weights: bool = False
    uint8_input: bool = True
    fused_activations: bool = False
    workspace_mib: int = 1024
    source: str

    def version_for(self, opset: int) -> tuple[int, int]:
        """Opset and IR version in which the runtime takes an imported graph of an opset."""
        chosen = min(max(opset, self.opset), self.latest_opset or self.opset)
        return chosen, max(self.ir_version, _FIRST_IR_VERSION.get(chosen, self.ir_version))

    @property
    def short_name(self) -> str:
        """Description in a target's title, such as ``JetPack 6.2, TensorRT 10.3``."""
        if self.tensorrt is None:
            return self.name
        jetpack = f"JetPack {self.jetpack}, " if self.jetpack else ""
        return f"{jetpack}TensorRT {self.tensorrt}"


@settings
class _Release:
    """A release of JetPack, with the TensorRT and the Python that it ships."""

    l4t: str
    tensorrt: str
    release: str
    python: str


def find_runtime(version: str, *, integers: bool) -> tuple[Runtime, str | None]:
    """A runtime by its name, ``jp6.2``, ``trt10.3`` or the stem of its file, and its backend; None for the device's.

    ``integers`` says whether the device has INT8.

    Raises:
        TargetError: There is no such runtime.
    """
    if version.startswith(("jp", "trt")):
        return _tensorrt(version, integers=integers), None
    files = yaml_files("runtimes")
    if version not in files or "backend" not in files[version]:
        raise TargetError(f"there is no runtimes/{version}.yaml with a backend", f"known: {', '.join(files)}")
    row = {key: value for key, value in files[version].items() if key != "backend"}
    return parse(Runtime, row, f"{version}.yaml", TargetError), str(files[version]["backend"])


def _tensorrt(version: str, *, integers: bool) -> Runtime:
    """``jp6.2`` or ``trt10.3`` as a runtime; without INT8 options for a device without integers."""
    jetpack, number = version.startswith("jp"), version.removeprefix("jp").removeprefix("trt")
    tensorrt, name, evidence, python = number, f"TensorRT {number}", "", None
    if jetpack:
        table = yaml_files("runtimes")["jetpack"]
        shipped = parse(
            _Release, _row(table["releases"], number, "jetpack.yaml has no release"), "jetpack.yaml", TargetError
        )
        tensorrt, python, name = shipped.tensorrt, shipped.python, f"TensorRT {shipped.release} (JetPack {number})"
        evidence = f"{table['source']} (L4T {shipped.l4t}); "
    known = yaml_files("runtimes")["tensorrt"]
    generation = _row(known["generations"], tensorrt, "tensorrt.yaml has no generation")
    facts = {
        "name": name,
        "tensorrt": tensorrt,
        "jetpack": number if jetpack else None,
        "python": python,
        "flags": [flag for flag in generation["flags"] if integers or flag != "--int8"],
        "timing_flags": known["timing_flags"],
        "source": f"{evidence}{generation['source']}",
    }
    return parse(Runtime, {**generation, **facts}, "tensorrt.yaml", TargetError)


def _row(rows: dict[str, Any], key: str, missing: str) -> dict[str, Any]:
    if key not in rows:
        raise TargetError(f"{missing} {key!r}", f"known: {', '.join(rows)}")
    row: dict[str, Any] = rows[key]
    return row


@cache
def yaml_files(folder: str) -> dict[str, Any]:
    """Content of each YAML file in a folder of this package, by the file's stem in alphabetical order."""
    paths = (path for root in edgeres.targets.__path__ for path in Path(root, folder).glob("*.yaml"))
    return {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(paths, key=lambda p: p.stem)}
