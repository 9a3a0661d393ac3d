"""The schema document names every field there is, in the section of its value."""

import dataclasses
import re
from pathlib import Path

import pytest
from example_run import jetson

from edgeres.artifacts.artifact import KernelCounts
from edgeres.artifacts.budget_check import BudgetCheck
from edgeres.artifacts.results import LayerSensitivity, OutputError, StageMetrics, TechniqueResult
from edgeres.backends.backend import LayerTime
from edgeres.data.census import Census
from edgeres.latency.benchmark import result
from edgeres.runs import findings, run
from edgeres.runs.document import encode

DOCUMENT = (Path(__file__).parents[2] / "docs" / "report-schema.md").read_text(encoding="utf-8")
SECTIONS = {
    "Top level": (run.Run, run.Device, run.FileRow),
    "`error`": (run.Failure,),
    "`lines` and `timings.lines`": (BudgetCheck,),
    "`stages[]`": (run.StageRow, StageMetrics),
    "`stages[].techniques[]`": (TechniqueResult,),
    "`sensitivity[]`": (LayerSensitivity,),
    "`accuracy`": (findings.Accuracy, findings.FurtherScore, OutputError),
    "`confusion`": (findings.Confusion,),
    "`flips[]`": (findings.Flip,),
    "`kernels`": (KernelCounts,),
    "`calibration`": (findings.Calibration, findings.TensorScale),
    "`provenance`": (run.Provenance, run.SplitRow, Census),
    "`timings`": (run.Timings, run.StageTime, run.LatencyRow),
    "`timings.bench`": (
        result.BenchmarkResult,
        result.VariantResult,
        result.Ratio,
        result.ProcessorPeak,
        result.HostLoad,
        LayerTime,
    ),
}


def section(title: str) -> str:
    return DOCUMENT.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("title", SECTIONS)
def test_every_field_is_documented(title: str) -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", section(title)))
    for value in SECTIONS[title]:
        assert {field.name for field in dataclasses.fields(value)} <= named


def test_every_settings_class_is_documented() -> None:
    kinds = {
        each
        for module in (run, findings, result)
        for each in vars(module).values()
        if isinstance(each, type) and dataclasses.is_dataclass(each)
    }
    assert kinds == {value for values in SECTIONS.values() for value in values}


def test_verdict_and_version_are_documented() -> None:
    assert run.SCHEMA in DOCUMENT.splitlines()[0]
    assert f'"schema": "{run.SCHEMA}"' in encode(jetson())
    assert {"status", "exit_code", "headline", "lines"} <= set(re.findall(r"`([a-z_]+)`", section("`verdict`")))
