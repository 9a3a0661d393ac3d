"""A judgement as SARIF 2.1.0, which code scanning reads (OASIS, docs.oasis-open.org/sarif/sarif/v2.1.0)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import edgeres
from edgeres.gate import Outcome

if TYPE_CHECKING:
    from edgeres.judgement import Judgement

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Outcome.FAIL: "error", Outcome.INCONCLUSIVE: "warning"}
_RULES = {
    "accuracy-drop": "What ships answers worse than its reference by more than the margin, or nobody can tell yet.",
    "accuracy-warning": "Something about the comparison deserves a look.",
}


def sarif(judgement: Judgement, report: str) -> str:
    """A log of one run; a PASS without warnings has no results, as code scanning shows nothing but findings.

    Args:
        judgement: What the gate said.
        report: Path of the run's report, relative to the repository where it lies inside, which results point at.
    """
    results: list[dict[str, Any]] = []
    if level := _LEVELS.get(judgement.outcome):
        results.append(_result("accuracy-drop", level, judgement.sentence, report))
    results += [_result("accuracy-warning", "warning", text, report) for text in judgement.warnings]
    rules = [{"id": name, "shortDescription": {"text": text}} for name, text in _RULES.items()]
    driver = {"name": "edgeres", "version": edgeres.__version__, "rules": rules}
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}
    return json.dumps(log, indent=2, allow_nan=False) + "\n"


def _result(rule: str, level: str, text: str, report: str) -> dict[str, Any]:
    from urllib.parse import quote

    place = {"artifactLocation": {"uri": quote(report)}, "region": {"startLine": 1}}
    return {
        "ruleId": rule,
        "ruleIndex": list(_RULES).index(rule),
        "level": level,
        "message": {"text": text},
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"edgeresGate/v1": f"{rule}:{report}"},
    }
