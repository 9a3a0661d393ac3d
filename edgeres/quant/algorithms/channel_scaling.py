"""Channel scaling that preserves a network's function.

ReLU, pools, subsampling, zero-padding and adds are positively homogeneous: ``f(x / s) = f(x) / s`` for ``s > 0``. So a
channel may be divided by any ``s`` in every tensor that carries it, if its producer is divided too and its readers
multiply by ``s`` (Nagel et al. 2019, arXiv 1906.04721, section 4.1; Meller et al. 2019, arXiv 1902.01917). With ``s_i``
of an input and ``s_o`` of an output channel of one operation:

    convolution, linear     W'[o,i] = W[o,i] s_i / s_o          b'[o] = b[o] / s_o
    norm                    gamma' = gamma s_i / s_o            beta' = beta / s_o        mean' = mean / s_i

A *unit* is a set of channels with one scale: one channel of every tensor that an operation maps channel to channel. A
norm separates units, since it can take up any scale; an add ties its inputs together. Fixed are the image, the logits,
and whatever a sigmoid reads or makes, because it is not homogeneous: an excitation's gate multiplies a tensor that may
be scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from edgeres.model.graph import IMAGE, Op, graph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgeres.model.spec import ResNetSpec
    from edgeres.model.weights import Weights

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    ChannelScales = Mapping[str, Floats]

FIXED = 0
"""Index of the unit of channels that cannot be scaled."""


@dataclass(frozen=True, slots=True)
class Units:
    """Partition of channels into units of equal scale.

    ``of`` has the unit ``[C]`` of each channel by tensor name. ``group`` ``[units]`` has the group of each unit: units
    that some tensor carries side by side, so that their relative scales matter; scaling a whole group by one factor
    changes no quantization error.
    """

    of: Mapping[str, Ints]
    group: Ints

    @property
    def count(self) -> int:
        """Number of units, the fixed one included."""
        return len(self.group)


class UnionFind:
    """Union-find over integers; the smallest of a set is its root."""

    def __init__(self) -> None:
        self._parent = [FIXED]

    def fresh(self, count: int) -> Ints:
        """Adds elements, each a set of its own."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def find(self, element: int) -> int:
        """The root of an element."""
        while self._parent[element] != element:
            self._parent[element] = self._parent[self._parent[element]]
            element = self._parent[element]
        return element

    def join(self, some: Ints, others: Ints) -> None:
        """Joins the sets of elements pair by pair."""
        for left, right in zip(some.tolist(), others.tolist(), strict=True):
            low, high = sorted((self.find(left), self.find(right)))
            self._parent[high] = low

    def roots(self) -> Ints:
        """The root of every element."""
        return np.array([self.find(element) for element in range(len(self._parent))])


@lru_cache(maxsize=16)
def channel_units(spec: ResNetSpec) -> Units:
    """The units of a network, numbered in execution order."""
    ops, union = graph(spec).ops, UnionFind()
    elements: dict[str, Ints] = {IMAGE: np.full(ops[0].c_in, FIXED)}
    for op in ops:
        elements[op.name] = _output_channels(op, elements, union)
    union.join(elements[ops[-1].name], np.full(ops[-1].c_out, FIXED))
    return numbered(elements, union)


def numbered(elements: Mapping[str, Ints], union: UnionFind) -> Units:
    """Units of tensors whose channels are elements of a union, numbered in the order in which they were made."""
    _, numbers = np.unique(union.roots(), return_inverse=True)
    units = {name: numbers[channels] for name, channels in elements.items()}
    groups = UnionFind()
    groups.fresh(int(numbers.max()))
    for channels in units.values():
        free = channels[channels != FIXED]
        groups.join(free[1:], free[:-1])
    return Units(units, groups.roots())


def _output_channels(op: Op, elements: Mapping[str, Ints], union: UnionFind) -> Ints:
    """Elements of an operation's output channels."""
    inputs = elements[op.inputs[0]]
    match op.kind:
        case "conv" | "linear" | "norm":
            return union.fresh(op.c_out)
        case "add":
            union.join(inputs, elements[op.inputs[1]])
        case "sigmoid":
            union.join(inputs, np.full(op.c_in, FIXED))
        case "zeropad":
            front = (op.c_out - op.c_in) // 2
            return np.concatenate([union.fresh(front), inputs, union.fresh(op.c_out - op.c_in - front)])
    return inputs


def tensor_scales(units: Units, scales: Floats) -> dict[str, Floats]:
    """Scale ``[C]`` of every tensor's channels, from the scale of each unit ``[units]``.

    The fixed unit has scale 1, and the free ones of a group a geometric mean of 1.
    """
    logs = np.log(scales)
    logs[FIXED] = 0
    sizes = np.bincount(units.group, minlength=units.count)
    means = np.bincount(units.group, logs, minlength=units.count) / np.maximum(sizes, 1)
    normal = np.exp(logs - means[units.group])
    return {name: normal[channels] for name, channels in units.of.items()}


def rescaled(spec: ResNetSpec, weights: Weights, scales: ChannelScales) -> Weights:
    """Weights of the same function, in which every channel is divided by its scale.

    ``scales`` has a positive scale ``[C]`` of every tensor's channels, equal within a unit and 1 for the fixed one, as
    ``tensor_scales`` makes them.
    """
    arrays: dict[str, Floats] = {}
    for op in graph(spec).ops:
        if not op.parameters:
            continue
        read, written = scales[op.inputs[0]], scales[op.name]
        old = {key.rpartition(".")[2]: weights[key].astype(np.float64) for key in op.parameters}
        if op.kind == "norm":
            arrays[f"{op.name}.weight"] = old["weight"] * read / written
            arrays[f"{op.name}.running_mean"] = old["running_mean"] / read
        else:
            arrays[f"{op.name}.weight"] = _kernel(op, old["weight"], read, written)
        if "bias" in old:
            arrays[f"{op.name}.bias"] = old["bias"] / written
    return weights.replaced(arrays)


def _kernel(op: Op, kernel: Floats, read: Floats, written: Floats) -> Floats:
    """``W[o,i] s_i / s_o``; output ``o`` of a grouped convolution reads the inputs of its own group alone."""
    read = np.repeat(read.reshape(op.groups, -1), op.c_out // op.groups, axis=0)
    ratio = read / written[:, None]
    scaled: Floats = kernel * ratio.reshape(*ratio.shape, *[1] * (kernel.ndim - 2))
    return scaled
