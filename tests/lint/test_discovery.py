"""A rule and a repair are added by one file each, and every output of ``edgeres lint`` has them."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.subjects import ours
from edgeres.cli import main
from edgeres.lint import fixes, rules
from edgeres.lint.linter import fix
from edgeres.targets.target import find_target

RULE = '''
from edgeres.lint.rule import TENSORRT
from edgeres.lint.rule import rule


@rule(TENSORRT, "Z01", "W", "rename it", "a test")
def plain_names(view, _):
    """Nodes have plain names."""
    for node in view.nodes:
        if node.name == "layer1.0.conv2":
            yield node.name, "has dots in its name"
'''

REPAIR = """
from edgeres.lint.rule import Phase, repair


@repair(Phase.SPELLING, "names without dots", "Z01")
def rename(model, target):
    nodes = [node for node in model.graph.node if node.name == "layer1.0.conv2"]
    for node in nodes:
        node.name = "layer1_0_conv2"
    return len(nodes)
"""


@pytest.fixture
def toy(monkeypatch, tmp_path) -> Path:
    """One more file in the packages of rules and of repairs, and a clean graph as a file."""
    for package, text in ((rules, RULE), (fixes, REPAIR)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "a_toy.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"{package.__name__}.a_toy", raising=False)
    model = tmp_path / "model.onnx"
    model.write_bytes(ours(find_target("jetson")).SerializeToString())
    yield model
    for package in (rules, fixes):
        sys.modules.pop(f"{package.__name__}.a_toy", None)


def test_rule_in_a_new_file_is_reported_in_table_json_and_sarif(toy, tmp_path, capsys) -> None:
    command = ["lint", str(toy), "--target", "jetson"]
    assert main(command) == 0
    assert "Z01" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["rule"], finding["where"], finding["fix"]) == ("Z01", "layer1.0.conv2", "rename it")
    assert main([*command, "--sarif", str(tmp_path / "lint.sarif")]) == 0
    (run,) = json.loads((tmp_path / "lint.sarif").read_text())["runs"]
    assert [result["ruleId"] for result in run["results"]] == ["Z01"]
    described = run["tool"]["driver"]["rules"][run["results"][0]["ruleIndex"]]
    assert described["shortDescription"]["text"] == "Nodes have plain names"


def test_rule_of_a_family_does_not_apply_to_other_targets(toy, capsys) -> None:
    main(["lint", str(toy), "--target", "cpu", "--json"])
    assert "Z01" not in capsys.readouterr().out


def test_repair_in_a_new_file_is_applied_and_proven(toy) -> None:
    jetson = find_target("jetson")
    fixed = fix(ours(jetson), jetson)
    assert [(done.rules, done.title, done.places) for done in fixed.repairs] == [(("Z01",), "names without dots", 1)]
    assert fixed.left == ()
