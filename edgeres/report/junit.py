"""Gate judgement as JUnit XML, in the dialect of CI servers (``testsuites/testsuite/testcase``)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as Tree

from edgeres.gate.paired_test import Outcome

if TYPE_CHECKING:
    from edgeres.gate.judgement import Judgement


def junit(judgement: Judgement, name: str) -> str:
    """One suite with one test: FAIL is a failure; INCONCLUSIVE is an error.

    Args:
        judgement: The gate's judgement.
        name: Name of the run, such as ``resnet18-jetson``.
    """
    failed, unknown = judgement.outcome is Outcome.FAIL, judgement.outcome is Outcome.INCONCLUSIVE
    counts = {"tests": "1", "failures": str(int(failed)), "errors": str(int(unknown)), "skipped": "0"}
    suites = Tree.Element("testsuites", {"name": "edgeres gate", **counts})
    suite = Tree.SubElement(suites, "testsuite", {"name": "edgeres gate", **counts})
    title = f"accuracy against {judgement.reference}"
    case = Tree.SubElement(suite, "testcase", {"classname": f"edgeres.gate.paired_test.{_clean(name)}", "name": title})
    if failed or unknown:
        kind = "failure" if failed else "error"
        found = Tree.SubElement(case, kind, {"message": _clean(judgement.sentence), "type": judgement.outcome.value})
        found.text = _clean("\n".join((judgement.sentence, *judgement.warnings)))
    said = Tree.SubElement(case, "system-out")
    said.text = _clean("\n".join((judgement.sentence, *judgement.warnings)))
    Tree.indent(suites)
    return Tree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _clean(text: str) -> str:
    """Text without the control characters that XML 1.0 cannot hold, not even escaped."""
    return "".join(
        sign if sign in "\t\n\r" or 0x20 <= ord(sign) < 0xFFFE else "\N{REPLACEMENT CHARACTER}" for sign in text
    )
