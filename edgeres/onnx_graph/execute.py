"""Execution of a graph in ONNX Runtime's CPU provider, the reference of graph rewrites: logits, or any tensor."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from onnx import ValueInfoProto, helper

from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from onnx import ModelProto

    Images = NDArray[np.float32]
    Runner = Callable[[Images], NDArray[np.float32]]
    """Logits ``[N,classes]``, or maps of them ``[N,classes,H,W]``, of images ``[N,3,H,W]``."""


def session_options(optimisation: Literal["none", "basic", "all"]) -> Any:
    """ONNX Runtime session options: no log lines, and sums of 8-bit products in 32 bits.

    ``none`` computes every node exactly as ONNX says, ``basic`` folds constants, ``all`` fuses nodes into kernels.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Without VNNI its default kernels cut sums of 8-bit weights off at 16 bits; elsewhere this changes nothing.
    options.add_session_config_entry("session.x64quantprecision", "1")
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = {
        "none": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "all": levels.ORT_ENABLE_ALL,
    }[optimisation]
    return options


def open_session(model: ModelProto, options: Any, *, without: Sequence[str] = ()) -> Any:
    """An ``onnxruntime.InferenceSession`` of a self-contained model on the CPU, ``without`` some of its optimizers."""
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=providers, disabled_optimizers=[*without] or None
    )


def load(model: ModelProto, options: Any, *, without: Sequence[str] = ()) -> Any:
    """``open_session`` of a graph that may be invalid.

    Raises:
        StageError: The runtime rejects the graph; the message quotes it.
    """
    try:
        return open_session(model, options, without=without)
    except Exception as failure:  # its exceptions share no base class of their own
        raise StageError(f"ONNX Runtime refuses the graph: {first_line(failure)}", "export it again") from failure


def runner(model: ModelProto, *, optimise: bool = True) -> Runner:
    """Loads a self-contained model with one input and one output.

    Without ``optimise`` every node is computed as ONNX defines it, with it nodes may be fused.

    Raises:
        StageError: The runtime rejects the graph, when it is loaded or run; the message quotes it.
    """
    session = load(model, session_options("all" if optimise else "none"))
    name = model.graph.input[0].name

    def run(images: Images) -> NDArray[np.float32]:
        try:
            (logits,) = session.run(None, {name: images})
        except Exception as failure:
            what = f"ONNX Runtime cannot run the graph: {first_line(failure)}"
            raise StageError(what, "export it again") from failure
        values = np.asarray(logits, dtype=np.float32)
        return values if values.ndim == 4 and values.shape[2:] != (1, 1) else values.reshape(len(images), -1)

    return run


def first_line(failure: Exception) -> str:
    """The first line of a message, or the exception's name where it has none."""
    return (str(failure).splitlines() or [type(failure).__name__])[0]


def probe(model: ModelProto, images: int) -> Images:
    """Standard normal images ``[images,3,H,W]`` of a model's fixed image size."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = (images, *(dim.dim_value for dim in dims[1:]))
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def relative_delta(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """``max|first - second| / max|first|``; infinite where either is not finite."""
    delta = float(np.max(np.abs(first - second)))
    top = float(np.max(np.abs(first)))
    return delta / max(top, 1e-30) if np.isfinite(delta) and np.isfinite(top) else float("inf")


def rounding(model: ModelProto, images: Images) -> float:
    """How far float32 rounding alone moves the logits: largest ``max|delta| / max|logit|`` of two equal computations.

    One has its nodes fused, the other images that differ in their last two bits. Networks whose norms divide by almost
    nothing enlarge such differences thousands of times.
    """
    plain = runner(model, optimise=False)
    signs = np.random.default_rng(1).choice(np.array([-1, 1], dtype=np.float32), images.shape)
    moved = images * (1 + signs * np.float32(2**-22))
    logits = plain(images)
    return max(relative_delta(logits, runner(model)(images)), relative_delta(logits, plain(moved)))


def trace(model: ModelProto, images: Images, tensors: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Values of the named float tensors for images ``[N,C,H,W]``, computed node by node without optimisations."""
    return exposing(model, tensors)(images)


def exposing(model: ModelProto, tensors: Sequence[str]) -> Callable[[Images], dict[str, NDArray[np.float32]]]:
    """Runs a graph for the values of some tensors."""
    exposed = deepcopy(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(ValueInfoProto(name=name) for name in tensors)
    session = open_session(exposed, session_options("none"))
    name = session.get_inputs()[0].name
    return lambda images: dict(zip(tensors, session.run(list(tensors), {name: images}), strict=True))


def recomputed(model: ModelProto, images: Images, known: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Each known tensor of a graph again, computed from the known values of those before it, by ONNX's definitions.

    So a difference is that of one layer. Operators between two known tensors run node by node without optimisations.
    """
    cut = deepcopy(model)
    cut.graph.ClearField("value_info")
    inputs = sorted({name for node in cut.graph.node for name in node.input} & known.keys())
    for node in cut.graph.node:
        node.output[:] = [f"{name}:again" if name in known else name for name in node.output]
    kinds = {name: helper.np_dtype_to_tensor_dtype(known[name].dtype) for name in inputs}
    cut.graph.input.extend(helper.make_tensor_value_info(name, kinds[name], None) for name in inputs)
    del cut.graph.output[:]
    cut.graph.output.extend(ValueInfoProto(name=f"{name}:again") for name in known)
    session = open_session(cut, session_options("none"))
    feeds = {name: known[name] for name in inputs} | {model.graph.input[0].name: images}
    return dict(zip(known, session.run([f"{name}:again" for name in known], feeds), strict=True))
