"""The Monte Carlo's own parts, its table in the docs, and the commands that documents and workflows show."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.gate import MARKERS, BenchmarkResult, _fixed, main, measure, truths
from edgeres.cli import parser
from edgeres.gate.paired_test import Outcome, Paired, decide

CHECKOUT = Path(__file__).parents[2]


def test_the_fixed_test_is_the_gates():
    random = np.random.default_rng(0)
    lost, gained = random.integers(0, 40, (2, 300))
    outcomes = [decide(Paired(n=1000, b=int(b), c=int(c)), 1.0).outcome for b, c in zip(lost, gained, strict=True)]
    wanted = outcomes.count(Outcome.PASS), outcomes.count(Outcome.FAIL)
    assert _fixed(lost, gained, 1000, 0.01) == wanted
    assert min(wanted) > 20


def test_truths_add_up():
    found = list(truths(0.005, 0.01, recorded=-0.003))
    assert [truth.drop for truth in found] == [0.0, 0.01, 0.02, -0.003]
    for truth in found:
        assert truth.lost + truth.gained == pytest.approx(truth.discordance)
        assert truth.lost - truth.gained == pytest.approx(truth.drop)
        assert truth.gained >= 0
        assert truth.images > 200


def test_a_repeated_simulation_is_the_same():
    truth = BenchmarkResult(0.05, 0.0, 500)
    assert measure(truth, 0.01, 100) == measure(truth, 0.01, 100)


def test_the_command_keeps_its_table_between_the_markers(tmp_path, capsys):
    page = tmp_path / "gate.md"
    page.write_text(f"before\n{MARKERS[0]}\nold\n{MARKERS[1]}\nafter\n")
    assert main(["--runs", "20", "--write", str(page)]) == 0
    table = capsys.readouterr().out.strip()
    assert page.read_text() == f"before\n{MARKERS[0]}\n{table}\n{MARKERS[1]}\nafter\n"
    assert len(table.splitlines()) == 4 + 11


def test_the_documented_table_keeps_what_the_docs_promise():
    text = (CHECKOUT / "docs" / "gate.md").read_text(encoding="utf-8")
    body = text.partition(MARKERS[0])[2].partition(MARKERS[1])[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in body.splitlines() if "pp |" in line]
    assert body.strip().startswith("100,000 runs a row")
    assert len(rows) == 11
    for _, drop, _, _, _, passed, failed, _, _ in rows:
        if drop != "0 pp":
            assert float(passed.split()[0]) <= 5
        if drop in ("0 pp", "1 pp"):
            assert float(failed.split()[0]) <= 5


def test_the_workflow_asks_for_what_there_is():
    flow = yaml.safe_load((CHECKOUT / ".github" / "workflows" / "accuracy.yml").read_text(encoding="utf-8"))
    lines = [line for step in flow["jobs"]["gate"]["steps"] for line in step.get("run", "").splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("edgeres ")]
    assert [command[0] for command in commands] == ["compile", "gate"]
    options = [parser().parse_args(command) for command in commands]
    assert options[1].run == f"build/{options[0].model}-{options[0].target}"


def test_every_option_of_the_gate_is_documented():
    text = (CHECKOUT / "docs" / "gate.md").read_text(encoding="utf-8")
    source = (CHECKOUT / "edgeres" / "cli" / "gate.py").read_text(encoding="utf-8")
    found = set(re.findall(r'"(--[a-z]+)"', source))
    assert len(found) == 10
    assert all(f"`{option}" in text or f"[{option}" in text or f" {option}" in text for option in found)
