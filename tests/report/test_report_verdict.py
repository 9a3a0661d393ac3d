"""A verdict follows from facts: nothing failed may be called passed, nothing unmeasured may be called measured."""

from dataclasses import replace

import pytest
from example_run import X86, accuracy, jetson, lines, stopped, x86
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edgeres.artifacts.budget_check import BudgetCheck, Predicted
from edgeres.artifacts.results import Latency
from edgeres.data.size import Size
from edgeres.gate.budget import latency_lines, limits, static_lines
from edgeres.runs.run import Run, Timings, is_timed
from edgeres.runs.verdict import drop_cause, exit_code, headline, line_counts, outcome, summary_lines
from edgeres.targets.target import find_target, targets


def line(status: str, name: str = "size_mib") -> BudgetCheck:
    value = {"passed": 1.0, "failed": 3.0, "unmeasured": None}[status]
    return BudgetCheck(name=name, value=value, limit=2.0, status=status, how="made up", source="test")


def run_with(statuses: list[str], *, strict: bool = False) -> Run:
    return Run(edgeres="0", command="", model="m", target=X86, strict=strict, lines=tuple(map(line, statuses)))


@given(st.lists(st.sampled_from(["passed", "failed", "unmeasured"]), max_size=6), st.booleans())
def test_outcome_is_worst_line(statuses: list[str], strict: bool) -> None:
    run = run_with(statuses, strict=strict)
    if "failed" in statuses:
        expected = ("failed", 3)
    elif "unmeasured" in statuses or not statuses:
        expected = ("incomplete", 4 if strict else 0)
    else:
        expected = ("passed", 0)
    assert (outcome(run), exit_code(run)) == expected
    assert headline(run).startswith(f"{expected[0].capitalize()}: ")


@pytest.mark.parametrize("position", range(3))
def test_one_failed_line_fails_run(position: int) -> None:
    good = lines()
    broken = replace(good[position], value=2 * good[position].limit, status="failed")
    run = replace(x86(), lines=(*good[:position], broken, *good[position + 1 :]))
    assert headline(x86()).startswith("Passed: ")
    assert headline(run).startswith("Failed: ")
    assert "breaks 1 of 4 budget lines" in headline(run)
    assert exit_code(run) == 3


def test_failed_timed_line_fails_run() -> None:
    assert (
        headline(x86(latency=1.4))
        == "Failed: resnet18 for x86 breaks 1 of 4 budget lines: latency p50 1.4 ms > 1.02 ms."
    )


def test_headline_of_passed_run_names_accuracy() -> None:
    assert headline(x86()) == (
        "Passed: resnet18 for x86 keeps all 4 budget lines, top-1 98.33 % (-0.37 pp against float)."
    )


def test_headline_of_incomplete_run_names_unmeasured_lines() -> None:
    run = run_with(["passed", "unmeasured"])
    assert headline(run) == "Incomplete: m for x86 keeps 1 of 2 budget lines; unmeasured: size."
    assert exit_code(run) == 0


def test_run_lacking_only_device_measurement_is_ready_for_device() -> None:
    run = jetson()
    assert headline(run) == (
        "Ready for the device: resnet18 for jetson-orin-nano keeps all 3 budget lines judged here; "
        "the device measures latency p50."
    )
    assert (outcome(run), exit_code(run)) == ("incomplete", 0)
    assert exit_code(replace(run, strict=True)) == 4
    alone = replace(run, lines=())
    assert headline(alone).endswith("for jetson-orin-nano the device measures latency p50.")


def test_run_is_not_ready_with_other_unmeasured_lines_or_predicted_failure() -> None:
    run = jetson()
    (latency,) = run.timings.lines
    slow = Predicted(value=9.0, low=8.0, high=10.0, basis="a roofline")
    fails = replace(latency, predicted=slow, predicted_status="fails")
    assert headline(replace(run, timings=replace(run.timings, lines=(fails,)))).startswith("Incomplete: ")
    assert headline(replace(run, lines=(line("unmeasured"),))).startswith("Incomplete: ")
    assert headline(replace(run, lines=(line("failed"),))).startswith("Failed: ")
    timed = replace(x86(), timings=replace(x86().timings, lines=(latency,)))
    assert headline(timed).startswith("Incomplete: "), "it was timed here, but too few calls for the tail"


def test_headline_names_failed_and_unmeasured_lines() -> None:
    run = run_with(["failed", "unmeasured", "passed"])
    assert headline(run) == "Failed: m for x86 breaks 1 of 3 budget lines: size 3 MiB > 2 MiB; 1 unmeasured."


def test_error_keeps_exit_code_and_failed_lines() -> None:
    run = stopped()
    assert headline(run).startswith("Error: resnet18 for jetson-orin-nano stopped in prune: cannot reach")
    assert exit_code(run) == 1
    assert exit_code(replace(run, error=replace(run.error, exit_code=130))) == 130
    assert "(failed as well: size 3 MiB > 2 MiB)" in headline(replace(run, lines=(line("failed"),)))


def test_headline_is_one_line() -> None:
    run = stopped()
    many = replace(run, error=replace(run.error, what="a runtime's own words:\n  on two lines"))
    assert headline(many).endswith("stopped in prune: a runtime's own words: on two lines")


def test_until_exits_0_under_strict() -> None:
    run = replace(run_with([], strict=True), until="export")
    assert (outcome(run), exit_code(run)) == ("incomplete", 0)
    assert headline(run) == "Incomplete: m for x86 stopped after export, as asked; nothing was judged."


def test_run_rejects_inconsistent_budget_line() -> None:
    for bad in (replace(line("passed"), value=None), replace(line("passed"), value=3.0)):
        with pytest.raises(ValidationError, match="cannot have passed"):
            replace(x86(), lines=(bad,))
    with pytest.raises(ValidationError, match="unmeasured and has a value"):
        replace(x86(), lines=(replace(line("unmeasured"), value=1.0),))


def test_value_that_rounds_to_limit_passes_with_note() -> None:
    rounded = BudgetCheck(name="macs_g", value=1.814, limit=1.8, status="passed", how="closed form", source="test")
    run = replace(run_with([]), lines=(rounded,))
    assert outcome(run) == "passed"
    assert "1.81 G rounds to 1.8 G" in "\n".join(summary_lines(run))


def test_drop_above_limit_has_cause_and_remedy() -> None:
    lost = replace(accuracy(), deployed_score=90.0, drop_pp=accuracy().float_score - 90.0, high_pp=12.0)
    broken = replace(lines()[0], value=lost.drop_pp, status="failed")
    run = replace(x86(), accuracy=lost, lines=(broken, *lines()[1:]))

    def with_top1(stage: str, top1: float | None) -> Run:
        return replace(run, stages=tuple(replace(row, top1=top1) if row.stage == stage else row for row in run.stages))

    assert "8.52 pp went into INT8: 'edgeres quantize RUN --explain'" in drop_cause(run)
    assert "7.7 pp went before INT8" in drop_cause(with_top1("recover", 91.0))
    assert "7.7 pp went before INT8" in "\n".join(summary_lines(with_top1("recover", 91.0)))
    assert drop_cause(replace(run, lines=lines())) == ""
    rows = tuple(row for row in with_top1("prune", None).stages if row.stage != "recover")
    assert drop_cause(replace(run, stages=rows)) == "", "nobody measured what pruning cost"
    whole = tuple(row for row in run.stages if row.stage not in {"prune", "recover"})
    assert "8.7 pp went into INT8" in drop_cause(replace(run, stages=whole))


def test_timed_lines_are_only_under_timings() -> None:
    timed = line("unmeasured", "latency_p50_ms")
    assert [is_timed(line("passed", name)) for name in ("size_mib", "latency_p90_ms", "peak_rss_mib")] == [
        False,
        True,
        True,
    ]
    with pytest.raises(ValidationError, match="belongs under timings"):
        replace(x86(), lines=(timed,))
    with pytest.raises(ValidationError, match="belongs to the lines of the run"):
        Timings(lines=(line("passed"),))


def test_summary_has_every_line_with_status_and_no_provenance() -> None:
    said = summary_lines(jetson())
    assert said[0] == headline(jetson())
    for number, each in enumerate(jetson().every_line, start=1):
        assert said[number].startswith(each.status)
        assert each.how not in said[number]
        assert len(said[number]) <= 120
    assert (
        "top-1 98.33 % deployed, 98.70 % float; drop +0.37 pp (95 % interval -0.35 to +1.10 pp) on 540 images" in said
    )
    assert said[-1].startswith("bundled sample task")
    assert not any("ask for macs" in text for text in summary_lines(stopped())), "an error is no line of a summary"
    assert line_counts(jetson()) == {"passed": 3, "unmeasured": 1}


@settings(deadline=None)
@given(
    st.sampled_from(sorted(targets())),
    st.sampled_from(["resnet18", "resnet50", "resnet152", "resnet34"]),
    st.integers(16, 256),
    st.floats(1e-3, 900.0),
    st.floats(1.0, 5.0),
    st.integers(10**6, 10**11),
    st.booleans(),
)
def test_summary_lines_have_at_most_120_characters(
    name: str, network: str, side: int, ms: float, factor: float, macs: int, timed: bool
) -> None:
    target = find_target(name)
    known = limits(network, Size.square(side), target, {"size_mib": 20.0, "latency_p90_ms": 3.0})
    spread = {"p90_ms": ms, "p99_ms": ms, "low_ms": ms, "high_ms": ms, "p90_high_ms": factor * ms}
    measured = Latency(p50_ms=ms, **spread, n=459, warmup=5, stolen=None) if timed else None
    expected = Predicted(value=ms, low=ms / factor, high=factor * ms, basis="a roofline; missed by 20 %")
    how = f"batch 1 on {target.title}, 459 calls"
    found = (
        *static_lines(
            known,
            network=network,
            image=Size.square(side),
            macs=macs,
            parameters=None,
            size_bytes=macs,
            peak_activation_bytes=None,
        ),
        *latency_lines(known, measured, how, None if timed else expected),
    )
    run = replace(run_with([]), lines=tuple(row for row in found if not is_timed(row)))
    run = replace(run, timings=Timings(lines=tuple(row for row in found if is_timed(row))))
    begins = ("passed", "failed", "unmeasured", 12 * " ")
    shown = [text for text in summary_lines(run) if text.startswith(begins)]
    assert max(map(len, shown)) <= 120
    joined = " ".join(" ".join(shown).split())
    for row in found:
        assert row.derivation in joined
        assert row.figure is None or "host latency" in joined
