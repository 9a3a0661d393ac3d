"""Conclusions from a benchmark as sentences: the fastest variant, the one to deploy, and the layers that limit INT8."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.latency.benchmark.result import BenchmarkResult, LayerTime, Ratio, VariantResult

GATED = ("int8", "float32")
"""Precisions whose predictions the accuracy gate has compared; no other precision may be deployed."""
_NAMED = 5
"""Most layers that a sentence names."""


def sentences(result: BenchmarkResult) -> tuple[str, ...]:
    """All conclusions of a benchmark, the most important first."""
    lines = [_fastest(result)]
    if not result.here:
        lines.append(f"none of this was timed on {result.target}: its runtime does not run here")
    lines += filter(None, (_deployed_sentence(result), _other_runtime(result)))
    if result.rows[0].precision not in GATED:
        lines.append(f"the accuracy gate has not checked {result.rows[0].name}")
    lines += [_non_integer_time(row, result.layers[row.runtime]) for row in _slower_than_float(result)]
    return tuple(lines)


def bottlenecks(layers: Sequence[LayerTime]) -> tuple[LayerTime, ...]:
    """Weighted layers that run in float and kernels that only change layout or type, the slowest first."""
    limiting = (layer for layer in layers if layer.role in ("float", "reformat"))
    return tuple(sorted(limiting, key=lambda layer: -layer.ms))


def should_ship(result: BenchmarkResult) -> VariantResult | None:
    """The variant to deploy on the target's runtime; None where that runtime was not timed.

    It is INT8, unless float32 is significantly faster or INT8 broke the accuracy limit.
    """
    own = {row.precision: row for row in result.rows if row.own and row.precision in GATED}
    int8 = own.get("int8")
    if int8 is None or result.accurate is False or (int8.over_float is not None and int8.over_float.slower):
        return own.get("float32")
    return int8


def _fastest(result: BenchmarkResult) -> str:
    first = result.rows[0]
    text = f"fastest: {first.name}, {first.p50_ms:.3g} ms"
    if first.speedup and first.precision != "float32":
        text += f", {_times(first.speedup)} as fast as the fastest float32"
    tied = [row.name for row in result.rows[1:] if row.to_fastest.high >= 1]
    return f"{text}; not distinguishable from {' and '.join(tied)}" if tied else text


def _deployed_sentence(result: BenchmarkResult) -> str:
    """Whether the deployed variant is the one that should be deployed."""
    best, ships = should_ship(result), next((row for row in result.rows if row.ships), None)
    if best is None or ships is None:
        return ""
    over = ships.over_float
    if best is not ships:
        why = "broke its accuracy limit" if result.accurate is False else f"is {_times(over)} as fast as float32"
        return f"ship the float variant: {ships.name} {why}; compile again with --variant float"
    if over is None:
        return f"what ships: {ships.name}"
    if not over.faster:
        return f"what ships: {ships.name}, which is not distinguishable from float32 there ({_times(over)} as fast)"
    return f"what ships: {ships.name}, {_times(over)} as fast as float32 there"


def _other_runtime(result: BenchmarkResult) -> str:
    """A faster runtime than the target's, among the variants that kept the accuracy limit."""
    best = should_ship(result)
    fit = [row for row in result.rows if row.precision == "float32" or (row.precision == "int8" and result.accurate)]
    if best is None or not fit or fit[0].own or best.to_fastest.high >= fit[0].to_fastest.low:
        return ""
    return f"{fit[0].name} takes {fit[0].p50_ms:.3g} ms where {best.name} takes {best.p50_ms:.3g} ms"


def _slower_than_float(result: BenchmarkResult) -> list[VariantResult]:
    """INT8 variants that are not faster than another precision and have a kernel profile."""
    int8 = [row for row in result.rows if row.precision == "int8" and row.runtime in result.layers]
    if result.rows[0].precision != "int8":
        return int8
    return [row for row in int8 if row.over_float is not None and not row.over_float.faster]


def _non_integer_time(row: VariantResult, layers: Sequence[LayerTime]) -> str:
    """Share of an INT8 variant's time in float layers and reformats."""
    total, limiting = sum(layer.ms for layer in layers), bottlenecks(layers)
    if not limiting:
        slow = ", ".join(f"{layer.name} {layer.ms:.3g} ms" for layer in layers[:_NAMED])
        return f"{row.name}: every weighted layer is in integers and nothing is reformatted; slowest: {slow}"
    share = sum(layer.ms for layer in limiting) / total
    named = ", ".join(f"{layer.name} ({layer.kind}, {layer.role}) {layer.ms:.3g} ms" for layer in limiting[:_NAMED])
    rest = f", and {len(limiting) - _NAMED} more" if len(limiting) > _NAMED else ""
    return f"{row.name}: {share:.0%} of its time is float layers and reformats: {named}{rest}"


def _times(ratio: Ratio | None) -> str:
    """``3.31 times (3.1 to 3.5)``."""
    assert ratio is not None
    return f"{ratio.value:.2f} times ({ratio.low:.2f} to {ratio.high:.2f})"
