"""Counting conventions of MAC and FLOP counters, each as a closed form over a network's layers.

Every counter multiplies a few quantities by small factors, so two figures for the same network differ by exactly the
terms that one has and the other lacks. The forms were read off each tool's source and are exact for torchvision's
ResNets, built of torch modules. Functional calls are not counted by thop.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeres.model.cost import Layer

Quantity = Literal["MACs", "biases", "norms", "ReLUs", "max-pools", "average pools", "global pools", "pooled"]

_COUNTS: dict[Quantity, Callable[[Layer], int]] = {
    "MACs": lambda row: row.macs,
    "biases": lambda row: prod(row.output_shape) if row.bias else 0,
    "norms": lambda row: prod(row.input_shape) if row.kind == "norm" else 0,
    "ReLUs": lambda row: prod(row.output_shape) if row.kind == "relu" else 0,
    "max-pools": lambda row: prod(row.input_shape) if row.kind == "maxpool" else 0,
    "average pools": lambda row: prod(row.input_shape) if row.kind == "avgpool" else 0,
    "global pools": lambda row: prod(row.input_shape) if row.kind == "globalpool" else 0,
    "pooled": lambda row: prod(row.output_shape) if row.kind in ("avgpool", "globalpool") else 0,
}

MEANING: dict[Quantity, str] = {
    "MACs": "multiply-adds of convolutions and matrix products",
    "biases": "outputs of layers with a bias",
    "norms": "inputs of batch norms",
    "ReLUs": "outputs of ReLUs",
    "max-pools": "inputs of max-pools",
    "average pools": "inputs of average pools with a window",
    "global pools": "inputs of global average pools",
    "pooled": "outputs of average pools of either sort",
}


@dataclass(frozen=True, slots=True)
class CountTerm:
    """A quantity times a factor, with the reason."""

    factor: int
    quantity: Quantity
    why: str

    def value(self, rows: Sequence[Layer]) -> int:
        """Its operations in a network, for one image."""
        return self.factor * sum(map(_COUNTS[self.quantity], rows))


@dataclass(frozen=True, slots=True)
class Convention:
    """Counting convention of a tool, checked against the source of a release.

    ``written`` formats a count; ``unit`` is empty where it includes that.
    """

    tool: str
    version: str
    unit: str
    terms: tuple[CountTerm, ...]
    written: Callable[[int], str]

    def count(self, rows: Sequence[Layer]) -> int:
        """The tool's count for a network and one image."""
        return sum(term.value(rows) for term in self.terms)


def _thop(count: int) -> str:
    """``clever_format`` with three decimals, as in thop's README."""
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "K")):
        if count > 10**power:
            return f"{count / 10**power:.3f}{letter}"
    return f"{count:.3f}B"


def _fvcore(count: int) -> str:
    """``_format_size`` of fvcore: three decimals without trailing zeros, in the next unit from a tenth of it on."""
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "K")):
        if count > 10 ** (power - 1):
            return f"{count / 10**power:.3f}".rstrip("0").rstrip(".") + letter
    return str(count)


def _ptflops(count: int) -> str:
    for power, letter in ((9, "G"), (6, "M"), (3, "K")):
        if count >= 10**power:
            return f"{round(count / 10**power, 2)} {letter}Mac"
    return f"{count} Mac"


def _flop_counter(count: int) -> str:
    """The table of torch: up to four digits before the point, so that 1001 M does not become 1.001 B."""
    index = max(0, min(4, (len(str(count)) - 2) // 3))
    return f"{count / 1000**index:.3f}{('', 'K', 'M', 'B', 'T')[index]}"


_MACS = CountTerm(1, "MACs", "one per multiply-add")
_TWICE = "its hook on the module counts one, its patch of the function that the module calls another"

CONVENTIONS: tuple[Convention, ...] = (
    Convention("torchvision _ops", "0.28", "GFLOPS", (_MACS,), lambda count: f"{count / 1e9:.3f}"),
    Convention(
        "fvcore",
        "0.1.5.post20221221",
        "flops",
        (
            _MACS,
            CountTerm(2, "norms", "a scale and a shift each"),
            CountTerm(1, "global pools", "one addition per input"),
        ),
        _fvcore,
    ),
    Convention(
        "thop",
        "0.1.1.post2209072238",
        "MACs",
        (
            _MACS,
            CountTerm(4, "norms", "subtract, divide, scale and shift, though called fused"),
            CountTerm(1, "global pools", "one addition per input"),
            CountTerm(1, "pooled", "one division per output"),
        ),
        _thop,
    ),
    Convention(
        "ptflops",
        "0.7.5",
        "",
        (
            _MACS,
            CountTerm(1, "biases", "one addition per output, also of the classifier"),
            CountTerm(2, "norms", "a scale and a shift each"),
            CountTerm(2, "ReLUs", _TWICE),
            CountTerm(2, "max-pools", _TWICE),
            CountTerm(2, "average pools", _TWICE),
            CountTerm(2, "global pools", _TWICE),
        ),
        _ptflops,
    ),
    Convention(
        "ptflops backend=aten",
        "0.7.5",
        "",
        (_MACS, CountTerm(1, "biases", "one addition per output, also of the classifier")),
        _ptflops,
    ),
    Convention(
        "torch FlopCounterMode",
        "2.13",
        "FLOP",
        (CountTerm(2, "MACs", "a multiplication and an addition each"),),
        _flop_counter,
    ),
)
"""The conventions; none of them counts residual adds, sigmoids, gates or padding."""
