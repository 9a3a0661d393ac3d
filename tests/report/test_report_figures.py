"""Golden figures, and the law that rounding never hides on which side of its limit a value is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.artifacts.budget_check import BudgetCheck
from edgeres.runs.figures import bytes_, change, compared, number, percent, points, scaled, seconds, share


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (1.0, "1"),
        (0.036734, "0.0367"),
        (4.3049, "4.3"),
        (4.316, "4.32"),
        (1814, "1,814"),
        (-0.5, "-0.5"),
        (99.96, "100"),
    ],
)
def test_number_keeps_three_significant_digits(value: float, written: str) -> None:
    assert number(value) == written


def test_figures_have_units() -> None:
    assert [scaled(1_814_073_344), scaled(11_689_512), scaled(512)] == ["1.81 G", "11.7 M", "512"]
    assert [percent(98.518), points(0.185), points(-0.185), points(-0.001)] == [
        "98.52 %",
        "+0.18 pp",
        "-0.18 pp",
        "0.00 pp",
    ]
    assert [seconds(0.42), seconds(185.2), seconds(0)] == ["0.42 s", "3 min 5 s", "0 s"]
    assert [bytes_(87), bytes_(3 << 10), bytes_(11 << 20)] == ["87 B", "3 KiB", "11 MiB"]
    assert [change(65, 100), change(100, 100), change(5, 0), change(99.9, 100)] == ["-35 %", "", "", "-0.10 %"]


def line(name: str, value: float | None, limit: float) -> BudgetCheck:
    return BudgetCheck(
        name=name, value=value, limit=limit, status="unmeasured" if value is None else "failed", how="", source=""
    )


def test_compared_has_unit_and_scales_small_counts() -> None:
    assert compared(line("macs_g", 0.0239, 0.0367)) == ("23.9 M", "36.7 M")
    assert compared(line("macs_g", 4.089, 4.1)) == ("4.09 G", "4.1 G")
    assert compared(line("latency_p50_ms", None, 2.0)) == ("", "2 ms")
    assert compared(line("new_thing", 1.0, 2.0)) == ("1", "2")


def test_compared_writes_distinguishing_digits() -> None:
    assert compared(line("size_mib", 12.0004, 12.0)) == ("12.0004 MiB", "12 MiB")


sizes = st.floats(1e-6, 1e6)


@given(sizes, sizes)
def test_compared_distinguishes_different_values(value: float, limit: float) -> None:
    left, right = compared(line("size_mib", value, limit))
    assert (left == right) == (value == limit)


def test_share_formats_fractions() -> None:
    assert [share(value) for value in (0.0, 7.3e-5, 0.0012, 0.983, 1.0)] == [
        "0 %", "0.007 %", "0.1 %", "98.3 %", "100.0 %",
    ]  # fmt: skip
