"""Linting of a graph by the rules of a target's runtime: offline, without the runtime."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, TypeVar

from edgeres.lint import rules
from edgeres.lint.rule import FAMILIES, FIRST, Rule, tensorrt_version
from edgeres.onnx_graph.graph_index import GraphIndex

if TYPE_CHECKING:
    from types import ModuleType

    from onnx import ModelProto

    from edgeres.lint.rule import Finding, Version
    from edgeres.targets.target import Target

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
    findings = [finding for rule in applying for finding in rule.findings(view, version)]
    return tuple(sorted(findings, key=lambda finding: "EWI".index(finding.severity)))
