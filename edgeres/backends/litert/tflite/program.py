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
    """Quantization parameters: ``x = (code - zero_point) * scale``.

    Attributes:
        scale: One positive float32 value, or one per entry of ``axis``.
        zero_point: Code of 0.0; 0 where there is more than one scale.
        axis: Channel axis of the scales.
    """

    scale: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        name: Name of the ONNX tensor, with a suffix of its conversion.
        shape: ``[N,H,W,C]`` or ``[N,C]`` of an activation; any shape of a constant.
        type: Element type.
        grid: Quantization parameters; None for floats.
        value: Value of a constant; None for an activation.
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
