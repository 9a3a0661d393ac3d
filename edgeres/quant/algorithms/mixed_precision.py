"""Mixed precision: the fewest layers in float that meet an accuracy criterion."""

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
    """A network with further layers in float: their float weights are restored, and unused quantizers removed.

    ``reference`` are float weights with the same channel scales.
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


def fewest(order: Sequence[str], meets: Meets, most: int) -> tuple[str, ...] | None:
    """The fewest layers that have to stay in float.

    Bisection finds the shortest prefix of ``order`` that meets the criterion, in ``log2(len(order))`` evaluations.
    Layers of it that are not needed are then removed: all but the last at once if possible, else either half, the less
    sensitive one first (Zeller and Hildebrandt 2002, DOI 10.1109/32.988498, section 3). ``order`` has the most
    sensitive layer first; after ``most`` evaluations no further layer is removed. The layers are in the given order;
    None where all of them are not enough.
    """
    asked: dict[tuple[str, ...], bool] = {}

    def enough(layers: Sequence[str]) -> bool:
        if tuple(layers) not in asked:
            asked[tuple(layers)] = meets(tuple(layers))
        return asked[tuple(layers)]

    if not enough(order):
        return None
    too_few, run = 0, len(order)
    while run - too_few > 1:
        middle = (run + too_few) // 2
        too_few, run = (too_few, middle) if enough(order[:middle]) else (middle, run)
    kept = list(order[:run])
    blocks = [kept[:-1]]  # the last one of the prefix is needed: without it the criterion is not met
    while blocks and len(asked) < most:
        block = blocks.pop()
        rest = [layer for layer in kept if layer not in block]
        if block and enough(rest):
            kept = rest
        elif len(block) > 1:
            blocks += [block[: len(block) // 2], block[len(block) // 2 :]]
    return tuple(kept)
