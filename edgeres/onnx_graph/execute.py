"""Execution of a graph in ONNX Runtime's CPU provider, the reference of graph rewrites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeres.errors import StageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from onnx import ModelProto

    Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
    """Logits ``[N,classes]`` of images ``[N,3,H,W]``."""


def session_options(optimisation: Literal["none", "basic", "all"]) -> Any:
    """ONNX Runtime session options: no log lines, and sums of 8-bit products in 32 bits.

    Args:
        optimisation: Which rewrites it may make: ``none`` computes every node exactly as ONNX says, ``basic`` folds
            constants, ``all`` fuses nodes into kernels.
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


def open_session(model: ModelProto, options: Any) -> Any:
    """An ``onnxruntime.InferenceSession`` of a self-contained model on the CPU."""
    import onnxruntime

    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def runner(model: ModelProto, *, optimise: bool = True) -> Runner:
    """Loads a model with one input and one output.

    Args:
        model: A self-contained model.
        optimise: Whether nodes may be fused; without it every node is computed as ONNX defines it.

    Raises:
        StageError: The runtime rejects the graph, when it is loaded or run; the message quotes it.
    """
    try:
        session = open_session(model, session_options("all" if optimise else "none"))
    except Exception as failure:  # its exceptions share no base class of their own
        raise StageError(f"ONNX Runtime refuses the graph: {_first_line(failure)}", "export it again") from failure
    name = model.graph.input[0].name

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            (logits,) = session.run(None, {name: images})
        except Exception as failure:
            raise StageError(
                f"ONNX Runtime cannot run the graph: {_first_line(failure)}", "export it again"
            ) from failure
        return np.asarray(logits, dtype=np.float32).reshape(len(images), -1)

    return run


def _first_line(failure: Exception) -> str:
    return (str(failure).splitlines() or [type(failure).__name__])[0]


def probe(model: ModelProto, images: int, seed: int = 0) -> NDArray[np.float32]:
    """Standard normal images ``[images,3,H,W]`` of a model's fixed image size."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = (images, *(dim.dim_value for dim in dims[1:]))
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def relative_delta(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """``max|first - second| / max|first|``; infinite where either is not finite."""
    delta = float(np.max(np.abs(first - second)))
    top = float(np.max(np.abs(first)))
    return delta / max(top, 1e-30) if np.isfinite(delta) and np.isfinite(top) else float("inf")
