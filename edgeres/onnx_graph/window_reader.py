"""``WindowReader``: convolutions, pools and padding of a float ONNX graph in the vocabulary of ``Op``, node by node."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.model.operation import Op
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, input_at, label, window_attributes
from edgeres.onnx_graph.layer_windows import NONE, Pads, Unknown, layer_window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import NodeProto

    from edgeres.model.operation import OpKind

    Array = NDArray[np.float32]


@dataclass
class WindowReader:
    """Operations read so far, their arrays by key, and the operation that computes each ONNX tensor.

    Each method adds the operation of one kind of node; ``Unknown`` where no residual network has it.
    """

    view: GraphIndex
    shapes: Mapping[str, tuple[int, ...]]
    ops: list[Op] = field(default_factory=list)
    arrays: dict[str, Array] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    padded: dict[str, tuple[str, Pads]] = field(default_factory=dict)  # tensor behind a Pad: the one before, and pixels
    turned: dict[str, str] = field(default_factory=dict)  # [N,H,W,C] behind a Transpose: the tensor [N,C,H,W] before
    either: set[str] = field(default_factory=set)  # operations that both paddings suit

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """Value of a constant, None of a tensor; empty for an input that is left out."""
        return self.view.value(tensor) if tensor else np.zeros(0)

    def name(self, tensor: str, node: NodeProto) -> str:
        """The operation that computes a tensor."""
        if tensor not in self.names:
            raise Unknown(f"{label(node)} reads {tensor!r}")
        return self.names[tensor]

    def channels(self, tensor: str) -> int:
        """Channels of a tensor."""
        return self.shapes[tensor][1]

    def add(self, node: NodeProto, kind: OpKind, *inputs: str, **fields: Any) -> str:
        """Appends an operation; ``inputs`` are ONNX tensors."""
        name: str = node.output[0]
        c_in = self.channels(inputs[0])
        fields.setdefault("c_out", c_in)
        self.ops.append(Op(kind, name, tuple(self.name(one, node) for one in inputs), c_in, **fields))
        self.names[name] = name
        return name

    def store(self, name: str, **arrays: NDArray[Any]) -> None:
        """Stores arrays of an operation by key, as float32."""
        self.arrays |= {f"{name}.{key}": np.asarray(value, dtype=np.float32) for key, value in arrays.items()}

    def convolution(self, node: NodeProto) -> None:
        """A Conv with a constant square kernel."""
        weight = self.constant(node.input[1])
        bias = self.constant(input_at(node, 2)) if input_at(node, 2) else None
        if weight is None or weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
            raise Unknown(f"{label(node)}: a convolution with a computed or no square kernel")
        tensor, around = self.padded.get(node.input[0], (node.input[0], NONE))
        name = self._windowed(
            node, "conv", tensor, int(weight.shape[2]), around, c_out=len(weight),
            groups=int(attribute(node, "group", 1)), bias=bias is not None,
        )  # fmt: skip
        self.store(name, weight=weight, **({} if bias is None else {"bias": bias}))

    def _windowed(self, node: NodeProto, kind: OpKind, tensor: str, kernel: int, around: Pads, **fields: Any) -> str:
        """Appends a convolution or maximum."""
        window = layer_window(node, kernel, self.shapes[tensor][2:], self.shapes[node.output[0]][2:], around)
        same, fields = window.paddings == (True,), fields | {"stride": window.stride, "dilation": window.dilation}
        name = self.add(node, kind, tensor, kernel=kernel, same=same, **fields)
        if len(window.paddings) > 1:
            self.either.add(name)
        return name

    def max_pool(self, node: NodeProto) -> None:
        """A MaxPool; one of single pixels takes every so many of them."""
        kernel, tensor = window_attributes(node).kernel, node.input[0]
        if set(kernel) == {1}:
            self._windowed(node, "subsample", tensor, 1, NONE)
            return
        before, around = self.padded.get(tensor, (tensor, NONE))
        if around != NONE and not any(op.name == self.names.get(before) and op.kind == "relu" for op in self.ops):
            raise Unknown(f"{label(node)}: a maximum over zeros around other than the output of a ReLU")
        self._windowed(node, "maxpool", before, kernel[0], around)

    def average_pool(self, node: NodeProto) -> None:
        """An AveragePool over windows side by side, or over the whole image."""
        window, sides = window_attributes(node), self.shapes[node.input[0]][2:]
        if window.kernel == tuple(sides) and not any(window.pads):
            self.global_pool(node)
            return
        kernel, target = window.kernel[0], self.shapes[node.output[0]][2:]
        whole = all(side % kernel == 0 for side in sides) or attribute(node, "ceil_mode", 0)
        counted = any(window.pads) or (not whole and window.auto_pad == "NOTSET")
        if {*window.kernel} != {*window.strides} or {*window.dilations} != {1} or counted:
            raise Unknown(f"{label(node)}: an average over {window.kernel} pixels, strides {window.strides}")
        if [-(-side // kernel) for side in sides] != [*target]:
            raise Unknown(f"{label(node)}: an average that leaves pixels out")
        self.add(node, "avgpool", node.input[0], kernel=kernel, stride=kernel, valid=True, ceil=True)

    def global_pool(self, node: NodeProto) -> None:
        """A GlobalAveragePool."""
        self.add(node, "gap", node.input[0])

    def mean(self, node: NodeProto) -> None:
        """A ReduceMean over height and width."""
        axes = attribute(node, "axes")
        if axes is None and input_at(node, 1):
            axes = self.constant(node.input[1])
        tensor = self.turned.get(node.input[0], node.input[0])
        wanted = {1, 2} if node.input[0] in self.turned else {2, 3}
        if axes is None or {int(axis) % 4 for axis in axes} != wanted:
            raise Unknown(f"{label(node)}: a mean over other axes than height and width")
        name = self.add(node, "gap", tensor)
        if not attribute(node, "keepdims", 1):
            flat = f"{name}:flat"
            self.ops.append(Op("flatten", flat, (name,), self.ops[-1].c_out, self.ops[-1].c_out))
            self.names[node.output[0]] = flat

    def pad(self, node: NodeProto) -> None:
        """A Pad by zeros: around the image before a window, or by channels."""
        pads = attribute(node, "pads")
        pads = self.constant(node.input[1]) if pads is None else np.asarray(pads)
        value = self.constant(input_at(node, 2)) if input_at(node, 2) else None
        zeros = attribute(node, "mode", b"constant") == b"constant" and (value is None or not np.any(value))
        if pads is None or pads.size != 8 or not zeros or input_at(node, 3):
            raise Unknown(f"{label(node)}: padding by other than zeros")
        before, after = [[int(one) for one in pads[part]] for part in (slice(0, 4), slice(4, 8))]
        if min(*before, *after) >= 0 and before[:2] == after[:2] == [0, 0]:
            self.padded[node.output[0]] = node.input[0], (before[2], before[3], after[2], after[3])
            self.names[node.output[0]] = f"{node.output[0]}:padded"  # read by nothing but a window
        elif before[0] == before[2] == before[3] == after[0] == after[2] == after[3] == 0 and before[1] <= after[1]:
            self.add(node, "zeropad", node.input[0], c_out=self.channels(node.output[0]))
        else:
            raise Unknown(f"{label(node)}: padding {before} and {after}")

    def slice(self, node: NodeProto) -> None:
        """A Slice that takes every so many pixels."""
        before, after = self.shapes[node.input[0]], self.shapes[node.output[0]]
        starts, axes, steps = (self.constant(input_at(node, index)) for index in (1, 3, 4))
        if starts is None or axes is None or steps is None or np.any(starts) or len(before) != 4:
            raise Unknown(f"{label(node)}: a Slice of another kind than every second pixel")
        by = {int(axis) % 4: int(step) for axis, step in zip(axes, steps, strict=True)}
        earlier = next((op for op in self.ops if op.name == self.names.get(node.input[0])), None)
        if set(by) == {3} and earlier is not None and earlier.kind == "subsample" and earlier.stride == 1:
            self.ops.remove(earlier)  # rows were halved by a node of their own
            self.ops.append(replace(earlier, name=node.output[0], stride=by[3]))
            self.names[node.output[0]] = node.output[0]
        elif set(by) == {2} and before[3] == after[3]:
            self.add(node, "subsample", node.input[0], stride=1)
        elif set(by) == {2, 3} and by[2] == by[3]:
            self.add(node, "subsample", node.input[0], stride=by[2])
        else:
            raise Unknown(f"{label(node)}: a Slice of another kind than every second pixel")
