"""Gate judgements and lint findings as SARIF 2.1.0 for code scanning (OASIS, docs.oasis-open.org/sarif)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import edgeres
from edgeres.gate.paired_test import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.gate.judgement import Judgement
    from edgeres.lint.rule import Finding, Rule

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Outcome.FAIL: "error", Outcome.INCONCLUSIVE: "warning"}
_SEVERITIES = {"E": "error", "W": "warning", "I": "note"}
_RULES = {
    "accuracy-drop": "The accuracy drop of the deployed network exceeds the margin, or the data do not decide it yet.",
    "accuracy-warning": "Something about the comparison deserves a look.",
}


def sarif(judgement: Judgement, report: str) -> str:
    """A SARIF log of a judgement; a PASS without warnings has no results.

    Args:
        judgement: The gate's judgement.
        report: Path of the run's report, relative to the repository where it lies inside; results point at it.
    """
    results: list[dict[str, Any]] = []
    if level := _LEVELS.get(judgement.outcome):
        results.append(_judged("accuracy-drop", level, judgement.sentence, report))
    results += [_judged("accuracy-warning", "warning", text, report) for text in judgement.warnings]
    return _log([{"id": name, "shortDescription": {"text": text}} for name, text in _RULES.items()], results)


def lint_sarif(findings: Sequence[Finding], rules: Sequence[Rule], model: str) -> str:
    """A SARIF log of lint findings.

    Args:
        findings: The findings.
        rules: Every rule that was checked.
        model: Path of the ONNX file, relative to the repository where it lies inside; results point at it, and name the
            node, since an ONNX file has no lines.
    """
    index = {rule.id: number for number, rule in enumerate(rules)}
    results = [
        {
            "ruleId": finding.rule,
            "ruleIndex": index[finding.rule],
            "level": _SEVERITIES[finding.severity],
            "message": {"text": f"{finding.where}: {finding.what}; {finding.fix}"},
            "locations": [{**_place(model), "logicalLocations": [{"name": finding.where, "kind": "member"}]}],
            "partialFingerprints": {"edgeresLint/v1": f"{finding.rule}:{model}:{finding.where}"},
        }
        for finding in findings
    ]
    described = [
        {
            "id": rule.id,
            "shortDescription": {"text": rule.title},
            "help": {"text": f"{rule.fix} ({rule.source})"},
            "defaultConfiguration": {"level": _SEVERITIES[rule.severity]},
        }
        for rule in rules
    ]
    return _log(described, results)


def _log(rules: list[dict[str, Any]], results: list[dict[str, Any]]) -> str:
    driver = {"name": "edgeres", "version": edgeres.__version__, "rules": rules}
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
    return json.dumps(log, indent=2, allow_nan=False) + "\n"


def _place(path: str) -> dict[str, Any]:
    from urllib.parse import quote

    return {"physicalLocation": {"artifactLocation": {"uri": quote(path)}, "region": {"startLine": 1}}}


def _judged(rule: str, level: str, text: str, report: str) -> dict[str, Any]:
    return {
        "ruleId": rule,
        "ruleIndex": list(_RULES).index(rule),
        "level": level,
        "message": {"text": text},
        "locations": [_place(report)],
        "partialFingerprints": {"edgeresGate/v1": f"{rule}:{report}"},
    }
