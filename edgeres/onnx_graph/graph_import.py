"""Reading of an ``ImportedGraph`` with its weights from a folded float classifier, and the proof of its function."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from onnx import numpy_helper

from edgeres.errors import StageError
from edgeres.model.network import Network
from edgeres.model.operation import IMAGE, Op, Window
from edgeres.onnx_graph.edit import prune
from edgeres.onnx_graph.execute import exposing, probe, relative_delta, runner
from edgeres.onnx_graph.fold import TOLERANCE, tolerance
from edgeres.onnx_graph.graph_index import GraphIndex, attribute, has_transposed_weight, input_at, window_attributes
from edgeres.onnx_graph.imported_graph import ImportedGraph
from edgeres.onnx_graph.imported_weights import Site, read_weights
from edgeres.onnx_graph.torch_execution import batch_axis

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

    from edgeres.model.weights import Weights
    from edgeres.onnx_graph.torch_execution import Shape

_RESERVED = frozenset(
    (*dir(Network), "graph", "table", "placement", "layers", "noise", "seen", "wanted", "corrections")
)
"""Names that modules of a network have for something else."""

_PROBES = 2


class Imported(NamedTuple):
    """A graph with its weights.

    ``relative`` is ``max|delta logit| / max|logit|`` of torch against ONNX Runtime, on random images.
    """

    graph: ImportedGraph
    weights: Weights
    relative: float


def import_graph(model: ModelProto) -> Imported:
    """The operations and weights of a folded float classifier of fixed image size, in float.

    Raises:
        StageError: Its logits in torch differ from those of ONNX Runtime.
    """
    tensors = [name for node in model.graph.node for name in node.output if name]
    values = [dict(exposing(model, tensors)(probe(model, images))) for images in (1, _PROBES)]
    for images, known in enumerate(values, start=1):
        known[model.graph.input[0].name] = probe(model, images)
    static = _static(model, values[0])
    shapes = tuple({name: value.shape for name, value in known.items()} for known in values)
    reader = _Reader(GraphIndex.of(static), (shapes[0], shapes[1]), frozenset(GraphIndex.of(model).constants))
    for node in static.graph.node:
        reader.visit(node)
    weights = read_weights(reader.ops, reader.sites, static)
    graph = ImportedGraph(
        tuple(reader.ops),
        model=model,
        view=reader.view,
        names=reader.names,
        sites=reader.sites,
        shapes=(shapes[0], shapes[1]),
    )
    graph = replace(graph, by_runtime=_without_torch(graph, weights, values[1]))
    batch = probe(model, _PROBES + 1)
    relative = relative_delta(runner(model)(batch), Network(graph, weights).logits(batch))
    if not relative <= tolerance(model, batch):
        what = f"logits of the graph in torch differ from ONNX Runtime's by {relative:.1e} of their range"
        raise StageError(what, "please report it with the file")
    return Imported(graph, weights, relative)


def _static(model: ModelProto, values: Mapping[str, NDArray[Any]]) -> ModelProto:
    """The graph with values for one image instead of nodes that read shapes or constants alone."""
    changed, known = deepcopy(model), set(GraphIndex.of(model).constants)
    changed.graph.ClearField("value_info")
    for node in changed.graph.node:
        if node.op_type in ("Shape", "Size") or all(name in known for name in node.input if name):
            fresh = [name for name in node.output if name and name not in known]
            changed.graph.initializer.extend(numpy_helper.from_array(np.array(values[name]), name) for name in fresh)
            known.update(fresh)
            node.output[:] = [f"{name}:unread" for name in node.output]
    prune(changed)
    return changed


@dataclass
class _Reader:
    """Collects operations node by node."""

    view: GraphIndex
    shapes: tuple[Mapping[str, Shape], Mapping[str, Shape]]
    stored: frozenset[str]
    ops: list[Op] = field(default_factory=list)
    sites: dict[str, Site] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=lambda: {IMAGE: IMAGE})
    products: dict[str, NodeProto] = field(default_factory=dict)

    def visit(self, node: NodeProto) -> None:
        """Adds the operations of a node; a product with a bias behind it becomes one with its Add."""
        if node.op_type == "MatMul" and self._bias_behind(node) is not None:
            self.products[node.output[0]] = node
        elif node.op_type == "Add" and (product := self._product_before(node)) is not None:
            self._weighted(product, node)
        elif self._is_weighted(node):
            self._weighted(node, None)
        else:
            for index, name in enumerate(node.output):
                if name and (self.view.consumers(name) or name == self.view.model.graph.output[0].name):
                    self._operator(node, index)

    def _is_weighted(self, node: NodeProto) -> bool:
        """Whether a node is a convolution of one or two dimensions, or a product with a constant matrix."""
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[0] in self.view.constants:
            return False
        constants = [self.view.value(name) for name in node.input[1:] if name]
        if any(value is None or value.dtype != np.float32 for value in constants):
            return False
        weight = constants[0]
        assert weight is not None
        if node.op_type == "Conv":
            return weight.ndim in (3, 4)
        factors = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0), attribute(node, "transA", 0)
        bias = constants[1] if len(constants) > 1 else None
        outputs = weight.shape[-1 if has_transposed_weight(node) else 0]
        plain = factors == (1, 1, 0) and (bias is None or (bias.size in (1, outputs) and bias.shape[-1:] != (1,)))
        return weight.ndim == 2 and (node.op_type == "MatMul" or plain or outputs == 1)

    def _bias_behind(self, node: NodeProto) -> NodeProto | None:
        """The Add of one number per column that alone reads a product."""
        readers = self.view.consumers(node.output[0])
        if len(readers) != 1 or readers[0][0].op_type != "Add" or not self._is_weighted(node):
            return None
        add, index = readers[0]
        bias, weight = self.view.value(add.input[1 - index]), self.view.value(node.input[1])
        assert weight is not None
        per_column = bias is not None and bias.dtype == np.float32 and bias.shape[-1:] == (bias.size,)
        return add if bias is not None and per_column and bias.size == weight.shape[1] else None

    def _product_before(self, add: NodeProto) -> NodeProto | None:
        return next((self.products[name] for name in add.input if name in self.products), None)

    def _name(self, node: NodeProto, output: int) -> str:
        """The tensor's name where modules of a network can have it, otherwise a name like it."""
        tensor = node.output[output]
        name = node.name if tensor == self.view.model.graph.output[0].name and node.name else tensor
        parts = [part for part in name.split(".") if part] or ["operator"]
        if parts[0] in _RESERVED or parts[-1] in _RESERVED:
            parts = [f"{parts[0]}_", *parts[1:]]
        known, free = set(self.names.values()), ".".join(parts)
        while any(free == one or free.startswith(f"{one}.") or one.startswith(f"{free}.") for one in known):
            free += "_"
        self.names[tensor] = free
        return free

    def _shape(self, tensor: str) -> Shape:
        """Shape of a tensor without the batch, unless that is one axis with another size."""
        one, two = (shapes[tensor] for shapes in self.shapes)
        axis = batch_axis(one, two)
        return one if axis is None or one[axis] != 1 else (*one[:axis], *one[axis + 1 :])

    def _channels(self, tensor: str) -> int:
        shape = self.shapes[0][tensor]
        return shape[1] if len(shape) > 1 else 1

    def _add(self, op: Op, site: Site) -> None:
        self.ops.append(op)
        self.sites[op.name] = site

    def _weighted(self, node: NodeProto, add: NodeProto | None) -> None:
        last, weight = add or node, self.view.value(node.input[1])
        assert weight is not None
        inputs, name = (self.names[node.input[0]],), self._name(last, 0)
        constants = {"weight": (node.output[0], 1)}
        if add is not None:
            index = next(place for place, tensor in enumerate(add.input) if tensor in self.view.constants)
            constants["bias"] = add.output[0], index
        elif input_at(node, 2):
            constants["bias"] = node.output[0], 2
        bias, shape = "bias" in constants, self._shape(last.output[0])
        if node.op_type == "Conv":
            groups, window = int(attribute(node, "group", 1)), self._window(node, weight)
            op = Op(
                "conv", name, inputs, weight.shape[1] * groups, len(weight), groups=groups, bias=bias, stated=window,
                shape=shape,
            )  # fmt: skip
            self._add(op, Site(node.output[0], (0,), constants))
            return
        transposed = has_transposed_weight(node)
        outputs, reads = weight.shape[::-1] if transposed else weight.shape
        op = Op("linear", name, inputs, reads, outputs, bias=bias, shape=shape)
        self._add(op, Site(node.output[0], (0,), constants, transposed))

    def _window(self, node: NodeProto, weight: NDArray[np.generic]) -> Window:
        """The window of a convolution, one of one dimension as of one row."""
        rank = weight.ndim - 2
        stated = window_attributes(node, weight.shape[2:])
        kernel = weight.shape[2:]
        strides = tuple(attribute(node, "strides") or (1,) * rank)
        dilations = tuple(attribute(node, "dilations") or (1,) * rank)
        pads = tuple(attribute(node, "pads") or (0,) * 2 * rank)
        if stated.auto_pad.startswith("SAME"):
            pads = self._same(node, kernel, strides, dilations, upper=stated.auto_pad == "SAME_UPPER")
        if rank == 1:
            kernel, strides, dilations, pads = (1, *kernel), (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
        return Window(
            (kernel[0], kernel[1]),
            (strides[0], strides[1]),
            (pads[0], pads[1], pads[2], pads[3]),
            (dilations[0], dilations[1]),
        )

    def _same(
        self, node: NodeProto, kernel: Shape, strides: Shape, dilations: Shape, *, upper: bool
    ) -> tuple[int, ...]:
        """Pads of ``auto_pad``: as many as give ``ceil(size / stride)`` outputs."""
        sizes = self.shapes[0][node.input[0]][2:]
        totals = [
            max(0, (-(-size // step) - 1) * step + gap * (taps - 1) + 1 - size)
            for size, taps, step, gap in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
        return (*small, *large) if upper else (*large, *small)

    def _operator(self, node: NodeProto, output: int) -> None:
        constants: dict[str, tuple[str, int]] = {}
        shapes: list[tuple[str, Shape]] = []
        data = [index for index, name in enumerate(node.input) if name and name not in self.view.constants]
        for index, tensor in enumerate(node.input):
            value = self.view.value(tensor) if tensor in self.stored else None
            if value is not None and value.dtype == np.float32 and value.size:
                constants[f"operand{index}"] = node.output[0], index
                shapes.append((f"operand{index}", value.shape))
        inputs = tuple(self.names[node.input[index]] for index in data)
        c_in, c_out = (self._channels(name) for name in (node.input[data[0]], node.output[output]))
        name, shape = self._name(node, output), self._shape(node.output[output])
        op = Op("operator", name, inputs, c_in, c_out, shape=shape, operator=node.op_type, constants=tuple(shapes))
        self._add(op, Site(node.output[0], tuple(data), constants, output=output))


def _without_torch(graph: ImportedGraph, weights: Weights, values: Mapping[str, NDArray[Any]]) -> frozenset[str]:
    """Operators that torch does not compute as ONNX Runtime does, each given the same inputs of two images."""
    return frozenset(op.name for op in graph.ops if op.kind == "operator" and not _agrees(graph, op, weights, values))


def _agrees(graph: ImportedGraph, op: Op, weights: Weights, values: Mapping[str, NDArray[Any]]) -> bool:
    import torch

    node, tensors = graph.node(op), graph.tensors
    inputs = [torch.from_numpy(np.array(values[tensors[name]])) for name in op.inputs]
    constants = {key: torch.from_numpy(np.array(weights[f"{op.name}.{key}"])) for key, _ in op.constants}
    wanted = values[node.output[graph.sites[op.name].output]]
    try:
        got = graph.compute(op, inputs, constants).numpy()
    except (KeyError, StageError, RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    return not wanted.size or relative_delta(wanted.astype(np.float32), got.astype(np.float32)) <= TOLERANCE
