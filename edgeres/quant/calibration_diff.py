"""Difference of two calibration tables, scale by scale."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log2
from typing import TYPE_CHECKING, Literal

from edgeres.settings import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeres.quant.calibration_table import CalibrationTable
    from edgeres.quant.qparams import QParams


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """A tensor whose quantization parameters differ.

    ``first`` and ``second`` are scales, for a weight those of the channel that differs most, None where a table has
    none; ``channels`` is the number of channels whose scales differ; ``codes`` has other differences, such as
    ``zero-point 0 -> 3``.
    """

    kind: Literal["activation", "weight"]
    tensor: str
    first: float | None
    second: float | None
    channels: int
    codes: str

    @property
    def bits(self) -> float | None:
        """``log2(second / first)``: the number of bits by which steps are coarser; None where only one table has it."""
        return None if self.first is None or self.second is None else log2(self.second / self.first)

    @property
    def percent(self) -> float | None:
        """The change of the scale in percent of the first."""
        return None if self.first is None or self.second is None else 100 * (self.second / self.first - 1)


@dataclass(frozen=True, slots=True)
class TableChange:
    """Differences of two tables.

    ``facts`` has ``(name, first, second)`` of everything but scales that differs; ``scales`` is in descending order,
    tensors of one table alone first; ``compared`` is the number of tensors and weights in either table.
    """

    facts: tuple[tuple[str, str, str], ...]
    scales: tuple[ScaleChange, ...]
    compared: int

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.facts or self.scales)


def difference(first: CalibrationTable, second: CalibrationTable) -> TableChange:
    """Compares two tables, whatever networks they are of."""
    before, after = _facts(first), _facts(second)
    facts = tuple((name, before[name], after[name]) for name in before if before[name] != after[name])
    a, b = first.table, second.table
    changes = [
        *_changes("activation", a.activations, b.activations),
        *_changes("weight", a.weights, b.weights),
    ]
    changes.sort(key=lambda change: (-(inf if change.bits is None else abs(change.bits)), change.kind, change.tensor))
    compared = len({*a.activations, *b.activations}) + len({*a.weights, *b.weights})
    return TableChange(facts, tuple(changes), compared)


def _facts(saved: CalibrationTable) -> dict[str, str]:
    """Everything but the scales."""
    table = saved.table
    found = {
        "model": saved.model,
        "calibrator": table.calibrator,
        "images": f"{table.images:,}",
        "image data": table.data,
        "weights": table.network,
        "float layers": ", ".join(table.float_layers) or "-",
    }
    found |= {f"preprocess.{name}": str(value) for name, value in plain(saved.preprocess).items()}
    return found | {f"scheme.{name}": str(value) for name, value in plain(saved.scheme).items()}


def _changes(
    kind: Literal["activation", "weight"], first: Mapping[str, QParams], second: Mapping[str, QParams]
) -> list[ScaleChange]:
    found = []
    for tensor in {**first, **second}:
        a, b = first.get(tensor), second.get(tensor)
        if a is None or b is None:
            one = a or b
            assert one is not None, "one of them has it"
            widest = max(one.scale)
            found.append(ScaleChange(kind, tensor, widest if a else None, widest if b else None, len(one.scale), ""))
        elif a != b:
            found.append(_change(kind, tensor, a, b))
    return found


def _change(kind: Literal["activation", "weight"], tensor: str, a: QParams, b: QParams) -> ScaleChange:
    named = (("bits", a.bits, b.bits), ("zero-point", a.zero_point, b.zero_point), ("signed", a.signed, b.signed))
    codes = [f"{name} {before} -> {after}" for name, before, after in named if before != after]
    if len(a.scale) != len(b.scale):
        codes.append(f"channels {len(a.scale)} -> {len(b.scale)}")
        return ScaleChange(kind, tensor, max(a.scale), max(b.scale), max(len(a.scale), len(b.scale)), ", ".join(codes))
    pairs = list(zip(a.scale, b.scale, strict=True))
    worst = max(pairs, key=lambda pair: abs(log2(pair[1] / pair[0])))
    return ScaleChange(kind, tensor, *worst, sum(x != y for x, y in pairs), ", ".join(codes))
