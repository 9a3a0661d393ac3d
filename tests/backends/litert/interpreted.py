"""``.tflite`` files in LiteRT's own interpreter, and ONNX graphs in ONNX Runtime as they are written."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends.litert.tflite.program import encode
from edgeres.backends.litert.tflite.translate import translate


def interpreter(model: onnx.ModelProto, *, kernels: OpResolverType = OpResolverType.AUTO, shown=()) -> Interpreter:
    made = Interpreter(
        model_content=encode(translate(model, shown)), num_threads=1, experimental_op_resolver_type=kernels
    )
    made.allocate_tensors()
    return made


def answers(made: Interpreter, images: np.ndarray) -> np.ndarray:
    """First output for images ``[N,C,H,W]``; images come back as ``[N,C,H,W]``."""
    given, output = made.get_input_details()[0]["index"], made.get_output_details()[0]["index"]
    found = []
    for image in images:
        made.set_tensor(given, np.ascontiguousarray(image.transpose(1, 2, 0)[None]))
        made.invoke()
        found.append(made.get_tensor(output)[0])
    stacked = np.stack(found)
    return stacked.transpose(0, 3, 1, 2) if stacked.ndim == 4 else stacked


def written(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """First output by ONNX Runtime, every rewrite off."""
    return all_written(model, images)[0]


def all_written(model: onnx.ModelProto, images: np.ndarray) -> list[np.ndarray]:
    """Every output by ONNX Runtime, every rewrite off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {model.graph.input[0].name: images})


def names(made: Interpreter) -> list[str]:
    """Operators of the file in order."""
    return [entry["op_name"] for entry in made._get_ops_details() if entry["op_name"] != "DELEGATE"]


class Sketch:
    """A graph of few nodes in the making: ``image`` ``[N,C,H,W]`` to ``out``."""

    def __init__(self, *shape: int) -> None:
        self.shape, self.nodes, self.constants = shape, [], []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, output: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def pair(self, tensor: str, scale: float, zero: int, kind: type = np.uint8) -> str:
        s = self.constant(f"{tensor}.scale", np.float32(scale))
        z = self.constant(f"{tensor}.zero", kind(zero))
        return self.node(
            "DequantizeLinear", f"{tensor}.read", self.node("QuantizeLinear", f"{tensor}.codes", tensor, s, z), s, z
        )

    def weight(self, name: str, value: np.ndarray) -> str:
        scale = (np.abs(value).reshape(len(value), -1).max(1) / 127).astype(np.float32)
        codes = np.rint(value / scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8)
        return self.node(
            "DequantizeLinear", name, self.constant(f"{name}.codes", codes), self.constant(f"{name}.scale", scale),
            self.constant(f"{name}.zero", np.zeros(len(value), np.int8)), axis=0,
        )  # fmt: skip

    def model(self, opset: int = 17) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *self.shape])
        out = helper.make_empty_tensor_value_info("out")
        out.type.tensor_type.elem_type = TensorProto.FLOAT
        body = helper.make_graph(self.nodes, "sketch", [image], [out], self.constants)
        made = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        return onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
