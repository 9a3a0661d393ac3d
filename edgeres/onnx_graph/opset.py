"""Conversion of a float graph to another opset and IR version.

Upwards ``onnx.version_converter`` is used. Downwards it supports next to nothing (it has no adapter even for Relu 14 to
13), so nodes are converted here by their schemas: a node is unchanged where the older schema has the same inputs and
attributes with the same defaults, because then the versions differ in types alone; operators that moved an attribute to
an input are moved back; operators that the older opset lacks are decomposed.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from onnx import checker, defs, helper, shape_inference, version_converter

from edgeres.errors import StageError
from edgeres.onnx_graph.decomposition import decompose
from edgeres.onnx_graph.edit import insert_before, retain, store
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, input_at, label, opset_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

_PAD_AXES, _RESIZE_AXES, _SPLIT_COUNT, _SHAPE_RANGE = 18, 18, 18, 15
"""Opsets in which Pad and Resize got axes, Split a number of outputs, and Shape a start and an end."""

_DEPTH = 4
"""Most rounds of decomposition: a function body has operators with bodies of their own."""

_AXES_MOVED_TO_AN_INPUT = {
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), 13),
    **dict.fromkeys(("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"), 18),
    **dict.fromkeys(("ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), 18),
}
"""Operators whose ``axes`` are an input from this opset on (ONNX operator changelog)."""

_OPTIONAL_IN_EFFECT = {"num_outputs"}
"""Attributes that an older schema implies: Split divides evenly without ``num_outputs``."""


def to_opset(model: ModelProto, opset: int, ir_version: int) -> ModelProto:
    """A copy of a model in another opset and IR version.

    Raises:
        StageError: A node has no equivalent there; the message names it.
    """
    changed, present, hint = deepcopy(model), opset_of(model), f"export it with opset {opset}"
    if present < opset:
        try:
            changed = version_converter.convert_version(changed, opset)
        except (version_converter.ConvertError, RuntimeError) as failure:
            raise StageError(f"opset {present} cannot become {opset}: {failure}", hint) from failure
    elif present > opset:
        _lower(changed, opset)
    changed.ir_version = ir_version
    try:
        checker.check_model(changed, full_check=True)
    except (checker.ValidationError, ValueError, RuntimeError) as failure:
        raise StageError(f"the graph does not fit opset {opset}, IR {ir_version}: {failure}", hint) from failure
    return changed


def _lower(model: ModelProto, opset: int) -> None:
    present = opset_of(model)
    for _ in range(_DEPTH):
        missing = {node.op_type for node in model.graph.node if not _since(node, opset)}
        if not missing:
            break
        decompose(model, missing)
        model.CopyFrom(shape_inference.infer_shapes(model, data_prop=True))
    view = GraphIndex.of(model)
    for node in list(model.graph.node):
        if _since(node, present) != _since(node, opset):
            _to_older_form(model, view, node, opset)
            _fit_attributes(node, present, opset)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset


def _to_older_form(model: ModelProto, view: GraphIndex, node: NodeProto, opset: int) -> None:
    """Writes what an older opset states in another way: inputs as attributes, axes that are left out."""
    if _AXES_MOVED_TO_AN_INPUT.get(node.op_type, 0) > opset:
        _axes_to_attribute(view, node)
    elif node.op_type == "Reshape":
        _forget_allowzero(view, node)
    elif node.op_type == "Pad" and opset < _PAD_AXES:
        _pad_every_axis(model, view, node)
    elif node.op_type == "Resize" and opset < _RESIZE_AXES:
        _resize_every_axis(model, view, node)
    elif node.op_type == "Split" and opset < _SPLIT_COUNT:
        _state_split(model, view, node)
    elif node.op_type == "Shape" and opset < _SHAPE_RANGE:
        _slice_shape(model, node)


def _since(node: NodeProto, opset: int) -> int:
    return int(defs.get_schema(node.op_type, opset, "").since_version) if defs.has(node.op_type, opset, "") else 0


def _sizes(model: ModelProto, tensor: str) -> list[int]:
    """Sizes of a tensor, 0 where symbolic; empty where its rank is unknown."""
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    dims = next((value.type.tensor_type.shape.dim for value in values if value.name == tensor), ())
    return [int(dim.dim_value) for dim in dims]


def _numbers(view: GraphIndex, node: NodeProto, index: int) -> NDArray[np.generic]:
    value = view.value(input_at(node, index))
    if value is None:
        what = f"node {label(node)!r}: input {index} of {node.op_type} is computed"
        raise StageError(what, "export it with the target's opset")
    return value


def _pad_every_axis(model: ModelProto, view: GraphIndex, node: NodeProto) -> None:
    """Pads of some axes as pads of all (Pad 18 has axes as an input)."""
    if not input_at(node, 3):
        del node.input[3:]
        return
    rank = len(_sizes(model, node.input[0]))
    pads, axes = _numbers(view, node, 1).reshape(2, -1), _numbers(view, node, 3)
    wide = np.zeros((2, rank), np.int64)
    wide[:, [int(axis) % rank for axis in axes.reshape(-1)]] = pads
    node.input[1] = store(model, f"{node.name}.pads", wide.reshape(-1))
    del node.input[3:]


def _resize_every_axis(model: ModelProto, view: GraphIndex, node: NodeProto) -> None:
    """Scales or sizes of some axes as scales of all (Resize 18 has an attribute for axes)."""
    axes = attribute(node, "axes")
    if axes is None:
        return
    before, after = (_sizes(model, name) for name in (node.input[0], node.output[0]))
    chosen = {int(axis) % len(before) for axis in axes}
    if input_at(node, 3):
        node.input[3] = store(model, f"{node.name}.sizes", np.array([after[0] or 1, *after[1:]], np.int64))
        if 0 in (*before[1:], *after[1:]) or 0 in chosen:
            raise StageError(f"node {label(node)!r}: Resize to computed sizes", "export it for one image size")
    values = iter(_numbers(view, node, 2).reshape(-1) if input_at(node, 2) else ())
    if input_at(node, 3):  # the batch is free: scales state it, sizes cannot
        scales = [1.0 if axis not in chosen else after[axis] / before[axis] for axis in range(len(before))]
        del node.input[3:]
    else:
        scales = [float(next(values)) if axis in chosen else 1.0 for axis in range(len(before))]
    node.input[2] = store(model, f"{node.name}.scales", np.array(scales, np.float32))
    retain(node.attribute, lambda entry: entry.name != "axes")


def _state_split(model: ModelProto, view: GraphIndex, node: NodeProto) -> None:
    """The sizes of an uneven Split by number (Split 18), whose last part is smaller."""
    count, sizes = attribute(node, "num_outputs"), _sizes(model, node.input[0])
    axis = int(attribute(node, "axis", 0)) % max(len(sizes), 1)
    if count is None or not sizes or sizes[axis] % count == 0:
        return
    part = -(-sizes[axis] // count)
    parts = [part] * (count - 1) + [sizes[axis] - part * (count - 1)]
    node.input.append(store(model, f"{node.name}.parts", np.array(parts, np.int64)))


def _slice_shape(model: ModelProto, node: NodeProto) -> None:
    """A part of a shape (Shape 15) as a Slice of all of it."""
    start, end = attribute(node, "start", 0), attribute(node, "end")
    if not start and end is None:
        return
    whole = f"{node.output[0]}.whole"
    insert_before(model, node, helper.make_node("Shape", [node.input[0]], [whole], name=whole))
    ends = [
        store(model, f"{node.output[0]}.{name}", np.array([value], np.int64))
        for name, value in (("start", start), ("end", np.iinfo(np.int64).max if end is None else end))
    ]
    node.op_type = "Slice"
    node.input[:] = [whole, *ends]
    node.ClearField("attribute")


def _axes_to_attribute(view: GraphIndex, node: NodeProto) -> None:
    if len(node.input) < 2:
        return
    axes = view.value(node.input[1])
    if axes is None:
        raise StageError(f"node {label(node)!r}: its axes are computed", "export it with the target's opset")
    del node.input[1:]
    node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes.ravel()]))


def _forget_allowzero(view: GraphIndex, node: NodeProto) -> None:
    """Removes ``allowzero`` from a Reshape whose constant shape has no 0, where it has no effect."""
    shape = view.value(node.input[1])
    if shape is not None and 0 not in shape:
        retain(node.attribute, lambda entry: entry.name != "allowzero")


def _fit_attributes(node: NodeProto, present: int, opset: int) -> None:
    """Drops attributes at their default that the older schema lacks; writes those whose default changed."""
    if not defs.has(node.op_type, opset, ""):
        raise StageError(f"node {label(node)!r}: {node.op_type} is not in opset {opset}", "export without it")
    new, old = (defs.get_schema(node.op_type, version, "").attributes for version in (present, opset))
    for entry in node.attribute:
        if entry.name in old or entry.name in _OPTIONAL_IN_EFFECT:
            continue
        if helper.get_attribute_value(entry) != _default(new[entry.name]):
            where = f"node {label(node)!r}: {node.op_type} has no {entry.name!r} in opset {opset}"
            raise StageError(where, f"export it with opset {opset}")
    retain(node.attribute, lambda entry: entry.name in old)
    for name in sorted(new.keys() & old.keys()):
        default = _default(new[name])
        if attribute(node, name) is None and default is not None and default != _default(old[name]):
            node.attribute.append(helper.make_attribute(name, default))


def _default(schema: defs.OpSchema.Attribute) -> object:
    """Default of an attribute as a Python value; None where it has none."""
    entry = schema.default_value
    return helper.get_attribute_value(entry) if entry is not None and entry.name else None
