"""``Target``: everything a device and its runtime can do, want and allow, read from YAML files.

``targets/*.yaml`` are devices, ``runtimes/*.yaml`` are what runs on them: each JetPack and each generation of TensorRT
stands there once, and so does each runtime for CPUs. A device names the runtimes it may have;
``jetson-orin-nano:jp6.2`` or ``android:litert`` puts both together.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeVar

import yaml

from edgeres.errors import TargetError, nearest
from edgeres.settings import parse, plain, settings

T = TypeVar("T")


@settings
class QuantScheme:
    """What the target's integer kernels want.

    Attributes:
        weight_bits: Bits of the per-channel symmetric weights.
        activation_bits: Bits of the per-tensor activations.
        signed: int8 activations with zero-point 0 (TensorRT), or uint8 ones, whose zero-point is 0 behind a ReLU.
        add_inputs: Which inputs of a residual add carry Q/DQ: the ``identity`` alone, or ``both``.
        pools: Whether what is neither convolution nor add (pools, the excitation's product) reads integers too, so that
            a convolution in front of it has an integer output.
        float_layers: Operations that stay in float.
        wide_layers: Operations whose weights keep 8 bits where the others have 4.
        channel_multiple: Channel counts the kernels run fastest at; the pruner keeps to them.
        reduce_range: Keep weights within 7 bits, ``[-63, 63]``: where two products of a uint8 and an int8 are added in
            16 bits, 8-bit weights saturate (x86 without VNNI; onnxruntime.ai, quantization, "reduce range").
    """

    weight_bits: Literal[4, 8] = 8
    activation_bits: Literal[8] = 8
    signed: bool
    add_inputs: Literal["identity", "both"]
    pools: bool
    float_layers: tuple[str, ...] = ("fc",)
    wide_layers: tuple[str, ...] = ()
    channel_multiple: int = 16
    reduce_range: bool = False

    def bits_of(self, layer: str) -> int:
        """Bits of the weights of one operation."""
        bits = 8 if layer in self.wide_layers else self.weight_bits
        return 7 if bits == 8 and self.reduce_range else bits


@settings
class Runtime:
    """Versions and limits of what executes the graph.

    Attributes:
        name: Human name with the version, such as ``TensorRT 10.3 (JetPack 6.2)``.
        opset: ONNX opset of the exported graph.
        ir_version: ONNX IR version of the exported file.
        tensorrt: TensorRT version for engine builds, where it is one.
        jetpack: JetPack that ships it, where it is one.
        flags: Options of the builder tool, in order.
        timing_flags: Options with which the builder tool times an engine; 10 and 11 differ in their defaults, so all
            that matters is spelt out.
        strongly_typed: Whether the runtime computes in the types the graph says, so that FP16 has to stand in it.
        float_weights: Whether weights are stored in float in front of QuantizeLinear: parsers before 8.5 take no codes.
        source: Where these facts come from.
    """

    name: str
    opset: int
    ir_version: int
    tensorrt: str | None = None
    jetpack: str | None = None
    flags: tuple[str, ...] = ()
    timing_flags: tuple[str, ...] = ()
    strongly_typed: bool = False
    float_weights: bool = False
    workspace_mib: int = 1024
    source: str


Isa = Literal["avx2", "avx512", "avx_vnni", "avx512_vnni", "amx", "neon", "dotprod", "i8mm"]
"""``avx2`` and ``avx512`` without VNNI add products in 16 bits and saturate; all others add in 32."""


@settings
class DeviceProfile:
    """Peaks of the hardware; None where nobody published the figure.

    Attributes:
        int8_tops: Dense INT8 peak in 1e12 operations per second (a MAC is two).
        fp16_tops: Dense FP16 peak, same unit.
        fp32_tops: FP32 peak, same unit.
        bandwidth_gbs: Theoretical DRAM bandwidth in 1e9 bytes per second.
        tdp_w: Power ceiling in watts.
        compute_capability: Of an NVIDIA GPU, such as ``8.7``.
        dla_cores: Deep Learning Accelerators beside the GPU.
        isa: Widest integer instructions of a CPU, as its programs ask for them.
        source: Where the figures come from.
    """

    name: str
    int8_tops: float | None = None
    fp16_tops: float | None = None
    fp32_tops: float | None = None
    bandwidth_gbs: float | None = None
    tdp_w: float | None = None
    compute_capability: str | None = None
    dla_cores: int = 0
    isa: Isa | None = None
    source: str


@settings
class Budget:
    """Limits with their units in the names; None is no limit."""

    accuracy_drop_pp: float | None = 1.0
    macs_g: float | None = None
    params_m: float | None = None
    size_mib: float | None = None
    latency_p50_ms: float | None = None
    latency_p90_ms: float | None = None
    latency_p99_ms: float | None = None
    peak_activation_mib: float | None = None
    peak_rss_mib: float | None = None


@settings
class Target:
    """A deployment target.

    Attributes:
        name: Identifier, the YAML file's stem, with ``:version`` where that is not the device's default.
        title: One line for people.
        backend: Which runtime adapter builds and runs it.
        build_on: Whether the engine is built here (``host``) or on the device from a bundle.
        latency_class: Which documented latency budget applies.
        scheme: Integer scheme, None where the device has no INT8.
        runtime: Versions.
        device: Hardware peaks.
        budget: The target's own limits.
        aliases: Other names.
        versions: Runtimes the device may have: ``jp6.2`` or ``trt10.3``, oldest first, or names such as ``litert``.
        version: The one that ``runtime`` is; empty where there is no choice.
    """

    name: str
    title: str
    backend: str
    build_on: Literal["host", "device"]
    latency_class: Literal["gpu", "mobile"]
    scheme: QuantScheme | None
    runtime: Runtime
    device: DeviceProfile
    budget: Budget = Budget()
    aliases: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    version: str = ""


@settings
class _Generation:
    """What a generation of TensorRT wants; see ``Runtime``."""

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


@settings
class _Releases:
    source: str
    releases: dict[str, _Release]


@settings
class _Portable:
    """A runtime that is no part of the device's system: it comes with the app, and with its own backend."""

    backend: str
    name: str
    opset: int
    ir_version: int
    source: str


@settings
class _Portables:
    runtimes: dict[str, _Portable]


@cache
def targets() -> dict[str, Target]:
    """Every known device with its default runtime by name, in alphabetical order."""
    devices = (_composed(data, None) for data in _devices().values())
    return {target.name: target for target in sorted(devices, key=lambda target: target.name)}


def find_target(name: str) -> Target:
    """The target of that name or alias; ``name:version`` takes another runtime than the device's default.

    Raises:
        TargetError: Unknown; the message has the nearest name, or the versions there are.
    """
    known = targets()
    by_name = {alias: target for target in known.values() for alias in (target.name, *target.aliases)}
    device, _, version = name.partition(":")
    if device not in by_name:
        raise TargetError(f"unknown target {device!r}", nearest(device, by_name))
    target = by_name[device]
    if not version or version == target.version:
        return target
    if version not in target.versions:
        valid = f"known: {', '.join(target.versions)}" if target.versions else f"its runtime is {target.runtime.name}"
        raise TargetError(f"{target.name} has no version {version!r}", valid)
    return _composed(_devices()[target.name], version)


@cache
def _devices() -> dict[str, dict[str, Any]]:
    """The files in ``targets/`` by the name in them."""
    found: dict[str, dict[str, Any]] = {}
    for entry in sorted(files("edgeres").joinpath("targets").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            data: dict[str, Any] = yaml.safe_load(entry.read_text(encoding="utf-8"))
            found[str(data.get("name", entry.name))] = data
    return found


def _composed(data: dict[str, Any], version: str | None) -> Target:
    """A device with one of its runtimes."""
    where = f"{data.get('name', '?')}.yaml"
    if "runtime" in data:
        return parse(Target, data, where, TargetError)
    rest = {key: value for key, value in data.items() if key not in ("runtimes", "default")}
    default, versions = str(data.get("default")), tuple(data.get("runtimes", ()))
    chosen = default if version is None else version
    if default not in versions or chosen not in versions:
        raise TargetError(f"{where}: runtime {chosen!r} is not among {', '.join(versions)}", "correct the file")
    portable = _read(_Portables, "portable.yaml").runtimes.get(chosen)
    if portable is None:
        runtime = _runtime(chosen, integers=data.get("scheme") is not None)
    else:
        facts = {key: value for key, value in plain(portable).items() if key != "backend"}
        runtime = parse(Runtime, facts, "portable.yaml", TargetError)
        rest["backend"] = portable.backend
    rest |= {"runtime": plain(runtime), "versions": versions, "version": chosen}
    rest["title"] = f"{data.get('title')}, {_told(runtime)}"
    if chosen != default:
        rest["name"] = f"{data.get('name')}:{chosen}"
    return parse(Target, rest, where, TargetError)


def _told(runtime: Runtime) -> str:
    if runtime.tensorrt is None:
        return runtime.name
    jetpack = f"JetPack {runtime.jetpack}, " if runtime.jetpack else ""
    return f"{jetpack}TensorRT {runtime.tensorrt}"


def _runtime(version: str, *, integers: bool) -> Runtime:
    """``jp6.2`` or ``trt10.3`` as a runtime; a device without integers is never asked for INT8."""
    kind, number = ("jp", version.removeprefix("jp")) if version.startswith("jp") else ("trt", version[3:])
    if kind == "jp":
        table = _read(_Releases, "jetpack.yaml")
        if number not in table.releases:
            raise TargetError(f"jetpack.yaml has no release {number!r}", f"known: {', '.join(table.releases)}")
        shipped = table.releases[number]
        tensorrt, name = shipped.tensorrt, f"TensorRT {shipped.release} (JetPack {number})"
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
        flags=tuple(flag for flag in generation.flags if integers or flag != "--int8"),
        timing_flags=known.timing_flags,
        strongly_typed=generation.strongly_typed,
        float_weights=generation.float_weights,
        source=f"{evidence}{generation.source}",
    )


@cache
def _read(kind: type[T], name: str) -> T:
    text = files("edgeres").joinpath("runtimes", name).read_text(encoding="utf-8")
    return parse(kind, yaml.safe_load(text), name, TargetError)
