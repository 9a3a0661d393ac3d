"""A prediction stands beside an unmeasured line, in its own words, and passes nothing."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from example_run import jetson, x86

from edgeres.artifacts.budget_check import Predicted
from edgeres.errors import UsageError
from edgeres.report.html import html
from edgeres.report.markdown import markdown
from edgeres.runs.document import decode, encode
from edgeres.runs.figures import PREDICTED, predicted_text
from edgeres.runs.verdict import exit_code, headline, outcome, summary_lines

CASES = {"passes": (0.01, 0.03), "open": (0.03, 0.06), "fails": (0.05, 0.2)}


def predicted_run(predicted_status, *, strict=False):
    run = jetson()
    low, high = CASES[predicted_status]
    expected = Predicted(value=(low + high) / 2, low=low, high=high, basis="a roofline; missed by 20 %")
    (line,) = run.timings.lines
    line = replace(line, predicted=expected, predicted_status=predicted_status)
    return replace(run, strict=strict, timings=replace(run.timings, lines=(line,)))


@pytest.mark.parametrize("predicted_status", CASES)
def test_prediction_does_not_change_outcome(predicted_status):
    run, plain = predicted_run(predicted_status), jetson()
    assert outcome(run) == outcome(plain) == "incomplete"
    assert exit_code(run) == 0
    assert exit_code(predicted_run(predicted_status, strict=True)) == 4


@pytest.mark.parametrize("predicted_status", CASES)
def test_pages_mark_predicted_values(predicted_status):
    run = predicted_run(predicted_status)
    said, figure = PREDICTED[predicted_status], predicted_text(run.timings.lines[0])
    measured_there = f"the device measures latency p50 ({said})."
    left = f"unmeasured: latency p50 ({said})."
    assert headline(run).endswith(left if predicted_status == "fails" else measured_there)
    (line,) = [line for line in summary_lines(run) if line.startswith("unmeasured")]
    assert f"{said}: {figure}" in line
    assert "missed by 20 %" not in line, "what it rests on stands in the report"
    (row,) = [row for row in markdown(run).splitlines() if row.startswith("| Latency p50")]
    assert f"unmeasured, {said} | {figure}" in row
    assert "missed by 20 %" in row
    budget = html(run).partition('id="budget"')[2].partition("</section>")[0]
    assert f'class="pill predicted {predicted_status}">{said}<' in budget
    assert figure in budget
    assert "missed by 20 %" in budget
    assert "missed by 20 %" in row
    assert "Unmeasured" in budget


def test_predicted_band_and_limit_are_drawn_to_scale():
    page = html(predicted_run("open")).partition("<!DOCTYPE html>\n")[2]
    root = ElementTree.fromstring(page)
    band = next(node for node in root.iter("i") if node.get("class") == "band")
    style = dict(part.split(":") for part in band.get("style").split(";"))
    left, width = (float(style[key].rstrip("%")) for key in ("margin-left", "width"))
    assert left == pytest.approx(100 * 0.03 / (1.1 * 0.06), abs=0.1)
    assert left + width == pytest.approx(100 / 1.1, abs=0.2)


def test_json_keeps_prediction_and_rejects_inconsistent_status():
    run = predicted_run("open")
    text = encode(run)
    assert decode(text, "r") == run
    lied = json.loads(text)
    lied["timings"]["lines"][0]["predicted_status"] = "passes"
    with pytest.raises(UsageError, match="cannot be 'passes'"):
        decode(json.dumps(lied), "r")


def test_decode_accepts_report_without_predictions():
    facts = json.loads(encode(x86()))
    for line in (*facts["lines"], *facts["timings"]["lines"]):
        del line["predicted"], line["predicted_status"], line["derivation"], line["figure"]
    assert decode(json.dumps(facts), "r") == x86()
