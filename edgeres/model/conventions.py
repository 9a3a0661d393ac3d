"""Counting conventions of MAC and FLOP counters, each as a closed form over a network's layers.

Every counter multiplies a few quantities by small factors, so two figures for the same network differ by exactly the
terms that one has and the other lacks. The forms were read off each tool's source and are exact for torchvision's
ResNets, built of torch modules. Functional calls are not counted by thop.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeres.model.cost import Kind, Layer


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a counter multiplies: a name, its meaning, and its amount in one layer for one image."""

    name: str
    meaning: str
    amount: Callable[[Layer], int]


def _inputs_of(*kinds: Kind) -> Callable[[Layer], int]:
    return lambda row: prod(row.input_shape) if row.kind in kinds else 0


def _outputs_of(*kinds: Kind) -> Callable[[Layer], int]:
    return lambda row: prod(row.output_shape) if row.kind in kinds else 0


_MACS = Quantity("MACs", "multiply-adds of convolutions and matrix products", lambda row: row.macs)
_BIASES = Quantity("biases", "outputs of layers with a bias", lambda row: prod(row.output_shape) if row.bias else 0)
_NORMS = Quantity("norms", "inputs of batch norms", _inputs_of("norm"))
_RELUS = Quantity("ReLUs", "outputs of ReLUs", _outputs_of("relu"))
_MAX_POOLS = Quantity("max-pools", "inputs of max-pools", _inputs_of("maxpool"))
_AVERAGE_POOLS = Quantity("average pools", "inputs of average pools with a window", _inputs_of("avgpool"))
_GLOBAL_POOLS = Quantity("global pools", "inputs of global average pools", _inputs_of("globalpool"))
_POOLED = Quantity("pooled", "outputs of average pools of either sort", _outputs_of("avgpool", "globalpool"))


@dataclass(frozen=True, slots=True)
class CountTerm:
    """A quantity times a factor, with the reason."""

    factor: int
    quantity: Quantity
    why: str

    def value(self, rows: Sequence[Layer]) -> int:
        """Its operations in a network, for one image."""
        return self.factor * sum(map(self.quantity.amount, rows))


_PER_MAC = CountTerm(1, _MACS, "one per multiply-add")


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

    def printed(self, rows: Sequence[Layer]) -> str:
        """The count in the form and unit in which the tool prints it."""
        return f"{self.written(self.count(rows))} {self.unit}".rstrip()

    @property
    def terms_beyond_macs(self) -> tuple[CountTerm, ...]:
        """The terms other than one operation per multiply-add."""
        return tuple(term for term in self.terms if term != _PER_MAC)


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


_BIAS = CountTerm(1, _BIASES, "one addition per output, also of the classifier")
_SCALE_AND_SHIFT = CountTerm(2, _NORMS, "a scale and a shift each")
_SUM = CountTerm(1, _GLOBAL_POOLS, "one addition per input")
_TWICE = "its hook on the module counts one, its patch of the function that the module calls another"
_HOOKED = tuple(CountTerm(2, of, _TWICE) for of in (_RELUS, _MAX_POOLS, _AVERAGE_POOLS, _GLOBAL_POOLS))
_THOP = (
    _PER_MAC,
    CountTerm(4, _NORMS, "subtract, divide, scale and shift, though called fused"),
    _SUM,
    CountTerm(1, _POOLED, "one division per output"),
)
_FLOP_COUNTER = (CountTerm(2, _MACS, "a multiplication and an addition each"),)

CONVENTIONS: tuple[Convention, ...] = (
    Convention("torchvision _ops", "0.28", "GFLOPS", (_PER_MAC,), lambda count: f"{count / 1e9:.3f}"),
    Convention("fvcore", "0.1.5.post20221221", "flops", (_PER_MAC, _SCALE_AND_SHIFT, _SUM), _fvcore),
    Convention("thop", "0.1.1.post2209072238", "MACs", _THOP, _thop),
    Convention("ptflops", "0.7.5", "", (_PER_MAC, _BIAS, _SCALE_AND_SHIFT, *_HOOKED), _ptflops),
    Convention("ptflops backend=aten", "0.7.5", "", (_PER_MAC, _BIAS), _ptflops),
    Convention("torch FlopCounterMode", "2.13", "FLOP", _FLOP_COUNTER, _flop_counter),
)
"""The conventions; none of them counts residual adds, sigmoids, gates or padding."""
