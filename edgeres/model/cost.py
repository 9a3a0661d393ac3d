"""Closed forms for multiply-accumulates, parameters and activation sizes.

One MAC is one multiply and one add of a convolution or of the classifier; norms, activations, pools and adds are not
counted, which is torchvision's and fvcore's convention. A convolution has ``k^2 * C_in / groups * C_out * H' * W'``
with ``H' = floor((H + 2 p - k) / s) + 1``.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from edgeres.model.graph import IMAGE, Op, graph

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgeres.model.spec import ResNetSpec

Shape = tuple[int, ...]


def shapes(spec: ResNetSpec, height: int, width: int) -> dict[str, Shape]:
    """Shape of every tensor for one image, without the batch: ``(C, H, W)``, or ``(C,)`` after the flatten."""
    found: dict[str, Shape] = {IMAGE: (spec.channels, height, width)}
    for op in graph(spec).ops:
        found[op.name] = _shape(op, found[op.inputs[0]])
    return found


def _shape(op: Op, given: Shape) -> Shape:
    if op.kind in ("flatten", "linear"):
        return (op.c_out,)
    if op.kind == "gap":
        return (op.c_out, 1, 1)
    if op.kind in ("conv", "maxpool", "subsample"):
        return (op.c_out, *((size + 2 * op.padding - op.kernel) // op.stride + 1 for size in given[1:]))
    return (op.c_out, *given[1:])


def layer_macs(spec: ResNetSpec, height: int, width: int) -> dict[str, int]:
    """MACs of each convolution and of the classifier for one image of ``height x width`` pixels."""
    size = shapes(spec, height, width)
    return {op.name: prod(op.parameters[f"{op.name}.weight"]) * prod(size[op.name][1:]) for op in graph(spec).weighted}


def share_of_macs(spec: ResNetSpec, layers: Collection[str], side: int) -> float:
    """Share of the network's MACs in some layers, for one image of ``side x side`` pixels."""
    costs = layer_macs(spec, side, side)
    return sum(costs[layer] for layer in layers) / sum(costs.values())


def macs(spec: ResNetSpec, height: int, width: int) -> int:
    """MACs of the network for one image, exact."""
    return sum(layer_macs(spec, height, width).values())


def parameters(spec: ResNetSpec) -> int:
    """Exact number of learned parameters, without running statistics."""
    return sum(
        prod(shape)
        for key, shape in graph(spec).parameters.items()
        if not key.endswith(("running_mean", "running_var"))
    )
