"""Formatting of figures for reports, with enough digits to show on which side of its limit a value is."""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeres.artifacts.budget_check import BudgetCheck
    from edgeres.artifacts.results import OutputError
    from edgeres.runs.findings import Accuracy, FurtherScore

_LINES = {
    "accuracy_drop_pp": ("Accuracy drop", " pp"),
    "macs_g": ("MACs", " G"),
    "params_m": ("Parameters", " M"),
    "size_mib": ("Size", " MiB"),
    "latency_p50_ms": ("Latency p50", " ms"),
    "latency_p90_ms": ("Latency p90", " ms"),
    "peak_rss_mib": ("Peak memory", " MiB"),
}


def line_title(name: str) -> str:
    """Title of a budget line; an unknown name is its own title."""
    return _LINES.get(name, (name, ""))[0]


def number(value: float, digits: int = 3) -> str:
    """A number with at least ``digits`` significant digits and no exponent: ``0.0367``, ``4.3``, ``1,814``."""
    if value == 0:
        return "0"
    places = max(0, digits - 1 - floor(log10(abs(value))))
    written = f"{value:,.{places}f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def compared(line: BudgetCheck) -> tuple[str, str]:
    """Value and limit of a budget line in as many digits as distinguish them: ``("23.9 M", "36.7 M")``.

    The value is empty where the line is unmeasured.
    """
    factor, unit = _unit_for(line)
    limit = line.limit * factor
    if line.value is None:
        return "", f"{number(limit)}{unit}"
    digits, value = 3, line.value * factor
    while value != limit and number(value, digits) == number(limit, digits):
        digits += 1
    return f"{number(value, digits)}{unit}", f"{number(limit, digits)}{unit}"


PREDICTED = {"passes": "predicted to pass", "fails": "predicted to fail", "open": "predicted either way"}


def predicted_text(line: BudgetCheck) -> str:
    """Predicted value of an unmeasured line with its band: ``about 1.77 ms, 1.04 to 2.99 ms``; empty without one."""
    if line.predicted is None:
        return ""
    factor, unit = _unit_for(line)
    value, low, high = (
        number(factor * figure) for figure in (line.predicted.value, line.predicted.low, line.predicted.high)
    )
    return f"about {value}{unit}, {low} to {high}{unit}"


def origin(line: BudgetCheck) -> str:
    """Source of a line's limit, and its derivation where it is not as documented."""
    return f"{line.derivation}; {line.source}" if line.derivation else line.source


def how_come(line: BudgetCheck) -> str:
    """How a line's value was measured, and which latency it is."""
    return f"{line.figure.replace('_', ' ')}; {line.how}" if line.figure else line.how


def _unit_for(line: BudgetCheck) -> tuple[float, str]:
    """Factor and unit: a count of less than a tenth of its unit is written in the next smaller one."""
    unit = _LINES.get(line.name, ("", ""))[1]
    smaller = {" G": " M", " M": " k"}.get(unit)
    return (1e3, smaller) if smaller and abs(line.limit) < 0.1 else (1.0, unit)


def relation(line: BudgetCheck) -> str:
    """Relation of a measured value to its limit; 1.814 G passes a limit of 1.8 G because it rounds to it."""
    if line.value is None or line.value <= line.limit:
        return "<="
    return "rounds to" if line.status == "passed" else ">"


def percent(value: float) -> str:
    """``98.52 %``."""
    return f"{value:.2f} %"


def share(value: float) -> str:
    """A share of one, such as a softmax or clipped values: ``98.3 %``, ``0.007 %``."""
    if value < 0.001:
        return f"{number(100 * value, 1)} %"
    return f"{100 * value:.1f} %"


def confidence(level: float) -> str:
    """``95 %``."""
    return f"{100 * level:g} %"


def between(low: float, high: float) -> str:
    """An interval in percentage points: ``-0.35 to +1.10 pp``."""
    return f"{points(low).removesuffix(' pp')} to {points(high)}"


def drop_interval(accuracy: Accuracy) -> str:
    """The confidence interval of an accuracy drop: ``95 % interval -0.35 to +1.10 pp``."""
    return f"{confidence(accuracy.level)} interval {between(accuracy.low_pp, accuracy.high_pp)}"


def further_text(score: FurtherScore) -> str:
    """A metric that is not judged: ``F1 at 0.42: 81.20 % deployed, 81.40 % float (drop -0.10 to +0.50 pp)``."""
    drop = between(score.low_pp, score.high_pp)
    return f"{score.name}: {percent(score.deployed_score)} deployed, {percent(score.float_score)} float (drop {drop})"


def output_text(output: OutputError) -> str:
    """The error of an output: ``output logits [10]: SQNR 31.2 dB, cosine to float 0.9996``."""
    noise = "equal to float" if output.sqnr_db is None else f"SQNR {output.sqnr_db:.1f} dB"
    shape = ",".join(map(str, output.shape))
    return f"output {output.name} [{shape}]: {noise}, cosine to float {output.cosine:.4f}"


def points(value: float) -> str:
    """Percentage points with their sign: ``+0.19 pp``."""
    rounded = round(value, 2)
    return f"{rounded:+.2f} pp" if rounded else "0.00 pp"


def scaled(count: float) -> str:
    """A large count with its unit prefix: ``1.81 G``, ``37 M``, ``512``."""
    for factor, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(count) >= factor:
            return f"{number(count / factor)}{prefix}"
    return number(count)


def bytes_(size: int) -> str:
    """A file size: ``11.2 MiB``, ``3.4 KiB``, ``87 B``."""
    for factor, prefix in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= factor:
            return f"{number(size / factor)} {prefix}"
    return f"{size} B"


def millis(value: float) -> str:
    """``4.31 ms``."""
    return f"{number(value)} ms"


def seconds(value: float) -> str:
    """``0.42 s``, ``12.3 s``, ``3 min 5 s``, ``2 h 40 min``."""
    if value < 60:
        return f"{number(value)} s" if value >= 0.01 else "0 s"
    if value >= 3600:
        hours, rest = divmod(round(value / 60), 60)
        return f"{hours} h {rest} min"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


WEIGHTED = "weighted layers (convolutions and matrix products) run in integers"
"""Object of the integer-layer count in all reports."""


def change(now: float, before: float) -> str:
    """Relative change in percent with its sign: ``-33 %``; empty when there is none, or no reference."""
    if not before or now == before:
        return ""
    moved = 100 * (now / before - 1)
    return f"{moved:+.0f} %" if abs(moved) >= 1 else f"{moved:+.2f} %"


def short(sha256: str) -> str:
    """The first twelve hex digits of a hash."""
    return sha256[:12]
