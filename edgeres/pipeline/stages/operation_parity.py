"""Numerical parity of a written graph with its network in torch, operation by operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from edgeres.errors import StageError
from edgeres.model.operation import IMAGE
from edgeres.onnx_graph.execute import trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

    from edgeres.model.network import Network

_TOLERANCE = 1e-4
"""Largest difference of one operation, relative to its largest output; float32 sums in another order are below it."""


def largest_difference(
    network: Network, model: ModelProto, tensors: Mapping[str, str], images: NDArray[np.float32]
) -> float:
    """Largest relative difference of any operation between ONNX Runtime and torch, both given the same inputs.

    ``tensors`` has the tensor of the model of every operation. The comparison by operation is strict: end to end, one
    activation that rounds to the other side of a step could hide or excuse a defect.

    Raises:
        StageError: The difference is above the tolerance; the message names the operation.
    """
    network.eval()
    ops = network.graph.ops
    traced = trace(model, images, [tensors[op.name] for op in ops])
    values = {op.name: torch.from_numpy(traced[tensors[op.name]]) for op in ops}
    values[IMAGE] = torch.from_numpy(images)
    worst = 0.0
    with torch.inference_mode():
        for op in ops:
            expected = network.apply_op(op, [network.read(op, index, values) for index in range(len(op.inputs))])
            delta = (expected - values[op.name]).abs().max().item() / max(expected.abs().max().item(), 1e-6)
            if not delta <= _TOLERANCE:
                raise StageError(
                    f"{op.name} differs between ONNX Runtime and torch by {delta:.1e} of its range",
                    f"at most {_TOLERANCE:.0e} is float32 noise; please report it",
                )
            worst = max(worst, delta)
    return worst
