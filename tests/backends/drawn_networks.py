"""Small quantized ResNets as ONNX files, written here so that backends are tested without the exporter."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgeres.artifacts.artifact import Exported, File, ModelMetadata
from edgeres.data.preprocess import Preprocess
from edgeres.model.graph import Graph, graph
from edgeres.model.spec import Block, ResNetSpec, Stem

if TYPE_CHECKING:
    from pathlib import Path

    from edgeres.model.operation import Op

CLASSES = 10


def tiny() -> ResNetSpec:
    """Stem with max-pool, one identity block, one projected block: every pattern of a ResNet in four blocks' time."""
    blocks = ((Block(inner=(16,), out=16),), (Block(inner=(32,), out=32, stride=2, projected=True),))
    return ResNetSpec(kind="basic", stem=Stem(width=16, kernel=3, stride=1, pool=True), stages=blocks, classes=CLASSES)


@dataclass
class Drawing:
    """An ONNX graph in the making."""

    nodes: list[onnx.NodeProto]
    initializers: list[onnx.TensorProto]

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def pair(self, tensor: str, scale: float, zero: int, dtype: type) -> str:
        s = self.constant(f"{tensor}.scale", np.asarray(scale, np.float32))
        z = self.constant(f"{tensor}.zero", np.asarray(zero, dtype))
        return self.node(
            "DequantizeLinear", f"{tensor}.dq", self.node("QuantizeLinear", f"{tensor}.q", tensor, s, z), s, z
        )

    def weight(self, name: str, value: np.ndarray) -> str:
        # Codes of 7 bits: sums of two products fit 16 bits, which is all that a processor without VNNI has.
        scale = np.abs(value).reshape(len(value), -1).max(axis=1).astype(np.float32) / 63
        codes = np.rint(value / scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8)
        q, s = self.constant(name, codes), self.constant(f"{name}.scale", scale)
        z = self.constant(f"{name}.zero", np.zeros(len(value), np.int8))
        return self.node("DequantizeLinear", f"{name}.dq", q, s, z, axis=0)


def _weights(net: Graph, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {}
    for op in net.weighted:
        shape = op.parameters[f"{op.name}.weight"]
        gain = 0.5 if op.name.endswith("conv2") else 1.0
        spread = gain * np.sqrt(2 / np.prod(shape[1:]))
        found[op.name] = (
            rng.normal(0, spread, shape).astype(np.float32),
            rng.normal(0, 0.05, shape[0]).astype(np.float32),
        )
    return found


def _places(net: Graph, style: str) -> set[tuple[str, str]]:
    """``(consumer, tensor)`` pairs that read through Q/DQ."""
    found = {(op.name, op.inputs[0]) for op in net.ops if op.kind == "conv"}
    for op in net.ops:
        if op.kind == "add":
            found |= {(op.name, name) for name in (op.inputs if style == "unsigned" else op.inputs[1:])}
        if op.kind in ("maxpool", "gap") and style == "unsigned":
            found.add((op.name, op.inputs[0]))
    return found


def draw(spec: ResNetSpec, size: int, style: str, *, opset: int = 17, ir: int = 8, seed: int = 0) -> onnx.ModelProto:
    """A network with random weights, as ``float``, ``signed`` (TensorRT's scheme) or ``unsigned`` (a CPU's) Q/DQ."""
    net = graph(replace(spec, norm=False))
    weights = _weights(net, seed)
    ranges = _ranges(net, weights, size) if style != "float" else {}
    places = _places(net, style) if style != "float" else set()
    drawing = Drawing([], [])
    pairs: dict[str, str] = {}

    def read(op: Op, tensor: str) -> str:
        if (op.name, tensor) not in places:
            return tensor
        if tensor not in pairs:
            low, high = ranges[tensor]
            if style == "signed":
                pairs[tensor] = drawing.pair(tensor, max(-low, high) / 127, 0, np.int8)
            else:
                scale = (high - min(low, 0.0)) / 255
                pairs[tensor] = drawing.pair(tensor, scale, round(-min(low, 0.0) / scale), np.uint8)
        return pairs[tensor]

    for op in net.ops:
        _draw(drawing, op, [read(op, name) for name in op.inputs], weights, quantized=style != "float")
    return _model(drawing, spec, net.output, size, opset, ir)


def _draw(drawing: Drawing, op: Op, inputs: list[str], weights: dict[str, np.ndarray], *, quantized: bool) -> None:
    match op.kind:
        case "conv" | "linear":
            value, bias = weights[op.name]
            b = drawing.constant(f"{op.name}.bias", bias)
            if op.kind == "linear":
                drawing.node("Gemm", op.name, *inputs, drawing.constant(f"{op.name}.weight", value), b, transB=1)
                return
            w = (
                drawing.weight(f"{op.name}.weight", value)
                if quantized
                else drawing.constant(f"{op.name}.weight", value)
            )
            drawing.node(
                "Conv",
                op.name,
                *inputs,
                w,
                b,
                kernel_shape=[op.kernel] * 2,
                strides=[op.stride] * 2,
                pads=[op.padding] * 4,
            )
        case "maxpool":
            drawing.node(
                "MaxPool",
                op.name,
                *inputs,
                kernel_shape=[op.kernel] * 2,
                strides=[op.stride] * 2,
                pads=[op.padding] * 4,
            )
        case "flatten":
            drawing.node("Flatten", op.name, *inputs, axis=1)
        case "relu" | "add" | "gap":
            drawing.node({"relu": "Relu", "add": "Add", "gap": "GlobalAveragePool"}[op.kind], op.name, *inputs)
        case "subsample":
            for name, value in (("starts", 0), ("ends", 1 << 30), ("axes", None), ("steps", op.stride)):
                drawing.constant(f"{op.name}.{name}", np.asarray([2, 3] if value is None else [value, value], np.int64))
            drawing.node(
                "Slice", op.name, *inputs, *(f"{op.name}.{name}" for name in ("starts", "ends", "axes", "steps"))
            )
        case "zeropad":
            before = (op.c_out - op.c_in) // 2
            pads = np.asarray([0, before, 0, 0, 0, op.c_out - op.c_in - before, 0, 0], np.int64)
            drawing.node("Pad", op.name, *inputs, drawing.constant(f"{op.name}.pads", pads))
        case _:
            raise AssertionError(op.kind)


def _model(drawing: Drawing, spec: ResNetSpec, output: str, size: int, opset: int, ir: int) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", spec.channels, size, size])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", spec.classes])
    drawing.nodes[-1].output[0] = "logits"
    body = helper.make_graph(drawing.nodes, "drawn", [image], [logits], drawing.initializers)
    model = helper.make_model(
        body, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, producer_name="tests"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _ranges(net: Graph, weights: dict[str, np.ndarray], size: int) -> dict[str, tuple[float, float]]:
    """Minimum and maximum of every tensor over a few random images."""
    drawing = Drawing([], [])
    for op in net.ops:
        _draw(drawing, op, list(op.inputs), weights, quantized=False)
    names = [op.name for op in net.ops]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])
    body = helper.make_graph(drawing.nodes, "ranges", [image], outputs, drawing.initializers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = random_images(8, size, seed=7)
    found = dict(zip(names, session.run(None, {"image": images}), strict=True)) | {"image": images}
    return {name: (float(value.min()), float(value.max())) for name, value in found.items()}


def random_images(count: int, size: int, seed: int) -> np.ndarray:
    """float32 ``[N,3,H,W]``, scaled as normalised images are."""
    return np.random.default_rng(seed).normal(0, 1, (count, 3, size, size)).clip(-2.5, 2.5).astype(np.float32)


def reference(model: Path, images: np.ndarray) -> np.ndarray:
    """Logits of an ONNX file by onnxruntime, with every graph rewrite switched off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def export(folder: Path, spec: ResNetSpec, size: int, style: str, **kind: int) -> Exported:
    """An exported graph with its float twin in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(draw(spec, size, style, **kind), folder / "model.onnx")
    onnx.save(draw(spec, size, "float", **kind), folder / "model.float.onnx")
    (folder / "calibration.json").write_text(json.dumps({}))
    metadata = ModelMetadata(
        name="tiny",
        preprocess=Preprocess(resize=size, crop=size),
        classes=tuple(f"class {i}" for i in range(spec.classes)),
    )
    return Exported(metadata, File.of(folder / "model.onnx"), File.of(folder / "model.float.onnx"))
