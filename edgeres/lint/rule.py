"""``Rule``: a lint rule of a ``Family`` of targets, ``Finding``: a violation, and ``Repair``: a rewrite against it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

from edgeres.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onnx import ModelProto

    from edgeres.onnx_graph.graph_index import GraphIndex
    from edgeres.targets.target import Target

    Rewrite = Callable[[ModelProto, Target], int]

Severity = Literal["E", "W", "I"]
"""``E``: the runtime rejects the file or computes wrong results. ``W``: it runs more slowly. ``I``: information."""

Version = tuple[int, int]
"""Major and minor version of a runtime."""

Defect = tuple[str, str]
"""Place in the graph (node or tensor), and the violation."""

FIRST: Version = (0, 0)
LAST: Version = (999, 0)
LENIENT: Version = (10, 13)
"""The parser generation of TensorRT-RTX 1.x, with which every rule was checked on this host (docs/lint.md)."""


_TURING = (7, 5)


@dataclass(frozen=True, slots=True)
class Family:
    """Targets that share rules: those for which ``holds``; with ``accelerator`` only where ``--dla`` asks for a DLA."""

    title: str
    holds: Callable[[Target], bool]
    accelerator: bool = False


def _tensorrt(target: Target) -> bool:
    return target.runtime.tensorrt is not None


def _capability(target: Target) -> tuple[int, ...]:
    text = target.device.compute_capability
    return tuple(int(part) for part in text.split(".")) if text else (999,)


TENSORRT = Family("TensorRT and TensorRT-RTX", _tensorrt)
STRONGLY_TYPED = Family(
    "TensorRT with strong typing alone (11, RTX)", lambda target: _tensorrt(target) and target.runtime.strongly_typed
)
WITHOUT_INT8 = Family("NVIDIA GPUs without INT8", lambda target: _tensorrt(target) and target.scheme is None)
UP_TO_TURING = Family(
    "NVIDIA GPUs up to compute capability 7.5", lambda target: _tensorrt(target) and _capability(target) <= _TURING
)
ORIN = Family("Jetson Orin", lambda target: _tensorrt(target) and target.device.compute_capability == "8.7")
ONNXRUNTIME = Family("ONNX Runtime on CPUs", lambda target: target.backend.startswith("onnxruntime"))
WITHOUT_VNNI = Family("x86 without VNNI", lambda target: target.device.isa in ("avx2", "avx512"))
MOBILE = Family("ONNX Runtime mobile", lambda target: target.backend == "onnxruntime_mobile")
LITERT = Family("LiteRT", lambda target: target.backend == "litert")
OPENVINO = Family("OpenVINO", lambda target: target.backend == "openvino")
XNNPACK = Family("ExecuTorch with XNNPACK", lambda target: target.backend == "executorch")
DLA = Family("DLA cores (with --dla)", lambda target: target.device.dla_cores > 0, accelerator=True)
WITHOUT_DLA = Family(
    "modules without a DLA (with --dla)", lambda target: target.device.dla_cores == 0, accelerator=True
)

FAMILIES = (
    TENSORRT, STRONGLY_TYPED, WITHOUT_INT8, UP_TO_TURING, ORIN, ONNXRUNTIME, WITHOUT_VNNI, MOBILE, LITERT, OPENVINO,
    XNNPACK, DLA, WITHOUT_DLA,
)  # fmt: skip
"""Every family, in the order of a report."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation of a rule: where (node or tensor), what, with the value, the remedy, and the rule's source."""

    rule: str
    severity: Severity
    where: str
    what: str
    fix: str
    source: str

    def __str__(self) -> str:
        return f"{self.rule} {self.severity} {self.where}: {self.what}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A predicate on a graph, for the targets of a family from version ``since`` on, before version ``until``.

    ``check`` yields the violations of a graph, given the runtime's version. From version ``warns_from`` on they are
    warnings. ``title`` is the requirement, ``fix`` the remedy, ``source`` the document or source code behind the rule.
    """

    family: Family
    id: str
    severity: Severity
    title: str
    fix: str
    source: str
    check: Callable[[GraphIndex, Version], Iterator[Defect]]
    since: Version = FIRST
    until: Version = LAST
    warns_from: Version = LAST

    def by_severity(self) -> tuple[Rule, ...]:
        """The rule; where its severity changes at ``warns_from``, one rule before that version and one from it on."""
        if self.warns_from == LAST:
            return (self,)
        warning = replace(self, since=self.warns_from, severity="W", warns_from=LAST)
        return replace(self, until=self.warns_from, warns_from=LAST), warning

    def adopted(self, family: Family, source: str, **changes: str) -> Rule:
        """The rule for another family, of any version, with its source there and a changed id or severity."""
        changed: dict[str, Any] = {"family": family, "source": source, "warns_from": LAST, **changes}
        return replace(self, **changed)


def rule(
    family: Family,
    id: str,  # noqa: A002  # the name rules go by everywhere
    severity: Severity,
    fix: str,
    source: str,
    **versions: Version,
) -> Callable[[Callable[[GraphIndex, Version], Iterator[Defect]]], Rule]:
    """Decorator that makes a ``Rule`` of a check, whose docstring is the title; ``versions`` are its bounds."""
    return lambda check: Rule(family, id, severity, (check.__doc__ or "").rstrip("."), fix, source, check, **versions)


class Phase(IntEnum):
    """Order of repairs: those of a phase enable those of the next."""

    SPELLING = 0
    WEIGHTS = 1
    CODES = 2
    PLACEMENT = 3
    STORAGE = 4
    PRECISION = 5
    VERSIONS = 6


@dataclass(frozen=True, slots=True)
class Repair:
    """A rewrite that removes findings of some rules.

    ``apply`` changes a model in place for a target and returns the number of changed places. ``rounding`` is the error
    of another float type as a share of a tensor's range; 0 where types are unchanged.
    """

    phase: Phase
    rules: tuple[str, ...]
    title: str
    apply: Rewrite
    rounding: float = 0.0


def repair(phase: Phase, title: str, *rules: str, rounding: float = 0.0) -> Callable[[Rewrite], Repair]:
    """Decorator that makes a ``Repair`` of a function."""
    return lambda apply: Repair(phase, rules, title, apply, rounding)


def tensorrt_version(text: str) -> Version:
    """Parses ``8.5`` or ``10.3``; ``rtx-1.7`` is the TensorRT generation whose parser it contains.

    Raises:
        TargetError: Neither form.
    """
    if text.startswith("rtx-"):
        return LENIENT
    major, _, rest = text.partition(".")
    minor = rest.partition(".")[0] or "0"
    if not (major.isdigit() and minor.isdigit()):
        raise TargetError(f"runtime.tensorrt: {text!r} is no version", "write it as '10.3' or 'rtx-1.7'")
    return int(major), int(minor)
