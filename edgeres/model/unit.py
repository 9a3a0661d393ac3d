"""``Unit``: a piece of a network that reads one tensor, the scale at which rounding is learned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from edgeres.model.graph import Graph


@dataclass(frozen=True, slots=True)
class Unit(Graph):
    """Neighbouring operations that read one tensor from outside: ``stem``, a residual block by its name, or ``head``.

    A residual block is the largest piece whose inner dependencies matter much more than those with its neighbours (Li
    et al. 2021, BRECQ, arXiv 2102.05426, section 3.2).
    """

    name: str = ""

    @property
    def source(self) -> str:
        """The tensor read from outside."""
        return self.ops[0].inputs[0]


@lru_cache(maxsize=64)
def units(network: Graph) -> tuple[Unit, ...]:
    """Every unit of a network, in execution order."""
    named = enumerate(network.pieces)
    return tuple(Unit(ops, name=name or ("head" if index else "stem")) for index, (name, ops) in named)
