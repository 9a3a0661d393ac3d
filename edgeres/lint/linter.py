"""Linting of a graph by the rules of a target's runtime: offline, without the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.lint.families import rules_for
from edgeres.onnx_graph.graph_index import GraphIndex

if TYPE_CHECKING:
    from onnx import ModelProto

    from edgeres.lint.rule import Finding
    from edgeres.targets.target import Target


def lint(model: ModelProto, target: Target, *, accelerator: bool = False) -> tuple[Finding, ...]:
    """Checks a graph against the rules of a target's runtime.

    Args:
        model: The graph to deploy, with its Q/DQ pairs.
        target: The target.
        accelerator: Whether it runs on a DLA of the module.

    Returns:
        Findings, errors first, then in the order of the rules and of the graph. Empty for a runtime without rules.
    """
    rules, version = rules_for(target, accelerator=accelerator)
    view = GraphIndex.of(model)
    found = [finding for rule in rules for finding in rule.findings(view, version)]
    return tuple(sorted(found, key=lambda finding: "EWI".index(finding.severity)))
