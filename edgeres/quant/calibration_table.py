"""``CalibrationTable``: scales with the network, preprocessing and scheme they belong to, as ``calibration.json``.

The layout is documented in ``calibration/README.md``. A table is used only for a network with the same weights, the
same preprocessing, and a scheme with the same placement and codes; any difference is refused by name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError
from edgeres.model.graph import graph
from edgeres.quant.placement import place
from edgeres.quant.quant_table import QuantTable
from edgeres.settings import digest, parse, parse_json, plain, read_text, settings
from edgeres.targets.target import QuantScheme

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights

SCHEMA: Literal["edgeres.calibration/1"] = "edgeres.calibration/1"
NAME = "calibration.json"
_AGAIN = "calibrate again: leave --scales out"
_PLACING = ("activation_bits", "signed", "add_inputs", "pools", "float_layers")
_CODING = ("weight_bits", "wide_layers", "reduce_range")


@settings
class CalibrationTable:
    """Scales and what they belong to.

    The table has the digests of the weights and of the calibration images.
    """

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


def decode(text: str, where: str) -> CalibrationTable:
    """Reads a table from JSON text.

    Raises:
        DataError: No JSON, another schema, an unknown or ill-typed field, or no table.
    """
    data = parse_json(text, where, "save it again: edgeres calibration save RUN FILE", DataError)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise DataError(f"{where} holds no table of schema {SCHEMA}", "save one: edgeres calibration save RUN FILE")
    return parse(CalibrationTable, data, where, DataError)


def read_table(path: Path) -> CalibrationTable:
    """Reads a table from a file or a run folder.

    Raises:
        DataError: It cannot be read, or holds no table.
    """
    place = path / NAME if path.is_dir() else path
    text = read_text(place, "name a file of 'edgeres calibration save', or a run", DataError)
    return decode(text, str(place))


def fitting(
    saved: CalibrationTable, spec: ResNetSpec, weights: Weights, scheme: QuantScheme, preprocess: Preprocess
) -> QuantTable:
    """The scales of a table, checked against the network, scheme and preprocessing.

    ``spec`` is the folded network to quantize, ``weights`` are its float weights.

    Raises:
        DataError: The table does not fit; the message lists the differences.
    """
    table = saved.table
    for why in _objections(saved, scheme, preprocess):
        raise DataError(f"the scales do not fit: {why}", _AGAIN)
    placement = place(graph(spec), scheme, table.float_layers)
    for what, given, wanted in (
        ("tensors", set(table.activations), set(placement.tensors)),
        ("layers", set(table.weights), set(placement.weighted)),
    ):
        if given != wanted:
            odd = sorted(given ^ wanted)
            where = "not in this network" if odd[0] in given else "without a scale"
            raise DataError(f"the scales do not fit: {len(odd)} {what} differ, {odd[0]!r} is {where}", _AGAIN)
    for why in _miscoded(table, scheme):
        raise DataError(f"the scales do not fit: {why}", _AGAIN)
    for name, params in table.weights.items():
        if len(params.scale) != len(weights[f"{name}.weight"]):
            channels = len(weights[f"{name}.weight"])
            raise DataError(
                f"the scales do not fit: {name} has {channels} channels, {len(params.scale)} scales", _AGAIN
            )
    if table.network != weights.digest:
        raise DataError(
            f"the scales do not fit: they are for weights {table.network[:12] or 'of no digest'}, these are "
            f"{weights.digest[:12]}",
            f"{_AGAIN}; trained, pruned, equalized and NNCF's weights have scales of their own",
        )
    return table


def _miscoded(table: QuantTable, scheme: QuantScheme) -> Iterator[str]:
    """Tensors and layers whose integer type differs from the scheme's."""
    for name, params in table.activations.items():
        found, wanted = (params.bits, params.signed, params.axis), (scheme.activation_bits, scheme.signed, None)
        if found != wanted or (scheme.signed and params.zero_point):
            yield f"tensor {name!r} is in other codes than scheme.activation_bits and scheme.signed say"
    for name, params in table.weights.items():
        found = params.bits, params.signed, params.axis
        if found != (scheme.bits_of(name), True, 0) or params.zero_point:
            yield f"layer {name!r} is in other codes than scheme.weight_bits says"


def _objections(saved: CalibrationTable, scheme: QuantScheme, preprocess: Preprocess) -> Iterator[str]:
    """Differences between the settings of a table and of a request."""
    pairs = [(f"scheme.{name}", getattr(saved.scheme, name), getattr(scheme, name)) for name in (*_PLACING, *_CODING)]
    fields = Preprocess.__dataclass_fields__
    pairs += [(f"preprocess.{name}", getattr(saved.preprocess, name), getattr(preprocess, name)) for name in fields]
    for name, theirs, ours in pairs:
        if theirs != ours:
            yield f"{name} was {theirs}, is {ours}"
