"""Units of reconstruction: the stem, every residual block, and the head, in execution order.

Li et al. 2021 (BRECQ, arXiv 2102.05426, section 3.2) reconstruct block by block: a residual block is the largest piece
whose inner dependencies matter much more than those with its neighbours. A unit here reads one tensor from outside, so
that reconstruction needs only the activations between two units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from edgeres.model.graph import graph

if TYPE_CHECKING:
    from torch import Tensor

    from edgeres.model.graph import Op
    from edgeres.model.network import Network
    from edgeres.model.spec import ResNetSpec


@dataclass(frozen=True, slots=True)
class Unit:
    """Neighbouring operations that read one tensor from outside.

    ``name`` is ``stem``, the block's name, or ``head``; the last operation computes the output.
    """

    name: str
    ops: tuple[Op, ...]

    @property
    def source(self) -> str:
        """The tensor read from outside."""
        return self.ops[0].inputs[0]

    @property
    def output(self) -> str:
        """The tensor that the next unit reads."""
        return self.ops[-1].name

    @property
    def weighted(self) -> tuple[Op, ...]:
        """Convolutions and the classifier."""
        return tuple(op for op in self.ops if op.kind in ("conv", "linear"))


@lru_cache(maxsize=64)
def units(spec: ResNetSpec) -> tuple[Unit, ...]:
    """Every unit of a network, in execution order."""
    blocks = tuple(name for name, _, _ in spec.blocks)

    def owner(op: Op) -> str | None:
        return next((name for name in blocks if op.name.startswith(f"{name}.")), None)

    pieces = [(name, tuple(ops)) for name, ops in groupby(graph(spec).ops, key=owner)]
    return tuple(Unit(name or ("head" if index else "stem"), ops) for index, (name, ops) in enumerate(pieces))


class Values:
    """Tensors of one unit for one batch, each computed on first access."""

    def __init__(self, network: Network, unit: Unit, source: Tensor) -> None:
        self._network = network
        self._makers = {op.name: op for op in unit.ops}
        self._known = {unit.source: source}

    def __getitem__(self, tensor: str) -> Tensor:
        """A tensor of the unit, as its operation returns it."""
        if tensor not in self._known:
            op = self._makers[tensor]
            inputs = [self.read(op, index) for index in range(len(op.inputs))]
            self._known[tensor] = self._network.apply_op(op, inputs)
        return self._known[tensor]

    def read(self, op: Op, index: int) -> Tensor:
        """The input of an operation, after Q/DQ where the network has a pair."""
        self[op.inputs[index]]
        return self._network.read(op, index, self._known)
