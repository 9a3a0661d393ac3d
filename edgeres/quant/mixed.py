"""Accuracy-aware mixed precision: the fewest layers left in float that are enough."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeres.model.graph import graph
from edgeres.quant.placement import place
from edgeres.quant.quantized import Quantized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeres.model.weights import Weights

    Meets = Callable[[tuple[str, ...]], bool]


def left_in_float(quantized: Quantized, reference: Weights, layers: tuple[str, ...]) -> Quantized:
    """A network with further layers in float: their own weights come back, and quantizers that nobody reads go.

    Args:
        quantized: The network.
        reference: The float weights that ``quantized`` stands for, in its coordinates.
        layers: Names of convolutions, in any order.
    """
    names = tuple(
        op.name for op in graph(quantized.spec).weighted if op.name in (*layers, *quantized.table.float_layers)
    )
    placement = place(graph(quantized.spec), quantized.scheme, names)
    keys = [key for name in layers for key in (f"{name}.weight", f"{name}.bias") if key in reference]
    table = replace(
        quantized.table,
        activations={tensor: quantized.table.activations[tensor] for tensor in placement.tensors},
        weights={name: quantized.table.weights[name] for name in sorted(placement.weighted)},
        float_layers=names,
    )
    weights = quantized.weights.replaced({key: reference[key] for key in keys})
    return Quantized(quantized.spec, weights, table, quantized.scheme)


def fewest(order: Sequence[str], meets: Meets) -> tuple[str, ...] | None:
    """The fewest layers that have to stay in float.

    Bisection finds the shortest run from the front of ``order`` that is enough; of that, every layer that turns out
    not to be needed is given back, the least sensitive first. The first step takes ``log2(len(order))`` questions, the
    second one for each layer of the run.

    Args:
        order: Layers, the most sensitive first.
        meets: Whether the network is good enough with these layers in float.

    Returns:
        Layers in the order given; None where all of them are not enough.
    """
    enough = len(order)
    if not meets(tuple(order)):
        return None
    too_few = 0
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if meets(tuple(order[:middle])):
            enough = middle
        else:
            too_few = middle
    kept = list(order[:enough])
    for layer in reversed(order[: enough - 1]):  # the last one of the run was needed: without it, it was not enough
        fewer = tuple(name for name in kept if name != layer)
        if fewer and meets(fewer):
            kept = list(fewer)
    return tuple(kept)
