"""A mobile network in ONNX: HardSwish, a depthwise layer, squeeze and excitation, SiLU, of random weights."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgeres.onnx_graph.read import infer

SIDE, CLASSES = 16, 5


def images(count: int = 8) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (count, 3, SIDE, SIDE)).astype(np.float32)


class Images:
    """The images one at a time."""

    def __len__(self) -> int:
        return 8

    def __iter__(self):
        return iter(images()[:, None])


class Drawing:
    """Nodes and random weights of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.rng = np.random.default_rng(0)

    def add(self, kind: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def put(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def conv(self, data: str, name: str, shape: tuple[int, ...], **attributes) -> str:
        weight = self.rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        inputs = [data, self.put(f"{name}.w", weight), self.put(f"{name}.b", self.rng.normal(0, 0.1, shape[0]))]
        return self.add("Conv", inputs, name, kernel_shape=list(shape[2:]), **attributes)

    def hard_swish(self, data: str) -> str:
        gate = self.add("HardSigmoid", [data], f"{data}.gate", alpha=1 / 6, beta=0.5)
        return self.add("Mul", [data, gate], f"{data}.act")

    def silu(self, data: str) -> str:
        return self.add("Mul", [data, self.add("Sigmoid", [data], f"{data}.gate")], f"{data}.act")

    def model(self, logits: str, image: str = "image") -> ModelProto:
        graph = helper.make_graph(
            self.nodes, "mobile",
            [helper.make_tensor_value_info(image, TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["N", CLASSES])],
            self.constants,
        )  # fmt: skip
        return infer(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def mobile_graph() -> ModelProto:
    """Six convolutions, two of them of the squeeze, and a classifier."""
    draw = Drawing()
    stem = draw.hard_swish(draw.conv("image", "stem", (8, 3, 3, 3), strides=[2, 2], pads=[1] * 4))
    deep = draw.silu(draw.conv(stem, "depthwise", (8, 1, 3, 3), group=8, pads=[1] * 4))
    pooled = draw.add("GlobalAveragePool", [deep], "squeeze")
    reduced = draw.add("Relu", [draw.conv(pooled, "reduce", (4, 8, 1, 1))], "reduce.act")
    gate = draw.add("HardSigmoid", [draw.conv(reduced, "expand", (8, 4, 1, 1))], "gate", alpha=1 / 6, beta=0.5)
    project = draw.conv(draw.add("Mul", [deep, gate], "excited"), "project", (8, 8, 1, 1))
    added = draw.add("Add", [project, stem], "added")
    head = draw.hard_swish(draw.conv(added, "head", (16, 8, 1, 1)))
    flat = draw.add("Flatten", [draw.add("GlobalAveragePool", [head], "pool")], "flat")
    weight = draw.put("fc.w", draw.rng.normal(0, 0.5, (CLASSES, 16)))
    return draw.model(draw.add("Gemm", [flat, weight, draw.put("fc.b", np.zeros(CLASSES))], "logits", transB=1))
