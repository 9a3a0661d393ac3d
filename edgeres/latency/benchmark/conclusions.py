"""What a truth table amounts to, in sentences: which variant is fastest, what should ship, and what eats the gain."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeres.latency.benchmark.result import BenchmarkResult, LayerTime, Ratio, Row

JUDGED = ("int8", "float32")
"""Precisions whose answers a run has compared image by image; nothing else may ship."""
_NAMED = 5
"""Layers that a sentence names."""


def sentences(truth: BenchmarkResult) -> tuple[str, ...]:
    """The verdict, most important first."""
    told = [_fastest(truth)]
    if not truth.here:
        told.append(f"none of this was timed on {truth.target}: its runtime does not run here")
    told += [sentence for sentence in (_shipping(truth), _elsewhere(truth), _unjudged(truth)) if sentence]
    told += [_eaten(row, truth.layers[row.runtime]) for row in _beaten(truth)]
    return tuple(told)


def bottlenecks(layers: Sequence[LayerTime]) -> tuple[LayerTime, ...]:
    """Weighted layers that stayed in float, and what only changes layout or type; the slowest first."""
    found = (layer for layer in layers if layer.role in ("float", "reformat"))
    return tuple(sorted(found, key=lambda layer: -layer.ms))


def should_ship(truth: BenchmarkResult) -> Row | None:
    """The fastest variant on the target's runtime that is fit to ship; None where that runtime was not timed.

    INT8 ships unless float32 is faster beyond noise, or INT8 broke the accuracy limit.
    """
    own = {row.precision: row for row in truth.rows if row.own and row.precision in JUDGED}
    int8, float32 = own.get("int8"), own.get("float32")
    if int8 is None or truth.accurate is False:
        return float32
    if int8.over_float is not None and int8.over_float.slower:
        return float32
    return int8


def _fastest(truth: BenchmarkResult) -> str:
    first = truth.rows[0]
    told = f"fastest: {first.name}, {first.p50_ms:.3g} ms"
    if first.speedup and first.precision != "float32":
        told += f", {_times(first.speedup)} as fast as the fastest float32"
    tied = [row.name for row in truth.rows[1:] if row.to_fastest.high >= 1]
    return f"{told}; not told apart from {' and '.join(tied)}" if tied else told


def _shipping(truth: BenchmarkResult) -> str:
    """Whether what the run ships is the right thing to ship."""
    best, ships = should_ship(truth), next((row for row in truth.rows if row.ships), None)
    if best is None or ships is None:
        return ""
    over = ships.over_float
    if best is not ships:
        why = "broke its accuracy limit" if truth.accurate is False else f"is {_times(over)} as fast as float32"
        return f"ship the float variant: {ships.name} {why}; compile again with --variant float"
    if over is None:
        return f"what ships: {ships.name}"
    if not over.faster:
        return f"what ships: {ships.name}, which is not told apart from float32 there ({_times(over)} as fast)"
    return f"what ships: {ships.name}, {_times(over)} as fast as float32 there"


def _elsewhere(truth: BenchmarkResult) -> str:
    """Another runtime that is faster with a network that is fit to ship."""
    best = should_ship(truth)
    fit = [row for row in truth.rows if row.precision == "float32" or (row.precision == "int8" and truth.accurate)]
    if best is None or not fit or fit[0].own or best.to_fastest.high >= fit[0].to_fastest.low:
        return ""
    return f"{fit[0].name} takes {fit[0].p50_ms:.3g} ms where {best.name} takes {best.p50_ms:.3g} ms"


def _unjudged(truth: BenchmarkResult) -> str:
    first = truth.rows[0]
    return "" if first.precision in JUDGED else f"no gate has judged the answers of {first.name}"


def _beaten(truth: BenchmarkResult) -> list[Row]:
    """INT8 variants that another precision beats or equals, where their runtime told its kernels."""
    if truth.rows[0].precision == "int8":
        rows = [row for row in truth.rows if row.over_float is not None and not row.over_float.faster]
    else:
        rows = list(truth.rows)
    return [row for row in rows if row.precision == "int8" and row.runtime in truth.layers]


def _eaten(row: Row, layers: Sequence[LayerTime]) -> str:
    """Where the time of an INT8 variant goes that INT8 does not save."""
    total, found = sum(layer.ms for layer in layers), bottlenecks(layers)
    if not found:
        slow = ", ".join(f"{layer.name} {layer.ms:.3g} ms" for layer in layers[:_NAMED])
        return f"{row.name}: every weighted layer is in integers and nothing is reformatted; slowest: {slow}"
    share = sum(layer.ms for layer in found) / total
    named = ", ".join(f"{layer.name} ({layer.kind}, {layer.role}) {layer.ms:.3g} ms" for layer in found[:_NAMED])
    rest = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{row.name}: {share:.0%} of its time is float layers and reformats: {named}{rest}"


def _times(ratio: Ratio | None) -> str:
    """``3.31 times (3.1 to 3.5)``."""
    assert ratio is not None
    return f"{ratio.value:.2f} times ({ratio.low:.2f} to {ratio.high:.2f})"
