"""Contents of a ``.tflite`` file as frozen values, tensors ``[N,H,W,C]`` and operators in order, and their encoding.

Names of operators, options and types are those of the FlatBuffers schema
(github.com/google-ai-edge/LiteRT, tflite/converter/schema/schema.fbs).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import edgeres

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Value = NDArray[np.generic]

IDENTIFIER = b"TFL3"
SCHEMA = 3
ALIGNMENT = 16
"""Alignment of constants in bytes (``force_align`` of ``Buffer.data`` in the schema)."""
_LAST_SHORT = 127
"""Largest operator number that is also stored in the old field of one byte (schema.fbs, ``OperatorCode``)."""

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
    """One operator of kind ``BuiltinOperator``, in the lowest version with the needed features, on tensor indices.

    ``options`` are the fields of its options ``table`` other than the defaults; empty where it has no table.
    """

    kind: str
    version: int
    inputs: tuple[int, ...]
    output: int
    table: str = ""
    options: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Program:
    """A network for one image: tensors in order of first use, operators in execution order.

    ``input`` is the index of the image ``[1,H,W,C]`` in float32, ``outputs`` those of the logits ``[1,classes]`` in
    float32 and of additional outputs; ``names`` are theirs in the file's signature.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    input: int
    outputs: tuple[int, ...]
    names: tuple[str, ...]


def encode(program: Program) -> bytes:
    """The file of a program, written with the classes of the LiteRT package."""
    flatbuffers, schema = import_module("flatbuffers"), import_module("ai_edge_litert.schema_py_generated")
    constants = [tensor.value for tensor in program.tensors if tensor.value is not None]
    builder = flatbuffers.Builder(sum(value.nbytes + 64 for value in constants) + 4096)
    buffers = [_buffer(builder, schema, None), *(_buffer(builder, schema, value) for value in constants)]
    codes = sorted({(operator.kind, operator.version) for operator in program.operators})
    tables = {
        "OperatorCodes": [_code(schema, *code).Pack(builder) for code in codes],
        "Subgraphs": [_subgraph(schema, program, codes).Pack(builder)],
        "Buffers": buffers,
        "SignatureDefs": [_signature(schema, program).Pack(builder)],
    }
    vectors = {name: _vector(builder, getattr(schema, f"ModelStart{name}Vector"), tables[name]) for name in tables}
    description = builder.CreateString(f"edgeres {edgeres.__version__}")
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, SCHEMA)
    schema.ModelAddDescription(builder, description)
    for name, vector in vectors.items():
        getattr(schema, f"ModelAdd{name}")(builder, vector)
    builder.Finish(schema.ModelEnd(builder), IDENTIFIER)
    return bytes(builder.Output())


def _buffer(builder: Any, schema: Any, value: Any) -> int:
    """A buffer's offset; the first one of a file is empty and belongs to computed tensors."""
    data = b"" if value is None else np.ascontiguousarray(value).tobytes()
    if data:
        builder.Prep(ALIGNMENT, len(data))
        vector = builder.CreateByteVector(data)
    schema.BufferStart(builder)
    if data:
        schema.BufferAddData(builder, vector)
    return int(schema.BufferEnd(builder))


def _vector(builder: Any, start: Any, offsets: list[int]) -> int:
    start(builder, len(offsets))
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _table(schema: Any, kind: str, **fields: Any) -> Any:
    """A table of the schema with some of its fields."""
    table = getattr(schema, f"{kind}T")()
    for name, value in fields.items():
        if not hasattr(table, name):
            raise AttributeError(f"{kind} has no {name}")
        setattr(table, name, value)
    return table


def _code(schema: Any, kind: str, version: int) -> Any:
    number = getattr(schema.BuiltinOperator, kind)
    short = min(number, _LAST_SHORT)
    return _table(schema, "OperatorCode", builtinCode=number, deprecatedBuiltinCode=short, version=version)


def _subgraph(schema: Any, program: Program, codes: list[tuple[str, int]]) -> Any:
    tensors, buffer = [], 0
    for tensor in program.tensors:
        buffer += tensor.value is not None
        tensors.append(_tensor(schema, tensor, buffer if tensor.value is not None else 0))
    operators = [_operator(schema, entry, codes.index((entry.kind, entry.version))) for entry in program.operators]
    ends = {"inputs": _ints(program.input), "outputs": _ints(*program.outputs)}
    return _table(schema, "SubGraph", name="main", tensors=tensors, operators=operators, **ends)


def _tensor(schema: Any, tensor: Tensor, buffer: int) -> Any:
    kind = getattr(schema.TensorType, tensor.type)
    shape = _ints(*tensor.shape)
    row = _table(schema, "Tensor", name=tensor.name, type=kind, buffer=buffer, shape=shape, hasRank=True)
    if tensor.grid is not None:
        row.quantization = _table(
            schema,
            "QuantizationParameters",
            scale=np.array(tensor.grid.scale, np.float32),
            zeroPoint=np.full(len(tensor.grid.scale), tensor.grid.zero_point, np.int64),
            quantizedDimension=tensor.grid.axis,
        )
    return row


def _operator(schema: Any, operator: Operator, code: int) -> Any:
    fields = {"opcodeIndex": code, "inputs": _ints(*operator.inputs), "outputs": _ints(operator.output)}
    if operator.table:
        fields["builtinOptionsType"] = getattr(schema.BuiltinOptions, operator.table)
        fields["builtinOptions"] = _table(schema, operator.table, **operator.options)
    return _table(schema, "Operator", **fields)


def _signature(schema: Any, program: Program) -> Any:
    """The file's signature, by which apps name inputs and outputs."""
    indices = (program.input, *program.outputs)
    named = [
        _table(schema, "TensorMap", name=name, tensorIndex=index)
        for name, index in zip(program.names, indices, strict=True)
    ]
    ends = {"inputs": named[:1], "outputs": named[1:]}
    return _table(schema, "SignatureDef", signatureKey="serving_default", subgraphIndex=0, **ends)


def _ints(*values: int) -> Any:
    return np.array(values, np.int32)
