"""The main output of a graph with several, such as features and logits: the one that is deployed and judged."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from onnx import TensorProto

from edgeres.errors import ModelError, nearest
from edgeres.onnx_graph.edit import prune

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_MAP = 4  # dimensions of [N,C,H,W]


def with_main_output(
    model: ModelProto, name: str | None = None, classes: int | None = None
) -> tuple[ModelProto, tuple[str, ...]]:
    """The graph with its main output alone, and a note on the others; the model itself where it has one output.

    ``model`` has inferred shapes. Without a ``name`` it is the only output ``[N,K]``, or the only one of ``classes``.

    Raises:
        ModelError: No output has that name, or none or several fit; the message lists all of them.
    """
    outputs = {value.name: value for value in model.graph.output}
    listed = ", ".join(f"{value.name} {_shape_text(value)}" for value in outputs.values())
    if name is not None and name not in outputs:
        raise ModelError(f"the graph has no output {name!r}: {listed}", nearest(name, outputs))
    if len(outputs) < 2:
        return model, ()
    chosen = name or _fitting(model, classes)
    if chosen is None:
        what = f"the graph has {len(outputs)} outputs: {listed}"
        raise ModelError(what, "state the one that is deployed and judged with --main-output NAME")
    changed = deepcopy(model)
    del changed.graph.output[:]
    changed.graph.output.append(outputs[chosen])
    prune(changed)
    others = ", ".join(other for other in outputs if other != chosen)
    why = "as stated" if name else "the one that fits; --main-output NAME states another"
    return changed, (f"output {chosen} is deployed and judged, {why}; left out of what is deployed: {others}",)


def _fitting(model: ModelProto, classes: int | None) -> str | None:
    """The only output of rows, or the only one with as many columns as there are classes."""
    rows = {value.name: width for value in model.graph.output if (width := _row(value)) is not None}
    if len(rows) > 1:
        rows = {name: width for name, width in rows.items() if width == classes}
    return next(iter(rows)) if len(rows) == 1 else None


def _row(value: ValueInfoProto) -> int | None:
    """Width of an output float32 ``[N,K]`` or ``[N,K,1,1]``; None for any other, such as a map, and for a free one."""
    dims = value.type.tensor_type.shape.dim
    if value.type.tensor_type.elem_type != TensorProto.FLOAT:
        return None
    if len(dims) == 2 or (len(dims) == _MAP and [dim.dim_value for dim in dims[2:]] == [1, 1]):
        return int(dims[1].dim_value) or None
    return None


def _shape_text(value: ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return f"[{','.join(str(dim.dim_value or dim.dim_param or '?') for dim in dims)}]"
