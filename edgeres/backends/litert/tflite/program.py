"""What a ``.tflite`` file holds, as frozen values: tensors ``[N,H,W,C]`` and operators in execution order.

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
"""``Padding``: as little as keeps ``ceil(size / stride)``, the odd pixel behind; or none."""

Activation = Literal[0, 1, 3]
"""``ActivationFunctionType`` of a fused activation: NONE, RELU or RELU6."""


@dataclass(frozen=True, slots=True)
class QuantizationParameters:
    """How integer codes stand for numbers: ``x = (code - zero_point) * scale``.

    Attributes:
        scale: One positive float32 value, or one per entry of ``axis``.
        zero_point: Code of 0.0; 0 where there is more than one scale.
        axis: Axis that the scales count along.
    """

    scale: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        name: Name of the ONNX tensor it holds, with what was done to it.
        shape: ``[N,H,W,C]`` or ``[N,C]`` of an activation, as it is of a constant.
        type: Element type.
        grid: What its codes stand for, None of floats.
        value: Of a constant, None of an activation.
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
        version: Version of that operator, the lowest that has what is asked of it.
        inputs: Indices of tensors.
        output: Index of the one tensor it makes.
        table: Name of its table of options, empty where it has none.
        options: Fields of that table that are not at their defaults.
    """

    kind: str
    version: int
    inputs: tuple[int, ...]
    output: int
    table: str = ""
    options: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Program:
    """A network of one image.

    Attributes:
        tensors: Every tensor, in order of first use.
        operators: Operators in execution order.
        input: Index of the image ``[1,H,W,C]`` in float32.
        outputs: Index of the logits ``[1,classes]`` in float32, and of whatever else it shows.
        names: What the file's signature calls the input and the outputs.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    input: int
    outputs: tuple[int, ...]
    names: tuple[str, ...]
