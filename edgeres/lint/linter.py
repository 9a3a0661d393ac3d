"""Runs the rules of a target's runtime over a graph: offline, without the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.lint import onnxruntime, tensorrt
from edgeres.lint.rule import LAST, tensorrt_version
from edgeres.onnxfile.view import View

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.lint.rule import Finding, Rule, Version
    from edgeres.target import Target


def rules_for(target: Target) -> tuple[tuple[Rule, ...], Version]:
    """The rules that hold for a target, and the runtime version they are asked about.

    Raises:
        TargetError: The target's TensorRT version is no version.
    """
    if target.runtime.tensorrt is not None:
        version = tensorrt_version(target.runtime.tensorrt)
        return tuple(rule for rule in tensorrt.RULES if rule.applies(version)), version
    if target.backend.startswith("onnxruntime"):
        return onnxruntime.RULES, LAST
    return (), LAST


def lint(model: ModelProto, target: Target) -> tuple[Finding, ...]:
    """Checks a graph against everything known about a target's runtime.

    Args:
        model: The graph that is to ship, with its Q/DQ pairs.
        target: The target.

    Returns:
        Findings, errors first, then in the order of the rules and of the graph. Empty for a runtime without rules.
    """
    rules, version = rules_for(target)
    view = View.of(model)
    found = [finding for rule in rules for finding in rule.findings(view, version)]
    return tuple(sorted(found, key=lambda finding: "EWI".index(finding.severity)))
