"""Contents of a ``.tflite`` file as frozen values: tensors ``[N,H,W,C]`` and operators in execution order.

Names of operators, options and types are those of the FlatBuffers schema
(github.com/google-ai-edge/LiteRT, tflite/converter/schema/schema.fbs).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    Value = NDArray[np.generic]

Type = Literal["FLOAT32", "INT32", "INT8"]

SAME, VALID = 0, 1
"""``Padding``: the least that gives ``ceil(size / stride)``, an odd pixel at the end; or none."""

Activation = Literal[0, 1, 3]
"""``ActivationFunctionType`` of a fused activation: NONE, RELU or RELU6."""


@dataclass(frozen=True, slots=True)
class QuantizationParameters:
    """``x = (code - zero_point) * scale``, of one float32 scale, or of one for each entry of ``axis``."""

    scale: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor: an activation ``[N,H,W,C]`` or ``[N,C]``, or a constant of any shape, which has a ``value``.

    Its name is that of the ONNX tensor, with a suffix of its conversion; ``grid`` is None for floats.
    """

    name: str
    shape: tuple[int, ...]
    type: Type
    grid: QuantizationParameters | None = None
    value: Value | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """One builtin operator.

    Attributes:
        kind: Name in ``BuiltinOperator``.
        version: Version of that operator, the lowest with the needed features.
        inputs: Indices of tensors.
        output: Index of its one output tensor.
        table: Name of its options table, empty where it has none.
        options: Fields of that table other than the defaults.
    """

    kind: str
    version: int
    inputs: tuple[int, ...]
    output: int
    table: str = ""
    options: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Program:
    """A network for one image.

    Attributes:
        tensors: Every tensor, in order of first use.
        operators: Operators in execution order.
        input: Index of the image ``[1,H,W,C]`` in float32.
        outputs: Index of the logits ``[1,classes]`` in float32, and of additional outputs.
        names: Names of the input and the outputs in the file's signature.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    input: int
    outputs: tuple[int, ...]
    names: tuple[str, ...]
