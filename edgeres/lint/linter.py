"""Linting of a graph by the rules of a target's runtime, offline, and its repair, each step checked numerically."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edgeres.errors import StageError
from edgeres.lint import fixes, rules
from edgeres.lint.fixes.proof import prove
from edgeres.lint.rule import FAMILIES, FIRST, Finding, Repair, Rule, tensorrt_version
from edgeres.onnx_graph.edit import prune
from edgeres.onnx_graph.execute import first_line, probe, relative_delta, runner
from edgeres.onnx_graph.graph_index import GraphIndex
from edgeres.onnx_graph.lowering import ROUNDING, for_runtime
from edgeres.onnx_graph.read import infer, name_nodes, sort_nodes

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.lint.fixes.proof import Proof
    from edgeres.lint.rule import Version
    from edgeres.targets.runtime import Runtime
    from edgeres.targets.target import Target

_IMAGES = 2
_LEAVE_OUT = "nothing was written; name the rules to repair with --only"

T = TypeVar("T")


def discovered(package: ModuleType, kind: type[T]) -> tuple[T, ...]:
    """Instances of a class in a package's modules, alone or in tuples: modules by name, then as they are defined."""
    instances: list[T] = []
    for name in sorted(info.name for info in iter_modules(package.__path__)):
        for value in vars(import_module(f"{package.__name__}.{name}")).values():
            instances += [
                entry for entry in (value if isinstance(value, tuple) else (value,)) if isinstance(entry, kind)
            ]
    return tuple(dict.fromkeys(instances))


def all_rules() -> tuple[Rule, ...]:
    """Every rule of ``edgeres.lint.rules``, in the order of the families, then of modules and definitions."""
    every = [entry for declared in discovered(rules, Rule) for entry in declared.by_severity()]
    place = {family: index for index, family in enumerate(FAMILIES)}
    return tuple(sorted(every, key=lambda entry: place.get(entry.family, len(place))))


def rules_for(target: Target, *, accelerator: bool = False) -> tuple[tuple[Rule, ...], Version]:
    """The rules that apply to a target, and its runtime version.

    With ``accelerator`` those of the module's DLA too, whose cores have rules of their own beside the GPU's.

    Raises:
        TargetError: The target's TensorRT version is malformed.
    """
    version = tensorrt_version(target.runtime.tensorrt) if target.runtime.tensorrt is not None else FIRST
    applying = tuple(
        rule
        for rule in all_rules()
        if rule.since <= version < rule.until
        and (accelerator or not rule.family.accelerator)
        and rule.family.holds(target)
    )
    return applying, version


def lint(model: ModelProto, target: Target, *, accelerator: bool = False) -> tuple[Finding, ...]:
    """Findings on a graph with Q/DQ pairs, errors first, then in the order of the rules and of the graph.

    Empty for a runtime without rules. ``accelerator`` checks it for a DLA of the module too.
    """
    applying, version = rules_for(target, accelerator=accelerator)
    view = GraphIndex.of(model)
    findings = [
        Finding(rule.id, rule.severity, where, what, rule.fix, rule.source)
        for rule in applying
        for where, what in rule.check(view, version)
    ]
    return tuple(sorted(findings, key=lambda finding: "EWI".index(finding.severity)))


@dataclass(frozen=True, slots=True)
class Repaired:
    """One applied repair: the rules whose findings it removes, the changed places, and the numerical comparison."""

    rules: tuple[str, ...]
    title: str
    places: int
    proof: Proof


@dataclass(frozen=True, slots=True)
class Fixed:
    """A repaired graph, the repairs in order, and the findings left.

    ``relative`` is ``max|delta logit| / max|logit|`` against the original graph on random images, ``agreement`` the
    share of them with equal predictions.
    """

    model: ModelProto
    repairs: tuple[Repaired, ...]
    left: tuple[Finding, ...]
    relative: float
    agreement: float


def all_repairs() -> tuple[Repair, ...]:
    """Every repair of ``edgeres.lint.fixes``, in the order of phases, then of modules and definitions."""
    return tuple(sorted(discovered(fixes, Repair), key=lambda repair: repair.phase))


def fix(model: ModelProto, target: Target, *, only: frozenset[str] | None = None) -> Fixed:
    """Applies the mechanical repairs of a target's rules, or of those in ``only``.

    ``model`` is a checked graph, as ``read_model`` returns it; it is unchanged.

    Raises:
        StageError: A repair changes the graph's function, or the runtime cannot run the graph.
    """
    images = _images(model)
    current, repairs = model, list[Repaired]()
    for repair in all_repairs():
        rules = {finding.rule for finding in lint(current, target)} & set(repair.rules)
        if only is not None:
            rules &= only
        if not rules:
            continue
        changed = type(model)()
        changed.CopyFrom(current)
        places = repair.apply(changed, target)
        if not places:
            continue
        prune(changed)
        sort_nodes(changed)
        name_nodes(changed)
        changed.graph.ClearField("value_info")
        changed = infer(changed)
        names = tuple(sorted(rules))
        repairs.append(Repaired(names, repair.title, places, _proven(current, changed, images, repair, names)))
        current = changed
    relative, agreement = 0.0, 1.0
    if repairs:
        before, after = runner(model, optimise=False)(images), runner(current, optimise=False)(images)
        relative, agreement = relative_delta(before, after), float(np.mean(before.argmax(1) == after.argmax(1)))
    return Fixed(current, tuple(repairs), lint(current, target), relative, agreement)


def _images(model: ModelProto) -> NDArray[np.float32]:
    """Random images of the graph's own size, in its own batch where it has one.

    Raises:
        StageError: Height or width is symbolic.
    """
    batch, *size = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    if any(side <= 0 for side in size):
        raise StageError("the size of the image is open", "export the graph with a fixed height and width")
    return probe(model, batch or _IMAGES)


def _proven(
    before: ModelProto, after: ModelProto, images: NDArray[np.float32], repair: Repair, rules: tuple[str, ...]
) -> Proof:
    name = f"{', '.join(rules)} ({repair.title})"
    try:
        proof = prove(before, after, images, repair.rounding)
    except Exception as failure:  # ONNX Runtime's exceptions have no common base class
        raise StageError(f"{name} cannot be proven: {first_line(failure)}", _LEAVE_OUT) from failure
    if not proof.holds:
        raise StageError(f"{name}: {proof.where!r} differs by {proof.steps:.3g} quantization steps", _LEAVE_OUT)
    return proof


def lowered(model: ModelProto, runtime: Runtime) -> tuple[ModelProto, str]:
    """A graph in its runtime's form, and the difference in one sentence; empty where it is the original graph.

    The form has float weights for TensorRT before 8.5, and FP16 casts for strong typing.

    Raises:
        StageError: The lowered graph has another function, which is a defect of edgeres.
    """
    changed = for_runtime(model, runtime)
    if changed is model or changed.graph == model.graph:
        return model, ""
    proof = prove(model, changed, probe(model, _IMAGES), ROUNDING if runtime.strongly_typed else 0.0)
    if not proof.holds:
        raise StageError(f"the graph for {runtime.name} differs at {proof.where!r}", "please report it")
    closeness = {
        "equal": "every tensor equal",
        "half": f"within FP16 rounding, {proof.steps:.0%} of what is allowed",
    }.get(proof.relation, f"within {proof.steps:.2g} steps")
    form = "weights in float in front of QuantizeLinear" if runtime.float_weights else "FP16 where it computes in float"
    return changed, f"the graph has the form {runtime.name} takes, {form}: {closeness}"
