"""Resize nodes of images whose batch is free: factors in place of sizes, which would state the batch too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeres.onnx_graph.edit import store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import ModelProto, NodeProto


def free_sizes(model: ModelProto, node: NodeProto, before: Sequence[int], after: Sequence[int]) -> None:
    """Gives a Resize from ``[N,C,H,W]`` to other sizes the factors of the axes after the batch.

    A runtime truncates the product of size and factor, so a factor is at least the quotient (ONNX, operator Resize).
    """
    factors = [np.float32(1), *(_factor(old, new) for old, new in zip(before[1:], after[1:], strict=True))]
    del node.input[1:]
    node.input.extend(["", store(model, f"{node.output[0]}.factors", np.array(factors, dtype=np.float32))])


def _factor(old: int, new: int) -> np.float32:
    factor = np.float32(new / old)
    while int(np.floor(np.float32(old) * factor)) < new:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor
