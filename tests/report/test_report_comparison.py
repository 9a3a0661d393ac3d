"""Two reports side by side: every figure from the reports, and of inputs, settings and versions only what differs."""

from dataclasses import replace

import pytest
from example_run import evil, jetson, sha, stopped, x86

from edgeres.errors import UsageError
from edgeres.report.comparison import ComparisonRow, compare, settings_of
from edgeres.runs.figures import percent

PLAIN = "- train: {epochs: 2, augment: {crop: random}}\n- evaluate\n- quantize: {calibrator: mse}\n- evaluate\n"


def with_recipe(run, recipe):
    return replace(run, provenance=replace(run.provenance, recipe=recipe))


def rows(group):
    return {row.name: row.written for row in group}


def test_comparison_of_run_with_itself_has_no_differences():
    found = compare(x86(), x86())
    assert found.inputs == found.recipe == found.versions == found.notes == ()
    assert {row.written[2] for row in (*found.facts, *found.stages)} <= {"", "0.00 pp"}


def test_comparison_rows_have_both_values_and_change():
    found = rows(compare(x86(0.5), x86(0.75)).facts)
    assert found["latency p50, int8"] == ("0.5 ms", "0.75 ms", "+50 %")
    assert found["integer layers"] == ("20 of 21", "20 of 21", "")
    assert ComparisonRow("top-1", 97.0, 95.5, percent).written == ("97.00 %", "95.50 %", "-1.50 pp")
    assert ComparisonRow("top-1", 97.0, None, percent).written == ("97.00 %", "-", "differs")


def test_comparison_shows_missing_figure_as_absent():
    found = rows(compare(jetson(), x86()).facts)
    assert found["latency p50, int8"] == ("-", "0.61 ms", "differs")
    both = rows(compare(jetson(), jetson()).facts)
    assert both["latency"] == ("unmeasured", "unmeasured", "")


def test_recipe_settings_are_keyed_by_stage_and_key():
    assert settings_of(PLAIN) == {
        "train": "there",
        "train.epochs": "2",
        "train.augment.crop": "random",
        "evaluate": "there",
        "quantize": "there",
        "quantize.calibrator": "mse",
        "evaluate#2": "there",
    }
    other = PLAIN.replace("mse", "entropy").replace("- train: {epochs: 2, augment: {crop: random}}", "- load")
    found = compare(with_recipe(x86(), PLAIN), with_recipe(x86(), other)).recipe
    assert {row.name: (row.first, row.second) for row in found} == {
        "train": ("there", None),
        "train.epochs": ("2", None),
        "train.augment.crop": ("random", None),
        "quantize.calibrator": ("mse", "entropy"),
        "load": (None, "there"),
    }


def test_inputs_and_versions_list_only_differences():
    base = x86()
    p = base.provenance
    splits = tuple(replace(s, digest=sha("other")) if s.name == "validation" else s for s in p.splits)
    other = replace(p, seed=p.seed + 1, splits=splits, packages={**p.packages, "torch": "2.12.0"}, cpu="another")
    found = compare(base, replace(base, provenance=other))
    assert [row.name for row in found.inputs] == ["seed", "images of validation"]
    assert {row.name: (row.first, row.second) for row in found.versions} == {
        "torch": (p.packages["torch"], "2.12.0"),
        "CPU": (p.cpu, "another"),
    }
    assert found.notes == ("judged on different validation images: the accuracies do not compare",)


def test_comparison_accepts_failed_run():
    found = compare(stopped(), x86())
    assert rows(found.facts)["verdict"] == ("error", "passed", "differs")
    assert found.notes[0].startswith("resnet18 for")


@pytest.mark.parametrize("recipe", ["\x01", "text", "- [a]", "- train: 3", "{a: b", "- 1"])
def test_invalid_recipe_is_rejected(recipe):
    with pytest.raises(UsageError, match="no list of stages"):
        settings_of(recipe)
    with pytest.raises(UsageError):
        compare(evil(), x86())
