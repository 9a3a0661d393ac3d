"""``residual_spec``: the residual network that operations read off a graph may be, and which is which of its own.

Where two branches of the graph meet in an Add, their convolutions are those of a residual block and of its shortcut.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.model.operation import IMAGE, Op
from edgeres.model.spec import Activation, Block, Kind, ResNetSpec, Stem
from edgeres.onnx_graph.layer_windows import Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ACTIVATIONS: tuple[Activation, ...] = ("relu", "silu", "prelu")


def residual_spec(ops: Sequence[Op]) -> ResNetSpec:
    """The network that operations in execution order may be; whether they are it, ``matched`` says.

    Raises:
        Unknown: They are no residual network.
        ModelError: They are none that a spec has.
    """
    return _Structure(tuple(ops)).spec


@dataclass(frozen=True)
class _Joint:
    """A residual add: the tensor that both branches come from, and the operations of either branch, in order."""

    add: Op
    source: str
    residual: tuple[Op, ...]
    identity: tuple[Op, ...]

    def convolutions(self) -> list[Op]:
        """Convolutions of the residual branch, but for those of a gate, which follow a global pool."""
        gates = self._behind_pool
        return [op for op in self.residual if op.kind == "conv" and op.name not in gates]

    def gates(self) -> list[Op]:
        """Convolutions of a gate."""
        return [op for op in self.residual if op.kind == "conv" and op.name in self._behind_pool]

    @property
    def _behind_pool(self) -> set[str]:
        behind: set[str] = set()
        for op in self.residual:
            if op.kind == "gap" or (op.kind != "mul" and set(op.inputs) & behind):
                behind.add(op.name)
        return behind

    def gate_before_last(self) -> bool:
        """Whether the last convolution reads what a gate has scaled."""
        last = self.convolutions()[-1].name
        order = [op.name for op in self.residual]
        return any(op.kind == "mul" and order.index(op.name) < order.index(last) for op in self.residual)


@dataclass(frozen=True)
class _Structure:
    """What the operations of a graph say about the residual network that they may be.

    Raises:
        Unknown: They are none.
    """

    ops: tuple[Op, ...]

    @cached_property
    def ancestors(self) -> dict[str, int]:
        """Bits of the operations that each tensor comes from, itself included; the first bit is the image."""
        bits = {IMAGE: 1}
        for index, op in enumerate(self.ops, start=1):
            bits[op.name] = 1 << index
            for name in op.inputs:
                if name not in bits:
                    raise Unknown(f"{op.name} reads {name}")
                bits[op.name] |= bits[name]
        return bits

    @cached_property
    def joints(self) -> tuple[_Joint, ...]:
        """Every residual add in order."""
        return tuple(self._joint(op) for op in self.ops if op.kind == "add")

    def _joint(self, add: Op) -> _Joint:
        first, second = (self.ancestors[name] for name in add.inputs)
        place = (first & second).bit_length() - 1
        source = IMAGE if place == 0 else self.ops[place - 1].name
        before = self.ancestors[source]
        branches = [
            tuple(op for op in self.ops if self.ancestors[op.name] & ~before and _last_bit(self, op) & (bits & ~before))
            for bits in (first, second)
        ]
        branches.sort(key=lambda ops: -sum(op.kind == "conv" for op in ops))
        return _Joint(add, source, *branches)

    @property
    def spec(self) -> ResNetSpec:
        """The spec of the network."""
        if not self.joints or any(len(one.convolutions()) not in (2, 3) for one in self.joints):
            raise Unknown("it has no residual blocks of two or three convolutions")
        first = self.ancestors[self.joints[0].source]
        last = self.ops.index(self.joints[-1].add)
        behind = self.ops[last + 1 :]
        linear = next((op for op in self.ops if op.kind == "linear"), None)
        if linear is None:
            raise Unknown("it has no classifier")
        follower = next((op for op in behind if self.joints[-1].add.name in op.inputs), behind[0])
        after = next((op for op in behind if follower.name in op.inputs), follower)
        leading = [op.kind for op in self.joints[0].residual[:2]] == ["norm", "conv"]
        preactivation = not leading and follower.kind == "norm" and after.kind in _ACTIVATIONS
        kind: Kind = "bottleneck" if len(self.joints[0].convolutions()) == 3 else "basic"
        norms = {op.eps for op in self.ops if op.kind == "norm"}
        if len(norms) > 1:
            raise Unknown("its batch norms add different constants to the variance")
        kinds = {op.kind for op in self.ops} - ({"relu"} if self._gated else set())
        activations = [one for one in _ACTIVATIONS if one in kinds]
        features = [op for op in behind if op.kind == "conv"]
        fields: dict[str, Any] = {} if not norms else {"eps": norms.pop()}
        return ResNetSpec(
            kind=kind,
            stem=self._stem(first, normed=preactivation),
            stages=tuple(self._stages(kind)),
            classes=linear.c_out,
            channels=self.ops[0].c_in,
            shortcut="padding" if any(op.kind == "zeropad" for op in self.ops) else "projection",
            stride_in="1x1" if self._strided_first(kind) else "3x3",
            preactivation=preactivation,
            norm=any(op.kind == "norm" and op.inputs[0] in self._convolved for op in self.ops),
            downsample="average"
            if any(op.kind == "avgpool" for one in self.joints for op in one.identity)
            else "stride",
            activation=activations[-1] if activations else "relu",
            attention="3x3" if any(one.gates() and one.gate_before_last() for one in self.joints) else "block",
            features=features[0].c_out if features else 0,
            leading_norm=leading,
            grid=self._grid(linear) if leading else (0, 0),
            padding="same" if any(op.same for op in self.ops if op.kind == "conv") else "even",
            **fields,
        )

    @property
    def _gated(self) -> bool:
        return any(one.gates() for one in self.joints) and any(op.kind == "silu" for op in self.ops)

    @property
    def _convolved(self) -> set[str]:
        """Convolutions of residual branches: behind a stem, a norm may be that of the first block."""
        return {op.name for one in self.joints for op in one.residual if op.kind == "conv"}

    def _strided_first(self, kind: str) -> bool:
        return kind == "bottleneck" and any(one.convolutions()[0].stride > 1 for one in self.joints)

    def _stem(self, before: int, *, normed: bool) -> Stem:
        """The convolutions and the pool before the first block; ``before`` are the bits of what it reads.

        With ``normed`` an activation behind them is the stem's, unless a projection reads it: then it is the block's.
        """
        some = [op for op in self.ops if _last_bit(self, op) & before]
        convolutions = [op for op in some if op.kind == "conv"]
        if not convolutions or any(op.kernel != convolutions[0].kernel for op in convolutions):
            raise Unknown("it begins with no convolution, or with ones of several sizes")
        shared = any(op.kind == "conv" for op in self.joints[0].identity)
        return Stem(
            width=convolutions[-1].c_out,
            kernel=convolutions[0].kernel,
            stride=convolutions[0].stride,
            pool=any(op.kind == "maxpool" for op in some),
            inner=tuple(op.c_out for op in convolutions[:-1]),
            last_stride=convolutions[-1].stride if len(convolutions) > 1 else 1,
            normed=normed and sum(op.kind in _ACTIVATIONS for op in some[some.index(convolutions[-1]) :]) > shared,
            pool_padding="same" if any(op.same for op in some if op.kind == "maxpool") else "even",
        )

    def _stages(self, kind: str) -> Iterable[tuple[Block, ...]]:
        """Blocks by stage: one begins where the resolution or the number of channels changes."""
        stages: list[list[Block]] = []
        for joint in self.joints:
            convolutions, gates = joint.convolutions(), joint.gates()
            spatial = convolutions[1] if kind == "bottleneck" else convolutions[0]
            block = Block(
                inner=tuple(op.c_out for op in convolutions[:-1]),
                out=convolutions[-1].c_out,
                stride=int(np.prod([op.stride for op in convolutions])),
                groups=spatial.groups,
                projected=any(op.kind == "conv" for op in joint.identity),
                squeeze=gates[0].c_out if gates else 0,
                dilation=spatial.dilation,
            )
            if not stages or block.stride > 1 or block.out != stages[-1][-1].out:
                stages.append([])
            stages[-1].append(block)
        return (tuple(stage) for stage in stages)

    def _grid(self, linear: Op) -> tuple[int, int]:
        pixels = linear.c_in // self.joints[-1].add.c_out
        side = isqrt(pixels)
        return (side, side) if side**2 == pixels and pixels > 1 else (0, 0)


def _last_bit(structure: _Structure, op: Op) -> int:
    """The bit of an operation alone."""
    return 1 << structure.ancestors[op.name].bit_length() - 1


def matched(wanted: Sequence[Op], given: Sequence[Op]) -> dict[str, str]:
    """The operation of a file for each operation of a spec's graph, by name; each is used once.

    Raises:
        Unknown: One has no counterpart, or some are left over.
    """
    names, free = {IMAGE: IMAGE}, dict.fromkeys(op.name for op in given)
    by_input: dict[str, list[Op]] = {}
    for op in given:
        for name in dict.fromkeys(op.inputs):
            by_input.setdefault(name, []).append(op)
    for op in wanted:
        inputs = tuple(names[name] for name in op.inputs)
        equal = [one for one in by_input.get(inputs[0], ()) if one.name in free and _same(op, one, inputs)]
        if not equal:
            raise Unknown(f"it has no {op.kind} where {op.name} of a residual network would be")
        names[op.name] = equal[0].name
        del free[equal[0].name]
    if free:
        raise Unknown(f"{next(iter(free))} has no place in a residual network")
    return names


def _same(wanted: Op, given: Op, inputs: tuple[str, ...]) -> bool:
    """Whether an operation of a file is that of a spec's graph, of the same inputs."""
    fields = ("kind", "c_in", "c_out", "kernel", "stride", "groups", "dilation", "bias", "valid", "same", "ceil")
    if any(getattr(wanted, name) != getattr(given, name) for name in fields):
        return False
    order = sorted(given.inputs) == sorted(inputs) if wanted.kind == "add" else given.inputs == inputs
    return order and (wanted.kind != "norm" or wanted.eps == given.eps)
