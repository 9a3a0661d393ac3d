"""The bytes of a .tflite file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from benchmarks.subjects import images, ours
from edgeres.backends.litert.tflite.program import ALIGNMENT, Operator, encode
from edgeres.backends.litert.tflite.translate import translate
from edgeres.targets.target import find_target


@pytest.fixture(scope="module")
def program():
    return translate(ours(find_target("cpu:litert")))


@pytest.fixture(scope="module")
def data(program):
    return encode(program)


def test_the_same_program_gives_the_same_bytes(program, data):
    assert encode(program) == data


def test_constants_are_aligned_as_the_schema_wants(data):
    assert data[4:8] == b"TFL3"
    model = schema.Model.GetRootAs(data, 0)
    places = []
    for index in range(model.BuffersLength()):
        table = model.Buffers(index)._tab
        offset = table.Offset(4)
        if offset:
            places.append(table.Vector(offset))
    assert len(places) > 10
    assert {place % ALIGNMENT for place in places} == {0}


def test_the_file_says_what_the_program_does(program, data):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    assert model.version == 3
    assert model.description.decode().startswith("edgeres ")
    (graph,) = model.subgraphs
    assert len(graph.tensors) == len(program.tensors)
    for made, wanted in zip(graph.tensors, program.tensors, strict=True):
        assert made.name.decode() == wanted.name
        assert tuple(made.shape) == wanted.shape
        if wanted.grid is not None:
            np.testing.assert_array_equal(made.quantization.scale, np.float32(wanted.grid.scale))
            assert set(made.quantization.zeroPoint) == {wanted.grid.zero_point}
            assert made.quantization.quantizedDimension == wanted.grid.axis
        if wanted.value is not None:
            assert bytes(model.buffers[made.buffer].data) == np.ascontiguousarray(wanted.value).tobytes()
    codes = {(code.builtinCode, code.version) for code in model.operatorCodes}
    assert codes == {(getattr(schema.BuiltinOperator, one.kind), one.version) for one in program.operators}


def test_versions_are_the_lowest_that_do(program):
    versions = {operator.kind: operator.version for operator in program.operators}
    assert versions == {
        "QUANTIZE": 1, "CONV_2D": 3, "PAD": 2, "MAX_POOL_2D": 2, "ADD": 2, "MEAN": 2, "RESHAPE": 1, "DEQUANTIZE": 2,
        "FULLY_CONNECTED": 1,
    }  # fmt: skip


def test_apps_call_inputs_and_outputs_by_name(data):
    runner = Interpreter(model_content=data, num_threads=1).get_signature_runner("serving_default")
    answer = runner(image=images(1).transpose(0, 2, 3, 1))
    assert answer["logits"].shape == (1, 10)


def test_unknown_option_is_refused(program):
    wrong = Operator("ADD", 2, (0, 0), 1, "AddOptions", {"fusedActivation": 1})
    with pytest.raises(AttributeError, match="AddOptions has no fusedActivation"):
        encode(replace(program, operators=(wrong,)))
