"""A graph as it came, for inference on float32 images ``[N,3,H,W]``: not in training mode, of one type and layout.

Exporters leave what was on: BatchNormalization in training mode normalizes by the batch and Dropout drops at random,
though the running statistics are in the file. Half precision becomes float32, which changes no weight. An image
``[N,H,W,3]``, as in Keras, gets a Transpose in front, and uint8 pixels that a Cast reads first become floats.
"""

from __future__ import annotations

import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgeres.errors import ModelError
from edgeres.onnx_graph.edit import free_name, prune, retain
from edgeres.onnx_graph.external import tensors
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, input_at, label
from edgeres.onnx_graph.read import infer

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_AUXILIARY = re.compile(r"aux(iliary)?(_?(out|output|logits|head))?", re.IGNORECASE)
_OTHER_FLOATS: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}


def for_inference(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """The graph for inference, and a note on each change; the model itself where there is none.

    ``model`` is a checked graph, as ``read_model`` returns it.

    Raises:
        ModelError: A BatchNormalization in training mode whose running statistics are not in the file.
    """
    changed = deepcopy(model)
    notes = (
        *_of_read_inputs(changed),
        *_without_training_heads(changed),
        *_out_of_training(changed),
        *_in_float32(changed),
        *_of_float_images(changed),
    )
    if not notes:
        return model, ()
    changed.graph.ClearField("value_info")
    return infer(changed), notes


def _of_read_inputs(model: ModelProto) -> list[str]:
    """Removes inputs that no node reads, beside one that is read."""
    read = {name for node in model.graph.node for name in node.input}
    names = [value.name for value in model.graph.input if value.name not in read]
    if not names or len(names) == len(model.graph.input):
        return []
    retain(model.graph.input, lambda value: value.name in read)
    return [f"inputs that nothing reads were left out: {', '.join(names)}"]


def _without_training_heads(model: ModelProto) -> list[str]:
    """Removes outputs named ``aux``, as torchvision's segmentation networks have one beside ``out``, for its loss."""
    names = [value.name for value in model.graph.output if _AUXILIARY.fullmatch(value.name)]
    if not names or len(names) == len(model.graph.output):
        return []
    retain(model.graph.output, lambda value: value.name not in names)
    prune(model)
    return [f"the output {', '.join(names)}, which only training reads, was left out"]


def _out_of_training(model: ModelProto) -> list[str]:
    view, norms, dropped = GraphIndex.of(model), 0, 0
    for node in model.graph.node:
        if node.op_type == "BatchNormalization" and (attribute(node, "training_mode", 0) or len(node.output) > 1):
            _use_statistics(view, node)
            norms += 1
        elif node.op_type == "Dropout" and input_at(node, 2) and np.any(view.value(node.input[2])):
            _unread(view, node)
            del node.input[1:]
            dropped += 1
    if not norms + dropped:
        return []
    counted = [f"{count} {kind}" for count, kind in ((norms, "BatchNormalization"), (dropped, "Dropout")) if count]
    return [
        f"the file was exported in training mode ({', '.join(counted)}): it is used as in eval(), "
        "with the running statistics that it holds"
    ]


def _use_statistics(view: GraphIndex, node: NodeProto) -> None:
    if any(view.value(name) is None for name in node.input[1:5]):
        what = f"node {label(node)!r}: BatchNormalization in training mode, whose statistics are not in the file"
        raise ModelError(what, "call model.eval() before torch.onnx.export")
    _unread(view, node)
    retain(node.attribute, lambda entry: entry.name != "training_mode")


def _unread(view: GraphIndex, node: NodeProto) -> None:
    """Removes the outputs that only training has."""
    outputs = {value.name for value in view.model.graph.output}
    for name in node.output[1:]:
        if view.consumers(name) or name in outputs:
            what = f"node {label(node)!r}: {name!r}, which {node.op_type} computes in training mode alone, is read"
            raise ModelError(what, "call model.eval() before torch.onnx.export")
    del node.output[1:]


def _in_float32(model: ModelProto) -> list[str]:
    """Converts floats of another precision: constants, inputs, outputs and casts to them."""
    kinds = {tensor.data_type for tensor in tensors(model)} & _OTHER_FLOATS.keys()
    images = (*model.graph.input, *model.graph.output)
    kinds |= {value.type.tensor_type.elem_type for value in images} & _OTHER_FLOATS.keys()
    if not kinds:
        return []
    for tensor in tensors(model):
        if tensor.data_type in kinds:
            value = np.asarray(numpy_helper.to_array(tensor)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    for value in images:
        if value.type.tensor_type.elem_type in kinds:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in model.graph.node:
        for entry in node.attribute:
            if entry.name in ("to", "dtype", "stash_type") and entry.i in kinds:
                entry.i = TensorProto.FLOAT
    return [f"{' and '.join(sorted(_OTHER_FLOATS[kind] for kind in kinds))} became float32"]


def _of_float_images(model: ModelProto) -> list[str]:
    """Gives a graph of one image a float32 input ``[N,3,H,W]``."""
    if len(model.graph.input) != 1:
        return []
    image, notes = model.graph.input[0], list[str]()
    readers = GraphIndex.of(model).consumers(image.name)
    pixels: Any = image.type.tensor_type
    cast = readers and all(node.op_type == "Cast" for node, _ in readers)
    if pixels.elem_type == TensorProto.UINT8 and cast:
        pixels.elem_type = TensorProto.FLOAT
        notes.append("the uint8 input became float32: pixels from 0 to 255")
    dims = pixels.shape.dim
    if len(dims) == 4 and dims[3].dim_value == 3 and dims[1].dim_value != 3:
        _channels_first(model)
        notes.append("the input [N,H,W,3] became [N,3,H,W], with a Transpose")
    return notes


def _channels_first(model: ModelProto) -> None:
    image = model.graph.input[0]
    last = image.name
    first = free_name(f"{last}.channels_first", {name for node in model.graph.node for name in node.output})
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in image.type.tensor_type.shape.dim]
    shape = [dims[0], dims[3], dims[1], dims[2]]
    image.CopyFrom(helper.make_tensor_value_info(first, image.type.tensor_type.elem_type, shape))
    model.graph.node.insert(0, helper.make_node("Transpose", [first], [last], name=first, perm=[0, 2, 3, 1]))
