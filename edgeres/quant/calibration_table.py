"""``CalibrationTable``: scales with the network, preprocessing and scheme they belong to, as ``calibration.json``.

The layout is documented in ``calibration/README.md``. A table is used only for a network with the same weights, the
same preprocessing, and a scheme with the same placement and codes; any difference is refused by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf, log2
from typing import TYPE_CHECKING, Literal

from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError
from edgeres.quant.placement import place
from edgeres.quant.quant_table import QuantTable
from edgeres.settings import digest, parse, parse_json, plain, read_text, settings
from edgeres.targets.target import QuantScheme

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from edgeres.model.graph import Graph
    from edgeres.model.weights import Weights
    from edgeres.quant.qparams import QParams

SCHEMA: Literal["edgeres.calibration/1"] = "edgeres.calibration/1"
NAME = "calibration.json"
_AGAIN = "calibrate again: leave --scales out"
_PLACING = ("activation_bits", "signed", "add_inputs", "pools", "float_layers")
_CODING = ("weight_bits", "wide_layers", "reduce_range")


@settings
class CalibrationTable:
    """Scales and what they belong to, with the digests of the weights and of the calibration images."""

    schema: Literal["edgeres.calibration/1"] = SCHEMA
    model: str
    preprocess: Preprocess
    scheme: QuantScheme
    table: QuantTable

    @property
    def digest(self) -> str:
        """sha256 of the content, for cache keys and reports."""
        return digest(self)


def encode(saved: CalibrationTable) -> str:
    """The table as JSON text; equal tables give equal bytes."""
    return json.dumps(plain(saved), indent=1, sort_keys=True) + "\n"


def read_table(path: Path) -> CalibrationTable:
    """Reads a table from a file or a run folder.

    Raises:
        DataError: It cannot be read, is no JSON, of another schema, or has an unknown or ill-typed field.
    """
    place = path / NAME if path.is_dir() else path
    text = read_text(place, "name a file of 'edgeres calibration save', or a run", DataError)
    data = parse_json(text, place, "save it again: edgeres calibration save RUN FILE", DataError)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise DataError(f"{place} holds no table of schema {SCHEMA}", "save one: edgeres calibration save RUN FILE")
    return parse(CalibrationTable, data, str(place), DataError)


def fitting(
    saved: CalibrationTable, graph: Graph, weights: Weights, scheme: QuantScheme, preprocess: Preprocess
) -> QuantTable:
    """The scales of a table, checked against the folded network with its float weights, scheme and preprocessing.

    Raises:
        DataError: The table does not fit; the message lists the differences.
    """
    for why in _misfits(saved, graph, weights, scheme, preprocess):
        raise DataError(f"the scales do not fit: {why}", _AGAIN)
    if saved.table.network != weights.digest:
        raise DataError(
            f"the scales do not fit: they are for weights {saved.table.network[:12] or 'of no digest'}, these are "
            f"{weights.digest[:12]}",
            f"{_AGAIN}; trained, pruned, equalized and NNCF's weights have scales of their own",
        )
    return saved.table


def _misfits(
    saved: CalibrationTable, graph: Graph, weights: Weights, scheme: QuantScheme, preprocess: Preprocess
) -> Iterator[str]:
    """Differences between a table and a request, other than the values of the weights."""
    table = saved.table
    pairs = [(f"scheme.{name}", getattr(saved.scheme, name), getattr(scheme, name)) for name in (*_PLACING, *_CODING)]
    fields = Preprocess.__dataclass_fields__
    pairs += [(f"preprocess.{name}", getattr(saved.preprocess, name), getattr(preprocess, name)) for name in fields]
    yield from (f"{name} was {theirs}, is {ours}" for name, theirs, ours in pairs if theirs != ours)
    placement = place(graph, scheme, table.float_layers)
    for what, present, wanted in (
        ("tensors", set(table.activations), set(placement.tensors)),
        ("layers", set(table.weights), set(placement.weighted)),
    ):
        for odd in sorted(present ^ wanted):
            where = "not in this network" if odd in present else "without a scale"
            yield f"{len(present ^ wanted)} {what} differ, {odd!r} is {where}"
    yield from _miscoded(table, scheme)
    for name, params in table.weights.items():
        channels = len(weights[f"{name}.weight"])
        if len(params.scale) != channels:
            yield f"{name} has {channels} channels, {len(params.scale)} scales"


def _miscoded(table: QuantTable, scheme: QuantScheme) -> Iterator[str]:
    """Tensors and layers whose integer type differs from the scheme's."""
    for name, params in table.activations.items():
        codes, wanted = (params.bits, params.signed, params.axis), (scheme.activation_bits, scheme.signed, None)
        if codes != wanted or (scheme.signed and params.zero_point):
            yield f"tensor {name!r} is in other codes than scheme.activation_bits and scheme.signed say"
    for name, params in table.weights.items():
        codes = params.bits, params.signed, params.axis
        if codes != (scheme.bits_of(name), True, 0) or params.zero_point:
            yield f"layer {name!r} is in other codes than scheme.weight_bits says"


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
    changes = [*_changes("activation", a.activations, b.activations), *_changes("weight", a.weights, b.weights)]
    changes.sort(key=lambda change: (-(inf if change.bits is None else abs(change.bits)), change.kind, change.tensor))
    compared = len({*a.activations, *b.activations}) + len({*a.weights, *b.weights})
    return TableChange(facts, tuple(changes), compared)


def _facts(saved: CalibrationTable) -> dict[str, str]:
    """Everything but the scales."""
    table = saved.table
    facts = {
        "model": saved.model,
        "calibrator": table.calibrator,
        "images": f"{table.images:,}",
        "image data": table.data,
        "weights": table.network,
        "float layers": ", ".join(table.float_layers) or "-",
    }
    facts |= {f"preprocess.{name}": str(value) for name, value in plain(saved.preprocess).items()}
    return facts | {f"scheme.{name}": str(value) for name, value in plain(saved.scheme).items()}


def _changes(
    kind: Literal["activation", "weight"], first: Mapping[str, QParams], second: Mapping[str, QParams]
) -> list[ScaleChange]:
    changes = []
    for tensor in {**first, **second}:
        a, b = first.get(tensor), second.get(tensor)
        if a is None or b is None:
            one = a or b
            assert one is not None, "one of them has it"
            widest = max(one.scale)
            changes.append(ScaleChange(kind, tensor, widest if a else None, widest if b else None, len(one.scale), ""))
        elif a != b:
            changes.append(_change(kind, tensor, a, b))
    return changes


def _change(kind: Literal["activation", "weight"], tensor: str, a: QParams, b: QParams) -> ScaleChange:
    named = (("bits", a.bits, b.bits), ("zero-point", a.zero_point, b.zero_point), ("signed", a.signed, b.signed))
    codes = [f"{name} {before} -> {after}" for name, before, after in named if before != after]
    if len(a.scale) != len(b.scale):
        codes.append(f"channels {len(a.scale)} -> {len(b.scale)}")
        return ScaleChange(kind, tensor, max(a.scale), max(b.scale), max(len(a.scale), len(b.scale)), ", ".join(codes))
    pairs = list(zip(a.scale, b.scale, strict=True))
    worst = max(pairs, key=lambda pair: abs(log2(pair[1] / pair[0])))
    return ScaleChange(kind, tensor, *worst, sum(x != y for x, y in pairs), ", ".join(codes))
