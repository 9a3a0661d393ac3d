"""``Target``: capabilities, quantization scheme and budgets of a device with its runtime, read from YAML files.

``devices/*.yaml`` are devices, ``runtimes/*.yaml`` are runtimes: one file for each runtime of CPUs, one table of the
JetPacks and one of TensorRT's generations. A device lists the runtimes it may have; ``jetson-orin-nano:jp6.2`` or
``android:litert`` combines both.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from edgeres.errors import TargetError
from edgeres.settings import parse, plain, settings
from edgeres.targets.host import Isa, host_isa, saturates
from edgeres.targets.runtime import Runtime, find_runtime, yaml_files

if TYPE_CHECKING:
    from collections.abc import Iterable


@settings
class QuantScheme:
    """Quantization scheme of the target's integer kernels.

    Attributes:
        weight_bits: Bits of the per-channel symmetric weights; activations are per tensor.
        signed: int8 activations with zero-point 0 (TensorRT), or uint8 ones, whose zero-point is 0 after a ReLU.
        add_inputs: Inputs of a residual add with Q/DQ: the ``identity`` alone, or ``both``.
        pools: Whether other operations (pools, the excitation's product) read integers too, so that
            a convolution before them has an integer output.
        wide_layers: Operations whose weights keep 8 bits where the others have 4.
        channel_multiple: Divisor of channel counts at which kernels are fastest; the pruner keeps to it.
        reduce_range: Keep weights within 7 bits, ``[-63, 63]``: where two products of a uint8 and an int8 are added in
            16 bits, 8-bit weights saturate (x86 without VNNI; onnxruntime.ai, quantization, "reduce range"). A target
            file may have ``host``: where this processor does.
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
class DeviceProfile:
    """Peaks of the hardware and the source of these figures; None where unpublished.

    Dense peaks are in 1e12 operations per second (a MAC is two), the theoretical DRAM bandwidth in 1e9 bytes per
    second, the power ceiling in watts; ``compute_capability`` is an NVIDIA GPU's, such as ``8.7``, ``isa`` the widest
    integer instructions of a CPU, and ``dla_cores`` counts Deep Learning Accelerators.
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


AboveZero = Annotated[float, Field(gt=0)]


@settings
class Budget:
    """Limits with their units in the names; None is no limit.

    A drop of 0 pp is a valid limit; all other limits are above zero.
    """

    accuracy_drop_pp: Annotated[float, Field(ge=0, le=100)] | None = 1.0
    macs_g: AboveZero | None = None
    params_m: AboveZero | None = None
    size_mib: AboveZero | None = None
    latency_p50_ms: AboveZero | None = None
    latency_p90_ms: AboveZero | None = None
    latency_p99_ms: AboveZero | None = None
    peak_activation_mib: AboveZero | None = None
    peak_rss_mib: AboveZero | None = None


@settings
class Target:
    """A deployment target.

    Attributes:
        name: Identifier, the YAML file's stem, with ``:version`` where that is not the device's default.
        build_on: Whether the engine is built on this host (``host``) or on the device from a bundle.
        latency_class: Class of the documented latency budget.
        scheme: Quantization scheme; None where the device has no INT8.
        versions: Possible runtimes: ``jp6.2`` or ``trt10.3``, oldest first, or names such as ``litert``.
        version: Name of ``runtime`` among them; empty where there is no choice.
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


@cache
def targets() -> dict[str, Target]:
    """Every known device with its default runtime by name, in alphabetical order."""
    devices = (_composed(data, None) for data in _devices().values())
    return {target.name: target for target in sorted(devices, key=lambda target: target.name)}


def find_target(name: str) -> Target:
    """The target of that name or alias; ``name:version`` takes another runtime than the device's default.

    Raises:
        TargetError: Unknown; the message has the nearest names, or the versions.
    """
    known = targets()
    by_name = {alias: target for target in known.values() for alias in (target.name, *target.aliases)}
    device, _, version = name.partition(":")
    if device not in by_name:
        raise TargetError(f"unknown target {device!r}", target_hint(device, by_name))
    target = by_name[device]
    if not version or version == target.version:
        return target
    if version not in target.versions:
        valid = f"known: {', '.join(target.versions)}" if target.versions else f"its runtime is {target.runtime.name}"
        raise TargetError(f"{target.name} has no version {version!r}", valid)
    return _composed(_devices()[target.name], version)


def _devices() -> dict[str, dict[str, Any]]:
    """Device files by the name of their target."""
    return {str(data.get("name", stem)): data for stem, data in yaml_files("devices").items()}


def _composed(data: dict[str, Any], version: str | None) -> Target:
    """A device with one of its runtimes."""
    where, scheme = f"{data.get('name', '?')}.yaml", data.get("scheme")
    if isinstance(scheme, dict) and scheme.get("reduce_range") == "host":
        data = {**data, "scheme": {**scheme, "reduce_range": saturates(host_isa())}}
    if "runtime" in data:
        return parse(Target, data, where, TargetError)
    rest = {key: value for key, value in data.items() if key not in ("runtimes", "default")}
    default, versions = str(data.get("default")), tuple(data.get("runtimes", ()))
    chosen = default if version is None else version
    if default not in versions or chosen not in versions:
        raise TargetError(f"{where}: runtime {chosen!r} is not among {', '.join(versions)}", "correct the file")
    runtime, backend = find_runtime(chosen, integers=scheme is not None)
    rest |= {"runtime": plain(runtime), "versions": versions, "version": chosen}
    rest |= {"backend": backend} if backend else {}
    rest["title"] = f"{data.get('title')}, {runtime.short_name}"
    if chosen != default:
        rest["name"] = f"{data.get('name')}:{chosen}"
    return parse(Target, rest, where, TargetError)


_CLOSE = 0.7
"""Least similarity of a misspelling, as difflib's ratio; gpu and cpu have 0.67."""
_MOST = 8
"""Most names in a message."""
_LIST = "'edgeres targets' lists them"


@settings
class DeviceFamily:
    """Prefixes of words for devices that are no target names, in lower case, and matching targets, likeliest first."""

    words: tuple[str, ...]
    about: str
    targets: tuple[str, ...]

    def has(self, word: str) -> bool:
        """Whether a word belongs to the family, alone or followed by a model's name or number."""
        return any(re.match(rf"{re.escape(known)}(?![a-z])", word) for known in self.words)


@cache
def families() -> tuple[DeviceFamily, ...]:
    """The families in ``hints/targets.yaml``."""
    return tuple(parse(DeviceFamily, row, "hints/targets.yaml", TargetError) for row in yaml_files("hints")["targets"])


def target_hint(word: str, known: Iterable[str]) -> str:
    """Suggested targets for an unknown one, without its version, among the names and aliases of all targets."""
    asked, names = word.casefold().replace("_", "-"), sorted(known)
    if asked in names:
        return f"did you mean {asked!r}?"
    family = next((family for family in families() if family.has(asked)), None)
    if family is not None:
        return f"{family.about}; take one of {', '.join(family.targets)} ({_LIST})"
    inside = sorted((name for name in names if len(asked) >= 3 and asked in name), key=len)
    if inside:
        more = ", ..." if len(inside) > _MOST else ""
        return f"take one of {', '.join(inside[:_MOST])}{more} ({_LIST})"
    close = get_close_matches(asked, names, n=1, cutoff=_CLOSE)
    if not close:
        return f"{_LIST}: jetson, rtx, t4, x86, cpu, raspberry-pi, android and more"
    same_word = re.sub(r"\d", "", asked) == re.sub(r"\d", "", close[0])
    return f"the nearest there is: {close[0]!r} ({_LIST})" if same_word else f"did you mean {close[0]!r}?"
