"""Operands of ONNX nodes for torch operators: tensors, numbers and windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeres.errors import StageError
from edgeres.onnx_graph.graph_index import attribute, label, window_attributes
from edgeres.onnx_graph.torch_translator import OTHER_RUNTIME

if TYPE_CHECKING:
    from onnx import NodeProto
    from torch.fx import Node

    from edgeres.onnx_graph.torch_translator import TorchOperator, Translator


def plain(operator: Any, *arguments: Any) -> TorchOperator:
    """An operator whose inputs are all tensors, followed by constant arguments."""
    return lambda to, node: to.call(operator, *(to.tensor(name) for name in node.input if name), *arguments)


def first(to: Translator, node: NodeProto) -> Node:
    """The first input of a node: its image."""
    return to.tensor(node.input[0])


def numbers(to: Translator, node: NodeProto, index: int, name: str) -> list[float] | None:
    """A list that newer opsets have as a constant input and older ones as an attribute; None where it is absent."""
    if len(node.input) <= index or not node.input[index]:
        stated = attribute(node, name)
        return None if stated is None else [float(value) for value in np.atleast_1d(stated)]
    value = to.view.value(node.input[index])
    if value is None:
        raise StageError(f"{label(node)}: {name} is computed", OTHER_RUNTIME)
    return [float(number) for number in value.reshape(-1)]


def integers(to: Translator, node: NodeProto, index: int, name: str) -> list[int]:
    """The same list in integers; empty where it is absent."""
    return [int(number) for number in numbers(to, node, index, name) or ()]


def refuse(node: NodeProto, *, unless: bool, what: str) -> None:
    """Raises a StageError that names the node and ``what`` it has, unless the condition holds."""
    if not unless:
        raise StageError(f"{label(node)}: {node.op_type} with {what}", OTHER_RUNTIME)


def window(node: NodeProto) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, strides, pads ``[top, left, bottom, right]`` and dilations of a window over ``[N,C,H,W]``."""
    kernel, strides, pads, dilations, auto = window_attributes(node)
    refuse(node, unless=len(kernel) == 2, what=f"a kernel of {len(kernel)} dimensions")
    refuse(node, unless=auto in ("NOTSET", "VALID"), what=f"auto_pad {auto}")
    return list(kernel), list(strides), list(pads), list(dilations)
