"""Channel scaling that preserves a network's function.

ReLU, PReLU, pools, blurs, padding and adds are positively homogeneous: ``f(x / s) = f(x) / s`` for ``s > 0``. A
channel may be divided by any ``s`` in every tensor that carries it, if its producer is divided too and its readers
multiply by ``s`` (Nagel et al. 2019, arXiv 1906.04721, section 4.1; Meller et al. 2019, arXiv 1902.01917). With ``s_i``
of an input and ``s_o`` of an output channel of one operation:

    convolution, linear     W'[o,i] = W[o,i] s_i / s_o          b'[o] = b[o] / s_o
    norm                    gamma' = gamma s_i / s_o            beta' = beta / s_o        mean' = mean / s_i

A *unit* is a set of channels with one scale: one channel of every tensor that an operation maps channel to channel. A
norm separates units, since it can take up any scale; an add ties its inputs together. Fixed are the image, the logits,
whatever a sigmoid or SiLU reads or makes, because they are not homogeneous, what a group norm or a convolution along
channels reads, because it mixes channels that no weight of theirs could rescale, and the queries and keys of an
attention; its values pass it channel by channel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from edgeres.model.operation import IMAGE, Op
from edgeres.quant.placement import PlacedGraph

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgeres.model.graph import Graph
    from edgeres.model.weights import Weights

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]
    ChannelScales = Mapping[str, Floats]

FIXED = 0  # index of the unit of channels that cannot be scaled


@dataclass(frozen=True, slots=True)
class Units:
    """Partition of channels into units of equal scale: ``of`` has the unit ``[C]`` of each channel, by tensor name.

    ``group`` is the group ``[units]`` of each unit: units that some tensor carries side by side, so that their relative
    scales matter; scaling a whole group by one factor changes no quantization error.
    """

    of: Mapping[str, Ints]
    group: Ints

    @property
    def count(self) -> int:
        """Number of units, the fixed one included."""
        return len(self.group)


@dataclass(frozen=True, eq=False)
class ScalableGraph(PlacedGraph, ABC):
    """A graph that knows its own channels."""

    @property
    @abstractmethod
    def units(self) -> Units:
        """The units of its tensors."""

    @abstractmethod
    def rescaled(self, weights: Weights, scales: ChannelScales) -> Weights:
        """Weights of the same function, in which every channel is divided by its scale."""


class Ties:
    """Channels by number, ``FIXED`` the first, and the pairs of them that have one scale."""

    def __init__(self) -> None:
        self._count = FIXED + 1
        self._pairs: list[Ints] = []

    def fresh(self, count: int) -> Ints:
        """Adds channels ``[count]`` that are tied to none."""
        self._count += count
        return np.arange(self._count - count, self._count)

    def join(self, some: Ints, others: Ints) -> None:
        """Ties channels ``[C]`` to others ``[C]`` pair by pair."""
        self._pairs.append(np.stack([some, others]))

    def units(self) -> Ints:
        """Unit ``[channels]`` of each channel: the connected components, numbered in the order of their first."""
        pairs = np.concatenate([np.zeros((2, 0), dtype=np.int64), *self._pairs], axis=1)
        edges = coo_array((np.ones(pairs.shape[1]), (pairs[0], pairs[1])), shape=(self._count, self._count))
        return np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)


@lru_cache(maxsize=16)
def channel_units(graph: Graph) -> Units:
    """The units of a network, numbered in execution order."""
    if isinstance(graph, ScalableGraph):
        return graph.units
    ops, ties = graph.ops, Ties()
    channels: dict[str, Ints] = {IMAGE: np.full(ops[0].c_in, FIXED)}
    for op in ops:
        channels[op.name] = _output_channels(op, channels, ties)
    ties.join(channels[ops[-1].name], np.full(ops[-1].c_out, FIXED))
    return partition(channels, ties)


def partition(channels: Mapping[str, Ints], ties: Ties) -> Units:
    """Units of tensors, numbered in execution order, from the numbers ``[C]`` of their channels in ``ties``."""
    numbers = ties.units()
    units = {name: numbers[tensor] for name, tensor in channels.items()}
    groups = Ties()
    groups.fresh(int(numbers.max()))
    for tensor in units.values():
        free = tensor[tensor != FIXED]
        groups.join(free[1:], free[:-1])
    return Units(units, groups.units())


def _output_channels(op: Op, channels: Mapping[str, Ints], ties: Ties) -> Ints:
    """Numbers of an operation's output channels in ``ties``."""
    inputs = channels[op.inputs[0]]
    match op.kind:
        case "conv" | "linear" | "norm":
            return ties.fresh(op.c_out)
        case "add":
            ties.join(inputs, channels[op.inputs[1]])
        case "groupnorm":
            ties.join(inputs, np.full(op.c_in, FIXED))
            return ties.fresh(op.c_out)
        case "sigmoid" | "silu" | "channelconv":
            ties.join(inputs, np.full(op.c_in, FIXED))
        case "attention":
            query, key, value = (channels[name] for name in op.inputs)
            for read in (query, key):
                ties.join(read, np.full(op.c_in, FIXED))
            return value
        case "flatten":
            return np.repeat(inputs, op.c_out // op.c_in)
        case "zeropad":
            front = (op.c_out - op.c_in) // 2
            return np.concatenate([ties.fresh(front), inputs, ties.fresh(op.c_out - op.c_in - front)])
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


def rescaled(graph: Graph, weights: Weights, scales: ChannelScales) -> Weights:
    """Weights of the same function, in which every channel is divided by its scale, as ``tensor_scales`` makes them."""
    if isinstance(graph, ScalableGraph):
        return graph.rescaled(weights, scales)
    arrays: dict[str, Floats] = {}
    for op in graph.ops:
        if not op.parameters or op.kind in ("channelconv", "prelu"):
            continue
        of_input, of_output = scales[op.inputs[0]], scales[op.name]
        old = {key.rpartition(".")[2]: weights[key].astype(np.float64) for key in op.parameters}
        if op.kind == "tokens":
            arrays[f"{op.name}.weight"] = old["weight"] / of_output
        elif op.kind in ("norm", "groupnorm"):
            arrays[f"{op.name}.weight"] = old["weight"] * of_input / of_output
            if op.kind == "norm":
                arrays[f"{op.name}.running_mean"] = old["running_mean"] / of_input
        else:
            # Output o of a grouped convolution reads the inputs of its own group alone.
            read = np.repeat(of_input.reshape(op.groups, -1), op.c_out // op.groups, axis=0)
            ratio = read / of_output[:, None]
            arrays[f"{op.name}.weight"] = old["weight"] * ratio.reshape(*ratio.shape, *[1] * (old["weight"].ndim - 2))
        if "bias" in old:
            arrays[f"{op.name}.bias"] = old["bias"] / of_output
    return weights.replaced(arrays)
