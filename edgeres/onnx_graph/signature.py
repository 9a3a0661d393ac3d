"""Signature of a network: one image ``[N,C,H,W]`` as input, logits ``[N,classes]`` or ``[N,classes,H,W]`` as output."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple

from onnx import TensorProto, helper

from edgeres.data.bands import MOST_BANDS
from edgeres.data.size import Size
from edgeres.errors import ModelError
from edgeres.onnx_graph.edit import free_name, retain
from edgeres.onnx_graph.graph_index import GraphIndex, attribute
from edgeres.onnx_graph.read import infer
from edgeres.onnx_graph.resize import free_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto, ValueInfoProto

IMAGE, LOGITS, BATCH = "image", "logits", "N"
_DEFAULT_SIZE = Size.square(224)
PROBABILITIES = ("Sigmoid", "Softmax")
_RESHAPING = ("Flatten", "Identity", "Reshape", "Squeeze")


class Signature(NamedTuple):
    """Names of an imported network's input and output, with their sizes; None where a size is free.

    ``flatten`` where the output is ``[N,classes,1,1]``, ``probabilities`` where its last operation is a Sigmoid or
    Softmax, ``map`` where it has a logit for every pixel or some of them.
    """

    image: str
    logits: str
    batch: int | None
    size: Size | None
    classes: int
    channels: int
    flatten: bool
    probabilities: bool = False
    map: bool = False


def signature(model: ModelProto) -> Signature:
    """Reads the signature of a checked model with inferred shapes.

    Raises:
        ModelError: Anything but one float32 image ``[N,C,H,W]`` and one output ``[N,classes]`` or
            ``[N,classes,H,W]``; the hint says how to export it.
    """
    image = _only(model.graph.input, "input", "export the image as the only input")
    logits = _only(model.graph.output, "output", "export the logits as the only output")
    shape = _shape(image)
    where = f"input {image.name!r} is {_describe(image)}"
    if image.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ModelError(where, "export a float32 model")
    channels = shape[1] if len(shape) == 4 else None
    if channels is None or channels > MOST_BANDS or (len(shape) == 4 and shape[3] in (1, 3) and channels not in (1, 3)):
        nhwc = len(shape) == 4 and shape[3] in (1, 3, 4)
        raise ModelError(where, "export it channels first, [N,C,H,W]" if nhwc else "the image must be [N,C,H,W]")
    if None in shape[2:] and shape[2:] != (None, None):
        raise ModelError(where, "export it with height and width both fixed, or both symbolic")
    height, width = shape[2:]
    size = Size(height, width) if height and width else None
    out = _shape(logits)
    flatten = len(out) == 4 and out[2:] == (1, 1)
    classes, last = out[1] if len(out) in (2, 4) else None, last_operator(model, logits.name)
    if classes is None or classes < 1 or logits.type.tensor_type.elem_type != TensorProto.FLOAT:
        way = "export the logits, without ArgMax" if last == "ArgMax" else "the logits must be float32 [N,classes]"
        raise ModelError(f"output {logits.name!r} is {_describe(logits)}", way)
    dense, probabilities = len(out) == 4 and not flatten, last in PROBABILITIES
    return Signature(image.name, logits.name, shape[0], size, classes, channels, flatten, probabilities, dense)


def _only(values: Sequence[ValueInfoProto], kind: str, hint: str) -> ValueInfoProto:
    if len(values) != 1:
        names = ", ".join(repr(value.name) for value in values) or "none"
        raise ModelError(f"the graph has {len(values)} {kind}s: {names}", hint)
    return values[0]


def last_operator(model: ModelProto, output: str) -> str:
    """Operator of the node whose tensor is an output, apart from nodes that only reshape it; empty for an input."""
    makers = {name: node for node in model.graph.node for name in node.output}
    while (node := makers.get(output)) is not None and node.op_type in _RESHAPING:
        output = node.input[0]
    return node.op_type if node else ""


def _shape(value: ValueInfoProto) -> tuple[int | None, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in dims)


def _describe(value: ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    sizes = (str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)
    return f"{TensorProto.DataType.Name(value.type.tensor_type.elem_type)} [{','.join(sizes)}]"


def normalise(model: ModelProto, size: Size | None = None) -> ModelProto:
    """Normalises a checked network's signature: input ``image`` ``[N,C,H,W]``, output ``logits`` ``[N,classes]``.

    A fixed batch becomes symbolic, also in shapes of Reshape nodes. Whether the graph works for any batch has to be
    checked by running it. Where the graph leaves the size of the image open, it is ``size``; 224x224 when None.

    Raises:
        ModelError: As ``signature``, and where the graph is invalid for another batch.
    """
    present = signature(model)
    changed = deepcopy(model)
    graph = changed.graph
    if present.batch is not None:
        _free_batch(changed, present.batch)
    _rename(changed, {present.image: IMAGE, present.logits: f"{LOGITS}.map" if present.flatten else LOGITS})
    if present.flatten:
        graph.node.append(helper.make_node("Flatten", [f"{LOGITS}.map"], [LOGITS], name=LOGITS, axis=1))
    image_size = present.size or size or _DEFAULT_SIZE
    for field in ("input", "output", "value_info"):
        graph.ClearField(field)
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [BATCH, present.channels, *image_size]))
    spatial = [f"{LOGITS}.height", f"{LOGITS}.width"] if present.map else []
    graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [BATCH, present.classes, *spatial]))
    return infer(changed)


def _rename(model: ModelProto, names: dict[str, str]) -> None:
    """Renames tensors in place; a tensor that already has a new name is renamed as well."""
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {t.name for t in graph.initializer}
    clashes = [new for new in names.values() if new in taken and new not in names]
    renamed = names | {new: free_name(new, taken) for new in clashes}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed.get(value.name, value.name)


def _free_batch(model: ModelProto, batch: int) -> None:
    """Replaces Reshape to ``[batch, ...]`` by Reshape to ``[0, ...]``, the size of the input's first axis.

    A Resize to ``[batch, C, H, W]`` gets factors. A Reshape of ``[batch, C, H, W]`` to ``[batch * C, ...]`` is
    unchanged; running the graph on another batch reveals it.
    """
    view = GraphIndex.of(model)
    for number, node in enumerate(view.of_type("Reshape")):
        shape = view.value(node.input[1])
        if shape is None or shape.size == 0 or int(shape.flat[0]) != batch:
            continue
        if attribute(node, "allowzero", 0) and 0 in shape:
            continue
        retain(node.attribute, lambda entry: entry.name != "allowzero")  # a 0 copies the size
        name = f"{node.name}.shape.{number}"
        sizes = [0, *(int(value) for value in shape.flat[1:])]
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(sizes)], sizes))
        node.input[1] = name
    shapes = {value.name: _shape(value) for value in (*model.graph.value_info, *model.graph.input)}
    for node in view.of_type("Resize"):
        stated = view.value(node.input[3]) if len(node.input) > 3 else None
        before = shapes.get(node.input[0], ())
        if stated is not None and stated.shape == (4,) and len(before) == 4 and None not in before[1:]:
            free_sizes(model, node, [int(size or 0) for size in before], [int(size) for size in stated])
