"""Formats of CI servers: gate judgements as GitHub annotations, JUnit XML and SARIF; lint findings as SARIF.

GitHub: workflow commands, with the escapes of ``@actions/core``: ``%``, CR and LF in messages, ``:`` and ``,`` as well
in properties. JUnit: ``testsuites/testsuite/testcase``. SARIF 2.1.0 (OASIS, docs.oasis-open.org/sarif): code scanning.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as Tree

import edgeres
from edgeres.gate.paired_test import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.lint.rule import Finding, Rule
    from edgeres.tasks.judgement import Judgement

_COMMANDS = {Outcome.PASS: "notice", Outcome.FAIL: "error", Outcome.INCONCLUSIVE: "error"}
_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Outcome.FAIL: "error", Outcome.INCONCLUSIVE: "warning"}
_SEVERITIES = {"E": "error", "W": "warning", "I": "note"}
_RULES = {
    "accuracy-drop": "The accuracy drop of the deployed network exceeds the margin, or the data do not decide it yet.",
    "accuracy-warning": "Something about the comparison deserves a look.",
}


def workflow_commands(judgement: Judgement, name: str) -> tuple[str, ...]:
    """One workflow command for the outcome and one for each warning, with the name of the run."""
    title = f"edgeres gate: {name} {judgement.outcome.value}"
    verdict = _command(_COMMANDS[judgement.outcome], title, judgement.sentence)
    return (verdict, *(_command("warning", f"edgeres gate: {name}", text) for text in judgement.warnings))


def _command(command: str, title: str, message: str) -> str:
    return f"::{command} title={_message(title).replace(':', '%3A').replace(',', '%2C')}::{_message(message)}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def junit(judgement: Judgement, name: str) -> str:
    """One suite with one test, named after the run: FAIL is a failure; INCONCLUSIVE is an error."""
    failed, unknown = judgement.outcome is Outcome.FAIL, judgement.outcome is Outcome.INCONCLUSIVE
    counts = {"tests": "1", "failures": str(int(failed)), "errors": str(int(unknown)), "skipped": "0"}
    suites = Tree.Element("testsuites", {"name": "edgeres gate", **counts})
    suite = Tree.SubElement(suites, "testsuite", {"name": "edgeres gate", **counts})
    title = f"accuracy against {judgement.reference}"
    case = Tree.SubElement(suite, "testcase", {"classname": f"edgeres.gate.paired_test.{_clean(name)}", "name": title})
    text = _clean("\n".join((judgement.sentence, *judgement.warnings)))
    if failed or unknown:
        attributes = {"message": _clean(judgement.sentence), "type": judgement.outcome.value}
        Tree.SubElement(case, "failure" if failed else "error", attributes).text = text
    Tree.SubElement(case, "system-out").text = text
    Tree.indent(suites)
    return Tree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Text without the control characters that XML 1.0 cannot hold, not even escaped."""
    return "".join(
        sign if sign in "\t\n\r" or 0x20 <= ord(sign) < 0xFFFE else "\N{REPLACEMENT CHARACTER}" for sign in text
    )


def sarif(judgement: Judgement, report: str) -> str:
    """A SARIF log of a judgement; a PASS without warnings has no results.

    Results point at the run's report, a path relative to the repository where it lies inside.
    """
    judged = [("accuracy-warning", "warning", text) for text in judgement.warnings]
    if level := _LEVELS.get(judgement.outcome):
        judged.insert(0, ("accuracy-drop", level, judgement.sentence))
    rules = list(_RULES)
    results = [
        _result((rule, rules.index(rule)), level, text, _place(report), {"edgeresGate/v1": f"{rule}:{report}"})
        for rule, level, text in judged
    ]
    return _log([{"id": name, "shortDescription": {"text": text}} for name, text in _RULES.items()], results)


def lint_sarif(findings: Sequence[Finding], rules: Sequence[Rule], model: str) -> str:
    """A SARIF log of findings by all checked rules.

    Results point at the ONNX file, a path relative to the repository where it lies inside, and name the node, since an
    ONNX file has no lines.
    """
    index = {rule.id: number for number, rule in enumerate(rules)}
    results = []
    for finding in findings:
        level, text = _SEVERITIES[finding.severity], f"{finding.where}: {finding.what}; {finding.fix}"
        location = {**_place(model), "logicalLocations": [{"name": finding.where, "kind": "member"}]}
        fingerprint = {"edgeresLint/v1": f"{finding.rule}:{model}:{finding.where}"}
        results.append(_result((finding.rule, index[finding.rule]), level, text, location, fingerprint))
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


def _result(rule: tuple[str, int], level: str, text: str, location: Any, fingerprint: dict[str, str]) -> dict[str, Any]:
    result = {"ruleId": rule[0], "ruleIndex": rule[1], "level": level, "message": {"text": text}}
    return {**result, "locations": [location], "partialFingerprints": fingerprint}
