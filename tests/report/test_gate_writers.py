"""What CI reads: well-formed whatever a name or a sentence holds."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree as Tree

import pytest

from edgeres.gate.paired_test import Outcome
from edgeres.report.ci_formats import junit, sarif, workflow_commands
from edgeres.tasks.judgement import PairedPredictions, judge

NASTY = 'a <b> & "c" ]]> 100 %, d: e\r\n::error::f \x00\x1b[31m \uffff ü'


@pytest.fixture(params=list(Outcome))
def judgement(request):
    zeros = (0,) * 500
    found = judge(PairedPredictions("float", zeros, zeros, zeros), 1.0)
    return replace(found, outcome=request.param, sentence=f"{request.param}: {NASTY}", warnings=(NASTY,))


def test_junit_has_one_test_case_with_failure_error_or_pass(judgement):
    root = Tree.fromstring(junit(judgement, f"run {NASTY}"))
    assert [root.tag, *(child.tag for child in root)] == ["testsuites", "testsuite"]
    (case,) = root.iter("testcase")
    failed, unknown = judgement.outcome is Outcome.FAIL, judgement.outcome is Outcome.INCONCLUSIVE
    for suite in (root, root[0]):
        assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", f"{failed:d}", f"{unknown:d}")
    assert (case.find("failure") is not None, case.find("error") is not None) == (failed, unknown)
    assert "]]> 100 %, d: e" in case.findtext("system-out")
    assert "\x1b" not in junit(judgement, NASTY)


def test_sarif_has_required_properties(judgement):
    log = json.loads(sarif(judgement, "build/a b/report.json"))
    assert log["version"] == "2.1.0"
    assert "sarif-schema-2.1.0" in log["$schema"]
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "edgeres"
    levels = {Outcome.PASS: ["warning"], Outcome.FAIL: ["error", "warning"], Outcome.INCONCLUSIVE: ["warning"] * 2}
    assert [result["level"] for result in run["results"]] == levels[judgement.outcome]
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert NASTY in result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "build/a%20b/report.json"
        assert place["region"]["startLine"] >= 1


def test_annotations_escape_control_characters(judgement):
    lines = workflow_commands(judgement, f"run {NASTY}")
    commands = {Outcome.PASS: "notice", Outcome.FAIL: "error", Outcome.INCONCLUSIVE: "error"}
    for line, command in zip(lines, (commands[judgement.outcome], "warning"), strict=True):
        assert "\n" not in line
        assert "\r" not in line
        head, title, message = re.fullmatch(r"::(\w+) title=([^:,]*)::(.*)", line).groups()
        assert head == command
        back = message.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%")
        assert back in (judgement.sentence, NASTY)
        assert title.startswith("edgeres gate%3A run")
